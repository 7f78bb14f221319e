"""Feedback: any body is events or a refusal, and events count once whatever their order and repetition."""

from __future__ import annotations

import json
import random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_harness import Harness, experiment

from audit.leaf import parse, render
from experiments.document import MetricDocument
from experiments.evidence import Fold
from gateway import feedback
from gateway.refusals import Refusal

ID = "01a1fbc8-8e11-7719-baa0-acac9301487c"
LABEL = {"decision_id": ID, "label": "1"}
REWARD = {"decision_id": ID, "metric": "repaid", "value": 1}

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=4)
KEYS = ["decision_id", "row", "label", "metric", "value", "event_id", "time", "corrects", "other"]
near_events = st.builds(
    lambda base, changes: {**base, **changes}, st.sampled_from([LABEL, REWARD, {}]), st.dictionaries(st.sampled_from(KEYS), values, max_size=3)
)


@settings(max_examples=300)
@given(st.binary(max_size=60) | (values | near_events | st.lists(near_events, max_size=3)).map(lambda value: json.dumps(value).encode()))
def test_any_body_is_events_that_fit_a_record_or_a_refusal(body):
    events, code = [], "bad_feedback"
    try:
        events = feedback.read(body)
    except Refusal as refusal:
        code = refusal.code
    assert code in ("malformed_body", "bad_feedback")
    for event in events:
        assert str(UUID(event.decision)) == event.decision == event.fields["decision"]
        assert parse(render({"type": event.kind, **event.fields})) == {"type": event.kind, **event.fields}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"decision_id": 1}, "decision_id"),
        ({"decision_id": "x"}, "decision_id"),
        ({"decision_id": None}, "decision_id"),
        ({"row": -1}, "row"),
        ({"row": True}, "row"),
        ({"row": 1.0}, "row"),
        ({"row": 1_000_000}, "row"),
        ({"label": True}, "label"),
        ({"label": ""}, "label"),
        ({"label": "x" * 257}, "label"),
        ({"label": 1.5}, "label"),
        ({"corrects": False}, "corrects"),
        ({"corrects": 1}, "corrects"),
        ({"event_id": 1}, "event_id"),
        ({"colour": "red"}, "colour"),
        ({"metric": "m"}, "metric"),
    ],
)
def test_a_bad_label_is_refused_by_the_name_of_its_field(changes, names):
    with pytest.raises(Refusal, match=f"`{names}`"):
        feedback.read(json.dumps({**LABEL, **changes}).encode())


def test_where_metrics_are_declared_another_name_is_refused_with_the_nearest():
    body = json.dumps([LABEL, {**REWARD, "metric": "repayd"}]).encode()
    assert len(feedback.read(body)) == 2, "where none is declared, any name is taken"
    with pytest.raises(Refusal, match="event 1: `repayd` is not a metric") as refused:
        feedback.read(body, metrics=("repaid", "spent"))
    assert refused.value.hint == "did you mean `repaid`?"
    assert len(feedback.read(json.dumps([LABEL, REWARD]).encode(), metrics=("repaid", "spent"))) == 2


@pytest.mark.parametrize("value", [True, None, "1", 9_007_199_255, -1e300, 10**30])
def test_a_value_is_a_number_that_records_can_hold_in_millionths(value):
    with pytest.raises(Refusal, match="`value`"):
        feedback.read(json.dumps({**REWARD, "value": value}).encode())


@pytest.mark.parametrize(("value", "ppm"), [(1, 1_000_000), (0.5, 500_000), (-2.25, -2_250_000), (9_007_199_254, 9_007_199_254_000_000)])
def test_a_value_is_kept_in_millionths(value, ppm):
    (event,) = feedback.read(json.dumps({**REWARD, "value": value}).encode())
    assert event.fields["value_ppm"] == ppm


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_a_value_that_is_no_number_is_refused_before_anything_is_taken(value):
    with pytest.raises(Refusal) as refused:
        feedback.read(b'{"decision_id": "%b", "metric": "repaid", "value": %b}' % (ID.encode(), value.encode()))
    assert refused.value.code in ("malformed_body", "bad_feedback")


MADE_US = (UUID(ID).int >> 80) * 1000


def test_what_comes_from_the_future_is_refused_and_another_clock_may_be_five_minutes_ahead():
    for now_us, is_taken in ((MADE_US, True), (MADE_US - feedback.AHEAD_US, True), (MADE_US - feedback.AHEAD_US - 1, False)):
        if is_taken:
            assert len(feedback.read(json.dumps(LABEL).encode(), now_us)) == 1
        else:
            with pytest.raises(Refusal, match="not been made yet"):
                feedback.read(json.dumps(LABEL).encode(), now_us)
    at = json.dumps({**LABEL, "time": "2999-01-01T00:00:00Z"}).encode()
    with pytest.raises(Refusal, match="lies in the future"):
        feedback.read(at, MADE_US)


