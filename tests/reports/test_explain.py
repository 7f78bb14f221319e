"""An explanation says what the record says, and checks that the record leads to its own arm."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records_strategy import Log, logs

from audit.explain import explain
from experiments.assignment import recompute


def experiment_call(log: Log, **more: Any) -> dict[str, Any]:
    """A call whose assigned arm is the one its hashes and shares lead to."""
    call = log.call(experiment="credit-v4", assigned="champion", **more)
    call["route"].update(exposure=2**32, control="champion", hashes={"exposure": "00" * 8, "champion": "11" * 8, "challenger": "ee" * 8})
    arm = recompute(call["route"])
    call["route"].update(assigned=arm, served=arm)
    return call


def words(explanation) -> str:
    return "\n".join([explanation.headline, *(line for section in explanation.sections for line in section.lines)])


def test_the_arm_is_reproduced_from_the_record_alone():
    call = experiment_call(Log())
    explanation = explain(call, [], recompute)
    assert explanation.arm.state == "reproduced"
    assert explanation.arm.recomputed == call["route"]["assigned"]


def test_a_record_whose_hashes_lead_to_another_arm_is_contradicted():
    call = experiment_call(Log())
    hashes = call["route"]["hashes"]
    hashes["champion"], hashes["challenger"] = hashes["challenger"], hashes["champion"]
    assert explain(call, [], recompute).arm.state == "contradicted"


def test_a_changed_arm_is_contradicted_whatever_the_recomputation_returns():
    call = experiment_call(Log())
    assert explain(call, [], lambda _route, _subject, _salt: "another").arm.state == "contradicted"


def test_salt_and_subject_reach_the_recomputation():
    log = Log()
    start = log.add("experiment.start", experiment="credit-v4", epoch=1, salt="s3cret")
    call = experiment_call(log)
    seen = []

    def watch(route, subject, salt):
        seen.append((subject, salt))
        return route["assigned"]

    explanation = explain(call, [start], watch)
    assert seen == [(call["subject"], "s3cret")]
    assert "Recomputed from subject and salt: arm" in explanation.arm.words


def test_what_policies_asked_to_be_done_is_told_of_request_and_reply():
    call = experiment_call(Log())
    call["policy"]["obligations"] = [{"type": "redact", "path": "/inputs/[name=sex]", "on": "request"}]
    call["outcome"]["policy"] = {
        "decision": "deny",
        "reasons": [{"id": "REP-1", "package": "p", "msg": "no"}],
        "obligations": ["broken", {"type": "round"}],
    }
    told = words(explain(call, [], recompute))
    for sentence in ("`redact` of `/inputs/[name=sex]` in the request", "On the reply: verdict `deny`", "`REP-1` (p): no", "Asked for `round`"):
        assert sentence in told


def test_who_which_why_policy_timings_and_labels_are_told():
    log = Log()
    approval = log.add("approval.granted", approval_id="a1", model="credit-risk", version="4", person="ann")
    call = experiment_call(log, version="4", decision="allow_with_warnings", rules=("hours",), latency_us=5321)
    call["route"]["eligible"][1]["reason"] = "approval.missing"
    label = log.label(call["id"], "1", corrects=True)
    told = words(explain(call, [approval, label], recompute))
    for part in (
        "Answered 200 by credit-risk version 4 in 5.3 ms",
        "key `k_1` of tenant `acme`",
        "Experiment `credit-v4`",
        "Candidate `challenger`: not eligible, `approval.missing`",
        "Share of `champion`: 50 %",
        "`hours` (p): m",
        "Approval `a1` by `ann`",
        "decide 0.080 ms, upstream 4.0 ms",
        "label `1` for row 0 from `k_1`, a correction",
    ):
        assert part in told, part


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"status": 403, "code": "policy_denied", "decision": "deny"}, "Refused with 403 `policy_denied`"),
        ({"status": 504, "code": "upstream_timeout"}, "Failed with 504 `upstream_timeout`"),
        ({"kind": "decision"}, "Decided for credit-risk version 3; no outcome is recorded"),
    ],
)
def test_the_headline_says_how_it_ended(fields, start):
    assert explain(Log().call(**fields), [], recompute).headline.startswith(start)


def test_an_outcome_record_tells_how_a_decision_ended():
    log = Log()
    decision = log.call(kind="decision")
    assert explain(decision, [log.outcome(decision)], recompute).headline.startswith("Answered 200")


def test_a_refused_call_is_never_told_as_served_by_anything():
    call = experiment_call(Log(), status=403, code="policy_denied", decision="deny")
    assigned = call["route"]["assigned"]
    del call["route"]["served"]
    told = words(explain(call, [], recompute))
    assert f"assigned `{assigned}`, nothing served, the call was refused." in told
    assert "None" not in told
    assert "default served" not in told


def test_numbers_are_told_as_people_write_them():
    log = Log()
    call = experiment_call(log, score_ppm=250_000, latency_us=465)
    reward = log.add("reward", decision=call["id"], metric="repaid", value_ppm=1_000_000, row=0, source="k_1")
    told = words(explain(call, [reward], recompute))
    written = (
        "score 0.25.",
        "reward `repaid` = 1 for row 0",
        "Took 0.465 ms",
        "1 row, 10 bytes in",
        "Share of `champion`: 50 %; hash",
        "Exposure 100 %",
    )
    for part in written:
        assert part in told, part
    call["route"]["hashes"] = {}
    assert "hash `" not in words(explain(call, [], recompute))


@settings(max_examples=30, deadline=None)
@given(log=logs())
def test_every_record_can_be_explained(log: Log):
    for record in log.records:
        assert explain(record, log.records, recompute).headline


KEYS = [
    "type",
    "route",
    "model",
    "policy",
    "outcome",
    "actor",
    "approval",
    "ids",
    "eligible",
    "reasons",
    "shares",
    "hashes",
    "experiment",
    "assigned",
]
damaged = st.recursive(
    st.none() | st.integers() | st.sampled_from(["", "call", "approval.granted", "label", "experiment.start"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(record=st.dictionaries(st.sampled_from(KEYS), damaged))
def test_a_damaged_record_is_explained_without_failing(record):
    assert explain(record, [record], recompute).headline
