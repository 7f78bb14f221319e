"""v2 JSON tensors of the example server: what is read, what is refused and with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.models.tensors import MAX_ROWS, BadTensors, parse_request, render_reply

NAMES = ("a", "b")


def tensor(name: str, data: list[Any], **changes: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": "FP64", "data": data} | changes


def body(**changes: Any) -> bytes:
    return json.dumps({"inputs": [tensor("a", [1.0]), tensor("b", [2])]} | changes).encode()


def test_columns_are_read_by_name_in_any_order():
    parsed = parse_request(body(inputs=[tensor("b", [3, 4]), tensor("a", [1, 2.5])], id="x"), NAMES)
    assert parsed.columns == {"a": [1.0, 2.5], "b": [3.0, 4.0]}
    assert (parsed.rows, parsed.request_id, parsed.outputs) == (2, "x", ("prediction", "score"))


def test_a_column_of_shape_n_1_may_be_flat_or_nested():
    for data in ([1.0, 2.0], [[1.0], [2.0]]):
        inputs = [tensor("a", data, shape=[2, 1]), tensor("b", [5.0, 6.0])]
        assert parse_request(body(inputs=inputs), NAMES).columns["a"] == [1.0, 2.0]


REFUSED = [
    (b"{", "not JSON"),
    (b"\xff", "not JSON"),
    (b"[]", "the request must be an object"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"inputs": [], "inputs": []}', "key `inputs` occurs twice"),
    (b'{"inputs": [{"name": "a", "data": [NaN]}]}', "`NaN` is not JSON"),
    (body(inputs=[]), "input `a` is missing"),
    (body(inputs={}), "`inputs` must be a list"),
    (body(inputs=[7]), "must be an object"),
    (body(extra=1), "unknown key `extra`"),
    (body(id=7), "`id` must be a string"),
    (body(parameters=[]), "`parameters` must be an object"),
    (body(inputs=[tensor("a", [1])]), "input `b` is missing"),
    (body(inputs=[tensor("a", [1]), tensor("a", [1])]), "input `a` occurs twice"),
    (body(inputs=[tensor("c", [1])]), "unknown input `c`"),
    (body(inputs=[tensor("a", [1]) | {"name": ["a"]}]), "unknown input"),
    (body(inputs=[tensor("a", [1]), tensor("b", [1, 2])]), "same number of rows"),
    (body(inputs=[tensor("a", [True]), tensor("b", [1])]), "not a number"),
    (body(inputs=[tensor("a", ["1"]), tensor("b", [1])]), "not a number"),
    (body(inputs=[tensor("a", [[1]]), tensor("b", [1])]), "not a number"),
    (body(inputs=[tensor("a", [10**400]), tensor("b", [1])]), "too large"),
    (body(inputs=[tensor("a", [1]), tensor("b", [1])]).replace(b"[1]", b"[1e999]"), "shape"),
    (body(inputs=[tensor("a", [1], datatype="BYTES")]), "datatype"),
    (body(inputs=[tensor("a", [1], shape=[2])]), "must be a list of 2 values"),
    (body(inputs=[tensor("a", [1], shape=[True])]), "shape"),
    (body(inputs=[tensor("a", [1], shape=[1, 2])]), "shape"),
    (body(inputs=[tensor("a", [])]), "1 to"),
    (body(inputs=[tensor("a", [1] * (MAX_ROWS + 1))]), "1 to"),
    (body(inputs=[tensor("a", [1], extra=1)]), "unknown key `extra`"),
    (body(outputs=[{"name": "logits"}]), "output `logits` is unknown"),
    (body(outputs=[{"name": "score"}, {"name": "score"}]), "asked for twice"),
    (body(outputs=[{"name": []}]), "unknown"),
    (body(outputs="score"), "`outputs` must be a list"),
]


@pytest.mark.parametrize(("refused", "words"), REFUSED)
def test_a_request_that_breaks_a_rule_is_refused_with_the_rule(refused, words):
    with pytest.raises(BadTensors, match=words):
        parse_request(refused, NAMES)


def test_a_number_beyond_float_range_is_refused():
    text = b'{"inputs": [{"name": "a", "shape": [1], "datatype": "FP64", "data": [1e999]}]}'
    with pytest.raises(BadTensors, match="too large"):
        parse_request(text, NAMES)


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda c: st.lists(c) | st.dictionaries(st.sampled_from(["inputs", "name", "shape", "data", "outputs", "id"]), c),
    ).map(lambda v: json.dumps(v).encode())
)
def test_any_bytes_are_read_or_refused_never_a_crash(anything):
    try:
        parse_request(anything, NAMES)
    except BadTensors:
        return
    assert set(json.loads(anything)) >= {"inputs"}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_reply_round_trips_scores_exactly_and_holds_the_outputs_asked_for(scores):
    inputs = [tensor(name, [0.5] * len(scores)) for name in NAMES]
    parsed = parse_request(body(inputs=inputs, id="r", outputs=[{"name": "score"}]), NAMES)
    reply = json.loads(render_reply("m", "4", parsed, [1] * len(scores), scores))
    assert reply == {
        "model_name": "m",
        "model_version": "4",
        "id": "r",
        "outputs": [{"name": "score", "shape": [len(scores)], "datatype": "FP64", "data": scores}],
    }
