"""Arrays: `array.*`."""

from __future__ import annotations

from typing import Any

from policies.rego.builtins.registry import builtin, want_array, want_integer
from policies.rego.errors import LimitError


def bounded_items(context: Any, count: int) -> None:
    """Refuse a collection larger than the caller allows."""
    if count > context.limits.items:
        raise LimitError("items", f"a collection of `{count}` members")


@builtin("array.concat", 2, context=True)
def concat(context: Any, left: Any, right: Any) -> list[Any]:
    """Both arrays, one after the other."""
    first, second = want_array(left), want_array(right, 2)
    bounded_items(context, len(first) + len(second))
    context.charge((len(first) + len(second)) // 64)
    return first + second


@builtin("array.slice", 3)
def piece(value: Any, start: Any, stop: Any) -> list[Any]:
    """Elements from start to before stop; indexes are clamped."""
    items, begin, end = want_array(value), want_integer(start, 2), want_integer(stop, 3)
    begin, end = max(begin, 0), min(max(end, 0), len(items))
    return items[begin:end] if begin < end else []


@builtin("array.reverse", 1)
def reverse(value: Any) -> list[Any]:
    """Elements from last to first."""
    return want_array(value)[::-1]


@builtin("array.flatten", 1)
def flatten(value: Any) -> list[Any]:
    """Elements of elements that are arrays, one level."""
    found: list[Any] = []
    for item in want_array(value):
        if type(item) is list:
            found.extend(item)
        else:
            found.append(item)
    return found
