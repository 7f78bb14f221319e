"""Invariants over generated texts, policies and values."""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest
from generated import VALUES, document, policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opa_server import INSTALL_HINT, opa_binary

from policies.rego import UNDEFINED, Engine, LimitError, Limits, PolicyError, RegoError, to_json
from policies.rego.builtins import arithmetic
from policies.rego.parser import parse_module, parse_query
from policies.rego.values import compare, equal, freeze, make_set

ROOT = Path(__file__).resolve().parents[2]
FRAGMENTS = st.sampled_from(
    ["package p\n", "p", "if", " { ", " } ", "[", "]", "(", ")", ":=", "=", "==", "|", "not ", "some ", "every ", "in ", "with ", "as ", "else ",
     "contains ", "default ", "import ", "input", "data", ".x", "_", '"s"',
     "`r`", '$"{', '}"', "1", "-1.5e3", "true", "null", ",", ";", "\n", "#c\n", "λ", "\x00"]
)  # fmt: skip
json_values = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, 2, -1, 0.5, "", "a", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=8,
)
numbers = st.integers(-(10**20), 10**20) | st.decimals(-(10**6), 10**6, places=3).map(float)


@given(st.lists(FRAGMENTS, max_size=40).map("".join))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_is_parsed_or_refused_with_a_position(text):
    for parse in (lambda: parse_module("m.rego", text), lambda: parse_query(text)):
        refused: list[PolicyError] = []
        try:
            parse()
        except PolicyError as error:
            refused.append(error)
        assert all(issue.line >= 1 and issue.column >= 1 for error in refused for issue in error.issues)


@given(st.lists(FRAGMENTS, max_size=25).map(lambda parts: "package p\n\nx if {\n" + "".join(parts) + "\n}\n"))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_module_is_refused_or_evaluates_to_a_value_or_a_typed_error(text):
    answer: Any = None
    try:
        answer = Engine({"m.rego": text}, limits=Limits(steps=20_000)).value("data.p", {"x": [1, {"y": 2}]})
    except RegoError as error:
        answer = str(error)
    assert answer is not None


@pytest.mark.parametrize("seed", range(120))
def test_equal_values_on_the_read_paths_give_equal_decisions(seed):
    random = Random(seed)  # noqa: S311 - test data, not secrets
    try:
        engine = Engine({"gen.rego": policy(random)})
    except PolicyError:
        return
    read = [path[1:] for path in engine.reads("data.gen") if path[0] == "input"]
    given_input = document(random)
    changed = {**{key: random.choice(VALUES) for key in ("a", "b", "c", "xs", "o", "new")}}
    for path in read:
        _copy_path(given_input, changed, path)
    assert _outcome(engine, given_input) == _outcome(engine, changed)


def _copy_path(source: Any, target: Any, path: tuple[Any, ...]) -> None:
    """Make `target` have at `path` what `source` has there, absence included."""
    if not path:
        target.clear()
        target.update(copy.deepcopy(source))
        return
    key, rest = path[0], path[1:]
    if not isinstance(source, dict) or key not in source:
        if isinstance(target, dict):
            target.pop(key, None)
        return
    if not rest or not isinstance(source[key], dict) or not isinstance(target.get(key), dict):
        target[key] = copy.deepcopy(source[key])
        return
    _copy_path(source[key], target[key], rest)


def _outcome(engine: Engine, given_input: Any) -> Any:
    try:
        return repr(to_json(engine.value("data.gen", given_input)))
    except RegoError as error:
        return type(error).__name__


@pytest.mark.parametrize("seed", range(40))
def test_tracing_changes_no_answer(seed):
    random = Random(seed)  # noqa: S311 - test data, not secrets
    try:
        engine = Engine({"gen.rego": policy(random)})
    except PolicyError:
        return
    given_input = document(random)
    traced = engine.traced()
    try:
        wanted: Any = engine.value("data.gen", given_input)
    except RegoError:
        return
    assert equal(traced.value("data.gen", given_input), wanted)


@given(json_values, json_values, json_values)
def test_the_order_of_values_is_total_and_agrees_with_equality(one, other, third):
    assert (compare(one, other) == 0) == equal(one, other)
    assert compare(one, other) == -compare(other, one)
    if compare(one, other) <= 0 and compare(other, third) <= 0:
        assert compare(one, third) <= 0


@given(json_values, json_values)
def test_keys_agree_with_equality(one, other):
    assert (freeze(one) == freeze(other)) == equal(one, other)
    assert len(make_set([one, other])) == (1 if equal(one, other) else 2)


def test_one_and_one_point_zero_are_one_number_and_true_is_none():
    assert len(make_set([1, 1.0, True, "1"])) == 3
    assert Engine({}).eval("1 == 1.0") == [{}]
    assert Engine({}).eval("1 == true") == []
    assert Engine({}).eval("[1] == [true]") == []


