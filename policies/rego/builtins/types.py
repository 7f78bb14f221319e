"""is_*, type_name, cast_*."""

from __future__ import annotations

from typing import Any

from policies.rego.builtins.registry import builtin, operand_error, type_name, want_array, want_object, want_string
from policies.rego.values import NUMBERS, RegoSet, make_set, ordered

builtin("type_name", 1)(type_name)


@builtin("is_array", 1)
def is_array(value: Any) -> bool:
    """Whether an array."""
    return type(value) is list


@builtin("is_boolean", 1)
def is_boolean(value: Any) -> bool:
    """Whether a boolean."""
    return type(value) is bool


@builtin("is_null", 1)
def is_null(value: Any) -> bool:
    """Whether null."""
    return value is None


@builtin("is_number", 1)
def is_number(value: Any) -> bool:
    """Whether a number."""
    return type(value) in NUMBERS


@builtin("is_object", 1)
def is_object(value: Any) -> bool:
    """Whether an object."""
    return type(value) is dict


@builtin("is_set", 1)
def is_set(value: Any) -> bool:
    """Whether a set."""
    return type(value) is RegoSet


@builtin("is_string", 1)
def is_string(value: Any) -> bool:
    """Whether a string."""
    return type(value) is str


@builtin("cast_array", 1)
def cast_array(value: Any) -> list[Any]:
    """A set as a sorted array."""
    return ordered(value) if type(value) is RegoSet else want_array(value)


@builtin("cast_set", 1)
def cast_set(value: Any) -> RegoSet:
    """An array as a set."""
    return value if type(value) is RegoSet else make_set(want_array(value))


@builtin("cast_string", 1)
def cast_string(value: Any) -> str:
    """A string, unchanged."""
    return want_string(value)


@builtin("cast_boolean", 1)
def cast_boolean(value: Any) -> bool:
    """A boolean, unchanged."""
    if type(value) is not bool:
        raise operand_error(1, "boolean", value)
    return value


@builtin("cast_null", 1)
def cast_null(value: Any) -> None:
    """null, unchanged."""
    if value is not None:
        raise operand_error(1, "null", value)


@builtin("cast_object", 1)
def cast_object(value: Any) -> dict[Any, Any]:
    """An object, unchanged."""
    return want_object(value)
