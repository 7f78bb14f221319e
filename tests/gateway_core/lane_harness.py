"""A lane in one process: real configuration, decision and records between a fake journal and a fake upstream.

The fakes have the real interfaces. `FakeJournal` renders every record in the leaf profile, keeps the leaves, and can hold acknowledgements
back, be full or have failed. `FakeUpstream` answers from a script. Every await of either is a *point*: `Points.on` says what happens there
(swap a snapshot, let the caller go), so that a test can drive each interleaving.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from audit.journal import JournalFailed, JournalFull
from audit.leaf import finished, parse, render
from experiments.document import ExperimentDocument, StepDocument
from experiments.shares import WHOLE
from gateway import apikeys
from gateway import live as live_state
from gateway.authenticate import Authenticator
from gateway.documents import CaptureDocument, FieldDocument, Manifest, RouteDocument, SettingsDocument, VersionDocument, digest_of, encode
from gateway.exchange import CallerGone, Fault, Request, UpstreamError
from gateway.lane import Lane
from gateway.limits import RateLimits
from gateway.live import Live, LiveDocument
from gateway.pseudonyms import EpochKey, TenantPseudonyms
from gateway.record import Source
from gateway.snapshot import Snapshot
from gateway.standing import Approvals, ApprovalsInForce
from policies.approvals import FOREVER_US, Approval
from policies.trust import PersonKey, ceremony

NOW_US = time.time_ns() // 1000
DAY_US = 86_400_000_000
MODEL = "credit-risk"
INFER = f"/v2/models/{MODEL}/infer"
PEOPLE = {name: PersonKey.from_seed(name.encode().ljust(32, b".")) for name in ("ann", "bob")}
ROOT = ceremony(PEOPLE, thresholds={"approve.low": 1, "approve.medium": 1, "approve.high": 2, "root": 1})
ROOT_TEXT = ROOT.encode().decode()
BODY = json.dumps({"id": "u-1", "inputs": [{"name": "income", "shape": [1], "datatype": "FP64", "data": [1200.5]}]}).encode()
REPLY = b'{"outputs":[{"name":"p","data":[1]}],"score":0.25}'


# --- configuration


def version(name: str, **more: Any) -> VersionDocument:
    fields = {"upstreams": (f"http://v{name}:80",), "digest": f"sha256:{name * 64}"[:71], "stage": "production", **more}
    return VersionDocument(name=name, **fields)


def route(**more: Any) -> RouteDocument:
    fields: dict[str, Any] = {
        "model": MODEL,
        "protocol": "v2",
        "owner": "risk",
        "risk": "low",
        "intended_use": "credit",
        "unit_pointer": "/id",
        "versions": {"3": version("3"), "4": version("4")},
        "default_version": "3",
        "balance": "round_robin",
        "inputs": {},
        "unknown_inputs": "reject",
        "capture": CaptureDocument(prediction="/outputs/0/data/0", score="/score"),
        "labels_observed_when": None,
        "audit": "batch",
        "on_audit_unavailable": "deny",
        "idempotent": False,
        "expose_arm": True,
        "deadline_us": 2_000_000,
        "retries": 0,
        "max_rows": 100,
        "rate_per_s": 0,
    }
    return RouteDocument(**{**fields, **more})


NUMBER = FieldDocument(type="number", min="0")


def experiment(name: str = "credit-v4", **more: Any) -> ExperimentDocument:
    half = WHOLE // 2
    step = StepDocument(exposure=WHOLE, shares={"champion": half, "challenger": half}, hold_us=0, min_units=1)
    fields: dict[str, Any] = {
        "experiment": name,
        "strategy": "canary",
        "model": MODEL,
        "owner": "risk",
        "hypothesis": "better",
        "arms": {"champion": "3", "challenger": "4"},
        "control": "champion",
        "sticky": "unit",
        "salt": "pepper",
        "seed": "1",
        "mode": "native",
        "steps": (step,),
        "guardrails": (),
        "goal": None,
        "alpha_ppm": 50_000,
        "alpha_harm_ppm": 25_000,
        "breaker": None,
        "deadline_us": None,
        "deadline_then": "hold",
    }
    return ExperimentDocument(**{**fields, **more})


def settings(**more: Any) -> SettingsDocument:
    fields: dict[str, Any] = {
        "environment": "staging",
        "body_limit_bytes": 1 << 20,
        "staleness_default_us": 10_000_000,
        "staleness_high_risk_us": 2_000_000,
        "modes": {},
    }
    return SettingsDocument(**{**fields, **more})


class Store:
    """Objects by digest, as the control directory keeps them."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.loaded: list[str] = []

    def put(self, data: bytes) -> str:
        digest = digest_of(data)
        self.objects[digest] = data
        return digest

    def get(self, digest: str) -> bytes:
        self.loaded.append(digest)
        return self.objects[digest]

    def manifest(self, routes=(), experiments=(), policies=None, chosen=None) -> str:
        return self.put(
            encode(
                Manifest(
                    settings=self.put(encode(chosen or settings())),
                    models={document.model: self.put(encode(document)) for document in routes},
                    experiments={document.experiment: self.put(encode(document)) for document in experiments},
                    policies={path: self.put(text.encode()) for path, text in (policies or {}).items()},
                )
            )
        )


