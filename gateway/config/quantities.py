"""Quantities as people write them in YAML, and as the gateway counts them: whole numbers of the smallest unit.

| written | type | becomes |
|---|---|---|
| `50ms`, `10s`, `2h`, `1.5d` | `Duration` | microseconds |
| `10MiB`, `512KiB`, `100kB`, `64B` | `Size` | bytes |
| `100/s`, `30/min`, `0` | `Rate` | calls a second |
| `99.9%` | `Share` | parts per million |

A bare number is refused where a unit is due: `timeout: 30` has cost too many people too many nights.

Example:
    parse_duration_us("1.5s")   # 1_500_000
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

_DURATION_UNITS_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_SIZE_UNITS_BYTES = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,6})?)"
_DURATION = re.compile(_NUMBER + r"(us|ms|s|m|h|d)\Z", re.ASCII)
_SIZE = re.compile(_NUMBER + r"(B|kB|MB|GB|KiB|MiB|GiB)\Z", re.ASCII)
_RATE = re.compile(r"([0-9]{1,9})/(s|min)\Z", re.ASCII)
_SHARE = re.compile(_NUMBER + r"%\Z", re.ASCII)


def _whole(number: str, unit: int, text: str, what: str) -> int:
    amount = Decimal(number) * unit
    if amount != amount.to_integral_value():
        raise ValueError(f"`{text}` is not a whole number of {what}")
    return int(amount)


def parse_duration_us(value: Any) -> int:
    """Return a duration such as `50ms` or `1.5d` in microseconds. Raises ValueError."""
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{_shown(value)} is not a duration; write a number and a unit: us, ms, s, m, h, d (`10s`)")
    return _whole(match[1], _DURATION_UNITS_US[match[2]], str(value), "microseconds")


def parse_size_bytes(value: Any) -> int:
    """Return a size such as `10MiB` in bytes. Raises ValueError."""
    match = _SIZE.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{_shown(value)} is not a size; write a number and a unit: B, kB, MB, GB, KiB, MiB, GiB (`10MiB`)")
    return _whole(match[1], _SIZE_UNITS_BYTES[match[2]], str(value), "bytes")


def parse_rate_per_s(value: Any) -> int:
    """Return a rate such as `100/s` in calls a second; `0` means unlimited. Raises ValueError."""
    if value == 0 and not isinstance(value, bool):
        return 0
    match = _RATE.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{_shown(value)} is not a rate; write `100/s`, `600/min`, or 0 for no limit")
    if match[2] == "s":
        return int(match[1])
    per_s, rest = divmod(int(match[1]), 60)
    if rest:
        raise ValueError(f"`{value}` is not a whole number of calls a second; rates per minute are multiples of 60")
    return per_s


def parse_share_ppm(value: Any) -> int:
    """Return a share such as `99.9%` in parts per million, 0 to 1,000,000. Raises ValueError."""
    match = _SHARE.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{_shown(value)} is not a share; write a per cent (`99.9%`)")
    share_ppm = _whole(match[1], 10_000, str(value), "parts per million")
    if share_ppm > 1_000_000:
        raise ValueError(f"`{value}` is more than 100%")
    return share_ppm


def _shown(value: Any) -> str:
    return f"`{value}`" if isinstance(value, (str, int, Decimal)) else f"a {type(value).__name__}"


def _text_schema(pattern: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": list(examples)})


Duration = Annotated[int, BeforeValidator(parse_duration_us), _text_schema(r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|h|d)$", "50ms", "10s")]
"""Microseconds, written with a unit."""
Size = Annotated[int, BeforeValidator(parse_size_bytes), _text_schema(r"^[0-9]+(\.[0-9]+)?(B|kB|MB|GB|KiB|MiB|GiB)$", "10MiB")]
"""Bytes, written with a unit."""
Rate = Annotated[
    int,
    BeforeValidator(parse_rate_per_s),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^[0-9]+/(s|min)$"}, {"const": 0}], "examples": ["100/s"]}),
]
"""Calls a second; 0 = unlimited."""
Share = Annotated[int, BeforeValidator(parse_share_ppm), _text_schema(r"^[0-9]+(\.[0-9]+)?%$", "99.9%")]
"""Parts per million, written in per cent."""
