"""When a worker that starts is ready: not while a model of high risk would be refused, and never later for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.processes.freshness import CONFIRMATIONS, Settling, tightest_bound_us

HIGH_US, DEFAULT_US, TICK_US = 1_000_000, 10_000_000, 250_000


def heard(*looks: tuple[int, int], bound_us: int = HIGH_US) -> bool:
    """Look at (as of, now) one after the other; say whether the start is over."""
    settling = Settling()
    for as_of_us, now_us in looks:
        settling.look(as_of_us, now_us, bound_us, DEFAULT_US)
    return settling.is_over


@pytest.mark.parametrize(
    ("looks", "is_over"),
    [
        ((), False),
        (((0, 100),), False),
        (((0, 100), (3, 250_100), (1, 500_100)), False),  # one and the same confirmation
        (((0, 100), (TICK_US, TICK_US + 100)), True),
        (((0, HIGH_US + 1), (TICK_US, TICK_US + HIGH_US + 1)), False),
        (((0, 100), (0, HIGH_US + 100), (2_000_000, 2_000_100)), False),  # silence in between: it is counted anew
        (((0, 100), (TICK_US, TICK_US + 100), (TICK_US, 5_000_000)), True),  # once over, for good
        (((3_000_000, 0), (3_250_000, 250_000)), False),  # a clock set back
    ],
)
def test_ready_waits_for_two_fresh_confirmations_in_a_row(looks, is_over):
    assert heard(*looks) is is_over


def test_where_no_bound_is_tighter_than_the_default_one_look_is_enough():
    assert heard((0, 100), bound_us=DEFAULT_US)


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 3 * HIGH_US)), max_size=12))
def test_ready_is_never_said_before_enough_looks_at_which_every_model_would_be_served(looks):
    settling, fresh = Settling(), 0
    for as_of_us, age_us in looks:
        settling.look(as_of_us, as_of_us + age_us, HIGH_US, DEFAULT_US)
        fresh = fresh + 1 if age_us <= HIGH_US else 0
        if settling.is_over:
            assert fresh >= CONFIRMATIONS
            return


@pytest.mark.parametrize(("risks", "high_us", "bound_us"), [(("low",), 1, 10), (("low", "high"), 1, 1), ((), 1, 10), (("high",), 20, 10)])
def test_the_bound_is_that_of_the_strictest_model(risks, high_us, bound_us):
    routes = {str(number): SimpleNamespace(document=SimpleNamespace(risk=risk)) for number, risk in enumerate(risks)}
    settings = SimpleNamespace(staleness_high_risk_us=high_us, staleness_default_us=10)
    assert tightest_bound_us(SimpleNamespace(settings=settings, routes=routes)) == bound_us
