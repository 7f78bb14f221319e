"""Rates."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import RateLimits


@given(
    st.integers(1, 50),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.5)), min_size=1, max_size=200),
)
def test_no_interleaving_over_workers_lets_more_through_than_the_rate_and_one_burst(rate, workers, arrivals):
    limits = [RateLimits(workers) for _ in range(workers)]
    now, passed = 0.0, 0
    for which, pause in arrivals:
        now += pause
        passed += limits[which % workers].reserve("k", "m", rate, now)
    burst = sum(max(rate / workers, 1.0) for _ in range(workers))
    assert passed <= rate * now + burst + 1e-6


def test_keys_and_models_do_not_share_a_bucket():
    limits = RateLimits(1)
    assert limits.reserve("a", "m", 1, 0.0)
    assert not limits.reserve("a", "m", 1, 0.0)
    assert limits.reserve("b", "m", 1, 0.0)
    assert limits.reserve("a", "n", 1, 0.0)
    assert limits.reserve("a", "m", 1, 1.0)
