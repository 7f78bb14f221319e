"""Findings -> levels, and the plain document that reports sign.

Rules:
- A criterion scores 1 proven, 1/2 claimed, 0 missing. A level is reached when its criteria and those below it have a mean of at least the framework's
  `level_mean_ppm`, and every gating one is at least claimed. That is the *claimed* level; for the *proven* level only what is proven scores.
- Level 0 needs nothing. A criterion that no record can show keeps a level unproven: the report says so instead of leaving it out of the mean.

Example:
    assess(framework("azure"), evidence)["level"]["proven"]
"""

from __future__ import annotations

from typing import Any

import msgspec

from audit.maturity.evidence import Evidence
from audit.maturity.framework import Criterion, Framework
from audit.maturity.rules import CLAIMED, MISSING, PROVEN, RULES, UNSEEN, Finding

_HALVES = {PROVEN: 2, CLAIMED: 1, MISSING: 0}


def assess(framework: Framework, evidence: Evidence) -> dict[str, Any]:
    """Judge every criterion and say which level follows."""
    judged = [(criterion, _judge(criterion, evidence, framework)) for criterion in framework.criteria]
    proven, claimed = _level(framework, judged, only_proven=True), _level(framework, judged, only_proven=False)
    names = {level.number: level.name for level in framework.levels}
    return {
        "framework": {
            "name": framework.name,
            "title": framework.title,
            "source": framework.source,
            "as_of": framework.as_of,
            "levels": [level.name for level in framework.levels],
        },
        "parameters": msgspec.structs.asdict(framework.parameters),
        "level": {"proven": proven, "proven_name": names[proven], "claimed": claimed, "claimed_name": names[claimed]},
        "blocking": [criterion.id for criterion, finding in judged if criterion.level == proven + 1 and finding.state != PROVEN],
        "levels": [_summary(level.number, level.name, judged) for level in framework.levels if level.number],
        "criteria": [_criterion(criterion, finding) for criterion, finding in judged],
        "log": {
            "heartbeats": evidence.heartbeats.count,
            "losses": evidence.losses.count,
            "loss_records": evidence.losses.indices,
            "changes": evidence.changes.count,
            "signed_changes": evidence.signed_changes.count,
            "unreadable": evidence.unreadable,
        },
    }


def _judge(criterion: Criterion, evidence: Evidence, framework: Framework) -> Finding:
    return UNSEEN if criterion.rule is None else RULES[criterion.rule](evidence, framework.parameters)


def _level(framework: Framework, judged: list[tuple[Criterion, Finding]], *, only_proven: bool) -> int:
    reached = 0
    for level in sorted(level.number for level in framework.levels):
        below = [(criterion, finding) for criterion, finding in judged if criterion.level <= level]
        halves = [2 * (finding.state == PROVEN) if only_proven else _HALVES[finding.state] for _, finding in below]
        gates = [half for half, (criterion, _) in zip(halves, below, strict=True) if criterion.gating]
        if below and (sum(halves) * 1_000_000 < framework.parameters.level_mean_ppm * 2 * len(below) or not all(gates)):
            break
        reached = level
    return reached


def _summary(number: int, name: str, judged: list[tuple[Criterion, Finding]]) -> dict[str, Any]:
    mine = [(criterion, finding) for criterion, finding in judged if criterion.level == number]
    counts = {state: sum(finding.state == state for _, finding in mine) for state in (PROVEN, CLAIMED, MISSING)}
    return {"level": number, "name": name, "criteria": len(mine), "observable": sum(criterion.rule is not None for criterion, _ in mine), **counts}


def _criterion(criterion: Criterion, finding: Finding) -> dict[str, Any]:
    return {
        "id": criterion.id,
        "level": criterion.level,
        "pillar": criterion.pillar,
        "title": criterion.title,
        "gating": criterion.gating,
        "observable": criterion.rule is not None,
        "state": finding.state,
        "found": finding.found,
        "evidence": list(finding.indices),
        "newest": finding.newest or None,
        "next_action": None if finding.state == PROVEN else criterion.next_action,
    }
