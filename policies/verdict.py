"""From what packages say to one verdict.

Rules (semantics.md 6, design.md 1.5):

- a package in `enforce` denies by its `deny` set, by an undefined or false `allow` where it is *required*, and by any error while it is evaluated;
- `warn` turns its denials into warnings, `dryrun` only records them, `off` is not evaluated at all;
- an unknown obligation is a denial: what cannot be carried out must not be promised;
- a denial is answered with the 4xx its reasons agree on, else with 403; what a package writes can be no success and no novel;
- the verdict does not depend on the order of packages; silence is never consent: with no required package there is no allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeGuard

Mode = Literal["enforce", "warn", "dryrun", "off"]

OBLIGATIONS: Final = frozenset[str]()
"""Obligations the gateway can carry out."""
MOST_REASONS: Final = 24
"""Reasons a verdict carries; together with the bounds on their texts a verdict stays well below what a record can hold."""
MOST_ID: Final = 64
MOST_MESSAGE: Final = 256
"""Characters of a reason's id and message; longer ones are cut."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one package said."""

    package: str
    mode: Mode
    required: bool
    allow: bool
    deny: tuple[Mapping[str, Any], ...] = ()
    warn: tuple[Mapping[str, Any], ...] = ()
    obligations: tuple[Mapping[str, Any], ...] = ()
    error: str | None = None
    """Why the package could not be evaluated, if it could not."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """May this call go to this version."""

    decision: Literal["allow", "deny", "allow_with_warnings"]
    reasons: tuple[dict[str, Any], ...]
    """`{id, package, msg, mode}` sorted; denials in force first."""
    status: int = 403
    """HTTP status of a denial."""

    @property
    def allowed(self) -> bool:
        """Say whether the call may go."""
        return self.decision != "deny"


def combine(findings: Iterable[Finding]) -> Verdict:
    """Return the verdict of all packages of a decision point."""
    denials: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    warned, required_seen = False, False
    statuses: list[int] = []
    for finding in findings:
        if finding.mode == "off":
            continue
        required_seen = required_seen or (finding.required and finding.mode == "enforce")
        said = list(_denials(finding))
        if finding.mode == "enforce":
            denials += [_reason(finding, item) for item in said]
            statuses += [status for item in said if _is_refusal(status := item.get("status"))]
        else:
            notes += [_reason(finding, item) for item in said]
            warned = warned or (finding.mode == "warn" and bool(said))
        if finding.mode != "dryrun":
            warned = warned or bool(finding.warn)
        notes += [_reason(finding, item, as_warning=True) for item in finding.warn]
    if not required_seen:
        denials.append({"id": "POLICY-NONE", "package": "-", "msg": "no required policy package is in force", "mode": "enforce"})
    reasons = _bounded(_sorted(denials) + _sorted(notes))
    if denials:
        return Verdict("deny", reasons, statuses[0] if len(set(statuses)) == 1 and len(statuses) == len(denials) else 403)
    return Verdict("allow_with_warnings" if warned else "allow", reasons)


def _denials(finding: Finding) -> Iterable[Mapping[str, Any]]:
    if finding.error is not None:
        yield {"id": "ENGINE-ERR", "msg": f"package `{finding.package}` could not be evaluated: {finding.error}"}
        return
    yield from finding.deny
    if finding.required and not finding.allow and not finding.deny:
        yield {"id": "NO-ALLOW", "msg": f"package `{finding.package}` is required and did not allow"}
    for obligation in finding.obligations:
        if obligation.get("type") not in OBLIGATIONS:
            yield {"id": "OBL-UNKNOWN", "msg": f"package `{finding.package}` asks for `{obligation.get('type')}`, which cannot be carried out"}


def _is_refusal(status: Any) -> TypeGuard[int]:
    """Say whether a status a package names can answer a denial: a client error, and nothing that reads as success."""
    return type(status) is int and 400 <= status <= 499


def _bounded(reasons: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Keep the first reasons and say how many there are beside them."""
    if len(reasons) <= MOST_REASONS:
        return tuple(reasons)
    kept = reasons[: MOST_REASONS - 1]
    more = {"id": "MORE", "package": "-", "msg": f"{len(reasons) - len(kept)} further reasons", "mode": reasons[len(kept)]["mode"]}
    return (*kept, more)


def _reason(finding: Finding, item: Mapping[str, Any], *, as_warning: bool = False) -> dict[str, Any]:
    return {
        "id": str(item.get("id", finding.package))[:MOST_ID],
        "package": finding.package,
        "msg": str(item.get("msg", ""))[:MOST_MESSAGE],
        "mode": "warning" if as_warning else finding.mode,
    }


def _sorted(reasons: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(reasons, key=lambda reason: (reason["package"], reason["id"], reason["mode"], reason["msg"]))
