"""What lint rules look at: parsed modules and small questions about their syntax.

A rule is a function `Subject -> findings` with an id, a title and a reason, collected in `RULES` by the decorator `lint_rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from policies.bundle import PREFIX
from policies.rego import Issue
from policies.rego.syntax import Call, Module, ObjectTerm, Ref, Rule, Scalar, Unify, Var
from policies.testing.coverage import holds_tests

Check = Callable[["Subject"], Iterable[Issue]]
RULES: Final[dict[str, LintRule]] = {}
"""Every rule by id."""


@dataclass(frozen=True, slots=True)
class LintRule:
    """One rule."""

    id: str
    title: str
    """What it finds, in half a sentence."""
    reason: str
    """Why that matters and what to write instead."""
    check: Check


@dataclass(frozen=True, slots=True)
class Subject:
    """The modules a linter is given, and the texts of their cases in YAML."""

    modules: tuple[Module, ...]
    cases: tuple[str, ...] = ()

    @property
    def policies(self) -> list[Module]:
        """Modules that are no tests."""
        return [module for module in self.modules if not holds_tests(module)]

    @property
    def tests(self) -> list[Module]:
        """Modules that hold tests."""
        return [module for module in self.modules if holds_tests(module)]

    @property
    def deciding(self) -> list[Module]:
        """Modules of packages that decide: `policy.NAME`."""
        return [module for module in self.policies if decides(module)]


def lint_rule(name: str, title: str, reason: str) -> Callable[[Check], Check]:
    """Register a rule."""

    def register(check: Check) -> Check:
        RULES[name] = LintRule(name, title, reason, check)
        return check

    return register


def finding(module: Module, name: str, message: str, pos: int, hint: str = "") -> Issue:
    """Return a finding of the rule `name`."""
    return module.source.issue(name, message, pos, hint, "warning")


def decides(module: Module) -> bool:
    """Tell whether a module is of a package that decides."""
    return len(module.package) == 2 and module.package[0] == PREFIX


def walk(*nodes: Any) -> Iterator[Any]:
    """Yield every part of some syntax, outer parts first, in the order of the text."""
    stack = list(reversed(nodes))
    while stack:
        node = stack.pop()
        if isinstance(node, tuple):
            stack.extend(reversed(node))
        elif hasattr(node, "__dataclass_fields__"):
            yield node
            stack.extend(getattr(node, name) for name in reversed(node.__dataclass_fields__))


def call_name(node: Any) -> str:
    """Return the dotted name a call names, empty for anything else."""
    return dotted(node.op) if type(node) is Call else ""


def dotted(node: Any) -> str:
    """Return `a.b.c` of a constant reference or a name, empty for anything else."""
    if type(node) is Var:
        return node.name
    if type(node) is Ref and type(node.head) is Var and all(type(part) is Scalar and isinstance(part.value, str) for part in node.path):
        return ".".join((node.head.name, *(part.value for part in node.path)))
    return ""


def reads_input(node: Any, module: Module) -> bool:
    """Tell whether a term is `input`, a reference into it, or an import of it."""
    head = node.head if type(node) is Ref else node
    imported = {entry.name for entry in module.imports if entry.path[0] == "input"}
    return type(head) is Var and (head.name == "input" or head.name in imported)


def reason_fields(rule: Rule) -> dict[str, Any] | None:
    """Return the members of the object a `deny` or `warn` rule adds, None when it is not written as an object.

    A head that is a name is looked up in the body: `deny contains reason if { reason := {...} }`.
    """
    term = rule.key
    if type(term) is Var:
        for statement in rule.branches[0].body:
            expr = statement.expr
            if type(expr) is Unify and type(expr.lhs) is Var and expr.lhs.name == term.name:
                term = expr.rhs
    if type(term) is not ObjectTerm:
        return None
    return {key.value: value for key, value in term.pairs if type(key) is Scalar and isinstance(key.value, str)}


def rules_named(module: Module, *names: str) -> Iterator[Rule]:
    """Yield the rules with one of these names."""
    return (rule for rule in module.rules if rule.ref[0].name in names and rule.args is None)
