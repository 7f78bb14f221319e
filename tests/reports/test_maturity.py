"""Maturity: proven only by what the gateway observed, claimed where something points to it, missing where the log is silent."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from hypothesis import given, settings
from records_strategy import OTHERS, Log, logs

from audit import canonical
from audit.maturity import assess, framework, framework_names, gather
from audit.maturity.evidence import Evidence, Tally
from audit.maturity.framework import Parameters
from audit.maturity.rules import CLAIMED, MISSING, PROVEN, RULES
from audit.reports.state import pin

PARAMETERS = msgspec.structs.replace(framework("azure").parameters, minimum_calls=5)


def evidence_of(log: Log, model: str | None = None) -> Evidence:
    leaves = log.leaves()
    as_of = pin(lambda: leaves).as_of_us
    return gather(lambda: leaves, size=len(leaves), as_of_us=as_of, window_days=90, model=model)


def state(log: Log, rule: str, parameters: Parameters = PARAMETERS) -> str:
    return RULES[rule](evidence_of(log), parameters).state


def promoted(log: Log, *, kind: str = "system", evidence: dict | None = None) -> None:
    step = {**OTHERS["rollout.step"], "action": "promote", "evidence": {"n": 1} if evidence is None else evidence}
    log.add("rollout.step", actor={"kind": kind, "id": "x"}, **step)


@pytest.mark.parametrize("name", framework_names())
def test_every_rule_a_framework_names_exists_and_criteria_lie_on_its_levels(name: str):
    judged_by = framework(name)
    assert {criterion.rule for criterion in judged_by.criteria} - {None} <= set(RULES)
    assert {criterion.level for criterion in judged_by.criteria} <= {level.number for level in judged_by.levels}
    assert len({criterion.id for criterion in judged_by.criteria}) == len(judged_by.criteria)


@pytest.mark.parametrize("name", framework_names())
def test_an_empty_log_proves_nothing_and_says_insufficient_evidence(name: str):
    document = assess(framework(name), evidence_of(Log()))
    assert document["level"]["proven"] == document["level"]["claimed"] == 0
    for criterion in document["criteria"]:
        assert criterion["state"] == MISSING
        assert criterion["found"].startswith("Insufficient evidence")
        assert criterion["evidence"] == []
        assert criterion["next_action"]


@settings(max_examples=40, deadline=None)
@given(log=logs())
def test_evidence_ids_are_records_of_the_log_and_the_document_is_canonical(log: Log):
    document = assess(framework("azure"), evidence_of(log))
    for criterion in document["criteria"]:
        assert all(0 <= idx < len(log.records) for idx in criterion["evidence"])
        assert criterion["evidence"] or criterion["state"] == MISSING
    assert document["level"]["proven"] <= document["level"]["claimed"]
    assert canonical.encode(document) == canonical.encode(assess(framework("azure"), evidence_of(log)))


def test_managed_models_are_proven_by_digest_and_approval_on_every_answered_call():
    log = Log()
    for _ in range(4):
        log.call()
    assert state(log, "model_management") == CLAIMED  # fewer than the minimum
    log.call()
    assert state(log, "model_management") == PROVEN
    log.call(approval={"ids": []})
    assert state(log, "model_management") == CLAIMED


def test_metrics_are_claimed_until_labels_come_back():
    log = Log()
    calls = [log.call() for _ in range(5)]
    assert state(log, "metrics_collected") == CLAIMED
    log.label(calls[0]["id"], "1")
    assert state(log, "metrics_collected") == PROVEN


def test_promotions_by_hand_do_not_prove_automatic_release():
    log = Log()
    for _ in range(3):
        promoted(log, kind="person")
    assert state(log, "release_automatic") == MISSING
    for _ in range(20):
        promoted(log)
    assert state(log, "release_automatic") == PROVEN


def test_a_promotion_counts_as_tested_only_if_its_experiment_started_before_in_the_log():
    log = Log()
    for _ in range(3):
        promoted(log)
    assert state(log, "experiment_before_release") == MISSING
    log.add("experiment.start", experiment="credit-v4", epoch=1)
    for _ in range(20):
        promoted(log)
    assert state(log, "experiment_before_release") == PROVEN


def test_promotions_without_recorded_evidence_are_not_promotions_by_policy():
    log = Log()
    for _ in range(3):
        promoted(log, evidence={})
    assert state(log, "promotion_by_evidence") == MISSING


def test_refusals_do_not_count_against_availability_and_failures_do():
    log = Log()
    for _ in range(5):
        log.call()
        log.call(status=403, code="policy_denied", decision="deny")
    assert state(log, "availability") == PROVEN
    log.call(status=502, code="upstream_unavailable")
    assert state(log, "availability") == CLAIMED


def test_separate_hands_are_claimed_at_most_and_missing_when_one_person_does_both():
    log = Log()
    log.add("config.change", actor={"kind": "person", "id": "bob"}, changed=["m"], signed=False)
    log.add("approval.granted", **OTHERS["approval.granted"])
    assert state(log, "separate_hands") == CLAIMED
    log.add("config.change", actor={"kind": "person", "id": "ann"}, changed=["m"], signed=False)
    assert state(log, "separate_hands") == MISSING


def test_records_older_than_the_window_do_not_count():
    log = Log()
    for _ in range(6):
        log.call()
    log.add("log.heartbeat", step_us=91 * 86_400_000_000)
    assert state(log, "model_management") == MISSING


def test_another_model_s_calls_and_labels_do_not_count():
    log = Log()
    other = log.call(model="churn")
    log.label(other["id"], "1")
    evidence = evidence_of(log, "credit-risk")
    assert (evidence.answered.count, evidence.labels.count) == (0, 0)


def test_a_level_needs_every_gating_criterion_proven():
    azure = framework("azure")
    proven = Evidence(**{field.name: getattr(Evidence(), field.name) for field in dataclasses.fields(Evidence)})
    observable = tuple(msgspec.structs.replace(one, rule="availability", gating=one.level == 1) for one in azure.criteria)
    reachable = msgspec.structs.replace(azure, criteria=observable)
    proven.answered = Tally(10_000, [0], [1], "2026-11-20T00:00:00.000000Z")
    assert assess(reachable, proven)["level"]["proven"] == 4
    blocked = tuple(msgspec.structs.replace(one, rule="separate_hands") if one.id == "1.1" else one for one in observable)
    document = assess(msgspec.structs.replace(azure, criteria=blocked), proven)
    assert document["level"]["proven"] == 0
    assert document["blocking"] == ["1.1"]


def test_a_tally_keeps_the_first_and_the_last_indices():
    tally = Tally()
    for idx in range(100):
        tally.add(idx, "t")
    assert tally.indices == [0, 1, 2, 3, 96, 97, 98, 99]
    assert tally.count == 100
