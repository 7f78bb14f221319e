"""Every kind of metric from every source it may come from: what a unit is worth, who is due, and what missing feedback does."""

import json
import random
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from experiments.changes import change_kind
from experiments.checks import ModelFacts, check
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.effects import effects
from experiments.evidence import Fold
from experiments.forecast import forecast
from experiments.judge import judge
from experiments.observations import burn_in_units
from experiments.outlook import outlook
from experiments.rollout import apply, initial, step
from experiments.shared_files import SOURCES, LayersFile, MetricsFile
from experiments.simulation import Truth, simulate
from experiments.slices import slice_findings

METRICS = {
    "bought": {"type": "proportion", "better": "higher", "window": "1h", "missing": "zero"},
    "thumb": {"type": "proportion", "better": "higher", "window": "1h"},
    "strict": {"type": "proportion", "better": "higher", "window": "1h", "missing": "refuse"},
    "spent": {"type": "mean", "better": "higher", "window": "1h"},
    "clicks": {"type": "count", "better": "higher", "window": "1h"},
    "rate": {"type": "ratio", "better": "higher", "per": "clicks"},
    "basket": {"type": "quantile", "quantile": "90%", "better": "higher", "window": "1h"},
    "smallest": {"type": "quantile", "quantile": "10%", "better": "higher", "window": "1h"},
    "wait": {"type": "quantile", "quantile": "90%", "better": "lower", "window": "1h"},
    "wrong": {"type": "proportion", "from": "labels", "better": "lower"},
    "failed": {"type": "proportion", "from": "errors", "better": "lower"},
    "tail_ms": {"type": "quantile", "from": "latency", "quantile": "90%", "better": "lower"},
    "mean_ms": {"type": "mean", "from": "latency", "better": "lower"},
    "ms_per_row": {"type": "ratio", "from": "latency", "per": "row_count", "better": "lower"},
    "row_count": {"type": "mean", "from": "rows", "better": "lower"},
    "sent": {"type": "mean", "from": "bytes_in", "better": "lower"},
    "sent_per_row": {"type": "ratio", "from": "bytes_in", "per": "row_count", "better": "lower"},
    "rows_per_click": {"type": "ratio", "from": "rows", "per": "clicks", "better": "lower"},
    "got": {"type": "mean", "from": "bytes_out", "better": "lower"},
    "got_per_row": {"type": "ratio", "from": "bytes_out", "per": "row_count", "better": "lower"},
    "rows_tail": {"type": "quantile", "from": "rows", "quantile": "90%", "better": "lower"},
    "sent_tail": {"type": "quantile", "from": "bytes_in", "quantile": "90%", "better": "lower"},
    "got_tail": {"type": "quantile", "from": "bytes_out", "quantile": "90%", "better": "lower"},
    "words": {"type": "mean", "from": "tokens", "better": "lower"},
    "words_per_row": {"type": "ratio", "from": "tokens", "per": "row_count", "better": "lower"},
    "words_tail": {"type": "quantile", "from": "tokens", "quantile": "90%", "better": "lower"},
    "asked": {"type": "mean", "from": "input_tokens", "better": "lower"},
    "asked_per_row": {"type": "ratio", "from": "input_tokens", "per": "row_count", "better": "lower"},
    "asked_tail": {"type": "quantile", "from": "input_tokens", "quantile": "90%", "better": "lower"},
    "said": {"type": "mean", "from": "output_tokens", "better": "higher"},
    "said_per_row": {"type": "ratio", "from": "output_tokens", "per": "row_count", "better": "lower"},
    "said_tail": {"type": "quantile", "from": "output_tokens", "quantile": "90%", "better": "lower"},
    "call_cost": {"type": "mean", "from": "cost", "better": "lower"},
    "token_cost": {"type": "ratio", "from": "cost", "per": "words", "better": "lower"},
    "cost_tail": {"type": "quantile", "from": "cost", "quantile": "90%", "better": "lower"},
    "words_for_money": {"type": "ratio", "from": "tokens", "per": "call_cost", "better": "higher"},
}
FILE = MetricsFile.model_validate({"metrics": METRICS})
USAGE = frozenset({"tokens", "input_tokens", "output_tokens", "cost"})
MODELS = {"m": ModelFacts(frozenset({"1", "2"}), "1", usage=USAGE, currency="EUR")}


