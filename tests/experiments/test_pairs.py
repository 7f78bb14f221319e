"""Shadow evidence: what a pair counts for, what is proven, and that looking often proves nothing false."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import stats
from experiments.document import ExperimentDocument, MetricDocument, PartDocument, ShadowDocument, StepDocument
from experiments.outlook import outlook_of_pairs
from experiments.pairs import Limit, PairEvidence, PairFold, judge_pairs
from experiments.rollout import apply, initial, step
from experiments.shares import WHOLE

PART = PartDocument(name="label", kind="label", at="/label", max_disagreement_ppm=10_000)
ERRORS = MetricDocument(metric="errors", kind="errors", better="lower", margin=5_000, margin_unit="pp")
P95 = MetricDocument(metric="p95_ms", kind="latency", better="lower", quantile_ppm=950_000, margin=100_000, margin_unit="%", on_harm="hold")


def shadow_of(*parts: PartDocument, guardrails=(), min_units: int = 1, **more: object) -> ExperimentDocument:
    fields = {
        "experiment": "mirror",
        "strategy": "shadow",
        "model": "credit-risk",
        "owner": "risk",
        "hypothesis": "alike",
        "arms": {"champion": "3", "shadow": "4"},
        "control": "champion",
        "sticky": "none",
        "salt": "salt",
        "seed": "1",
        "mode": "native",
        "steps": (StepDocument(exposure=WHOLE, shares={"champion": WHOLE, "shadow": 0}, hold_us=0, min_units=min_units),),
        "guardrails": guardrails,
        "goal": None,
        "alpha_ppm": 50_000,
        "alpha_harm_ppm": 25_000,
        "breaker": None,
        "deadline_us": 10**12,
        "deadline_then": "stop",
        "shadow": ShadowDocument(compare=parts or (PART,), timeout_us=10**6, per_second=10, per_day=0),
    }
    return ExperimentDocument(**{**fields, **more})


def pair(
    number: int, *, agrees: bool = True, status: int = 200, latency_us: int = 1000, champion_us: int = 1000, epoch: int = 1, name="mirror"
) -> dict:
    outcome = {"status": status, "latency_us": latency_us} | ({} if status == 200 else {"code": "upstream_timeout"})
    compared = {"label": {"agrees": int(agrees)}} if status == 200 else {}
    champion = {"status": 200, "latency_us": champion_us}
    decision = f"{number:032x}"
    return {
        "type": "shadow",
        "id": f"r{number}",
        "parents": [decision],
        "experiment": name,
        "epoch": epoch,
        "champion": champion,
        "outcome": outcome,
        "compared": compared,
    }


def folded(document: ExperimentDocument, records, **more: int) -> PairFold:
    fold = PairFold(document, 1, **more)
    for record in records:
        fold.add(record)
    return fold


def verdict_of(document: ExperimentDocument, records):
    return judge_pairs(document, folded(document, records).evidence())


def test_no_data_is_a_hold():
    assert verdict_of(shadow_of(), []).outcome == "hold"


def test_agreement_is_proven_with_enough_pairs_and_not_before():
    assert verdict_of(shadow_of(), map(pair, range(50))).outcome == "hold"
    assert verdict_of(shadow_of(), map(pair, range(1000))).outcome == "fine"


def test_disagreement_above_the_limit_is_proven_harm_that_ends_it():
    verdict = verdict_of(shadow_of(), (pair(number, agrees=number % 20 != 0) for number in range(1000)))
    assert (verdict.outcome, verdict.on_harm) == ("harm", "rollback")
    assert "50 of 1000 calls (5.00 %)" in verdict.reasons[0]


def test_one_limit_that_is_kept_proves_nothing_about_another():
    strict = PartDocument(name="score", kind="number", at="/score", max_disagreement_ppm=1_000)
    records = [{**pair(number), "compared": {"label": {"agrees": 1}, "score": {"agrees": 1}}} for number in range(800)]
    verdict = verdict_of(shadow_of(PART, strict), records)
    assert {metric.metric: metric.outcome for metric in verdict.metrics} == {"label": "fine", "score": "hold"}
    assert verdict.outcome == "hold"


def test_a_shadow_that_fails_agrees_in_nothing():
    verdict = verdict_of(shadow_of(), (pair(number, status=504) for number in range(100)))
    assert verdict.outcome == "harm"


def test_errors_are_judged_against_their_own_margin():
    records = [pair(number, status=200 if number % 100 else 504) for number in range(4000)]
    found = {metric.metric: metric.outcome for metric in verdict_of(shadow_of(guardrails=(ERRORS,)), records).metrics}
    assert found["errors"] == "harm"  # 1 % failed, 0.5 % were allowed


def test_a_latency_is_compared_with_what_the_champion_took_at_first():
    def records(factor: float, seed: int):
        for number, (mine, other) in enumerate(np.random.default_rng(seed).lognormal(0, 0.3, (6000, 2))):
            yield pair(number, champion_us=round(1000 * mine), latency_us=round(1000 * other * factor))

    document = shadow_of(guardrails=(P95,))
    outcomes = {factor: {m.metric: m.outcome for m in verdict_of(document, records(factor, 3)).metrics}["p95_ms"] for factor in (0.8, 2.0)}
    assert outcomes == {0.8: "fine", 2.0: "harm"}


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=60), st.randoms(use_true_random=False))
def test_the_fold_takes_records_in_any_order_and_any_number_of_times(seen, rng):
    unique = {number: pair(number, agrees=agrees) for number, agrees in seen}
    records = list(unique.values())
    shuffled = records * 2
    rng.shuffle(shuffled)
    strangers = [pair(99, epoch=2), pair(98, name="another"), {"type": "call", "id": "c"}]
    document = shadow_of(guardrails=(ERRORS, P95))
    assert folded(document, shuffled + strangers).evidence() == folded(document, records).evidence()


def test_pairs_past_the_bound_are_counted_and_not_used():
    evidence = folded(shadow_of(), map(pair, range(20)), max_pairs=5).evidence()
    assert (evidence.pairs, evidence.overflow, evidence.limits["label"].pairs) == (5, 15, 5)


@pytest.mark.parametrize(("rate", "wrong"), [(0.01, "fine"), (0.01, "harm")])
def test_looking_after_every_pair_proves_nothing_false_more_often_than_alpha(rate: float, wrong: str):
    """At the limit itself neither verdict may be reached more often than its alpha: 400 runs of 2,000 pairs, a look after each tenth."""
    rng = np.random.default_rng(7)
    runs, pairs = 400, 2000
    broken = (rng.random((runs, pairs)) < rate).cumsum(axis=1)[:, 9::10]
    n = np.arange(1, pairs + 1)[9::10]
    side, alpha = ("less", 0.05) if wrong == "fine" else ("greater", 0.025)
    prior = (0.5, 0.5 * (1 - rate) / rate)  # as `judge_pairs` has it; the next test holds the two together
    reached = (stats.log_binomial_e_value(broken, n, rate, side=side, prior=prior) >= np.log(1 / alpha)).any(axis=1).mean()
    assert reached <= alpha + 3 * (alpha * (1 - alpha) / runs) ** 0.5


def test_the_judge_is_valid_as_it_stands_when_it_is_asked_after_every_hundredth_pair():
    rng = np.random.default_rng(11)
    runs, proven = 60, 0
    for _ in range(runs):
        fold = PairFold(shadow_of(), 1)
        outcomes = set()
        for number, broken in enumerate(rng.random(1500) < 0.01):
            fold.add(pair(number, agrees=not broken))
            if number % 100 == 99:
                outcomes.add(judge_pairs(shadow_of(), fold.evidence()).outcome)
        proven += "fine" in outcomes
    assert proven <= 60 * 0.05 + 3 * (60 * 0.05 * 0.95) ** 0.5


def test_a_proven_shadow_stops_after_its_pairs_and_its_hold_and_a_broken_one_is_rolled_back():
    document = shadow_of(min_units=500)
    state, _ = apply(document, initial(document, 1), "start", 0, "configured")
    early = verdict_of(document, map(pair, range(400)))
    assert step(document, state, early, 1) == (state, ())
    proven = verdict_of(document, map(pair, range(1000)))
    after, actions = step(document, state, proven, 1)
    assert (after.phase, [action.verb for action in actions]) == ("stopped", ["stop"])
    broken = verdict_of(document, (pair(number, agrees=False) for number in range(200)))
    after, actions = step(document, state, broken, 1)
    assert (after.phase, [action.verb for action in actions]) == ("rolled_back", ["rollback"])


# --- tokens and cost --------------------------------------------------------------------------------------------------

COST = MetricDocument(
    metric="call_cost", kind="measured", better="lower", margin=100_000, margin_unit="%", type="mean", source="cost", currency="EUR", on_harm="hold"
)


def priced(number: int, shadow_nano: int | None, champion_nano: int | None = 1000, **more: object) -> dict:
    """A pair whose replies cost so much; None says nothing."""
    record = pair(number, **more)
    for place, cost in ((record, shadow_nano), (record["champion"], champion_nano)):
        place["usage"] = {"unread": 1} if cost is None else {"cost_nano": cost, "currency": "EUR", "input_tokens": cost // 10}
    return record


def cost_verdict(records, guardrail: MetricDocument = COST):
    found = verdict_of(shadow_of(guardrails=(guardrail,)), records)
    return next(one for one in found.metrics if one.metric == guardrail.metric)


def costs(factor: float, count: int = 2000, seed: int = 1) -> list[tuple[int, int]]:
    """Heavy-tailed costs of one call under both versions."""
    rng = np.random.default_rng(seed)
    call = rng.lognormal(0, 1, count) * 1000
    own = rng.lognormal(0, 0.3, (2, count)) / np.exp(0.045)
    return [(round(shadow * factor), round(champion)) for shadow, champion in zip(call * own[0], call * own[1], strict=True)]


@pytest.mark.parametrize(("factor", "outcome"), [(0.9, "fine"), (1.0, "fine"), (1.3, "harm"), (1.1, "hold")])
def test_the_mean_cost_of_pairs_is_proven_below_or_above_its_margin(factor: float, outcome: str):
    found = cost_verdict([priced(number, *both) for number, both in enumerate(costs(factor))])
    assert found.outcome == outcome
    assert "(EUR per 1,000 calls) in 2000 pairs" in found.reason


def test_costs_that_differ_by_just_the_margin_are_decided_by_the_judge_no_more_often_than_it_promised():
    """Looked at once, 60 runs: far fewer than the 2.5 % and 5 % of all looks together."""
    outcomes = [cost_verdict([priced(number, *both) for number, both in enumerate(costs(1.1, 600, seed))]).outcome for seed in range(60)]
    assert outcomes.count("harm") <= 3
    assert outcomes.count("fine") <= 6


def test_tokens_of_pairs_are_compared_as_costs_are():
    words = MetricDocument(metric="words", kind="measured", better="lower", margin=100_000, margin_unit="%", type="mean", source="tokens")
    assert cost_verdict([priced(number, *both) for number, both in enumerate(costs(1.5))], words).outcome == "harm"


def test_nothing_is_proven_of_costs_before_five_hundred_pairs():
    found = cost_verdict([priced(number, 10) for number in range(499)])
    assert (found.outcome, found.has_data) == ("hold", True)
    assert "499 pairs; an asymptotic confidence sequence needs 500" in found.reason
    assert cost_verdict([priced(number, 10) for number in range(500)]).outcome == "fine"


@pytest.mark.parametrize(("every", "outcome"), [(50, "hold"), (200, "fine")])
def test_pairs_that_do_not_say_it_may_be_the_dear_ones(every: int, outcome: str):
    found = cost_verdict([priced(number, None if number % every == 0 else 10) for number in range(2000)])
    assert found.outcome == outcome


def test_what_is_dearer_in_what_is_said_is_harm_whatever_is_not_said():
    assert cost_verdict([priced(number, None if number % 4 == 0 else 5000 + number % 7) for number in range(2000)]).outcome == "harm"


@pytest.mark.parametrize("both", [(None, 1000), (1000, None), (None, None)])
def test_a_shadow_or_champion_that_never_says_it_is_a_stated_hold(both: tuple[int | None, int | None]):
    found = cost_verdict([priced(number, *both) for number in range(600)])
    assert (found.outcome, found.has_data) == ("hold", False)
    assert "600 pairs do not say it" in found.reason


def test_a_failed_shadow_costs_nothing_that_is_compared():
    records = [priced(number, 10) for number in range(600)] + [priced(1000 + number, 10**9, status=504) for number in range(50)]
    assert cost_verdict(records).outcome == "fine"


@settings(max_examples=10)
@given(st.randoms(use_true_random=False))
def test_costs_of_pairs_do_not_depend_on_order_or_repeats(rng):
    document = shadow_of(guardrails=(COST,))
    records = [priced(number, *both) for number, both in enumerate(costs(1.0, 300))]
    mixed = [*records, *records[:20]]
    rng.shuffle(mixed)
    assert folded(document, mixed).evidence() == folded(document, records).evidence()


@pytest.mark.parametrize("wrong", ["fine", "harm"])
def test_looking_at_costs_after_every_pair_proves_nothing_false_more_often_than_alpha(wrong: str):
    """At the margin itself the mean difference is 0; costs have heavy tails. 1,000 runs, every look from the burn-in to 4,000 pairs."""
    runs, pairs, n_star = 1000, 4000, 1000
    rng = np.random.default_rng(7)
    alpha = 0.05 if wrong == "fine" else 0.025
    rho = stats.asymptotic_rho(n_star, 2 * alpha)
    n = np.arange(1, pairs + 1)
    false = 0
    for _ in range(runs):
        call = rng.lognormal(0, 1, pairs)
        excess = call * (1.1 * rng.lognormal(0, 0.3, pairs) - 1.1 * rng.lognormal(0, 0.3, pairs))
        mean = np.cumsum(excess) / n
        sd = np.sqrt(np.maximum(np.cumsum(excess**2) / n - mean**2, 0))
        half = stats.asymptotic_half_width(n, sd, 2 * alpha, rho)
        crossed = mean + half < 0 if wrong == "fine" else mean - half > 0
        false += bool(crossed[stats.BURN_IN_UNITS - 1 :].any())
    assert false / runs <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / runs)


# --- what would change a verdict ----------------------------------------------------------------------------------------------------------


def evidence_of(**limits: tuple[int, int]) -> PairEvidence:
    """Evidence of limits of 5 %: (calls, calls that broke it)."""
    return PairEvidence(max(pairs for pairs, _ in limits.values()), {name: Limit(pairs, broken, 50_000) for name, (pairs, broken) in limits.items()})


@pytest.mark.parametrize(
    ("pairs", "broken", "words", "outcome"),
    [
        (40, 0, "more calls would prove the limit kept", "fine"),
        (60, 6, "more calls would prove the limit broken", "harm"),
        (2000, 100, "not even 100 times as many calls would decide it", None),
        (0, 0, "nothing compared yet", None),
    ],
)
def test_a_shadow_says_how_many_more_calls_would_decide_a_limit(pairs, broken, words, outcome):
    (told,) = outlook_of_pairs(shadow_of(PART), evidence_of(label=(pairs, broken)))
    assert words in told.words
    assert told.outcome == outcome


@settings(max_examples=30)
@given(pairs=st.integers(1, 400), share=st.floats(0, 0.2))
def test_with_as_many_more_calls_of_the_same_kind_the_judge_says_so(pairs, share):
    document, broken = shadow_of(PART), round(pairs * share)
    for told in outlook_of_pairs(document, evidence_of(label=(pairs, broken))):
        if told.more_units is not None:
            factor = (pairs + told.more_units) / pairs
            (found,) = judge_pairs(document, evidence_of(label=(round(pairs * factor), round(broken * factor)))).metrics
            assert found.outcome == told.outcome


def test_a_limit_that_is_decided_needs_no_more_calls():
    document = shadow_of(PART)
    assert [told.metric for told in outlook_of_pairs(document, evidence_of(label=(1000, 0), other=(50, 2)))] == ["other"]
