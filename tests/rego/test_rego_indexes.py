"""What an index leaves out could not have held: indexed and plain evaluation agree, and the cost does not grow with what does not match."""

from __future__ import annotations

import sys
from random import Random
from typing import Any

import pytest

from policies.rego import Engine, LimitError, Limits, RegoError, to_json

VALUES: list[Any] = [0, 1, 1.0, True, False, None, "", "a", "b", [], ["a"], [1], {"a": 1}]
TESTS = [
    "e.f == input.x", "input.x == e.f", "e.o.g == input.x", "input.x in e.list", "e == input.x", "e.f == input.o[input.k]", "e.f != input.x",
    "e.n > 1", "e.missing", "not e.f", 'e.f == "a"', "y == e.f", "y in e.list", "i > 3", "i == input.x", "count(e.list) > 0", "e.f in input.list",
    "e.f == data.fixed", "input.x in data.names", "e.f in data.names",
]  # fmt: skip


def plain(text: str, data: Any, given: Any) -> Any:
    """Evaluate without indexes: a traced program has none."""
    try:
        return to_json(Engine({"p.rego": text}, data).traced().value("data.p", given))
    except RegoError as error:
        return type(error).__name__


def indexed(text: str, data: Any, given: Any) -> Any:
    try:
        return to_json(Engine({"p.rego": text}, data).value("data.p", given))
    except RegoError as error:
        return type(error).__name__


def tagged(value: Any) -> str:
    return repr(value)


def entry(random: Random) -> dict[str, Any]:
    parts = {
        "f": random.choice(VALUES),
        "o": {"g": random.choice(VALUES)},
        "list": random.sample(VALUES, random.randrange(4)),
        "n": random.randrange(4),
    }
    return {key: value for key, value in parts.items() if random.random() < 0.9}


@pytest.mark.parametrize("seed", range(150))
def test_narrowed_iterations_find_what_plain_ones_find(seed):
    random = Random(seed)  # noqa: S311 - test data, not secrets
    entries: Any = [entry(random) for _ in range(random.choice([3, 15, 16, 40]))] + random.sample(VALUES, 2)
    if random.random() < 0.5:
        entries = {f"k{index}": item for index, item in enumerate(entries)}
    data = {"entries": entries, "fixed": random.choice(VALUES), "names": random.sample(VALUES * 2, 20)}
    rules = []
    for name in ("a", "b", "c"):
        tests = "\n\t".join(random.sample(TESTS, random.randrange(1, 4)))
        head = random.choice([f"{name} contains [i, e]", f"{name} := [p | ", f"{name} if"])
        body = f"y := input.y\n\tsome i, e in data.entries\n\t{tests}"
        rules.append(
            f"{head} if {{\n\t{body}\n}}"
            if "contains" in head
            else (f"{name} := [[i, e] | {body}]" if ":=" in head else f"{name} if {{\n\t{body}\n}}")
        )
    text = "package p\n\n" + "\n\n".join(rules) + "\n"
    for _ in range(6):
        given = {"x": random.choice(VALUES), "y": random.choice(VALUES), "k": "x", "o": {"x": random.choice(VALUES)}, "list": VALUES[:5]}
        for gone in random.sample(sorted(given), random.randrange(2)):
            del given[gone]
        assert tagged(indexed(text, data, given)) == tagged(plain(text, data, given)), text


@pytest.mark.parametrize("seed", range(100))
def test_chosen_definitions_give_what_all_of_them_give(seed):
    random = Random(seed)  # noqa: S311 - test data, not secrets
    literals = ["0", "1", "1.0", "true", "null", '"a"', '"b"', "[]", '["a"]', '{"a": 1}']
    tests = [
        "input.x == L",
        "L == input.x",
        "input.o.x == L",
        "input.x in [L, L]",
        "input.x in {L, L}",
        "input.y",
        "not input.y",
        "input.x != L",
        "to_number(input.y) == 1",
    ]
    kind = random.choice(["set", "complete", "same", "function"])
    rules = []
    for index in range(random.choice([3, 4, 9])):
        body = "\n\t".join(random.choice(tests).replace("L", random.choice(literals)) for _ in range(random.randrange(1, 3)))
        head = {"set": f"r contains {index}", "complete": f"r := {index % 3}", "same": "r := 7", "function": f"f(z) := [z, {index % 2}]"}[kind]
        tail = " else := 9" if kind == "complete" and random.random() < 0.2 else ""
        rules.append(f"{head} if {{\n\t{body}\n}}{tail}")
    if kind == "function":
        rules.append("r := f(input.y)")
    text = "package p\n\n" + "\n\n".join(rules) + "\n"
    for _ in range(12):
        given = {"x": random.choice(VALUES), "y": random.choice(VALUES), "o": random.choice([{"x": random.choice(VALUES)}, 3])}
        for gone in random.sample(sorted(given), random.randrange(2)):
            del given[gone]
        assert tagged(indexed(text, {}, given)) == tagged(plain(text, {}, given)), text