def canary(goal, margin="10%", **more: object):
    keys = {
        "experiment": "x",
        "strategy": "canary",
        "model": "m",
        "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
        "steps": [{"share": "50%", "hold": "1ms", "min_units": 1}],
        "guardrails": {goal: {"max_harm": margin}},
        "deadline": {"after": "30d"},
        **more,
    }
    file = parse_experiment(keys)
    assert check(file, models=MODELS, metrics=FILE) == []
    return compile_experiment(file, LayersFile(), FILE, MODELS["m"])


def at(minute):
    return f"2026-11-{20 + minute // 1440:02d}T{minute // 60 % 24:02d}:{minute % 60:02d}:00.000000Z"


def call(document, number, arm, *, minute=0, latency_us=1000, status=200, **usage: int):
    route = {"experiment": "x", "epoch": 1, "exposed": True, "assigned": arm, "served": arm, "shares": dict(document.steps[0].shares)}
    told = {"type": "call", "id": f"{number:08d}", "time": at(minute), "subject": f"{number:032x}", "route": route, "prediction": "1"}
    return {**told, "outcome": {"status": status, "latency_us": latency_us}, "usage": {"rows": 1, "bytes_in": 1, "bytes_out": 1, **usage}}


def reward(number, metric, value, *, minute=1, event="e"):
    told = {"type": "reward", "id": f"9{number:07d}{metric}{event}", "time": at(minute), "decision": f"{number:08d}", "metric": metric}
    return {**told, "value_ppm": round(value * 1e6), "event_id": event}


def label(number, said):
    return {"type": "label", "id": f"9{number:07d}", "time": at(1), "decision": f"{number:08d}", "label": said}


def arm_of(number):
    return ("champion", "challenger")[number % 2]


def later(document):
    """A call by which every window of the calls before has closed."""
    return call(document, 99_999_999, "champion", minute=24 * 60)


def folded(document, records):
    fold = Fold(document, 1)
    for record in records:
        fold.add(record)
    return fold.evidence()


def drawn(document, name, challenger, *, units=3000, seed=1):
    """Records of `units` calls whose metric follows a truth; `challenger` scales the challenger's values, or is its rate of bad events."""
    rng = np.random.default_rng(seed)
    source, kind = METRICS[name].get("from", "feedback"), METRICS[name]["type"]
    records = []
    for number in range(units):
        scale = challenger if arm_of(number) == "challenger" else 0.2 if kind == "proportion" else 1.0
        size = round(1000 * scale * float(rng.lognormal(0, 0.4)))
        is_bad = kind == "proportion" and bool(rng.random() < scale)
        usage = {source: size} if source in ("rows", "bytes_in", "bytes_out", "input_tokens", "output_tokens") else {}
        if source == "tokens":
            usage = {"input_tokens": size // 2, "output_tokens": size - size // 2, "cost_nano": int(rng.integers(900, 1100))}
        elif source == "cost":
            usage = {"cost_nano": size, "input_tokens": int(rng.integers(40, 60))}
        usage |= {"rows": int(rng.integers(1, 9))} if source != "rows" else {}
        records.append(
            call(
                document,
                number,
                arm_of(number),
                latency_us=size if source == "latency" else 1,
                status=500 if source == "errors" and is_bad else 200,
                **usage,
            )
        )
        if source == "labels":
            records.append(label(number, "0" if is_bad else "1"))
        if METRICS[name].get("per") == "clicks":
            records.append(reward(number, "clicks", int(rng.integers(1, 9))))
        if source == "feedback":
            value = float(is_bad == (METRICS[name]["better"] == "lower")) if kind == "proportion" else size / 1000
            records.append(reward(number, name, value))
    return [*records, later(document)]


@pytest.mark.parametrize("name", sorted(METRICS.keys() - {"strict"}))
def test_every_kind_from_every_source_proves_harm_and_its_absence_and_shows_an_effect(name):
    """A clearly worse challenger is harm, the same one as the champion is fine, and both are told with an interval around what was seen."""
    kind = METRICS[name]["type"]
    document = canary(name, "12pp" if kind == "proportion" else "30%")
    is_lower = METRICS[name]["better"] == "lower"
    for challenger, outcome in ((0.5 if kind == "proportion" else 2.0 if is_lower else 0.5, "harm"), (0.2 if kind == "proportion" else 1.0, "fine")):
        found = folded(document, drawn(document, name, challenger))
        verdict = judge(document, found)
        assert (verdict.metrics[0].outcome, verdict.reasons[0]) == (outcome, verdict.metrics[0].reason)
        (effect,) = effects(document, found)
        assert effect.low_ppm <= effect.difference_ppm <= effect.high_ppm
        assert (effect.past != "") == (kind == "quantile")
        worse = effect.difference_ppm > 0 if effect.better == "lower" else effect.difference_ppm < 0
        assert worse or outcome == "fine"
        assert json.dumps(verdict.evidence).count("null") == 0
        assert outlook(document, found) == []


def test_the_table_above_has_every_kind_of_every_source():
    assert {(one.get("from", "feedback"), one["type"]) for one in METRICS.values()} == {
        (source, kind) for source, kinds in SOURCES.items() for kind in kinds
    }


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from(["basket", "bought", "strict", "rows_per_click", "tail_ms"]))
def test_evidence_of_any_kind_does_not_depend_on_the_order_or_on_repeats_of_records(seed, name):
    rng = random.Random(seed)  # noqa: S311 - an order
    document = canary(name, "12pp" if METRICS[name]["type"] == "proportion" else "30%")
    records = drawn(document, name, 0.4, units=260)
    expected = folded(document, records)
    shuffled = records + rng.sample(records, 40)
    rng.shuffle(shuffled)
    assert folded(document, shuffled) == expected


