"""Traffic: what workers counted, put together; a restart never takes counts away."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.traffic import Traffic, quantile
from gateway.counters import LATENCY_BOUNDS_US, Counters

calls = st.tuples(st.sampled_from(["m", "n"]), st.sampled_from([200, 403, 502]), st.integers(0, 12_000_000))
lives = st.lists(
    st.lists(
        st.lists(st.one_of(calls, st.sampled_from(["no_credentials", "not_found"])), max_size=5),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=4,
)


def status(counters: Counters, epoch: int, node: str = "n1.w0") -> dict:
    return {"node": node, "epoch": epoch, "oldest_unacked_us": 0, **counters.document()}


@given(lives)
def test_totals_are_all_calls_of_all_lives_of_a_worker_and_never_fall(found):
    traffic = Traffic()
    expected: Counter = Counter()
    early: Counter = Counter()
    latency_us = 0
    at_s = 0
    for epoch, life in enumerate(found):
        counters = Counters()
        for second in life:
            for event in second:
                if isinstance(event, str):
                    counters.early(event)
                    early[event] += 1
                else:
                    counters.call(event[0], "1", event[1], "", event[2])
                    expected[event[0], "1", event[1], ""] += 1
                    latency_us += event[2]
            before = sum(row.count for row in traffic.series.values())
            traffic.observe([status(counters, epoch)], at_s)
            assert sum(row.count for row in traffic.series.values()) >= before
            at_s += 1
    assert {key: row.count for key, row in traffic.series.items()} == dict(expected)
    assert traffic.refused_early == dict(early)
    assert sum(row.sum_us for row in traffic.series.values()) == latency_us
    assert all(sum(row.buckets) == row.count for row in traffic.series.values())
    seen = sum(second.served + second.refused + second.failed for second in traffic.history)
    first = sum(1 for _ in found[0][0])
    assert seen == sum(expected.values()) + sum(early.values()) - first


def test_the_same_status_again_and_an_older_life_change_nothing():
    counters = Counters()
    counters.call("m", "1", 200, "", 5)
    traffic = Traffic()
    for document in (status(counters, 2), status(counters, 2), status(counters, 1)):
        traffic.observe([document], 0)
    assert [row.count for row in traffic.series.values()] == [1]


def test_what_was_counted_before_the_first_look_is_no_spike():
    counters = Counters()
    for _ in range(100):
        counters.call("m", "1", 200, "", 5)
    traffic = Traffic()
    traffic.observe([status(counters, 1)], 0)
    counters.call("m", "1", 200, "", 5)
    traffic.observe([status(counters, 1)], 1)
    assert [second.served for second in traffic.history] == [1]
    assert sum(row.count for row in traffic.series.values()) == 101


def test_a_document_that_is_no_status_is_counted_and_stops_nothing():
    counters = Counters()
    counters.call("m", "1", 200, "", 5)
    good = status(counters, 1)
    short = {**good, "calls": [{**good["calls"][0], "buckets": [1]}]}
    traffic = Traffic()
    traffic.observe([{}, [], None, 5, {"node": "n"}, {**good, "calls": [{}]}, {**good, "epoch": "1"}, short, good], 0)
    assert traffic.unreadable == 8
    assert [row.count for row in traffic.series.values()] == [1]


@given(st.lists(st.integers(0, 20_000_000), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_the_bound_of_the_bucket_that_holds_it(latencies, q):
    counters = Counters()
    for latency_us in latencies:
        counters.call("m", "1", 200, "", latency_us)
    found = quantile(counters.document()["calls"][0]["buckets"], q)
    needed = q * len(latencies)
    if found is None:
        assert sum(latency <= LATENCY_BOUNDS_US[-1] for latency in latencies) < needed
    else:
        assert sum(latency <= found for latency in latencies) >= needed
        lower = [bound for bound in LATENCY_BOUNDS_US if bound < found]
        assert not lower or sum(latency <= lower[-1] for latency in latencies) < needed


def test_without_data_there_is_no_quantile():
    assert quantile([0] * (len(LATENCY_BOUNDS_US) + 1), 0.5) is None


def test_refusals_and_failures_are_told_apart_by_version():
    counters = Counters()
    for code in (200, 200, 403, 429, 500, 504):
        counters.call("m", "1", code, "", 900)
    traffic = Traffic()
    traffic.observe([status(counters, 1)], 0)
    (row,) = traffic.by_version()
    assert (row["calls"], row["refused"], row["failed"], row["p50_us"]) == (6, 2, 2, 1000)
