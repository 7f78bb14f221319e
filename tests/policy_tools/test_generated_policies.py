"""On generated policies: spans cover what they say, coverage is complete or names what is missing, removals and lint never crash."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from generated import document, policy

from policies.lint.run import lint
from policies.rego import Engine, PolicyError, RegoError
from policies.rego.parser import parse_module
from policies.rego.spans import SpanIndex
from policies.testing.coverage import measure
from policies.testing.mutation import removals

SEEDS = range(60)


def made(seed: int):
    random = Random(seed)  # noqa: S311 - test data, not secrets
    text = policy(random)
    return parse_module("gen.rego", text), document(random)


@pytest.mark.parametrize("seed", SEEDS)
def test_spans_nest_and_each_is_found_by_its_own_start(seed):
    module, _ = made(seed)
    index = SpanIndex(module)
    text = module.source.text
    for span in index.spans:
        assert text[span.start : span.end] == span.text == span.text.strip()
        assert span.text
        if not span.is_head:
            assert index.around(span.start) == span
    outer = [span for span in index.spans if not span.is_head and span.parent is None]
    assert all(one.end <= other.start for one, other in itertools.pairwise(outer))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_trace_reached_is_part_of_the_module(seed):
    module, given = made(seed)
    try:
        traced = Engine({"gen.rego": module}).traced()
        traced.value("data.gen", given)
    except RegoError:
        return
    known = {("gen.rego", span.start, span.is_head) for span in SpanIndex(module).spans}
    assert traced.reached <= known
    coverage = measure([module], traced.reached)
    done, total = coverage.rules
    assert done == sum(is_head for _, _, is_head in traced.reached)
    assert total == sum(is_head for _, _, is_head in known)
    assert traced.explain(full=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_removal_loads_or_is_refused_and_answers_or_errs_as_the_engine_does(seed):
    module, given = made(seed)
    for number, removal in enumerate(removals(module)):
        if number >= 12:
            break
        try:
            Engine({"gen.rego": removal.module}).value("data.gen", given)
        except (PolicyError, RegoError):
            continue


@pytest.mark.parametrize("seed", SEEDS)
def test_lint_finds_places_that_are_there(seed):
    module, _ = made(seed)
    lines = module.source.text.split("\n")
    for issue in lint({"gen.rego": module}):
        assert 1 <= issue.line <= len(lines)
        assert 1 <= issue.column <= len(lines[issue.line - 1]) + 1
