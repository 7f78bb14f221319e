"""Policies that open silently: correct Rego that lets pass what its author meant to stop.

- `deny-head-undefined`: a reason whose text can be undefined does not fire. The text reads an input field, or a rule that can be undefined,
  which the body does not ask for.
- `undeclared-data`: what a reason reads is neither a rule nor in the data given, so it never fires; elsewhere this is a warning.
- `no-allow`: a package that only denies lets through what it did not foresee.

A field that the input schema requires, and whose parents it requires, is not optional.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, Final

from policies.rego.errors import Issue
from policies.rego.input_schema import is_required
from policies.rego.ir import Apply, ArrayT, Const, Doc, Get, Local, Match, Not, ObjectT, RuleIR, SetT, locals_in
from policies.rego.program import Linked, Program
from policies.rego.reads import constant_prefix, nodes_of, rule_parts
from policies.rego.tree import Node
from policies.rego.values import UNDEFINED, freeze, lookup, thaw

REASONS: Final = frozenset({"deny", "warn", "obligations", "violation"})
"""Names of rules whose members are reasons: silence is consent there."""


def issue(linked: Linked, rule: RuleIR, name: str, message: str, pos: int, hint: str = "", severity: str = "error") -> Issue:
    """Return a finding about a rule."""
    return linked.modules[rule.module].source.issue(name, message, pos, hint, severity)


def label(path: tuple[Any, ...]) -> str:
    """Return a `data` path for a message."""
    return "data." + ".".join(str(thaw(part)) for part in path)


def is_reason(rule: RuleIR) -> bool:
    """Tell whether a rule's members are reasons."""
    return rule.kind == "set" and rule.prefix[-1] in REASONS


# --- heads -------------------------------------------------------------------------------------------------------------


def undefined_heads(linked: Linked, program: Program, rule: RuleIR, schema: Any) -> Iterator[Issue]:
    """Find what only the head of a reason, or a local used by the head alone, reads and what may be absent."""
    if not is_reason(rule):
        return
    texts, asked = _texts_and_questions(rule)
    found = {(item.root, *constant_prefix(item.path)): item.pos for text in texts for item in _open_references(text)}
    for path, pos in found.items():
        if len(path) == 1 or any(known[: len(path)] == path for known in asked):
            continue
        if path[0] == "data":
            yield from _undefined_rule(linked, program, rule, path[1:], pos, schema)
        elif not is_required(schema, path[1:]):
            field = ".".join(map(str, path))
            hint = f"use `object.get`, or ask for `{field}` in the body"
            yield issue(linked, rule, "deny-head-undefined", f"this reason does not fire when `{field}` is absent", pos, hint)


def _texts_and_questions(rule: RuleIR) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """Return the terms that only serve the head, and the paths that the body asks for."""
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
            asked.extend(_paths((statement,)))
    for statement in branch.body:
        if type(statement) is Match and type(statement.left) is Local and statement.left.slot in head_slots & elsewhere:
            asked.extend(_paths((statement.right,)))
    return texts, asked


def _undefined_rule(linked: Linked, program: Program, rule: RuleIR, path: tuple[Any, ...], pos: int, schema: Any) -> Iterator[Issue]:
    node = _rule_node(program, path)
    if node is None or node.kind != "complete" or any(other.is_default for other in node.rules):
        return
    why = _may_be_undefined(node, schema)
    if why is not None:
        name = label(node.path)
        message = f"this reason does not fire when `{name}` is undefined: {why}"
        yield issue(linked, rule, "deny-head-undefined", message, pos, f"give `{name}` a default, or ask for it in the body")


def _may_be_undefined(node: Node, schema: Any) -> str | None:
    """Say how a complete rule without a default can be undefined, or None."""
    if all(branch.body for rule in node.rules for branch in rule.branches[-1:]):
        return "its bodies may all fail"
    for rule in node.rules:
        for item in _open_references(rule.branches[-1].value):
            if item.root == "input" and not is_required(schema, constant_prefix(item.path)):
                return f"it reads `{'.'.join(['input', *map(str, constant_prefix(item.path))])}`"
            if item.root == "data" and any(type(element) is not Const for element in item.path):
                return "it looks something up by a value"
    return None


def _rule_node(program: Program, path: tuple[Any, ...]) -> Node | None:
    node = program.root
    for key in path:
        child = node.children.get(freeze(key))
        if child is None:
            return None
        node = child
        if node.rules:
            return node
    return None


def _open_references(term: Any) -> Iterator[Doc]:
    """Yield the references that make a term undefined; what a comprehension or a template reads does not."""
    if type(term) is Doc:
        yield term
    for part in _parts(term):
        yield from _open_references(part)


def _parts(term: Any) -> tuple[Any, ...]:
    kind = type(term)
    if kind is Doc:
        return tuple(term.path)
    if kind is Get:
        return (term.base, *term.path)
    if kind is Apply:
        return tuple(term.args)
    if kind is ArrayT or kind is SetT:
        return tuple(term.items)
    return tuple(part for pair in term.pairs for part in pair) if kind is ObjectT else ()