def test_one_bad_event_refuses_the_whole_list_by_its_place():
    with pytest.raises(Refusal, match="event 1"):
        feedback.read(json.dumps([LABEL, {}, LABEL]).encode())
    with pytest.raises(Refusal, match="the most is"):
        feedback.read(json.dumps([LABEL] * (feedback.MOST_EVENTS + 1)).encode())


def test_each_event_is_a_record_that_names_its_decision_and_its_source():
    harness = Harness()
    exchange = harness.run(path="/feedback", body=json.dumps([LABEL, REWARD]).encode())
    assert (exchange.status, exchange.document) == (202, {"accepted": 2})
    label, reward = harness.journal.records()
    assert (label["type"], reward["type"]) == ("label", "reward")
    assert all(record["parents"] == [ID] and record["source"] == record["actor"]["id"] for record in (label, reward))


# --- idempotence: what is learnt from the records of events

MODEL_OF_LABELS = experiment(
    guardrails=(
        MetricDocument(metric="label_error", kind="label", better="lower", margin=10_000, margin_unit="pp"),
        MetricDocument(metric="repaid", kind="reward", better="higher", margin=10_000, margin_unit="pp"),
    )
)


def decisions(count: int) -> list[dict]:
    shares = MODEL_OF_LABELS.steps[0].shares
    return [
        {
            "type": "call",
            "id": f"{number:08d}-0000-7000-8000-000000000000",
            "subject": f"s{number}",
            "route": {
                "experiment": "credit-v4",
                "epoch": 1,
                "exposed": True,
                "assigned": ("champion", "challenger")[number % 2],
                "served": ("champion", "challenger")[number % 2],
                "shares": dict(shares),
            },
            "outcome": {"status": 200, "latency_us": 10},
            "prediction": "1",
        }
        for number in range(count)
    ]


@st.composite
def histories(draw):
    """Decisions and the records of their feedback, each with an id of its own, as the log would hold them."""
    found = decisions(4)
    for number in range(draw(st.integers(0, 12))):
        body = {"decision_id": draw(st.sampled_from(found[:4]))["id"]}
        if draw(st.booleans()):
            body["label"] = draw(st.sampled_from(["0", "1"]))
            if draw(st.booleans()):
                body["corrects"] = True
        else:
            body |= {"metric": "repaid", "value": draw(st.sampled_from([0, 1]))}
        (event,) = feedback.read(json.dumps(body).encode())
        found.append({"type": event.kind, "id": f"99999999-0000-7000-8000-{number:012d}", **event.fields})
    return found


@given(histories(), st.randoms(use_true_random=False), st.integers(1, 3))
def test_feedback_counts_once_in_any_order_however_often_it_is_folded(records, rng: random.Random, times):
    once = Fold(MODEL_OF_LABELS, 1)
    for record in records:
        once.add(record)
    again = Fold(MODEL_OF_LABELS, 1)
    shuffled = records * times
    rng.shuffle(shuffled)
    for record in shuffled:
        again.add(record)
    assert again.evidence() == once.evidence()


def test_a_correction_replaces_the_label_and_a_second_label_does_not():
    decision = decisions(1)[0]
    records = [
        {"type": "label", "id": f"9-{number}", "decision": decision["id"], "row": 0, "label": label, **more}
        for number, (label, more) in enumerate([("1", {}), ("0", {})])
    ]
    fold = Fold(MODEL_OF_LABELS, 1)
    for record in (decision, *records):
        fold.add(record)
    assert fold.evidence().metrics["label_error"].events["champion"] == 0
    fold.add({**records[1], "id": "9-9", "corrects": True})
    assert fold.evidence().metrics["label_error"].events["champion"] == 1


def label_of(decision, number, label, **more: object):
    return {"type": "label", "id": f"9-{number}", "decision": decision["id"], "row": 0, "label": label, "source": "k_a", **more}


@pytest.mark.parametrize(
    ("more", "counts"),
    [
        ({"source": "k_a"}, True),
        ({"source": "k_b"}, False),
        ({"source": "k_b", "may_correct": True}, True),
        ({"source": "k_a", "models": ["other"]}, False),
        ({"source": "k_a", "models": [MODEL_OF_LABELS.model]}, True),
    ],
)
def test_a_correction_counts_from_who_gave_the_label_or_may_correct_others_and_within_the_models_of_its_key(more, counts):
    decision = decisions(1)[0]
    correction = label_of(decision, 9, "0", corrects=True, **more)
    for order in ((decision, label_of(decision, 1, "1"), correction), (correction, label_of(decision, 1, "1"), decision)):
        fold = Fold(MODEL_OF_LABELS, 1)
        for record in order:
            fold.add(record)
        assert fold.evidence().metrics["label_error"].events["champion"] == int(counts)
