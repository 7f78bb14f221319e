"""Exact numbers as OPA computes them.

Integers are exact. When a fraction is involved OPA works with Go's `big.Float` at its default 64-bit mantissa, and prints the shortest
decimal that reads back as the same 64 bits: `0.1 + 0.2` is `0.3`, `1 / 3` is `0.33333333333333333334`. This file does the same with
`Fraction`. https://www.openpolicyagent.org/docs/policy-reference#numbers
"""

from __future__ import annotations

from decimal import Context as DecimalContext
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from policies.rego.errors import LimitError

MANTISSA_BITS: Final = 64
MAX_BITS: Final = 13_000
"""About 3,900 decimal digits; Python refuses to print integers beyond 4,300."""


def bounded(value: int) -> int:
    """Return an integer that is not absurdly large.

    Raises:
        LimitError: `number_digits`.
    """
    if value.bit_length() > MAX_BITS:
        raise LimitError("number_digits", "an integer has more than 3,900 digits")
    return value


def is_integral(value: Any) -> bool:
    """Tell whether a number has no fraction."""
    return type(value) is int or value == int(value)


def fraction(value: Any) -> Fraction:
    """Return the number its decimal text denotes."""
    if type(value) is int:
        return Fraction(value)
    return Fraction(Decimal(repr(value)) if type(value) is float else value)


def round_bits(value: Fraction) -> Fraction:
    """Round to a 64-bit mantissa, half to even."""
    if value == 0:
        return value
    numerator, denominator = abs(value.numerator), value.denominator
    shift = MANTISSA_BITS - (numerator.bit_length() - denominator.bit_length())
    for _ in range(2):
        scaled = Fraction(numerator << max(shift, 0), denominator << max(-shift, 0))
        if scaled >= 1 << MANTISSA_BITS:
            shift -= 1
        elif scaled < 1 << (MANTISSA_BITS - 1):
            shift += 1
        else:
            break
    mantissa = round(scaled)
    result = Fraction(mantissa, 1 << shift) if shift >= 0 else Fraction(mantissa << -shift)
    return -result if value < 0 else result


def number(value: Fraction) -> Any:
    """Return a 64-bit-mantissa value as int, float or Decimal: the shortest decimal that denotes it."""
    if value.denominator == 1 and abs(value.numerator) < 1 << MANTISSA_BITS:
        return value.numerator
    try:
        approximate = float(value)
    except OverflowError:
        approximate = 0.0
    if approximate and round_bits(fraction(approximate)) == value:
        return int(Decimal(repr(approximate))) if value.denominator == 1 else approximate
    for digits in range(15, 23):
        context = DecimalContext(prec=digits)
        text = context.divide(Decimal(value.numerator), Decimal(value.denominator))
        if round_bits(Fraction(text)) == value:
            return bounded(int(text)) if value.denominator == 1 else text.normalize()
    return Decimal(value.numerator) / Decimal(value.denominator)


def operands(left: Any, right: Any) -> tuple[Fraction, Fraction]:
    """Return both operands as Go reads them."""
    return round_bits(fraction(left)), round_bits(fraction(right))


def add(left: Any, right: Any) -> Any:
    """Sum."""
    if is_integral(left) and is_integral(right):
        return bounded(as_int(left) + as_int(right))
    one, other = operands(left, right)
    return number(round_bits(one + other))


def subtract(left: Any, right: Any) -> Any:
    """Difference."""
    if is_integral(left) and is_integral(right):
        return bounded(as_int(left) - as_int(right))
    one, other = operands(left, right)
    return number(round_bits(one - other))


def multiply(left: Any, right: Any) -> Any:
    """Product."""
    if is_integral(left) and is_integral(right):
        return bounded(as_int(left) * as_int(right))
    one, other = operands(left, right)
    return number(round_bits(one * other))


def divide(left: Any, right: Any) -> Any:
    """Quotient; the caller has refused zero."""
    one, other = operands(left, right)
    return number(round_bits(one / other))


def as_int(value: Any) -> int:
    """Return an integral number as int, by its decimal text: `1e100` is ten to the hundred."""
    if type(value) is int:
        return value
    return int(Decimal(repr(value))) if type(value) is float else int(value)
