"""RFC 8785: the RFC's own vectors, then agreement with another implementation on values of every shape."""

from __future__ import annotations

import json
import math
import struct
from enum import IntEnum

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from audit.canonical import CanonicalError, encode, number

# RFC 8785 appendix B: IEEE 754 bits and the text ECMAScript prints.
APPENDIX_B = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=25,
)


@pytest.mark.parametrize(("bits", "text"), APPENDIX_B)
def test_numbers_print_as_appendix_b_says(bits, text):
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert number(value) == text


def test_the_example_of_section_3_2_2_comes_out_as_printed():
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '€$\u000f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    assert encode(value).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_members_are_sorted_by_utf16_code_units():
    """Section 3.2.3: U+1F600 (surrogates D83D DE00) sorts before U+FB33, though its code point is greater."""
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert list(json.loads(encode(value))) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@given(JSON_VALUES)
def test_bytes_equal_those_of_another_implementation(value):
    assert encode(value) == rfc8785.dumps(value)


@given(JSON_VALUES)
def test_canonical_bytes_are_a_fixed_point(value):
    once = encode(value)
    assert encode(json.loads(once, parse_int=float)) == once  # JSON numbers are doubles


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_itself(value):
    assert float(number(value)) == value


class Colour(IntEnum):
    RED = 1


def test_an_integer_subclass_prints_its_number():
    assert encode([Colour.RED, True]) == b"[1,true]"


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [math.nan]}, "nan"),
        (math.inf, "inf"),
        ({"a": {"b": 2**53}}, "value.a.b"),
        ([-(2**53)], r"value\[0\]"),
        ({1: 2}, "key `1`"),
        (["\ud800"], "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        ({"a": b"bytes"}, "bytes"),
        ({"a": {1, 2}}, "set"),
    ],
)
def test_what_has_no_canonical_form_is_refused_with_its_place(value, where):
    with pytest.raises(CanonicalError, match=where):
        encode(value)


def test_a_cycle_is_refused_not_followed():
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(CanonicalError, match="deeper"):
        encode(cycle)
