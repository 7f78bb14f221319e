"""The decision: pure, total, and every draw can be recomputed from its record; the gate's memory never changes an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_harness import BASE, MODEL, NOW_US, ROOT, approval, experiment, live_of, route, snapshot_of
from lane_harness import settings as settings_document

from audit.leaf import parse, render
from experiments.assignment import recompute
from experiments.document import HoldoutDocument, LiveExperiment
from experiments.shares import WHOLE
from gateway.decide import Call, decide
from gateway.facts import Facts
from gateway.gate import MEMO_ENTRIES, Gate
from gateway.live import Live
from gateway.record import CallRecord, Source
from gateway.standing import Approvals
from policies.approvals import Revocation
from policies.in_force import Candidate, judge

OFFICE = """package policy.office
import rego.v1
deny contains {"id": "OFF-1", "msg": "tenant"} if input.tenant == "globex"
deny contains {"id": "OFF-2", "msg": "arm", "status": 429} if {
	input.route.arm == "challenger"
	input.request.kib > 8
}
deny contains {"id": "OFF-3", "msg": "scope"} if not "infer" in input.subject.scopes
warn contains {"id": "OFF-4", "msg": sprintf("%v rows", [input.request.rows])} if input.request.rows > 1
"""
CLOCK = """package policy.clock
import rego.v1
deny contains {"id": "CLK-1", "msg": "closed"} if time.now_ns() % 2000 >= 1000
"""
EXPERIMENT = experiment()
HOLDOUT = HoldoutDocument(name="q4", salt="q4", share=WHOLE // 4, version="3", until="2099-01-01", owner="risk")
SNAPSHOTS = {
    "plain": BASE,
    "experiment": snapshot_of(experiments=[EXPERIMENT]),
    "per call": snapshot_of(experiments=[experiment(sticky="none")]),
    "holdout": snapshot_of(experiments=[experiment(holdout=HOLDOUT)]),
    "policies": snapshot_of(experiments=[EXPERIMENT], policies={"policies/office.rego": OFFICE}),
    "high risk": snapshot_of([route(risk="high")], experiments=[EXPERIMENT]),
    "challenger is the default": snapshot_of([route(default_version="4")], experiments=[EXPERIMENT]),
}
units = st.text("0123456789abcdef", min_size=32, max_size=32)


def facts(**more: object) -> Facts:
    fields = {
        "tenant": "acme",
        "method": "POST",
        "path": "/v2/models/credit-risk/infer",
        "content_type": "application/json",
        "kib": 1,
        "rows": 1,
        "scopes": ("infer",),
        "exhausted": False,
        "experiment": "",
        "arm": "",
    }
    return Facts(**{**fields, **more})


some_facts = st.builds(
    facts,
    tenant=st.sampled_from(["acme", "globex"]),
    method=st.sampled_from(["POST", "GET"]),
    path=st.sampled_from(["/a", "/b"]),
    content_type=st.sampled_from(["", "application/json"]),
    kib=st.sampled_from([0, 1, 9, 20_000]),
    rows=st.sampled_from([0, 1, 2, 101]),
    scopes=st.sampled_from([(), ("infer",), ("infer", "version:pin")]),
    exhausted=st.booleans(),
)


@st.composite
def lives(draw, snapshot, *, is_healthy=False):
    """A published state for a snapshot: approvals of either version, an experiment somewhere in its life, a killed model, an age."""
    approvals = [
        approval(version, person, max_exposure_ppm=draw(st.sampled_from([1_000_000, 50_000, 1])))
        for version in ("3", "4")
        for person in draw(st.sets(st.sampled_from(["ann", "bob"])))
    ]
    revocations = [Revocation(MODEL, version, approval(version).digest, "", 1) for version in draw(st.sets(st.sampled_from(["3", "4"]), max_size=1))]
    experiments = {}
    if is_healthy or draw(st.integers(0, 3)):
        share = draw(st.integers(0, WHOLE))
        experiments["credit-v4"] = LiveExperiment(
            experiment="credit-v4",
            epoch=draw(st.integers(1, 5)),
            phase=draw(st.sampled_from(RUNNING if is_healthy else (*RUNNING, "stopped", "draft"))),
            step=0,
            exposure=draw(st.sampled_from([0, 1, WHOLE // 10, WHOLE])),
            shares={"champion": share, "challenger": WHOLE - share},
            holdout_released=draw(st.booleans()),
        )
    age_us = 0 if is_healthy else draw(st.sampled_from([0, 1_999_999, 2_000_001, 9_000_000, 11_000_000]))
    killed = () if is_healthy else draw(st.sampled_from([(), (), (), (MODEL,)]))
    return live_of(snapshot, approvals, experiments, as_of_us=NOW_US - age_us, killed=killed, revocations=revocations)


RUNNING = ("running", "running", "promoted", "rolled_back")


@st.composite
def cases(draw, *, is_healthy=False):
    """A call and what it is decided by; a healthy one is not pinned, of a model with an experiment that is not stale or stopped."""
    names = sorted(set(SNAPSHOTS) - {"plain"}) if is_healthy else sorted(SNAPSHOTS)
    snapshot = SNAPSHOTS[draw(st.sampled_from(names))]
    call = Call(
        "id",
        snapshot.routes[MODEL],
        None if is_healthy else draw(st.sampled_from([None, None, "3", "4"])),
        draw(units),
        draw(st.booleans()),
        ("n1.w0", 1, draw(st.integers(0, 1000))),
    )
    return call, draw(some_facts), snapshot, draw(lives(snapshot, is_healthy=is_healthy))


def judged_alone(call, found, snapshot, live, version: str, exposure=WHOLE) -> bool:
    """Whether a version may serve, asked without any memory."""
    gate = live.gate(call.route, call.route.versions[version], NOW_US, exposure)
    return Gate(gate.standing, snapshot.policies).judge(replace(found), NOW_US)[0].allowed


@given(cases())
def test_the_same_arguments_give_the_same_decision_and_it_never_raises(case):
    call, found, snapshot, live = case
    first = decide(call, replace(found), snapshot, live, NOW_US)
    second = decide(call, replace(found), snapshot, live, NOW_US)
    fresh = decide(call, replace(found), snapshot, live_of_same(live, snapshot), NOW_US)
    for other in (second, fresh):
        assert (first.version, first.assignment, first.served, first.eligible) == (other.version, other.assignment, other.served, other.eligible)
        assert (first.refusal is None) is (other.refusal is None)
        if first.refusal is not None and other.refusal is not None:
            assert (first.refusal.code, first.refusal.reasons) == (other.refusal.code, other.refusal.reasons)
        if first.judged is not None:
            assert first.judged == other.judged


def live_of_same(live, snapshot):
    return Live(live.document, live.digest, live.as_of_us, snapshot, Approvals(live.document.approvals))


@given(cases())
def test_stale_state_killed_models_and_pins_without_scope_are_refused_before_anything_is_judged(case):
    call, found, snapshot, live = case
    decision = decide(call, found, snapshot, live, NOW_US)
    bound_us = 2_000_000 if call.route.document.risk == "high" else 10_000_000
    expected = None
    if NOW_US - live.as_of_us > bound_us:
        expected = "state_stale"
    elif MODEL in live.killed:
        expected = "model_killed"
    elif call.pinned is not None and not call.may_pin:
        expected = "missing_scope"
    code = None if decision.refusal is None else decision.refusal.code
    if expected is not None:
        assert code == expected
        assert decision.judged is None
    else:
        assert code not in ("state_stale", "model_killed", "missing_scope")


@given(cases())
def test_a_call_is_refused_only_if_nothing_remains_that_is_good_for_everyone_or_the_version_was_pinned(case):
    call, found, snapshot, live = case
    decision = decide(call, replace(found), snapshot, live, NOW_US)
    if decision.judged is None:
        return
    assert decision.version is not None
    if call.pinned is not None:
        assert decision.assignment is None
        assert decision.version.name == call.pinned
        assert (decision.refusal is None) is judged_alone(call, found, snapshot, live, call.pinned)
        return
    if decision.refusal is not None:
        at = replace(found, experiment=decision.assignment.experiment if decision.assignment else "")
        assert not judged_alone(call, at, snapshot, live, call.route.default.name)
        assert decision.served is None
        # An arm may be good for its own share and still not for those of another arm.
        for arm, name in decision.assignment.versions if decision.assignment else ():
            assert not judged_alone(call, replace(at, arm=arm), snapshot, live, name)
        return
    assert decision.judged.allowed


@given(cases(is_healthy=True))
def test_assigned_and_served_are_told_apart_and_an_ineligible_arm_is_served_by_the_default(case):
    call, found, snapshot, live = case
    decision = decide(call, found, snapshot, live, NOW_US)
    assignment = decision.assignment
    assert assignment is not None
    if decision.refusal is not None:
        assert decision.served is None
        return
    eligible = {candidate["arm"]: "reason" not in candidate for candidate in decision.eligible}
    assert set(eligible) == {arm for arm, _ in assignment.versions}
    if eligible.get(assignment.arm):
        assert decision.served == assignment.arm
        assert decision.version.name == dict(assignment.versions)[assignment.arm]
    else:
        assert decision.served != assignment.arm
        at = replace(found, experiment=assignment.experiment, arm="")
        if judged_alone(call, at, snapshot, live, call.route.default.name):
            assert decision.version is call.route.default
        else:
            assert judged_alone(call, replace(at, arm=decision.served), snapshot, live, decision.version.name)
    if not assignment.exposed and assignment.arm != "holdout":
        assert assignment.versions == (("champion", "3"),)


@given(cases())
def test_the_arm_can_be_recomputed_from_the_record_and_the_record_is_a_leaf(case):
    call, found, snapshot, live = case
    decision = decide(call, found, snapshot, live, NOW_US)
    source = Source("boot")
    source.install(snapshot.config_digest, live.digest, snapshot.policies.record)
    record = CallRecord(source, call.id, NOW_US, 1, "acme", {"kind": "key", "id": "k"})
    record.subject, record.decision = call.subject, decision
    leaf = render(record.call())
    assert parse(leaf) == json.loads(leaf)
    if decision.assignment is not None:
        stated = json.loads(leaf)["route"]
        assert recompute(stated, call.subject, EXPERIMENT.salt) == stated["assigned"] == decision.assignment.arm


def test_exposure_only_adds_units_and_those_outside_are_the_controls():
    snapshot = SNAPSHOTS["experiment"]
    shares = EXPERIMENT.steps[0].shares
    served: dict[int, set[int]] = {}
    for exposure in (0, WHOLE // 10, WHOLE // 2, WHOLE):
        live = live_of(
            snapshot,
            as_of_us=NOW_US,
            experiments={
                "credit-v4": LiveExperiment(experiment="credit-v4", epoch=1, phase="running", step=0, exposure=exposure, shares=dict(shares))
            },
        )
        served[exposure] = set()
        for unit in range(300):
            call = Call("id", snapshot.routes[MODEL], None, f"{unit:032x}", False, ("n", 1, 0))
            decision = decide(call, facts(), snapshot, live, NOW_US)
            if decision.assignment.exposed:
                served[exposure].add(unit)
            else:
                assert decision.version.name == "3"
    ordered = list(served.values())
    assert all(less <= more for less, more in pairwise(ordered))
    assert (len(ordered[0]), len(ordered[-1])) == (0, 300)


def test_an_approval_for_a_part_of_the_traffic_lets_an_arm_have_that_part_and_no_more():
    snapshot = SNAPSHOTS["experiment"]
    for exposure, is_eligible in ((WHOLE // 50, True), (WHOLE // 5, False)):
        live = live_of(
            snapshot,
            [approval("3"), approval("4", max_exposure_ppm=10_000)],
            {
                "credit-v4": LiveExperiment(
                    experiment="credit-v4", epoch=1, phase="running", step=0, exposure=exposure, shares=dict(EXPERIMENT.steps[0].shares)
                )
            },
            as_of_us=NOW_US,
        )
        found = set()
        for unit in range(400):
            call = Call("id", snapshot.routes[MODEL], None, f"{unit:032x}", False, ("n", 1, 0))
            decision = decide(call, facts(), snapshot, live, NOW_US)
            if decision.assignment.exposed:
                found |= {("reason" not in candidate) for candidate in decision.eligible if candidate["arm"] == "challenger"}
                assert decision.refusal is None
        assert found == {is_eligible}


def test_production_staleness_is_by_risk():
    assert settings_document().staleness_high_risk_us < settings_document().staleness_default_us


# --- the gate's memory

BUNDLES = {
    "shipped": BASE.policies,
    "all facts": SNAPSHOTS["policies"].policies,
    "clock": snapshot_of(policies={"policies/clock.rego": CLOCK}).policies,
}


@given(st.sampled_from(sorted(BUNDLES)), st.lists(st.tuples(some_facts, st.integers(0, 5)), max_size=12), st.booleans(), st.sampled_from(["", "x"]))
def test_remembering_never_changes_an_answer(bundle, calls, is_approved, name):
    policies = BUNDLES[bundle]
    live = live_of(BASE, None if is_approved else [])
    standing = live.gate(BASE.routes[MODEL], BASE.routes[MODEL].default, NOW_US).standing
    gate = Gate(standing, policies)
    for found, later_us in calls:
        for arm in ("champion", "challenger"):
            asked = replace(found, experiment=name, arm=arm if name else "")
            answer, _ = gate.judge(replace(asked), NOW_US + later_us)
            fresh, was_remembered = Gate(standing, policies).judge(replace(asked), NOW_US + later_us)
            assert answer == fresh
            assert not was_remembered


def test_what_is_the_same_to_the_policies_is_remembered():
    gate = live_of(BASE).gate(BASE.routes[MODEL], BASE.routes[MODEL].default, NOW_US)
    assert gate.judge(facts(tenant="a"), NOW_US)[1] is False
    assert gate.judge(facts(tenant="b", path="/other"), NOW_US)[1] is True
    assert gate.judge(facts(rows=2), NOW_US)[1] is False


def test_the_memory_is_bounded():
    gate = live_of(BASE).gate(BASE.routes[MODEL], BASE.routes[MODEL].default, NOW_US)
    for rows in range(MEMO_ENTRIES + 50):
        gate.judge(facts(rows=rows), NOW_US)
    assert len(gate._memo) == MEMO_ENTRIES
    assert gate.judge(facts(rows=MEMO_ENTRIES + 49), NOW_US)[1] is True


# --- approvals begin and end at exactly their microsecond

windows = st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.integers(-3, 6), st.integers(1, 4)), max_size=4)


@given(windows, st.lists(st.integers(-5, 12), max_size=10), st.sampled_from(["low", "high"]))
def test_an_approval_that_begins_or_ends_changes_the_answer_at_exactly_that_microsecond_and_a_clock_set_back_changes_it_back(found, moments, risk):
    snapshot = SNAPSHOTS["high risk"] if risk == "high" else SNAPSHOTS["experiment"]
    approvals = [
        approval("3", person, issued_at_us=1, not_before_us=NOW_US + begins, not_after_us=NOW_US + begins + length)
        for person, begins, length in found
    ]
    live = live_of(snapshot, approvals)
    document, chosen = snapshot.routes[MODEL].document, snapshot.routes[MODEL].default.document
    candidate = Candidate(MODEL, "3", chosen.digest, chosen.upstreams, document.risk, document.intended_use)
    for moment in moments:
        live.as_of_us = now_us = NOW_US + moment
        decision = decide(Call("id", snapshot.routes[MODEL], None, "s", False, ("n", 1, 0)), facts(), snapshot, live, now_us)
        expected = judge(approvals, [], candidate, ROOT, "staging", now_us)
        assert (decision.refusal is None) is (expected.reason is None)
        if expected.reason is not None:
            assert decision.refusal.code == "not_approved"
            assert decision.judged.reason == expected.reason


@pytest.mark.parametrize(("after_us", "is_allowed"), [(-1, False), (0, True), (9, True), (10, False)])
def test_two_calls_either_side_of_a_moment(after_us, is_allowed):
    live = live_of(BASE, [approval("3", not_before_us=NOW_US, not_after_us=NOW_US + 10)], as_of_us=NOW_US)
    call = Call("id", BASE.routes[MODEL], None, "s", False, ("n", 1, 0))
    for at_us in (NOW_US - 5, NOW_US + after_us):
        decision = decide(call, facts(), BASE, live, at_us)
    assert (decision.refusal is None) is is_allowed
