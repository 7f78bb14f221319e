"""What would make a bad version look good: failing fast, failing on what is hard, ties, cut-off sums, labels of one kind, generous margins.

Each was a promotion once, or nearly. Seeded; the truth of every test is a challenger that is worse.
"""

import random

import msgspec
import numpy as np
import pytest
from pydantic import ValidationError
from test_metric_kinds import MODELS, arm_of, at, call, canary, folded, label, later, reward

from experiments import stats
from experiments.changes import change_kind
from experiments.checks import ModelFacts, check
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.document import ExperimentDocument
from experiments.evidence import Evidence
from experiments.judge import judge
from experiments.labels import Label, standing, with_label
from experiments.observations import MetricEvidence
from experiments.pairs import PairFold, judge_pairs
from experiments.shared_files import LayersFile, MetricsFile
from experiments.slices import slice_findings
from experiments.values import judge_values

KEYS = {
    "experiment": "x",
    "model": "m",
    "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
    "guardrails": {"errors": {"max_harm": "5pp"}},
    "deadline": {"after": "30d"},
}


def with_metric(name, declared, margin="10%", **more: object):
    """A canary whose one guardrail is a metric declared here."""
    keys = {
        **KEYS,
        "strategy": "canary",
        "steps": [{"share": "50%", "hold": "1ms", "min_units": 1}],
        "guardrails": {name: {"max_harm": margin}},
        **more,
    }
    return compile_experiment(parse_experiment(keys), LayersFile(), MetricsFile.model_validate({"metrics": {name: declared}}))


def outcome_of(document, records):
    return judge(document, folded(document, [*records, later(document)]))


def units(count):
    return ((number, arm_of(number), arm_of(number) == "challenger") for number in range(count))


# --- calls that failed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p95_ms", "tail_ms", "mean_ms", "ms_per_row", "got", "got_tail"])
def test_a_version_that_fails_at_once_is_neither_fast_nor_small(name):
    """The only guardrail is a latency, or a size: a dead version would have passed it."""
    document = canary(name)
    rng = random.Random(1)  # noqa: S311 - a simulation
    records = [
        call(
            document,
            number,
            arm,
            latency_us=900 if is_dead else int(rng.expovariate(1 / 50_000)),
            status=503 if is_dead else 200,
            bytes_out=10 if is_dead else 1000 + rng.randrange(90),
        )
        for number, arm, is_dead in units(3000)
    ]
    verdict = outcome_of(document, records)
    assert verdict.outcome == ("harm" if name in ("p95_ms", "tail_ms", "got_tail") else "hold")
    assert "0 of 1500" in verdict.reasons[0] or "1400 of 1400" in verdict.reasons[0] or verdict.outcome == "harm"


def test_a_version_that_fails_on_what_is_hard_is_not_right_more_often():
    document = canary("wrong", "3pp")
    rng = random.Random(2)  # noqa: S311 - a simulation
    records = []
    for number, arm, gives_up in units(4000):
        is_hard = rng.random() < 0.1
        said = call(document, number, arm, status=500 if gives_up and is_hard else 200)
        if said["outcome"]["status"] == 500:
            del said["prediction"]
        records += [said, label(number, "1" if rng.random() < (0.5 if is_hard else 0.98) else "0")]
    assert outcome_of(document, records).outcome == "harm"


def test_a_shadow_that_gives_up_on_slow_calls_is_not_in_time():
    keys = {
        **KEYS,
        "strategy": "shadow",
        "arms": {"champion": {"version": "1"}, "shadow": {"version": "2"}},
        "guardrails": {"p95_ms": {"max_harm": "20%"}},
        "share": "10%",
        "compare": {"all": {"kind": "json", "max_disagreement": "40%"}},
    }
    document = compile_experiment(parse_experiment(keys))
    fold = PairFold(document, 1)
    rng = random.Random(3)  # noqa: S311 - a simulation
    for number in range(3000):
        champion_us, shadow_us = (int(rng.expovariate(1 / 20_000)) for _ in range(2))
        gone = shadow_us > 30_000  # its time-out: a fifth of its calls
        fold.add(
            {
                "type": "shadow",
                "experiment": "x",
                "epoch": 1,
                "parents": [f"{number:08d}"],
                "champion": {"status": 200, "latency_us": champion_us},
                "outcome": {"status": 504, "code": "timeout", "latency_us": 30_000} if gone else {"status": 200, "latency_us": shadow_us},
                "compared": {"all": {"agrees": 1}},
            }
        )
    found = {one.metric: one.outcome for one in judge_pairs(document, fold.evidence()).metrics}
    assert found == {"all": "fine", "p95_ms": "harm"}


