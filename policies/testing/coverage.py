"""What no test reached: lines with something to run, and rules that never gave a value.

A line counts as reached when all of it was: each head on it gave a value, each expression on it was tried (as `opa test --coverage` counts).
A rule counts when it gave a value; every `else` is a rule of its own. Test files do not count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from policies.rego.coverage import FileCoverage, Reached, coverage_of
from policies.rego.syntax import Module
from policies.testing.discover import is_test_rule


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage of the policies under test."""

    files: dict[str, FileCoverage]

    @property
    def lines(self) -> tuple[int, int]:
        """Lines reached, and all."""
        return sum(len(file.covered) for file in self.files.values()), sum(len(file.lines) for file in self.files.values())

    @property
    def rules(self) -> tuple[int, int]:
        """Rules that gave a value, and all."""
        total = sum(file.heads for file in self.files.values())
        return total - sum(len(file.missed_heads) for file in self.files.values()), total

    @property
    def percent(self) -> float:
        """The lower of the two percentages: what a threshold is compared with. Nothing to run counts as 100."""
        return min(100.0 * done / total if total else 100.0 for done, total in (self.lines, self.rules))

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "percent": round(self.percent, 2),
            "lines": dict(zip(("covered", "total"), self.lines, strict=True)),
            "rules": dict(zip(("covered", "total"), self.rules, strict=True)),
            "files": {
                name: {
                    "missed_lines": sorted(file.missed),
                    "missed_rules": [{"line": span.line, "text": span.text} for span in file.missed_heads],
                }
                for name, file in sorted(self.files.items())
            },
        }


def measure(modules: Iterable[Module], reached: Collection[Reached]) -> Coverage:
    """Return the coverage of modules that are no tests."""
    return Coverage(coverage_of((module for module in modules if not holds_tests(module)), reached))


def holds_tests(module: Module) -> bool:
    """Tell whether a module is a test file: by its name, or by a rule in it."""
    return module.source.name.endswith("_test.rego") or any(map(is_test_rule, module.rules))
