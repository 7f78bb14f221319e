"""The lane behind both transports: one deployment, the same requests, the same replies and the same records.

Two lanes are built alike in this process, each with a snapshot, a journal that keeps its leaves, and a transport of its own, as a worker has it;
the models are real servers on loopback. Sequence numbers, ids and times differ; nothing else may.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_differential import ask

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))  # the deployment and the models of the gateway's own tests

from deployment import Deployment, free_port
from upstreams import Models

from audit.leaf import finished
from audit.leaf import parse as parse_leaf
from audit.leaf import render as render_leaf
from experiments.document import LiveExperiment
from experiments.shares import WHOLE
from gateway import apikeys
from gateway.authenticate import Authenticator
from gateway.config.compile import Compiler
from gateway.documents import encode
from gateway.lane import Lane
from gateway.limits import RateLimits
from gateway.live import Live, LiveDocument
from gateway.live import decode as decode_live
from gateway.live import encode as encode_live
from gateway.native.sweep import Sweep
from gateway.processes.transports import TRANSPORTS
from gateway.processes.worker import render
from gateway.pseudonyms import EpochKey, TenantPseudonyms
from gateway.record import Source
from gateway.snapshot import Snapshot
from gateway.standing import Approvals, ApprovalsInForce
from policies.approvals import load
from policies.trust import TrustRoot

BODY_LIMIT_BYTES = 64 * 1024


class KeptJournal:
    """A journal that commits at once and keeps every leaf. Owned by one lane."""

    node, epoch = "t.w0", 1
    failure = None
    is_connected = True

    def __init__(self) -> None:
        self.leaves: list[dict[str, Any]] = []

    unacked_count = unacked_bytes = 0

    def append(self, record: dict[str, Any]) -> int:
        record["writer"] = {"node": self.node, "epoch": self.epoch, "seq": len(self.leaves)}
        self.leaves.append(json.loads(render_leaf(record)))
        return len(self.leaves) - 1

    def append_rendered(self, unfinished: bytes) -> int:
        leaf = finished(unfinished, b',"writer":{"epoch":%d,"node":"%b","seq":' % (self.epoch, self.node.encode()), len(self.leaves))
        self.leaves.append(parse_leaf(leaf))
        return len(self.leaves) - 1

    def flush(self) -> None:
        """Nothing waits here."""

    def flush_soon(self) -> None:
        """Nothing waits here."""

    def add_waiter(self, seq: int) -> asyncio.Future[int]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(seq)
        return done

    def oldest_unacked_age_s(self, _now_ns: int) -> float:
        return 0.0


@dataclass(repr=False)
class Side:
    """One transport with its lane."""

    port: int
    transport: Any
    journal: KeptJournal
    lane: Lane
    sweep: Sweep
    defects: list[BaseException]


class Both:
    """Both sides, on one loop that runs while a request is compared. No dataclass: hypothesis would print all that is in it."""

    def __init__(self, runner: asyncio.Runner, sides: dict[str, Side], keys: dict[str, str]) -> None:
        self.runner = runner
        self.sides = sides
        self.keys = keys


def write(deployment: Deployment, url: str, other: str, stray: str) -> None:
    capture = {"prediction": "/outputs/0/data/0", "score": "/outputs/1/data/0"}
    nowhere = f"http://127.0.0.1:{free_port()}"
    pair = {"1": url, "2": other}
    deployment.write_model("plain", pair, expose_arm=True)
    deployment.write_model("captured", {"1": url}, capture=capture, unit={"json": "/parameters/customer"})
    deployment.write_model("typed", {"1": url}, schema={"inputs": {"x": {"type": "number", "min": 0, "max": 10}}})
    deployment.write_model("narrow", {"1": url}, limits={"max_rows": 3})
    deployment.write_model("durable", {"1": url}, audit="sync")
    deployment.write_model("files", {"1": url}, protocol="http", serves={"/some/path": ["GET", "POST"], "/*": ["GET", "POST"]})
    deployment.write_model("hurried", {"1": url}, deadline="100ms", retries=0)
    deployment.write_model("down", {"1": nowhere}, retries=0)
    deployment.write_model("unapproved", {"1": url})
    deployment.write_model("stray", {"1": stray}, capture=capture)
    deployment.approve("stray", "1", url=stray)
    deployment.write_model("split", pair, expose_arm=True, capture=capture)
    deployment.write_experiment("half", "split", {"control": "1", "treatment": "2"})
    for model in ("plain", "captured", "typed", "narrow", "durable", "files", "hurried", "split"):
        deployment.approve(model, "1", url=url)
    for model in ("plain", "split"):
        deployment.approve(model, "2", url=other)
    deployment.approve("down", "1", url=nowhere)


def in_force(deployment: Deployment) -> tuple[Snapshot, Live]:
    """Compile a deployment as the controller would, and load it as a worker would."""
    compiled = Compiler(deployment.layout.config).compile()
    assert compiled.manifest is not None, compiled.issues
    objects = {**compiled.objects, compiled.digest: encode(compiled.manifest)}
    snapshot = Snapshot.build(compiled.digest, objects.__getitem__)
    text = deployment.layout.trust_root.read_text()
    root = TrustRoot.parse(text.encode())
    approvals = tuple(load(path.read_bytes(), root) for path in sorted(deployment.layout.approvals.glob("*.json")))
    shares = {"control": WHOLE // 2, "treatment": WHOLE // 2}
    half = LiveExperiment(experiment="half", epoch=1, phase="running", step=0, exposure=WHOLE, shares=shares)
    document = LiveDocument(experiments={"half": half}, approvals=ApprovalsInForce(trust_root=text, approvals=approvals, revocations=()))
    published = decode_live(encode_live(document))
    digest = hashlib.sha256(encode_live(document)).hexdigest()
    return snapshot, Live(published, digest, time.time_ns() // 1000, snapshot, Approvals(published.read_approvals()))


async def start(name: str, deployment: Deployment) -> Side:
    sweep = Sweep(asyncio.get_running_loop())
    transport = TRANSPORTS[name](sweep)
    snapshot, live = in_force(deployment)
    journal = KeptJournal()
    authenticator = Authenticator(apikeys.KeyTable.of(apikeys.load(deployment.layout.keys / "api-keys.json")))
    pseudonyms = {"acme": TenantPseudonyms(EpochKey(1, b"s" * 32, 0, 1 << 60))}
    lane = Lane(snapshot, live, authenticator, pseudonyms, journal, transport.upstream, RateLimits(1), Source("boot"))
    defects: list[BaseException] = []
    lane.on_defect = lambda _name, fault: defects.append(fault)
    lane.install(snapshot, live)
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    sweep.start()
    await transport.listen(lane.serve, render=functools.partial(render, lane.counters), sock=sock, body_limit_bytes=BODY_LIMIT_BYTES)
    return Side(port, transport, journal, lane, sweep, defects)


async def stop(side: Side) -> None:
    await side.transport.drain(1.0)
    side.sweep.stop()
    await side.transport.close()
    assert side.lane.open == {}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    deployment = Deployment(tmp_path_factory.mktemp("lane") / "d")
    with Models() as models, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        write(deployment, models.add("1").url, models.add("2").url, models.add("stray").url)
        sides = {name: runner.run(start(name, deployment)) for name in TRANSPORTS}
        yield Both(runner, sides, deployment.keys)
        for side in sides.values():
            runner.run(stop(side))
    deployment.close()


OWN = ("id", "time", "mono_ns", "parents", "writer")


def told(leaf: dict[str, Any]) -> dict[str, Any]:
    """Return a leaf without what belongs to one call alone: ids, times, and commitments, whose salt is the id."""
    kept = {key: value for key, value in leaf.items() if key not in OWN}
    if "outcome" in kept:
        kept["outcome"] = {**kept["outcome"], "latency_us": 0, "stages": sorted(kept["outcome"]["stages"])}
        if kept["outcome"].get("streamed") and "code" in kept["outcome"]:
            kept["usage"] = {**kept["usage"], "bytes_out": 0}  # as in `faultless`
    if "payload" in kept:
        kept["payload"] = sorted(kept["payload"])
    return kept


# How a fault of the model is put into words is the transport's own; which fault it was is not.
MODEL_FAULTS = {"upstream_unreachable", "upstream_timeout", "upstream_broken", "upstream_too_large", "upstream_busy"}


def faultless(body: bytes, leaves: list[dict[str, Any]]) -> bytes:
    """Return a body without the words about a fault of the model."""
    outcome = leaves[-1].get("outcome", {}) if leaves else {}
    if outcome.get("code") not in MODEL_FAULTS:
        return body
    if "streamed" in outcome:
        return b""  # how much had passed when the stream broke is a matter of timing
    document = json.loads(body)
    for key in ("error", "detail"):
        if isinstance(document.get(key), str):
            document[key] = document[key].split("`: ")[0]
    return json.dumps(document, sort_keys=True).encode()


async def converse(side: Side, request: bytes) -> tuple[Any, list[dict[str, Any]]]:
    """Send one request; return the reply and the leaves without what is one call's own."""
    before, began = len(side.journal.leaves), dict(side.lane.counters.refused_early)
    reply = await ask(side.port, request, is_head=False)
    async with asyncio.timeout(2):
        while side.lane.open:  # noqa: ASYNC110 - a handler ends after its reply, and nobody tells when
            await asyncio.sleep(0.001)
    leaves = [told(leaf) for leaf in side.journal.leaves[before:]]
    assert side.defects == []
    early = {code: count - began.get(code, 0) for code, count in side.lane.counters.refused_early.items() if count != began.get(code, 0)}
    if reply is None:
        return (None, early), leaves
    status, headers, body, complete = reply
    ids = [value for name, value in headers if name == b"assay-decision"]
    for one in ids:
        body = body.replace(one, b"ID")
    headers = [(name, b"ID" if name == b"assay-decision" else value) for name, value in headers]
    return (status, headers, faultless(body, leaves), complete, early), leaves