# --- labels -----------------------------------------------------------------------------------------------------------


def test_an_answer_to_something_else_does_not_hide_who_has_no_label():
    """Every unit answers a question, and the challenger's wrong predictions get no label: labels have a response rate of their own."""
    thumb = {"type": "proportion", "better": "higher", "window": "1h"}
    document = with_metric("thumb", thumb, "20pp", goal={"metric": "error_rate", "margin": "5pp"})
    rng = random.Random(4)  # noqa: S311 - a simulation
    records = []
    for number, arm, is_treated in units(4000):
        is_wrong = rng.random() < (0.3 if is_treated else 0.1)
        records += [call(document, number, arm), reward(number, "thumb", 1)]
        if not (is_wrong and is_treated):
            records.append(label(number, "0" if is_wrong else "1"))
    verdict = outcome_of(document, records)
    assert verdict.outcome == "hold"
    assert "the response rate differs by arm" in " ".join(verdict.reasons)


def test_where_only_wrong_predictions_get_a_label_arms_do_not_look_alike():
    """Both arms are wrong in all that is labelled; the challenger is so in 4.3 % of its calls and the champion in 4 %."""
    rng = random.Random(5)  # noqa: S311 - a simulation
    document, told = (
        canary("wrong", "3pp"),
        with_metric("late", {"type": "proportion", "from": "labels", "better": "lower", "window": "2h", "missing": "zero"}, "0.2pp"),
    )
    records = []
    for number, arm, is_treated in units(16_000):
        records.append(call(document, number, arm))
        if rng.random() < (0.043 if is_treated else 0.04):
            records.append(label(number, "0"))
    verdict = outcome_of(document, records)
    assert verdict.outcome == "hold"
    assert "every label says that the prediction was wrong" in verdict.reasons[0]
    assert outcome_of(told, records).metrics[0].reason.startswith("late: `challenger` 3")


def test_labels_with_a_window_count_when_it_has_closed_and_not_after():
    """Errors are found late: before the window closes both arms look perfect."""
    document = with_metric("wrong_2h", {"type": "proportion", "from": "labels", "better": "lower", "window": "2h"}, "2pp")
    records = []
    for number, arm, is_treated in units(2000):
        is_wrong = number % 50 < (6 if is_treated else 2)
        records += [call(document, number, arm), label(number, "0" if is_wrong else "1") | {"time": at(110 if is_wrong else 1)}]
    early = [one for one in records if one["type"] == "call" or one["label"] == "1"]
    assert judge(document, folded(document, early)).reasons == ("wrong_2h: the window of 2000 units is still open",)
    assert outcome_of(document, records).outcome == "harm"
    late = label(0, "1") | {"id": "99", "time": at(121), "corrects": True, "may_correct": True}
    found = folded(document, [*records, late])
    assert (found.late, found.metrics["wrong_2h"].events) == (
        1,
        folded(document, [*records, call(document, 9999, "champion", minute=121)]).metrics["wrong_2h"].events,
    )


def test_no_number_of_repeats_hides_a_correction_and_the_order_plays_no_part():
    words = [Label(f"{number:03d}", False, "0", "s", False) for number in range(40)]
    said = [*words, Label("100", True, "1", "other", False), Label("101", True, "2", "s", False), Label("102", True, "3", "s", False)]
    rng = random.Random(6)  # noqa: S311 - an order
    for _ in range(20):
        rng.shuffle(said)
        kept: tuple[Label, ...] = ()
        for one in said:
            kept = with_label(kept, one)
        assert (standing(kept), len(kept)) == ("3", 3)


def judged_among(answered, events, due):
    """The verdict on one metric whose counts are given: arm -> (units that answered, bad ones), of `due` units an arm."""
    document = with_metric("thumb", {"type": "proportion", "better": "lower", "window": "1h"}, "0.5pp")
    arms = {"champion": 0, "challenger": 1}
    found = MetricEvidence(
        {arm: answered[at] for arm, at in arms.items()},
        {arm: events[at] for arm, at in arms.items()},
        due=dict.fromkeys(arms, due),
        answered={arm: answered[at] for arm, at in arms.items()},
    )
    stages = {stage: dict.fromkeys(arms, due) for stage in ("assigned", "served", "outcome", "labelled")}
    (verdict,) = judge(document, Evidence("x", 1, stages, {"thumb": found})).metrics
    return verdict


@pytest.mark.parametrize("answered", [(1864, 2136), (2136, 1864)])
def test_more_answers_are_not_more_events(answered):
    """Nine in ten of those who answer complain, in both arms; of one arm somewhat more answer. Neither is worse, neither is better."""
    verdict = judged_among(answered, tuple(round(0.9 * one) for one in answered), 10_000)
    assert (verdict.outcome, verdict.better) == ("hold", False)


