"""Calls made to go round a rule, to hide from the record, or to cost more than they may."""

from __future__ import annotations

import asyncio
import json
import math
import time

import pytest
from lane_harness import MODEL, PIN_SECRET, Answer, FakeExchange, FakeReply, Harness, Points, live_of, route, snapshot_of

from audit.keys import SigningKey
from audit.receipt import key_name
from gateway import apikeys, feedback, limits, pathname, service
from gateway.authenticate import Authenticator
from gateway.documents import CaptureDocument
from gateway.exchange import Endpoint
from gateway.facts import Facts
from gateway.framing import for_upstream
from gateway.gate import Gate, Standing
from gateway.ledger import BATCH_WINDOW_S, ROOM_RECORDS
from gateway.live import Live
from gateway.native.plain import FieldLines
from gateway.promises import Promises
from gateway.protocols import v2
from gateway.refusals import Refusal
from policies.bundle import PointPolicies
from policies.verdict import Verdict

STREAM = snapshot_of([route(capture=CaptureDocument())])
HTTP = snapshot_of([route(protocol="http", capture=CaptureDocument(), unit_pointer=None)])


def tensor(name: str = "x", shape: object = (1,), data: object = (1,)) -> dict[str, object]:
    return {"name": name, "shape": list(shape), "datatype": "FP64", "data": list(data)}


def body_of(*tensors: dict[str, object]) -> bytes:
    return json.dumps({"inputs": tensors}).encode()


# --- bodies that cost or hide -------------------------------------------------------------------------------------------------------------


def test_a_shape_of_any_length_costs_no_more_than_reading_it():
    started_s = time.perf_counter()
    with pytest.raises(Refusal, match="1 to 16 whole numbers") as refused:
        v2.InferCall(body_of(tensor(shape=[2**31 - 1] * 100_000)))
    assert refused.value.status == 400
    assert time.perf_counter() - started_s < 0.5


def test_the_largest_shape_there_may_be_is_told_in_its_refusal():
    with pytest.raises(Refusal, match=str(math.prod([2**31 - 1] * 16))):
        v2.InferCall(body_of(tensor(shape=[2**31 - 1] * 16)))
    assert v2.InferCall(body_of(tensor(shape=[1] * 16))).rows == 1


@pytest.mark.parametrize("order", [1, -1])
def test_rows_are_those_of_the_longest_tensor_wherever_it_stands(order: int):
    tensors = [tensor("pad", [1], [1]), tensor("x", [500], [0] * 500)][::order]
    assert v2.InferCall(body_of(*tensors)).rows == 500


def test_the_row_limit_counts_every_tensor():
    harness = Harness(snapshot_of([route(unit_pointer=None)]))
    exchange = harness.run(body=body_of(tensor("pad"), tensor("income", [101], [1] * 101)))
    assert (exchange.status, exchange.document["reasons"][0]["id"]) == (422, "LIM-001")
    assert harness.upstream.calls == []
    (record,) = harness.terminals()
    assert record["usage"]["rows"] == 101


def test_every_tensor_is_as_long_as_its_own_shape_says():
    with pytest.raises(Refusal, match="2 items of `data` where its shape says 1"):
        v2.InferCall(body_of(tensor("x"), tensor("y", [1], [1, 2])))


# --- header fields that change what the model reads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        b"inference-header-content-length",
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
        b"authorization",
    ],
)
def test_fields_that_make_a_model_read_something_else_than_was_judged_do_not_travel(name: bytes):
    kept = dict(for_upstream([(b"x-mine", b"1"), (name, b"/other")]))
    assert kept[b"x-mine"] == b"1"
    assert name not in kept


def test_a_model_cannot_answer_in_the_gateways_name():
    forged = ((b"assay-decision", b"another"), (b"assay-arm", b"champion"), (b"assay-receipt", b"x"), (b"x-kept", b"1"))
    harness = Harness(answers=[Answer(headers=forged)])
    exchange = harness.run()
    (record,) = harness.terminals()
    assert exchange.headers[b"assay-decision"] == record["id"].encode()
    assert exchange.headers[b"x-kept"] == b"1"
    assert b"assay-receipt" not in exchange.headers


# --- records of what goes wrong -----------------------------------------------------------------------------------------------------------


class Broken:
    """An upstream with a defect."""

    async def send(self, *_: object, **__: object) -> None:
        raise ValueError("a defect")


