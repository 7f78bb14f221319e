"""Which names a piece of syntax mentions and declares, and what surrounds it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from policies.rego.syntax import (
    Array,
    Call,
    Every,
    ObjectTerm,
    Ref,
    Rule,
    Scalar,
    SetTerm,
    SomeDecl,
    SomeIn,
    Statement,
    Unify,
    Var,
)


class Library(Protocol):
    """What a scope must know of the world outside the rule."""

    def builtin_arity(self, name: str) -> int | None:
        """Arity of a built-in, None if unknown."""

    def function_arity(self, path: tuple[str, ...]) -> int | None:
        """Arity of the function at a `data` path, None if there is none."""

    def call_problem(self, name: str) -> tuple[str, str, str]:
        """Rule id, message and hint for a call of an unknown or refused name."""


@dataclass(slots=True)
class Scope:
    """One body. `names` and `declared` are owned by the lowering of that body."""

    parent: Scope | None
    names: dict[str, int]
    declared: dict[str, int]

    def find(self, name: str) -> int | None:
        """Return the slot of a name visible here."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None


def mentions(node: Any) -> Iterable[Var]:  # noqa: C901, PLR0912 - one flat list of cases
    """Yield the variables of a term or statement outside closures, call operators excluded."""
    kind = type(node)
    if kind is Var:
        yield node
    elif kind is Ref:
        yield from mentions(node.head)
        for element in node.path:
            yield from mentions(element)
    elif kind is Call:
        for argument in node.args:
            yield from mentions(argument)
    elif kind is Array or kind is SetTerm:
        for item in node.items:
            yield from mentions(item)
    elif kind is ObjectTerm:
        for key, value in node.pairs:
            yield from mentions(key)
            yield from mentions(value)
    elif kind is Unify:
        yield from mentions(node.lhs)
        yield from mentions(node.rhs)
    elif kind is SomeIn:
        for part in (node.key, node.value, node.domain):
            yield from mentions(part)
    elif kind is Every:
        yield from mentions(node.domain)
    elif kind is Statement:
        yield from mentions(node.expr)


def pattern_vars(node: Any) -> Iterable[Var]:
    """Yield the variables an assignment's left side declares."""
    kind = type(node)
    if kind is Var:
        yield node
    elif kind is Array:
        for item in node.items:
            yield from pattern_vars(item)
    elif kind is ObjectTerm:
        for _, value in node.pairs:
            yield from pattern_vars(value)


def declarations(statement: Statement) -> Iterable[Var]:
    node = statement.expr
    if type(node) is Unify and node.assign:
        yield from pattern_vars(node.lhs)
    elif type(node) is SomeDecl:
        yield from node.names
    elif type(node) is SomeIn:
        yield from pattern_vars(node.key)
        yield from pattern_vars(node.value)


def split_head(rule: Rule) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Split a head path into its constant prefix and the terms after it.

    `p[x]`, `p.q[x].r` file under `p`, `p.q`; a constant last element with nothing variable before it belongs to the prefix.
    """
    parts: list[Any] = [rule.ref[0].name]
    for index, part in enumerate(rule.ref[1:], start=1):
        if type(part) is not Scalar:
            return tuple(parts), tuple(rule.ref[index:])
        parts.append(part.value)
    return tuple(parts), ()
