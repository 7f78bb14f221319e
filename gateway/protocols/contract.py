"""The schema contract of a model: which inputs a call may carry, and of what kind.

Compiled once per snapshot from the model's file; checked on every call. A violation names the input, the row and the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from gateway.documents import FieldDocument

Column = Sequence[Any]
Check = Callable[[Mapping[str, Column]], str | None]
"""Takes columns by input name; returns what is wrong, or None."""


def compile_contract(inputs: Mapping[str, FieldDocument], unknown: str) -> Check | None:
    """Return the check for a contract, or None where the contract is empty.

    Args:
        inputs: field by input name.
        unknown: `reject` or `allow` inputs the contract does not name.
    """
    if not inputs:
        return None
    columns = {name: _compile_field(name, field) for name, field in inputs.items()}
    required = frozenset(name for name, field in inputs.items() if field.required)
    reject_unknown = unknown == "reject"

    def check(call: Mapping[str, Column]) -> str | None:
        if not required <= call.keys():
            return f"input `{min(required - call.keys())}` is missing"
        for name, column in call.items():
            test = columns.get(name)
            if test is None:
                if reject_unknown:
                    return f"input `{name}` is not in the model's schema, which names {', '.join(f'`{known}`' for known in sorted(columns))}"
                continue
            for row, value in enumerate(column):
                fault = test(value)
                if fault is not None:
                    return f"input `{name}`, row {row}: {fault}"
        return None

    return check


def _compile_field(name: str, field: FieldDocument) -> Callable[[Any], str | None]:
    del name
    if field.type in ("number", "integer"):
        return _number(field)
    if field.type == "boolean":
        return lambda value: None if value is True or value is False or (value is None and field.nullable) else "has to be true or false"
    allowed = frozenset(field.allowed)

    def text(value: Any) -> str | None:
        if type(value) is str:
            return None if not allowed or value in allowed else f"`{value[:40]}` is not one of {', '.join(sorted(allowed))}"
        return None if value is None and field.nullable else "has to be text"

    return text


def _number(field: FieldDocument) -> Callable[[Any], str | None]:
    low = -math.inf if field.min is None else _bound(field.min)
    high = math.inf if field.max is None else _bound(field.max)
    whole = field.type == "integer"

    def number(value: Any) -> str | None:
        kind = type(value)
        if kind is not int and (kind is not float or (whole and not value.is_integer())):
            if value is None and field.nullable:
                return None
            return "has to be a whole number" if whole else "has to be a number"
        if low <= value <= high:
            return None
        return f"{value} is outside {field.min if field.min is not None else '-inf'} to {field.max if field.max is not None else 'inf'}"

    return number


def _bound(text: str) -> float:
    """Return a bound as a number that compares exactly: int where it is whole (Python compares int and float without rounding)."""
    exact = Decimal(text)
    return int(exact) if exact == exact.to_integral_value() else float(exact)
