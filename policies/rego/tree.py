"""Where rules live: the tree of `data` paths, and documents assembled from rules and base data.

A node may hold rules (its value is computed), children (packages, longer rule heads), or both. A document is what its rules yield,
then its children, then base data: rules win over data, and two rules that disagree are an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from policies.rego.errors import EvaluationError
from policies.rego.ir import RuleIR
from policies.rego.runtime import MISSING, Context
from policies.rego.values import UNDEFINED, RegoSet, equal, freeze, lookup, ordered, thaw


@dataclass(slots=True)
class Node:
    """One `data` path. `extent` is set by the compiler on first use and never changes after."""

    path: tuple[Any, ...]
    index: int = -1
    children: dict[Any, Node] = field(default_factory=dict)
    rules: list[RuleIR] = field(default_factory=list)
    extent: Callable[[Context], Any] | None = None
    function: Callable[..., Any] | None = None

    @property
    def kind(self) -> str:
        """Kind of the node's rules: `` (none), complete, set, object or function."""
        return self.rules[0].kind if self.rules else ""

    @property
    def is_function(self) -> bool:
        """Tell whether the node holds a function."""
        return bool(self.rules) and self.rules[0].kind == "function"


def overridden(context: Context, path: tuple[Any, ...]) -> bool:
    """Tell whether `with data...` replaced this path or one above it."""
    return any(path[: len(target)] == target for target in context.overrides)


def base_value(context: Context, path: Iterable[Any]) -> Any:
    """Return the base document at a path."""
    value = context.data
    for key in path:
        value = lookup(value, thaw(key))
        if value is UNDEFINED:
            return UNDEFINED
    return value


class Cursor:
    """A place in the tree that has not been turned into a value yet."""

    __slots__ = ("base", "node")

    def __init__(self, node: Node, base: Any) -> None:
        self.node = node
        self.base = base


class Documents:
    """Evaluates nodes. `compile_node` turns a node's rules into its extent."""

    def __init__(self, compile_node: Callable[[Node], None]) -> None:
        self._compile_node = compile_node

    def extent(self, context: Context, node: Node) -> Any:
        """Return what the node's own rules yield, once per context."""
        value = context.cache[node.index]
        if value is MISSING:
            if node.extent is None:
                self._compile_node(node)
            assert node.extent is not None  # noqa: S101 - set by the line above; tells the type checker
            value = context.cache[node.index] = node.extent(context)
        return value

    def value(self, context: Context, node: Node, base: Any) -> Any:
        """Return the whole document at a node."""
        if node.is_function:
            return base
        if context.overrides and overridden(context, node.path):
            return base_value(context, node.path)
        if not node.rules:
            return self._assemble(context, node, base)
        own = self.extent(context, node)
        if not node.children:
            return own
        result = dict(own) if type(own) is dict else {}
        for key, child in node.children.items():
            if not child.is_function:
                value = self.value(context, child, UNDEFINED)
                if value is not UNDEFINED:
                    result[key] = merge(result[key], value) if key in result else value
        return result

    def _assemble(self, context: Context, node: Node, base: Any) -> Any:
        result = dict(base) if type(base) is dict else {}
        for key, child in node.children.items():
            value = self.value(context, child, lookup(base, thaw(key)))
            if value is not UNDEFINED:
                result[key] = value
        return result

    # --- step by step ------------------------------------------------------------------------------------------------

    def start(self, context: Context, node: Node) -> Any:
        """Return a cursor on a node."""
        if context.overrides and overridden(context, node.path):
            return base_value(context, node.path)
        return Cursor(node, base_value(context, node.path))

    def step(self, context: Context, place: Any, key: Any) -> Any:  # noqa: PLR0911 - one flat list of cases
        """Return the place below `place`."""
        if type(place) is not Cursor:
            return lookup(place, key)
        child = place.node.children.get(freeze(key))
        if place.node.rules:
            own = lookup(self.extent(context, place.node), key)
            if child is None or child.is_function:
                return own
            below = self.value(context, child, UNDEFINED)
            return own if below is UNDEFINED else (below if own is UNDEFINED else merge(own, below))
        base = lookup(place.base, key)
        if child is None:
            return base
        if child.is_function:
            return UNDEFINED
        if context.overrides and overridden(context, child.path):
            return base_value(context, child.path)
        if child.rules and not child.children:
            return self.extent(context, child)
        return Cursor(child, base)

    def entries(self, context: Context, place: Cursor) -> list[tuple[Any, Any]]:
        """Return (key, place) pairs below a cursor, in order."""
        if place.node.rules:
            document = self.value(context, place.node, place.base)
            return [(key, lookup(document, key)) for key in (ordered(map(thaw, document)) if type(document) is dict else ())]
        keys = {key for key, child in place.node.children.items() if not child.is_function}
        if type(place.base) is dict:
            keys |= place.base.keys()
        found = [(key, self.step(context, place, key)) for key in ordered(map(thaw, keys))]
        return [(key, value) for key, value in found if value is not UNDEFINED]

    def finish(self, context: Context, place: Any) -> Any:
        """Turn a place into a value."""
        return self.value(context, place.node, place.base) if type(place) is Cursor else place


def merge(left: Any, right: Any) -> Any:
    """Merge two documents that rules gave for one path.

    Raises:
        EvaluationError: they disagree.
    """
    if type(left) is dict and type(right) is dict:
        result = dict(left)
        for key, value in right.items():
            result[key] = merge(result[key], value) if key in result else value
        return result
    if type(left) is RegoSet and type(right) is RegoSet:
        return RegoSet(frozenset.__or__(left, right))
    if not equal(left, right):
        raise EvaluationError("eval_conflict_error", "object keys must be unique")
    return left


def insert(target: dict[Any, Any], keys: list[Any], value: Any) -> None:
    """Put `value` at a path of a partial object under construction.

    Raises:
        EvaluationError: another value is there.
    """
    for key in keys[:-1]:
        inner = target.get(key, MISSING)
        if inner is MISSING:
            inner = target[key] = {}
        elif type(inner) is not dict:
            raise EvaluationError("eval_conflict_error", "object keys must be unique")
        target = inner
    last = keys[-1]
    old = target.get(last, MISSING)
    if old is not MISSING and not equal(old, value):
        raise EvaluationError("eval_conflict_error", f"object keys must be unique: key `{thaw(last)!r}` has two values")
    target[last] = value
