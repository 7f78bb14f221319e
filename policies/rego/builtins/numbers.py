"""Arithmetic, rounding, ranges, bits, comparison."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

from policies.rego.builtins import arithmetic
from policies.rego.builtins.registry import builtin, operand_error, want_integer, want_number, want_string
from policies.rego.errors import BuiltinError, LimitError
from policies.rego.lexer import number_value
from policies.rego.values import NUMBERS, RegoSet, compare, equal


@builtin("plus", 2)
def plus(left: Any, right: Any) -> Any:
    """`left + right`."""
    if type(left) is int and type(right) is int:
        return arithmetic.bounded(left + right)
    return arithmetic.add(want_number(left), want_number(right, 2))


@builtin("minus", 2)
def minus(left: Any, right: Any) -> Any:
    """`left - right`, of numbers or sets."""
    if type(left) is int and type(right) is int:
        return arithmetic.bounded(left - right)
    if type(left) is RegoSet and type(right) is RegoSet:
        return RegoSet(frozenset.__sub__(left, right))
    if type(left) is RegoSet:
        raise operand_error(2, "set", right)
    return arithmetic.subtract(want_number(left), want_number(right, 2))


@builtin("mul", 2)
def mul(left: Any, right: Any) -> Any:
    """`left * right`."""
    return arithmetic.multiply(want_number(left), want_number(right, 2))


@builtin("div", 2)
def div(left: Any, right: Any) -> Any:
    """`left / right`."""
    want_number(left)
    if want_number(right, 2) == 0:
        raise BuiltinError("divide by zero")
    return arithmetic.divide(left, right)


@builtin("rem", 2)
def rem(left: Any, right: Any) -> Any:
    """`left % right`, of integers; the sign is the dividend's."""
    want_number(left)
    if not arithmetic.is_integral(left) or not arithmetic.is_integral(want_number(right, 2)):
        raise BuiltinError("modulo on floating-point number")
    one, other = arithmetic.as_int(left), arithmetic.as_int(right)
    if other == 0:
        raise BuiltinError("modulo by zero")
    return int(math.copysign(1, one)) * (abs(one) % abs(other))


@builtin("lt", 2)
def lt(left: Any, right: Any) -> bool:
    """`left < right`."""
    return compare(left, right) < 0


@builtin("lte", 2)
def lte(left: Any, right: Any) -> bool:
    """`left <= right`."""
    return compare(left, right) <= 0


@builtin("gt", 2)
def gt(left: Any, right: Any) -> bool:
    """`left > right`."""
    return compare(left, right) > 0


@builtin("gte", 2)
def gte(left: Any, right: Any) -> bool:
    """`left >= right`."""
    return compare(left, right) >= 0


@builtin("neq", 2)
def neq(left: Any, right: Any) -> bool:
    """`left != right`."""
    return not equal(left, right)


builtin("equal", 2)(equal)
builtin("eq", 2)(equal)


@builtin("abs", 1)
def absolute(value: Any) -> Any:
    """The number without its sign."""
    return abs(want_number(value))


@builtin("round", 1)
def rounded(value: Any) -> int:
    """Nearest integer, halves away from zero."""
    exact = arithmetic.fraction(want_number(value))
    magnitude = math.floor(abs(exact) + Fraction(1, 2))
    return -magnitude if exact < 0 else magnitude


@builtin("ceil", 1)
def ceiling(value: Any) -> int:
    """Smallest integer not below."""
    return math.ceil(arithmetic.fraction(want_number(value)))


@builtin("floor", 1)
def flooring(value: Any) -> int:
    """Largest integer not above."""
    return math.floor(arithmetic.fraction(want_number(value)))


@builtin("numbers.range", 2, context=True)
def number_range(context: Any, start: Any, stop: Any) -> list[int]:
    """Integers from start to stop, both included, in either direction."""
    return _range(context, want_integer(start), want_integer(stop, 2), 1)


@builtin("numbers.range_step", 3, context=True)
def number_range_step(context: Any, start: Any, stop: Any, step: Any) -> list[int]:
    """Integers from start to stop by a positive step."""
    begin, end, width = want_integer(start), want_integer(stop, 2), want_integer(step, 3)
    if width <= 0:
        raise BuiltinError("step must be a positive number above zero")
    return _range(context, begin, end, width)


def _range(context: Any, begin: int, end: int, width: int) -> list[int]:
    count = abs(end - begin) // width + 1
    if count > context.limits.items:
        raise LimitError("items", f"a range of `{count}` numbers")
    context.charge(count // 16)
    return list(range(begin, end + 1, width) if begin <= end else range(begin, end - 1, -width))


@builtin("bits.and", 2)
def bits_and(left: Any, right: Any) -> int:
    """Bitwise and."""
    return want_integer(left) & want_integer(right, 2)


@builtin("bits.or", 2)
def bits_or(left: Any, right: Any) -> int:
    """Bitwise or."""
    return want_integer(left) | want_integer(right, 2)


@builtin("bits.xor", 2)
def bits_xor(left: Any, right: Any) -> int:
    """Bitwise exclusive or."""
    return want_integer(left) ^ want_integer(right, 2)


@builtin("bits.negate", 1)
def bits_negate(value: Any) -> int:
    """Bitwise complement."""
    return ~want_integer(value)


@builtin("bits.lsh", 2)
def bits_lsh(value: Any, count: Any) -> int:
    """Shift left."""
    number, shift = want_integer(value), want_integer(count, 2)
    if shift < 0:
        raise BuiltinError("operand 2 must be an unsigned integer number but got a negative integer", "eval_type_error")
    if shift > arithmetic.MAX_BITS:
        raise LimitError("number_digits", f"a shift by `{shift}`")
    return arithmetic.bounded(number << shift)


@builtin("bits.rsh", 2)
def bits_rsh(value: Any, count: Any) -> int:
    """Shift right."""
    number, shift = want_integer(value), want_integer(count, 2)
    if shift < 0:
        raise BuiltinError("operand 2 must be an unsigned integer number but got a negative integer", "eval_type_error")
    return number >> min(shift, arithmetic.MAX_BITS + 1)


_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")


@builtin("to_number", 1)
def to_number(value: Any) -> Any:
    """Null is 0, booleans 0 and 1, strings are read as JSON numbers."""
    if value is None:
        return 0
    if type(value) is bool:
        return int(value)
    if type(value) in NUMBERS:
        return value
    text = want_string(value)
    if text.lstrip("+-").lower() in {"nan", "inf", "infinity"}:
        raise BuiltinError("operand 1 must be a finite number", "eval_type_error")
    if not _NUMBER.match(text):
        raise BuiltinError("invalid syntax")
    try:
        return number_value(text.removeprefix("+"))
    except ValueError as error:
        raise BuiltinError("number out of range") from error


@builtin("format_int", 2)
def format_int(value: Any, base: Any) -> str:
    """The integer part in base 2, 8, 10 or 16."""
    number = math.trunc(arithmetic.fraction(want_number(value)))
    formats = {2: "b", 8: "o", 10: "d", 16: "x"}
    if want_number(base, 2) not in formats:
        raise BuiltinError("operand 2 must be one of {2, 8, 10, 16}", "eval_type_error")
    return format(number, formats[int(base)])


def decimal_of(value: Any) -> Decimal:
    """Return a number as Decimal, by its text."""
    return Decimal(repr(value)) if type(value) is float else Decimal(value)
