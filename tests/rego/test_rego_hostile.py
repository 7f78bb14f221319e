"""Hostile policies and inputs end quickly in a typed error or an ordinary value: no crash, no hang, no growth."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from policies.rego import UNDEFINED, Engine, LimitError, Limits, PolicyError, RegoError
from policies.rego.runtime import CLOCK_STEPS, PART

LIMITS = Limits(wall_s=0.5)
WORST_S = 2.0
"""Of the processor: what a busy machine adds is not the policy's."""


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
    "a range with a step": ("x := numbers.range_step(1, 1000000000, 2)", {}),
    "a product of ranges": ("x := count({[a, b, c] | some a in r; some b in r; some c in r})\n\nr := numbers.range(1, 1000)", {}),
    "a comprehension in a comprehension": ("x := [[[c | some c in input.xs] | some b in input.xs] | some a in input.xs]", {"xs": list(range(400))}),
    "an object that doubles": (doubling('{"a": 1}', '{"a": X, "b": X}', "x49"), {}),
    "object.union that doubles": (doubling('{"a": [1]}', 'object.union(X, {"a": array.concat(X.a, X.a)})', "x49"), {}),
    "object.union_n that doubles": (doubling('{"a": 1}', 'object.union_n([X, {"b": X, "c": X}])', "x49"), {}),
    "json.patch that doubles": (
        doubling(
            '{"a": [1]}',
            'json.patch(X, [{"op": "copy", "from": "/a", "path": "/a/-"}, {"op": "copy", "from": "/a", "path": "/a/-"}])',
            "json.marshal(x49)",
        ),
        {},
    ),
    "concat of many long strings": ('x := concat("", [s | some _ in numbers.range(1, 10000); s := input.s])', {"s": "a" * 10_000}),
    "a long separator": ("x := concat(input.s, input.xs)", {"s": "a" * 100_000, "xs": ["b"] * 1_000}),
    "a template that doubles": (doubling('"ab"', '$"{X}{X}"', "x49"), {}),
    "regex.replace that multiplies": ('x := regex.replace(input.s, "a", input.s)', {"s": "a" * 100_000}),
    "strings.replace_n that multiplies": ('x := strings.replace_n({"a": input.s}, input.s)', {"s": "a" * 100_000}),
    "a star width in sprintf": ('x := sprintf("%*d", [999999999, 1])', {}),
    "a precision in sprintf": ('x := sprintf("%.999999999f", [1.5])', {}),
    "many verbs with widths": ("x := sprintf(input.s, input.xs)", {"s": "%9999d" * 2_000, "xs": [1] * 2_000}),
    "a number that is cubed": (doubling("7", "X * X * X", "x49"), {}),
    "all addresses of a large network": ('x := net.cidr_expand("10.0.0.0/7")', {}),
    "globs that match each other": ("x := regex.globs_match(input.s, input.s)", {"s": "a*" * 50_000}),
    "rules over rules over rules": (
        "r0 contains n if some n in numbers.range(1, 100)\n"
        + "\n".join(f"r{k} contains [a, b] if {{ some a in r{k - 1}; some b in r{k - 1} }}" for k in range(1, 5))
        + "\nx := count(r4)",
        {},
    ),
    "a template that loops in loops": (
        'x := strings.render_template(input.t, {"a": numbers.range(1, 3000)})',
        {"t": "{{range .a}}{{range $.a}}{{range $.a}}x{{end}}{{end}}{{end}}"},
    ),
    "YAML of 200,000 lines": ("x := yaml.unmarshal(input.s)", {"s": "- a\n" * 200_000}),
    "YAML written from 90,000 values": ("x := yaml.marshal(input.xs)", {"xs": list(range(90_000))}),
    "every text with every ending": (
        "x := strings.any_suffix_match(input.texts, input.ends)",
        {"texts": ["/a/b/c"] * 20_000, "ends": ["a" * 100] * 50_000},
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
    "a pattern in a schema": (
        'x := json.match_schema({"a": input.s}, {"properties": {"a": {"pattern": "^(a+)+$"}}})[0]',
        {"s": "a" * 5_000 + "b"},
        False,
    ),
    "JSON with a million brackets": ("x := json.is_valid(input.s)", {"s": "[" * 500_000 + "]" * 500_000}, False),
    "a number of a million digits in JSON": ("x := json.unmarshal(input.s)", {"s": "9" * 900_000}, UNDEFINED),
    "an exponent in JSON": ('x := json.unmarshal("1e999999999") > 1', {}, UNDEFINED),
    "YAML nested 100,000 deep": ("x := yaml.unmarshal(input.s)", {"s": "[" * 100_000}, UNDEFINED),
    "base64 of nonsense": ("x := base64.decode(input.s)", {"s": "A" * 999_999}, UNDEFINED),
    "a token that is no token": ("x := io.jwt.decode(input.s)", {"s": "." * 500_000}, UNDEFINED),
    "a certificate that is none": ("x := crypto.x509.parse_certificates(input.s)", {"s": "A" * 500_000}, UNDEFINED),
    "a version of 100,000 parts": ("x := semver.is_valid(input.s)", {"s": "1." * 100_000}, False),
    "a duration of 100,000 digits": ("x := time.parse_duration_ns(input.s)", {"s": "9" * 100_000 + "h"}, UNDEFINED),
    "a duration of 100,000 digits and no unit": ("x := time.parse_duration_ns(input.s)", {"s": "9" * 100_000}, UNDEFINED),
    "a duration of 100,000 parts": ("x := time.parse_duration_ns(input.s)", {"s": "1s" * 100_000}, UNDEFINED),
    "a unit of 100,000 digits and two points": ("x := units.parse_bytes(input.s)", {"s": "9" * 100_000 + ".."}, UNDEFINED),
    "a layout of days of one digit or two": ("x := time.parse_ns(input.s, input.t)", {"s": "2" * 150, "t": "1" * 200 + "x"}, UNDEFINED),
    "a layout of zones": ("x := time.parse_ns(input.s, input.t)", {"s": "MST" * 60, "t": "A" * 200 + "x"}, UNDEFINED),
    "blocks that never end": ("x := crypto.x509.parse_certificates(input.s)", {"s": "-----BEGIN CERTIFICATE-----" * 30_000}, UNDEFINED),
    "a template of spaces": ("x := count(strings.render_template(input.s, {})) > 1", {"s": "{{" + " " * 50_000}, True),
    "a template of openings": ("x := count(strings.render_template(input.s, {})) > 1", {"s": "{{" * 100_000}, True),
    "a unit of 100,000 digits": ("x := units.parse_bytes(input.s)", {"s": "9" * 100_000 + "K"}, UNDEFINED),
    "a glob of 5,000 alternatives": ("x := glob.match(input.s, [], `zz`)", {"s": "{" + "a*,b?" * 2_500 + "}"}, UNDEFINED),
    "a glob nested 3,000 deep": ("x := glob.match(input.s, [], `zz`)", {"s": "{a," * 3_000 + "}" * 3_000}, False),
    "a million splits": ('x := count(split(input.s, ",")) > 1', {"s": "," * 90_000}, True),
    "a schema that refers to itself": ('x := json.match_schema({"a": 1}, {"$ref": "#"})', {}, UNDEFINED),
}
REFUSED = {
    "5,000 parentheses": "x := " + "(" * 5000 + "1" + ")" * 5000,
    "5,000 arrays": "x := " + "[" * 5000 + "1" + "]" * 5000,
    "ambiguous braces": "x := " + "{a|" * 90 + "b" + "}" * 90,
    "a sum of 3,000 terms": "x := " + " + ".join(["1"] * 3000),
    "a number of 5,000 digits": "x := " + "9" * 5_000,
    "an exponent of nine nines": "x := 1e999999999",
    "a string without an end": 'x := "' + "a" * 200_000,
    "calls in calls": "x := " + "count(" * 3_000 + "[]" + ")" * 3_000,
    "negations in negations": "import future.keywords.not\n\nx if " + "not { " * 1_000 + "input.a" + " }" * 1_000,
    "a template in a template in a template": "x := " + '$"{' * 300 + "1" + '}"' * 300,
}


