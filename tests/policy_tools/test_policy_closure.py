"""The modules a test needs are enough: with them alone every answer is the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.rego import UNDEFINED, Engine
from policies.rego.parser import parse_module
from policies.testing.closure import closure

MODULES = {
    "a.rego": "package a\nimport data.b\nx := b.y + 1",
    "a2.rego": 'package a\nz := data.c["w"].v',
    "b.rego": "package b\ny := 1",
    "c.rego": "package c.w\nv := 3",
    "d.rego": "package d.e\nq := 1 if data.b.y with data.c.w.v as 4",
    "all.rego": "package all\nn := count([k | data.d[k]])",
    "lone.rego": "package lone\nx := input.a",
}
PARSED = {name: parse_module(name, text) for name, text in MODULES.items()}


@pytest.mark.parametrize(
    ("root", "needed"),
    [
        ("lone.rego", {"lone.rego"}),
        ("b.rego", {"b.rego"}),
        ("a.rego", {"a.rego", "a2.rego", "b.rego", "c.rego"}),
        ("d.rego", {"d.rego", "b.rego", "c.rego"}),
        ("all.rego", {"all.rego", "d.rego", "b.rego", "c.rego"}),
    ],
)
def test_packages_imports_references_and_replacements_are_followed(root, needed):
    assert set(closure(PARSED, {root})) == needed


def test_a_reference_that_may_mean_anything_needs_everything():
    assert set(closure({**PARSED, "any.rego": parse_module("any.rego", "package any\nx := data[input.a]")}, {"any.rego"})) == {*PARSED, "any.rego"}


@given(st.sets(st.sampled_from(sorted(MODULES)), min_size=1))
def test_what_is_kept_answers_as_before(roots):
    kept = closure(PARSED, roots)
    whole, part = Engine(PARSED), Engine(kept)
    for name in roots:
        package = ".".join(PARSED[name].package)
        for rule in PARSED[name].rules:
            ref = f"data.{package}.{rule.ref[0].name}"
            assert part.value(ref, {"a": 1}) == whole.value(ref, {"a": 1}) is not UNDEFINED
