"""Rego values as plain Python, and the order and equality OPA defines on them.

| Rego | Python |
|---|---|
| null, boolean, string | `None`, `bool`, `str` |
| number | `int`; `float` when the decimal text is the float's own; else `Decimal` |
| array, object, set | `list`, `dict`, `RegoSet` |

Python thinks `1 == True`, Rego does not; Python cannot hash lists, Rego has sets of them. Both are settled by *keys*: what stands in
a `dict` or `RegoSet` is the value itself for null, strings and numbers, and a `Key` for booleans and composites.
Values are shared freely, so nothing in the engine changes one after it was built.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import cmp_to_key
from typing import Any, Final

from policies.rego.errors import LimitError


class Undefined:
    """The type of `UNDEFINED`: no value. It is not false, not null, and equal only to itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNDEFINED"

    def __bool__(self) -> bool:
        return False


UNDEFINED: Final = Undefined()


MAX_KEY_NODES: Final = 500_000
_PLAIN = frozenset({str, int, float, Decimal, type(None)})


class Key:
    """A hashable stand-in for a boolean or composite inside a dict or set.

    `value` is what it stands for, `weight` the number of values inside it, shared parts counted as often as they occur. Making a key
    walks the value, so a value heavier than `MAX_KEY_NODES` is refused on the way.
    """

    __slots__ = ("_form", "_hash", "value", "weight")
    weight: int

    def __init__(self, value: Any) -> None:
        self.value = value
        kind = type(value)
        form: Any
        members: Any = ()
        weight = 1
        if kind is bool:
            form = ("b", value)
        elif kind is list or kind is dict:
            members = list(value) if kind is list else list(value.values())
            weight += len(members)
            for index, item in enumerate(members):
                if type(item) not in _PLAIN:
                    members[index] = key = freeze(item)
                    weight += key.weight - 1
            form = ("a", tuple(members)) if kind is list else ("o", frozenset(zip(value, members, strict=True)))
        elif kind is RegoSet:
            for member in frozenset.__iter__(value):
                weight += member.weight if type(member) is Key else 1
            form = ("s", frozenset(frozenset.__iter__(value)))
        else:
            raise TypeError(f"`{kind.__name__}` is not a Rego value")
        if weight > MAX_KEY_NODES:
            raise LimitError("nodes", f"a member of a set, or a key, of more than `{MAX_KEY_NODES}` values")
        self.weight = weight
        self._form = form
        self._hash = hash(form)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if type(other) is Key:
            return self._hash == other._hash and self._form == other._form
        return NotImplemented

    def __repr__(self) -> str:
        return repr(self.value)


_TRUE: Final = Key(True)
_FALSE: Final = Key(False)


class RegoSet(frozenset[Any]):
    """An immutable set of Rego values. Built from keys; iterates over values."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        for key in frozenset.__iter__(self):
            yield key.value if type(key) is Key else key

    def __contains__(self, value: object) -> bool:
        return frozenset.__contains__(self, freeze(value))

    def __repr__(self) -> str:
        return "{" + ", ".join(repr(value) for value in ordered(self)) + "}" if self else "set()"


has_key = frozenset.__contains__
"""`has_key(rego_set, key)`: membership by key, without freezing again."""

EMPTY_SET: Final = RegoSet()
NUMBERS = frozenset({int, float, Decimal})


def freeze(value: Any) -> Any:
    """Return the key of a value."""
    kind = type(value)
    if kind in _PLAIN or kind is Key:
        return value
    if kind is bool:
        return _TRUE if value else _FALSE
    return Key(value)


def thaw(key: Any) -> Any:
    """Return the value a key stands for."""
    return key.value if type(key) is Key else key


def make_set(values: Iterable[Any]) -> RegoSet:
    """Return the set of some values."""
    return RegoSet([freeze(value) for value in values])


def lookup(container: Any, key: Any) -> Any:
    """Return `container[key]`, or `UNDEFINED`: absent key, index out of range, or no container at all."""
    kind = type(container)
    if kind is dict:
        return container.get(key if type(key) is str else freeze(key), UNDEFINED)
    if kind is list:
        if type(key) is int and 0 <= key < len(container):
            return container[key]
        return UNDEFINED
    if kind is RegoSet and has_key(container, freeze(key)):
        return key
    return UNDEFINED


def entries(container: Any) -> Iterable[tuple[Any, Any]]:
    """Return (key, value) pairs in OPA's order of iteration; nothing for a scalar. In a set a member is its own key."""
    kind = type(container)
    if kind is list:
        return enumerate(container)
    if kind is dict:
        return [(thaw(key), container[key]) for key in container]
    if kind is RegoSet:
        return [(value, value) for value in container]
    return ()


