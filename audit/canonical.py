r"""Canonical JSON (RFC 8785): one byte string per JSON value.

Rules:

- Object members are sorted by the UTF-16 code units of their names; no white space; text is escaped only where it must be.
- Numbers print as ECMAScript prints them. Integers outside ±(2**53 - 1), NaN and infinities are refused: they have no exact double.
- Text that is not valid Unicode (a lone surrogate) is refused.

This is the general encoder, for documents of every shape; records have a narrower profile and a faster path in `audit.leaf`.

Example:
    >>> encode({"b": 1e21, "a": [1.0, "\x07é"]})
    b'{"a":[1,"\\u0007\xc3\xa9"],"b":1e+21}'
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

INTEGER_LIMIT: Final = 2**53
DEPTH_LIMIT: Final = 300
"""Levels of nesting; far inside Python's recursion limit."""

_SHORT_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f]')


class CanonicalError(ValueError):
    """A value has no canonical JSON form. Says where by key path."""


def encode(value: Any) -> bytes:
    """Return the RFC 8785 bytes of a value made of dict, list, tuple, str, int, float, bool and None.

    Raises:
        CanonicalError: Another type, a number JSON cannot carry exactly, a key that is not text, text that is not Unicode, or nesting beyond
            300 levels (so also a cycle).
    """
    parts: list[str] = []
    try:
        _write(value, "value", 0, parts)
        return "".join(parts).encode()
    except UnicodeEncodeError as error:
        raise CanonicalError("text holds a lone surrogate, which is not Unicode") from error


def number(value: float) -> str:
    """Return a finite double as ECMAScript's Number::toString prints it (ECMA-262 section 6.1.6.1.20), as RFC 8785 section 3.2.2.3 asks.

    Raises:
        CanonicalError: NaN or an infinity.
    """
    if not math.isfinite(value):
        raise CanonicalError(f"`{value}` is not a JSON number")
    if value == 0:
        return "0"  # also for -0.0
    sign, (digits, point) = ("-" if value < 0 else ""), _shortest(abs(value))
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    mantissa = digits if count == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{sign}{mantissa}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def _shortest(value: float) -> tuple[str, int]:
    """Return (digits, n) with value = 0.digits * 10**n and the fewest digits that read back as `value`; Python's repr finds them."""
    mantissa, _, exponent = repr(value).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = whole + fraction
    point = len(whole) + int(exponent or 0)
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    return stripped.rstrip("0"), point


def _escape(match: re.Match[str]) -> str:
    return _SHORT_ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}"


def _text(text: str) -> str:
    return f'"{_ESCAPED.sub(_escape, text)}"'


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")


def _scalar(value: Any, path: str) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return number(value)
    if not isinstance(value, int):
        raise CanonicalError(f"`{path}` is of type `{type(value).__name__}`, which JSON does not have")
    if not -INTEGER_LIMIT < value < INTEGER_LIMIT:
        raise CanonicalError(f"`{path}` is an integer outside ±(2**53 - 1)")
    return int.__repr__(value)


def _write(value: Any, path: str, depth: int, parts: list[str]) -> None:
    """Append the text of `value` to `parts`."""
    if depth > DEPTH_LIMIT:
        raise CanonicalError(f"`{path[:80]}…` is nested deeper than {DEPTH_LIMIT} levels")
    if isinstance(value, Mapping):
        _write_object(value, path, depth, parts)
    elif isinstance(value, list | tuple):
        parts.append("[")
        for position, member in enumerate(value):
            if position:
                parts.append(",")
            _write(member, f"{path}[{position}]", depth + 1, parts)
        parts.append("]")
    else:
        parts.append(_scalar(value, path))


def _write_object(value: Mapping[Any, Any], path: str, depth: int, parts: list[str]) -> None:
    for key in value:
        if not isinstance(key, str):
            raise CanonicalError(f"`{path}` has the key `{key!r}`, which is not text")
    parts.append("{")
    for position, key in enumerate(sorted(value, key=_utf16)):
        if position:
            parts.append(",")
        parts.append(_text(key) + ":")
        _write(value[key], f"{path}.{key}", depth + 1, parts)
    parts.append("}")
