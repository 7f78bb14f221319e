"""The pure decision: the only place where a call is allowed or refused and an arm is chosen.

No I/O, no clock, no randomness of its own: live traffic, `plan`, `replay` and `explain` all run this function. Order (semantics.md 3.1):
candidates are judged first, then the arm is drawn. For `ab` and `canary` the draw ignores eligibility; an ineligible arm is served by the
default version and recorded `assigned` and `served` apart. A call is refused only if nothing eligible remains or the caller pinned the
version.

Example::

    decision = decide(call, facts, snapshot, live, now_us)
    if decision.refusal is not None:
        raise decision.refusal
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from experiments.assignment import Assignment, Draw, Variants
from experiments.shares import WHOLE
from experiments.targeting import Context
from gateway.facts import Facts
from gateway.gate import Judged
from gateway.refusals import Refusal
from gateway.snapshot import Route, Snapshot, Version

Eligible = list[dict[str, str]]
"""`[{arm, reason?}]` as records say it."""


@dataclass(slots=True)
class Call:
    """What the decision is about."""

    id: str
    route: Route
    pinned: str | None
    """Version the caller asked for, if any."""
    subject: str
    """Pseudonym of the unit."""
    may_pin: bool
    draw: tuple[str, int, int]
    """Writer's node and epoch and the number of this draw in it: the seed of draws that are not sticky."""
    context: Context = field(default_factory=dict)
    """What the caller says of the call, for experiments that ask for it."""
    unit: str = ""
    """The raw unit, which only experiments that draw as another system does look at; never recorded. Empty where the call has none of its own."""
    variants: Variants | None = None
    """Experiment -> arm, as the caller says: only experiments that another system assigns look at it."""


@dataclass(slots=True)
class Decision:
    """What was decided, and everything a record needs to say why."""

    version: Version | None
    """The version that serves; None when refused before one was found."""
    judged: Judged | None
    """The gate's answer for that version (or for the one that was refused)."""
    cached: bool
    assignment: Assignment | None
    served: str | None
    """Arm that serves; None outside experiments."""
    eligible: Eligible
    refusal: Refusal | None = None
    pinned: bool = False
    """The caller named the version; outside experiments."""


class Judging(Protocol):
    """A gate, as the decision uses it."""

    def judge(self, facts: Facts, now_us: int) -> tuple[Judged, bool]:
        """Return the answer for a call, and whether it was remembered."""


class InForce(Protocol):
    """A live state, as the decision uses it; `gateway.live.Live` is the usual one."""

    @property
    def as_of_us(self) -> int:
        """Return when it was last confirmed."""

    @property
    def killed(self) -> frozenset[str]:
        """Return the models that have been stopped."""

    def assign(self, model: str, subject: str, draw: Draw, context: Context, unit: str, variants: Variants | None) -> Assignment | None:
        """Return where a call goes, or None where no experiment has the unit."""

    def gate(self, route: Route, version: Version, now_us: int, exposure: int = WHOLE) -> Judging:
        """Return the gate of a version."""


def decide(call: Call, facts: Facts, snapshot: Snapshot, live: InForce, now_us: int) -> Decision:
    """Decide one call.

    Args:
        call: who and what.
        facts: what policies may read of it; `experiment` and `arm` are filled in here per candidate.
        snapshot: the configuration in force.
        live: the published state in force, built for this snapshot.
        now_us: Unix microseconds.

    Returns:
        The decision. It never raises: a refusal is part of it.
    """
    route = call.route
    early = _refused_early(call, snapshot, live, now_us)
    if early is not None:
        return Decision(route.default, None, False, None, None, [], early)
    if call.pinned is not None:
        version = route.versions[call.pinned]
        judged, cached = live.gate(route, version, now_us).judge(facts, now_us)
        refusal = None if judged.allowed else _denied(version, judged)
        return Decision(version, judged, cached, None, None, _told(version.name, judged), refusal, pinned=True)
    assignment = live.assign(route.document.model, call.subject, call.draw, call.context, call.unit, call.variants)
    if assignment is None:
        version = route.default
        judged, cached = live.gate(route, version, now_us).judge(facts, now_us)
        return Decision(version, judged, cached, None, None, _told(version.name, judged), None if judged.allowed else _denied(version, judged))
    if assignment.problem:
        return Decision(route.default, None, False, assignment, None, [], Refusal("unknown_variant", assignment.problem))
    return _in_experiment(call, facts, live, assignment, now_us)


