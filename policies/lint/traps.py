"""Conditions that hold too often or too rarely."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from policies.lint.subject import Subject, call_name, dotted, finding, lint_rule, reads_input, walk
from policies.rego import Issue
from policies.rego.syntax import Array, Call, Comprehension, ObjectTerm, Ref, Scalar, SetTerm, Statement, Var

_ANCHORED: Final = frozenset({"regex.match", "regex.is_valid", "re_match"})
_VERB: Final = re.compile(r"%(?:%|[-+# 0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?[a-zA-Z])")


@lint_rule(
    "truthy-input",
    "a bare input field as a condition",
    'Only `false` and an absent field fail it: `"no"`, `0`, `null` and `[]` pass. Write `input.x == true`, or compare with what is meant.',
)
def truthy_input(subject: Subject) -> Iterator[Issue]:
    """`allow if input.subject.verified`."""
    for module in subject.policies:
        for node in walk(module.rules):
            if type(node) is Statement and type(node.expr) is Ref and reads_input(node.expr, module) and not _iterates(node.expr):
                text = dotted(node.expr) or "this field"
                message = f"`{text}` holds for every value but `false`" if not node.negated else f"`not {text}` fails for every value but `false`"
                yield finding(module, "truthy-input", message, node.pos, f"write `{text} == true`")


@lint_rule(
    "different-from-some",
    "`!=` with an iteration",
    "`xs[_] != y` holds as soon as one member differs, which is nearly always. Write `not y in xs`.",
)
def different_from_some(subject: Subject) -> Iterator[Issue]:
    """`input.roles[_] != "admin"`."""
    for module in subject.policies:
        for node in walk(module.rules):
            if type(node) is Statement and call_name(node.expr) == "neq" and not node.negated and any(map(_iterates, node.expr.args)):
                yield finding(module, "different-from-some", "this holds when any one member differs", node.pos, "write `not value in collection`")


@lint_rule(
    "negated-nested",
    "`not` over a call or comparison of something that may be absent",
    "References and calls inside a plain `not` run before it and have to be defined: `not is_object(data.a.b)` does not hold when `data.a.b` is "
    "absent. `assay policy check` tells it of the input. Name the positive as a rule of its own and negate that.",
)
def negated_nested(subject: Subject) -> Iterator[Issue]:
    """`not is_object(report[attribute])`."""
    for module in subject.policies:
        for node in walk(module.rules):
            if type(node) is Statement and node.negated and type(node.expr) is Call and call_name(node.expr) != "equal":
                for part in node.expr.args:
                    if type(part) is Ref and not reads_input(part, module):
                        yield finding(module, "negated-nested", "this `not` does not hold when what is in it is absent", node.pos, "negate a rule")
                        break


@lint_rule(
    "constant-condition",
    "an expression that is always the same",
    "A condition without a variable or a reference decides nothing. It is often left over from trying things out: `true` opens the rule.",
)
def constant_condition(subject: Subject) -> Iterator[Issue]:
    """`allow if true`, `1 == 1`."""
    for module in subject.policies:
        for node in walk(module.rules):
            if type(node) is Statement and _is_constant(node.expr):
                yield finding(
                    module, "constant-condition", "this condition is always the same", node.pos, "remove it, or write the fact it stands for"
                )


@lint_rule(
    "default-allow",
    "`default allow := true`",
    "What no rule foresaw is then allowed. Begin with `default allow := false` and say what may pass.",
)
def default_allow(subject: Subject) -> Iterator[Issue]:
    """A package that decides and is open by default."""
    for module in subject.deciding:
        for rule in module.rules:
            value = rule.branches[0].value
            if rule.is_default and rule.ref[0].name == "allow" and not (type(value) is Scalar and value.value is False):
                yield finding(module, "default-allow", "what no rule foresaw is allowed", rule.pos, "write `default allow := false`")


@lint_rule(
    "missing-default",
    "`allow` without a default",
    "Without one `allow` is undefined instead of false: `not allow` works, `allow == false` does not, and a reader has to know.",
)
def missing_default(subject: Subject) -> Iterator[Issue]:
    """`allow` rules, none of them the default, and none without a condition."""
    packages = {module.package for module in subject.deciding for rule in module.rules if rule.ref[0].name == "allow" and rule.is_default}
    seen = set(packages)
    for module in subject.deciding:
        for rule in module.rules:
            if rule.ref[0].name == "allow" and module.package not in seen and rule.has_body:
                seen.add(module.package)
                yield finding(module, "missing-default", "`allow` has no default", rule.pos, "add `default allow := false` above")


@lint_rule(
    "unanchored-pattern",
    "a regular expression that matches anywhere",
    '`regex.match` looks for the pattern in any part of the text: `"admin"` matches `"not-admin"`. Begin it with `^` and end it with `$`.',
)
def unanchored_pattern(subject: Subject) -> Iterator[Issue]:
    """`regex.match("admin", input.user)`."""
    for module in subject.policies:
        for node in walk(module.rules):
            if call_name(node) in _ANCHORED and node.args and type(node.args[0]) is Scalar and isinstance(node.args[0].value, str):
                pattern = node.args[0].value
                if not (pattern.startswith(("^", r"\A")) and pattern.endswith(("$", r"\z"))):
                    message = f"`{pattern}` matches anywhere in the text"
                    yield finding(module, "unanchored-pattern", message, node.args[0].pos, f"write `^{pattern.strip('^$')}$` if the whole is meant")


@lint_rule(
    "format-arguments",
    "`sprintf` with more or fewer values than places",
    "A missing value prints `%!d(MISSING)` into the reason, one too many `%!(EXTRA ...)`.",
)
def format_arguments(subject: Subject) -> Iterator[Issue]:
    """`sprintf("%d of %d", [a])`."""
    for module in subject.modules:
        for node in walk(module.rules):
            if call_name(node) != "sprintf" or len(node.args) != 2:
                continue
            text, values = node.args
            if type(text) is Scalar and isinstance(text.value, str) and type(values) is Array:
                places = sum((piece != "%%") + piece.count("*") for piece in _VERB.findall(text.value) if piece != "%%")
                if places != len(values.items):
                    yield finding(module, "format-arguments", f"{places} places, {len(values.items)} values", node.pos)


@lint_rule(
    "clock",
    "a policy that reads the clock",
    "Its answer changes while its input does not, so it is never remembered and costs an evaluation a call. Let the gateway bring time in as a "
    "fact, as it does with `approvals`.",
)
def clock(subject: Subject) -> Iterator[Issue]:
    """`time.now_ns()` in a package that decides."""
    for module in subject.deciding:
        for node in walk(module.rules):
            if call_name(node) == "time.now_ns":
                yield finding(module, "clock", "answers of this package cannot be remembered", node.pos)


@lint_rule("print", "a `print` left behind", "It does nothing in the gateway and costs the evaluation of what it would print.")
def left_over_print(subject: Subject) -> Iterator[Issue]:
    """`print(input)`."""
    for module in subject.policies:
        for node in walk(module.rules):
            if call_name(node) == "print":
                yield finding(module, "print", "this `print` was left behind", node.pos, "remove it")


@lint_rule(
    "unused-rule",
    "a rule nobody asks for",
    "In a package that decides only `allow`, `deny`, `warn` and `obligations` are asked. A rule that none of them uses is dead, or misspelt "
    "where it is used.",
)
def unused_rule(subject: Subject) -> Iterator[Issue]:
    """A helper no rule of any module names."""
    used = {
        name
        for module in subject.modules
        for rule in module.rules
        for node in walk(rule.branches, rule.key, rule.ref[1:], rule.args)
        for name in _named(node)
    }
    for module in subject.deciding:
        seen: set[str] = set()
        for rule in module.rules:
            name = rule.ref[0].name
            if name not in used | {"allow", "deny", "warn", "obligations"} | seen:
                seen.add(name)
                yield finding(module, "unused-rule", f"nobody asks for `{name}`", rule.pos, "remove it, or use it")


def _named(node: Any) -> Iterator[str]:
    """Yield the names a part of the syntax may refer to a rule by."""
    if type(node) is Var:
        yield node.name
    elif type(node) is Ref:
        yield from (part.value for part in node.path if type(part) is Scalar and isinstance(part.value, str))


def _iterates(node: Any) -> bool:
    return type(node) is Ref and any(type(part) is Var and part.name.startswith("_#") for part in node.path)


def _is_constant(node: Any) -> bool:
    kind = type(node)
    if kind is Scalar:
        return True
    if kind is Array or kind is SetTerm:
        return all(map(_is_constant, node.items))
    if kind is ObjectTerm:
        return all(_is_constant(key) and _is_constant(value) for key, value in node.pairs)
    return kind is Call and node.infix and all(map(_is_constant, node.args)) and type(node) is not Comprehension
