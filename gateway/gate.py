"""One version's gate: may this call go to it? Approval first, then the policies, remembered while nothing they read has changed.

A gate is built for one (snapshot, live state) pair and one version. Everything about the version and its approvals is fixed in it until
`valid_until_us`, when an approval begins or ends; what varies from call to call are the facts in `Facts`. A policy set says which of them
it reads, and the memo is keyed by exactly those (semantics.md 6.1): equal values on the paths read give equal verdicts. The values have one
type each by construction, so 1, true and 1.0 cannot meet in one key.

What a record tells of an answer is made with it, once, and remembered with it: the verdict, the facts it rests on that stand nowhere else in the
record, and a digest of the input by which `assay policy explain` knows that it has put the same input together again. The path of a call is never
told: it may say whom the call is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from gateway.facts import PATHS, Facts, facts_read, fixed_digest, input_document, told_input, told_of, warning_of
from gateway.reply_policy import ReplyGate, ReplyRules
from policies.bundle import PolicyBundle
from policies.obligations import Obligation
from policies.verdict import Verdict

_REMEMBERED_CHARS: Final = 512
MEMO_ENTRIES: Final = 4096
"""Verdicts one gate remembers; the oldest goes first. An entry is about 300 bytes, so a gate stays under 2 MB."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is fixed about a version: its part of the input document, and whether it is approved."""

    document: Mapping[str, Any]
    """`env`, `model`, `approvals`, `params` of the input document."""
    approval_ids: tuple[str, ...]
    refusal: str | None
    """Why the version is not approved, as a reason code; None when it is."""
    valid_until_us: int
    """When this has to be worked out again."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A gate's answer."""

    allowed: bool
    reason: str | None
    """The first reason's id when not allowed."""
    verdict: Verdict
    approval_ids: tuple[str, ...]
    told: Mapping[str, Any]
    """The `policy` part of a record: verdict, reasons, obligations, the facts it rests on and the digest of its input."""
    warning: bytes | None = None
    """Value of the header that tells a caller of warnings."""
    redactions: tuple[Obligation, ...] = ()
    """What has to be taken out of the request before it goes to the model."""
    reply_rules: ReplyRules | None = None
    """What has to be done about the reply; None where nothing has, the usual case."""


class Gate:
    """The gate of one version. The memo is its only mutable state, owned by the worker's loop; it never changes an answer."""

    __slots__ = ("_fixed", "_memo", "_names", "_reply_gate", "key", "policies", "standing")

    def __init__(self, standing: Standing, policies: PolicyBundle) -> None:
        """Fix what is known of the version and learn which facts the policies read."""
        self.standing = standing
        model = standing.document.get("model", {}).get("name", "")
        self.policies = policies.at("request").about(model)
        self._names = tuple(name for path, name in PATHS.items() if self.policies.reads(path))
        # What varies in the answers. Two fields or more, so that the key is a tuple whatever the policies read; `exhausted` costs nothing.
        self.key = attrgetter("exhausted", "rows", *self._names)
        self._memo: dict[tuple[Any, ...], Judged] = {}
        self._fixed = ""  # digest of the standing's document; set by the first answer
        replies = policies.at("response").about(model)
        self._reply_gate = ReplyGate(standing.document, replies) if replies.packages else None

    def judge(self, facts: Facts, now_us: int) -> tuple[Judged, bool]:
        """Return our engine's answer for a call, and whether it was remembered.

        A policy that asks what time it is, other than by its input, is never answered from memory; neither is one that failed.
        """
        judged = self._memo.get(self.key(facts))
        if judged is not None:
            return judged, True
        return self.conclude(facts, self.policies.evaluate(self.document(facts), now_us * 1000, facts)), False

    def remembered(self, facts: Facts) -> Judged | None:
        """Return the answer, where it is remembered."""
        return self._memo.get(self.key(facts))

    def document(self, facts: Facts) -> dict[str, Any]:
        """Return the input of the policies for a call."""
        return input_document(facts, self.standing.document)

    def conclude(self, facts: Facts, verdict: Verdict) -> Judged:
        """Return the answer that follows from the policies' verdict, whoever evaluated them, and remember it."""
        judged = self._judged(facts, verdict)
        if self.policies.reads_clock or len(facts.path) > _REMEMBERED_CHARS or not verdict.is_settled:
            return judged
        memo = self._memo
        if len(memo) >= MEMO_ENTRIES:
            del memo[next(iter(memo))]
        memo[self.key(facts)] = judged
        return judged

    def _judged(self, facts: Facts, verdict: Verdict) -> Judged:
        missing = self.standing.refusal
        if missing is not None:
            reason = {"id": missing, "package": "approval", "msg": "the version is not approved for this use", "mode": "enforce"}
            verdict = Verdict("deny", (reason, *verdict.reasons), by=verdict.by)
        first = verdict.reasons[0]["id"] if not verdict.allowed else None
        on_reply = tuple(one for one in verdict.obligations if one.on == "reply")
        return Judged(
            verdict.allowed,
            first,
            verdict,
            self.standing.approval_ids,
            {**told_of(verdict), **self._told_input(facts)},
            warning_of(verdict),
            tuple(one for one in verdict.obligations if one.on == "request"),
            ReplyRules(on_reply, self._reply_gate) if on_reply or self._reply_gate is not None else None,
        )

    def _told_input(self, facts: Facts) -> dict[str, Any]:
        if not self._fixed:
            self._fixed = fixed_digest(self.standing.document)
        return told_input(facts_read(facts, self._names), self._fixed)