# --- quantiles --------------------------------------------------------------------------------------------------------


def test_a_threshold_is_the_controls_quantile_among_its_first_units_which_count_for_nothing():
    document = canary("basket")
    (metric,) = document.guardrails
    assert burn_in_units(metric) == 100
    values = {number: float(number % 50) for number in range(400)}
    records = [one for number, value in values.items() for one in (call(document, number, arm_of(number)), reward(number, "basket", value))]
    found = folded(document, [*records, later(document)]).metrics["basket"]
    first = sorted(values[number] for number in range(0, 200, 2))
    assert found.threshold_ppm == first[89] * 1_000_000
    assert found.units == {"challenger": 101, "champion": 100}
    assert found.events == {arm: sum(values[n] >= first[89] for n in range(199, 400) if arm_of(n) == arm) for arm in ("champion", "challenger")}


def test_who_answers_later_changes_no_threshold_once_windows_have_closed():
    document = canary("basket")
    early = [one for number in range(300) for one in (call(document, number, arm_of(number)), reward(number, "basket", number))]
    found = folded(document, [*early, call(document, 900, "champion", minute=90)])
    more = [call(document, number, arm_of(number), minute=90) for number in range(500, 800)]
    late = [reward(number, "basket", 1, minute=120) for number in range(500, 800)]
    grown = folded(document, [*early, call(document, 900, "champion", minute=90), *more, *late, later(document)])
    assert grown.metrics["basket"].threshold_ppm == found.metrics["basket"].threshold_ppm
    assert sum(grown.metrics["basket"].units.values()) > sum(found.metrics["basket"].units.values())


def test_a_quantile_that_waits_for_its_threshold_says_how_many_units_it_waits_for():
    for name, words in (("basket", "first 100 units of `champion` that answer"), ("tail_ms", "first 100 units of `champion`")):
        document = canary(name)
        found = folded(document, drawn(document, name, 1.0, units=60))
        assert words in judge(document, found).metrics[0].reason
        assert effects(document, found)[0].difference_ppm is None


def test_a_segment_that_loses_in_good_events_is_found():
    document = msgspec.structs.replace(canary("basket"), segments={"country": ("CH",)})
    found = folded(document, drawn(document, "basket", 0.5))
    (finding,) = slice_findings(document, {"country=CH": found})
    assert finding.finding == "shown worse"


