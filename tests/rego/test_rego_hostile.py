"""Hostile policies and inputs end quickly in a typed error or an ordinary value: no crash, no hang, no growth."""

from __future__ import annotations

import time
from typing import Any

import pytest

from policies.rego import UNDEFINED, Engine, LimitError, Limits, PolicyError, RegoError

LIMITS = Limits(wall_s=0.5)
WORST_S = 4.0


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def doubling(first: str, step: str, last: str) -> str:
    rules = [f"x0 := {first}", *(f"x{n} := " + step.replace("X", f"x{n - 1}") for n in range(1, 50)), f"x := {last}"]
    return "\n".join(rules)


def yaml_bomb() -> str:
    lines = ["a: &a [1,1,1,1,1,1,1,1,1]"]
    lines += [f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]" for n in range(10)]
    return "\n".join(lines)


PAIRS = "[x0, x0]"
LIMITED = {
    "a range of a billion": ("x := numbers.range(1, 1000000000)", {}),
    "a cross product": ("x := count([1 | a := input.xs[_]; b := input.xs[_]; c := input.xs[_]; a + b + c == -1])", {"xs": list(range(900))}),
    "nested every": ("x if { every a in input.xs { every b in input.xs { every c in input.xs { a + b + c >= 0 } } } }", {"xs": list(range(500))}),
    "input nested 20,000 deep": ("x := input.a", {"a": nested(20_000)}),
    "a string that doubles": (doubling('"ab"', 'concat("", [X, X])', "x49"), {}),
    "a number that squares": (doubling("3", "X * X", "x49"), {}),
    "an array that doubles": (doubling("[1]", "array.concat(X, X)", "x49"), {}),
    "a document that doubles": (doubling("[1]", "[X, X]", "x49"), {}),
    "a document that doubles, compared": (doubling("[1]", "[X, X]", "x48 == [x47, x47]"), {}),
    "a document that doubles, in a set": (doubling("[1]", "[X, X]", "{x49}"), {}),
    "a document that doubles, as JSON": (doubling("[1]", "[X, X]", "json.marshal(x49)"), {}),
    "a document that doubles, in a message": (doubling("[1]", "[X, X]", 'sprintf("%v", [x49])'), {}),
    "a document that doubles, sorted": (doubling("[1]", "[X, X]", "sort([x49, x49])"), {}),
    "functions that call twice": (
        "f0(a) := a\n" + "\n".join(f"f{n}(a) := f{n - 1}(a) + f{n - 1}(a)" for n in range(1, 50)) + "\nx := f49(1)",
        {},
    ),
    "a huge shift": ("x := bits.lsh(1, 1000000000)", {}),
    "a replacement that multiplies": ('x := replace(input.s, "a", input.s)', {"s": "a" * 100_000}),
    "a width in sprintf": ('x := sprintf("%999999999d", [1])', {}),
    "all addresses": ('x := net.cidr_expand("0.0.0.0/0")', {}),
    "all paths of a graph": (
        'x := graph.reachable_paths(input.g, ["0"])',
        {"g": {str(n): [str(m) for m in range(30)] for n in range(30)}},
    ),
    "sorting in a loop": ("x := count([y | some y in numbers.range(1, 90000); sort(input.xs)[0] == y])", {"xs": [[n, "a"] for n in range(3000)]}),
}
HARMLESS = {
    "a regex that backtracks elsewhere": ("x := regex.match(`^(a+)+$`, input.s)", {"s": "a" * 20_000 + "b"}, False),
    "a regex that recurses elsewhere": ("x := regex.match(`^(a|b)*$`, input.s)", {"s": "a" * 20_000}, True),
    "a regex too large": ("x := regex.match(`((a{1,1000}){1,1000}){1,1000}`, `a`)", {}, UNDEFINED),
    "a glob with many stars": ('x := glob.match("*a*a*a*a*a*a*b", [], input.s)', {"s": "a" * 50_000}, False),
    "JSON nested 100,000 deep": ("x := json.unmarshal(input.s)", {"s": "[" * 100_000}, UNDEFINED),
    "YAML aliases that multiply": ("x := yaml.unmarshal(input.s)", {"s": yaml_bomb()}, UNDEFINED),
    "a number of a billion digits": ('x := to_number("1e999999999")', {}, UNDEFINED),
    "a layout of 100,000 characters": ("x := time.parse_ns(input.s, input.s)", {"s": "1" * 100_000}, UNDEFINED),
    "a schema that refers to itself": ('x := json.match_schema({"a": 1}, {"$ref": "#"})', {}, UNDEFINED),
}
REFUSED = {
    "5,000 parentheses": "x := " + "(" * 5000 + "1" + ")" * 5000,
    "5,000 arrays": "x := " + "[" * 5000 + "1" + "]" * 5000,
    "ambiguous braces": "x := " + "{a|" * 90 + "b" + "}" * 90,
    "a sum of 3,000 terms": "x := " + " + ".join(["1"] * 3000),
    "a template in a template in a template": "x := " + '$"{' * 300 + "1" + '}"' * 300,
}


def evaluate(body: str, given: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    try:
        value: Any = Engine({"p.rego": f"package p\n\n{body}\n"}, limits=LIMITS).value("data.p.x", given)
    except RegoError as error:
        value = error
    return value, time.perf_counter() - begin


@pytest.mark.parametrize("name", LIMITED)
def test_what_would_grow_without_bound_is_a_limit_error(name):
    value, seconds = evaluate(*LIMITED[name])
    assert isinstance(value, LimitError), value
    assert seconds < WORST_S


@pytest.mark.parametrize("name", HARMLESS)
def test_what_hangs_other_engines_has_an_ordinary_answer(name):
    body, given, wanted = HARMLESS[name]
    value, seconds = evaluate(body, given)
    assert value is wanted
    assert seconds < WORST_S


@pytest.mark.parametrize("name", REFUSED)
def test_text_that_is_too_deep_is_refused(name):
    value, seconds = evaluate(REFUSED[name], {})
    assert isinstance(value, PolicyError), value
    assert seconds < WORST_S


@pytest.mark.parametrize("value", [object(), b"bytes", (1, 2), {1, 2}])
def test_a_value_that_is_no_json_is_a_typed_error_and_not_a_crash(value):
    prepared = Engine({"p.rego": "package p\n\nx if input.a < 3\n"}).prepare("data.p.x")
    with pytest.raises(RegoError):
        prepared({"a": value})


def test_a_clock_that_jumps_ends_the_evaluation():
    ticks = iter(range(10_000))
    engine = Engine({"p.rego": "package p\n\nx := [a | some a in numbers.range(1, 50000); a > 0]\n"}, clock=lambda: float(next(ticks)))
    with pytest.raises(LimitError) as caught:
        engine.value("data.p.x", {})
    assert caught.value.limit == "wall_s"