def test_a_few_silent_units_of_one_arm_are_seen_where_everyone_answers():
    verdict = judged_among((200, 184), (20, 10), 200)
    assert (verdict.outcome, verdict.has_data) == ("hold", False)
    assert "the response rate differs by arm: `challenger` 184 of 200, `champion` 200 of 200" in verdict.reason


# --- values -----------------------------------------------------------------------------------------------------------


def test_many_equal_values_do_not_show_that_a_quantile_is_kept():
    """Stars from 1 to 5: the champion's median is 4, the challenger's 3. More of its units lie above 3.6 than of the champion's above 4."""
    document = with_metric("stars", {"type": "quantile", "quantile": "50%", "better": "higher", "window": "1h"})
    rng = random.Random(7)  # noqa: S311 - a simulation
    records = []
    for number, arm, is_treated in units(2000):
        stars = rng.choices([5, 4, 3], [5, 40, 55] if is_treated else [30, 50, 20])[0]
        records += [call(document, number, arm), reward(number, "stars", stars)]
    verdict = outcome_of(document, records)
    assert verdict.outcome == "harm"
    assert "at or above 4" in verdict.reasons[0]


def test_a_sum_of_more_events_than_are_kept_is_not_judged():
    document = canary("clicks")
    records = []
    for number, arm, is_treated in units(40):
        records.append(call(document, number, arm))
        records += [reward(number, "clicks", 1, event=str(event)) for event in range(70 if is_treated else 100)]
    verdict = outcome_of(document, records)
    assert (verdict.outcome, verdict.may_advance) == ("hold", False)
    assert "40 units have more than 64 events" in verdict.reasons[0]


def test_a_value_outside_its_range_was_not_zero_and_an_arm_that_makes_more_of_them_is_not_judged():
    declared = {"type": "mean", "better": "lower", "range": [0, 500], "window": "1h", "missing": "zero"}
    document = with_metric("loss", declared)
    rng = random.Random(8)  # noqa: S311 - a simulation
    records = []
    for number, arm, is_treated in units(2000):
        records.append(call(document, number, arm))
        if is_treated and number % 40 == 1:
            records.append(reward(number, "loss", 9000))
        elif rng.random() < 0.5:
            records.append(reward(number, "loss", rng.randrange(100)))
    found = folded(document, [*records, later(document)])
    assert found.metrics["loss"].units == {"champion": 1000, "challenger": 950}
    verdict = judge(document, found)
    assert (verdict.outcome, verdict.may_advance) == ("hold", False)
    assert "values outside its range come from one arm" in verdict.reasons[1]


def test_values_that_never_vary_prove_nothing():
    same, other = stats.Moments.of(np.full(700, 0.1)), stats.Moments.of(np.full(700, 0.1))
    with pytest.raises(stats.BurnInError, match="the same"):
        judge_values(same, other, better="lower", margin_ppm=50_000, n_star=1000, alphas=(0.05, 0.025))


def test_a_relative_margin_is_not_taken_for_known():
    """At a truth of exactly the margin, 100 % here, at most alpha is promoted: 9.9 % were while the control's mean counted as known."""
    rng, runs = np.random.default_rng(9), 300
    looks = range(500, 3001, 100)
    wrong = 0
    for _ in range(runs):
        control, treatment = rng.exponential(1, 3000), rng.exponential(2, 3000)
        wrong += any(
            judge_values(
                stats.Moments.of(treatment[:n]),
                stats.Moments.of(control[:n]),
                better="lower",
                margin_ppm=1_000_000,
                n_star=2000,
                alphas=(0.05, 0.025),
            ).outcome
            == "fine"
            for n in looks
        )
    assert wrong <= (0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5) * runs


def test_a_segment_that_loses_in_a_mean_is_found():
    keys = {
        **KEYS,
        "strategy": "champion_challenger",
        "goal": {"metric": "paid", "margin": "2%"},
        "share": "50%",
        "segments": {"country": ["CH", "DE"]},
    }
    document = compile_experiment(
        parse_experiment(keys), LayersFile(), MetricsFile.model_validate({"metrics": {"paid": {"type": "mean", "better": "higher"}}})
    )
    rng = random.Random(10)  # noqa: S311 - a simulation
    by_country = {}
    for country, gain in (("CH", 20), ("DE", -12)):
        records = []
        for number, arm, is_treated in units(1400):
            records += [call(document, number, arm), reward(number, "paid", rng.gauss(100 + gain * is_treated, 20))]
        by_country[f"country={country}"] = folded(document, records)
    found = [one.words for one in slice_findings(document, by_country) if one.metric == "paid"]
    assert found == ["country=CH paid: `challenger` not shown worse", "country=DE paid: `challenger` shown worse"]