def equal(left: Any, right: Any) -> bool:
    """Tell whether two values are equal: `1 == 1.0`, but `1 != true`."""
    kind = type(left)
    if kind is type(right):
        if kind is list:
            return len(left) == len(right) and all(map(equal, left, right))
        if kind is dict:
            if len(left) != len(right):
                return False
            for key, value in left.items():
                other = right.get(key, UNDEFINED)
                if other is UNDEFINED or not equal(value, other):
                    return False
            return True
        return bool(left == right)
    return kind in NUMBERS and type(right) in NUMBERS and bool(left == right)


_RANK = {type(None): 0, bool: 1, int: 2, float: 2, Decimal: 2, str: 3, list: 5, dict: 6, RegoSet: 7}


def rank(value: Any) -> int:
    """Return the place of a value's type in OPA's order: null, boolean, number, string, array, object, set."""
    try:
        return _RANK[type(value)]
    except KeyError:
        raise TypeError(f"`{type(value).__name__}` is not a Rego value") from None


def compare(left: Any, right: Any) -> int:
    """Return -1, 0 or 1 by OPA's total order of values."""
    kind = rank(left)
    other = rank(right)
    if kind != other:
        return -1 if kind < other else 1
    if kind <= 3:
        return 0 if left == right else (-1 if kind and left < right else 1)
    if kind == 5:
        return _compare_sequences(left, right)
    if kind == 7:
        return _compare_sequences(ordered(left), ordered(right))
    keys, others = ordered(map(thaw, left)), ordered(map(thaw, right))
    for key, other_key in zip(keys, others, strict=False):
        verdict = compare(key, other_key) or compare(left[freeze(key)], right[freeze(other_key)])
        if verdict:
            return verdict
    return (len(keys) > len(others)) - (len(keys) < len(others))


def _compare_sequences(left: list[Any], right: list[Any]) -> int:
    for item, other in zip(left, right, strict=False):
        verdict = compare(item, other)
        if verdict:
            return verdict
    return (len(left) > len(right)) - (len(left) < len(right))


_order_key = cmp_to_key(compare)


def ordered(values: Iterable[Any]) -> list[Any]:
    """Return values sorted by OPA's order."""
    found = list(values)
    kinds = set(map(type, found))
    if kinds <= {str} or kinds <= {int, float}:
        found.sort()
    else:
        found.sort(key=_order_key)
    return found


def import_value(value: Any, *, depth_limit: int = 200) -> Any:
    """Return a Python value as a Rego value: tuples become arrays, Python sets become sets, other types are refused.

    Raises:
        LimitError: nested deeper than `depth_limit`.
        TypeError: a value that JSON and Rego do not have (NaN, bytes, objects).
    """
    if depth_limit <= 0:
        raise LimitError("depth", "a document is nested too deep")
    kind = type(value)
    if kind is dict:
        return {_import_key(key): import_value(item, depth_limit=depth_limit - 1) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [import_value(item, depth_limit=depth_limit - 1) for item in value]
    if kind is float and not math.isfinite(value):
        raise TypeError(f"`{value}` is not a JSON number")
    if kind in _PLAIN or kind is bool or kind is RegoSet:
        return value
    if kind is set or kind is frozenset:
        return make_set(import_value(item, depth_limit=depth_limit - 1) for item in value)
    raise TypeError(f"`{kind.__name__}` is not a Rego value")


def _import_key(key: Any) -> Any:
    kind = type(key)
    if kind in _PLAIN or kind is Key:
        return key
    if kind is tuple:
        return Key(import_value(key))
    return Key(key)


def depth_exceeds(value: Any, limit: int) -> bool:
    """Tell whether a JSON document is nested deeper than `limit`, without recursion."""
    level = [value]
    for _ in range(limit):
        level = [
            item
            for node in level
            if type(node) is dict or type(node) is list
            for item in (node.values() if type(node) is dict else node)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return False
    return True