@given(numbers, numbers)
def test_arithmetic_is_exact_within_64_bits(one, other):
    exact = arithmetic.fraction(one) + arithmetic.fraction(other)
    found = arithmetic.fraction(arithmetic.add(one, other))
    assert abs(found - exact) <= max(abs(exact), abs(arithmetic.fraction(one)), Fraction(1, 10**9)) / 2**62
    if isinstance(one, int) and isinstance(other, int):
        assert found == one + other


def test_decimals_print_as_opa_prints_them():
    assert arithmetic.add(0.1, 0.2) == 0.3
    assert arithmetic.divide(1, 3) == Decimal("0.33333333333333333334")
    assert arithmetic.divide(10, 4) == 2.5


@given(st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_a_smaller_budget_never_changes_an_answer_only_withholds_it(steps):
    text = "package p\n\nx := [a | some a in input.xs; some b in input.xs; a + b == 9]\n"
    given_input = {"xs": list(range(10))}
    full = Engine({"p.rego": text}).value("data.p.x", given_input)
    try:
        found = Engine({"p.rego": text}, limits=Limits(steps=steps)).value("data.p.x", given_input)
    except LimitError:
        return
    assert found == full
    assert found is not UNDEFINED


@pytest.mark.parametrize("seed", range(80))
def test_the_order_of_rules_and_modules_does_not_matter(seed):
    random = Random(seed)  # noqa: S311 - test data, not secrets
    head, *rules = policy(random).strip().split("\n\n")
    shuffled = random.sample(rules, len(rules))
    half = len(shuffled) // 2
    orders: list[dict[str, str]] = [
        {"gen.rego": "\n\n".join([head, *rules])},
        {"gen.rego": "\n\n".join([head, *shuffled])},
        {"z.rego": "\n\n".join([head, *shuffled[:half]]), "a.rego": "\n\n".join([head, *shuffled[half:]])},
    ]
    try:
        engines = [Engine(modules) for modules in orders]
    except PolicyError:
        with pytest.raises(PolicyError):
            Engine(orders[-1])
        return
    for _ in range(5):
        given_input = document(random)
        assert len({_sorted_outcome(engine, given_input) for engine in engines}) == 1


def _sorted_outcome(engine: Engine, given_input: Any) -> str:
    try:
        return json.dumps(to_json(engine.value("data.gen", given_input)), sort_keys=True, default=str)
    except RegoError as error:
        return type(error).__name__


def _shape(node: Any) -> Any:
    """Return a syntax tree without its positions."""
    if isinstance(node, tuple):
        return tuple(_shape(item) for item in node)
    if hasattr(node, "__dataclass_fields__"):
        skipped = {"pos", "end", "source", "package_pos", "annotations"}
        return (type(node).__name__, *(_shape(getattr(node, name)) for name in node.__dataclass_fields__ if name not in skipped))
    return repr(node)


@pytest.mark.parametrize("seed", range(80))
def test_comments_blank_lines_and_spaces_do_not_change_what_is_parsed(seed):
    random = Random(seed)  # noqa: S311 - test data, not secrets
    text = policy(random)
    tails = ["", "  ", "\t", ' # why `{` and "', "\n", "\n# between\n\n"]
    lines = [line + random.choice(tails) for line in text.splitlines()]
    assert _shape(parse_module("m.rego", "\n".join(lines))) == _shape(parse_module("m.rego", text))


def _meaning(shape: Any) -> Any:
    """Return a shape without what two spellings of one rule may differ in: `:= true` written or not, a member of a set written twice."""
    if not isinstance(shape, tuple):
        return shape
    if shape and shape[0] == "Rule":
        shape = (*shape[:6], *shape[7:])  # `has_value`
    if shape and shape[0] == "SetTerm":
        members = [_meaning(item) for item in shape[1]]
        return ("SetTerm", frozenset({_number_or(item): item for item in reversed(members)}.values()))
    return tuple(_meaning(item) for item in shape)


def _number_or(shape: Any) -> Any:
    """Return a number for a numeric scalar, so that 1 and 1.0 are one member; anything else as it is."""
    with contextlib.suppress(ValueError):
        if shape[0] == "Scalar":
            return Fraction(shape[1])
    return shape


@pytest.mark.component("opa")
@pytest.mark.skipif(opa_binary() is None, reason=INSTALL_HINT)
def test_what_is_parsed_and_printed_by_opas_formatter_is_parsed_to_the_same_tree(tmp_path):
    """Parser round trip, with another implementation's printer: it writes two of three of these modules in another way than they were written."""
    texts = {f"generated{seed}.rego": policy(Random(seed)) for seed in range(300)}  # noqa: S311 - test data, not secrets
    for path in (ROOT / "policies" / "default").rglob("*.rego"):
        texts[f"{len(texts)}.rego"] = path.read_text()
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    subprocess.run([opa_binary(), "fmt", "-w", str(tmp_path)], check=True, capture_output=True)
    printed = {name: (tmp_path / name).read_text() for name in texts}
    for name, text in texts.items():
        assert _meaning(_shape(parse_module(name, printed[name]))) == _meaning(_shape(parse_module(name, text))), printed[name]
    assert sum(printed[name] != text for name, text in texts.items()) > len(texts) // 2