# --- who is due, and what is missing ----------------------------------------------------------------------------------


def few(document, name, answers, *, minute=1):
    records = [call(document, number, arm_of(number)) for number in range(8)]
    return [*records, *(reward(number, name, value, minute=minute) for number, value in answers.items()), later(document)]


@pytest.mark.parametrize(("name", "units", "events"), [("bought", 8, 7), ("thumb", 2, 1), ("strict", 2, 1)])
def test_a_unit_without_feedback_is_left_out_or_a_zero_as_declared(name, units, events):
    """`bought` is better when higher: what did not come is a zero, and a zero is the bad event."""
    found = folded(canary(name, "5pp"), few(canary(name, "5pp"), name, {0: 1, 1: 0})).metrics[name]
    assert (sum(found.units.values()), sum(found.events.values())) == (units, events)
    assert (sum(found.due.values()), sum(found.answered.values()), found.pending) == (8, 2, 1)


def test_a_unit_whose_window_is_open_is_pending_also_if_it_has_answered():
    document = canary("thumb", "5pp")
    records = few(document, "thumb", {0: 1, 1: 0})[:-1]
    found = folded(document, records)
    assert (sum(found.metrics["thumb"].units.values()), found.metrics["thumb"].pending) == (0, 8)
    assert "the window of 8 units is still open" in judge(document, found).metrics[0].reason


def test_what_comes_after_its_window_has_closed_is_counted_and_not_used():
    document = canary("thumb", "5pp")
    found = folded(document, few(document, "thumb", {0: 1, 1: 0}, minute=61))
    assert (found.late, sum(found.metrics["thumb"].units.values())) == (2, 0)
    assert "2 rewards came after their window had closed" in " ".join(judge(document, found).reasons)


def test_refuse_judges_nothing_while_a_unit_whose_window_has_closed_has_not_answered():
    document = canary("strict", "12pp")
    records = drawn(document, "strict", 0.2)
    assert judge(document, folded(document, records)).outcome == "fine"
    silent = [record for record in records if record["type"] == "call" or record["decision"] != "00000007"]
    verdict = judge(document, folded(document, silent))
    assert "and everyone who must" in outlook(document, folded(document, silent))[0].words
    assert (verdict.outcome, verdict.may_advance) == ("hold", False)
    assert "1 of 3000 units whose window has closed have no answer" in verdict.metrics[0].reason


def test_a_response_rate_that_differs_by_arm_holds_the_metric_and_the_ramp():
    """The arm whose contented units answer would win otherwise."""
    document = canary("thumb", "12pp")
    records = drawn(document, "thumb", 0.2)
    kept = [one for number, one in enumerate(records) if one["type"] == "call" or one["decision"] < "00001500" or number % 4 == 1]
    verdict = judge(document, folded(document, kept))
    assert (verdict.outcome, verdict.may_advance) == ("hold", False)
    assert "the response rate differs by arm: `challenger` 750 of 1500, `champion` 1500 of 1500" in verdict.metrics[0].reason


def test_where_missing_is_zero_who_answers_is_the_effect_and_blocks_nothing():
    document = canary("bought", "12pp")
    records = [call(document, number, arm_of(number)) for number in range(3000)]
    records += [
        reward(number, "bought", 1) for number in range(3000) if number % (10 if arm_of(number) == "challenger" else 3) == 0 or number % 4 == 1
    ]
    found = folded(document, [*records, later(document)])
    assert found.metrics["bought"].answered["challenger"] > 1.2 * found.metrics["bought"].answered["champion"]
    assert judge(document, found).outcome == "fine"
    assert judge(document, found).is_better("bought")


def test_a_metric_that_never_arrives_is_a_stated_hold_in_the_verdict_and_in_the_step():
    document = canary("thumb", "5pp")
    verdict = judge(document, folded(document, [*(call(document, number, arm_of(number)) for number in range(400)), later(document)]))
    assert verdict.metrics[0].reason == ("thumb: nothing has arrived for any of 400 units whose window has closed; is it reported under this name?")
    state, _ = apply(document, initial(document, 1), "start", 0, "t")
    state, (action,) = step(document, state, verdict, 3_600_000_000)
    assert (action.verb, action.reason) == ("hold", "evidence is missing: thumb")


