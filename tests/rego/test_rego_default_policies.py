"""The shipped policies pass their own tests, read nothing that changes on every call, and refuse when facts are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.rego import Engine, to_json
from policies.rego.parser import parse_module

FOLDER = Path(__file__).resolve().parents[2] / "policies/default"
ALL = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.rego"))}
SHIPPED = {name: text for name, text in ALL.items() if not name.endswith("_test.rego")}
TESTS = [
    (".".join(module.package), rule.ref[0].name)
    for name, text in ALL.items()
    if name.endswith("_test.rego")
    for module in [parse_module(name, text)]
    for rule in module.rules
    if rule.ref[0].name.startswith("test_")
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(ALL)


@pytest.mark.parametrize(("package", "name"), TESTS)
def test_the_policy_passes_its_own_test(engine, package, name):
    assert engine.value(f"data.{package}.{name}") is True


def test_there_are_tests():
    assert len(TESTS) >= 20


def test_the_shipped_policies_pass_every_check():
    engine = Engine(SHIPPED, {"params": {}}, strict=True)
    assert [issue.render() for issue in engine.check() if issue.severity == "error"] == []


def test_the_shipped_policies_read_no_path_that_changes_on_every_call():
    engine = Engine(SHIPPED)
    read = engine.reads("data.policy")
    assert ("now",) not in read
    inputs = {path[1:] for path in read if path[0] == "input"}
    assert inputs == {
        ("approvals",), ("env",), ("model", "digest"), ("model", "name"), ("model", "risk"), ("model", "version"),
        ("params", "max_kib"), ("params", "max_rows"), ("request", "kib"), ("request", "rows"), ("usage", "exhausted"),
    }  # fmt: skip


def test_an_empty_input_is_refused_by_both_with_reasons():
    engine = Engine(SHIPPED, strict_builtin_errors=True)
    for package in ("approval", "limits"):
        document = to_json(engine.prepare(f"data.policy.{package}")({}))
        assert document["allow"] is False
        assert document["deny"]


def test_every_rule_is_reached_by_the_tests():
    traced = Engine(ALL).traced()
    for package, name in TESTS:
        assert traced.value(f"data.{package}.{name}") is True
    coverage = traced.coverage()
    assert {name: sorted(coverage[name].missed) for name in SHIPPED if coverage[name].missed} == {}
