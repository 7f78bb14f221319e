"""What a tenant may write into the log by being refused: a quota of bytes, and counts past it. What was counted is told once, and is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_harness import Answer, Harness, route, snapshot_of

from gateway import limits
from gateway.exchange import Fault
from gateway.limits import DENIED_BURST_BYTES, DENIED_BYTES_PER_S, DeniedBytes

STRICT = snapshot_of([route(max_rows=1, unit_pointer=None)])
TWO_ROWS = b'{"inputs":[{"name":"income","shape":[2],"datatype":"FP64","data":[1,2]}]}'
ONE_ROW = b'{"inputs":[{"name":"income","shape":[1],"datatype":"FP64","data":[1]}]}'


def harness_with(burst_bytes: int, monkeypatch: pytest.MonkeyPatch) -> Harness:
    monkeypatch.setattr(limits, "DENIED_BURST_BYTES", burst_bytes)
    monkeypatch.setattr(limits, "DENIED_BYTES_PER_S", 0)
    return Harness(STRICT)


def test_a_tenant_that_has_used_up_its_quota_is_still_refused_and_only_counted(monkeypatch: pytest.MonkeyPatch):
    harness = harness_with(2_000, monkeypatch)
    replies = [harness.run(body=TWO_ROWS) for _ in range(20)]
    assert {reply.status for reply in replies} == {422}
    recorded = harness.terminals()
    assert 1 < len(recorded) < 8
    assert sum(map(len, harness.journal.leaves)) < 2_000 + 1_500, "the last one may go a little past"
    ids = {record["id"].encode() for record in recorded}
    assert [reply.headers.get(b"assay-decision") in ids for reply in replies] == [True] * len(ids) + [False] * (20 - len(ids))
    assert all(b"assay-decision" not in reply.headers and "decision_id" not in reply.document for reply in replies[len(ids) :])

    harness.lane.record_denials({})
    (counted,) = harness.journal.records("denial.count")
    told = {name: counted[name] for name in ("tenant", "actor", "reason", "count")}
    actor = {"kind": "key", "id": recorded[0]["actor"]["id"]}
    assert told == {"tenant": "acme", "actor": actor, "reason": "policy_denied", "count": 20 - len(recorded)}
    harness.lane.record_denials({})
    assert len(harness.journal.records("denial.count")) == 1, "told once"
    rows = harness.lane.counters.document()["calls"]
    assert sum(row["count"] for row in rows if row["status"] == 422) == 20, "metrics count every one"


def test_calls_that_are_served_or_fail_have_a_record_whatever_was_refused_before(monkeypatch: pytest.MonkeyPatch):
    harness = harness_with(1, monkeypatch)
    for _ in range(3):
        harness.run(body=TWO_ROWS)
    before = len(harness.terminals())
    served = harness.run(body=ONE_ROW)
    harness.upstream.answers = [Answer(fault=Fault.CONNECT)]
    failed = harness.run(body=ONE_ROW)
    assert (served.status, failed.status) == (200, 502)
    assert [record["outcome"]["status"] for record in harness.terminals()[before:]] == [200, 502]


def test_a_count_that_found_no_room_in_the_journal_is_told_the_next_time(monkeypatch: pytest.MonkeyPatch):
    harness = harness_with(1, monkeypatch)
    for _ in range(3):
        harness.run(body=TWO_ROWS)
    harness.run(body=b"{")  # refused before it is a call: counted
    told: dict[str, int] = {}
    harness.journal.room = 0
    harness.lane.record_denials(told)
    assert (told, harness.journal.records("denial.count")) == ({}, [])
    harness.journal.room = None
    harness.lane.record_denials(told)
    assert told == {"malformed_body": 1}
    assert [(record["tenant"], record["reason"], record["count"]) for record in harness.journal.records("denial.count")] == [
        ("-", "malformed_body", 1),
        ("acme", "policy_denied", 2),
    ]


spendings = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 70_000), st.floats(0, 5)), max_size=200)


@given(spendings, st.integers(1, 8))
def test_no_tenant_writes_more_than_rate_and_burst_and_one_leaf_and_none_takes_anothers(events, workers):
    quotas = [DeniedBytes(workers) for _ in range(workers)]
    now_s, spent = 0.0, {"a": 0, "b": 0}
    for number, (tenant, size_bytes, pause_s) in enumerate(events):
        now_s += pause_s
        quota = quotas[number % workers]
        if quota.has_room(tenant, now_s):
            quota.spend(tenant, size_bytes)
            spent[tenant] += size_bytes
    for total in spent.values():
        assert total <= DENIED_BURST_BYTES + DENIED_BYTES_PER_S * now_s + 70_000 * workers
    assert all(quota.has_room("c", now_s) for quota in quotas)


def test_a_quota_that_was_used_up_comes_back_with_time():
    quota = DeniedBytes(1)
    assert quota.has_room("a", 0.0)
    quota.spend("a", DENIED_BURST_BYTES + DENIED_BYTES_PER_S)
    assert not quota.has_room("a", 0.9)
    assert quota.has_room("a", 1.1)