BASE = Snapshot.build((_store := Store()).manifest([route()]), _store.get)
"""A snapshot whose compiled policies others take over: compiling them is what costs."""


def snapshot_of(routes=None, experiments=(), policies=None, chosen=None, previous: Snapshot | None = None) -> Snapshot:
    store = Store()
    return Snapshot.build(store.manifest([route()] if routes is None else routes, experiments, policies, chosen), store.get, previous or BASE)


def approval(name: str = "3", person: str = "ann", **more: Any) -> Approval:
    fields: dict[str, Any] = {
        "model": MODEL,
        "version": name,
        "digest": version(name).digest,
        "origins": (f"http://v{name}:80",),
        "environments": ("staging",),
        "purpose": "credit",
        "max_exposure_ppm": 1_000_000,
        "issued_at_us": 1,
        "not_before_us": 1,
        "not_after_us": FOREVER_US,
        "person": person,
    }
    fields.update(more)
    fields.setdefault("id", f"{fields['version']}-{fields['person']}-{fields['not_before_us']}-{fields['not_after_us']}")
    return Approval(**fields)


def live_of(snapshot: Snapshot, approvals=None, experiments=None, *, as_of_us: int | None = None, killed=(), revocations=()) -> Live:
    chosen = (approval("3"), approval("4")) if approvals is None else tuple(approvals)
    published = ApprovalsInForce(trust_root=ROOT_TEXT, approvals=chosen, revocations=tuple(revocations))
    document = LiveDocument(experiments=experiments or {}, approvals=published, killed=tuple(killed))
    digest = digest_of(live_state.encode(document))
    return Live(document, digest, time.time_ns() // 1000 if as_of_us is None else as_of_us, snapshot, Approvals(published))


# --- points, journal, upstream, exchange


@dataclass
class Points:
    """Counts the awaits of a call. `on[n]` is done at the n-th, `gone_at` lets the caller go there."""

    on: dict[int, Callable[[], None]] = field(default_factory=dict)
    gone_at: int | None = None
    passed: list[str] = field(default_factory=list)

    async def pass_(self, name: str) -> None:
        self.passed.append(name)
        number = len(self.passed)
        await asyncio.sleep(0)
        if number in self.on:
            self.on[number]()
        if number == self.gone_at:
            raise CallerGone


class FakeJournal:
    """What the lane needs of `audit.journal.Journal`."""

    def __init__(self, points: Points) -> None:
        self.node, self.epoch = "n1.w0", 1
        self.leaves: list[bytes] = []
        self.points = points
        self.room: int | None = None  # records it takes before it is full; None = any number
        self.failure: JournalFailed | None = None
        self.is_held = False  # acknowledgements are held back
        self.age_s = 0.0  # of the oldest unacknowledged record
        self.waiters: list[asyncio.Future[int]] = []
        self.flushes = 0
        self.is_connected = True

    def append(self, record: dict[str, Any]) -> int:
        self._require_room()
        record["writer"] = {"node": self.node, "epoch": self.epoch, "seq": len(self.leaves)}
        self.leaves.append(render(record))
        return len(self.leaves) - 1

    def append_rendered(self, unfinished: bytes) -> int:
        self._require_room()
        leaf = finished(unfinished, b',"writer":{"epoch":%d,"node":"%b","seq":' % (self.epoch, self.node.encode()), len(self.leaves))
        parse(leaf)  # in the profile, to the byte
        self.leaves.append(leaf)
        return len(self.leaves) - 1

    def _require_room(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self.room is not None:
            if self.room <= 0:
                raise JournalFull("`0` records fit")
            self.room -= 1

    @property
    def last_leaf(self) -> bytes:
        return self.leaves[-1]

    def flush(self) -> None:
        self.flushes += 1

    def flush_soon(self) -> None:
        self.flushes += 1

    def oldest_unacked_age_s(self, now_ns: int) -> float:
        del now_ns
        return self.age_s

    @property
    def unacked_count(self) -> int:
        return len(self.leaves) if self.is_held else 0

    @property
    def unacked_bytes(self) -> int:
        return sum(map(len, self.leaves))

    def add_waiter(self, seq: int) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.failure is not None:
            future.set_exception(self.failure)
            return future
        if self.is_held:
            self.waiters.append(future)
            return future
        return asyncio.ensure_future(self._acknowledge(seq))

    async def committed(self, seq: int) -> int:
        return await self.add_waiter(seq)

    async def _acknowledge(self, seq: int) -> int:
        await self.points.pass_("committed")
        return seq

    def release(self) -> None:
        self.is_held = False
        for future in self.waiters:
            if not future.done():
                future.set_result(0)

    def records(self, *kinds: str) -> list[dict[str, Any]]:
        found = [json.loads(leaf) for leaf in self.leaves]
        return [record for record in found if not kinds or record["type"] in kinds]


@dataclass
class Answer:
    """What the upstream does with one attempt."""

    status: int = 200
    body: bytes = REPLY
    headers: tuple[tuple[bytes, bytes], ...] | None = None
    fault: Fault | None = None
    sent: bool = True
    stage: str = "send"  # where the fault happens: `send`, `read`, or `chunk` (after the first)
    pieces: int = 3
    streamed: tuple[bytes, ...] = ()
    """What comes piece by piece, instead of that many of ten bytes each."""

    def head(self) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"content-length", b"%d" % len(self.body)),) if self.headers is None else self.headers


