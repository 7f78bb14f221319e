"""Schema contracts, JSON Pointers and v2 bodies: what a call may carry, and what is refused with its place."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.documents import FieldDocument
from gateway.protocols import v2
from gateway.protocols.contract import compile_contract
from gateway.protocols.pointer import MISSING, compile_pointer
from gateway.refusals import Refusal

# --- contract


def check_of(unknown="reject", **fields: dict):
    check = compile_contract({name: FieldDocument(**field) for name, field in fields.items()}, unknown)
    assert check is not None
    return check


def fault_of(value, **field: object) -> str | None:
    return check_of(x=field)({"x": [value]})


def test_an_empty_contract_checks_nothing():
    assert compile_contract({}, "reject") is None


@given(st.integers(-(2**70), 2**70), st.integers(-(2**60), 2**60), st.integers(0, 2**60))
def test_whole_bounds_hold_exactly_however_large(value, low, width):
    high = low + width
    fault = fault_of(value, type="integer", min=str(low), max=str(high))
    assert (fault is None) is (low <= value <= high)


@given(st.floats(allow_nan=True, allow_infinity=True), st.integers(-1000, 1000), st.integers(-1000, 1000))
def test_a_number_is_inside_exactly_when_arithmetic_says_so(value, low, high):
    low, high = sorted((low, high))
    fault = fault_of(value, type="number", min=str(low), max=str(high))
    assert (fault is None) is (not math.isnan(value) and low <= value <= high)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=6))
def test_a_bound_written_like_the_value_includes_it(bound: Decimal):
    text = str(bound)
    assert fault_of(json.loads(text), type="number", min=text, max=text) is None


@pytest.mark.parametrize("value", [True, False, "1", None, [1], {"a": 1}, math.nan])
@pytest.mark.parametrize("kind", ["number", "integer"])
def test_booleans_text_null_nested_data_and_nan_are_no_numbers(value, kind):
    fault = fault_of(value, type=kind, min="-5", max="5")
    assert fault is not None
    assert fault.startswith("input `x`, row 0: ")


@pytest.mark.parametrize("value", [0.5, math.inf, -math.inf, math.nan])
def test_an_integer_has_no_fraction_and_is_finite(value):
    assert fault_of(value, type="integer") is not None
    assert fault_of(2.0, type="integer") is None


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ({"type": "boolean"}, [True, False], [0, 1, "true", None]),
        ({"type": "boolean", "nullable": True}, [True, None], [0]),
        ({"type": "string"}, ["", "é\0"], [1, True, None]),
        ({"type": "string", "allowed": ("a", "b")}, ["a", "b"], ["c", "A", ""]),
        ({"type": "string", "nullable": True}, [None], [0]),
        ({"type": "number", "nullable": True}, [None, 1, 1.5], ["", True]),
    ],
)
def test_each_kind_takes_its_values_and_no_others(field, good, bad):
    assert [fault_of(value, **field) for value in good] == [None] * len(good)
    assert all(fault_of(value, **field) for value in bad)


def test_a_fault_names_input_and_row_and_a_missing_or_unknown_input_is_named():
    check = check_of(x={"type": "number"}, y={"type": "number", "required": False})
    assert check({"x": [1, 2, "3"]}) == "input `x`, row 2: has to be a number"
    assert check({"y": [1]}) == "input `x` is missing"
    assert "`z` is not in the model's schema" in str(check({"x": [1], "z": [1]}))
    assert check_of("allow", x={"type": "number"})({"x": [1], "z": ["anything"]}) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


@given(st.dictionaries(st.sampled_from(["x", "y", "z"]), st.lists(json_values, max_size=4)))
def test_a_contract_never_raises_whatever_the_columns_hold(columns):
    check = check_of(
        x={"type": "number", "min": "0", "max": "0.1"},
        y={"type": "string", "allowed": ("a",), "required": False},
        z={"type": "boolean", "required": False},
    )
    assert check(columns) is None or isinstance(check(columns), str)


# --- pointers

RFC_6901 = {
    "": None,  # the whole document
    "/foo": ["bar", "baz"],
    "/foo/0": "bar",
    "/": 0,
    "/a~1b": 1,
    "/c%d": 2,
    "/e^f": 3,
    "/g|h": 4,
    "/i\\j": 5,
    '/k"l': 6,
    "/ ": 7,
    "/m~0n": 8,
}
DOCUMENT = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8}


@pytest.mark.parametrize("pointer", RFC_6901)
def test_the_examples_of_rfc_6901_section_5(pointer):
    assert compile_pointer(pointer)(DOCUMENT) == (DOCUMENT if pointer == "" else RFC_6901[pointer])


@pytest.mark.parametrize("pointer", ["/foo/2", "/foo/-", "/foo/01", "/foo/-1", "/foo/+1", "/foo/\u0660", "/foo/0/x", "/none", "/a~1b/c"])
def test_what_is_not_there_is_missing_and_an_index_has_one_spelling(pointer):
    assert compile_pointer(pointer)(DOCUMENT) is MISSING


@pytest.mark.parametrize("pointer", ["foo", "#/foo", "/a~", "/a~2b", "/~/x"])
def test_what_is_no_pointer_is_refused(pointer):
    with pytest.raises(ValueError, match="is not a JSON Pointer"):
        compile_pointer(pointer)


@given(st.lists(st.text(max_size=4), max_size=4))
def test_every_key_can_be_pointed_at(keys):
    document = 7
    for key in reversed(keys):
        document = {key: document}
    pointer = "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)
    assert compile_pointer(pointer)(document) == 7


# --- v2 bodies


def tensor(**more: object) -> dict:
    return {"name": "x", "shape": [2], "datatype": "FP64", "data": [1, 2], **more}


def read(*tensors: dict) -> v2.InferCall:
    return v2.InferCall(json.dumps({"inputs": tensors}).encode())


@pytest.mark.parametrize(
    ("shape", "data", "rows"),
    [
        ([2], [1, 2], 2),
        ([2, 3], [1, 2, 3, 4, 5, 6], 2),
        ([2, 3], [[1, 2, 3], [4, 5, 6]], 2),
        ([0], [], 0),
        ([0, 3], [], 0),
        ([1, 2, 2], [[[1, 2], [3, 4]]], 1),
    ],
)
def test_rows_are_the_first_dimension_and_the_data_agree_with_it(shape, data, rows):
    assert read(tensor(shape=shape, data=data)).rows == rows


@pytest.mark.parametrize(
    ("shape", "data"),
    [([1], [1, 2, 3]), ([2], [1]), ([2, 2], [[1, 2]]), ([2, 3], [1, 2]), ([0], [1]), ([3, 0], [1, 2, 3])],
)
def test_rows_that_the_shape_does_not_count_are_refused(shape, data):
    with pytest.raises(Refusal, match="where its shape says"):
        read(tensor(shape=shape, data=data))


@pytest.mark.parametrize("shape", [[], [-1], [1.0], [True], ["1"], None, 1, [2**31], [2**53], [2**64], [10**30]])
def test_a_shape_is_a_list_of_whole_numbers_that_records_can_hold(shape):
    with pytest.raises(Refusal, match="shape"):
        read(tensor(shape=shape))


@pytest.mark.parametrize("inputs", [None, {}, [], [1], [{}], [{"name": 1, "data": []}], [{"name": "x", "data": {}}]])
def test_inputs_are_a_list_of_tensors(inputs):
    with pytest.raises(Refusal, match="inputs"):
        v2.InferCall(json.dumps({"inputs": inputs}).encode())


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(Refusal, match="same name"):
        read(tensor(), tensor()).columns()


@given(st.binary(max_size=80) | json_values.map(lambda value: json.dumps({"inputs": value}).encode()))
def test_any_body_is_read_or_refused(body):
    try:
        call = v2.InferCall(body)
    except Refusal as refusal:
        found = refusal.code
    else:
        found = call.rows
    assert found == "malformed_body" or 0 <= found < 2**31
