"""What packages say of one input, and how it differs from what a case expects. The verdict is combined as the gateway combines it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from policies.bundle import PREFIX, Package
from policies.metadata import declared
from policies.rego import UNDEFINED, Engine, to_json
from policies.rego.render import rego
from policies.rego.syntax import Module
from policies.rego.trace import RuleTrace
from policies.testing.cases import UNDEFINED_WORD, Case
from policies.testing.coverage import holds_tests
from policies.verdict import Finding, Verdict, combine

ASKED: Final = ("allow", "deny", "obligations", "warn")
"""Rules the gateway asks a package for."""
_CONSENT: Final = Finding("-", "enforce", required=True, allow=True)
"""Stands for the packages that are not judged: silence of the ones that are is not their denial."""


@dataclass(frozen=True, slots=True)
class Said:
    """What some packages said of an input."""

    verdict: Verdict
    obligations: frozenset[str]

    @property
    def deny(self) -> frozenset[str]:
        """Ids of the reasons that refuse."""
        return frozenset(str(reason["id"]) for reason in self.verdict.reasons if reason["mode"] == "enforce")

    @property
    def warn(self) -> frozenset[str]:
        """Ids of the reasons that warn."""
        return frozenset(str(reason["id"]) for reason in self.verdict.reasons if reason["mode"] == "warning")


def deciding(modules: Iterable[Module]) -> dict[str, tuple[str, ...]]:
    """Return the packages that decide, without `policy.`, with the rules they are asked for."""
    found: dict[str, set[str]] = {}
    for module in modules:
        if len(module.package) == 2 and module.package[0] == PREFIX and not holds_tests(module):
            found.setdefault(module.package[1], set()).update({rule.ref[0].name for rule in module.rules} & set(ASKED))
    return {name: tuple(sorted(rules)) for name, rules in sorted(found.items()) if rules}


def at_point(modules: Iterable[Module], name: str, document: Any) -> bool:
    """Tell whether a package is asked at the decision point that an input names; `request` where it names none."""
    own = [module for module in modules if module.package == (PREFIX, name) and not holds_tests(module)]
    point = document.get("point", "request") if isinstance(document, dict) else "request"
    return point in declared(own).points


def shown(case: Case, said: Said, path: tuple[str, ...], rules: Iterable[RuleTrace]) -> list[RuleTrace]:
    """Return the traces that explain why an answer is not the expected one: what said too much, and what should have said something."""
    expect, roots = case.expect, [rule for rule in rules if not rule.depth]
    is_decision = expect.decision is not None and expect.decision != said.verdict.decision
    if path[-1] not in ASKED:
        return roots
    if path[-1] == "allow":
        return roots if is_decision and not any(rule.result == "true" for rule in roots) else []
    wanted, given = {
        "deny": (expect.deny, said.deny),
        "warn": (expect.warn, said.warn),
        "obligations": (expect.obligations, said.obligations),
    }[path[-1]]
    missing = set() if wanted is None else wanted - given
    is_wrong = is_decision or (wanted is not None and wanted != given)
    return [rule for rule in roots if (rule.has_value and is_wrong) or any(name in rule.heads[0].text for name in missing)]


def ask(engine: Engine, packages: Mapping[str, tuple[str, ...]], document: Any, now_ns: int) -> Said:
    """Return what packages say of an input, each in `enforce`.

    They have the time that `engine`, which runs on `policies.bundle.CLOCK`, gives an evaluation, and not the gateway's: what a case says must not
    depend on the machine. `policies/bench.py` tells what an evaluation costs.
    """
    findings = []
    for name, rules in packages.items():
        evaluate = engine.prepare_all([f"data.{PREFIX}.{name}.{rule}" for rule in rules])
        findings.append(Package(name, "enforce", rules, evaluate, wall_s=engine.limits.wall_s).find(document, now_ns))
    verdict = combine([*findings, _CONSENT])
    return Said(verdict, frozenset(str(item.get("type")) for finding in findings for item in finding.obligations))


def differences(case: Case, said: Said, engine: Engine, now_ns: int) -> list[str]:
    """Return how an answer differs from what a case expects, each in a sentence; nothing when it does not.

    Raises:
        RegoError: a value that is expected cannot be evaluated.
    """
    expect, found = case.expect, []
    if expect.decision is not None and expect.decision != said.verdict.decision:
        listed = ", ".join(f"{reason['id']} ({reason['msg']})" for reason in said.verdict.reasons) or "without a reason"
        found.append(f"the decision is `{said.verdict.decision}`, not `{expect.decision}`: {listed}")
    for name, wanted, given in (
        ("deny", expect.deny, said.deny),
        ("warn", expect.warn, said.warn),
        ("obligations", expect.obligations, said.obligations),
    ):
        if wanted is not None and wanted != given:
            found.append(f"`{name}` is {_listed(given)}, expected {_listed(wanted)}")
    for ref, value in expect.values.items():
        is_value = engine.value(ref, case.document, now_ns)
        told = UNDEFINED_WORD if is_value is UNDEFINED else to_json(is_value)
        if told != value or type(told) is not type(value):
            found.append(f"`{ref}` is `{_shown(told)}`, expected `{_shown(value)}`")
    return found


def _listed(names: frozenset[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "empty"


def _shown(value: Any) -> str:
    return value if value == UNDEFINED_WORD else rego(value)
