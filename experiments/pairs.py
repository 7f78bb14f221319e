"""Evidence of a shadow: pairs of replies to one call folded into counts, and what they prove.

A pair is one `shadow` record: the champion answered the caller, the shadow answered nobody, and the parts of both replies were compared
(`experiments/replies.py`). Because both saw the same call there is no between-unit noise: what is left is how often they differ.

Rules (semantics.md 4):
- Which calls are mirrored is drawn for every call by itself, so a call is the unit of analysis (4.1).
- Each part is a rate with a limit: calls that disagree. So is `errors` (the shadow failed where the champion answered) and each latency guardrail
  (`p95_ms`: the shadow is slower than the champion's quantile plus the margin in more than 5 % of calls, 4.3; the threshold is the champion's among
  the first pairs, and only later pairs count).
- A guardrail on a mean of tokens or cost is the mean of shadow less (1 + margin) champion over pairs: *kept* when its asymptotic confidence sequence
  lies below 0 at alpha, *broken* when above 0 at alpha_harm, neither before 500 pairs. Only pairs of good replies that both say it count; where more
  than 1 % of the good ones do not, nothing is kept, because what is not said may be the dear calls.
- Any other limit is *kept* when the beta-binomial e-process against "at least the limit" reached 1/alpha, and *broken* when the one against "at most
  the limit" reached 1/alpha_harm (split over all limits): both hold however often someone looks (`stats.log_binomial_e_value`).
- No data is a hold. A part that could not be compared disagrees, and a shadow that failed agrees in nothing and was not in time: the calls it is
  slowest on are the ones it would time out on.
- The fold does not depend on order and takes a repeated record once. Memory: about 150 bytes a pair for latency thresholds, at most `max_pairs`;
  pairs past that are counted in `overflow` and not used.

Example:
    >>> fold = PairFold(document, epoch=1)
    >>> for record in records: fold.add(record)
    >>> judge_pairs(document, fold.evidence()).outcome
    'fine'
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from experiments import stats
from experiments.document import ExperimentDocument, MetricDocument, OnHarm
from experiments.effects import tuned_for
from experiments.evidence import FOREVER_US
from experiments.observations import measured_ppm
from experiments.verdict import MetricVerdict, Outcome, Verdict

SHADOW: Final = "shadow"
CHAMPION: Final = "champion"
MOST_UNSAID_PERCENT: Final = 1
"""Pairs that may leave out what they cost before nothing is proven of the others."""
MOST_UNDECIDED_PERCENT: Final = 10
"""Calls that people may leave undecided before nothing is proven of the others: whoever chooses what to decide chooses what agrees."""
LATENCY_BURN_IN_EVENTS: Final = 10
"""Expected exceedances among the champion's replies that fix a latency threshold: 200 pairs for p95."""


class PairedMeans(msgspec.Struct, frozen=True):
    """What pairs amount to in one quantity."""

    excess: stats.Moments
    """Of shadow less (1 + margin) champion, in the metric's unit."""
    shadow: float
    champion: float
    unsaid: int
    """Pairs of good replies of which one did not say it; they are not among `pairs`."""


class Limit(msgspec.Struct, frozen=True):
    """Counts of one limit: calls it was looked at in, and calls that broke it."""

    pairs: int
    broken: int
    limit_ppm: int
    threshold_us: int | None = None
    means: PairedMeans | None = None
    """Of a mean of tokens or cost, instead of calls that broke it."""


class PairEvidence(msgspec.Struct, frozen=True):
    """Sufficient statistics of one shadow and epoch."""

    pairs: int
    limits: dict[str, Limit]
    overflow: int = 0
    undecided: int = 0
    """Of a shadow whose champion is a person: calls that nobody decided in time."""


class _Pair(msgspec.Struct):
    """What is kept of one pair. Owned by its `PairFold`."""

    id: str
    shadow_us: int | None
    champion_us: int
    usage: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    """Of shadow and champion; only where a guardrail asks for it and both replies were good."""