# --- plans ------------------------------------------------------------------------------------------------------------


def test_a_weaker_proof_is_a_new_epoch():
    """From "better" to "not worse" with what was seen in hand: that is another experiment."""
    duel = {**KEYS, "strategy": "champion_challenger", "goal": {"metric": "accuracy", "margin": "1pp"}, "share": "25%", "hold": "1h"}
    ramp = {**KEYS, "strategy": "canary", "goal": duel["goal"], "steps": [{"share": "25%", "hold": "1h", "min_units": 100}]}
    assert change_kind(compile_experiment(parse_experiment(duel)), compile_experiment(parse_experiment(ramp))) == "epoch"


def test_every_key_of_a_plan_either_begins_anew_or_is_known_to_promise_nothing():
    """A key that is added has to be put on one side or the other."""
    document = canary("errors", "1pp")
    harmless = {"experiment", "owner", "hypothesis", "seed", "start", "breaker"}
    other = {key: msgspec.structs.replace(document, **{key: object()}) for key in ExperimentDocument.__struct_fields__ if key != "steps"}
    assert {key for key, changed in other.items() if change_kind(document, changed) == "continue"} == harmless


@pytest.mark.parametrize(
    ("metric", "margin", "said"),
    [("errors", "100pp", "no rate can get worse by 100pp"), ("errors", "250pp", "less than `100pp`"), ("spent", "100%", "would be nothing at all")],
)
def test_a_margin_that_every_challenger_keeps_is_refused(metric, margin, said):
    keys = {**KEYS, "strategy": "canary", "steps": [{"share": "5%", "hold": "1h"}], "guardrails": {metric: {"max_harm": margin}}}
    metrics = MetricsFile.model_validate({"metrics": {"spent": {"type": "mean", "better": "higher"}}})
    (fault,) = check(parse_experiment(keys), models=MODELS, metrics=metrics)
    assert said in fault.message


def test_a_margin_of_everything_in_an_old_document_is_judged_and_not_raised():
    document = canary("errors", "1pp")
    (metric,) = document.guardrails
    wide = msgspec.structs.replace(document, guardrails=(msgspec.structs.replace(metric, margin=1_500_000),))
    assert judge(wide, folded(wide, [call(wide, number, arm) for number, arm, _ in units(10)])).outcome in ("hold", "fine")


def test_confidence_is_not_taken_for_an_error_probability():
    with pytest.raises(ValidationError, match="probability of being wrong"):
        canary("errors", "1pp", analysis={"alpha": "95%"})


# --- labels that come for some calls only -----------------------------------------------------------------------------


def with_accuracy(**declared: object) -> ExperimentDocument:
    """A canary judged by labels, on a model whose labels are seen for those it accepts."""
    keys = {**KEYS, "strategy": "canary", "steps": [{"share": "50%", "hold": "1ms", "min_units": 1}], "guardrails": {"wrong": {"max_harm": "5pp"}}}
    model = ModelFacts(frozenset("12"), "1", labels_seen_when="prediction == 1")
    metrics = MetricsFile.model_validate({"metrics": {"wrong": {"type": "proportion", "better": "lower", "from": "labels", **declared}}})
    return compile_experiment(parse_experiment(keys), LayersFile(), metrics, model)


def accepted(document, *, wrong_each=10):
    """Half of each arm is accepted and labelled; the challenger is wrong in every tenth of those, the champion never."""
    for number in range(2000):
        arm = arm_of(number)
        yield call(document, number, arm)
        if number % 4 < 2:
            is_wrong = arm == "challenger" and number % wrong_each < 2
            yield label(number, "0" if is_wrong else "1")


def test_what_is_compared_by_labels_that_each_version_chooses_is_held_with_its_bounds():
    verdict = outcome_of(with_accuracy(window="1h"), accepted(with_accuracy(window="1h")))
    (found,) = verdict.metrics
    assert (verdict.outcome, found.outcome, found.better) == ("hold", "hold", False)
    assert "not identified: labels come only where `prediction == 1`" in found.reason
    assert "`champion` between 0.0 % and 50.0 %" in found.reason


def test_where_none_counts_as_no_it_is_judged_all_the_same():
    document = with_accuracy(window="1h", missing="zero")
    assert document.guardrails[0].is_identified
    assert "not identified" not in outcome_of(document, accepted(document)).metrics[0].reason
