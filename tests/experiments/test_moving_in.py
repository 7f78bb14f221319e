"""Experiments that were begun elsewhere: the same units in the same arms, and a word about everything that does not map."""

import hashlib

import pytest
import yaml
from pydantic import ValidationError

from experiments.assignment import RouteMismatchError, recompute
from experiments.bucketing import bucket
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.document import LiveExperiment
from experiments.growthbook import convert
from experiments.ranges import RangeAssigner, assigner_of, ranges_of
from experiments.shares import WHOLE

AB = {
    "experiment": "moved",
    "strategy": "ab",
    "model": "m",
    "arms": {"control": {"version": "1"}, "treatment": {"version": "2"}},
    "split": {"control": "40%", "treatment": "60%"},
    "exposure": "50%",
}
MODES = ["growthbook-v1", "growthbook-v2", "unleash-murmur3", "flagd-v2"]


def assigner(mode, **more: object):
    document = compile_experiment(parse_experiment({**AB, "bucketing": {"mode": mode, "seed": "s", "order": ["control", "treatment"]}, **more}))
    step = document.steps[0]
    return assigner_of(document, LiveExperiment(experiment="moved", epoch=1, phase="running", step=0, exposure=step.exposure, shares=step.shares))


@pytest.mark.parametrize("mode", MODES)
def test_units_get_the_arm_their_bucket_has_there_and_the_record_leads_back_to_it(mode):
    ranged = assigner(mode)
    assert isinstance(ranged, RangeAssigner)
    counts = {"control": 0, "treatment": 0, "none": 0}
    for number in range(4000):
        unit = f"customer-{number}"
        assignment = ranged.assign("p" * 32, unit=unit)
        n = bucket(unit, "s", mode)
        expected = "control" if n < 0.2 else "treatment" if 0.4 <= n < 0.7 else "none"
        assert (assignment.arm if assignment.exposed else "none") == expected
        counts[expected] += 1
        assert recompute(assignment.route()) == assignment.arm
        assert unit not in str(assignment.route())
    assert counts["control"] == pytest.approx(800, abs=120)
    assert counts["treatment"] == pytest.approx(1200, abs=140)


def test_a_record_with_another_bucket_or_arm_does_not_verify():
    route = assigner("growthbook-v2").assign("p" * 32, unit="customer-1").route()
    other = next(n for n in range(10_000) if (2000 <= n < 4000) == bool(route["exposed"]))
    with pytest.raises(RouteMismatchError):
        recompute({**route, "bucket": other})


def test_without_a_unit_of_its_own_a_call_takes_no_part():
    assert assigner("growthbook-v2").assign("p" * 32) is None


def test_ranges_touch_and_never_overlap_at_full_exposure():
    found = ranges_of({"a": WHOLE // 2, "b": WHOLE // 4, "c": WHOLE // 4}, ("c", "a", "b"), WHOLE, 10_000)
    assert found == {"c": [0, 2500], "a": [2500, 7500], "b": [7500, 10_000]}


def test_modes_know_no_layers_no_draws_per_call_and_each_arm_once():
    for wrong in ({"unit": "call", "analysis": {"unit": "call"}}, {"layer": {"name": "l", "slots": "0-9"}}, {"holdout": "h"}):
        with pytest.raises(ValidationError):
            assigner("flagd-v2", **wrong)
    with pytest.raises(ValidationError):
        parse_experiment({**AB, "bucketing": {"mode": "flagd-v2", "seed": "s", "order": ["control", "control"]}})


RULE = {"key": "New Prompt", "variations": ["old", "new"], "weights": [0.4, 0.6], "coverage": 0.5, "hashVersion": 2, "seed": "s"}


def payload(**changes: object):
    return {"features": {"prompt": {"defaultValue": "old", "rules": [{**RULE, **changes}]}}}


def imported(**changes: object):
    return convert(payload(**changes), model="m", versions={"old": "1", "new": "2", "x": "3"})


def test_an_imported_experiment_compiles_and_keeps_every_unit_in_its_arm():
    found = imported(condition={"country": {"$in": ["CH"]}, "age": {"$gte": 18}, "beta": True})
    assert found.unmapped == []
    file = yaml.safe_load(yaml.safe_dump(found.files["new-prompt"]))
    document = compile_experiment(parse_experiment(file))
    assert (document.mode, document.start, [rule.attribute for rule in document.who]) == ("growthbook-v2", "manual", ["age", "beta", "country"])
    step = document.steps[0]
    live = LiveExperiment(experiment="new-prompt", epoch=1, phase="running", step=0, exposure=step.exposure, shares=step.shares)
    context = {"country": "CH", "age": 30, "beta": True}
    for number in range(500):
        unit = hashlib.sha256(b"%d" % number).hexdigest()
        n = bucket(unit, "s", "growthbook-v2")
        assignment = RangeAssigner(document, live).assign("p", context=context, unit=unit)
        expected = "control" if n < 0.2 else "treatment_1" if 0.4 <= n < 0.7 else None
        assert (assignment.arm if assignment.exposed else None) == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"namespace": ["n", 0, 0.5]}, "namespace"),
        ({"hashAttribute": "company"}, "assigns by `company`"),
        ({"variations": ["old", "unknown"]}, "no version stands for variation 1"),
        ({"weights": [0.4, 0.4]}, "do not sum"),
        ({"hashVersion": 3}, "is not known"),
        ({"condition": {"$or": []}}, "no attribute can be called"),
        ({"condition": {"plan": {"$ne": "free"}}}, "does not mean the same"),
    ],
)
def test_what_would_assign_other_units_is_left_out_and_said(changes, said):
    found = imported(**changes)
    assert found.files == {}
    assert said in found.unmapped[0]


def test_what_has_no_counterpart_is_said_and_hash_version_1_is_warned_of():
    found = imported(hashVersion=1, fallbackAttribute="device")
    assert found.files["new-prompt"]["bucketing"]["mode"] == "growthbook-v1"
    assert any("correlates" in line for line in found.unmapped)
    assert any("`fallbackAttribute`" in line for line in found.unmapped)
    forced = convert({"features": {"f": {"rules": [{"force": True}]}}}, model="m", versions={})
    assert "not an experiment" in forced.unmapped[0]
    with pytest.raises(ValueError, match="no GrowthBook SDK payload"):
        convert({}, model="m", versions={})