def confirm(side: Side) -> None:
    """Confirm the published state, as a worker's look at it does four times a second; what is compared here may take longer than its bound."""
    side.lane.live.as_of_us = time.time_ns() // 1000


def compare(both: Both, request: bytes) -> tuple[Any, list[dict[str, Any]]]:
    for side in both.sides.values():
        confirm(side)
    native = both.runner.run(converse(both.sides["native"], request))
    portable = both.runner.run(converse(both.sides["portable"], request))
    assert native == portable
    return native


GOOD = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}], "parameters": {"customer": "c-1"}}
MANY = {"inputs": [{"name": "x", "shape": [4], "datatype": "FP64", "data": [1, 2, 3, 4]}]}
WRONG = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [99]}]}
BODIES = {
    "good": json.dumps(GOOD).encode(),
    "many rows": json.dumps(MANY).encode(),
    "out of range": json.dumps(WRONG).encode(),
    "no inputs": b'{"inputs": []}',
    "broken": b'{"inputs": [',
    "twice": b'{"inputs": [], "inputs": []}',
    "not utf-8": b'{"inputs": "\xff"}',
    "empty": b"",
    "oversized": b" " * (BODY_LIMIT_BYTES + 1),
}
PATHS = [
    *(f"/v2/models/{name}/infer" for name in ("plain", "captured", "typed", "narrow", "durable", "down", "unapproved", "split", "nobody")),
    *(f"/v2/models/plain/versions/{version}/infer" for version in ("1", "2", "9")),
    "/http/files/some/path?q=1",
    "/http/plain/x",
    "/v2/models/plain",
    "/v2/models/plain/versions/2/ready",
    "/v2/health/live",
    "/v2",
    "/nothing",
    "/v2/models/pl%61in/infer",
    "/v2//models/plain/infer",
]
KEYS = ["product", "tester", "console", "wrong", None]
UNITS = [None, "u-1", "u-2", "\u00fc"]
# Not among them: a stream whose first piece is broken. Whether its head has been passed on by then is a matter of segments and timing, in both.
BEHAVIOURS = ["answer", "status:500", "status:404", "close", "half", "two-lengths", "garbage", "unreadable", "stream:2:0"]


