"""What the parser's tree becomes once every name is known: terms over slots, and statements not yet ordered.

A rule runs over one *frame*, a list: index 0 is the evaluation context, the rest are the rule's variables, each with a slot of its own
(bodies of comprehensions, `every` and `not` share the frame). Rego forbids recursion, so a frame is never entered twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Const:
    """A value known at load."""

    value: Any
    pos: int = 0


@dataclass(frozen=True, slots=True)
class Local:
    """A variable."""

    slot: int
    pos: int = 0


@dataclass(frozen=True, slots=True)
class Doc:
    """A reference into `input` or `data`; path elements are terms."""

    root: str
    path: tuple[Any, ...]
    pos: int = 0


@dataclass(frozen=True, slots=True)
class Get:
    """A reference into a computed value."""

    base: Any
    path: tuple[Any, ...]
    pos: int = 0


@dataclass(frozen=True, slots=True)
class Apply:
    """A call: `name` of a built-in, or the `data` path of a function."""

    name: str | tuple[str, ...]
    args: tuple[Any, ...]
    pos: int = 0


@dataclass(frozen=True, slots=True)
class ArrayT:
    """An array with parts that are not constant."""

    items: tuple[Any, ...]
    pos: int = 0


@dataclass(frozen=True, slots=True)
class SetT:
    """A set with parts that are not constant."""

    items: tuple[Any, ...]
    pos: int = 0


@dataclass(frozen=True, slots=True)
class ObjectT:
    """An object with parts that are not constant."""

    pairs: tuple[tuple[Any, Any], ...]
    pos: int = 0


@dataclass(frozen=True, slots=True)
class Compr:
    """A comprehension; `kind` is array, set or object."""

    kind: str
    key: Any
    value: Any
    body: tuple[Any, ...]
    outer: frozenset[int]
    pos: int = 0


@dataclass(frozen=True, slots=True)
class TemplateT:
    """A template string: str pieces and (body, slot) pairs."""

    parts: tuple[Any, ...]
    outer: frozenset[int]
    pos: int = 0


@dataclass(frozen=True, slots=True)
class Match:
    """Unification."""

    left: Any
    right: Any
    pos: int = 0


@dataclass(frozen=True, slots=True)
class Test:
    """A term that must be defined and not false."""

    term: Any
    pos: int = 0


@dataclass(frozen=True, slots=True)
class Not:
    """Negation as failure; `strict` = every variable inside must be bound outside."""

    body: tuple[Any, ...]
    outer: frozenset[int]
    pos: int = 0


@dataclass(frozen=True, slots=True)
class EveryS:
    """`every`."""

    key: int
    value: int
    domain: Any
    body: tuple[Any, ...]
    outer: frozenset[int]
    pos: int = 0


@dataclass(frozen=True, slots=True)
class LogicS:
    """`and`, `or` over closed bodies."""

    op: str
    left: tuple[Any, ...]
    right: tuple[Any, ...]
    outer: frozenset[int]
    pos: int = 0


@dataclass(frozen=True, slots=True)
class WithS:
    """Statements under `with`: targets are (root, path of str) for documents or (`call`, name) for functions."""

    targets: tuple[tuple[str, Any, Any], ...]
    body: tuple[Any, ...]
    pos: int = 0


@dataclass(frozen=True, slots=True)
class BranchIR:
    """One body with its head terms."""

    value: Any
    key: Any
    path: tuple[Any, ...]
    body: tuple[Any, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class RuleIR:
    """A rule ready for planning.

    Args:
        prefix: `data` path of constants the rule is filed under.
        dynamic: Number of head path terms after the prefix (0 for complete rules, functions and sets).
        kind: complete, set, object, or function.
        args: Terms of parameters, or None.
        branches: `else` chain in order.
        is_default: default rule.
        frame_size: Slots of the frame, with index 0 for the context.
        names: slot -> name, for traces.
        module: Index of the module.
        pos: Offset of the head.
    """

    prefix: tuple[Any, ...]
    dynamic: int
    kind: str
    args: tuple[Any, ...] | None
    branches: tuple[BranchIR, ...]
    is_default: bool
    frame_size: int
    names: tuple[str, ...]
    module: int
    pos: int
    text_end: int = 0


def locals_in(node: Any, found: set[int] | None = None) -> set[int]:  # noqa: C901, PLR0912 - one flat list of cases
    """Return the slots read by a term or statement; inside closures only those of the outside."""
    slots: set[int] = set() if found is None else found
    kind = type(node)
    if kind is Local:
        slots.add(node.slot)
    elif kind is Doc or kind is Get:
        if kind is Get:
            locals_in(node.base, slots)
        for element in node.path:
            locals_in(element, slots)
    elif kind is Apply:
        for argument in node.args:
            locals_in(argument, slots)
    elif kind is ArrayT or kind is SetT:
        for item in node.items:
            locals_in(item, slots)
    elif kind is ObjectT:
        for key, value in node.pairs:
            locals_in(key, slots)
            locals_in(value, slots)
    elif kind is Match:
        locals_in(node.left, slots)
        locals_in(node.right, slots)
    elif kind is Test:
        locals_in(node.term, slots)
    elif kind in _CLOSURES:
        _closure_locals(node, slots)
    elif kind is WithS:
        for _, _, value in node.targets:
            locals_in(value, slots)
        for statement in node.body:
            locals_in(statement, slots)
    return slots


def _closure_locals(node: Any, slots: set[int]) -> None:
    inner: set[int] = set()
    if type(node) is Compr:
        parts: tuple[Any, ...] = (*node.body, node.key, node.value)
    elif type(node) is TemplateT:
        parts = tuple(statement for part in node.parts if not isinstance(part, str) for statement in part[0])
    elif type(node) is LogicS:
        parts = (*node.left, *node.right)
    elif type(node) is EveryS:
        locals_in(node.domain, slots)
        parts = node.body
    else:
        parts = node.body
    for part in parts:
        locals_in(part, inner)
    slots |= inner & node.outer


_CLOSURES = frozenset({Compr, TemplateT, Not, EveryS, LogicS})