def _is_text(statement: Any, head_slots: set[int]) -> bool:
    """Tell whether a statement only prepares a value for the head; an iteration asks for its collection."""
    if type(statement) is not Match or type(statement.left) is not Local or statement.left.slot not in head_slots:
        return False
    return type(statement.right) is not Doc or len(constant_prefix(statement.right.path)) == len(statement.right.path)


def _paths(parts: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return [(item.root, *constant_prefix(item.path)) for item in nodes_of(parts) if type(item) is Doc]


# --- data --------------------------------------------------------------------------------------------------------------


def undeclared_data(linked: Linked, program: Program) -> Iterator[Issue]:
    """Find references into a package of ours that name nothing there, and those into data that was not given."""
    for rule in linked.rules:
        silent = _silenced_slots(rule)
        for item in nodes_of(rule_parts(rule)):
            if type(item) is Doc and item.root == "data":
                yield from _unknown(linked, program, rule, item, is_silent=item.pos in silent)
    yield from _starved_reasons(linked, program)


def _silenced_slots(rule: RuleIR) -> set[int]:
    """Return positions of references under a `not`: there absence is an answer."""
    statements = [statement for branch in rule.branches for statement in branch.body]
    return {item.pos for statement in statements if type(statement) is Not for item in nodes_of(statement.body) if type(item) is Doc}


def _unknown(linked: Linked, program: Program, rule: RuleIR, ref: Doc, *, is_silent: bool) -> Iterator[Issue]:
    prefix = constant_prefix(ref.path)
    packages = {module.package for module in linked.modules}
    node, base, inside = program.root, program.data, False
    for depth, key in enumerate(prefix):
        base = lookup(base, key)
        child = node.children.get(freeze(key))
        if child is None and base is UNDEFINED:
            missing = label(prefix[: depth + 1])
            if inside:
                near = difflib.get_close_matches(str(key), [str(thaw(name)) for name in node.children], n=1)
                hint = f"did you mean `{near[0]}`?" if near else ""
                yield issue(linked, rule, "unknown-reference", f"`{missing}` does not exist", ref.pos, hint)
            elif is_reason(rule) and not is_silent:
                message = f"`{missing}` is neither a rule nor in the data given: this reason never fires"
                yield issue(linked, rule, "undeclared-data", message, ref.pos, "put it into the data, or give it a default in a rule of its own")
            else:
                message = f"`{missing}` is neither a rule nor in the data given"
                yield issue(linked, rule, "undeclared-data", message, ref.pos, "without it this is undefined", "warning")
            return
        if child is None or child.rules:
            return
        node, inside = child, prefix[: depth + 1] in packages


def _starved_reasons(linked: Linked, program: Program) -> Iterator[Issue]:
    """Find reasons that read a rule which is an alias of data that was not given: `cfg := data.params.fairness`."""
    for rule in linked.rules:
        if not is_reason(rule):
            continue
        silent = _silenced_slots(rule)
        for item in nodes_of(rule_parts(rule)):
            if type(item) is not Doc or item.root != "data" or item.pos in silent:
                continue
            node = _rule_node(program, constant_prefix(item.path))
            missing = None if node is None else _starved(program, node)
            if node is not None and missing is not None:
                message = f"`{label(node.path)}` is `{label(missing)}`, which is neither a rule nor in the data given: this reason never fires"
                yield issue(linked, rule, "undeclared-data", message, item.pos, "put it into the data, or give the rule a default")


def _starved(program: Program, node: Node) -> tuple[Any, ...] | None:
    """Return the data path a rule without a body stands for, if that is not there."""
    if node.kind != "complete" or len(node.rules) != 1 or node.rules[0].branches[0].body:
        return None
    value = node.rules[0].branches[0].value
    if type(value) is not Doc or value.root != "data":
        return None
    prefix = constant_prefix(value.path)
    base: Any = program.data
    place: Node | None = program.root
    for key in prefix:
        base = lookup(base, key)
        place = None if place is None else place.children.get(freeze(key))
        if place is not None and place.rules:
            return None  # a rule: what it gives is not known here
        if base is UNDEFINED and place is None:
            return prefix
    return None


# --- allow -------------------------------------------------------------------------------------------------------------


def missing_allow(linked: Linked, program: Program) -> Iterator[Issue]:
    """Find packages that deny and never allow."""
    seen: set[tuple[Any, ...]] = set()
    for rule in linked.rules:
        package = linked.modules[rule.module].package
        if rule.prefix == (*package, "deny") and package not in seen:
            seen.add(package)
            if program.node((*package, "allow")) is None:
                message = f"package `{'.'.join(package)}` denies but has no `allow`: what it did not foresee passes"
                yield issue(linked, rule, "no-allow", message, rule.pos, "add `default allow := false` and an `allow` rule", "warning")
