"""From a decided call to its leaves. The format is `docs/records.md`; the profile (no floats, integers < 2^53) is kept by construction here.

One `CallRecord` per call. `call()` is the single leaf of a call that ended before its batch closed; otherwise `decision_leaf()` first and
`outcome()` at the end. What nearly every `call()` would give is put together faster in `gateway/plain_leaf.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audit.statements import told_mono_ns
from gateway.decide import Decision
from gateway.facts import Facts
from gateway.identifiers import Timestamps

if TYPE_CHECKING:
    from gateway.gate import Judged
    from gateway.keeping import Kept

Leaf = dict[str, Any]


class Source:
    """What every record of a writer shares. Owned by the process that writes."""

    __slots__ = ("boot_id", "config_digest", "live_digest", "policy", "times")

    def __init__(self, boot_id: str) -> None:
        """Start with no configuration in force."""
        self.boot_id = boot_id
        self.times = Timestamps()
        # Replaced together by `install`.
        self.config_digest = ""
        self.live_digest = ""
        self.policy: dict[str, str] = {}

    def install(self, config_digest: str, live_digest: str, policy: dict[str, str]) -> None:
        """Say what is in force; records begun before keep what they were begun with."""
        self.config_digest = config_digest
        self.live_digest = live_digest
        self.policy = policy

    def head(self, record_id: str, kind: str, unix_us: int, mono_ns: int, tenant: str, actor: dict[str, str]) -> Leaf:
        """Return the keys every record has."""
        return {
            "v": 1,
            "id": record_id,
            "type": kind,
            "time": self.times.text(unix_us),
            "mono_ns": told_mono_ns(mono_ns),
            "boot_id": self.boot_id,
            "actor": actor,
            "tenant": tenant,
        }


class CallRecord:
    """What is known of one call while it is served.

    Defaults are class attributes and only what is known is set: most of the fields of most calls keep theirs, and setting them all would cost
    more than building the leaf's head.
    """

    subject: str | None = None
    trace: str | None = None
    decision: Decision | None = None
    facts: Facts | None = None
    committed_in: str | None = None
    committed_out: str | None = None
    committed_to_model: str | None = None
    committed_from_model: str | None = None
    kept: Kept | None = None
    vault: str | None = None
    reply_policy: Leaf | None = None
    prediction: str | None = None
    score_ppm: int | None = None
    metered: Leaf | None = None
    """Tokens and cost, where the model's file says how they are read."""
    status = 0
    code: str | None = None
    fault: str | None = None
    rows = 0
    bytes_in = 0
    bytes_out = 0
    decided_us = 0
    upstream_us = 0
    latency_us = 0
    streamed = False
    wants_receipt = False
    promised: tuple[int, bytes] | None = None
    """Sequence number and hash of the leaf that ended the call, or decided it before a stream began; kept only where a receipt is asked for."""

    def __init__(self, source: Source, record_id: str, unix_us: int, mono_ns: int, tenant: str, actor: dict[str, str]) -> None:
        """Begin a record; the digests in force are pinned now."""
        self.source = source
        self.id = record_id
        self.unix_us = unix_us
        self.mono_ns = mono_ns
        self.tenant = tenant
        self.actor = actor
        self.config_digest = source.config_digest
        self.live_digest = source.live_digest
        self.policy = source.policy

    def shrink(self) -> None:
        """Forget whatever could make the leaf impossible to write: who, which version and how it ended remain."""
        self.trace = self.prediction = self.score_ppm = None
        if self.decision is not None:
            self.decision = Decision(self.decision.version, None, False, None, None, [])

    def call(self) -> Leaf:
        """Return the one leaf of a call that has ended."""
        leaf = self._decided("call")
        self._ended(leaf)
        return leaf

    def decision_leaf(self) -> Leaf:
        """Return the leaf of a call that has been decided and is still open."""
        return self._decided("decision")

    def outcome(self, record_id: str, unix_us: int, mono_ns: int) -> Leaf:
        """Return the leaf that ends a call whose `decision` is written."""
        leaf = self.source.head(record_id, "outcome", unix_us, mono_ns, self.tenant, self.actor)
        leaf["parents"] = [self.id]
        if self.decision is not None and self.decision.version is not None:
            leaf["model"] = self.decision.version.record
        self._ended(leaf)
        return leaf

    def _decided(self, kind: str) -> Leaf:
        leaf = self.source.head(self.id, kind, self.unix_us, self.mono_ns, self.tenant, self.actor)
        leaf["config_digest"] = self.config_digest
        if self.subject is not None:
            leaf["subject"] = self.subject
        if self.trace is not None:
            leaf["trace"] = self.trace
        decision = self.decision
        if decision is not None:
            if decision.version is not None:
                leaf["model"] = decision.version.record
            leaf["route"] = self.route_of(decision)
            judged = decision.judged
            if judged is not None:
                leaf["policy"] = self.policy_of(judged, is_cached=decision.cached)
                if judged.approval_ids:
                    leaf["approval"] = {"ids": list(judged.approval_ids)}
        if self.committed_in is not None:
            leaf["payload"] = {"in": self.committed_in}
        return leaf

    def policy_of(self, judged: Judged, *, is_cached: bool) -> Leaf:
        """Return the `policy` part."""
        return {**self.policy, **judged.told, "cached": 1 if is_cached else 0}

    def route_of(self, decision: Decision) -> Leaf:
        """Return the `route` part."""
        route: Leaf = {"eligible": decision.eligible, "live_digest": self.live_digest}
        if decision.pinned:
            route["pinned"] = True
        assignment = decision.assignment
        if assignment is not None:
            route.update(assignment.route())
            if decision.refusal is None:
                route["served"] = decision.served or "default"
        return route

    def _changed(self, leaf: Leaf) -> None:
        """Commit to what went to the model and came from it, where policies changed it, and to what was captured."""
        payload: Leaf = leaf.get("payload", {})
        if self.committed_to_model is not None:
            payload["to_model"] = self.committed_to_model
        if self.committed_from_model is not None:
            payload["from_model"] = self.committed_from_model
        if self.vault is not None:
            payload["vault"] = self.vault
        elif self.kept is not None and self.committed_in is not None:
            payload["vault_lost"] = 1
        if payload:
            leaf["payload"] = payload

    def _ended(self, leaf: Leaf) -> None:
        stages = {"decide_us": self.decided_us}
        if self.upstream_us:
            stages["upstream_us"] = self.upstream_us
        outcome: Leaf = {"status": self.status, "latency_us": self.latency_us, "stages": stages}
        if self.code is not None:
            outcome["code"] = self.code
        if self.fault is not None:
            outcome["fault"] = self.fault
        if self.streamed:
            outcome["streamed"] = 1
        if self.reply_policy is not None:
            outcome["policy"] = self.reply_policy
        leaf["outcome"] = outcome
        usage = {"rows": self.rows, "bytes_in": self.bytes_in, "bytes_out": self.bytes_out}
        leaf["usage"] = usage if self.metered is None else usage | self.metered
        if self.committed_out is not None:
            leaf.setdefault("payload", {})["out"] = self.committed_out
        if self.committed_to_model is not None or self.committed_from_model is not None or self.kept is not None:
            self._changed(leaf)
        if self.prediction is not None:
            leaf["prediction"] = self.prediction
        if self.score_ppm is not None:
            leaf["score_ppm"] = self.score_ppm
