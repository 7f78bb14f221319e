"""The lane when something is wrong: the log, the caller, the model. Each call leaves exactly one terminal record, or is refused unserved."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_harness import BODY, INFER, MODEL, Answer, Harness, route, snapshot_of

from audit.journal import JournalFailed
from gateway.documents import CaptureDocument
from gateway.exchange import Fault
from gateway.ledger import BACKLOG_REFUSE_S, BATCH_WINDOW_S

STREAMED = Answer(headers=(), body=b"")


def passing_route(**more: object):
    return snapshot_of([route(capture=CaptureDocument(), **more)])


SYNC = snapshot_of([route(audit="sync")])
ASYNC = snapshot_of([route(audit="async")])
STREAM = passing_route()
SYNC_STREAM = passing_route(audit="sync")
DEGRADE = snapshot_of([route(on_audit_unavailable="degrade")])
RETRYING = snapshot_of([route(retries=2)])
IDEMPOTENT = snapshot_of([route(retries=2, idempotent=True)])


# --- the log


def test_a_full_journal_is_a_503_and_nothing_is_told_or_counted_as_served():
    harness = Harness()
    harness.journal.room = 0
    exchange = harness.run()
    assert exchange.status == 503
    assert exchange.document["code"] == "audit_unavailable"
    assert not [row for row in harness.lane.counters.document()["calls"] if row["status"] == 200]
    assert not harness.journal.leaves


def test_a_sync_route_with_a_full_journal_never_calls_the_model():
    harness = Harness(SYNC)
    harness.journal.room = 0
    assert harness.run().status == 503
    assert harness.upstream.calls == []


def test_a_journal_that_has_failed_for_good_is_a_503_before_the_model_is_called():
    harness = Harness()
    harness.journal.failure = JournalFailed("gap", "x")
    assert harness.run().status == 503
    assert harness.upstream.calls == []


def test_a_route_that_may_degrade_serves_unrecorded_and_counts_that_it_did():
    harness = Harness(DEGRADE)
    harness.journal.room = 0
    assert harness.run().status == 200
    assert harness.lane.counters.refused_early == {"degraded_unrecorded": 1}


def test_a_decision_that_found_no_room_leaves_no_orphan_outcome():
    harness = Harness(SYNC)
    harness.journal.room = 0

    def make_room():
        harness.journal.room = None

    harness.run()
    make_room()
    assert harness.journal.records("outcome") == []


@pytest.mark.parametrize("room", [0, 1])
@pytest.mark.parametrize("snapshot", [STREAM, SYNC_STREAM])
def test_a_stream_without_room_in_the_journal_is_refused_before_it_starts_or_broken_off(snapshot, room):
    harness = Harness(snapshot, answers=[STREAMED])
    harness.journal.room = room
    exchange = harness.run()
    assert harness.defects == []
    assert (exchange.state, exchange.status) == ("answered", 503) if room == 0 else exchange.state in ("aborted", "ended")


async def until(condition, harness):
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"did not come about: {harness.points.passed}")


def test_a_batch_reply_does_not_wait_while_the_oldest_record_is_younger_than_the_window():
    harness = Harness()
    harness.journal.is_held = True
    harness.journal.age_s = BATCH_WINDOW_S
    assert harness.run().status == 200


def test_a_batch_reply_waits_for_the_commit_once_the_oldest_record_is_older_than_the_window():
    harness = Harness()
    harness.journal.is_held = True
    harness.journal.age_s = BATCH_WINDOW_S + 0.001

    async def run():
        exchange = harness.exchange()
        task = asyncio.create_task(harness.lane.serve(exchange))
        await until(lambda: harness.journal.waiters, harness)
        for _ in range(20):
            await asyncio.sleep(0)
        assert exchange.state == "open"
        assert harness.journal.flushes
        harness.journal.release()
        await task
        assert exchange.status == 200

    asyncio.run(run())


@pytest.mark.parametrize(("age_s", "status"), [(BACKLOG_REFUSE_S, 200), (BACKLOG_REFUSE_S + 0.001, 503)])
def test_a_new_call_is_refused_once_the_oldest_record_is_older_than_a_second(age_s, status):
    harness = Harness()
    harness.journal.age_s = age_s
    assert harness.run().status == status
    assert bool(harness.upstream.calls) is (status == 200)


def test_an_async_route_never_waits():
    harness = Harness(ASYNC)
    harness.journal.is_held = True
    harness.journal.age_s = 0.9
    assert harness.run().status == 200


def test_a_sync_route_waits_for_the_decision_before_the_model_is_called_and_for_the_outcome_before_the_reply():
    harness = Harness(SYNC)
    harness.journal.is_held = True

    async def run():
        exchange = harness.exchange()
        task = asyncio.create_task(harness.lane.serve(exchange))
        await until(lambda: len(harness.journal.waiters) == 1, harness)
        assert harness.upstream.calls == []
        assert [record["type"] for record in harness.journal.records()] == ["decision"]
        harness.journal.waiters[0].set_result(0)
        await until(lambda: len(harness.journal.waiters) == 2, harness)
        assert exchange.state == "open"
        assert [record["type"] for record in harness.journal.records()] == ["decision", "outcome"]
        harness.journal.waiters[1].set_result(1)
        await task
        assert exchange.status == 200

    asyncio.run(run())


# --- the caller


def one_end(harness: Harness) -> dict:
    """The terminal record of the only call: exactly one, and joined to its decision if that stands apart."""
    (end,) = harness.terminals()
    decisions = harness.journal.records("decision")
    assert len(decisions) == (1 if end["type"] == "outcome" else 0)
    if decisions:
        assert end["parents"] == [decisions[0]["id"]]
    return end


WAYS = {
    "batch": (None, Answer(), 0.0),
    "batch, waiting": (None, Answer(), 0.1),
    "sync": (SYNC, Answer(), 0.0),
    "async": (ASYNC, Answer(), 0.0),
    "stream": (STREAM, STREAMED, 0.0),
    "sync stream": (SYNC_STREAM, STREAMED, 0.0),
    "refused by the model": (None, Answer(fault=Fault.CLOSED), 0.1),
    "retried": (IDEMPOTENT, Answer(fault=Fault.CLOSED), 0.0),
}


def awaits(way: str) -> int:
    snapshot, answer, age_s = WAYS[way]
    harness = Harness(snapshot, answers=[answer])
    harness.journal.age_s = age_s
    harness.run()
    return len(harness.points.passed)


@pytest.mark.parametrize(("way", "at"), [(way, at) for way in WAYS for at in range(1, awaits(way) + 1)])
def test_a_caller_who_goes_away_at_any_await_leaves_exactly_one_terminal_record(way, at):
    snapshot, answer, age_s = WAYS[way]
    harness = Harness(snapshot, answers=[answer])
    harness.journal.age_s = age_s
    harness.points.gone_at = at
    exchange = harness.run()
    assert exchange.state == "gone"
    end = one_end(harness)
    was_over = harness.points.passed[at - 1] == "committed" and not (way.startswith("sync") and harness.points.passed.count("committed") == 1)
    if not was_over:
        assert (end["outcome"]["status"], end["outcome"]["code"]) == (499, "caller_gone")
    assert harness.lane.open == {}
    assert all(
        replica.pending == 0 for found in harness.lane.snapshot.routes[end["model"]["name"]].versions.values() for replica in found.replicas.all
    )


def test_a_cancelled_task_is_recorded_like_a_caller_who_went_away():
    harness = Harness()

    async def run():
        task = asyncio.create_task(harness.call())
        await until(lambda: harness.points.passed, harness)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert one_end(harness)["outcome"]["status"] == 499


# --- the model


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("stage", ["send", "read"])
@pytest.mark.parametrize("snapshot", [None, SYNC, IDEMPOTENT])
def test_a_fault_of_the_model_at_any_stage_is_one_terminal_record_with_its_fault(fault, stage, snapshot):
    harness = Harness(snapshot, answers=[Answer(fault=fault, stage=stage)])
    exchange = harness.run()
    end = one_end(harness)
    assert exchange.status == end["outcome"]["status"]
    assert exchange.status in (502, 503, 504)
    assert end["outcome"]["fault"] == fault.value
    assert end["outcome"]["code"] == exchange.document["code"]


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("snapshot", [STREAM, SYNC_STREAM])
def test_a_stream_that_breaks_off_is_aborted_and_recorded_once_with_its_fault(fault, snapshot):
    harness = Harness(snapshot, answers=[Answer(fault=fault, stage="chunk", headers=(), body=b"")])
    exchange = harness.run()
    end = one_end(harness)
    assert exchange.state == "aborted"
    assert end["outcome"]["fault"] == fault.value
    assert end["usage"]["bytes_out"] == 10


@pytest.mark.parametrize(
    ("snapshot", "is_sent", "tries"),
    [(None, False, 1), (None, True, 1), (RETRYING, True, 1), (RETRYING, False, 3), (IDEMPOTENT, True, 3), (IDEMPOTENT, False, 3)],
)
def test_a_call_is_tried_again_only_where_that_cannot_run_a_model_twice_unasked(snapshot, is_sent, tries):
    harness = Harness(snapshot, answers=[Answer(fault=Fault.CLOSED, sent=is_sent)])
    harness.run()
    assert len(harness.upstream.calls) == tries
    one_end(harness)


def test_a_caller_who_leaves_a_hanging_replica_does_not_keep_it_from_being_ejected():
    harness = Harness(snapshot_of([route(deadline_us=10_000_000)]))
    (replica,) = harness.lane.snapshot.routes[MODEL].versions["3"].replicas.all
    harness.upstream.answers = [Answer(fault=Fault.TIMEOUT)]
    harness.run()
    harness.run()
    harness.points.passed.clear()
    harness.points.gone_at = 1
    assert harness.run().state == "gone"
    assert (replica.failures_in_a_row, replica.pending) == (2, 0)
    harness.points.gone_at = None
    harness.upstream.answers = [Answer(fault=Fault.BUSY, sent=False)]
    harness.run()
    assert (replica.failures_in_a_row, replica.pending) == (2, 0)
    harness.upstream.answers = [Answer()]
    assert harness.run().status == 200
    assert (replica.failures_in_a_row, replica.pending) == (0, 0)


def test_a_retry_that_succeeds_is_one_call_served():
    harness = Harness(IDEMPOTENT, answers=[Answer(fault=Fault.CLOSED), Answer()])
    assert harness.run().status == 200
    assert one_end(harness)["outcome"]["status"] == 200


def test_no_retry_begins_after_the_deadline():
    late = snapshot_of([route(retries=5, idempotent=True, deadline_us=1)])
    harness = Harness(late, answers=[Answer(fault=Fault.TIMEOUT)])
    assert harness.run().status == 504
    assert len(harness.upstream.calls) == 1


@pytest.mark.parametrize("body", [b"", b"[", b"\xff", b'{"outputs":[{"data":[1,1]}],"outputs":2}'])
def test_a_reply_that_cannot_be_read_is_passed_on_and_said_to_be_unreadable(body):
    harness = Harness(answers=[Answer(body=body)])
    exchange = harness.run()
    assert (exchange.status, exchange.body) == (200, body)
    assert one_end(harness)["outcome"]["code"] == "reply_unreadable"


# --- late decisions


@given(st.lists(st.sampled_from([0.0, 0.015, 60.0]), max_size=4), st.sampled_from([None, SYNC, STREAM]))
@settings(max_examples=60)
def test_however_often_the_sweep_comes_decision_and_outcome_are_written_once_each(sweeps, snapshot):
    harness = Harness(snapshot, answers=[STREAMED if snapshot is STREAM else Answer()])
    for number, older_than_s in enumerate(sweeps, 1):
        harness.points.on[number] = lambda older_than_s=older_than_s: harness.lane.write_late_decisions(older_than_s)
    harness.run()
    one_end(harness)
    assert len(harness.journal.leaves) <= 2


def test_a_call_that_is_open_for_long_writes_its_decision_while_it_waits_for_the_model():
    harness = Harness()
    harness.points.on[1] = lambda: harness.lane.write_late_decisions(0.0)
    assert harness.run().status == 200
    assert [record["type"] for record in harness.journal.records()] == ["decision", "outcome"]


def test_a_call_that_is_young_writes_no_decision_of_its_own():
    harness = Harness()
    harness.points.on[1] = lambda: harness.lane.write_late_decisions(60.0)
    harness.run()
    assert [record["type"] for record in harness.journal.records()] == ["call"]


def test_a_sweep_that_finds_the_journal_full_leaves_the_decision_for_the_end_of_the_call():
    harness = Harness()

    def sweep():
        harness.journal.room = 0
        harness.lane.write_late_decisions(0.0)
        harness.journal.room = None

    harness.points.on[1] = sweep
    assert harness.run().status == 200
    assert [record["type"] for record in harness.journal.records()] == ["call"]


# --- the front


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"secret": None}, 401),
        ({"secret": "x" * 49}, 401),
        ({"path": "/v2/models/unknown/infer"}, 404),
        ({"path": "/nothing"}, 404),
        ({"path": "/v2/models/"}, 404),
        ({"path": "/v2/models/ready", "method": "GET"}, 404),
        ({"path": "/v2/models/versions/ready", "method": "GET"}, 404),
        ({"path": "/http/"}, 404),
        ({"path": "/http/credit-risk/x"}, 404),
        ({"method": "GET"}, 405),
        ({"body": b"{"}, 400),
        ({"body": b"[]"}, 400),
        ({"body": json.dumps({"inputs": []}).encode()}, 400),
        ({"path": "/feedback", "body": b"1"}, 422),
    ],
)
def test_what_is_refused_before_it_is_a_call_is_counted_and_not_recorded(more, status):
    harness = Harness()
    exchange = harness.run(**{"path": INFER, "body": BODY, **more})
    assert exchange.status == status
    assert harness.defects == []
    assert harness.journal.leaves == []
    assert sum(harness.lane.counters.refused_early.values()) == 1


def test_a_key_of_a_tenant_without_an_epoch_key_yet_is_told_to_come_back_and_is_no_defect():
    harness = Harness()
    harness.lane.pseudonyms = {}
    exchange = harness.run()
    assert exchange.status == 503
    assert harness.defects == []
