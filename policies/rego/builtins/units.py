"""units.parse (SI and binary multipliers, exact) and units.parse_bytes."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

from policies.rego.builtins.registry import builtin, want_string
from policies.rego.errors import BuiltinError
from policies.rego.lexer import number_value

_AMOUNT = re.compile(r"([-+.0-9]*(?:[eE][-+]?[0-9]+)?)(.*)\Z", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?\Z")
_SI = {letter: 1000 ** (power + 1) for power, letter in enumerate("kmgtpe")}
_BINARY = {letter + "i": 1024 ** (power + 1) for power, letter in enumerate("kmgtpe")}
_BYTES = {"": 1, **_SI, **_BINARY, **{key + "b": value for key, value in (*_SI.items(), *_BINARY.items())}}


def _split(text: str) -> tuple[Fraction, str]:
    if " " in text:
        raise BuiltinError("spaces not allowed in resource strings")
    match = _AMOUNT.match(text)
    amount, unit = match.groups() if match else ("", text)
    if not amount:
        raise BuiltinError("no amount provided")
    if len(amount) > 1_000 or not _NUMBER.match(amount):
        raise BuiltinError("could not parse amount to a number")
    exponent = amount.lower().partition("e")[2]
    if len(exponent.lstrip("+-")) > 3:
        raise BuiltinError("exponent too large")
    return Fraction(amount), unit


@builtin("units.parse", 1)
def parse(text: Any) -> Any:
    """A number with a multiplier; `m` is milli, `M` mega."""
    amount, unit = _split(want_string(text).replace('"', ""))
    unit = unit[:1] + unit[1:].lower()
    if unit == "m":
        amount *= Fraction(1, 1000)
    elif unit:
        factor = _SI.get(unit.lower()) if len(unit) == 1 else _BINARY.get(unit.lower())
        if factor is None:
            raise BuiltinError(f"unit {unit} not recognized")
        amount *= factor
    if amount.denominator == 1:
        return amount.numerator
    scaled = round(abs(amount) * 10**10)
    return number_value(("-" if amount < 0 else "") + format(Decimal(scaled).scaleb(-10), "f"))


@builtin("units.parse_bytes", 1)
def parse_bytes(text: Any) -> int:
    """A number of bytes; the fraction is cut off."""
    amount, unit = _split(want_string(text).lower().replace('"', ""))
    if unit not in _BYTES:
        raise BuiltinError(f"byte unit {unit} not recognized")
    return int(amount * _BYTES[unit])