@pytest.mark.parametrize("audit", ["batch", "sync"])
def test_a_call_that_a_defect_ends_has_its_record_all_the_same(audit: str):
    harness = Harness(snapshot_of([route(audit=audit)]))
    harness.lane.upstream = Broken()
    exchange = harness.run()
    assert (exchange.status, exchange.document["code"]) == (500, "internal")
    assert [type(fault) for fault in harness.defects] == [ValueError]
    (record,) = harness.terminals()
    assert (record["outcome"]["status"], record["outcome"]["code"]) == (500, "internal")
    assert harness.lane.open == {}


def test_a_streamed_reply_of_a_batch_route_waits_for_its_decision_once_the_log_is_behind():
    harness = Harness(STREAM, answers=[Answer(headers=(), body=b"")])
    harness.journal.is_held, harness.journal.age_s = True, BATCH_WINDOW_S * 2

    async def main() -> None:
        exchange = harness.exchange()
        call = asyncio.create_task(harness.lane.serve(exchange))
        async with asyncio.timeout(2):
            while not harness.journal.waiters:  # noqa: ASYNC110 - the journal has no event for it
                await asyncio.sleep(0.001)
        assert exchange.state == "open", "nothing of the reply has been sent"
        assert [record["type"] for record in harness.journal.records()] == ["decision"]
        harness.journal.age_s = 0.0
        harness.journal.release()
        await call
        assert (exchange.state, exchange.body) == ("ended", b"x" * 30)

    asyncio.run(main())


def test_a_new_call_is_refused_before_the_model_is_called_while_too_many_records_wait():
    harness = Harness()
    type(harness.journal).unacked_count, kept = property(lambda _: ROOM_RECORDS + 1), type(harness.journal).unacked_count
    try:
        exchange = harness.run()
    finally:
        type(harness.journal).unacked_count = kept
    assert (exchange.status, exchange.document["code"]) == (503, "audit_unavailable")
    assert harness.upstream.calls == []


def test_feedback_leaves_room_in_the_journal_for_calls():
    harness = Harness()
    harness.journal.is_held = True
    harness.journal.leaves = [b""] * (service.FEEDBACK_ROOM_RECORDS - 1)
    events = json.dumps([{"decision_id": "0199aa00-0000-7000-8000-000000000000", "label": "1"}] * 2).encode()
    exchange = harness.run(path="/feedback", body=events)
    assert (exchange.status, exchange.document["code"]) == (503, "audit_unavailable")
    assert len(harness.journal.leaves) == service.FEEDBACK_ROOM_RECORDS - 1, "none of it was taken"
    assert service.FEEDBACK_ROOM_RECORDS < ROOM_RECORDS


def test_a_request_of_feedback_is_bounded():
    event = {"decision_id": "0199aa00-0000-7000-8000-000000000000", "label": "1"}
    assert len(feedback.read(json.dumps([event] * feedback.MOST_EVENTS).encode())) == feedback.MOST_EVENTS
    with pytest.raises(Refusal):
        feedback.read(json.dumps([event] * (feedback.MOST_EVENTS + 1)).encode())
    assert feedback.MOST_EVENTS * 4 < service.FEEDBACK_ROOM_RECORDS


# --- what strangers may learn -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MODEL, "nobody"])
def test_names_of_models_cannot_be_tried_out_without_a_key(model: str):
    harness = Harness(HTTP)
    assert harness.run(path=f"/http/{model}/x", secret=None).status == 401
    assert harness.run(path=f"/v2/models/{model}", method="GET", secret=None).status == 401


def test_a_key_for_named_models_is_not_told_that_there_are_others():
    secret, file = apikeys.create(
        apikeys.new_file(lambda count: b"s" * count), tenant="acme", scopes=("infer",), models=("other",), random=lambda n: b"m" * n, now_us=0
    )
    harness = Harness()
    harness.lane.authenticator = Authenticator(apikeys.KeyTable.of(file))
    told = harness.run(path=f"/v2/models/{MODEL}", method="GET", secret=secret)
    unknown = harness.run(path="/v2/models/nobody", method="GET", secret=secret)
    assert (told.status, told.document["code"]) == (unknown.status, unknown.document["code"]) == (404, "unknown_model")


