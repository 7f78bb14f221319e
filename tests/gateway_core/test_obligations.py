"""Obligations have one meaning: nothing of what they take out is left, everything else stays, and the order of packages does not matter."""

from __future__ import annotations

import copy
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reply_policy import redacted, rewritten
from policies.obligations import InvalidObligation, NotCarriedOut, carry_out, merge, parse_path, read


def do(document, items):
    return carry_out(merge(read(item) for item in items), copy.deepcopy(document))


def redact(path: str, **more: object) -> dict:
    return {"type": "redact", "path": path, **more}


def rounded(path, digits):
    return {"type": "round", "path": path, "digits": digits}


def top(path: str, k: int, **more: object) -> dict:
    return {"type": "top_k", "path": path, "k": k, **more}


V2 = {
    "outputs": [
        {"name": "label", "shape": [2], "data": [1, 0]},
        {"name": "score", "shape": [2, 2], "data": [[0.1234, 0.8766], [0.5, 0.5]]},
    ],
    "id": "x",
}
CASES = [
    ({"a": 1, "b": 2}, [redact("/a")], {"b": 2}),
    ({"a": {"b": 1}}, [redact("/a/b")], {"a": {}}),
    ({"a": 1}, [redact("/b")], {"a": 1}),
    ({"a/b": 1, "~": 2}, [redact("/a~1b"), redact("/~0")], {}),
    ([1, 2, 3], [redact("/1")], [1, None, 3]),
    ([1, 2], [redact("/*")], [None, None]),
    ([1, 2], [redact("/7")], [1, 2]),
    ({"a": 1}, [redact("")], None),
    ({"a": [{"ssn": 1, "b": {"ssn": 2}}], "ssn": {"ssn": 3}}, [redact("/**/ssn")], {"a": [{"b": {}}]}),
    (V2, [redact("/outputs/[name=score]")], {"outputs": [V2["outputs"][0]], "id": "x"}),
    (V2, [redact("/outputs/[name=score]/data")], {"outputs": [V2["outputs"][0], {"name": "score", "shape": [2, 2]}], "id": "x"}),
    (0.456, [rounded("", 1)], 0.5),
    ({"p": 0.456}, [rounded("/p", 2)], {"p": 0.46}),
    ({"p": 3}, [rounded("/p", 0)], {"p": 3}),
    ({"p": None}, [rounded("/p", 0)], {"p": None}),
    ({"p": [0.456, [1.26]]}, [rounded("/p", 1)], {"p": [0.5, [1.3]]}),
    ({"p": 0.4567}, [rounded("/p", 3), rounded("/p", 1)], {"p": 0.5}),
    ({"p": {"a": 0.2, "b": 0.7, "c": 0.1}}, [top("/p", 1)], {"p": {"b": 0.7}}),
    ({"p": [0.2, 0.7, 0.1]}, [top("/p", 2)], {"p": [0.2, 0.7, None]}),
    ({"p": [0.5, 0.5]}, [top("/p", 1)], {"p": [0.5, None]}),
    ({"p": [{"l": "a", "s": 1}, {"l": "b", "s": 2}]}, [top("/p", 1, by="s")], {"p": [{"l": "b", "s": 2}]}),
    ({"p": {"a": 0.26, "b": 0.74}}, [top("/p", 1), rounded("/p/b", 1)], {"p": {"b": 0.7}}),
    # An item that was taken out does not move the others before they were visited.
    (
        V2,
        [redact("/outputs/[name=label]"), rounded("/outputs/1/data", 1)],
        {"outputs": [{**V2["outputs"][1], "data": [[0.1, 0.9], [0.5, 0.5]]}], "id": "x"},
    ),
    ({"p": [{"s": 1}, {"s": 2.26}]}, [top("/p", 1, by="s"), rounded("/p/1/s", 1)], {"p": [{"s": 2.3}]}),
    ({"p": {"s": 1}}, [redact("/p"), rounded("/p/s", 1)], {}),
]


