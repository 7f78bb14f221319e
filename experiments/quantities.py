"""Quantities of experiment files: written by people with their unit, kept as integers or exact fractions.

| written | type | becomes |
|---|---|---|
| `30m`, `7d` | `Duration` | microseconds |
| `1%`, `0.5%` | `Share` | exact fraction of the traffic |
| `2.5%` | `Probability` | parts per million, above 0 and below 100 % |
| `0.5pp`, `10%`, `20ms` | `Margin` | how much worse is still acceptable: of the rate, of the control's value, of the latency |
| `> 5% over 2m` | `Breach` | limit (ppm) and window (microseconds) |
| `0.01`, `1%` | `Tolerance` | ppm of the value's unit, or of the value compared with |
| `0.0005`, `"0.0005"` | `Price` | billionths of the currency named beside it |
| `0-499` | `Slots` | first and last slot, inclusive |

A bare number is refused, except for a tolerance and a price: nobody can tell `margin: 1` apart from `1%` or `1pp`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import PlainValidator, WithJsonSchema

from experiments.shares import SHARE_PATTERN, parse_share

_UNITS_US = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,6})?"
_DURATION_PATTERN = rf"^({_NUMBER})(ms|s|m|h|d)$"
_MARGIN_PATTERN = rf"^({_NUMBER})(pp|%|ms)$"
_BREACH_PATTERN = rf"^> ?({_NUMBER})% over ({_NUMBER}(?:ms|s|m|h|d))$"
_TOLERANCE_PATTERN = rf"^({_NUMBER})(%?)$"
_PRICE_PATTERN = r"^[0-9]{1,7}(?:\.[0-9]{1,9})?$"
_SLOTS_PATTERN = r"^([0-9]{1,6})-([0-9]{1,6})$"


@dataclass(frozen=True, slots=True)
class MarginValue:
    """How much worse the treatment may be: ppm for `pp` and `%`, microseconds for `ms`."""

    amount: int
    unit: Literal["pp", "%", "ms"]


@dataclass(frozen=True, slots=True)
class BreachValue:
    """An absolute limit over a sliding window."""

    above_ppm: int
    window_us: int


@dataclass(frozen=True, slots=True)
class ToleranceValue:
    """How far two values may lie apart: ppm of the unit, or of the value compared with where `relative`."""

    ppm: int
    relative: bool


@dataclass(frozen=True, slots=True)
class SlotsValue:
    """A range of slots, both ends included."""

    first: int
    last: int


def parse_duration_us(value: Any) -> int:
    """`30m` in microseconds."""
    match = _matched(_DURATION_PATTERN, value, "a duration; write a number and a unit: ms, s, m, h, d (`30m`)")
    return _whole(match[1], _UNITS_US[match[2]], value)


def parse_probability_ppm(value: Any) -> int:
    """`2.5%` in ppm, strictly between 0 and 100 %."""
    match = _matched(rf"^({_NUMBER})%$", value, "a probability; write a percentage (`5%`)")
    ppm = _whole(match[1], 10_000, value)
    if not 0 < ppm < 1_000_000:
        raise ValueError(f"`{value}` must lie above 0% and below 100%")
    return ppm


def parse_margin(value: Any) -> MarginValue:
    """`0.5pp`, `10%` or `20ms`."""
    match = _matched(_MARGIN_PATTERN, value, "a margin; write `0.5pp` (of the rate), `10%` (of the control's), `20ms`")
    scale = 1_000 if match[2] == "ms" else 10_000
    unit: Literal["pp", "%", "ms"] = "pp" if match[2] == "pp" else "ms" if match[2] == "ms" else "%"
    return MarginValue(_whole(match[1], scale, value), unit)


def parse_breach(value: Any) -> BreachValue:
    """`> 5% over 2m`."""
    match = _matched(_BREACH_PATTERN, value, "a limit; write `> 5% over 2m`")
    ppm = _whole(match[1], 10_000, value)
    if not 0 < ppm < 1_000_000:
        raise ValueError(f"the limit in `{value}` must lie above 0% and below 100%")
    window_us = parse_duration_us(match[2])
    if window_us == 0:
        raise ValueError(f"the window in `{value}` must be longer than nothing")
    return BreachValue(ppm, window_us)


def parse_tolerance(value: Any) -> ToleranceValue:
    """`0.01` (in the value's unit, also as a bare number) or `1%` (of the value compared with)."""
    # YAML files give exact decimals, other callers what they have.
    shown = f"{Decimal(str(value)):f}" if type(value) in (int, float, Decimal) else value
    match = _matched(_TOLERANCE_PATTERN, shown, "a tolerance; write `0.01` in the value's unit, or `1%`")
    return ToleranceValue(_whole(match[1], 10_000 if match[2] else 1_000_000, value), relative=bool(match[2]))


def parse_price_nano(value: Any) -> int:
    """`0.0005`, as a number or as text, in billionths; at most a million."""
    shown = f"{value:f}" if type(value) is Decimal else str(value) if type(value) is int else value
    match = _matched(_PRICE_PATTERN, shown, "a price; write a number with at most nine decimals, without the currency (`0.0005`)")
    nano = _whole(match[0], 10**9, value)
    if nano > 10**15:
        raise ValueError(f"`{value}` is more than a million")
    return nano


def parse_slots(value: Any) -> SlotsValue:
    """`0-499`."""
    match = _matched(_SLOTS_PATTERN, value, "a range of slots; write `0-499`, both ends included")
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise ValueError(f"`{value}` ends before it starts")
    return SlotsValue(first, last)


def _matched(pattern: str, value: Any, what: str) -> re.Match[str]:
    match = re.match(pattern, value, re.ASCII) if isinstance(value, str) and not value.endswith("\n") else None
    if match is None:
        shown = f"`{value}`" if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"
        raise ValueError(f"{shown} is not {what}")
    return match


def _whole(number: str, scale: int, value: Any) -> int:
    amount = Decimal(number) * scale
    if amount != amount.to_integral_value():
        raise ValueError(f"`{value}` is finer than can be represented; use fewer decimals")
    return int(amount)


def _text(pattern: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": list(examples)})


Duration = Annotated[int, PlainValidator(parse_duration_us), _text(_DURATION_PATTERN, "30m", "7d")]
Share = Annotated[Fraction, PlainValidator(parse_share), _text(SHARE_PATTERN, "1%", "50%")]
Probability = Annotated[int, PlainValidator(parse_probability_ppm), _text(rf"^({_NUMBER})%$", "5%", "2.5%")]
Margin = Annotated[MarginValue, PlainValidator(parse_margin), _text(_MARGIN_PATTERN, "0.5pp", "10%", "20ms")]
Breach = Annotated[BreachValue, PlainValidator(parse_breach), _text(_BREACH_PATTERN, "> 5% over 2m")]
Tolerance = Annotated[
    ToleranceValue,
    PlainValidator(parse_tolerance),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _TOLERANCE_PATTERN}, {"type": "number", "minimum": 0}], "examples": ["1%", 0.01]}),
]
Price = Annotated[
    int,
    PlainValidator(parse_price_nano),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _PRICE_PATTERN}, {"type": "number", "minimum": 0}], "examples": ["0.0005"]}),
]
Slots = Annotated[SlotsValue, PlainValidator(parse_slots), _text(_SLOTS_PATTERN, "0-499")]
