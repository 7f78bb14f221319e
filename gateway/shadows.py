"""Shadows: copies of calls go to a second version, and what it answers is compared with what the caller got. Nobody waits for it.

Rules:
- The caller has the champion's reply before anything of this happens. What is offered here is put into a queue bounded in calls and bytes; the sweep
  starts it.
- Its connections, its pace (calls a second, calls a day) and its number in flight are bounded apart from everything else. What does not fit is left
  out and counted, never waited for.
- A shadow is judged like any arm: approval and request policies. A version that may not serve gets no copies.
- Drawn for every call by itself from (salt, decision id): whether a call was mirrored can be recomputed from its record.
- With a budget of cost no copy is sent once those of the day have cost it, each worker its part; those under way then may go over it, at most
  `IN_FLIGHT` a worker. A copy that was sent and whose cost is not known (no reply, or one that does not say) counts as the dearest one so far, and at
  least as a hundredth of the day's budget: a shadow that never says what it costs gets a hundred copies a worker and day.
- Only whole replies with status 2xx of the champion are compared. The copy carries `assay-shadow: <experiment>`, so that a model server
  can leave side effects out.
- One `shadow` record a pair, with the decision as parent. Losing one loses evidence, not a decision.

Example::

    shadows = Shadows(upstream, journal, source, ids, workers=2)
    shadows.install(snapshot, live, pseudonyms)
    if route.model in shadows.of:
        shadows.offer(record, route, request, parsed_target, reply_body)
    sweep.add(shadows.start, every_s=0.025)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from audit.journal import Journal, JournalError
from experiments.bucketing import encode_parts
from experiments.document import ExperimentDocument, LiveExperiment, ShadowDocument
from experiments.replies import Comparison, class_of, compile_comparison
from gateway.endpoints import Replicas
from gateway.exchange import Fault, Request, Upstream, UpstreamError
from gateway.identifiers import Identifiers
from gateway.limits import RateLimits
from gateway.live import Live
from gateway.policy_server import PolicyServer
from gateway.protocols.pointer import compile_pointer
from gateway.protocols.strictjson import JsonError, parse
from gateway.pseudonyms import TenantPseudonyms, commitment
from gateway.record import CallRecord, Source
from gateway.reply_policy import head_for, redacted
from gateway.snapshot import Route, Snapshot, Version
from gateway.usage import Metered
from policies.obligations import NotCarriedOut

QUEUE_CALLS: Final = 256
QUEUE_BYTES: Final = 16 << 20
BODY_LIMIT_BYTES: Final = 1 << 20
"""Request and reply together, above which a call is not mirrored."""
IN_FLIGHT: Final = 64
STARTED_AT_ONCE: Final = 16
"""Copies begun in one turn of the sweep, so that a turn stays short."""
_DAY_S: Final = 86_400
_STATUS: Final = {Fault.TIMEOUT: 504, Fault.BUSY: 503}
Counts = dict[str, int]


@dataclass(frozen=True, slots=True)
class Shadow:
    """One running shadow experiment, compiled for one snapshot."""

    document: ExperimentDocument
    limits: ShadowDocument
    epoch: int
    share: int
    """Mirrored part of the champion's calls, out of 2**32."""
    champion: str
    """Version whose calls are mirrored; empty where the champion is a person, who decides on any call."""
    version: Version
    prefix: bytes
    """What is hashed before a decision's id."""
    compare: Comparison
    places: Mapping[str, Callable[[Any], Any]]
    """Part -> what gives its value in a reply."""

    def draws(self, decision: str) -> bool:
        """Say whether a call is mirrored."""
        return int.from_bytes(sha256(self.prefix + encode_parts((decision,))).digest()[:4], "big") < self.share


@dataclass(slots=True)
class _Copy:
    """One call waiting to be mirrored, or under way."""

    shadow: Shadow
    record: CallRecord
    route: Route
    request: Request
    target: bytes
    champion_body: bytes
    size: int

    @property
    def serves_itself(self) -> bool:
        """Say whether the version compared is the one that answered the caller: then its reply is there already, and no copy is sent."""
        decision = self.record.decision
        return decision is not None and decision.version is not None and decision.version.name == self.shadow.version.name


