"""The lane: one handler for every call, read from top to bottom. `Lane.serve` is what both transports run.

It knows no socket (see `gateway/exchange.py`), waits for no database, takes no lock. It pins one snapshot and one live state at the start;
a reload in the middle of a call changes nothing for that call. What is refused before authentication is counted; everything after it is one
record.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from audit.journal import Journal, JournalError
from gateway import feedback
from gateway.authenticate import Authenticator, Principal
from gateway.counters import Counters
from gateway.decide import Call, Decision, decide
from gateway.endpoints import Replicas
from gateway.exchange import CallerGone, Exchange, Fault, Headers, Request, Upstream, UpstreamError, UpstreamReply
from gateway.framing import for_upstream
from gateway.gate import Facts
from gateway.identifiers import Identifiers
from gateway.limits import RateLimits
from gateway.live import Live
from gateway.protocols import problem, v2
from gateway.protocols.pointer import MISSING
from gateway.protocols.strictjson import JsonError, parse
from gateway.pseudonyms import TenantPseudonyms
from gateway.record import CallRecord, Source
from gateway.refusals import Refusal
from gateway.snapshot import Route, Snapshot, Target, Version

BATCH_WINDOW_S: Final = 0.050
"""A reply of a `batch` route waits once the oldest uncommitted record is older than this."""
BACKLOG_REFUSE_S: Final = 1.0
"""New calls are refused once the oldest uncommitted record is older than this."""
REPLY_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""Longest reply that is read whole because something is captured from it."""
_FAULTS: Final = {
    Fault.CONNECT: "upstream_unreachable",
    Fault.TIMEOUT: "upstream_timeout",
    Fault.CLOSED: "upstream_broken",
    Fault.PROTOCOL: "upstream_broken",
    Fault.TOO_LARGE: "upstream_too_large",
    Fault.BUSY: "upstream_busy",
}


@dataclass(slots=True)
class Parsed:
    """A call as its protocol read it."""

    rows: int
    document: Any
    """The body as JSON, where the protocol or the unit's pointer needs it."""
    columns: Mapping[str, list[Any]] | None
    """Inputs by name, where the model has a contract."""
    upstream_target: bytes


@dataclass(slots=True)
class Open:
    """A call that is being served. Owned by its handler; the sweep for late decisions sets `decided`."""

    record: CallRecord
    started_s: float
    decided: bool = False


