"""From what packages say to one verdict.

Rules (semantics.md 6, design.md 1.5):

- a package in `enforce` denies by its `deny` set, by an undefined or false `allow` where it is *required*, and by any error while it is evaluated;
- `warn` turns its denials into warnings, `dryrun` only records them, `off` is not evaluated at all;
- obligations bind where their package is in `enforce`; `warn` and `dryrun` only tell that one was asked for;
- an obligation without a meaning is a denial: what cannot be carried out must not be promised;
- a denial is answered with the 4xx its reasons agree on, else with 403; what a package writes can be no success and no novel;
- the verdict does not depend on the order of packages; silence is never consent: a request needs a required package that allows. A configuration
  or a reply stands on a request that was allowed, and is refused by what a package says of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeGuard

from policies.obligations import MOST_OBLIGATIONS, ORDER, InvalidObligation, Obligation, merge, read

Mode = Literal["enforce", "warn", "dryrun", "off"]

OBLIGATIONS: Final = frozenset[str](ORDER)
"""Obligations the gateway can carry out."""
MOST_REASONS: Final = 24
"""Reasons a verdict carries; together with the bounds on their texts a verdict stays well below what a record can hold."""
UNANSWERED: Final = "ENGINE-ERR"
"""Id of the reason that a package could not be evaluated, or a server gave no answer."""
DIFFERENCE: Final = "ENGINE-DIFF"
"""Id of the reason that two engines answered differently."""
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
    obligations: tuple[Obligation, ...] = ()
    """What has to be done to the request or its reply, merged; none where the call is denied."""
    by: str = field(default="", compare=False)
    """The engine that answered in place of the one that was to; "" where that one did."""

    @property
    def is_settled(self) -> bool:
        """Say whether the same question would be answered the same: not so where an engine failed, or two disagreed."""
        return not any(reason["id"] in (UNANSWERED, DIFFERENCE) for reason in self.reasons)

    @property
    def allowed(self) -> bool:
        """Say whether the call may go."""
        return self.decision != "deny"


@dataclass(slots=True)
class _Sum:
    """What the packages have said so far."""

    denials: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    obligations: list[Obligation] = field(default_factory=list)
    warned: bool = False
    has_required: bool = False

    def add(self, finding: Finding) -> None:
        """Take one package in."""
        self.has_required = self.has_required or (finding.required and finding.mode == "enforce")
        duties, unread = _duties(finding)
        said = [*_denials(finding), *unread]
        if finding.mode == "enforce":
            self.denials += [_reason(finding, item) for item in said]
            self.statuses += [status for item in said if _is_refusal(status := item.get("status"))]
            self.obligations += duties
        else:
            said += [{"id": "OBL-ASKED", "msg": f"asks for `{one.kind}` of `{one.path}`"} for one in duties]
            self.notes += [_reason(finding, item) for item in said]
            self.warned = self.warned or (finding.mode == "warn" and bool(said))
        if finding.mode != "dryrun":
            self.warned = self.warned or bool(finding.warn)
        self.notes += [_reason(finding, item, as_warning=True) for item in finding.warn]

    def deny(self, name: str, message: str) -> None:
        """Deny in the name of no package."""
        self.denials.append({"id": name, "package": "-", "msg": message, "mode": "enforce"})


def combine(findings: Iterable[Finding], *, needs_required: bool = True) -> Verdict:
    """Return the verdict of all packages of a decision point.

    Args:
        findings: one of each package, in any order.
        needs_required: deny where no required package is in force: silence is not consent.
    """
    total = _Sum()
    for finding in findings:
        if finding.mode != "off":
            total.add(finding)
    if needs_required and not total.has_required:
        total.deny("POLICY-NONE", "no required policy package is in force")
    obligations = merge(total.obligations)
    if len(obligations) > MOST_OBLIGATIONS:
        total.deny("OBL-MANY", f"policies ask for {len(obligations)} things to be done; at most {MOST_OBLIGATIONS} are")
    reasons = _bounded(_sorted(total.denials) + _sorted(total.notes))
    if total.denials:
        statuses = total.statuses
        return Verdict("deny", reasons, statuses[0] if len(set(statuses)) == 1 and len(statuses) == len(total.denials) else 403)
    return Verdict("allow_with_warnings" if total.warned else "allow", reasons, obligations=obligations)


def _denials(finding: Finding) -> Iterable[Mapping[str, Any]]:
    if finding.error is not None:
        yield {"id": UNANSWERED, "msg": f"package `{finding.package}` could not be evaluated: {finding.error}"}
        return
    yield from finding.deny
    if finding.required and not finding.allow and not finding.deny:
        yield {"id": "NO-ALLOW", "msg": f"package `{finding.package}` is required and did not allow"}


def _duties(finding: Finding) -> tuple[list[Obligation], list[Mapping[str, Any]]]:
    """Return the obligations of a package, and a denial for each that has no meaning."""
    duties: list[Obligation] = []
    unread: list[Mapping[str, Any]] = []
    for item in finding.obligations:
        try:
            duties.append(read(item))
        except InvalidObligation as fault:
            unread.append({"id": "OBL-UNKNOWN", "msg": f"package `{finding.package}` asks for what cannot be carried out: {fault}"})
    return duties, unread


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
        "id": _text(item.get("id", finding.package), MOST_ID),
        "package": finding.package,
        "msg": _text(item.get("msg", ""), MOST_MESSAGE),
        "mode": "warning" if as_warning else finding.mode,
    }


def _text(said: Any, most: int) -> str:
    """Return what a record and a reply can hold of a value: a half of a surrogate pair, which another engine may send, is in no UTF-8."""
    text = str(said)[:most]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _sorted(reasons: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(reasons, key=lambda reason: (reason["package"], reason["id"], reason["mode"], reason["msg"]))
