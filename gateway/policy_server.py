"""Deciding where an OPA server has a say: the same `decide`, run again until nothing it asked is open.

`decide` is pure and cannot wait. So a call is decided with what is known; a gate whose answer is not known yet asks the server, goes on as if
it allowed, and the decision is thrown away and made again once the answers are there. All candidates of one pass are asked at the same time, and
what a gate remembers is not asked at all. With our own engine alone none of this exists.

Rules:
- A handler of the lane runs in no task: everything awaited here is a plain future that ends within the server's `timeout_s`.
- A question is sent once. Without an answer the decision point's fail mode decides (`policies/engine.py`).
- A server answers for one revision of the policies, that of the snapshot a call is decided by (`serves`).

Example:
    server = PolicyServer.of(settings.policy_server, bundle, place, log)    # None where our engine decides alone
    decision = await server.decide(call, facts, snapshot, live, now_us)
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from audit.keys import read_secret
from experiments.assignment import Assignment, Draw, Variants
from experiments.shares import WHOLE
from experiments.targeting import Context
from gateway.decide import Call, Decision, decide
from gateway.documents import PolicyServerDocument
from gateway.facts import Facts, ReplyFacts
from gateway.gate import Gate, Judged
from gateway.live import Live
from gateway.reply_policy import ReplyGate, ReplyJudged
from gateway.snapshot import Route, Snapshot, Version
from policies.bundle import PointPolicies, PolicyBundle
from policies.engine import BothEngine, DecisionEngine, OpaEngine
from policies.metadata import Point
from policies.opa.archive import revision_of
from policies.opa.connection import Bounds, OpaConnection
from policies.opa.query import OpaError, packages_of
from policies.opa.server import Server
from policies.opa.servers import OpaServers
from policies.verdict import Verdict

_PACE_S: Final = 1.0
"""The log is told of one difference or fault in so many seconds, and how many there were in between."""
_UNKNOWN: Final = Judged(True, None, Verdict("allow", ()), (), {})
"""Stands for an answer to come; no decision made with it leaves this module."""
Counts = dict[str, dict[str, int]]


class PolicyServer:
    """The servers as one worker asks them. Owned by its loop."""

    def __init__(self, document: PolicyServerDocument, bundle: PolicyBundle, servers: OpaServers, log: logging.Logger, counts: Counts) -> None:
        """Ask `servers`, which must have `bundle` in force; use `of`. `counts` are the worker's, and go on from one server to the next."""
        self._document = document
        self._bundle = bundle
        self._servers = servers
        self._log = log
        self.counts = counts
        """Point -> what became of the questions: `answered`, `agreed`, `differed`, or the kind of fault."""
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # when the log was last told, and how often since; changed by `_note`

    @classmethod
    def of(
        cls,
        document: PolicyServerDocument | None,
        bundle: PolicyBundle,
        place: Place,
        log: logging.Logger,
        counts: Counts | None = None,
    ) -> PolicyServer | None:
        """Return what asks the servers of a configuration, or None where there are none. Nothing is connected yet.

        A secret that cannot be read is a server that gives no answer: the fail mode holds until the configuration or the process is another.
        """
        if document is None:
            return None
        try:
            servers = connect(document, bundle, place)
        except (OSError, ValueError) as fault:
            servers = OpaServers([OpaConnection(_Unusable(str(fault)), "")])
        return cls(document, bundle, servers, log, {} if counts is None else counts)

    def serves(self, document: PolicyServerDocument | None, bundle: PolicyBundle) -> bool:
        """Say whether this is the one for a configuration and its policies."""
        return document == self._document and bundle is self._bundle

    async def decide(self, call: Call, facts: Facts, snapshot: Snapshot, live: Live, now_us: int) -> Decision:
        """Decide one call, as `gateway.decide.decide` does."""
        asking = _Asking(self, live)
        while True:
            decision = decide(call, facts, snapshot, asking, now_us)
            if not asking.open:
                return decision
            await asking.answered()

    async def judge(self, gate: Gate, facts: Facts, now_us: int) -> Judged:
        """Return one version's answer for a call."""
        held = gate.remembered(facts)
        return held or gate.conclude(facts, await self.engine("request", gate.policies).ask(gate.document(facts), now_us * 1000, facts))

    async def judge_reply(self, gate: ReplyGate, facts: Facts, reply: ReplyFacts, body: Any, now_us: int) -> tuple[ReplyJudged, bool]:
        """Return the answer on a reply, and whether it was remembered."""
        held = gate.remembered(facts, reply)
        if held is not None:
            return held, True
        verdict = await self.engine("response", gate.policies).ask(gate.document(facts, reply, body), now_us * 1000, facts)
        return gate.conclude(facts, reply, verdict), False

    def engine(self, point: Point, policies: PointPolicies) -> DecisionEngine:
        """Return who answers for the packages of a decision point."""
        kind = BothEngine if self._document.engine == "both" else OpaEngine
        return kind(self._servers, policies, self._document.on_failure.get(point, "closed"), functools.partial(self._note, point))

    def look(self) -> None:
        """See whether servers that were left alone are back; called a few times a second."""
        self._servers.look()

    async def close(self) -> None:
        """End every question in its fail mode and close the connections."""
        await self._servers.close()

    def _note(self, point: str, result: str, words: str) -> None:
        counts = self.counts.setdefault(point, {})
        counts[result] = counts.get(result, 0) + 1
        if not words:
            return
        told_s, unsaid = self._told.get((point, result), (-math.inf, 0))
        now_s = time.monotonic()
        if now_s - told_s < _PACE_S:
            self._told[point, result] = (told_s, unsaid + 1)
            return
        self._told[point, result] = (now_s, 0)
        what = "the engines disagree about a decision" if result == "differed" else "a policy server gave no answer"
        self._log.error(what, extra={"point": point, "result": result, "detail": words, "more_since_last_line": unsaid})