def calls(engine: Engine, ref: str, given: Any) -> int:
    """Count the Python functions that one evaluation runs."""
    prepared = engine.prepare(ref)
    prepared(given)
    count = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        prepared(given)
    finally:
        sys.setprofile(None)
    return count


KEYED = """package p

by_field contains a.approver if {
	some a in data.approvals
	a.verified
	a.model_digest == input.digest
	a.until > input.now
}

by_member if {
	some a in data.approvals
	input.digest in a.digests
}

by_key := data.keyed[input.digest].approver

allowed if input.digest in data.digests

by_argument(digest) if {
	some a in data.approvals
	a.model_digest == digest
}

called if by_argument(input.digest)
"""


def keyed_data(count: int) -> Any:
    digests = [f"sha256:{index:064x}" for index in range(count)]
    approvals = [
        {"model_digest": digest, "digests": [digest, "x" + digest], "approver": f"p{index}", "verified": True, "until": 99}
        for index, digest in enumerate(digests)
    ]
    return {"approvals": approvals, "keyed": dict(zip(digests, approvals, strict=True)), "digests": digests}


@pytest.mark.parametrize("rule", ["by_field", "by_member", "by_key", "allowed", "called"])
def test_two_thousand_approvals_cost_as_twenty(rule):
    given = {"digest": f"sha256:{7:064x}", "now": 5}
    few, many = (Engine({"p.rego": KEYED}, keyed_data(count)) for count in (20, 2_000))
    assert to_json(few.value(f"data.p.{rule}", given)) == to_json(many.value(f"data.p.{rule}", given)) is not None
    assert calls(many, f"data.p.{rule}", given) == calls(few, f"data.p.{rule}", given)


@pytest.mark.parametrize("head", ["allow", "deny contains N", "level := N"])
def test_cost_does_not_depend_on_unrelated_rules(head):
    def engine(count: int) -> Engine:
        rules = [f'{head.replace("N", str(index))} if {{\n\tinput.role == "r{index}"\n\tinput.age > 3\n}}' for index in range(count)]
        others = [f"package o{index}\n\nr := input.x + {index}\n" for index in range(count)]
        return Engine({"p.rego": "package p\n\n" + "\n\n".join(rules) + "\n", **{f"o{index}.rego": text for index, text in enumerate(others)}})

    ref = "data.p." + head.split()[0]
    few, many = engine(20), engine(1_000)
    assert calls(many, ref, {"role": "r7", "age": 9}) == calls(few, ref, {"role": "r7", "age": 9})
    assert calls(many, ref, {"role": "nobody"}) <= calls(few, ref, {"role": "nobody"})


def test_a_failure_before_the_indexed_test_is_not_passed_over():
    text = "package p\n\nx if {\n\tsome e in data.entries\n\tto_number(e.n) == 1\n\te.f == input.x\n}\n"
    engine = Engine({"p.rego": text}, {"entries": [{"n": "no number", "f": 0}] * 40}, strict_builtin_errors=True)
    with pytest.raises(RegoError):
        engine.value("data.p.x", {"x": "not there"})


def test_an_index_is_still_bounded():
    text = "package p\n\nx := [1 | some e in data.entries; e.f == input.x; some g in data.entries; g.f == input.x]\n"
    engine = Engine({"p.rego": text}, {"entries": [{"f": 1}] * 2_000}, Limits(steps=100_000))
    with pytest.raises(LimitError):
        engine.value("data.p.x", {"x": 1})
