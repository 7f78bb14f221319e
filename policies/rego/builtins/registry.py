"""The table of built-ins and of those refused.

The table is filled while the family modules are imported (by `policies.rego.builtins.load`) and not changed afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from policies.rego.errors import BuiltinError
from policies.rego.values import NUMBERS, RegoSet

F = TypeVar("F", bound=Callable[..., Any])

REFUSED: Final = frozenset({"http.send", "net.lookup_ip_addr", "opa.runtime", "rand.intn", "uuid.rfc4122", "rego.parse_module"})
REFUSED_FAMILIES: Final = ("graphql.", "providers.aws.")


def refusal(name: str) -> bool:
    """Tell whether a name is on the refused list: it reaches outside the policy or is not a function of its arguments."""
    return name in REFUSED or name.startswith(REFUSED_FAMILIES)


@dataclass(frozen=True, slots=True)
class Builtin:
    """A built-in: `arity` -1 means any number of arguments."""

    name: str
    arity: int
    call: Callable[..., Any]
    context: bool = False


BUILTINS: dict[str, Builtin] = {}


def builtin(name: str, arity: int, *, context: bool = False) -> Callable[[F], F]:
    """Register a function as the built-in `name`."""

    def register(function: F) -> F:
        BUILTINS[name] = Builtin(name, arity, function, context)
        return function

    return register


_NAMES = {type(None): "null", bool: "boolean", str: "string", list: "array", dict: "object", RegoSet: "set"}


def type_name(value: Any) -> str:
    """Return OPA's name of a value's type."""
    return _NAMES.get(type(value), "number")


def operand_error(position: int, wanted: str, value: Any) -> BuiltinError:
    """Return (not raise) the error of an operand of the wrong type."""
    return BuiltinError(f"operand {position} must be {wanted} but got {type_name(value)}", "eval_type_error")


def want_string(value: Any, position: int = 1) -> str:
    """Return a string operand."""
    if type(value) is not str:
        raise operand_error(position, "string", value)
    return value


def want_number(value: Any, position: int = 1) -> Any:
    """Return a number operand."""
    if type(value) not in NUMBERS:
        raise operand_error(position, "number", value)
    return value


def want_integer(value: Any, position: int = 1) -> int:
    """Return an integer operand; `2.0` counts as 2."""
    if type(value) is int:
        return value
    if type(want_number(value, position)) is not int and value == int(value):
        return int(value)
    raise BuiltinError(f"operand {position} must be integer number but got floating-point number", "eval_type_error")


def want_array(value: Any, position: int = 1) -> list[Any]:
    """Return an array operand."""
    if type(value) is not list:
        raise operand_error(position, "array", value)
    return value


def want_set(value: Any, position: int = 1) -> RegoSet:
    """Return a set operand."""
    if type(value) is not RegoSet:
        raise operand_error(position, "set", value)
    return value


def want_object(value: Any, position: int = 1) -> dict[Any, Any]:
    """Return an object operand."""
    if type(value) is not dict:
        raise operand_error(position, "object", value)
    return value


def want_strings(value: Any, position: int = 1) -> list[str]:
    """Return the strings of an array or set operand."""
    if type(value) is not list and type(value) is not RegoSet:
        raise operand_error(position, "one of {set, array}", value)
    found = list(value)
    for item in found:
        if type(item) is not str:
            raise BuiltinError(f"operand {position} must be array of string but got array containing {type_name(item)}", "eval_type_error")
    return found