class _Asking:
    """A live state as `decide` sees it while answers are to come. Owned by one call; `open` holds what the last pass asked."""

    __slots__ = ("_gates", "_live", "as_of_us", "killed", "open", "server")

    def __init__(self, server: PolicyServer, live: Live) -> None:
        self.server = server
        self._live = live
        self.as_of_us, self.killed = live.as_of_us, live.killed
        self._gates: dict[tuple[str, str, int], _AskedGate] = {}
        self.open: list[asyncio.Future[Verdict]] = []

    def assign(self, model: str, subject: str, draw: Draw, context: Context, unit: str, variants: Variants | None) -> Assignment | None:
        return self._live.assign(model, subject, draw, context, unit, variants)

    def gate(self, route: Route, version: Version, now_us: int, exposure: int = WHOLE) -> _AskedGate:
        """Return a gate that stays the same through all passes, whatever other calls have rebuilt meanwhile."""
        key = (version.model, version.name, exposure)
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = _AskedGate(self, self._live.gate(route, version, now_us, exposure))
        return gate

    async def answered(self) -> None:
        """Wait until everything that was asked has its answer."""
        waiting, self.open = self.open, []
        for answer in waiting:
            await answer


class _AskedGate:
    """A gate whose answers come from a server, for one call."""

    __slots__ = ("_answers", "_asking", "_gate")

    def __init__(self, asking: _Asking, gate: Gate) -> None:
        self._asking = asking
        self._gate = gate
        self._answers: dict[Any, asyncio.Future[Verdict]] = {}

    def judge(self, facts: Facts, now_us: int) -> tuple[Judged, bool]:
        gate = self._gate
        key = gate.key(facts)
        answer = self._answers.get(key)
        if answer is not None:
            return (gate.conclude(facts, answer.result()) if answer.done() else _UNKNOWN), False
        held = gate.remembered(facts)
        if held is not None:
            return held, True
        server = self._asking.server
        answer = self._answers[key] = server.engine("request", gate.policies).ask(gate.document(facts), now_us * 1000, facts)
        self._asking.open.append(answer)
        return _UNKNOWN, False


@dataclass(frozen=True, slots=True)
class Place:
    """What references in a configuration lead from."""

    base: Path
    """The folder that holds `config/`."""
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Unusable:
    """A way to a server that is none."""

    why: str

    async def decide(self, path: str, given: Mapping[str, Any]) -> Any:
        del path, given
        raise OpaError("refused", self.why)

    async def close_connection(self) -> None:
        pass


def connect(document: PolicyServerDocument, bundle: PolicyBundle, place: Place, least_timeout_s: float = 0.0) -> OpaServers:
    """Return the connections to the servers of a configuration, which must have `bundle` in force. Nothing is connected yet.

    Args:
        document: where they are.
        bundle: the policies.
        place: what references lead from.
        least_timeout_s: wait at least so long for an answer, where nobody waits on the lane.

    Raises:
        ValueError: a secret cannot be read.
    """
    from policies.opa.client import Client  # noqa: PLC0415 - an extra, that may not be installed

    timeout_s = max(document.timeout_us / 1e6, least_timeout_s)
    revision = revision_of(bundle.modules, packages_of(bundle), bundle.data)
    bounds = Bounds(timeout_s=timeout_s)
    return OpaServers(
        [OpaConnection(Client(server, timeout_s), revision, bundle=document.bundle, bounds=bounds) for server in addresses_of(document, place)]
    )


def addresses_of(document: PolicyServerDocument, place: Place) -> list[Server]:
    """Return the servers of a configuration. Raises ValueError where a secret cannot be read."""
    token = None if document.token is None else read_secret(document.token, base=place.base, environ=place.environ).strip()
    certificate = None if document.certificate is None else str(place.base / document.certificate)
    authority = None if document.authority is None else str(place.base / document.authority)
    return [Server(url, token, certificate, authority) for url in document.addresses]