@dataclass(slots=True)
class Lane:
    """Everything a worker's handler needs. The worker owns it and swaps `snapshot`, `live` and `authenticator` whole."""

    snapshot: Snapshot
    live: Live
    authenticator: Authenticator
    pseudonyms: dict[str, TenantPseudonyms]
    journal: Journal
    upstream: Upstream
    limits: RateLimits
    source: Source
    counters: Counters = field(default_factory=Counters)
    ids: Identifiers = field(default_factory=Identifiers)
    open: dict[str, Open] = field(default_factory=dict)
    """Calls in flight by id, oldest first."""
    draws: int = 0
    """Decisions of this writer so far; numbers the draws that are not sticky. Changed by the handler alone."""
    ready: Callable[[], str | None] = field(default=lambda: None)
    """Says why the gateway is not ready, or None."""
    on_defect: Callable[[str, BaseException], None] = field(default=lambda _id, _fault: None)
    """Told of every exception that is a defect of ours."""
    monotonic_s: Callable[[], float] = time.monotonic

    def install(self, snapshot: Snapshot, live: Live) -> None:
        """Put a configuration and a live state in force for every call that begins from now on."""
        self.snapshot = snapshot
        self.live = live
        self.source.install(snapshot.config_digest, live.digest, snapshot.policies.record)

    async def serve(self, exchange: Exchange) -> None:
        """Serve one request."""
        target = self.snapshot.targets.get(exchange.request.path)
        try:
            if target is not None:
                await self._governed(exchange, target)
            else:
                await self._elsewhere(exchange)
        except Refusal as refusal:
            self._refuse_early(exchange, refusal)
        except CallerGone:
            raise
        except Exception as fault:  # noqa: BLE001 - the last line: a defect must answer 500 and be told, never hang a caller
            name = self.ids.next(time.time_ns() // 1_000_000)
            self.on_defect(name, fault)
            self._refuse_early(exchange, Refusal("internal", f"defect `{name}`"))

    # --- the governed call ------------------------------------------------------------------------------------------------------------------

    async def _governed(self, exchange: Exchange, target: Target) -> None:
        """Serve a call to a model: the steps of `docs/architecture.md`, "Life of a call"."""
        request = exchange.request
        started_ns = time.monotonic_ns()
        unix_us = time.time_ns() // 1000
        snapshot, live, route = self.snapshot, self.live, target.route

        # 1. Who: before this nothing is recorded one by one.
        principal = self.authenticator.authenticate(request.header(b"authorization"), unix_us)
        self._require_recording(route)
        if request.method != "POST" and route.document.protocol == "v2":
            raise Refusal("method_not_allowed", f"`{request.method} {request.path}`: inference is a POST")
        parsed = self._parse(request, target)

        # 2. What it is about.
        call_id = self.ids.next(unix_us // 1000)
        record = CallRecord(self.source, call_id, unix_us, started_ns, principal.tenant, principal.actor)
        record.rows = parsed.rows
        record.bytes_in = len(request.body)
        trace = request.header(b"traceparent")
        if trace is not None and len(trace) == 55:
            record.trace = trace[3:35].decode("ascii", "replace")
        held = Open(record, started_ns / 1e9)
        self.open[call_id] = held
        try:
            # 3. Decide.
            pseudonyms = self.pseudonyms[principal.tenant]
            decision = self._decide(request, target, parsed, principal, pseudonyms, record, snapshot, live)
            record.decided_us = (time.monotonic_ns() - started_ns) // 1000
            if decision.refusal is not None:
                raise decision.refusal
            assert decision.version is not None  # noqa: S101 - decide() gives a version or a refusal
            record.committed_in = pseudonyms.commitment(call_id, b"in", request.body)
            # 4. `sync`: the decision is durable before anything leaves.
            if route.document.audit == "sync":
                await self._durable(held)
            # 5. Forward, 6. record, 7. reply.
            await self._forward(exchange, route, parsed, decision.version, held, pseudonyms, started_ns)
        except Refusal as refusal:
            await self._refuse(exchange, route, held, refusal, started_ns)
        except (CallerGone, asyncio.CancelledError):
            self._caller_gone(held, started_ns)
            raise
        finally:
            self.open.pop(call_id, None)

    def _parse(self, request: Request, target: Target) -> Parsed:
        if target.route.document.protocol == "v2":
            call = v2.InferCall(request.body)
            columns = None if target.route.contract is None else call.columns()
            return Parsed(call.rows, call.document, columns, target.upstream_path)
        document = None
        if target.route.unit is not None and request.body:
            try:
                document = parse(request.body)
            except JsonError as fault:
                raise Refusal("malformed_body", f"request body: {fault}") from None
        path = target.upstream_path + (b"?" + request.query if request.query else b"")
        return Parsed(1, document, None, path)

    def _decide(
        self,
        request: Request,
        target: Target,
        parsed: Parsed,
        principal: Principal,
        pseudonyms: TenantPseudonyms,
        record: CallRecord,
        snapshot: Snapshot,
        live: Live,
    ) -> Decision:
        """Gather the facts and decide; what is refused here is recorded with what is known so far."""
        route = target.route
        model = route.document.model
        if "infer" not in principal.scopes:
            raise Refusal("missing_scope", "calling a model needs the scope `infer`")
        if principal.models is not None and model not in principal.models:
            raise Refusal("model_not_allowed", f"this key may not call `{model}`")
        subject = record.subject = pseudonyms.of(_unit(request, route, parsed.document, principal))
        if route.contract is not None and parsed.columns is not None:
            fault = route.contract(parsed.columns)
            if fault is not None:
                record.decision = Decision(route.default, None, False, None, None, [])
                raise Refusal("schema_mismatch", fault)
        rate = route.document.rate_per_s
        content_type = request.header(b"content-type")
        facts = Facts(
            principal.tenant,
            request.method,
            request.path,
            "" if content_type is None else content_type.decode("latin-1"),
            len(request.body),
            parsed.rows,
            principal.scopes,
            rate > 0 and not self.limits.reserve(principal.id, model, rate, self.monotonic_s()),
            "",
            "",
        )
        self.draws += 1
        call = Call(record.id, route, target.pinned, subject, principal.may_pin, (self.journal.node, self.journal.epoch, self.draws))
        decision = record.decision = decide(call, facts, snapshot, live, record.unix_us)
        return decision

    async def _forward(
        self,
        exchange: Exchange,
        route: Route,
        parsed: Parsed,
        version: Version,
        held: Open,
        pseudonyms: TenantPseudonyms,
        started_ns: int,
    ) -> None:
        request, record = exchange.request, held.record
        deadline_s = started_ns / 1e9 + route.deadline_s
        sent_ns = time.monotonic_ns()
        headers = for_upstream(request.headers)
        try:
            reply = await self._attempt(request, headers, route, parsed.upstream_target, version, deadline_s)
            if not route.reads_reply and not _is_short(reply.headers):
                await self._stream(exchange, route, reply, held, sent_ns, started_ns)
                return
            body = await reply.read(REPLY_LIMIT_BYTES)
        except UpstreamError as fault:
            record.upstream_us = (time.monotonic_ns() - sent_ns) // 1000
            raise _of_fault(fault, version) from None
        record.upstream_us = (time.monotonic_ns() - sent_ns) // 1000
        record.status = reply.status
        record.bytes_out = len(body)
        record.committed_out = pseudonyms.commitment(record.id, b"out", body)
        if route.reads_reply and reply.status == 200:
            _capture(route, body, record)
        await self._ended(route, held, started_ns)
        exchange.respond(reply.status, self._told(route, reply.headers, record), body)

    async def _attempt(self, request: Request, headers: Headers, route: Route, target: bytes, version: Version, deadline_s: float) -> UpstreamReply:
        """Call a replica; try another one within the deadline where that cannot run a model twice unasked."""
        replicas = version.replicas
        tries = 1 + route.document.retries
        failed = None
        while True:
            replica = replicas.take(self.monotonic_s(), other_than=failed)
            endpoint = replica.endpoint
            path = endpoint.base_path.encode() + target if endpoint.base_path else target
            try:
                reply = await self.upstream.send(
                    endpoint, request.method, path, headers, request.body, deadline_s, idempotent=route.document.idempotent
                )
            except UpstreamError as fault:
                Replicas.give_back(replica, self.monotonic_s(), failed=fault.fault is not Fault.BUSY)
                tries -= 1
                if tries <= 0 or (fault.sent and not route.document.idempotent) or self.monotonic_s() >= deadline_s:
                    raise
                failed = replica
            except BaseException:
                Replicas.give_back(replica, self.monotonic_s(), failed=False)
                raise
            else:
                Replicas.give_back(replica, self.monotonic_s(), failed=False)
                return reply

    async def _stream(self, exchange: Exchange, route: Route, reply: UpstreamReply, held: Open, sent_ns: int, started_ns: int) -> None:
        """Pass a long reply through as it comes; the outcome is recorded at its end, whole or broken off."""
        record = held.record
        self._write_decision(held)
        record.streamed = True
        record.status = reply.status
        exchange.start(reply.status, self._told(route, reply.headers, record))
        try:
            async for chunk in reply.chunks():
                record.bytes_out += len(chunk)
                await exchange.write(chunk)
        except UpstreamError as fault:
            record.fault = fault.fault.value
            record.code = _FAULTS[fault.fault]
            exchange.abort()
        else:
            exchange.end()
        record.upstream_us = (time.monotonic_ns() - sent_ns) // 1000
        await self._ended(route, held, started_ns)

    # --- records ----------------------------------------------------------------------------------------------------------------------------

    def _require_recording(self, route: Route) -> None:
        """Refuse a call that could not be recorded: never after the model has been called."""
        if self.journal.oldest_unacked_age_s(time.monotonic_ns()) > BACKLOG_REFUSE_S and route.document.on_audit_unavailable == "deny":
            raise Refusal("audit_unavailable", "the log has not confirmed a record for over a second")

    def _write_decision(self, held: Open) -> int | None:
        if held.decided:
            return None
        held.decided = True
        return self.journal.append(held.record.decision_leaf())

    async def _durable(self, held: Open) -> None:
        try:
            seq = self._write_decision(held)
        except JournalError:
            raise Refusal("audit_unavailable", "the line of unconfirmed records is full") from None
        if seq is not None:
            await self._committed(seq)

    async def _ended(self, route: Route, held: Open, started_ns: int) -> None:
        """Write the leaf that ends a call, and wait as the route's mode asks."""
        record = held.record
        now_ns = time.monotonic_ns()
        record.latency_us = (now_ns - started_ns) // 1000
        document = route.document
        version = record.decision.version if record.decision is not None else None
        self.counters.call(document.model, version.name if version is not None else "-", record.status, record.code or "", record.latency_us)
        try:
            if held.decided:
                unix_us = time.time_ns() // 1000
                seq = self.journal.append(record.outcome(self.ids.next(unix_us // 1000), unix_us, now_ns))
            else:
                held.decided = True
                seq = self.journal.append(record.call())
        except JournalError:
            if document.on_audit_unavailable == "deny":
                raise Refusal("audit_unavailable", "the line of unconfirmed records is full") from None
            self.counters.early("degraded_unrecorded")
            return
        if document.audit == "sync" or (document.audit == "batch" and self.journal.oldest_unacked_age_s(now_ns) > BATCH_WINDOW_S):
            await self._committed(seq)

    async def _committed(self, seq: int) -> None:
        self.journal.flush()
        try:
            await self.journal.add_waiter(seq)
        except JournalError:
            raise Refusal("audit_unavailable", "the log has refused this worker's records") from None

    def write_late_decisions(self, older_than_s: float) -> None:
        """Write the `decision` of every call that has been open for longer; the worker calls this every few milliseconds."""
        now_s = self.monotonic_s()
        for held in self.open.values():
            if now_s - held.started_s < older_than_s:
                return
            if not held.decided and held.record.decision is not None and held.record.decision.refusal is None:
                self._write_decision(held)

    def record_denials(self, reason: str, count: int) -> None:
        """Record how many requests were refused for `reason` before it was known who asked; the worker calls this once a second."""
        unix_us = time.time_ns() // 1000
        actor = {"kind": "system", "id": self.journal.node}
        head = self.source.head(self.ids.next(unix_us // 1000), "denial.count", unix_us, time.monotonic_ns(), "-", actor)
        with contextlib.suppress(JournalError):
            self.journal.append({**head, "reason": reason, "count": count, "second": unix_us // 1_000_000})

    def _caller_gone(self, held: Open, started_ns: int) -> None:
        record = held.record
        record.status, record.code = 499, "caller_gone"
        record.latency_us = (time.monotonic_ns() - started_ns) // 1000
        try:
            if held.decided:
                unix_us = time.time_ns() // 1000
                self.journal.append(record.outcome(self.ids.next(unix_us // 1000), unix_us, time.monotonic_ns()))
            else:
                self.journal.append(record.call())
        except JournalError:
            self.counters.early("degraded_unrecorded")

    # --- replies ----------------------------------------------------------------------------------------------------------------------------

    @staticmethod
    def _told(route: Route, headers: Headers, record: CallRecord) -> list[tuple[bytes, bytes]]:
        told = [*headers, (b"assay-decision", record.id.encode())]
        if route.document.expose_arm and record.decision is not None and record.decision.served is not None:
            told.append((b"assay-arm", record.decision.served.encode()))
        return told

    async def _refuse(self, exchange: Exchange, route: Route, held: Open, refusal: Refusal, started_ns: int) -> None:
        """Record a refusal, then answer it."""
        record = held.record
        record.status, record.code, record.fault = refusal.status, refusal.code, refusal.fault
        try:
            await self._ended(route, held, started_ns)
        except Refusal as worse:
            refusal = worse
        headers = [(b"assay-decision", record.id.encode())]
        self._answer(exchange, refusal, record.id, headers, as_v2=route.document.protocol == "v2")

    def _refuse_early(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answer and count what is refused before it is known who asks."""
        self.counters.early(refusal.code)
        self._answer(exchange, refusal, None, [], as_v2=exchange.request.path.startswith("/v2/"))

    @staticmethod
    def _answer(exchange: Exchange, refusal: Refusal, decision_id: str | None, headers: list[tuple[bytes, bytes]], *, as_v2: bool) -> None:
        if refusal.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after_s))
        if refusal.status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="assay"'))
        if as_v2:
            exchange.respond(refusal.status, [v2.CONTENT_TYPE, *headers], v2.error_body(refusal, decision_id))
        else:
            exchange.respond(refusal.status, [problem.CONTENT_TYPE, *headers], problem.problem_body(refusal, decision_id))

    # --- everything that is not a model call ------------------------------------------------------------------------------------------------

    async def _elsewhere(self, exchange: Exchange) -> None:
        request = exchange.request
        path = request.path
        if path.startswith("/http/"):
            await self._governed(exchange, self._http_target(path))
            return
        handler = _PLAIN.get(path)
        if handler is not None:
            await handler(self, exchange)
            return
        if path.startswith("/v2/models/"):
            self._describe_model(exchange)
            return
        raise Refusal("not_found", f"there is nothing at `{path}`")

    def _http_target(self, path: str) -> Target:
        model, _, rest = path[len("/http/") :].partition("/")
        route = self.snapshot.routes.get(model)
        if route is None or route.document.protocol != "http":
            raise Refusal("unknown_model", f"no model `{model}` with protocol `http`")
        return Target(route, None, b"/" + rest.encode())

    def _describe_model(self, exchange: Exchange) -> None:
        """`GET /v2/models/{m}[/versions/{v}][/ready]`."""
        self.authenticator.authenticate(exchange.request.header(b"authorization"), time.time_ns() // 1000)
        steps = exchange.request.path.split("/")[3:]
        ready = steps[-1:] == ["ready"]
        steps = steps[:-1] if ready else steps
        route = self.snapshot.routes.get(steps[0])
        pinned = steps[2] if len(steps) == 3 and steps[1] == "versions" else None
        if route is None or len(steps) not in (1, 3) or (len(steps) == 3 and pinned not in route.versions):
            raise Refusal("unknown_model", f"no model or version at `{exchange.request.path}`")
        if exchange.request.method != "GET":
            raise Refusal("method_not_allowed", f"`{exchange.request.path}` is read with GET; inference is a POST to `.../infer`")
        if ready:
            exchange.respond(200, [v2.CONTENT_TYPE], b'{"ready":true}')
            return
        exchange.respond(200, [v2.CONTENT_TYPE], v2.metadata_body(route.model, sorted(route.versions)))

    async def _live(self, exchange: Exchange) -> None:
        exchange.respond(200, [(b"content-type", b"application/json")], b'{"live":true}')

    async def _ready(self, exchange: Exchange) -> None:
        reason = self.ready()
        if reason is not None:
            raise Refusal("not_ready", reason)
        exchange.respond(200, [(b"content-type", b"application/json")], b'{"ready":true}')

    async def _server(self, exchange: Exchange) -> None:
        exchange.respond(200, [v2.CONTENT_TYPE], v2.SERVER_BODY)

    async def _feedback(self, exchange: Exchange) -> None:
        """`POST /feedback`: labels and rewards, each a record, answered once committed."""
        request = exchange.request
        unix_us = time.time_ns() // 1000
        principal = self.authenticator.authenticate(request.header(b"authorization"), unix_us)
        if request.method != "POST":
            raise Refusal("method_not_allowed", "feedback is a POST")
        if "feedback:write" not in principal.scopes:
            raise Refusal("missing_scope", "feedback needs the scope `feedback:write`")
        seq = None
        events = feedback.read(request.body)
        for event in events:
            head = self.source.head(self.ids.next(unix_us // 1000), event.kind, unix_us, time.monotonic_ns(), principal.tenant, principal.actor)
            try:
                seq = self.journal.append({**head, **event.fields, "source": principal.id, "parents": [event.decision]})
            except JournalError:
                raise Refusal("audit_unavailable", "the line of unconfirmed records is full") from None
        if seq is not None:
            await self._committed(seq)
        exchange.respond(202, [(b"content-type", b"application/json")], b'{"accepted":%d}' % len(events))


_PLAIN: Final[dict[str, Callable[[Lane, Exchange], Awaitable[None]]]] = {
    "/livez": Lane._live,  # noqa: SLF001 - the table of this class
    "/readyz": Lane._ready,  # noqa: SLF001
    "/v2": Lane._server,  # noqa: SLF001
    "/v2/health/live": Lane._live,  # noqa: SLF001
    "/v2/health/ready": Lane._ready,  # noqa: SLF001
    "/feedback": Lane._feedback,  # noqa: SLF001
}


def _unit(request: Request, route: Route, document: Any, principal: Principal) -> str:
    """Return the unit a call is about: asserted header, else the declared pointer, else who calls."""
    asserted = request.header(b"assay-unit")
    if asserted is not None:
        if not principal.may_assert_unit:
            raise Refusal("missing_scope", "the header `Assay-Unit` needs the scope `unit:assert`")
        return asserted.decode("utf-8", "replace")
    if route.unit is not None:
        value = route.unit(document)
        if value is MISSING or value is None or value == "" or type(value) not in (str, int):
            raise Refusal("schema_mismatch", f"the unit is missing: `{route.document.unit_pointer}` has to hold text or a whole number")
        return str(value)
    return f"key:{principal.id}"


def _is_short(headers: Headers) -> bool:
    """Say whether a reply declares a length that is small enough to be held."""
    for name, value in headers:
        if name == b"content-length":
            return len(value) <= 6 and value.isdigit()
    return False


def _capture(route: Route, body: bytes, record: CallRecord) -> None:
    """Read prediction and score from a reply; what is not there stays unrecorded and is seen as missing in reports."""
    try:
        document = parse(body)
    except JsonError:
        record.code = "reply_unreadable"
        return
    if route.prediction is not None:
        value = route.prediction(document)
        if value is not MISSING and type(value) in (str, int, bool):
            record.prediction = str(value)[:256]
        elif type(value) is float and value.is_integer():
            record.prediction = str(int(value))
    if route.score is not None:
        value = route.score(document)
        if type(value) in (int, float) and abs(value) < 1e9:
            record.score_ppm = round(value * 1_000_000)


def _of_fault(fault: UpstreamError, version: Version) -> Refusal:
    code = _FAULTS[fault.fault]
    return Refusal(code, f"version `{version.name}` of `{version.model}`: {fault.detail}", fault=fault.fault.value)