# --- clocks -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("away_us", [-3_600_000_000, 3_600_000_000])
def test_a_state_from_the_future_is_as_stale_as_one_from_the_past(away_us: int):
    snapshot = snapshot_of()
    live: Live = live_of(snapshot, as_of_us=time.time_ns() // 1000 + away_us)
    exchange = Harness(snapshot, live).run()
    assert (exchange.status, exchange.document["code"]) == (503, "state_stale")


# --- memory that calls may fill -----------------------------------------------------------------------------------------------------------


def test_long_paths_are_not_remembered():
    pathname._remembered.cache_clear()
    for number in range(50):
        pathname.normalise(b"/" + b"a" * 20_000 + b"%d" % number)
        pathname.normalise(b"/short/%d" % number)
    assert pathname._remembered.cache_info().currsize == 50


def test_header_lines_are_remembered_only_while_name_and_value_are_short():
    lines = FieldLines()
    long, short = (b"x" * 20_000, b"1"), (b"x", b"1")
    assert lines[long] == b"x" * 20_000 + b": 1\r\n"
    assert lines[short] == b"x: 1\r\n"
    assert (long in lines, short in lines) == (False, True)


class ReadsEverything:
    """Policies that read every fact, so that each is part of the memo's key."""

    reads_clock = False

    def __init__(self) -> None:
        self.asked = 0
        self.packages = ()

    def at(self, point: str) -> PointPolicies:
        return self if point == "request" else PointPolicies((), needs_required=False)

    def about(self, _model: str) -> ReadsEverything:
        return self

    def reads(self, _path: tuple[str, ...]) -> bool:
        return True

    def evaluate(self, _document: object, _now_ns: int, _spender: object) -> object:
        self.asked += 1
        return Verdict("allow", ())


@pytest.mark.parametrize(("path", "content_type", "asked"), [("/a" * 10_000, "", 2), ("/a", "application/json", 1)])
def test_a_verdict_is_remembered_only_while_its_key_is_short(path: str, content_type: str, asked: int):
    policies = ReadsEverything()
    gate = Gate(Standing({}, (), None, 0), policies)
    facts = Facts("acme", "POST", path, content_type, 1, 1, ("infer",), False, "", "")
    for _ in range(2):
        gate.judge(facts, 0)
    assert policies.asked == asked


# --- receipts ---------------------------------------------------------------------------------------------------------------------------------


class Proving:
    """The process that makes proofs, as the lane asks it."""

    asked = 0

    async def send(self, *_: object, **__: object) -> FakeReply:
        self.asked += 1
        return FakeReply(Answer(body=b"{}"), Points())


def test_a_key_may_not_keep_the_process_that_publishes_busy_with_proofs():
    harness, proving = Harness(), Proving()
    harness.lane.proofs, harness.lane.upstream = Endpoint("http", "127.0.0.1", 1), proving
    harness.lane.monotonic_s = lambda: 1.0
    path = "/receipts/01a1fbcc-5e01-7403-96da-84370087a0ca"
    statuses = [harness.run(path=path, method="GET").status for _ in range(3 * limits.PROOFS_PER_S)]
    assert (statuses.count(200), statuses.count(429), proving.asked) == (limits.PROOFS_PER_S, 2 * limits.PROOFS_PER_S, limits.PROOFS_PER_S)
    assert harness.run(path=path, method="GET", secret=PIN_SECRET).status == 200, "another key is not concerned"


def test_what_the_log_has_not_confirmed_is_not_promised():
    harness = Harness(snapshot_of([route(audit="sync")]), answers=[Answer()])
    harness.lane.promises = Promises(SigningKey.generate(key_name("log.example/x"), seed=b"R" * 32), harness.journal)
    asked = ((b"assay-receipt", b"1"),)
    assert b"assay-receipt" in harness.run(headers=asked).headers

    async def unconfirmed() -> FakeExchange:
        harness.journal.is_held = True
        exchange = harness.exchange(headers=asked)
        serving = asyncio.ensure_future(harness.lane.serve(exchange))
        while exchange.state == "open":
            await asyncio.sleep(0)
            harness.lane.ledger.sweep(time.monotonic_ns() + 10**12)
        await serving
        return exchange

    exchange = asyncio.run(unconfirmed())
    assert (exchange.status, exchange.headers.get(b"assay-receipt")) == (503, None)