@dataclass(slots=True)
class _Spent:
    """What the copies of one shadow and day cost in this worker. Owned by its `Shadows`."""

    day: int
    nano: int = 0
    dearest_nano: int = 0

    def add(self, cost_nano: int | None, *, least_nano: int) -> None:
        """Take in a copy; one whose cost is not known counts as the dearest so far."""
        if cost_nano is None:
            self.nano += max(self.dearest_nano, least_nano, 1)
        else:
            self.nano += cost_nano
            self.dearest_nano = max(self.dearest_nano, cost_nano)


class Shadows:
    """Mirrors calls of one worker. Owned by its loop."""

    def __init__(
        self,
        upstream: Upstream,
        journal: Journal,
        source: Source,
        ids: Identifiers,
        *,
        workers: int,
        clock_s: Callable[[], float] = time.monotonic,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Prepare; nothing is mirrored before `install`.

        Args:
            upstream: connections of the shadows alone.
            journal: where records go.
            source: what records share.
            ids: makes record ids.
            workers: how many processes share the budgets.
            clock_s: monotonic seconds.
            unix_ns: wall clock.
        """
        self._upstream, self._journal, self._source, self._ids = upstream, journal, source, ids
        self._workers, self._clock_s, self._unix_ns = workers, clock_s, unix_ns
        self._pace = RateLimits(workers)
        # Changed by `install` alone: model -> its shadows. The lane looks here first.
        self.of: Mapping[str, tuple[Shadow, ...]] = {}
        self._live: Live | None = None
        self._policy_server: PolicyServer | None = None
        self._pseudonyms: Mapping[str, TenantPseudonyms] = {}
        # Changed by `offer`, `start` and the tasks.
        self._queue: deque[_Copy] = deque()
        self._queued_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._today: dict[str, tuple[int, int]] = {}  # experiment -> (day, calls)
        self._spent: dict[str, _Spent] = {}  # experiment -> what its copies cost
        self.counts: dict[str, Counts] = {}
        """Experiment -> what became of drawn calls: `compared`, `failed`, `over_budget`, `queue_full`, `too_large`, `ineligible`, `unrecorded`."""

    def install(self, snapshot: Snapshot, live: Live, pseudonyms: Mapping[str, TenantPseudonyms], policy_server: PolicyServer | None = None) -> None:
        """Follow what is in force. Cost: one look at each configured shadow."""
        self._live, self._pseudonyms, self._policy_server = live, pseudonyms, policy_server
        running: dict[str, list[Shadow]] = {}
        for document in snapshot.shadows.values():
            state = live.experiment(document.experiment)
            route = snapshot.routes.get(document.model)
            if route is not None and document.shadow is not None and state is not None and state.phase == "running" and state.exposure:
                running.setdefault(document.model, []).append(_compiled(document, document.shadow, state, route))
        self.of = {model: tuple(found) for model, found in running.items()}

    def offer(self, record: CallRecord, route: Route, request: Request, target: bytes, body: bytes) -> None:
        """Queue copies of a call that has been answered. Returns at once; never raises."""
        version = record.decision.version if record.decision is not None else None
        if version is None or not 200 <= record.status < 300:
            return
        for shadow in self.of.get(route.model, ()):
            if shadow.champion not in ("", version.name) or not shadow.draws(record.id):
                continue
            size = len(request.body) + len(body)
            why = self._refusal(shadow, size)
            if why is not None:
                self._count(shadow, why)
                continue
            self._queued_bytes += size
            self._queue.append(_Copy(shadow, record, route, request, target, body, size))

    def _refusal(self, shadow: Shadow, size: int) -> str | None:
        """Say why a drawn call is left out; takes it from the budgets otherwise."""
        if size > BODY_LIMIT_BYTES:
            return "too_large"
        if len(self._queue) >= QUEUE_CALLS or self._queued_bytes + size > QUEUE_BYTES:
            return "queue_full"
        name, limits = shadow.document.experiment, shadow.limits
        day = self._unix_ns() // 1_000_000_000 // _DAY_S
        on, calls = self._today.get(name, (day, 0))
        calls = calls if on == day else 0
        if limits.per_day and calls >= max(1, limits.per_day // self._workers):
            return "over_budget"
        spent = self._spent.get(name)
        if limits.cost_per_day_nano and spent is not None and spent.day == day and spent.nano >= limits.cost_per_day_nano // self._workers:
            return "over_budget"
        if not self._pace.reserve("shadow", name, limits.per_second, self._clock_s()):
            return "over_budget"
        self._today[name] = (day, calls + 1)
        return None

    def start(self, _now: float = 0.0) -> None:
        """Begin what is queued, as far as the bounds allow; called by the sweep."""
        for _ in range(STARTED_AT_ONCE):
            if not self._queue or len(self._tasks) >= IN_FLIGHT:
                return
            task = asyncio.get_running_loop().create_task(self._mirror(self._queue.popleft()), name="shadow")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Break off what runs; returns when no task is left."""
        self._queue.clear()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _mirror(self, copy: _Copy) -> None:
        self._queued_bytes -= copy.size
        shadow = copy.shadow
        sent = await self._permitted(copy)
        if sent is None:
            self._count(shadow, "ineligible")
            return
        started_s = self._clock_s()
        outcome: dict[str, Any]
        body, was_cut_off = b"", False
        try:
            if copy.serves_itself:
                status, body = copy.record.status, copy.champion_body
            else:
                status, body = await self._ask(copy, sent, started_s + shadow.limits.timeout_us / 1e6)
            outcome = {"status": status}
        except UpstreamError as fault:
            outcome = {"status": _STATUS.get(fault.fault, 502), "code": f"upstream_{fault.fault.value}"}
            was_cut_off = fault.sent
        metered = self._metered(copy, outcome, body, was_cut_off=was_cut_off)
        outcome["latency_us"] = copy.record.upstream_us if copy.serves_itself else int((self._clock_s() - started_s) * 1e6)
        compared: dict[str, Any] = {}
        if outcome["status"] == copy.record.status and not shadow.limits.person:
            results = shadow.compare(_document(copy.champion_body), _document(body))
            for name, result in results.items():
                compared[name] = {"agrees": int(result.agrees)}
                if result.difference_ppm is not None:
                    compared[name]["difference_ppm"] = result.difference_ppm
        has_failed = "code" in outcome or outcome["status"] != copy.record.status
        self._count(shadow, "failed" if has_failed else "compared")
        self._write(copy, outcome, compared, body, metered)

    def _metered(self, copy: _Copy, outcome: Mapping[str, Any], body: bytes, *, was_cut_off: bool) -> Metered | None:
        """Return what the shadow's reply consumed, and take it from the budget; the champion's own reply has cost already."""
        meter, name = copy.route.meter, copy.shadow.document.experiment
        if copy.serves_itself:
            return copy.record.metered
        if meter is None:
            return None
        is_good = outcome["status"] == 200
        metered = meter.of_body(body, copy.shadow.version.document.price) if is_good else None
        # Another status is an answer that nobody pays for; what was never sent is none.
        if copy.shadow.limits.cost_per_day_nano and (is_good or was_cut_off):
            day = self._unix_ns() // 1_000_000_000 // _DAY_S
            spent = self._spent.get(name)
            if spent is None or spent.day != day:
                spent = self._spent[name] = _Spent(day)
            spent.add((metered or {}).get("cost_nano"), least_nano=copy.shadow.limits.cost_per_day_nano // self._workers // 100)
        return metered

    def _answers(self, shadow: Shadow, body: bytes, classes: Mapping[str, str]) -> dict[str, str]:
        """Return what the version answered, for a person's decision that comes later to be compared with."""
        document = _document(body)
        found = {name: class_of(at(document), classes) for name, at in shadow.places.items()}
        return {name: said for name, said in found.items() if said is not None}

    async def _permitted(self, copy: _Copy) -> bytes | None:
        """Judge the shadow like an arm: its approval and the request policies, as they stand now.

        Returns:
            The body it may see, redacted as they ask; None where it may not be called.
        """
        live, server, facts = self._live, self._policy_server, copy.record.facts
        if live is None or facts is None or copy.route.model in live.killed:
            return None
        facts.experiment, facts.arm = copy.shadow.document.experiment, "shadow"
        now_us = self._unix_ns() // 1000
        gate = live.gate(copy.route, copy.shadow.version, now_us, 1)
        judged = gate.judge(facts, now_us)[0] if server is None else await server.judge(gate, facts, now_us)
        if not judged.allowed:
            return None
        try:
            return redacted(judged.redactions, copy.request.headers, copy.request.body) if judged.redactions else copy.request.body
        except NotCarriedOut:
            return None

    async def _ask(self, copy: _Copy, sent: bytes, deadline_s: float) -> tuple[int, bytes]:
        replicas = copy.shadow.version.replicas
        replica = replicas.take(self._clock_s())
        endpoint = replica.endpoint
        target = endpoint.base_path.encode() + copy.target if endpoint.base_path else copy.target
        headers = [*head_for(copy.request, sent), (b"assay-shadow", copy.shadow.document.experiment.encode())]
        has_failed = True
        try:
            reply = await self._upstream.send(endpoint, copy.request.method, target, headers, sent, deadline_s)
            body = await reply.read(BODY_LIMIT_BYTES)
            has_failed = False
        finally:
            Replicas.give_back(replica, self._clock_s(), failed=has_failed)
        return reply.status, body

    def _write(self, copy: _Copy, outcome: dict[str, Any], compared: dict[str, Any], body: bytes, metered: Metered | None) -> None:
        record, shadow = copy.record, copy.shadow
        unix_us = self._unix_ns() // 1000
        name = self._ids.next(unix_us // 1000)
        leaf = self._source.head(name, "shadow", unix_us, time.monotonic_ns(), record.tenant, record.actor)
        leaf["parents"] = [record.id]
        leaf["experiment"], leaf["epoch"] = shadow.document.experiment, shadow.epoch
        leaf["model"] = shadow.version.record
        leaf["champion"] = {"status": record.status, "latency_us": record.upstream_us}
        if record.metered is not None:
            leaf["champion"]["usage"] = record.metered
        leaf["outcome"] = outcome
        leaf["compared"] = compared
        if shadow.limits.person and "code" not in outcome:
            leaf["answers"] = self._answers(shadow, body, copy.route.classes)
        if metered is not None:
            leaf["usage"] = metered
        if record.subject is not None:
            leaf["subject"] = record.subject
        salts = self._pseudonyms.get(record.tenant) if record.kept is None else record.kept.salts
        if salts is not None and "code" not in outcome:
            leaf["payload"] = {"out": commitment(salts.salts(name)[1], body)}
        try:
            self._journal.append(leaf)
        except JournalError:
            self._count(shadow, "unrecorded")

    def _count(self, shadow: Shadow, what: str) -> None:
        counts = self.counts.setdefault(shadow.document.experiment, {})
        counts[what] = counts.get(what, 0) + 1


def _compiled(document: ExperimentDocument, limits: ShadowDocument, state: LiveExperiment, route: Route) -> Shadow:
    return Shadow(
        document=document,
        limits=limits,
        epoch=state.epoch,
        share=state.exposure,
        champion=document.arms["champion"],
        version=route.versions[document.arms["shadow"]],
        prefix=encode_parts((document.salt, "shadow")),
        compare=compile_comparison(limits.compare, compile_pointer),
        places={part.name: compile_pointer(part.at) for part in limits.compare},
    )


def _document(body: bytes) -> Any:
    """Return a reply as JSON, or as text where it is none."""
    try:
        return parse(body)
    except JsonError:
        return body.decode("utf-8", "replace")
