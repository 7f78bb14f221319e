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


def test_forgetting_buckets_never_gives_a_call_that_the_rate_does_not(monkeypatch):
    monkeypatch.setattr("gateway.limits._MOST_BUCKETS", 4)
    limits = RateLimits(4)  # a share of 1/s is one call in four seconds
    assert limits.reserve("k", "m", 1, 0.0)
    for number in range(20):
        limits.reserve(f"other{number}", "m", 1, 2.0)
    assert not limits.reserve("k", "m", 1, 2.0)
    assert limits.reserve("k", "m", 1, 4.0)


def test_buckets_that_are_full_again_are_forgotten(monkeypatch):
    monkeypatch.setattr("gateway.limits._MOST_BUCKETS", 4)
    limits = RateLimits(1)
    for number in range(1000):
        limits.reserve(f"k{number}", "m", 1, float(number))
    assert len(limits._buckets) <= 5
