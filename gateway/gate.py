"""One version's gate: may this call go to it? Approval first, then the policies, remembered while nothing they read has changed.

A gate is built for one (snapshot, live state) pair and one version. Everything about the version and its approvals is fixed in it until
`valid_until_us`, when an approval begins or ends; what varies from call to call are the facts in `Facts`. A policy set says which of them
it reads, and the memo is keyed by exactly those (semantics.md 6.1): equal values on the paths read give equal verdicts. The values have one
type each by construction, so 1, true and 1.0 cannot meet in one key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from policies.bundle import PolicyBundle
from policies.verdict import Verdict

_REMEMBERED_CHARS: Final = 512
MEMO_ENTRIES: Final = 4096
"""Verdicts one gate remembers; the oldest goes first. An entry is about 300 bytes, so a gate stays under 2 MB."""


@dataclass(slots=True)
class Facts:
    """What may vary from one call to the next, as policies see it."""

    tenant: str
    method: str
    path: str
    content_type: str
    kib: int
    """Length of the body in KiB, rounded up: a policy that bounds sizes then reads the same value for most calls."""
    rows: int
    scopes: tuple[str, ...]
    exhausted: bool
    experiment: str
    arm: str


_PATHS: Final[Mapping[tuple[str, ...], str]] = {
    ("tenant",): "tenant",
    ("request", "method"): "method",
    ("request", "path"): "path",
    ("request", "content_type"): "content_type",
    ("request", "kib"): "kib",
    ("request", "rows"): "rows",
    ("subject", "scopes"): "scopes",
    ("usage", "exhausted"): "exhausted",
    ("route", "experiment"): "experiment",
    ("route", "arm"): "arm",
}
"""Path of the input document -> field of `Facts`."""


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


class Gate:
    """The gate of one version. The memo is its only mutable state, owned by the worker's loop; it never changes an answer."""

    __slots__ = ("_key", "_memo", "_policies", "standing")

    def __init__(self, standing: Standing, policies: PolicyBundle) -> None:
        """Fix what is known of the version and learn which facts the policies read."""
        self.standing = standing
        self._policies = policies
        # Two fields or more, so that the key is a tuple whatever the policies read; `exhausted` costs nothing.
        self._key = attrgetter("exhausted", "rows", *(name for path, name in _PATHS.items() if policies.reads(path)))
        self._memo: dict[tuple[Any, ...], Judged] = {}

    def judge(self, facts: Facts, now_us: int) -> tuple[Judged, bool]:
        """Return the answer for a call, and whether it was remembered.

        A policy that asks what time it is, other than by its input, is never answered from memory; neither is one that failed.
        """
        key = self._key(facts)
        judged = self._memo.get(key)
        if judged is not None:
            return judged, True
        judged = self._work_out(facts, now_us)
        is_long = len(facts.path) + len(facts.content_type) > _REMEMBERED_CHARS
        if self._policies.reads_clock or is_long or any(reason["id"] == "ENGINE-ERR" for reason in judged.verdict.reasons):
            return judged, False
        memo = self._memo
        if len(memo) >= MEMO_ENTRIES:
            del memo[next(iter(memo))]
        memo[key] = judged
        return judged, False

    def _work_out(self, facts: Facts, now_us: int) -> Judged:
        verdict = self._policies.evaluate(input_document(facts, self.standing.document), now_us * 1000)
        missing = self.standing.refusal
        if missing is not None:
            reason = {"id": missing, "package": "approval", "msg": "the version is not approved for this use", "mode": "enforce"}
            verdict = Verdict("deny", (reason, *verdict.reasons))
        first = verdict.reasons[0]["id"] if not verdict.allowed else None
        return Judged(verdict.allowed, first, verdict, self.standing.approval_ids)


def input_document(facts: Facts, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the policy input `input/v1` of a call. Built by the gateway only: nothing of it is copied from the caller unread."""
    return {
        "schema": "input/v1",
        "point": "request",
        "tenant": facts.tenant,
        "request": {
            "method": facts.method,
            "path": facts.path,
            "content_type": facts.content_type,
            "kib": facts.kib,
            "rows": facts.rows,
        },
        "subject": {"verified": True, "scopes": list(facts.scopes)},
        "usage": {"exhausted": facts.exhausted},
        "route": {"experiment": facts.experiment, "arm": facts.arm} if facts.experiment else {},
        **fixed,
    }