@pytest.mark.parametrize(("document", "items", "expected"), CASES)
def test_what_is_asked_is_done_and_nothing_else(document, items, expected):
    found, _ = do(document, items)
    assert found == expected
    assert repr(found) == repr(expected), "1 and 1.0 are told apart"


@pytest.mark.parametrize(
    ("document", "item"),
    [
        ({"p": "0.456"}, rounded("/p", 1)),
        ({"p": True}, rounded("/p", 1)),
        ({"p": {"q": 0.4}}, rounded("/p", 1)),
        ({"p": [0.4, "0.44"]}, rounded("/p", 1)),
        ({"p": 0.4}, top("/p", 1)),
        ({"p": [0.4, None]}, top("/p", 1)),
        ({"p": {"a": "0.4"}}, top("/p", 1)),
        ({"p": [1, {"s": 1}]}, top("/p", 1, by="s")),
        ({"p": [{"s": "1"}]}, top("/p", 1, by="s")),
        ({"p": {"a": 1}}, top("/p", 1, by="s")),
        (0.4321, rounded("/p", 1)),
        ("text", redact("/p")),
    ],
)
def test_what_does_not_fit_is_an_error_and_never_passed_over(document, item):
    with pytest.raises(NotCarriedOut):
        do(document, [item])


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"type": "shred", "path": "/a"},
        {"type": "redact"},
        {"type": "redact", "path": "a"},
        {"type": "redact", "path": "/a~2"},
        {"type": "redact", "path": "/a", "digits": 1},
        {"type": "redact", "path": "/" + "a" * 300},
        {"type": "redact", "path": "/a/**"},
        {"type": "redact", "path": "/**/a/**/b"},
        {"type": "redact", "path": "/a", "on": "log"},
        {"type": "round", "path": "/a"},
        {"type": "round", "path": "/a", "digits": 1.0},
        {"type": "round", "path": "/a", "digits": True},
        {"type": "round", "path": "/a", "digits": -1},
        {"type": "round", "path": "/a", "digits": 16},
        {"type": "round", "path": "/a", "digits": 1, "on": "request"},
        {"type": "top_k", "path": "/a", "k": 0},
        {"type": "top_k", "path": "/a", "k": 1, "by": 3},
        {"type": ["redact"], "path": "/a"},
        {1: 2},
    ],
)
def test_what_has_no_meaning_is_refused(item):
    with pytest.raises(InvalidObligation):
        read(item)


# --- properties

names = st.sampled_from(["a", "b", "score", "name"])
leaves = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["", "x", "score"])
)
documents = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=12)
paths = st.lists(st.sampled_from(["a", "b", "score", "*", "**", "0", "1", "[name=score]"]), max_size=3).map(
    lambda steps: "".join(f"/{step}" for step in steps)
)
obligations = st.one_of(
    st.builds(redact, paths),
    st.builds(rounded, paths, st.integers(0, 4)),
    st.builds(top, paths, st.integers(1, 3)),
    st.builds(lambda path: top(path, 1, by="a"), paths),
)


def valid(items):
    kept = []
    for item in items:
        try:
            kept.append(read(item))
        except InvalidObligation:
            continue
    return kept


def outcome(document, items):
    try:
        return carry_out(merge(items), copy.deepcopy(document))
    except NotCarriedOut:
        return None


@given(documents, st.lists(obligations, max_size=4), st.randoms(use_true_random=False))
def test_the_order_in_which_packages_ask_does_not_matter(document, items, rng: random.Random):
    kept = valid(items)
    shuffled = list(kept)
    rng.shuffle(shuffled)
    assert repr(outcome(document, kept)) == repr(outcome(document, shuffled))


@given(documents, st.lists(obligations, max_size=4))
def test_doing_it_twice_is_doing_it_once(document, items):
    kept = [one for one in valid(items) if one.kind == "round"]
    first = outcome(document, kept)
    if first is not None:
        assert repr(outcome(first[0], kept)) == repr(first)


