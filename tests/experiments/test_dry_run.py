"""An experiment on recorded traffic: units are drawn as the gateway would have drawn them, refusals and rates are those of the records."""

import pytest
from msgspec.structs import replace

from experiments.assignment import Assigner
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.document import LiveExperiment
from experiments.dry_run import Rehearsal

CANARY = {
    "experiment": "next",
    "strategy": "canary",
    "model": "m",
    "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
    "steps": [{"share": "5%", "hold": "1h"}, {"share": "50%", "hold": "1h"}],
    "guardrails": {"errors": {"max_harm": "1pp"}},
    "goal": {"metric": "accuracy", "margin": "1pp"},
    "deadline": {"after": "7d"},
}


def compiled(**more: object):
    data = {**CANARY, **more}
    return compile_experiment(parse_experiment({key: value for key, value in data.items() if value is not None}))


def call(number, *, unit=None, model="m", minute=None, status=200, prediction="1", **more: object):
    seconds = number % 3600 if minute is None else minute * 60
    time = f"2026-11-20T10:{seconds // 60:02d}:{seconds % 60:02d}.000000Z"
    record = {"type": "call", "id": f"{number:032x}", "subject": unit or f"{number:032x}", "time": time, "tenant": "acme", "prediction": prediction}
    return {**record, "model": {"name": model}, "route": {}, "outcome": {"status": status, "latency_us": 5}, **more}


def rehearsed(records, document=None):
    rehearsal = Rehearsal(document or compiled())
    for record in records:
        rehearsal.add(record)
    return rehearsal.result()


def test_every_unit_is_where_the_gateway_would_have_put_it_on_every_step():
    document = compiled()
    found = rehearsed([call(n) for n in range(3000)])
    for stage, step in zip(found.stages, document.steps, strict=True):
        live = LiveExperiment(experiment="next", epoch=1, phase="running", step=0, exposure=step.exposure, shares=step.shares)
        assigned = [Assigner(document, live).assign(f"{n:032x}") for n in range(3000)]
        arms = [one.arm if one.exposed else "not exposed" for one in assigned]
        assert stage.units == stage.calls == {arm: arms.count(arm) for arm in sorted(set(arms))}
    assert found.stages[0].units["challenger"] < 250 < found.stages[1].units["challenger"]


def test_a_unit_that_calls_often_is_one_unit_and_other_models_are_passed_over():
    found = rehearsed([call(n, unit=f"{n % 7:032x}") for n in range(700)] + [call(n, model="other") for n in range(50)])
    assert (found.calls, found.units) == (700, 7)


def test_who_moves_is_told_by_where_units_really_were():
    before = {"experiment": "now", "exposed": True, "assigned": "a"}
    found = rehearsed([call(n, route=before if n < 100 else {}) for n in range(200)], compiled(steps=[{"share": "50%", "hold": "1h"}]))
    assert sum(found.moved.values()) == 200
    assert {pair.partition(" -> ")[0] for pair in found.moved} == {"in now", "outside"}


def test_refusals_are_counted_by_reason_and_are_no_failures_of_an_arm():
    denied = {"decision": "deny", "reasons": [{"id": "LIM-1", "mode": "enforce"}]}
    refused = [call(n, policy=denied, outcome={"status": 403, "code": "policy_denied", "latency_us": 1}) for n in range(10)]
    skipped = {"experiment": "next", "exposed": False, "assigned": "champion", "eligible": [{"arm": "challenger", "reason": "approval.missing"}]}
    unreadable = call(21, outcome={"status": 200, "code": "reply_unreadable", "latency_us": 1})
    found = rehearsed([*refused, call(20, route=skipped), unreadable, *(call(n, status=500 if n % 10 == 0 else 200) for n in range(100, 300))])
    assert found.refused == {"arm challenger: approval.missing": 1, "policy_denied LIM-1": 10}
    assert found.rates["errors"] == pytest.approx(21 / 202), "a reply that nobody can read was answered, and counts as an error of its arm"


def test_rates_of_labels_come_from_late_labels_and_outcomes():
    calls = [call(n) for n in range(400)]
    labels = [
        {"type": "label", "id": f"l{n:031x}", "decision": f"{n:032x}", "row": 0, "label": "0" if n % 4 == 0 else "1", "source": "k", "tenant": "acme"}
        for n in range(400)
    ]
    found = rehearsed([*calls, *({**one, "time": "2026-11-20T11:00:00.000000Z"} for one in labels)])
    assert found.rates == {"accuracy": 0.25}
    assert found.placebo in ("hold", "fine")


def test_volume_is_told_once_ten_minutes_are_known():
    assert rehearsed([call(n, minute=n % 9) for n in range(100)]).units_per_day is None
    found = rehearsed([call(n, minute=n % 31) for n in range(310)])
    assert found.units_per_day == pytest.approx(310 * 48)


def test_rules_on_what_records_do_not_hold_are_left_out_and_named_and_a_tenant_is_known():
    document = compiled(who={"country": {"in": ["CH"]}, "tenant": {"is": "globex"}})
    found = rehearsed([call(n) for n in range(50)], document)
    assert found.stages[0].units == {"outside": 50}
    assert found.left_out == ("rules on `country`: attributes of a call are not recorded, so counts are upper bounds",)


@pytest.mark.parametrize(
    "more",
    [
        {"bucketing": {"mode": "growthbook-v2", "seed": "s", "order": ["control", "treatment"]}, "split": {"control": "50%", "treatment": "50%"}},
        {"external": {"system": "flagsmith"}},
    ],
)
def test_where_another_system_draws_traffic_is_told_and_arms_are_not(more):
    arms = {"control": {"version": "1"}, "treatment": {"version": "2"}}
    document = compiled(strategy="ab", arms=arms, steps=None, **more)
    found = rehearsed([call(n, status=500 if n % 5 == 0 else 200) for n in range(100)], document)
    assert (found.stages, found.moved, found.calls) == ((), {}, 100)
    assert found.rates["errors"] == 0.2
    assert "raw unit" in found.left_out[0]


def test_a_switch_is_told_as_it_is_afterwards_and_a_shadow_by_what_it_would_mirror():
    arms = {"blue": {"version": "1"}, "green": {"version": "2"}}
    switch = compiled(strategy="blue_green", arms=arms, steps=None, guardrails=None, goal=None)
    (stage,) = rehearsed([call(n) for n in range(40)], switch).stages
    assert stage.units == {"green": 40}
    shadow = compiled(
        strategy="shadow",
        arms={"champion": {"version": "1"}, "shadow": {"version": "2"}},
        steps=None,
        goal=None,
        share="20%",
        compare={"a": {"kind": "json", "max_disagreement": "1%"}},
    )
    (stage,) = rehearsed([call(n) for n in range(2000)], shadow).stages
    assert 300 < stage.calls["mirrored"] < 500


def test_draws_for_every_call_are_drawn_for_every_call():
    document = replace(compiled(steps=[{"share": "50%", "hold": "1h"}]), sticky="none")
    (stage,) = rehearsed([call(n, unit="0" * 32) for n in range(400)], document).stages
    assert min(stage.calls.values()) > 120