# --- tokens and cost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("call_cost", "EUR per 1,000 calls"),
        ("token_cost", "EUR per 1,000 tokens"),
        ("cost_tail", "EUR per 1,000 calls"),
        ("words", "tokens"),
        ("asked_per_row", "input tokens per row"),
        ("words_for_money", "tokens per 0.001 EUR"),
        ("mean_ms", "ms"),
        ("ms_per_row", "ms per row"),
        ("got", "bytes"),
        ("rows_per_click", "rows per `clicks`"),
        ("spent", ""),
    ],
)
def test_values_are_told_in_their_unit(name, unit):
    (metric,) = canary(name).guardrails
    assert metric.unit == unit


def test_a_cost_is_judged_and_told_to_its_billionths():
    document = canary("call_cost")
    records = [call(document, number, arm_of(number), cost_nano=(150, 151)[number % 2], currency="EUR") for number in range(1200)]
    found = folded(document, [*records, later(document)])
    (effect,) = effects(document, found)
    assert (effect.value_ppm, effect.control_ppm, effect.difference_ppm, effect.of) == (151, 150, 1, "EUR per 1,000 calls")
    assert judge(document, found).evidence["call_cost"]["mean_ppm"] == {"challenger": 151, "champion": 150}
    assert "(EUR per 1,000 calls)" in judge(document, found).metrics[0].reason


def test_an_arm_whose_replies_do_not_say_it_is_not_judged_by_those_that_do():
    """The challenger's dear calls leave their usage out: what is left looks half as dear, and proves nothing."""
    document = canary("call_cost")
    records = []
    for number in range(4000):
        is_silent = number % 2 == 1 and number % 4 == 1
        usage = {"unread": 1} if is_silent else {"cost_nano": (1000, 500)[number % 2]}
        records.append(call(document, number, arm_of(number), **usage))
    verdict = judge(document, folded(document, records))
    assert verdict.outcome == "hold"
    assert "how many replies say it differs by arm: `challenger` 1000 of 2000, `champion` 2000 of 2000" in verdict.metrics[0].reason
    assert not verdict.may_advance


def test_replies_that_never_say_it_are_a_stated_hold():
    document = canary("words")
    verdict = judge(document, folded(document, [call(document, number, arm_of(number), unread=1) for number in range(400)]))
    assert "no reply of 400 calls says it; do `capture.usage` and `cost` in the model's file fit what it answers?" in verdict.metrics[0].reason
    assert (verdict.outcome, verdict.may_advance) == ("hold", False)


@pytest.mark.parametrize(
    ("name", "missing", "words"),
    [
        ("call_cost", "cost", "has no `cost`"),
        ("token_cost", "tokens", "has no `capture.usage`"),
        ("words_for_money", "cost", "has no `cost`"),
        ("said", "output_tokens", "has no `capture.usage.output_tokens`"),
    ],
)
def test_a_metric_of_what_the_models_file_does_not_say_how_to_read_is_refused(name, missing, words):
    models = {"m": ModelFacts(frozenset({"1", "2"}), "1", usage=USAGE - {missing}, currency="EUR")}
    for keys in ({"goal": {"metric": name, "margin": "5%"}}, {"guardrails": {name: {"max_harm": "5%"}}}):
        (fault,) = check(parse_experiment({**_KEYS, **keys}), models=models, metrics=FILE)
        assert words in fault.message


def test_a_metric_without_cost_compiles_to_what_it_was_before_there_were_costs():
    (metric,) = canary("mean_ms").guardrails
    assert b"currency" not in msgspec.json.encode(metric)


def test_another_currency_is_another_metric():
    one, two = (
        compile_experiment(
            parse_experiment({**_KEYS, "goal": {"metric": "call_cost", "margin": "5%"}}), LayersFile(), FILE, replace(MODELS["m"], currency=c)
        )
        for c in ("EUR", "USD")
    )
    assert change_kind(one, two) == "exploratory"


