"""count, sum, product, max, min, sort, all, any."""

from __future__ import annotations

from typing import Any

from policies.rego.builtins import arithmetic
from policies.rego.builtins.registry import builtin, operand_error
from policies.rego.errors import BuiltinError
from policies.rego.values import NUMBERS, RegoSet, ordered


def _members(value: Any) -> list[Any]:
    if type(value) is not list and type(value) is not RegoSet:
        raise operand_error(1, "one of {set, array}", value)
    return list(value)


@builtin("count", 1)
def count(value: Any) -> int:
    """Number of members, or of characters."""
    if type(value) in {list, dict, RegoSet, str}:
        return len(value)
    raise operand_error(1, "one of {array, object, set, string}", value)


def _numbers(value: Any) -> list[Any]:
    members = _members(value)
    for item in members:
        if type(item) not in NUMBERS:
            raise BuiltinError("operand 1 must be numbers only", "eval_type_error")
    return members


@builtin("sum", 1)
def total(value: Any) -> Any:
    """Sum of numbers."""
    numbers = _numbers(value)
    if all(type(item) is int for item in numbers):
        return arithmetic.bounded(sum(numbers))
    result: Any = 0
    for item in ordered(numbers) if type(value) is RegoSet else numbers:
        result = arithmetic.add(result, item)
    return result


@builtin("product", 1)
def product(value: Any) -> Any:
    """Product of numbers."""
    result: Any = 1
    for item in ordered(_numbers(value)) if type(value) is RegoSet else _numbers(value):
        result = arithmetic.multiply(result, item)
    return result


@builtin("max", 1)
def maximum(value: Any) -> Any:
    """Largest member; nothing for an empty collection."""
    members = ordered(_members(value))
    if not members:
        raise BuiltinError("max of an empty collection", "undefined")
    return members[-1]


@builtin("min", 1)
def minimum(value: Any) -> Any:
    """Smallest member; nothing for an empty collection."""
    members = ordered(_members(value))
    if not members:
        raise BuiltinError("min of an empty collection", "undefined")
    return members[0]


@builtin("sort", 1)
def sort(value: Any) -> list[Any]:
    """Members in OPA's order."""
    return ordered(_members(value))


@builtin("all", 1)
def every(value: Any) -> bool:
    """Whether all members are true."""
    return all(item is True for item in _members(value))


@builtin("any", 1)
def some(value: Any) -> bool:
    """Whether a member is true."""
    return any(item is True for item in _members(value))