class PairFold:
    """Folds the `shadow` records of one experiment and epoch. Owned by one task of the controller; not shared."""

    def __init__(self, document: ExperimentDocument, epoch: int, *, max_pairs: int = 500_000) -> None:
        """Start empty.

        Args:
            document: the experiment; its `shadow` part says what is compared.
            epoch: whose records count.
            max_pairs: bound on pairs kept.
        """
        if document.shadow is None:
            raise ValueError(f"`{document.experiment}` has no shadow to compare")
        self._document, self._epoch, self._max_pairs = document, epoch, max_pairs
        self._parts = {part.name: part.max_disagreement_ppm for part in document.shadow.compare}
        self._measures = any(guardrail.kind == "measured" for guardrail in document.guardrails)
        # Mutable state, changed by `add` alone.
        self._pairs: dict[str, _Pair] = {}
        self._broken = dict.fromkeys(self._parts, 0)
        self._failed = 0
        self._overflow = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in one record of the log; those that do not concern this shadow are passed over."""
        if record.get("type") != SHADOW or record.get("experiment") != self._document.experiment or record.get("epoch") != self._epoch:
            return
        decision = record["parents"][0]
        if decision in self._pairs:
            return
        if len(self._pairs) >= self._max_pairs:
            self._overflow += 1
            return
        outcome = record["outcome"]
        has_failed = outcome["status"] != record["champion"]["status"] or "code" in outcome
        pair = self._pairs[decision] = _Pair(decision, None if has_failed else outcome["latency_us"], record["champion"]["latency_us"])
        if self._measures and not has_failed:
            pair.usage = record.get("usage", {}), record["champion"].get("usage", {})
        self._failed += has_failed
        compared = {} if has_failed else record["compared"]  # a reply that is none agrees in nothing
        for name in self._parts:
            self._broken[name] += not compared.get(name, {}).get("agrees", 0)

    def counts(self, decision: str) -> bool:
        """Say whether answers to a decision are waited for: no call of a shadow has any that are joined by it."""
        del decision
        return False

    def evidence(self, until_us: int = FOREVER_US) -> PairEvidence:
        """Counts at this moment; `until_us` closes no window here. Cost: one pass over the pairs for each latency guardrail."""
        del until_us
        limits = {name: Limit(len(self._pairs), self._broken[name], most) for name, most in self._parts.items()}
        for guardrail in self._document.guardrails:
            if guardrail.kind == "measured":
                limits[guardrail.metric] = self._measured(guardrail)
            elif guardrail.kind == "latency":
                limits[guardrail.metric] = self._latency(guardrail)
            else:
                limits[guardrail.metric] = Limit(len(self._pairs), self._failed, guardrail.margin)
        return PairEvidence(len(self._pairs), limits, self._overflow)

    def _measured(self, guardrail: MetricDocument) -> Limit:
        good = [pair.usage for pair in self._pairs.values() if pair.usage is not None]
        values = [tuple(measured_ppm(usage, guardrail.source) for usage in both) for both in good]
        # Sorted, so that the order of arrival plays no part in the last digit either.
        said = np.array(sorted(both for both in values if None not in both), dtype=float).reshape(-1, 2) / 1e6
        excess = said[:, 0] - (1 + guardrail.margin / 1e6) * said[:, 1]
        shadow, champion = said.mean(axis=0) if len(said) else (0.0, 0.0)
        means = PairedMeans(stats.Moments.of(excess), float(shadow), float(champion), len(good) - len(said))
        return Limit(len(said), 0, guardrail.margin, means=means)

    def _latency(self, guardrail: MetricDocument) -> Limit:
        if guardrail.quantile_ppm is None:
            raise ValueError(f"metric `{guardrail.metric}` is a latency without a quantile")
        rest_ppm = 1_000_000 - guardrail.quantile_ppm
        burn_in = math.ceil(LATENCY_BURN_IN_EVENTS * 1_000_000 / rest_ppm)
        # By decision id, which as a UUIDv7 is also by time, so that the order of arrival plays no part.
        ordered = sorted(self._pairs.values(), key=lambda pair: pair.id)
        if len(ordered) <= burn_in:
            return Limit(0, 0, rest_ppm)
        first = sorted(pair.champion_us for pair in ordered[:burn_in])
        threshold_us = first[math.ceil(burn_in * guardrail.quantile_ppm / 1_000_000) - 1]
        threshold_us += guardrail.margin if guardrail.margin_unit == "ms" else threshold_us * guardrail.margin // 1_000_000
        later = [pair.shadow_us for pair in ordered[burn_in:]]
        slow = sum(latency_us is None or latency_us > threshold_us for latency_us in later)
        return Limit(len(later), slow, rest_ppm, threshold_us)


def judge_pairs(document: ExperimentDocument, evidence: PairEvidence) -> Verdict:
    """Judge a shadow.

    Args:
        document: the experiment.
        evidence: of the epoch.

    Returns:
        `fine`: every limit is proven kept. `harm`: one is proven broken. `hold`: neither, above all without data. Never raises for lack of data.
    """
    alpha, alpha_harm = document.alpha_ppm / 1e6, document.alpha_harm_ppm / 1e6 / max(1, len(evidence.limits))
    on_harm = {guardrail.metric: guardrail.on_harm for guardrail in document.guardrails}
    units = {guardrail.metric: guardrail.unit for guardrail in document.guardrails}
    verdicts = tuple(
        _judge_limit(name, limit, alpha, alpha_harm, on_harm.get(name, "rollback"))
        if limit.means is None
        else _judge_means(name, units[name], limit, limit.means, (alpha, alpha_harm), tuned_for(document), on_harm[name])
        for name, limit in evidence.limits.items()
    )
    harmed = [found for found in verdicts if found.outcome == "harm"]
    outcome: Outcome = "hold"
    if harmed:
        outcome = "harm"
    elif verdicts and all(found.outcome == "fine" for found in verdicts) and not _is_chosen(evidence):
        outcome = "fine"
    worst_first = [found.reason for found in sorted(verdicts, key=lambda found: ("harm", "hold", "fine").index(found.outcome))]
    left_out = _left_out(evidence)
    return Verdict(
        outcome=outcome,
        on_harm="rollback" if any(found.on_harm == "rollback" for found in harmed) else "hold",
        may_advance=not harmed and evidence.pairs > 0,
        units={CHAMPION: evidence.pairs, SHADOW: evidence.pairs},
        reasons=tuple(left_out + worst_first if _is_chosen(evidence) and not harmed else worst_first + left_out) or ("no data yet",),
        metrics=verdicts,
        evidence=_for_record(evidence),
    )


def _left_out(evidence: PairEvidence) -> list[str]:
    """Say which part of the calls was left out because no person decided on them: what is proven is of the others."""
    if not evidence.undecided:
        return []
    all_of_them = evidence.pairs + evidence.undecided
    said = f"{evidence.undecided} of {all_of_them} mirrored calls were not decided in time; they are not compared, and may be the hard ones"
    return [f"{said}: over {MOST_UNDECIDED_PERCENT} % of them nothing is proven" if _is_chosen(evidence) else said]


def _is_chosen(evidence: PairEvidence) -> bool:
    return evidence.undecided * 100 > MOST_UNDECIDED_PERCENT * (evidence.pairs + evidence.undecided)


def _judge_limit(name: str, limit: Limit, alpha: float, alpha_harm: float, on_harm: Any) -> MetricVerdict:
    if limit.pairs == 0:
        return MetricVerdict(name, SHADOW, "hold", False, f"{name}: nothing compared yet", False, on_harm)
    counted = f"{name}: {limit.broken} of {limit.pairs} calls ({limit.broken / limit.pairs:.2%})".replace("%", " %")
    at_most = f"{limit.limit_ppm / 10_000:g} %"
    rate = limit.limit_ppm / 1e6
    # Half an event, at the limit's own rate: limits are small, and a flat prior would bet on disagreement everywhere. Known before the first pair.
    prior = (0.5, 0.5 * (1 - rate) / rate)
    kept = float(stats.log_binomial_e_value(limit.broken, limit.pairs, rate, side="less", prior=prior))
    broken = float(stats.log_binomial_e_value(limit.broken, limit.pairs, rate, side="greater", prior=prior))
    if broken >= math.log(1 / alpha_harm):
        return MetricVerdict(name, SHADOW, "harm", False, f"{counted}: more than {at_most} is proven", True, on_harm)
    if kept >= math.log(1 / alpha):
        return MetricVerdict(name, SHADOW, "fine", False, f"{counted}: less than {at_most} is proven", True, on_harm)
    return MetricVerdict(name, SHADOW, "hold", False, f"{counted}: neither more nor less than {at_most} is proven yet", True, on_harm)


def _judge_means(name: str, unit: str, limit: Limit, means: PairedMeans, alphas: tuple[float, float], n_star: int, on_harm: OnHarm) -> MetricVerdict:
    """Judge a mean of tokens or cost: one-sided each, so the two-sided sequence is asked for at twice the level."""

    def said(outcome: Outcome, why: str) -> MetricVerdict:
        more = f"{means.shadow / means.champion - 1:+.1%}".replace("%", " %") if means.champion else "from nothing"
        counted = f"{name}: {means.shadow:.4g} against {means.champion:.4g} ({unit}) in {limit.pairs} pairs, {more}"
        return MetricVerdict(name, SHADOW, outcome, False, f"{counted}: {why}", limit.pairs > 0, on_harm)

    if limit.pairs == 0:
        without = f"; {means.unsaid} pairs do not say it" if means.unsaid else ""
        return MetricVerdict(name, SHADOW, "hold", False, f"{name}: nothing compared yet{without}", False, on_harm)
    at_most = f"{limit.limit_ppm / 10_000:g} % more"
    try:
        _, high = stats.asymptotic_mean(means.excess, n_star=n_star, alpha=min(0.5, 2 * alphas[0]))
        low, _ = stats.asymptotic_mean(means.excess, n_star=n_star, alpha=min(0.5, 2 * alphas[1]))
    except stats.BurnInError as few:
        return said("hold", str(few).replace("units in an arm", "pairs"))
    if low > 0:
        return said("harm", f"more than {at_most} is proven")
    if means.unsaid * 100 > MOST_UNSAID_PERCENT * (limit.pairs + means.unsaid):
        return said("hold", f"{means.unsaid} pairs do not say it, too many to prove that it is less: they may be the dear ones")
    if high < 0:
        return said("fine", f"less than {at_most} is proven")
    return said("hold", f"neither more nor less than {at_most} is proven yet")


def _for_record(evidence: PairEvidence) -> dict[str, Any]:
    record: dict[str, Any] = {"pairs": evidence.pairs}
    if evidence.undecided:
        record["undecided"] = evidence.undecided
    for name, limit in evidence.limits.items():
        counts = {"pairs": limit.pairs, "broken": limit.broken, "limit_ppm": limit.limit_ppm}
        if limit.means is not None:
            told = {"shadow_ppm": round(limit.means.shadow * 1e6), "champion_ppm": round(limit.means.champion * 1e6), "unsaid": limit.means.unsaid}
            counts = {"pairs": limit.pairs, "limit_ppm": limit.limit_ppm, **told}
        record[name] = counts if limit.threshold_us is None else {**counts, "threshold_us": limit.threshold_us}
    return record
