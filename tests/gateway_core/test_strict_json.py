"""JSON with one meaning per byte string."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.strictjson import MAX_DEPTH, JsonError, parse

keys = st.text(alphabet='ab":\\ é', max_size=4)
leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(alphabet='ab":\\ {}[]', max_size=6)
documents = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12)


@st.composite
def spelled(draw, depth=0):
    """A JSON text with free white space, and possibly duplicate keys; and whether it has any."""
    space = draw(st.sampled_from(["", "", " ", "\n"]))
    kind = draw(st.sampled_from(["leaf", "list", "object", "object"])) if depth < 3 else "leaf"
    if kind == "leaf":
        return json.dumps(draw(leaves)), False
    items = draw(st.lists(spelled(depth=depth + 1), max_size=3))
    twice = any(flag for _, flag in items)
    if kind == "list":
        return "[" + ",".join(text for text, _ in items) + "]", twice
    names = [draw(keys) for _ in items]
    body = ",".join(f"{json.dumps(name)}{space}:{text}" for name, (text, _) in zip(names, items, strict=True))
    return "{" + body + "}", twice or len(set(names)) < len(names)


@given(documents)
def test_documents_without_duplicates_are_read_as_the_standard_library_reads_them(document):
    assert parse(json.dumps(document).encode()) == document
    assert parse(json.dumps(document, indent=1, separators=(",", " : ")).encode()) == document


@given(spelled())
def test_a_duplicate_key_anywhere_is_refused_and_nothing_else_is(case):
    text, has_duplicate = case
    if has_duplicate:
        with pytest.raises(JsonError, match="stands twice"):
            parse(text.encode())
    else:
        assert parse(text.encode()) == json.loads(text)


@pytest.mark.parametrize("text", ['{"a" :1,"a":2}', '{"a":1,"a" :2,"b":"\\":"}', '[0,{"a":1,"a":2}]', '{"\\u0061":1,"a":2}'])
def test_duplicates_that_counting_could_miss_are_refused(text):
    with pytest.raises(JsonError, match="stands twice"):
        parse(text.encode())


def test_nesting_is_allowed_up_to_the_limit_and_not_past_it():
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None
    with pytest.raises(JsonError, match="deeper"):
        parse(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    with pytest.raises(JsonError):
        parse(b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize("text", [b"", b"{", b'{"a":NaN}', b'{"a":1}{"a":1}', b"\xff", b'{"a":Infinity}', b"'a'"])
def test_what_is_not_json_is_refused_with_a_place(text):
    with pytest.raises(JsonError, match=r"not JSON: .* line \d+ column \d+"):
        parse(text)