def _refused_early(call: Call, snapshot: Snapshot, live: InForce, now_us: int) -> Refusal | None:
    document = call.route.document
    settings = snapshot.settings
    bound_us = settings.staleness_high_risk_us if document.risk == "high" else settings.staleness_default_us
    if abs(now_us - live.as_of_us) > bound_us:  # a clock set back must not turn the bound off
        return Refusal("state_stale", f"published state is older than {bound_us / 1e6:g} s, the bound of `{document.model}`")
    if document.model in live.killed:
        return Refusal("model_killed", f"model `{document.model}` has been stopped")
    if call.pinned is not None and not call.may_pin:
        return Refusal("missing_scope", "naming a version needs the scope `version:pin`", hint="leave the version out of the path")
    return None


def _in_experiment(call: Call, facts: Facts, live: InForce, assignment: Assignment, now_us: int) -> Decision:
    route = call.route
    facts.experiment = assignment.experiment
    eligible: Eligible = []
    chosen: tuple[str, Version, Judged, bool] | None = None
    refused: tuple[Version, Judged, bool] | None = None
    fallback: tuple[str | None, Version, Judged, bool] | None = None
    for arm, version_name in assignment.versions:
        version = route.versions[version_name]
        facts.arm = arm
        judged, cached = live.gate(route, version, now_us, _exposure(assignment, arm, version, route)).judge(facts, now_us)
        eligible.append({"arm": arm} if judged.allowed else {"arm": arm, "reason": str(judged.reason)})
        if arm == assignment.arm:
            if judged.allowed:
                chosen = (arm, version, judged, cached)
            else:
                refused = (version, judged, cached)
        if judged.allowed and version is route.default:
            fallback = (arm, version, judged, cached)
    if chosen is not None:
        return Decision(chosen[1], chosen[2], chosen[3], assignment, chosen[0], eligible)
    if fallback is None:
        fallback = _stand_in(route, facts, live, assignment, now_us)
    if fallback is not None:
        return Decision(fallback[1], fallback[2], fallback[3], assignment, fallback[0], eligible)
    assert refused is not None  # noqa: S101 - the assigned arm is always among the candidates
    version, judged, cached = refused
    return Decision(version, judged, cached, assignment, None, eligible, _denied(version, judged))


def _stand_in(route: Route, facts: Facts, live: InForce, assignment: Assignment, now_us: int) -> tuple[str | None, Version, Judged, bool] | None:
    """Find who serves where the assigned arm may not: the default, else an arm that is good for everyone, not only for its share."""
    arms = [(arm, route.versions[name]) for arm, name in assignment.versions]
    for arm, version in [("", route.default), *((arm, version) for arm, version in arms if version is not route.default)]:
        facts.arm = arm
        judged, cached = live.gate(route, version, now_us).judge(facts, now_us)
        if judged.allowed:
            return arm or None, version, judged, cached
    return None


def _exposure(assignment: Assignment, arm: str, version: Version, route: Route) -> int:
    """Return the share of the traffic an arm may get, which its approvals have to cover; the default has to be good for everyone."""
    if version is route.default or not assignment.exposed or assignment.mode == "external":
        return WHOLE  # how many get an arm that somebody else hands out is not ours to bound
    return assignment.exposure * assignment.shares[arm] // WHOLE


def _told(name: str, judged: Judged) -> Eligible:
    return [{"arm": name}] if judged.allowed else [{"arm": name, "reason": str(judged.reason)}]


def _denied(version: Version, judged: Judged) -> Refusal:
    denials = tuple(reason for reason in judged.verdict.reasons if reason["mode"] == "enforce")
    first = denials[0]
    if first["package"] == "approval":
        return Refusal(
            "not_approved",
            f"version `{version.name}` of `{version.model}` may not serve: {first['id']}",
            hint=f"`assay model approve {version.model} {version.name}` by the people the trust root asks for",
            reasons=denials,
        )
    if judged.verdict.status == 429:
        return Refusal("rate_limited", f"a policy limits this call: {first['id']} {first['msg']}", reasons=denials)
    return Refusal("policy_denied", f"a policy refuses this call: {first['id']} {first['msg']}", reasons=denials, status=judged.verdict.status)
