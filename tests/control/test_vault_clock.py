"""Nothing is destroyed by a date unless the clock has run steadily for a day of running time."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.vaultclock import GAP_S, HOLD_S, STEP_S, Seen, VaultClock, look
from gateway.pseudonyms import EPOCH_DAYS, rotate

SECOND, DAY = 1_000_000, 86_400_000_000
START = 1_800_000_000 * SECOND


class Machine:
    """Two clocks and a file that is looked at."""

    def __init__(self, path) -> None:
        self.path, self.wall, self.mono, self.boot = path, START, 0, 0
        self.clock = VaultClock(path, "boot 0")

    def run(self, seconds, *, wall=None):
        """Let time pass; the wall clock may go otherwise."""
        self.mono += seconds * SECOND
        self.wall += (seconds if wall is None else wall) * SECOND
        return self.clock.look(self.wall, self.mono)

    def restart(self, *, away=0, reboot=False):
        self.wall += away * SECOND
        self.boot += reboot
        self.mono = 0 if reboot else self.mono + away * SECOND
        self.clock = VaultClock(self.path, f"boot {self.boot}")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "vault" / "clock.json")


def steady(machine, seconds=HOLD_S + 3600, step=600):
    """Let a machine run in small steps; return what the last look said."""
    return [machine.run(step) for _ in range(seconds // step)][-1]


def test_a_clock_is_believed_after_a_day_and_not_before(machine):
    assert not machine.run(0)
    assert not steady(machine, HOLD_S - 600)
    assert machine.run(600)


@pytest.mark.parametrize("jump", [EPOCH_DAYS * 86_400, STEP_S + 3, -STEP_S, -EPOCH_DAYS * 86_400])
def test_a_clock_that_jumped_is_not_believed_for_a_day(machine, jump):
    assert steady(machine)
    assert not machine.run(2, wall=jump)
    assert not steady(machine, HOLD_S - 600)
    assert machine.run(600)


def test_a_small_step_of_the_time_service_is_no_jump(machine):
    assert steady(machine)
    assert machine.run(2, wall=STEP_S - 10)


def test_a_gateway_that_is_restarted_every_hour_gets_there_too(machine):
    machine.run(0)
    for reboot in itertools.islice(itertools.cycle([False, True]), 30):
        steady(machine, 3600)
        machine.restart(away=30, reboot=reboot)
    assert machine.run(1)


@pytest.mark.parametrize("away", [GAP_S + 1, -10])
def test_a_long_time_away_or_a_clock_behind_over_a_boot_is_not_believed_at_once(machine, away):
    assert steady(machine)
    machine.restart(away=away, reboot=True)
    assert not machine.run(1)
    assert steady(machine)


def test_a_damaged_file_counts_from_nothing(machine):
    assert steady(machine)
    machine.path.write_bytes(b"{")
    machine.restart()
    assert not machine.run(1)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(-(10**7), 10**7)), max_size=30))
def test_what_is_counted_is_never_more_than_the_time_the_machine_ran(steps):
    seen, mono, wall = None, 0, START
    for ran, went in steps:
        mono, wall = mono + ran * SECOND, wall + went * SECOND
        seen = look(seen, wall, mono, "b")
        assert 0 <= seen.steady_us <= mono


def test_ninety_days_ahead_by_mistake_destroy_no_key_and_back_again_nothing_has_changed():
    keys = rotate({}, {"a"}, START)
    ahead = START + EPOCH_DAYS * DAY
    assert rotate(keys, {"a"}, ahead, may_destroy=False) == keys
    with_new = rotate(keys, {"a", "b"}, ahead, may_destroy=False)
    assert with_new["a"] == keys["a"], "a tenant that is new meanwhile gets a key all the same"
    assert rotate(keys, {"a"}, ahead, may_destroy=True)["a"] != keys["a"]


def test_looking_is_pure():
    before = Seen(START, 0, "b", 5)
    assert look(before, START + SECOND, SECOND, "b") == look(before, START + SECOND, SECOND, "b") == Seen(START + SECOND, SECOND, "b", 5 + SECOND)
