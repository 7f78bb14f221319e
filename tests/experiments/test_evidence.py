"""Evidence: any order, duplicates included, gives the same counts; what does not count is left out."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.breaker import Window
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.document import BreakerDocument
from experiments.evidence import Fold
from experiments.shared_files import MetricsFile
from experiments.shares import WHOLE

HALF = WHOLE // 2
METRICS = MetricsFile.model_validate({"metrics": {"repaid": {"type": "proportion", "better": "higher"}}})


def canary(**changes: object):
    data = {
        "experiment": "c",
        "strategy": "canary",
        "model": "m",
        "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
        "steps": [{"share": "5%", "hold": "1m"}],
        "guardrails": {name: {"max_harm": "1pp"} for name in ("errors", "diverted", "error_rate", "accuracy", "repaid")}
        | {"p50_ms": {"max_harm": "10%"}},
        "deadline": {"after": "1d"},
    }
    return compile_experiment(parse_experiment(data | changes), metrics=METRICS)


def call(number, unit, arm="champion", *, status=200, prediction="1", latency_us=1000, served=None, **changes: object):
    route = {
        "experiment": "c",
        "epoch": 1,
        "assigned": arm,
        "served": served or arm,
        "exposed": True,
        "shares": {"champion": HALF, "challenger": HALF},
    }
    record = {
        "type": "call",
        "id": f"{number:08d}",
        "subject": unit,
        "route": route | changes.pop("route", {}),
        "policy": {"decision": "allow"},
        "prediction": prediction,
        "outcome": {"status": status, "latency_us": latency_us},
    }
    return record | changes


def label(number, decision, text="1", **changes: object):
    return {"type": "label", "id": f"{number:08d}", "decision": f"{decision:08d}", "label": text} | changes


def reward(number, decision, value_ppm, **changes: object):
    return {"type": "reward", "id": f"{number:08d}", "decision": f"{decision:08d}", "metric": "repaid", "value_ppm": value_ppm} | changes


def folded(records, document=None, **bounds: int):
    fold = Fold(document or canary(), 1, **bounds)
    for record in records:
        fold.add(record)
    return fold.evidence()


def split(record):
    """The same call as `decision` and `outcome`."""
    outcome = {
        "type": "outcome",
        "id": record["id"] + "-o",
        "parents": [record["id"]],
        "outcome": record["outcome"],
        "prediction": record["prediction"],
    }
    decision = {key: value for key, value in record.items() if key not in ("outcome", "prediction")} | {"type": "decision"}
    return [decision, outcome]


@st.composite
def histories(draw):
    arms = {}
    records = []
    for number in range(draw(st.integers(1, 12))):
        unit = draw(st.sampled_from("uvwxyz"))
        arm = arms.setdefault(unit, draw(st.sampled_from(["champion", "challenger"])))
        made = call(
            number,
            unit,
            arm,
            status=draw(st.sampled_from([200, 400, 502])),
            prediction=draw(st.sampled_from("01")),
            latency_us=draw(st.integers(1, 9)),
        )
        records += split(made) if draw(st.booleans()) else [made]
    for number in range(draw(st.integers(0, 12))):
        decision = draw(st.integers(0, 12))
        corrects = {"corrects": True} if draw(st.booleans()) else {}
        records.append(label(100 + number, decision, draw(st.sampled_from("01")), **corrects))
        records.append(reward(200 + number, decision, draw(st.sampled_from([0, 1_000_000]))))
    return records


@given(histories(), st.integers(0, 2**32))
def test_any_order_with_duplicates_gives_the_same_evidence(records, seed):
    shuffled = records + random.Random(seed).choices(records, k=len(records))  # noqa: S311 - shuffles a test
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - shuffles a test
    assert folded(shuffled) == folded(records)


def test_a_unit_counts_once_by_its_first_decision():
    found = folded([call(2, "u", status=200), call(1, "u", status=502), call(3, "u", status=200)])
    assert found.stages["assigned"] == {"champion": 1, "challenger": 0}
    assert found.metrics["errors"].events == {"champion": 1, "challenger": 0}


def test_with_draws_per_call_every_decision_is_a_unit():
    found = folded([call(1, "u"), call(2, "u", "challenger", status=502)], canary(unit="call", analysis={"unit": "call"}))
    assert found.stages["assigned"] == {"champion": 1, "challenger": 1}


@pytest.mark.parametrize(
    "record",
    [
        call(1, "u", route={"experiment": "other"}),
        call(1, "u", route={"epoch": 2}),
        call(1, "u", route={"exposed": False}),
        call(1, "u", "holdout", route={"exposed": False}),
        call(1, "u", route={"shares": {"champion": 1, "challenger": WHOLE - 1}}),
        call(1, "u", policy={"decision": "deny"}),
        call(1, "u", outcome={"status": 429, "code": "rate_limited"}),
        {"type": "label", "id": "2", "decision": "9", "label": "1"},
        {"type": "log.heartbeat", "id": "3"},
    ],
)
def test_what_says_nothing_about_an_arm_is_left_out(record):
    assert folded([record]) == folded([])


@pytest.mark.parametrize(
    ("status", "code", "failed"),
    [(200, None, 0), (302, None, 0), (400, None, 1), (500, None, 1), (502, "upstream_error", 1), (504, "upstream_timeout", 1)],
)
def test_what_counts_as_a_failure_of_the_arm(status, code, failed):
    outcome = {"status": status, "latency_us": 1} | ({"code": code} if code else {})
    assert folded([call(1, "u", outcome=outcome)]).metrics["errors"].events["champion"] == failed


@pytest.mark.parametrize(
    "outcome",
    [
        {"status": 200, "code": "reply_unreadable"},
        {"status": 499, "code": "caller_gone"},
        {"status": 200, "code": "upstream_broken", "fault": "closed", "streamed": True},
        {"status": 403, "code": "policy_denied", "policy": {"decision": "deny"}},
    ],
    ids=["a reply nobody can read", "so slow that its caller left", "a stream that broke off", "a reply that a policy refuses"],
)
@pytest.mark.parametrize("is_late", [False, True], ids=["one leaf", "decision and outcome"])
def test_a_broken_arm_does_not_look_healthy_because_its_failures_are_left_out(outcome, is_late):
    made = call(1, "u", "challenger", outcome={"latency_us": 1, **outcome})
    found = folded(split(made) if is_late else [made])
    assert found.stages["outcome"] == {"champion": 0, "challenger": 1}
    assert found.metrics["errors"].events == {"champion": 0, "challenger": 1}


def test_nobody_answers_for_another_tenants_call():
    mine = call(1, "u", tenant="acme")
    for answer in (label(10, 1, tenant="other"), reward(11, 1, 0, tenant="other")):
        for records in ([mine, answer], [answer, mine]):
            assert folded(records) == folded([mine])
    assert folded([mine, label(10, 1, tenant="acme")]).stages["labelled"]["champion"] == 1


def test_rewards_of_metrics_nobody_declared_label_no_unit_and_cost_no_memory():
    fold = Fold(canary(), 1)
    fold.add(call(1, "u"))
    for number in range(1000):
        fold.add(reward(100 + number, 1, 0, metric=f"made up {number}"))
        fold.add(reward(5000 + number, 77, 0, metric=f"made up {number}"))
    assert fold.evidence() == folded([call(1, "u")])
    (unit,) = fold._units.values()
    assert not unit.rewards
    assert not fold._orphans


def test_a_unit_served_by_another_arm_is_analysed_by_its_assigned_one():
    found = folded([call(1, "u", "challenger", served="champion", status=502)])
    assert found.metrics["errors"].events == {"champion": 0, "challenger": 1}
    assert found.metrics["diverted"].events == {"champion": 0, "challenger": 1}
    assert found.stages["served"] == {"champion": 0, "challenger": 0}


def test_labels_are_compared_with_the_prediction_and_corrections_replace():
    records = [call(1, "u", prediction="1"), call(2, "v", prediction="0"), label(10, 1, "1"), label(11, 2, "1")]
    found = folded(records)
    assert found.metrics["error_rate"] == found.metrics["accuracy"]
    assert (found.metrics["error_rate"].units["champion"], found.metrics["error_rate"].events["champion"]) == (2, 1)
    assert folded([*records, label(12, 2, "0")]).metrics["error_rate"].events["champion"] == 1
    assert folded([*records, label(12, 2, "0", corrects=True)]).metrics["error_rate"].events["champion"] == 0


def test_a_label_of_a_later_row_or_decision_is_not_used():
    assert folded([call(1, "u"), call(2, "u"), label(10, 1, "0", row=1), label(11, 2, "0")]).stages["labelled"]["champion"] == 0


def test_rewards_that_are_no_proportion_are_not_used_and_a_missing_success_is_the_bad_event():
    records = [call(1, "u"), call(2, "v"), call(3, "w"), reward(10, 1, 0), reward(11, 2, 1_000_000), reward(12, 3, 500_000)]
    found = folded(records).metrics["repaid"]
    assert (found.units["champion"], found.events["champion"]) == (2, 1)


def test_latency_counts_only_units_after_those_that_fixed_the_threshold():
    past = [call(number, f"u{number}", latency_us=1000 + number) for number in range(20)]
    assert folded(past[:19]).metrics["p50_ms"].threshold_us is None
    after = [call(100, "slow", "challenger", latency_us=1200), call(101, "margin", "challenger", latency_us=1050), call(102, "fast", latency_us=1009)]
    early = [call(5, "early", "challenger", latency_us=9999)]
    found = folded([*after, *early, *[record | {"id": f"{int(record['id']):08d}"} for record in past]]).metrics["p50_ms"]
    assert found.threshold_us == 1009
    assert found.units == {"champion": 1, "challenger": 2}
    assert found.events == {"champion": 0, "challenger": 2}
    assert found.events_past_margin == {"champion": 0, "challenger": 1}


def test_units_past_the_bound_are_counted_and_not_used():
    found = folded([call(number, f"u{number}") for number in range(10)], max_units=7)
    assert (found.stages["assigned"]["champion"], found.overflow) == (7, 3)


def test_labels_that_come_too_early_are_kept_up_to_a_bound():
    early = [label(100 + number, number, "0") for number in range(1, 6)]
    calls = [call(number, f"u{number}") for number in range(1, 6)]
    assert folded([*early, *calls]).stages["labelled"]["champion"] == 5
    assert folded([*early, *calls], max_orphans=2).stages["labelled"]["champion"] == 2


# --- breaker ----------------------------------------------------------------------------------------------------------

BREAKER = BreakerDocument(above_ppm=50_000, window_us=1000, min_calls=20, action="rollback")


@pytest.mark.parametrize(
    ("calls", "failures", "tripped"), [(0, 0, False), (19, 19, False), (20, 1, False), (20, 2, True), (100, 5, False), (100, 6, True)]
)
def test_the_breaker_trips_above_its_limit_with_enough_calls(calls, failures, tripped):
    window = Window(BREAKER)
    for number in range(calls):
        window.add(str(number), 10, failed=number < failures)
        window.add(str(number), 10, failed=True)  # a repeated record changes nothing
    assert window.is_tripped(11) is tripped


def test_the_breaker_forgets_what_left_its_window():
    window = Window(BREAKER)
    for number in range(30):
        window.add(str(number), number, failed=True)
    assert window.is_tripped(100)
    assert window.counts(1009) == (20, 20)
    assert not window.is_tripped(1010)


def test_the_breaker_keeps_a_bounded_number_of_calls():
    window = Window(BREAKER, max_calls=50)
    for number in range(200):
        window.add(str(number), 10, failed=False)
    assert window.counts(10) == (50, 0)
