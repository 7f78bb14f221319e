"""The leaf profile: the fast encoder is RFC 8785 inside it and refuses what is outside; the reader accepts those bytes alone."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit import canonical
from audit.leaf import SIZE_LIMIT_BYTES, LeafError, LeafTooLargeError, parse, render

ASCII_KEYS = st.text(st.characters(min_codepoint=0, max_codepoint=127), max_size=12)
SCALARS = st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ASCII_KEYS, inner, max_size=4), max_leaves=20)
RECORDS = st.dictionaries(ASCII_KEYS, VALUES, max_size=8)
OUTSIDE = st.none() | st.floats() | st.integers(min_value=2**53) | st.integers(max_value=-(2**53))


@given(RECORDS)
@example({"time": "10:00:00.5", "a": ["x,1.5", ",n", "[e", '":.']})
def test_inside_the_profile_the_bytes_are_rfc_8785(record):
    assert render(record) == canonical.encode(record)


@given(RECORDS)
def test_what_is_rendered_is_read_back_and_is_a_fixed_point(record):
    data = render(record)
    assert parse(data) == record
    assert render(parse(data)) == data


def _planted(record, path, value):
    """Put `value` somewhere inside `record`: under a key, in a list, or at either end of one."""
    kind, key = path
    return {**record, key: {"object": value, "nested": {"a": [{"b": value}]}, "first": [value, 1], "last": ["x", 1, value]}[kind]}


@given(RECORDS, st.tuples(st.sampled_from(["object", "nested", "first", "last"]), ASCII_KEYS), OUTSIDE)
@example({}, ("last", "x"), 1e-7)
@example({}, ("first", "x"), 1e300)
@example({}, ("object", "x"), -0.0)
@example({}, ("last", "x"), math.nan)
def test_a_value_outside_the_profile_is_refused_wherever_it_is(record, path, value):
    with pytest.raises(LeafError):
        render(_planted(record, path, value))


@given(RECORDS, st.text(min_size=1).filter(lambda key: not key.isascii()))
def test_a_key_that_is_not_ascii_is_refused(record, key):
    with pytest.raises(LeafError):
        render({**record, "outer": {key: 1}})


@pytest.mark.parametrize(
    ("record", "where"),
    [
        ({"a": {"b": [1, 0.5]}}, r"record\.a\.b\[1\].*float"),
        ({"a": None}, r"record\.a.*null"),
        ({"a": 2**53}, r"record\.a.*integer"),
        ({"é": 1}, "not ASCII"),
        ({"a": {1: 2}}, "not ASCII text"),
        ({"a": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}, "cannot be a leaf"),
        ({"a": "\ud800"}, "cannot be a leaf"),
        ([1], "an object"),
    ],
)
def test_a_refusal_names_the_place(record, where):
    with pytest.raises(LeafError, match=where):
        render(record)


def test_sixty_kib_fit_and_one_byte_more_does_not():
    overhead = len(render({"a": ""}))
    assert len(render({"a": "x" * (SIZE_LIMIT_BYTES - overhead)})) == SIZE_LIMIT_BYTES
    with pytest.raises(LeafTooLargeError):
        render({"a": "x" * (SIZE_LIMIT_BYTES - overhead + 1)})
    with pytest.raises(LeafTooLargeError):
        parse(b" " * (SIZE_LIMIT_BYTES + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"1",
        b"{",
        b'{"a":1} ',
        b' {"a":1}',
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b'{"a":2,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e2}',
        b'{"a":-0}',
        b'{"a":null}',
        b'{"a":NaN}',
        b'{"a":9007199254740992}',
        b'{"a":123456789012345678901234567890}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\/"}',
        b'{"a":"\\u001F"}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        '{"é":1}'.encode(),
        b'{"a":' * 400 + b"1" + b"}" * 400,
        b'{"a":' + b"[" * 100_00 + b"]" * 100_00 + b"}",
        b'\xef\xbb\xbf{"a":1}',
    ],
)
def test_bytes_in_another_spelling_are_refused(data):
    with pytest.raises(LeafError):
        parse(data)


@given(RECORDS, st.data())
def test_no_other_bytes_read_as_the_same_record(record, data):
    """Insert white space anywhere outside text, or re-order: either it is refused or it is another record."""
    leaf = render(record)
    position = data.draw(st.integers(0, len(leaf)))
    changed = leaf[:position] + b" " + leaf[position:]
    with contextlib.suppress(LeafError):
        assert parse(changed) != record
    shuffled = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if shuffled != leaf:
        with pytest.raises(LeafError):
            parse(shuffled)
