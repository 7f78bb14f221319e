"""semver.* (semver.org 2.0.0)."""

from __future__ import annotations

import re
from typing import Any

from policies.rego.builtins.registry import builtin, want_string
from policies.rego.errors import BuiltinError

_NUMBER = r"(0|[1-9][0-9]*)"
_VERSION = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*))?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?\Z"
)


def _parse(text: Any, position: int) -> Any:
    match = _VERSION.match(want_string(text, position)) if len(want_string(text, position)) < 1_000 else None
    if match is None:
        raise BuiltinError(f"operand {position}: string `{text[:60]}` is not a valid SemVer")
    major, minor, patch, pre = match.groups()
    # A version without a pre-release is the larger one; numbers sort before words (semver.org 11.3, 11.4).
    parts = [(1, 0, "")] if pre is None else [(0, 0, "")]
    parts.extend((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in (pre.split(".") if pre else ()))
    return (int(major), int(minor), int(patch), parts)


@builtin("semver.compare", 2)
def compare(left: Any, right: Any) -> int:
    """-1, 0 or 1."""
    one, other = _parse(left, 1), _parse(right, 2)
    return int(one > other) - int(one < other)


@builtin("semver.is_valid", 1)
def is_valid(text: Any) -> bool:
    """Whether a string is a version."""
    if type(text) is not str:
        return False
    try:
        _parse(text, 1)
    except BuiltinError:
        return False
    return True
