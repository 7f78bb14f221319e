r"""The leaf profile: the one spelling in which a record is hashed, stored and checked.

A leaf is an object in canonical JSON (RFC 8785) with further limits, under which fast encoders and the RFC agree byte for byte:

- no floats, no null; integers have |n| < 2**53 (fractions travel as ppm, microseconds, nano-currency);
- keys are ASCII; text is valid Unicode;
- at most 60 KiB, at most 254 levels deep.

`render` is on the path of every call: one pass of orjson, then a search of the bytes for what orjson lets through and the profile forbids. Only
when the search meets something suspicious are the values walked, to refuse with the key path or to clear a false alarm. `parse` is for those who
check: it accepts exactly what `render` produces.

Example:
    >>> render({"v": 1, "type": "call"})
    b'{"type":"call","v":1}'
    >>> parse(b'{"v":1,"type":"call"}')
    Traceback (most recent call last):
    audit.leaf.LeafError: leaf is not in its canonical spelling (order, white space, escapes or a duplicate key)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

SIZE_LIMIT_BYTES: Final = 60 * 1024
"""Below the 65,535 bytes that a C2SP entry bundle can carry."""
INTEGER_LIMIT: Final = 2**53
DEPTH_LIMIT: Final = 254
"""Levels of objects and arrays, as orjson writes them at most."""

_OPTIONS: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
# Without digits and signs, with `.`, `e`, `n` made one and `[` a comma, a float or a null shows as `":.` in an object and `,.` in an array.
_FOLD: Final = bytes.maketrans(b"neE[", b"...,")
_DIGITS: Final = b"0123456789-"


class LeafError(ValueError):
    """A value is outside the leaf profile, or bytes are not a leaf. Says where by key path."""


class LeafTooLargeError(LeafError):
    """The leaf would exceed `SIZE_LIMIT_BYTES`."""


def render(record: Mapping[str, Any]) -> bytes:
    """Return the leaf bytes of a record; about 3 microseconds for 650 bytes.

    Raises:
        LeafError: The record is outside the profile.
        LeafTooLargeError: It is larger than 60 KiB.
    """
    try:
        data = orjson.dumps(record, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        _refuse(record, "record", 1)
        raise LeafError(f"record cannot be a leaf: {error}") from error
    if len(data) > SIZE_LIMIT_BYTES:
        raise LeafTooLargeError(f"leaf has `{len(data)}` bytes, at most {SIZE_LIMIT_BYTES} are allowed")
    folded = data.translate(_FOLD, _DIGITS)
    # `find`, because `in` first takes bytes for a number, which costs a raised and dropped exception each time (CPython 3.11).
    if folded.find(b'":.') >= 0 or folded.find(b",.") >= 0 or not data.isascii():
        _refuse(record, "record", 1)
    if data[:1] != b"{":
        raise LeafError(f"a record is an object, got `{type(record).__name__}`")
    return data


def part(value: Any) -> str:
    """Return a part of a record as it stands in the leaf. Raises LeafError as `render`."""
    return render({"": value})[4:-1].decode()


def known_part(value: Mapping[str, Any]) -> str:
    """Return a part whose values are known to be text, booleans and small whole numbers, unchecked: for paths where `part` costs too much."""
    return orjson.dumps(value, option=_OPTIONS).decode()


def finished(unfinished: bytes, writer: bytes, seq: int) -> bytes:
    """Return a leaf rendered up to its last key, `writer`: `,"writer":{"epoch":1,"node":"n1.w0","seq":` and the number. Raises LeafTooLargeError."""
    data = b"%b%b%d}}" % (unfinished, writer, seq)
    if len(data) > SIZE_LIMIT_BYTES:
        raise LeafTooLargeError(f"leaf has `{len(data)}` bytes, at most {SIZE_LIMIT_BYTES} are allowed")
    return data


def parse(data: bytes) -> dict[str, Any]:
    """Return the record of a leaf, accepting only the bytes `render` gives for it.

    Raises:
        LeafError: Not JSON, not an object, outside the profile, a duplicate key, or another spelling.
    """
    if len(data) > SIZE_LIMIT_BYTES:
        raise LeafTooLargeError(f"leaf has `{len(data)}` bytes, at most {SIZE_LIMIT_BYTES} are allowed")
    try:
        record = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise LeafError(f"leaf is not JSON: {error}") from error
    if type(record) is not dict:
        raise LeafError(f"a record is an object, got `{type(record).__name__}`")
    if render(record) != data:
        raise LeafError("leaf is not in its canonical spelling (order, white space, escapes or a duplicate key)")
    return record


def _refuse(value: Any, path: str, depth: int) -> None:
    """Raise for the first value outside the profile, with its key path; return when there is none."""
    if depth > DEPTH_LIMIT:
        raise LeafError(f"`{path[:80]}…` is nested deeper than {DEPTH_LIMIT} levels")
    if value is None:
        raise LeafError(f"`{path}` is null; hint: leave the key out")
    if isinstance(value, float):
        raise LeafError(f"`{path}` is a float; hint: scale it to an integer (ppm, microseconds)")
    if isinstance(value, int) and not -INTEGER_LIMIT < value < INTEGER_LIMIT:
        raise LeafError(f"`{path}` is an integer outside ±(2**53 - 1)")
    if isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise LeafError(f"key `{key!r}` of `{path}` is not ASCII text")
            _refuse(member, f"{path}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for position, member in enumerate(value):
            _refuse(member, f"{path}[{position}]", depth + 1)