class FakeReply:
    def __init__(self, answer: Answer, points: Points) -> None:
        self._answer, self._points = answer, points
        self.status, self.headers = answer.status, answer.head()
        self.content_length = dict(self.headers).get(b"content-length", b"-1")
        self.content_length = int(self.content_length)

    async def read(self, limit_bytes: int) -> bytes:
        await self._points.pass_("read")
        if self._answer.stage == "read" and self._answer.fault is not None:
            raise UpstreamError(self._answer.fault, "broke off", sent=True)
        if len(self._answer.body) > limit_bytes:
            raise UpstreamError(Fault.TOO_LARGE, "too long", sent=True)
        return self._answer.body

    async def chunks(self):
        pieces = self._answer.streamed or (b"x" * 10,) * self._answer.pieces
        for number, piece in enumerate(pieces):
            await self._points.pass_("chunk")
            if self._answer.stage == "chunk" and self._answer.fault is not None and number:
                raise UpstreamError(self._answer.fault, "broke off", sent=True)
            yield piece

    def close(self) -> None:
        return None


class FakeUpstream:
    """Answers calls from a script; the last answer repeats."""

    def __init__(self, points: Points, *answers: Answer) -> None:
        self._points = points
        self.answers = list(answers) or [Answer()]
        self.calls: list[tuple[str, bytes, bytes]] = []
        self.heads: list[dict[bytes, bytes]] = []

    async def send(self, endpoint, method, target, headers, body, deadline_at, *, idempotent=False):
        del method, deadline_at, idempotent
        self.calls.append((str(endpoint), target, body))
        self.heads.append(dict(headers))
        await self._points.pass_("send")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.stage == "send" and answer.fault is not None:
            raise UpstreamError(answer.fault, "no reply", sent=answer.sent)
        return FakeReply(answer, self._points)


