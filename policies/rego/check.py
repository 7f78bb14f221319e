"""Checks at load: everything `opa check --strict` refuses, and what it lets pass that opens a policy.

Two classes of findings. *Refused* (unsafe variables, unknown functions, recursion, conflicts, ...) make the engine refuse the modules.
*Strict* ones (`STRICT`) are errors that OPA's default mode tolerates; `Engine(strict=True)` refuses them too, and `check()` lists them
either way. Warnings never refuse.

The fail-open traps: `deny-head-undefined` (a reason whose text reads a field that may be absent never fires), `no-allow` (a package that
only denies lets through what it did not foresee), `unknown-reference` and `undeclared-data` (a misspelt name is undefined, not an error).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, Final

from policies.rego.builtins import BUILTINS
from policies.rego.compile_rules import plan_rule
from policies.rego.errors import Issue
from policies.rego.ir import Apply, ArrayT, Compr, Const, Doc, Local, Match, Not, ObjectT, RuleIR, SetT, locals_in
from policies.rego.program import Linked, Program
from policies.rego.reads import below, constant_prefix, dependencies, nodes_of, rule_parts
from policies.rego.tree import Node
from policies.rego.values import UNDEFINED, freeze, lookup, thaw

STRICT: Final = frozenset(
    {"unused-import", "unused-local", "duplicate-import", "deprecated-builtin", "unknown-reference", "deny-head-undefined", "unknown-input"}
)
DEPRECATED: Final = frozenset(
    {"any", "all", "re_match", "set_diff", "net.cidr_overlap", "cast_array", "cast_boolean", "cast_null", "cast_object", "cast_set", "cast_string"}
)  # fmt: skip
_REASONS: Final = frozenset({"deny", "warn", "obligations", "violation"})
_GENERATED: Final = ("_#ref", "_#part", "_#key")


def check_linked(linked: Linked, program: Program) -> list[Issue]:
    """Return all findings about linked modules, errors first, then by file and line."""
    issues = list(linked.issues)
    for rule in linked.rules:
        issues.extend(_unsafe(linked, rule))
        issues.extend(_rule_issues(linked, program, rule))
    issues.extend(_recursion(linked, program))
    for node in program.nodes:
        issues.extend(_conflicts(linked, program, node))
    issues.extend(_missing_allow(linked, program))
    return sorted(set(issues), key=lambda issue: (issue.severity != "error", issue.file, issue.line, issue.column, issue.rule))


def _issue(linked: Linked, rule: RuleIR, name: str, message: str, pos: int, hint: str = "", severity: str = "error") -> Issue:
    return linked.modules[rule.module].source.issue(name, message, pos, hint, severity)


def label(path: tuple[Any, ...]) -> str:
    """Return a `data` path for a message."""
    return "data." + ".".join(str(thaw(part)) for part in path)


def _unsafe(linked: Linked, rule: RuleIR) -> Iterator[Issue]:
    planner, _, _ = plan_rule(rule)
    found = [(planner.names[slot], pos) for slot, pos in dict.fromkeys(planner.unsafe)]
    named = [(name, pos) for name, pos in found if name and not name.startswith(_GENERATED)]
    for name, pos in named or found[:1]:
        shown = "_" if not name or name.startswith("_#") else name
        near = difflib.get_close_matches(shown, [*BUILTINS, *(other.prefix[-1] for other in linked.rules if other.module == rule.module)], n=1)
        hint = f"did you mean `{near[0]}`?" if near and len(shown) > 2 else "bind it with `some`, `:=` or `some ... in`"
        yield _issue(linked, rule, "unsafe-var", f"`{shown}` is unsafe: nothing binds it", pos, hint)


# --- single rules --------------------------------------------------------------------------------------------------------


def _rule_issues(linked: Linked, program: Program, rule: RuleIR) -> Iterator[Issue]:
    if rule.is_default and not _is_constant(rule.branches[0].value):
        yield _issue(linked, rule, "default-value", "a default value must be constant", rule.pos)
    if rule.is_default and rule.kind in {"set", "object"}:
        yield _issue(linked, rule, "default-value", "a set or object of rules has no default", rule.pos)
    if len(rule.branches) > 1 and rule.kind in {"set", "object"}:
        yield _issue(linked, rule, "else-partial", "`else` belongs to complete rules and functions", rule.pos)
    if rule.prefix[-1] in BUILTINS:
        yield _issue(linked, rule, "shadowing", f"`{rule.prefix[-1]}` hides a built-in", rule.pos, "choose another name", "warning")
    for item in nodes_of(rule_parts(rule)):
        if type(item) is Apply and item.name in DEPRECATED:
            yield _issue(linked, rule, "deprecated-builtin", f"`{item.name}` is deprecated", item.pos)
        if type(item) is Doc and item.root == "data":
            yield from _unknown(linked, program, rule, item)
    if rule.kind == "set" and rule.prefix[-1] in _REASONS:
        yield from _undefined_head(linked, rule)


def _is_constant(term: Any) -> bool:
    """Tell whether a default value refers to nothing outside a comprehension."""
    kind = type(term)
    if kind is ArrayT or kind is SetT:
        return all(map(_is_constant, term.items))
    if kind is ObjectT:
        return all(_is_constant(key) and _is_constant(value) for key, value in term.pairs)
    return kind is Const or kind is Compr


def _unknown(linked: Linked, program: Program, rule: RuleIR, ref: Doc) -> Iterator[Issue]:
    """A reference into a package of ours that names nothing there; one into data that was not given."""
    prefix = constant_prefix(ref.path)
    packages = {module.package for module in linked.modules}
    node, base, inside = program.root, program.data, False
    for depth, key in enumerate(prefix):
        base = lookup(base, key)
        child = node.children.get(freeze(key))
        if child is None and base is UNDEFINED:
            if inside:
                near = difflib.get_close_matches(str(key), [str(thaw(name)) for name in node.children], n=1)
                hint = f"did you mean `{near[0]}`?" if near else ""
                yield _issue(linked, rule, "unknown-reference", f"`{label(prefix[: depth + 1])}` does not exist", ref.pos, hint)
            else:
                message = f"`{label(prefix[: depth + 1])}` is neither a rule nor in the data given"
                yield _issue(linked, rule, "undeclared-data", message, ref.pos, "without it this is undefined", "warning")
            return
        if child is None or child.rules:
            return
        node, inside = child, prefix[: depth + 1] in packages


def _undefined_head(linked: Linked, rule: RuleIR) -> Iterator[Issue]:
    """A reason whose head, or a local used by the head alone, reads an input field that the body does not ask for."""
    branch = rule.branches[0]
    head_slots = locals_in(branch.key)
    elsewhere: set[int] = set()
    texts: list[Any] = [branch.key]
    asked: list[tuple[Any, ...]] = []
    for statement in branch.body:
        if _is_text(statement, head_slots):
            texts.append(statement.right)
            continue
        elsewhere |= locals_in(statement)
        if type(statement) is not Not:
            asked.extend(_input_paths((statement,)))
    for statement in branch.body:
        if type(statement) is Match and type(statement.left) is Local and statement.left.slot in head_slots & elsewhere:
            asked.extend(_input_paths((statement.right,)))
    for path, pos in dict.fromkeys((path, item.pos) for item in nodes_of(tuple(texts)) if type(item) is Doc and item.root == "input"
                                   for path in [constant_prefix(item.path)]):  # fmt: skip
        if path and not any(known[: len(path)] == path for known in asked):
            field = "input." + ".".join(map(str, path))
            message = f"this reason does not fire when `{field}` is absent"
            yield _issue(linked, rule, "deny-head-undefined", message, pos, f"use `object.get`, or ask for `{field}` in the body")


def _is_text(statement: Any, head_slots: set[int]) -> bool:
    """Tell whether a statement only prepares a value for the head; an iteration asks for its collection."""
    if type(statement) is not Match or type(statement.left) is not Local or statement.left.slot not in head_slots:
        return False
    return type(statement.right) is not Doc or len(constant_prefix(statement.right.path)) == len(statement.right.path)


def _input_paths(parts: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return [constant_prefix(item.path) for item in nodes_of(parts) if type(item) is Doc and item.root == "input"]


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
                yield _issue(linked, rule, "recursion", f"rule is recursive: {chain}", rule.pos, "a rule may not depend on itself")
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
        yield _issue(
            linked, rules[-1], "conflict", f"`{name}` is defined as {' and as '.join(sorted(kinds))}", rules[-1].pos, "give one another name"
        )
        return
    if first.kind == "function" and len({len(rule.args or ()) for rule in rules}) > 1:
        yield _issue(linked, rules[-1], "conflict", f"`{name}` is defined with different numbers of arguments", rules[-1].pos)
    defaults = [rule for rule in rules if rule.is_default]
    if len(defaults) > 1:
        yield _issue(linked, defaults[-1], "conflict", f"`{name}` has more than one default", defaults[-1].pos)
    packages = {module.package for module in linked.modules}
    if node.path in packages or any(package[: len(node.path)] == node.path and len(package) > len(node.path) for package in packages):
        yield _issue(linked, first, "conflict", f"`{name}` is a rule and a package", first.pos)
    elif first.kind in {"complete", "set"} and any(True for _ in below(node) if _ is not node):
        yield _issue(linked, first, "conflict", f"`{name}` has a value of its own and rules below it", first.pos)
    if first.kind != "function" and node.children == {}:
        base = program.data
        for key in node.path:
            base = lookup(base, thaw(key))
        if base is not UNDEFINED:
            yield _issue(linked, first, "data-conflict", f"`{name}` is a rule and in the data: the rule wins", first.pos, "", "warning")


def _missing_allow(linked: Linked, program: Program) -> Iterator[Issue]:
    seen: set[tuple[Any, ...]] = set()
    for rule in linked.rules:
        package = linked.modules[rule.module].package
        if rule.prefix == (*package, "deny") and package not in seen:
            seen.add(package)
            if program.node((*package, "allow")) is None:
                message = f"package `{'.'.join(package)}` denies but has no `allow`: what it did not foresee passes"
                yield _issue(linked, rule, "no-allow", message, rule.pos, "add `default allow := false` and an `allow` rule", "warning")


# --- input schema ----------------------------------------------------------------------------------------------------------


def check_input(linked: Linked, schema: Any) -> list[Issue]:
    """Return the input paths that a JSON Schema does not know, with the nearest name."""
    found: list[Issue] = []
    for rule in linked.rules:
        for item in nodes_of(rule_parts(rule)):
            if type(item) is Doc and item.root == "input":
                place = schema
                for depth, key in enumerate(constant_prefix(item.path)):
                    known = place.get("properties") if type(place) is dict else None
                    if type(known) is not dict or type(key) is not str:
                        break
                    if key not in known:
                        near = difflib.get_close_matches(key, list(known), n=1)
                        path = ".".join(["input", *map(str, constant_prefix(item.path)[: depth + 1])])
                        hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(known))}"
                        found.append(_issue(linked, rule, "unknown-input", f"the input schema has no `{path}`", item.pos, hint))
                        break
                    place = known[key]
    return list(dict.fromkeys(found))
