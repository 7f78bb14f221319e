"""`assay policy bench` times what it says it times."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gateway.cli.main import app
from policies.bench import Measured, bench
from policies.rego import UNDEFINED
from policies.sources import Sources

POLICY = {"office.rego": "package policy.office\n\ndefault allow := false\n\nallow if input.hour < 18\n\nlate if time.now_ns() > 0\n"}


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_the_smallest_time_that_so_many_stay_within(times, share):
    measured = Measured("q", 1, tuple(sorted(times)), 0, 1, UNDEFINED, ())
    found = measured.quantile_ns(share)
    assert sum(time <= found for time in times) >= share * len(times)
    assert found == min(times) or sum(time < found for time in times) < share * len(times)


def test_each_evaluation_is_timed_by_itself():
    ticks = itertools.count(0, 7)
    measured = bench(Sources(POLICY, {}), "data.policy.office.allow", [{"hour": 9}, {"hour": 20}], count=10, clock=lambda: next(ticks))
    assert measured.times_ns == (7,) * 10
    assert (measured.inputs, measured.answer) == (2, True)


def test_what_it_reads_and_whether_it_is_remembered_is_told():
    told = bench(Sources(POLICY, {}), "data.policy.office.allow", [UNDEFINED], count=1)
    assert (told.reads, told.reads_clock) == (("input.hour",), False)
    assert bench(Sources(POLICY, {}), "data.policy.office.late", [UNDEFINED], count=1).reads_clock


@pytest.mark.parametrize("query", ["data.policy.office.allow", "x := data.policy.office.allow; x == false"])
def test_the_screen_and_the_json_tell_the_same(tmp_path, query):
    (tmp_path / "office.rego").write_text(POLICY["office.rego"])
    (tmp_path / "input.json").write_text('{"hour": 20}')
    words = ["policy", "bench", query, str(tmp_path), "-i", str(tmp_path / "input.json"), "-n", "50"]
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    quantiles = list(told["quantiles_us"].values())
    assert told["evaluations"] == 50
    assert quantiles == sorted(quantiles)
    assert quantiles[-1] <= told["max_us"]
    screen = CliRunner().invoke(app, words).stdout
    assert "50 evaluations, 1 input" in screen
    assert "99 % within" in screen


def test_a_query_that_fails_is_not_timed():
    done = CliRunner().invoke(app, ["policy", "bench", "data.policy.", "policies/default"])
    assert (done.exit_code, done.stdout) == (2, "")