def written(path: str, *, key: str | None = "product", body: bytes = BODIES["good"], method: str = "POST", **fields: str) -> Any:
    return (method, path, key, body, tuple(sorted((name.replace("_", "-"), value) for name, value in fields.items())))


@st.composite
def calls(draw):
    fields = {}
    unit, behave = draw(st.sampled_from(UNITS)), draw(st.sampled_from(BEHAVIOURS))
    if unit is not None:
        fields["assay_unit"] = unit
    if behave != "answer":
        fields["x_behave"] = behave
    if draw(st.booleans()):
        fields["traceparent"] = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    method = draw(st.sampled_from(["POST", "POST", "POST", "POST", "GET", "PUT"]))
    key, body = draw(st.sampled_from(KEYS[:2] * 3 + KEYS)), draw(st.sampled_from([BODIES["good"]] * 6 + list(BODIES.values())))
    return written(draw(st.sampled_from(PATHS)), key=key, body=body, method=method, **fields)


def raw(both: Both, call: Any) -> bytes:
    method, path, key, body, fields = call
    lines = [f"{method} {path} HTTP/1.1", "host: h", "content-type: application/json"]
    if key is not None:
        lines.append(f"authorization: Bearer {both.keys.get(key, 'assay_' + 'x' * 43)}")
    lines += [f"{name}: {value}" for name, value in fields]
    if body or method != "GET":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(calls())
