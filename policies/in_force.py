"""Which versions may serve: approvals and revocations worked out against the configuration, once, so that a call only compares.

Silence is never consent: a version nobody approved is refused with `approval.missing`. `InForce` has all of it worked out but the two comparisons
with now and exposure (semantics.md 2.3, 2.4).

Example:
    in_force = InForce.build([Candidate("credit-risk", document.name, document.digest, ...)], [approval], [], root, "staging")
    in_force.judge("credit-risk", "4", digest, now_us, exposure).reason      # None: it may serve
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from policies.approvals import FOREVER_US, WHOLE, Approval, Revocation, origin_of
from policies.trust import TrustRoot


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that may come to serve, as the configuration has it now."""

    model: str
    version: str
    digest: str
    upstreams: tuple[str, ...]
    risk: str
    purpose: str
    submitted_by: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a version may serve. `reason` is None when it may."""

    reason: str | None
    ids: tuple[str, ...]
    """Approvals it rests on; those that count when there are too few."""
    valid_until_us: int
    """When an approval begins or ends and this has to be asked again."""


@dataclass(frozen=True, slots=True)
class _Interval:
    """Between two moments nothing changes: how much exposure enough people allow, and what to say above it."""

    ceiling: int
    allowed: Judgement
    refused: Judgement
    above: Judgement


class _Standing:
    """One version's answer at any time. Immutable once built."""

    __slots__ = ("digest", "intervals", "starts")

    def __init__(self, digest: str, starts: Sequence[int], intervals: Sequence[_Interval]) -> None:
        self.digest = digest
        self.starts = tuple(starts)
        self.intervals = tuple(intervals)


_MISSING = Judgement("approval.missing", (), FOREVER_US)
_MISMATCH = Judgement("approval.digest", (), FOREVER_US)


class InForce:
    """Answers, for every version of a configuration, whether it may serve. Immutable; built beside the old one and swapped in one assignment."""

    __slots__ = ("_standings",)

    def __init__(self, standings: Mapping[tuple[str, str], _Standing]) -> None:
        """Take over standings that `build` worked out."""
        self._standings = standings

    @classmethod
    def build(
        cls,
        candidates: Iterable[Candidate],
        approvals: Iterable[Approval],
        revocations: Iterable[Revocation],
        root: TrustRoot,
        environment: str,
    ) -> InForce:
        """Work everything out that does not depend on the moment of a call.

        Args:
            candidates: every version of the configuration.
            approvals: loaded under `root`.
            revocations: loaded under `root`.
            root: the trust root in force, for thresholds.
            environment: which environment this is.
        """
        by_version: dict[tuple[str, str], list[Approval]] = {}
        for approval in approvals:
            by_version.setdefault((approval.model, approval.version), []).append(approval)
        revoked: dict[tuple[str, str], list[Revocation]] = {}
        for revocation in revocations:
            revoked.setdefault((revocation.model, revocation.version), []).append(revocation)
        standings = {}
        for candidate in candidates:
            key = (candidate.model, candidate.version)
            standings[key] = _standing(
                candidate, by_version.get(key, ()), revoked.get(key, ()), root.needed(f"approve.{candidate.risk}"), environment
            )
        return cls(standings)

    def judge(self, model: str, version: str, digest: str, now_us: int, exposure: int = WHOLE) -> Judgement:
        """Say whether a version may serve now.

        Args:
            model: name of the model.
            version: name of the version.
            digest: digest the call would be served by.
            now_us: Unix microseconds.
            exposure: share of the traffic it would get, out of 2**32.

        Returns:
            The judgement. Costs under a microsecond: a lookup, a bisection, two comparisons.
        """
        standing = self._standings.get((model, version))
        if standing is None:
            return _MISSING
        if standing.digest != digest:
            return _MISMATCH
        interval = standing.intervals[bisect_right(standing.starts, now_us)]
        if exposure <= interval.ceiling:
            return interval.allowed
        return interval.above if interval.ceiling else interval.refused


def judge(
    approvals: Iterable[Approval],
    revocations: Iterable[Revocation],
    candidate: Candidate,
    root: TrustRoot,
    environment: str,
    now_us: int,
    exposure: int = WHOLE,
) -> Judgement:
    """Judge one version once: for commands and reports. The lane keeps an `InForce`."""
    in_force = InForce.build([candidate], approvals, revocations, root, environment)
    return in_force.judge(candidate.model, candidate.version, candidate.digest, now_us, exposure)


def _standing(candidate: Candidate, approvals: Iterable[Approval], revocations: Iterable[Revocation], needed: int, environment: str) -> _Standing:
    """Cut time where an approval begins or ends; in between nothing changes."""
    fitting: list[Approval] = []
    misfits: list[str] = []
    revocations = tuple(revocations)
    for approval in approvals:
        misfit = _misfit(candidate, approval, revocations, environment)
        if misfit is None:
            fitting.append(approval)
        else:
            misfits.append(misfit)
    starts = sorted({edge for approval in fitting for edge in (approval.not_before_us, approval.not_after_us)})
    moments = [starts[0] - 1, *starts] if starts else [0]
    intervals = [
        _interval(fitting, misfits, needed, moment, starts[position] if position < len(starts) else FOREVER_US)
        for position, moment in enumerate(moments)
    ]
    return _Standing(candidate.digest, starts, intervals)


def _misfit(candidate: Candidate, approval: Approval, revocations: Iterable[Revocation], environment: str) -> str | None:
    """Return why an approval does not speak for the version as it is configured, or None."""
    checks = {
        "approval.digest": approval.digest == candidate.digest,
        "approval.revoked": not any(revocation.covers(approval) for revocation in revocations),
        "approval.environment": environment in approval.environments,
        "approval.origin": {origin_of(upstream) for upstream in candidate.upstreams} <= set(approval.origins),
        "approval.purpose": approval.purpose == candidate.purpose,
        "approval.submitter": approval.person != candidate.submitted_by,
    }
    return next((reason for reason, holds in checks.items() if not holds), None)


def _interval(fitting: Sequence[Approval], misfits: Sequence[str], needed: int, now_us: int, until_us: int) -> _Interval:
    valid = [approval for approval in fitting if approval.holds_at(now_us)]
    best: dict[str, Approval] = {}
    for approval in sorted(valid, key=lambda item: (item.max_exposure, item.id)):
        best[approval.person] = approval  # of one person's approvals the widest counts, once
    ranked = sorted(best.values(), key=lambda item: (-item.max_exposure, item.person))
    ceiling = ranked[needed - 1].max_exposure if len(ranked) >= needed else 0
    ids = tuple(approval.id for approval in ranked)
    return _Interval(
        ceiling,
        Judgement(None, ids, until_us),
        Judgement(_why_not(fitting, misfits, ranked, now_us), ids, until_us),
        Judgement("approval.exposure", ids, until_us),
    )


def _why_not(fitting: Sequence[Approval], misfits: Sequence[str], ranked: Sequence[Approval], now_us: int) -> str:
    """Return the most telling reason that there are not enough approvals."""
    if ranked:
        return "approval.threshold"
    if any(now_us < approval.not_before_us for approval in fitting):
        return "approval.not_yet_valid"
    if fitting:
        return "approval.expired"
    return min(misfits, key=_TELLING.index) if misfits else "approval.missing"


_TELLING: Final = (
    "approval.revoked",
    "approval.origin",
    "approval.purpose",
    "approval.submitter",
    "approval.environment",
    "approval.digest",
)
"""Reasons why approvals do not fit, the most telling first."""