def secrets_at(document, path):
    """Every scalar below the places a plain path leads to, found another way than the code does."""
    nodes = [document]
    for step in path.split("/")[1:]:
        found = []
        for node in nodes:
            if step == "**":
                stack = [node]
                while stack:
                    item = stack.pop()
                    found.append(item)
                    stack += list(item.values()) if isinstance(item, dict) else list(item) if isinstance(item, list) else []
            elif isinstance(node, dict):
                found += [value for key, value in node.items() if step in ("*", key)]
            elif isinstance(node, list):
                found += [value for position, value in enumerate(node) if step in ("*", str(position))]
        nodes = found
    return nodes


@given(documents, st.lists(st.sampled_from(["a", "b", "score", "*", "0"]), min_size=1, max_size=3), st.booleans())
def test_after_a_redaction_there_is_nothing_left_where_it_led(document, steps, is_deep):
    path = "/" + "/".join(["**", *steps] if is_deep else steps)
    result = outcome(document, valid([redact(path)]))
    if result is None:
        assert not isinstance(document, (dict, list))
        return
    left = secrets_at(result[0], path)
    assert all(value is None for value in left), left


@given(documents, st.integers(0, 3))
def test_after_a_rounding_no_number_there_has_more_digits(document, digits):
    item = {"type": "round", "path": "/**/score", "digits": digits}
    result = outcome(document, [read(item)])
    if result is None:
        return
    stack = secrets_at(result[0], "/**/score")
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        elif type(value) is float:
            assert value == round(value, digits)


@given(documents)
def test_what_no_path_leads_to_leaves_as_the_very_bytes_that_came(document):
    body = json.dumps(document).encode()
    try:
        assert rewritten(merge([read(redact("/nowhere/at/all"))]), body) == body
    except NotCarriedOut:
        assert not isinstance(document, (dict, list)) or any(len(run) > 300 for run in body.split()), body


@given(st.integers(-(2**90), 2**90), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8))
def test_what_is_not_concerned_keeps_its_value_to_the_last_digit(whole, real, text):
    body = json.dumps({"secret": 1, "whole": whole, "real": real, "text": text}).encode()
    assert json.loads(rewritten(merge([read(redact("/secret"))]), body)) == {"whole": whole, "real": real, "text": text}


def test_a_number_is_written_anew_even_where_rounding_changes_nothing():
    body = b'{"score": 0.50000000000000001234567890}'
    assert rewritten(merge([read(rounded("/score", 1))]), body) == b'{"score":0.5}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"score": 0.1, "score": 0.2}',
        b'{"score": 0.1, "sc\\u006fre": 0.2}',
        b"{",
        b"",
        b"NaN",
        b'{"score": NaN}',
        b"\xff",
        b"[" * 100 + b"]" * 100,
        b'{"score":1e999}',
    ],
)
def test_a_body_with_more_than_one_reading_is_never_changed_but_refused(body):
    with pytest.raises(NotCarriedOut):
        rewritten(merge([read(redact("/score"))]), body)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-type", b"text/csv")],
        [(b"content-type", b"multipart/form-data")],
        [(b"content-type", b"application/json; charset=utf-16")],
        [(b"content-type", b"application/json"), (b"content-type", b"text/csv")],
        [(b"content-encoding", b"gzip")],
    ],
)
def test_a_request_that_is_no_clear_json_is_not_redacted_but_refused(headers):
    with pytest.raises(NotCarriedOut):
        redacted(merge([read(redact("/a", on="request"))]), headers, b'{"a":1}')


def test_steps_of_a_path():
    assert [kind for kind, _, _ in parse_path("/a/*/**/[name=x]/0")] == ["key", "any", "deep", "item", "key"]
    assert parse_path("/01")[0] == ("key", "01", None)