def evaluate(body: str, given: Any) -> tuple[Any, float]:
    begin = time.process_time()
    try:
        value: Any = Engine({"p.rego": f"package p\n\n{body}\n"}, limits=LIMITS).value("data.p.x", given)
    except RegoError as error:
        value = error
    return value, time.process_time() - begin


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


MANY = list(range(50_000))
LONG_LOOPS = {
    "an array's values": ("x := [a | some a in input.list; a < 0]", {"list": MANY}),
    "an array's indices": ("x := [i | some i, a in input.list; a < 0]", {"list": MANY}),
    "an object's values": ("x := [a | some a in input.object; a < 0]", {"object": {str(n): n for n in MANY}}),
    "an object's keys": ("x := {k: a | some k, a in input.object; a < 0}", {"object": {str(n): n for n in MANY}}),
    "a set": ("x := {a | some a in s; a < 0}\n\ns contains a if some a in input.list", {"list": MANY}),
    "a loop with more of the path behind it": ("x := [a | a := input.list[_].a; a < 0]", {"list": [{"a": n} for n in MANY]}),
    "every": ("x if every a in input.list { a >= 0 }", {"list": MANY}),
    "an index of base data": ("x := [a | some a in data.base; a.k == input.k; a.v < 0]", {"k": 1}),
}


@pytest.mark.parametrize("name", LONG_LOOPS)
def test_a_long_iteration_looks_at_the_clock_while_it_goes_on(name):
    body, given = LONG_LOOPS[name]
    looks = []

    def clock() -> float:
        looks.append(len(looks))
        return 0.0

    data = {"base": [{"k": 1, "v": n} for n in MANY]}
    engine = Engine({"p.rego": f"package p\n\n{body}\n"}, data, clock=clock)
    assert engine.value("data.p.x", given) is not UNDEFINED
    assert len(looks) >= len(MANY) // (CLOCK_STEPS + PART)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_builtin_can_be_made_to_crash_hang_or_grow_by_its_operands():
    """Every built-in with operands made to hurt, in a process of its own with 3 GB of address space."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(Path(__file__).with_name("hostile_operands.py")), "1"]
    told = subprocess.run(command, cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-2000:]
    *findings, last = told.stdout.splitlines()
    assert findings == []
    assert int(last.split()[0]) > 5_000
