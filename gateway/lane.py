"""The lane: one handler for every call to a model, read from top to bottom. `Lane.serve` is what both transports run.

It knows no socket (see `gateway/exchange.py`), waits for no database, takes no lock. It pins one snapshot and one live state at the start; a
reload in the middle of a call changes nothing for that call. What is refused before authentication is counted; everything after it is one
record (`gateway/ledger.py`). Paths that are not model calls are in `gateway/service.py`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from audit.journal import Journal
from audit.vault.entry import SEED_BYTES
from gateway import context, service, variants
from gateway.answers import FAULT_CODES, answer, of_fault
from gateway.authenticate import Authenticator, Principal
from gateway.bodies import REPLY_LIMIT_BYTES, Salts, capture, metered_refused, metered_tail, sent
from gateway.counters import Counters
from gateway.decide import Call, Decision, decide
from gateway.endpoints import Replicas
from gateway.exchange import CallerGone, Endpoint, Exchange, Fault, Headers, Request, Upstream, UpstreamError, UpstreamReply
from gateway.facts import Facts, media_type
from gateway.gate import Judged
from gateway.identifiers import Identifiers
from gateway.intake import Fields, Parsed, describe, fields_of, http_input, read_call, unit_of
from gateway.keeping import Kept
from gateway.ledger import Held, Ledger
from gateway.limits import DeniedBytes, RateLimits
from gateway.live import Live
from gateway.policy_server import PolicyServer
from gateway.promises import Promises
from gateway.protocols.http import is_twice_encoded
from gateway.pseudonyms import TenantPseudonyms, commitment
from gateway.record import CallRecord, Source
from gateway.refusals import Refusal
from gateway.reply_policy import Governed, govern, head_for, without_old_body
from gateway.shadows import Shadows
from gateway.snapshot import Route, Snapshot, Target, Version
from gateway.usage import Tail, unread

WHOLE_BELOW_BYTES: Final = 256 * 1024
"""A reply nothing is captured from is passed on whole below this length, else as it comes."""


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
    denied: DeniedBytes = field(default_factory=lambda: DeniedBytes(1))
    ids: Identifiers = field(default_factory=Identifiers)
    open: dict[str, Held] = field(default_factory=dict)
    """Calls in flight by id, oldest first."""
    policy_server: PolicyServer | None = None
    """Asked what policies say, where our own engine does not decide alone; belongs to `snapshot` and is swapped with it."""
    shadows: Shadows | None = None
    """Copies of answered calls go there, where a shadow runs."""
    promises: Promises | None = None
    """Signs receipts for those who ask; None while there is no key."""
    proofs: Endpoint | None = None
    """Where proofs for receipts come from: the admin port of this gateway."""
    draws: int = 0
    """Decisions of this writer so far; numbers the draws that are not sticky. Changed by the handler alone."""
    ready: Callable[[], str | None] = field(default=lambda: None)
    """Says why the gateway is not ready, or None."""
    on_defect: Callable[[str, BaseException], None] = field(default=lambda _id, _fault: None)
    """Told of every exception that is a defect of ours."""
    on_upstream_fault: Callable[[str, Version, UpstreamError], None] = field(default=lambda _id, _version, _fault: None)
    """Told of every call a model failed: with addresses, which callers are never told."""
    monotonic_s: Callable[[], float] = time.monotonic
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        """Open the ledger on the journal."""
        self.ledger = Ledger(self.journal, self.source, self.counters, self.ids, self.open, self.denied)

    def install(self, snapshot: Snapshot, live: Live, policy_server: PolicyServer | None = None) -> None:
        """Put a configuration and a live state in force for every call that begins from now on.

        Raises:
            ValueError: the configuration has policy servers decide and `policy_server` asks none, or other policies: nothing changes.
        """
        asked = snapshot.settings.policy_server
        if not (asked is None if policy_server is None else policy_server.serves(asked, snapshot.policies)):
            raise ValueError(f"engine `{snapshot.settings.engine}` is configured and `policy_server` is not what asks its servers")
        self.snapshot = snapshot
        self.live = live
        self.policy_server = policy_server
        self.source.install(snapshot.config_digest, live.digest, {**snapshot.policies.record, "engine": snapshot.settings.engine})
        if self.shadows is not None:
            self.shadows.install(snapshot, live, self.pseudonyms, policy_server)

    async def serve(self, exchange: Exchange) -> None:
        """Serve one request."""
        target = self.snapshot.targets.get(exchange.request.path)
        try:
            if target is not None:
                await self._governed(exchange, target)
            elif exchange.request.path.startswith("/http/"):
                # First who asks: names of models are not for strangers to try out.
                self.authenticator.authenticate(fields_of(exchange.request.headers).get(b"authorization"), time.time_ns() // 1000)
                await self._governed(exchange, self._http_target(exchange.request))
            else:
                await service.serve(self, exchange)
        except Refusal as refusal:
            self.counters.early(refusal.code)
            answer(exchange, refusal, None, as_v2=exchange.request.path.startswith("/v2"))
        except CallerGone:
            raise
        except Exception as fault:  # noqa: BLE001 - the last line: a defect must answer 500 and be told, never hang a caller
            name = self.ids.next(time.time_ns() // 1_000_000)
            self.on_defect(name, fault)
            self.counters.early("internal")
            answer(exchange, Refusal("internal", f"defect `{name}`"), None, as_v2=exchange.request.path.startswith("/v2"))

    # --- the governed call ------------------------------------------------------------------------------------------------------------------

    async def _governed(self, exchange: Exchange, target: Target) -> None:
        """Serve a call to a model: the steps of `docs/architecture.md`, "Life of a call"."""
        request = exchange.request
        started_ns = time.monotonic_ns()
        unix_us = time.time_ns() // 1000
        snapshot, live, server, route = self.snapshot, self.live, self.policy_server, target.route
        document = route.document

        # 1. Who: before this nothing is recorded one by one.
        fields = fields_of(request.headers) if request.named is None else request.named
        principal = self.authenticator.authenticate(fields.get(b"authorization"), unix_us)
        self.ledger.require_recording(document)
        pseudonyms = self.pseudonyms.get(principal.tenant)
        if pseudonyms is None:
            raise Refusal("not_ready", f"the controller has not made a pseudonym key for tenant `{principal.tenant}` yet")
        parsed = read_call(request, target)

        # 2. What it is about.
        call_id = self.ids.next(unix_us // 1000)
        record = CallRecord(self.source, call_id, unix_us, started_ns, principal.tenant, principal.actor)
        describe(record, request, fields, parsed)
        held = Held(record, started_ns, started_ns + document.deadline_us * 1000)
        self.open[call_id] = held
        try:
            # 3. Decide.
            call, facts, salts = self._ask(request, fields, target, parsed, principal, pseudonyms, record)
            if server is None:
                decision = decide(call, facts, snapshot, live, unix_us)
            else:
                decision = await server.decide(call, facts, snapshot, live, unix_us)
            record.decision = decision
            if decision.judged is not None and decision.judged.reply_rules is not None:
                # What policies see of the arm is the one that serves, not the last one that was looked at.
                facts.arm = decision.served or ""
            record.decided_us = (time.monotonic_ns() - started_ns) // 1000
            if decision.refusal is not None:
                raise decision.refusal  # noqa: TRY301 - every refusal of a call ends in the one place below
            assert decision.version is not None  # noqa: S101 - decide() gives a version or a refusal
            salt_in, salt_out = salts.salts(call_id)
            record.committed_in = commitment(salt_in, request.body if document.protocol == "v2" else http_input(request, parsed))
            # 4. `sync`: the decision is durable before anything leaves.
            if document.audit == "sync":
                await self.ledger.decide_durably(held)
            # 5. Forward, 6. record, 7. reply.
            await self._forward(exchange, route, parsed, decision, held, salts, salt_out, server)
        except Refusal as refusal:
            await self._refuse(exchange, document.protocol == "v2", route, held, refusal)
        except (CallerGone, asyncio.CancelledError):
            self.ledger.end_unheard(held, document, status=499, code="caller_gone")
            raise
        except Exception:
            # A defect of ours: the call has its record all the same, then `serve` answers and tells the defect.
            self.ledger.end_unheard(held, document, status=500, code="internal")
            raise
        finally:
            self.open.pop(call_id, None)

    def _ask(
        self,
        request: Request,
        fields: Fields,
        target: Target,
        parsed: Parsed,
        principal: Principal,
        pseudonyms: TenantPseudonyms,
        record: CallRecord,
    ) -> tuple[Call, Facts, Salts]:
        """Gather what is decided about, and who makes the salts; what is refused here is recorded with what is known so far."""
        route = target.route
        document = route.document
        record.decision = Decision(route.default, None, False, None, None, [])
        if "infer" not in principal.scopes:
            raise Refusal("missing_scope", "calling a model needs the scope `infer`")
        if principal.models is not None and document.model not in principal.models:
            raise Refusal("model_not_allowed", f"this key may not call `{document.model}`")
        unit = unit_of(fields.get(b"assay-unit"), route, parsed.document, principal)
        about = unit or f"key:{principal.id}"  # without a unit of its own a call is about who calls
        subject = record.subject = pseudonyms.of(about)
        if route.plan is not None:
            plan = route.plans.get(principal.tenant, route.plan)
            record.kept = Kept(self.ledger.vault, plan, principal.tenant, subject, about, pseudonyms, os.urandom(SEED_BYTES))
        if route.contract is not None and parsed.columns is not None:
            fault = route.contract(parsed.columns)
            if fault is not None:
                raise Refusal("schema_mismatch", fault)
        rate = document.rate_per_s
        facts = Facts(
            principal.tenant,
            request.method,
            request.path,
            media_type(fields.get(b"content-type")),
            (len(request.body) + 1023) >> 10,
            parsed.rows,
            principal.scopes,
            rate > 0 and not self.limits.reserve(principal.id, document.model, rate, self.monotonic_s()),
            "",
            "",
        )
        record.facts = facts
        self.draws += 1
        stated = fields.get(b"assay-context")
        known = principal.context if stated is None else context.read(stated, principal)
        if record.kept is not None:
            record.kept.documents["context"] = known
        drawn = (self.journal.node, self.journal.epoch, self.draws)
        call = Call(record.id, route, target.pinned, subject, principal.may_pin, drawn, known, unit)
        said = fields.get(b"assay-variant")
        if said is not None:
            call.variants = variants.read(said, principal, has_unit=bool(unit))
        return call, facts, pseudonyms if record.kept is None else record.kept.salts

    async def _forward(
        self,
        exchange: Exchange,
        route: Route,
        parsed: Parsed,
        decision: Decision,
        held: Held,
        salts: Salts,
        salt_out: bytes,
        server: PolicyServer | None,
    ) -> None:
        request, record = exchange.request, held.record
        version, judged = decision.version, decision.judged
        assert version is not None and judged is not None  # noqa: S101, PT018 - decide() gives both, or a refusal
        body_in = sent(judged, request, parsed, record, salts)
        deadline_s = held.started_ns / 1e9 + route.deadline_s
        governed = None
        held.forwarded = True
        sent_ns = time.monotonic_ns()
        try:
            reply = await self._attempt(request, head_for(request, body_in), body_in, route, parsed.upstream_target, version, deadline_s)
            if judged.reply_rules is not None:
                assert record.facts is not None  # noqa: S101 - decided by them
                governed = await govern(judged.reply_rules, record.facts, reply, record.unix_us, REPLY_LIMIT_BYTES, server)
                record.reply_policy = governed.told
            if governed is None or (governed.body is None and governed.refusal is None):
                if not route.reads_reply and not 0 <= reply.content_length < WHOLE_BELOW_BYTES:
                    await self._stream(exchange, route, reply, held, sent_ns, governed)
                    return
                body = model_body = await reply.read(REPLY_LIMIT_BYTES)
            else:
                model_body, body = governed.model_body or b"", governed.body or b""
        except UpstreamError as fault:
            record.upstream_us = (time.monotonic_ns() - sent_ns) // 1000
            self.on_upstream_fault(record.id, version, fault)
            raise of_fault(fault, version) from None
        record.upstream_us = (time.monotonic_ns() - sent_ns) // 1000
        headers = reply.headers
        if governed is not None:
            if governed.is_changed or governed.refusal is not None:
                record.committed_from_model = commitment(salts.inner_salts(record.id)[1], model_body)
                headers = without_old_body(headers)
            if governed.refusal is not None:
                metered_refused(route, reply.status, model_body, record)
                raise governed.refusal
        record.status = reply.status
        record.bytes_out = len(body)
        record.committed_out = commitment(salt_out, body)
        if reply.status == 200 and (route.reads_reply or route.meter is not None):
            capture(route, model_body, body, record)
        await self.ledger.end(held, route.document)
        exchange.respond(reply.status, self._told(route, headers, record, judged, governed), body)
        if self.shadows is not None and route.model in self.shadows.of and record.code is None:
            self.shadows.offer(record, route, request, parsed.upstream_target, model_body)

    async def _attempt(
        self, request: Request, headers: Headers, body: bytes, route: Route, target: bytes, version: Version, deadline_s: float
    ) -> UpstreamReply:
        """Call a replica; try another one within the deadline where that cannot run a model twice unasked."""
        replicas = version.replicas
        document = route.document
        tries = 1 + document.retries
        failed = None
        while True:
            replica = replicas.take(self.monotonic_s(), other_than=failed)
            endpoint = replica.endpoint
            path = endpoint.base_path.encode() + target if endpoint.base_path else target
            has_failed: bool | None = None  # a caller who leaves, and a full pool, tell nothing about the replica
            try:
                reply = await self.upstream.send(endpoint, request.method, path, headers, body, deadline_s, idempotent=document.idempotent)
            except UpstreamError as fault:
                has_failed = True if fault.fault is not Fault.BUSY else None
                tries -= 1
                if tries <= 0 or (fault.sent and not document.idempotent) or self.monotonic_s() >= deadline_s:
                    raise
                failed = replica
            else:
                has_failed = False
                return reply
            finally:
                Replicas.give_back(replica, self.monotonic_s(), failed=has_failed)

    async def _stream(self, exchange: Exchange, route: Route, reply: UpstreamReply, held: Held, sent_ns: int, governed: Governed | None) -> None:
        """Pass a long reply through as it comes; the outcome is recorded at its end, whole or broken off."""
        record = held.record
        try:
            await self.ledger.decide_in_time(held, route.document)
        except Refusal:
            reply.close()
            raise
        record.streamed = True
        record.status = reply.status
        judged = None if record.decision is None else record.decision.judged
        exchange.start(reply.status, self._told(route, reply.headers, record, judged, governed))
        tail = None if route.meter is None or reply.status != 200 else Tail(reply.headers)
        try:
            async for chunk in reply.chunks():
                record.bytes_out += len(chunk)
                if tail is not None:
                    tail.add(chunk)
                await exchange.write(chunk)
            if tail is not None:
                metered_tail(route, tail, record)
        except UpstreamError as fault:
            record.fault = fault.fault.value
            record.code = FAULT_CODES[fault.fault]
            record.metered = None if tail is None else unread()
            assert record.decision is not None and record.decision.version is not None  # noqa: S101, PT018 - it was called
            self.on_upstream_fault(record.id, record.decision.version, fault)
        record.upstream_us = (time.monotonic_ns() - sent_ns) // 1000
        try:
            await self.ledger.end(held, route.document)
        except Refusal:
            # The reply has begun: breaking it off is the only way left to say that it is not vouched for.
            exchange.abort()
            return
        if record.fault is not None:
            exchange.abort()
        else:
            exchange.end()

    async def _refuse(self, exchange: Exchange, as_v2: bool, route: Route, held: Held, refusal: Refusal) -> None:  # noqa: FBT001 - private
        """Record a refusal, then answer it. A call whose record has ended already is only answered; one that has none names no decision."""
        record = held.record
        is_recorded = True
        if not held.ended:
            record.status, record.code, record.fault = refusal.status, refusal.code, refusal.fault
            try:
                if refusal.status < 500 and not held.decided and not held.forwarded:
                    is_recorded = await self.ledger.end_denied(held, route.document)
                else:
                    await self.ledger.end(held, route.document)
            except Refusal as worse:
                refusal = worse
        # Where the log has not confirmed a record, nothing is promised of it.
        more = () if refusal.code == "audit_unavailable" else self._receipt(record)
        answer(exchange, refusal, record.id if is_recorded else None, as_v2=as_v2, more=more)

    def _told(
        self, route: Route, headers: Headers, record: CallRecord, judged: Judged | None = None, governed: Governed | None = None
    ) -> list[tuple[bytes, bytes]]:
        told = [field for field in headers if not field[0].startswith(b"assay-")]
        told.append((b"assay-decision", record.id.encode()))
        if route.document.expose_arm and record.decision is not None and record.decision.served is not None:
            told.append((b"assay-arm", record.decision.served.encode()))
        if governed is not None or (judged is not None and judged.warning is not None):
            warnings = [one.warning for one in (judged, governed) if one is not None and one.warning is not None]
            if warnings:
                told.append((b"assay-policy-warning", b", ".join(warnings)))
        if record.wants_receipt:
            told += self._receipt(record)
        return told

    def _receipt(self, record: CallRecord) -> tuple[tuple[bytes, bytes], ...]:
        """Return the header that promises the call's record; none where there is no key, or no record of its own."""
        if self.promises is None or record.promised is None:
            return ()
        self.counters.receipts += 1
        return (self.promises.header(record),)

    def _http_target(self, request: Request) -> Target:
        """Return where a path under `/http/` leads: only what the model's file says it serves leads anywhere."""
        model, _, rest = request.path[len("/http/") :].partition("/")
        route = self.snapshot.routes.get(model)
        if route is None or route.document.protocol != "http":
            raise Refusal("unknown_model", f"no model `{model}` with protocol `http`")
        path = "/" + rest
        if is_twice_encoded(path):
            raise Refusal("malformed_request", f"`{request.path}` is encoded twice, which servers read differently")
        methods = route.serves.methods(path)
        if not methods:
            raise Refusal("not_found", f"`{model}` serves nothing at `{path}`", hint="the model's file lists what it serves under `serves`")
        if request.method not in methods:
            raise Refusal("method_not_allowed", f"`{path}` of `{model}` takes {', '.join(sorted(methods))}, not `{request.method}`")
        return Target(route, None, path.encode())

    def write_late_decisions(self, older_than_s: float) -> None:
        """Write the `decision` of every call that has been open for longer, and end waits that are over; called every few milliseconds."""
        now_ns = time.monotonic_ns()
        if self.open:
            self.ledger.write_late_decisions(older_than_s, now_ns)
        self.ledger.sweep(now_ns)

    def record_denials(self, early_told: dict[str, int]) -> None:
        """Record refusals that were only counted; the worker calls this once a second.

        Args:
            early_told: refusals before there was a call that records have told, by code; moved on here, and only by what was recorded.
        """
        for code, count in self.counters.refused_early.items():
            more = count - early_told.get(code, 0)
            if more and self.ledger.record_denials(code, more):
                early_told[code] = count
        self.ledger.record_denied()