def test_numbers_are_left_out_of_forecasts_and_refused_by_simulations_not_taken_for_rates():
    for name in ("spent", "basket", "mean_ms"):
        assert forecast(canary(name), units_per_day=1000, rates={}).metrics == ()
        with pytest.raises(ValueError, match="only rates and latencies are simulated"):
            simulate(canary(name), {name: Truth(0.1, 0.1)}, units_per_hour=100, runs=1)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"type": "count", "from": "latency", "better": "lower"}, "gives no `count`; it gives `mean`, `quantile`, `ratio`"),
        ({"type": "mean", "from": "latency", "better": "higher"}, "better when lower"),
        ({"type": "mean", "from": "seconds", "better": "lower"}, "Input should be"),
        ({"type": "mean", "from": "cost", "better": "higher"}, "better when lower"),
        ({"type": "count", "from": "cost", "better": "lower"}, "gives no `count`; it gives `mean`, `quantile`, `ratio`"),
        ({"type": "mean", "from": "tokens", "window": "1h", "better": "lower"}, "comes with the call"),
        ({"type": "quantile", "from": "latency", "better": "lower"}, "says which"),
        ({"type": "mean", "quantile": "90%", "better": "lower"}, "says which"),
        ({"type": "quantile", "from": "latency", "quantile": "20%", "better": "lower"}, "at least 50%"),
        ({"type": "quantile", "from": "rows", "quantile": "99.99%", "better": "lower"}, "between 0.1% and 99.9%"),
        ({"type": "quantile", "quantile": "90%", "better": "lower"}, "needs a `window`"),
        ({"type": "mean", "from": "rows", "window": "1h", "better": "lower"}, "comes with the call"),
        ({"type": "proportion", "missing": "refuse", "better": "lower"}, "needs a `window`"),
        ({"type": "proportion", "missing": "guess", "better": "lower"}, "Input should be"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_with_what_can(declared, words):
    with pytest.raises(ValidationError, match=words):
        MetricsFile.model_validate({"metrics": {"x": declared}})


def test_a_built_in_name_cannot_be_declared_anew():
    for name in ("errors", "accuracy", "p95_ms"):
        with pytest.raises(ValidationError, match="built in"):
            MetricsFile.model_validate({"metrics": {name: {"type": "mean", "better": "lower"}}})


@pytest.mark.parametrize(
    ("name", "margin", "words"),
    [("basket", "5pp", "`2%`"), ("basket", "5ms", "`2%`"), ("tail_ms", "5pp", "`10%` or `20ms`"), ("mean_ms", "5ms", "`2%`")],
)
def test_a_margin_that_does_not_fit_its_kind_is_refused_with_one_that_does(name, margin, words):
    file = parse_experiment({**_KEYS, "goal": {"metric": name, "margin": margin}})
    (fault,) = check(file, models=MODELS, metrics=FILE)
    assert words in fault.message


def test_a_ratio_is_per_a_mean_or_a_count_that_is_declared():
    for below, words in (({"type": "proportion", "better": "higher"}, "a proportion"), (None, "does not declare")):
        declared = {"r": {"type": "ratio", "per": "b", "better": "higher"}} | ({} if below is None else {"b": below})
        (fault,) = check(
            parse_experiment({**_KEYS, "goal": {"metric": "r", "margin": "5%"}}),
            models=MODELS,
            metrics=MetricsFile.model_validate({"metrics": declared}),
        )
        assert words in fault.message


def test_a_metric_of_labels_needs_a_model_that_captures_predictions():
    file = parse_experiment({**_KEYS, "goal": {"metric": "wrong", "margin": "5pp"}})
    (fault,) = check(file, models={"m": ModelFacts(frozenset({"1", "2"}), "1", has_labels=False)}, metrics=FILE)
    assert "captures none" in fault.message


_KEYS = {
    "experiment": "x",
    "strategy": "ab",
    "model": "m",
    "arms": {"control": {"version": "1"}, "treatment": {"version": "2"}},
    "split": {"control": "50%", "treatment": "50%"},
}
