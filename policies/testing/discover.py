"""Which tests a set of modules holds, by OPA's conventions.

Rules:

- A rule whose name begins with `test_` is a test, in any file. `todo_test_` is one that is not run yet.
- Several definitions of one name are one test.
- A test with a variable in its head (`test_limits[name] if { some name, row in table; ... }`) has a case for each value of it; all must hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from policies.rego.names import split_head
from policies.rego.syntax import Module, Rule

TEST: Final = "test_"
TODO: Final = "todo_test_"


@dataclass(frozen=True, slots=True)
class RegoTest:
    """One test in Rego."""

    package: tuple[str, ...]
    name: str
    file: str
    line: int
    is_todo: bool
    has_cases: bool
    """Whether its head names a variable."""

    @property
    def path(self) -> tuple[str, ...]:
        """Path of its document below `data`."""
        return (*self.package, self.name)

    @property
    def title(self) -> str:
        """The name as people read it."""
        return self.name.removeprefix(TODO).removeprefix(TEST).replace("_", " ").strip() or self.name


def is_test_rule(rule: Rule) -> bool:
    """Tell whether a rule is a test, to be run or not."""
    return rule.ref[0].name.startswith((TEST, TODO)) and rule.args is None


def discover(modules: Iterable[Module]) -> list[RegoTest]:
    """Return the tests in the order of files and lines."""
    found: dict[tuple[Any, ...], RegoTest] = {}
    for module in sorted(modules, key=lambda module: module.source.name):
        for rule in module.rules:
            if not is_test_rule(rule):
                continue
            name = rule.ref[0].name
            line, _ = module.source.position(rule.pos)
            has_cases = bool(split_head(rule)[1])
            test = RegoTest(module.package, name, module.source.name, line, name.startswith(TODO), has_cases)
            found.setdefault(test.path, test)
    return list(found.values())
