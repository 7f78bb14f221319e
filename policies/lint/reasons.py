"""What packages that decide say to callers and to the log: the members of `deny`, `warn` and `obligations`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, Final

from policies.lint.subject import Subject, finding, lint_rule, reads_input, reason_fields, rules_named, walk
from policies.rego import Issue
from policies.rego.syntax import Module, Rule, Scalar, Unify, Var
from policies.verdict import MOST_ID, MOST_MESSAGE, OBLIGATIONS

_ID: Final = re.compile(r"[A-Z][A-Z0-9]*(-[A-Z0-9]+)+")


def _reasons(subject: Subject) -> Iterator[tuple[Module, Rule, dict[str, Any] | None]]:
    for module in subject.deciding:
        for rule in rules_named(module, "deny", "warn"):
            if rule.key is not None:
                yield module, rule, reason_fields(rule)


def _constant(fields: dict[str, Any], name: str) -> Any:
    term = fields.get(name)
    return term.value if type(term) is Scalar else None


@lint_rule(
    "reason-shape",
    "a reason without `id` or `msg`",
    "Callers, the log and `assay audit query --rule ID` name a refusal by its `id`; a text alone cannot be looked for, counted or excepted.",
)
def reason_shape(subject: Subject) -> Iterator[Issue]:
    """`deny contains "no"`."""
    for module, rule, fields in _reasons(subject):
        if fields is None and type(rule.key) is Var:
            continue  # made elsewhere; the gateway tells
        missing = [name for name in ("id", "msg") if name not in (fields or {})]
        if missing:
            listed = " and ".join(f"`{name}`" for name in missing)
            yield finding(module, "reason-shape", f"this reason has no {listed}", rule.pos, 'write `{"id": "OFFICE-1", "msg": "..."}`')


@lint_rule(
    "reason-id",
    "an id that is not like `OFFICE-1`, or too long",
    "Ids are looked for by people for years: capitals, a dash, a number. Longer than 64 characters they are cut in the record.",
)
def reason_id(subject: Subject) -> Iterator[Issue]:
    """`"id": "no good"`."""
    for module, _, fields in _reasons(subject):
        name = _constant(fields or {}, "id")
        if isinstance(name, str) and (not _ID.fullmatch(name) or len(name) > MOST_ID):
            yield finding(module, "reason-id", f"`{name}` is not like `OFFICE-1`", (fields or {})["id"].pos)


@lint_rule(
    "duplicate-id",
    "one id for reasons of two packages",
    "A count, an exception or an answer to a customer by id would mean both.",
)
def duplicate_id(subject: Subject) -> Iterator[Issue]:
    """`OFFICE-1` in two packages; several rules of one package may share an id."""
    owners: dict[str, tuple[str, ...]] = {}
    for module, _, fields in _reasons(subject):
        name = _constant(fields or {}, "id")
        if isinstance(name, str) and owners.setdefault(name, module.package) != module.package:
            yield finding(module, "duplicate-id", f"`{name}` is also of `{'.'.join(owners[name])}`", (fields or {})["id"].pos)


@lint_rule(
    "value-in-reason",
    "a value of the call in a message",
    "Messages go into a log that is kept for years and to callers. Name the rule and what to do; the value is the caller's own, and may be personal.",
)
def value_in_reason(subject: Subject) -> Iterator[Issue]:
    """`"msg": sprintf("%s is not allowed", [input.subject.id])`."""
    for module, rule, fields in _reasons(subject):
        told = (fields or {}).get("msg")
        bound = {
            statement.expr.lhs.name: statement.expr.rhs
            for statement in rule.branches[0].body
            if type(statement.expr) is Unify and type(statement.expr.lhs) is Var
        }
        terms = [told, *(bound[node.name] for node in walk(told) if type(node) is Var and node.name in bound)]
        for node in walk(*terms):
            if reads_input(node, module):
                yield finding(module, "value-in-reason", "this message holds a value of the call", node.pos, "say what to do, without the value")
                break


@lint_rule(
    "message-length",
    "a message that is cut",
    "Messages longer than 256 characters are cut in the record and in the answer.",
)
def message_length(subject: Subject) -> Iterator[Issue]:
    """A `msg` beyond the bound."""
    for module, _, fields in _reasons(subject):
        told = _constant(fields or {}, "msg")
        if isinstance(told, str) and len(told) > MOST_MESSAGE:
            yield finding(module, "message-length", f"{len(told)} characters; after {MOST_MESSAGE} it is cut", (fields or {})["msg"].pos)


@lint_rule(
    "status-range",
    "a status that is not 400 to 499",
    "A refusal is answered with a client error. Another status is not used, and the caller gets 403.",
)
def status_range(subject: Subject) -> Iterator[Issue]:
    """`"status": 200`."""
    for module, _, fields in _reasons(subject):
        status = _constant(fields or {}, "status")
        if status is not None and (type(status) is not int or not 400 <= status <= 499):
            yield finding(module, "status-range", f"status `{status}` is not used", (fields or {})["status"].pos, "403, or another from 400 to 499")


@lint_rule(
    "obligation-type",
    "an obligation nobody can carry out",
    "Asking for what has no meaning refuses the call.",
)
def obligation_type(subject: Subject) -> Iterator[Issue]:
    """`obligations contains {"type": "rounding"}`."""
    for module in subject.deciding:
        for rule in rules_named(module, "obligations"):
            fields = reason_fields(rule)
            kind = _constant(fields or {}, "type")
            if fields is not None and kind not in OBLIGATIONS and not ("type" in fields and kind is None):
                near = difflib.get_close_matches(str(kind), sorted(OBLIGATIONS), n=1)
                known = ", ".join(sorted(OBLIGATIONS)) or "none in this release"
                hint = f"did you mean `{near[0]}`?" if near else f"known: {known}"
                yield finding(module, "obligation-type", f"`{kind}` is no obligation", rule.pos, hint)
