"""Checks at load: everything `opa check --strict` refuses, and what it lets pass that opens a policy.

Two classes of findings. *Refused* (unsafe variables, unknown functions, recursion, conflicts, ...) make the engine refuse the modules.
*Strict* ones (`STRICT`) are errors that OPA's default mode tolerates; `Engine(strict=True)` refuses them too, and `check()` lists them
either way. Warnings never refuse.

The traps that open silently are in `openings`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, Final

from policies.rego.builtins import BUILTINS
from policies.rego.compile_rules import plan_rule
from policies.rego.errors import Issue
from policies.rego.input_schema import unknown_input
from policies.rego.ir import Apply, ArrayT, Compr, Const, ObjectT, RuleIR, SetT
from policies.rego.openings import issue, label, missing_allow, undeclared_data, undefined_heads
from policies.rego.program import Linked, Program
from policies.rego.reads import below, dependencies, nodes_of, rule_parts
from policies.rego.tree import Node
from policies.rego.values import UNDEFINED, lookup, thaw

STRICT: Final = frozenset(
    {
        "unused-import",
        "unused-local",
        "duplicate-import",
        "deprecated-builtin",
        "unknown-reference",
        "deny-head-undefined",
        "undeclared-data",
        "unknown-input",
    }
)
DEPRECATED: Final = frozenset(
    {"any", "all", "re_match", "set_diff", "net.cidr_overlap", "cast_array", "cast_boolean", "cast_null", "cast_object", "cast_set", "cast_string"}
)  # fmt: skip
_GENERATED: Final = ("_#ref", "_#part", "_#key")


def check_linked(linked: Linked, program: Program, schema: Any = None) -> list[Issue]:
    """Return all findings about linked modules, errors first, then by file and line.

    Args:
        linked: The modules.
        program: The same, as a tree, with the data given.
        schema: JSON Schema of the input, or None where it is not known.
    """
    issues = list(linked.issues)
    for rule in linked.rules:
        issues.extend(_unsafe(linked, rule))
        issues.extend(_rule_issues(linked, rule))
        issues.extend(undefined_heads(linked, program, rule, schema))
    issues.extend(undeclared_data(linked, program))
    issues.extend(_recursion(linked, program))
    for node in program.nodes:
        issues.extend(_conflicts(linked, program, node))
    issues.extend(missing_allow(linked, program))
    if schema is not None:
        issues.extend(unknown_input(linked, schema))
    return sorted(set(issues), key=lambda issue: (issue.severity != "error", issue.file, issue.line, issue.column, issue.rule))


def _unsafe(linked: Linked, rule: RuleIR) -> Iterator[Issue]:
    planner, _, _ = plan_rule(rule)
    found = [(planner.names[slot], pos) for slot, pos in dict.fromkeys(planner.unsafe)]
    named = [(name, pos) for name, pos in found if name and not name.startswith(_GENERATED)]
    for name, pos in named or found[:1]:
        shown = "_" if not name or name.startswith("_#") else name
        near = difflib.get_close_matches(shown, [*BUILTINS, *(other.prefix[-1] for other in linked.rules if other.module == rule.module)], n=1)
        hint = f"did you mean `{near[0]}`?" if near and len(shown) > 2 else "bind it with `some`, `:=` or `some ... in`"
        yield issue(linked, rule, "unsafe-var", f"`{shown}` is unsafe: nothing binds it", pos, hint)


# --- single rules --------------------------------------------------------------------------------------------------------


def _rule_issues(linked: Linked, rule: RuleIR) -> Iterator[Issue]:
    if rule.is_default and not _is_constant(rule.branches[0].value):
        yield issue(linked, rule, "default-value", "a default value must be constant", rule.pos)
    if rule.is_default and rule.kind in {"set", "object"}:
        yield issue(linked, rule, "default-value", "a set or object of rules has no default", rule.pos)
    if len(rule.branches) > 1 and rule.kind in {"set", "object"}:
        yield issue(linked, rule, "else-partial", "`else` belongs to complete rules and functions", rule.pos)
    if rule.prefix[-1] in BUILTINS:
        yield issue(linked, rule, "shadowing", f"`{rule.prefix[-1]}` hides a built-in", rule.pos, "choose another name", "warning")
    for item in nodes_of(rule_parts(rule)):
        if type(item) is Apply and item.name in DEPRECATED:
            yield issue(linked, rule, "deprecated-builtin", f"`{item.name}` is deprecated", item.pos)


def _is_constant(term: Any) -> bool:
    """Tell whether a default value refers to nothing outside a comprehension."""
    kind = type(term)
    if kind is ArrayT or kind is SetT:
        return all(map(_is_constant, term.items))
    if kind is ObjectT:
        return all(_is_constant(key) and _is_constant(value) for key, value in term.pairs)
    return kind is Const or kind is Compr


# --- rules together --------------------------------------------------------------------------------------------------------


def _recursion(linked: Linked, program: Program) -> Iterator[Issue]:
    """Find rules that depend on themselves: depth-first search with a colour per node, without Python's stack."""
    edges = {id(node): list({id(target): target for rule in node.rules for target in dependencies(program.root, rule)}.values())
             for node in program.nodes}  # fmt: skip
    done: set[int] = set()
    for start in program.nodes:
        if id(start) in done:
            continue
        path: list[Node] = [start]
        on_path = {id(start)}
        stack = [iter(edges[id(start)])]
        while stack:
            following = next(stack[-1], None)
            if following is None:
                stack.pop()
                left = path.pop()
                on_path.discard(id(left))
                done.add(id(left))
            elif id(following) in on_path:
                loop = [*path[[id(node) for node in path].index(id(following)) :], following]
                chain = " -> ".join(label(node.path) for node in loop)
                rule = following.rules[0]
                yield issue(linked, rule, "recursion", f"rule is recursive: {chain}", rule.pos, "a rule may not depend on itself")
            elif id(following) not in done:
                path.append(following)
                on_path.add(id(following))
                stack.append(iter(edges[id(following)]))


def _conflicts(linked: Linked, program: Program, node: Node) -> Iterator[Issue]:
    rules = node.rules
    first = rules[0]
    kinds = {rule.kind for rule in rules}
    name = label(node.path)
    if len(kinds) > 1:
        yield issue(linked, rules[-1], "conflict", f"`{name}` is defined as {' and as '.join(sorted(kinds))}", rules[-1].pos, "give one another name")
        return
    if first.kind == "function" and len({len(rule.args or ()) for rule in rules}) > 1:
        yield issue(linked, rules[-1], "conflict", f"`{name}` is defined with different numbers of arguments", rules[-1].pos)
    defaults = [rule for rule in rules if rule.is_default]
    if len(defaults) > 1:
        yield issue(linked, defaults[-1], "conflict", f"`{name}` has more than one default", defaults[-1].pos)
    packages = {module.package for module in linked.modules}
    if node.path in packages or any(package[: len(node.path)] == node.path and len(package) > len(node.path) for package in packages):
        yield issue(linked, first, "conflict", f"`{name}` is a rule and a package", first.pos)
    elif first.kind in {"complete", "set"} and any(True for _ in below(node) if _ is not node):
        yield issue(linked, first, "conflict", f"`{name}` has a value of its own and rules below it", first.pos)
    if first.kind != "function" and node.children == {}:
        base = program.data
        for key in node.path:
            base = lookup(base, thaw(key))
        if base is not UNDEFINED:
            yield issue(linked, first, "data-conflict", f"`{name}` is a rule and in the data: the rule wins", first.pos, "", "warning")
