"""Values as text: JSON for results, Rego notation inside messages.

Sets print as sorted arrays in JSON and as `{...}` in Rego notation; objects print with sorted keys in both.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from policies.rego.values import RegoSet, freeze, ordered, thaw


def number_text(value: float | Decimal) -> str:
    """Return a number in decimal, as OPA prints it."""
    if type(value) is int:
        return str(value)
    if type(value) is float:
        return repr(value)
    return str(value).replace("E+", "e").replace("E", "e")


def quote(text: str) -> str:
    """Return a string in double quotes with JSON escapes, non-ASCII left as it is."""
    return json.dumps(text, ensure_ascii=False)


def rego(value: Any) -> str:  # noqa: PLR0911 - one flat list of cases
    """Return a value in Rego notation."""
    kind = type(value)
    if kind is str:
        return quote(value)
    if kind is list:
        return "[" + ", ".join([rego(item) for item in value]) + "]"
    if kind is dict:
        return "{" + ", ".join([f"{rego(key)}: {rego(value[freeze(key)])}" for key in ordered(map(thaw, value))]) + "}"
    if kind is RegoSet:
        return "{" + ", ".join([rego(item) for item in ordered(value)]) + "}" if value else "set()"
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    return number_text(value)


def display(value: Any) -> str:
    """Return a value for a message: strings bare, the rest in Rego notation."""
    return value if type(value) is str else rego(value)


def to_json(value: Any) -> Any:
    """Return a value as plain JSON data: sets become sorted arrays, keys that are no strings become their JSON text."""
    kind = type(value)
    if kind is list:
        return [to_json(item) for item in value]
    if kind is RegoSet:
        return [to_json(item) for item in ordered(value)]
    if kind is dict:
        return {key if type(key) is str else json_text(thaw(key)): to_json(item) for key, item in value.items()}
    return value


def json_text(value: Any) -> str:  # noqa: PLR0911 - one flat list of cases
    """Return compact JSON, keys sorted, as `json.marshal` prints it."""
    kind = type(value)
    if kind is str:
        return _marshal_string(value)
    if kind is list:
        return "[" + ",".join([json_text(item) for item in value]) + "]"
    if kind is RegoSet:
        return "[" + ",".join([json_text(item) for item in ordered(value)]) + "]"
    if kind is dict:
        named = {key if type(key) is str else json_text(thaw(key)): item for key, item in value.items()}
        return "{" + ",".join([f"{_marshal_string(key)}:{json_text(named[key])}" for key in sorted(named)]) + "}"
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    return number_text(value)


def _marshal_string(text: str) -> str:
    """JSON as Go writes it: `<`, `>`, `&` and the two line separators are escaped."""
    out = json.dumps(text, ensure_ascii=False)
    for char, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):
        if char in out:
            out = out.replace(char, escape)
    return out