@example(written("/v2/models/plain/infer"))
@example(written("/v2/models/split/infer", assay_unit="u-1"))
@example(written("/v2/models/durable/infer", x_behave="close"))
@example(written("/http/files/a", x_behave="stream:3:0.01"))
@example(written("/v2/models/plain/infer", body=BODIES["oversized"]))
def test_a_call_has_one_reply_and_one_record_whatever_carries_it(both, call):
    compare(both, raw(both, call))


NAMED = {
    "served": (written("/v2/models/plain/infer"), 200, ["call"], None),
    "served under an experiment": (written("/v2/models/split/infer", assay_unit="u-1"), 200, ["call"], None),
    "sync": (written("/v2/models/durable/infer"), 200, ["decision", "outcome"], None),
    "streamed": (written("/http/files/a", x_behave="stream:3:0.01"), 200, ["decision", "outcome"], None),
    "broken off": (written("/http/files/a", x_behave="broken-stream"), 200, ["decision", "outcome"], "upstream_broken"),
    "pinned": (written("/v2/models/plain/versions/2/infer", key="tester"), 200, ["call"], None),
    "pinned without the scope": (written("/v2/models/plain/versions/2/infer"), 403, ["call"], "missing_scope"),
    "no key": (written("/v2/models/plain/infer", key=None), 401, [], None),
    "a wrong key": (written("/v2/models/plain/infer", key="wrong"), 401, [], None),
    "a wrong model": (written("/v2/models/nobody/infer"), 404, [], None),
    "broken JSON": (written("/v2/models/plain/infer", body=BODIES["broken"]), 400, [], None),
    "oversized": (written("/v2/models/plain/infer", body=BODIES["oversized"]), 413, [], None),
    "not approved": (written("/v2/models/unapproved/infer"), 403, ["call"], "not_approved"),
    "against the contract": (written("/v2/models/typed/infer", body=BODIES["out of range"]), 422, ["call"], "schema_mismatch"),
    "too many rows": (written("/v2/models/narrow/infer", body=BODIES["many rows"]), 422, ["call"], "policy_denied"),
    "the model is away": (written("/v2/models/down/infer"), 502, ["call"], "upstream_unreachable"),
    "the model is late": (written("/v2/models/hurried/infer", x_behave="slow:0.4"), 504, ["call"], "upstream_timeout"),
    "the model closes": (written("/v2/models/plain/infer", x_behave="close"), 502, ["call"], "upstream_broken"),
    "the model is broken": (written("/v2/models/plain/infer", x_behave="garbage"), 502, ["call"], "upstream_broken"),
    "a reply that is read whole is broken": (written("/v2/models/captured/infer", x_behave="bad-chunk"), 502, ["call"], "upstream_broken"),
    "the model says no": (written("/v2/models/plain/infer", x_behave="status:500"), 500, ["call"], None),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_compared_is_what_was_meant(both, name):
    call, status, kinds, code = NAMED[name]
    reply, leaves = compare(both, raw(both, call))
    assert reply[0] == status
    assert [leaf["type"] for leaf in leaves] == kinds
    assert [leaf["outcome"].get("code") for leaf in leaves[-1:]] == [code][: len(leaves)]
    assert reply[3] is (name != "broken off")


@pytest.mark.parametrize("name", ["native", "portable"])
def test_what_nobody_asked_for_never_answers_the_next_call(both, name):
    side = both.sides[name]
    confirm(side)
    assert both.runner.run(converse(side, raw(both, written("/v2/models/stray/infer", x_behave="twice"))))[0][0] == 200
    for _ in range(3):
        reply, leaves = both.runner.run(converse(side, raw(both, written("/v2/models/stray/infer"))))
        assert reply[0] == 200
        assert b"poison" not in reply[2]
        assert [leaf["prediction"] for leaf in leaves] == ["1"]
