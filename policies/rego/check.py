"""Checks at load. (unsafe variables here; more below)"""

from __future__ import annotations

from typing import Any

from policies.rego.compile_rules import plan_rule
from policies.rego.errors import Issue
from policies.rego.program import Linked


def check_linked(linked: Linked, linker: Any, data: Any) -> list[Issue]:
    """Return all findings."""
    issues = list(linked.issues)
    for rule in linked.rules:
        planner, _, _ = plan_rule(rule)
        source = linked.modules[rule.module].source
        for slot, pos in dict.fromkeys(planner.unsafe):
            name = planner.names[slot] or "_"
            name = "_" if name.startswith("_#") else name
            issues.append(source.issue("unsafe-var", f"`{name}` is unsafe: nothing binds it", pos, ""))
    return issues
