"""A memory never changes an answer: equal values on the paths read, with 1, true and 1.0 told apart, give equal answers."""

from __future__ import annotations

import copy
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from generated import document, policy
from hypothesis import given
from hypothesis import strategies as st

from policies.rego import Engine, PolicyError, RegoError, to_json
from policies.rego.memo import Remembered

ALIKE: list[Any] = [1, True, 1.0, 0, False, 0.0, "1", "true", None, "", [], {}, [1], [True], [1.0], {"a": 1}, {"a": True}, {"a": 1.0}]
SPELT = [*ALIKE, float("nan"), float("inf"), 2**70, -0.0, 1e16, 10**16, "null", "~", "\ud800", "nan", [None], {"null": 1}]
"""With what JSON text cannot say, or says like something else."""
paths = st.lists(st.lists(st.sampled_from(["a", "b", "c", 0, 1]), max_size=3).map(lambda names: ("input", *names)), max_size=5, unique=True)
values = st.recursive(
    st.sampled_from(SPELT), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=6
)


def told(value: Any) -> str:
    """Text that tells 1, true and 1.0 apart."""
    return repr(value)


def at(value: Any, path: tuple[Any, ...]) -> str:
    for name in path[1:]:
        if (type(value) is dict and name in value) or (type(value) is list and type(name) is int and 0 <= name < len(value)):
            value = value[name]
        else:
            return "absent"
    return told(sorted_keys(value))


def sorted_keys(value: Any) -> Any:
    if type(value) is dict:
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    return [sorted_keys(item) for item in value] if type(value) is list else value


@given(paths, values, values)
def test_an_answer_is_reused_only_where_every_path_has_the_same_value_of_the_same_type(read, one, other):
    seen: list[Any] = []
    memo = Remembered(lambda document, _now: seen.append(document) or [len(seen)], read, 1 << 20)  # type: ignore[func-returns-value]  # append returns None
    memo(one)
    memo(copy.deepcopy(other))
    reused = memo.hits == 1
    if reused:
        assert all(at(one, path) == at(other, path) for path in read)
    if told(one) == told(other):
        assert reused


@pytest.mark.parametrize("one", SPELT, ids=repr)
def test_no_two_values_have_one_key(one):
    for other in SPELT:
        memo = Remembered(lambda _document, _now: [0], [("input", "a"), ("input", "b")], 1 << 20)
        memo({"a": one})
        memo({"a": other})
        memo({"b": other})
        assert memo.hits == int(told(one) == told(other)), (one, other)


@pytest.mark.parametrize("seed", range(150))
def test_remembered_and_worked_out_answers_agree(seed):
    random = Random(seed)  # noqa: S311 - test data, not secrets
    try:
        engine = Engine({"gen.rego": policy(random)})
    except PolicyError:
        return
    memo, plain = engine.remembering(["data.gen"]), engine.prepare("data.gen")
    documents = [document(random) for _ in range(4)]
    for _ in range(40):
        given_input = copy.deepcopy(random.choice(documents))
        # One field at a time becomes another of the values that Python holds for equal.
        given_input[random.choice(["a", "b", "c", "xs", "o", "unread"])] = random.choice(ALIKE)
        assert outcome(lambda given_input=given_input: memo(given_input)[0]) == outcome(lambda given_input=given_input: plain(given_input))


def outcome(run: Any) -> str:
    try:
        return told(to_json(run()))
    except RegoError as error:
        return type(error).__name__


@pytest.mark.parametrize("one", range(len(ALIKE)))
def test_the_type_decides(one):
    memo = Engine({"p.rego": "package p\n\nx := [type_name(input.v), json.marshal(input.v)]\n"}).remembering(["data.p.x"])
    for value in [*ALIKE[one:], *ALIKE[:one]] * 2:
        wanted = Engine({"p.rego": "package p\n\nx := [type_name(input.v), json.marshal(input.v)]\n"}).value("data.p.x", {"v": value})
        assert told(memo({"v": value})) == told([wanted])
    assert memo.hits == len(ALIKE)


def test_a_policy_that_asks_the_time_is_not_remembered():
    memo = Engine({"p.rego": "package p\n\nx := time.now_ns()\n"}).remembering(["data.p.x"])
    assert (memo({}, 1), memo({}, 2), memo.hits) == ([1], [2], 0)


def test_what_was_not_read_does_not_matter():
    memo = Engine({"p.rego": "package p\n\nx if input.a == 1\n"}).remembering(["data.p.x"])
    for index in range(50):
        memo({"a": 1, "id": index}, now_ns=index)
    assert (memo.hits, memo.misses) == (49, 1)


def test_an_input_without_bytes_is_worked_out_every_time():
    memo = Engine({"p.rego": "package p\n\nx := input.a\n"}).remembering(["data.p.x"])
    assert memo({"a": Decimal("0.1")}) == memo({"a": Decimal("0.1")})
    assert memo.hits == 0


def test_a_failure_is_not_remembered():
    memo = Engine({"p.rego": "package p\n\nx := 1 if input.a\n\nx := 2 if input.b\n"}).remembering(["data.p.x"])
    for _ in range(2):
        with pytest.raises(RegoError):
            memo({"a": 1, "b": 1})
    assert (memo.hits, len(memo)) == (0, 0)


def test_the_memory_is_bounded_and_the_oldest_used_goes_first():
    memo = Engine({"p.rego": "package p\n\nx := input.a\n"}).remembering(["data.p.x"], limit_bytes=10_000)
    memo({"a": "kept"})
    for index in range(1_000):
        memo({"a": index})
        memo({"a": "kept"})
    assert len(memo) < 40
    assert memo.hits == 1_000
    memo({"a": "x" * 20_000})
    assert len(memo) == 0
