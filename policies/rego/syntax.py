"""The syntax tree: frozen values with the offset (`pos`) of their first character.

Terms: `Scalar`, `Var`, `Ref`, `Call`, `Array`, `SetTerm`, `ObjectTerm`, three comprehensions, `Template`.
Statements: `Statement(expr, negated, withs)` where `expr` is a term or one of `Unify`, `SomeDecl`, `SomeIn`, `Every`, `Body`, `Logic`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from policies.rego.lexer import Source


@dataclass(frozen=True, slots=True)
class Scalar:
    """null, boolean, number or string."""

    value: Any
    pos: int


@dataclass(frozen=True, slots=True)
class Var:
    """A name; each wildcard `_` gets a name of its own that begins with `_#`."""

    name: str
    pos: int


@dataclass(frozen=True, slots=True)
class Ref:
    """`head.a[b]`: a head term and at least one path element."""

    head: Any
    path: tuple[Any, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a built-in or function; operators are calls of `plus`, `eq`, ...  `op` is a Var or Ref of names."""

    op: Any
    args: tuple[Any, ...]
    pos: int
    infix: bool = False


@dataclass(frozen=True, slots=True)
class Array:
    """`[a, b]`."""

    items: tuple[Any, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class SetTerm:
    """`{a, b}` or `set()`."""

    items: tuple[Any, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class ObjectTerm:
    """`{k: v}`."""

    pairs: tuple[tuple[Any, Any], ...]
    pos: int


@dataclass(frozen=True, slots=True)
class Comprehension:
    """`[value | body]`, `{value | body}` or `{key: value | body}`; `kind` is array, set or object."""

    kind: str
    key: Any
    value: Any
    body: tuple[Statement, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class Template:
    """A template string: str pieces and statements."""

    parts: tuple[Any, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class Unify:
    """`lhs = rhs`, or `lhs := rhs` when `assign`."""

    lhs: Any
    rhs: Any
    assign: bool
    pos: int


@dataclass(frozen=True, slots=True)
class SomeDecl:
    """`some x, y`."""

    names: tuple[Var, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class SomeIn:
    """`some k, v in domain`; `key` may be None."""

    key: Any
    value: Any
    domain: Any
    pos: int


@dataclass(frozen=True, slots=True)
class Every:
    """`every k, v in domain { body }`."""

    key: Any
    value: Any
    domain: Any
    body: tuple[Statement, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class Body:
    """`{ a; b }` as an operand of `not`, `and`, `or`."""

    statements: tuple[Statement, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class Logic:
    """`a and b`, `a or b` over bodies."""

    op: str
    left: tuple[Statement, ...]
    right: tuple[Statement, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class With:
    """`with target as value`."""

    target: Any
    value: Any
    pos: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One expression of a body."""

    expr: Any
    negated: bool
    withs: tuple[With, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class Branch:
    """One body with its value: the rule itself, or an `else`."""

    value: Any
    body: tuple[Statement, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule or function.

    Args:
        ref: Head path; the first is a Var, later ones are terms.
        args: Parameters of a function, else None.
        key: Element of `contains`, else None.
        branches: The body and its `else` chain, in order.
        is_default: `default` rule.
        has_value: a value was written.
        has_body: a body was written.
        pos: Offset of the head.
        end: Offset after the rule.
        annotations: Metadata block, as text lines, or None.
    """

    ref: tuple[Any, ...]
    args: tuple[Any, ...] | None
    key: Any
    branches: tuple[Branch, ...]
    is_default: bool
    has_value: bool
    has_body: bool
    pos: int
    end: int
    annotations: str | None = None


@dataclass(frozen=True, slots=True)
class Import:
    """`import path as alias`."""

    path: tuple[str, ...]
    alias: str | None
    pos: int

    @property
    def name(self) -> str:
        """The name the import is known by in its module."""
        return self.alias or self.path[-1]


@dataclass(frozen=True, slots=True)
class Module:
    """One parsed file."""

    source: Source
    package: tuple[str, ...]
    imports: tuple[Import, ...]
    rules: tuple[Rule, ...]
    annotations: tuple[tuple[int, int, str], ...] = field(default=())
    package_pos: int = 0