class FakeExchange:
    """Keeps what was answered, and holds the lane to the rules of `gateway/exchange.py`."""

    def __init__(self, request: Request, points: Points) -> None:
        self.request = request
        self._points = points
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.state = "open"  # open -> answered, or open -> started -> ended or aborted

    def respond(self, status, headers, body) -> None:
        assert self.state == "open", f"respond on an exchange that is {self.state}"
        assert type(status) is int
        self.state, self.status, self.headers, self.body = "answered", status, dict(headers), body

    def start(self, status, headers) -> None:
        assert self.state == "open", f"start on an exchange that is {self.state}"
        self.state, self.status, self.headers = "started", status, dict(headers)

    async def write(self, chunk) -> None:
        assert self.state == "started"
        await self._points.pass_("write")
        self.body += chunk

    def end(self) -> None:
        assert self.state == "started"
        self.state = "ended"

    def abort(self) -> None:
        assert self.state == "started"
        self.state = "aborted"

    @property
    def document(self) -> Any:
        return json.loads(self.body)


# --- the lane


def _keys() -> tuple[str, apikeys.KeyFile]:
    return apikeys.create(
        apikeys.new_file(lambda count: b"s" * count),
        tenant="acme",
        scopes=("infer", "unit:assert", "feedback:write"),
        random=lambda count: b"k" * count,
        now_us=0,
    )


SECRET, _FILE = _keys()
PIN_SECRET, _FILE = apikeys.create(_FILE, tenant="acme", scopes=("infer", "version:pin"), random=lambda count: b"p" * count, now_us=0)
AUTHENTICATOR = Authenticator(apikeys.KeyTable.of(_FILE))


class Harness:
    """A lane and its surroundings."""

    def __init__(self, snapshot: Snapshot | None = None, live: Live | None = None, answers=()) -> None:
        self.points = Points()
        self.journal = FakeJournal(self.points)
        self.upstream = FakeUpstream(self.points, *answers)
        snapshot = BASE if snapshot is None else snapshot
        live = live_of(snapshot) if live is None else live
        keys = {"acme": TenantPseudonyms(EpochKey(1, b"e" * 32, 0, FOREVER_US))}
        self.defects: list[BaseException] = []
        self.lane = Lane(snapshot, live, AUTHENTICATOR, keys, self.journal, self.upstream, RateLimits(1), Source("boot"))
        self.lane.on_defect = lambda _name, fault: self.defects.append(fault)
        self.lane.install(snapshot, live)

    def exchange(self, path: str = INFER, body: bytes = BODY, method: str = "POST", secret: str | None = SECRET, headers=()) -> FakeExchange:
        fields = [] if secret is None else [(b"authorization", b"Bearer " + secret.encode())]
        return FakeExchange(Request(method, path, b"", [*fields, *headers], body), self.points)

    async def call(self, **more: Any) -> FakeExchange:
        exchange = self.exchange(**more)
        await self.lane.serve(exchange)
        return exchange

    def run(self, **more: Any) -> FakeExchange:
        """Serve one call to its end; a caller who goes away is no error of the test."""

        async def serve() -> FakeExchange:
            exchange = self.exchange(**more)
            try:
                await self.lane.serve(exchange)
            except (CallerGone, asyncio.CancelledError):
                exchange.state = "gone"
            return exchange

        return asyncio.run(serve())

    def terminals(self) -> list[dict[str, Any]]:
        return self.journal.records("call", "outcome")


def builtins_of(struct: msgspec.Struct) -> Any:
    return msgspec.to_builtins(struct)
