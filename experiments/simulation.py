"""A planned experiment run on a stated truth, many times: how often it promotes, rolls back or waits, and how long it takes.

The judge and the rollout are the real ones (`experiments/judge.py`, `experiments/rollout.py`); what is drawn are the counts they see. Rules: every
arrival is a new unit (for draws by call, a call); approvals are given at once; the breaker is left out, it only ever ends things sooner; a step that
is not tested adds no evidence, as in the gateway. The same seed gives the same runs, whatever their number.

Example:
    >>> truth = {"errors": Truth(control=0.01, treatment=0.06)}
    >>> simulate(document, truth, units_per_hour=10_000, runs=200, seed=1).ended["rolled_back"]
    200
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from experiments.document import ExperimentDocument, MetricDocument, StepDocument
from experiments.evidence import Evidence
from experiments.judge import judge
from experiments.observations import MetricEvidence
from experiments.rollout import RolloutState, apply, initial, step
from experiments.shares import WHOLE
from experiments.verdict import Verdict

HOUR_US = 3_600_000_000
UNDECIDED_AFTER_US = 366 * 24 * HOUR_US
STAGES = ("assigned", "served", "outcome", "labelled")


@dataclass(frozen=True, slots=True)
class Truth:
    """Rates of a metric's bad event: errors, wrong predictions, calls slower than the threshold.

    Attributes:
        control: of the control.
        treatment: of every other arm.
        past_margin: of latency: rate at which a treatment's calls are slower than threshold and margin together.
    """

    control: float
    treatment: float
    past_margin: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no rate. Raises ValueError."""
        if not (0 <= self.control <= 1 and 0 <= self.treatment <= 1 and 0 <= self.past_margin <= self.treatment):
            raise ValueError("rates lie in [0, 1], and no more calls pass threshold and margin than pass the threshold")


@dataclass(frozen=True, slots=True)
class Run:
    """How one run ended.

    Attributes:
        phase: `promoted`, `rolled_back`, `stopped`, or `running` if it was still undecided.
        hours: until then.
        treatment_units: units the treatments had served by then, on tested steps.
        harm: whether harm was the reason.
        better: arms and metrics proven better by then, as `metric of arm`.
    """

    phase: str
    hours: float
    treatment_units: int
    harm: bool
    better: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Simulation:
    """All runs.

    Attributes:
        runs: in order.
        looks_every_s: seconds between looks.
    """

    runs: tuple[Run, ...]
    looks_every_s: float

    @property
    def ended(self) -> dict[str, int]:
        """How many runs ended how."""
        counts = dict.fromkeys(("promoted", "rolled_back", "stopped", "running"), 0)
        for run in self.runs:
            counts[run.phase] += 1
        return counts

    def share(self, phase: str) -> tuple[float, float]:
        """Part of the runs that ended so, and its standard error."""
        part = self.ended[phase] / len(self.runs)
        return part, (part * (1 - part) / len(self.runs)) ** 0.5


def simulate(
    document: ExperimentDocument,
    truths: Mapping[str, Truth],
    *,
    units_per_hour: float,
    runs: int = 1000,
    seed: int = 1,
    look_every_us: int | None = None,
    longest_us: int = UNDECIDED_AFTER_US,
) -> Simulation:
    """Run an experiment on a stated truth.

    Args:
        document: the experiment.
        truths: for every guardrail and the goal.
        units_per_hour: new units of the model's whole traffic.
        runs: how many times.
        seed: of the draws; run i depends on (seed, i) alone.
        look_every_us: time between looks; default: a hundredth of the time all steps take at least, and at least a minute.
        longest_us: where a run without a deadline is given up as undecided.

    Raises:
        ValueError: a metric without a truth or that is no rate, a truth without a metric, no traffic.

    Cost: about a millisecond a look and metric.
    """
    metrics = {metric.metric: metric for metric in _metrics(document)}
    if set(metrics) != set(truths):
        named = ", ".join(f"`{name}`" for name in sorted(metrics))
        odd = min(set(metrics) ^ set(truths))
        raise ValueError(f"`{odd}` is {'without a truth' if odd in metrics else 'no metric of this experiment'}; its metrics: {named}")
    for name, metric in metrics.items():
        if metric.kind != "latency" and metric.type != "proportion":
            raise ValueError(f"`{name}` is a {metric.type}: a truth is a rate, and only rates and latencies are simulated")
    if document.strategy not in ("ab", "canary"):
        raise ValueError(f"a `{document.strategy}` has no arms that are drawn; only `ab` and `canary` are simulated")
    if not units_per_hour > 0 or runs < 1:
        raise ValueError("a simulation needs traffic and at least one run")
    every = look_every_us or max(60_000_000, sum(here.hold_us for here in document.steps) // 100)
    done = tuple(
        _run(document, metrics, truths, units_per_hour * every / HOUR_US, every, np.random.default_rng([seed, number]), longest_us)
        for number in range(runs)
    )
    return Simulation(done, every / 1e6)


class _Counts:
    """Counts of one run, folded up to now. Owned by that run."""

    def __init__(self, document: ExperimentDocument, metrics: Mapping[str, MetricDocument]) -> None:
        self._document, self._metrics = document, metrics
        # Mutable state, changed by `add` alone.
        self.units = dict.fromkeys(sorted(document.arms), 0)
        self._events = {name: dict.fromkeys(self.units, 0) for name in metrics}
        self._past = {name: dict.fromkeys(self.units, 0) for name in metrics}

    def add(self, here: StepDocument, arrivals: int, truths: Mapping[str, Truth], rng: np.random.Generator) -> None:
        exposed = int(rng.binomial(arrivals, here.exposure / WHOLE))
        drawn = rng.multinomial(exposed, [here.shares[arm] / WHOLE for arm in self.units])
        if not here.tested:
            return
        for arm, count in zip(self.units, drawn.tolist(), strict=True):
            self.units[arm] += count
            for name, truth in truths.items():
                rate = truth.control if arm == self._document.control else truth.treatment
                events = int(rng.binomial(count, rate))
                self._events[name][arm] += events
                if self._metrics[name].kind == "latency" and arm != self._document.control and rate > 0:
                    self._past[name][arm] += int(rng.binomial(events, truth.past_margin / rate))

    def evidence(self) -> Evidence:
        found = {
            name: MetricEvidence(dict(self.units), dict(self._events[name]), dict(self._past[name]) if metric.kind == "latency" else None)
            for name, metric in self._metrics.items()
        }
        return Evidence(self._document.experiment, 1, {stage: dict(self.units) for stage in STAGES}, found)


def _run(
    document: ExperimentDocument,
    metrics: Mapping[str, MetricDocument],
    truths: Mapping[str, Truth],
    arrivals_a_look: float,
    every_us: int,
    rng: np.random.Generator,
    longest_us: int,
) -> Run:
    state, _ = apply(document, initial(document, 1), "start", 0, "simulated")
    state = replace(state, approved=tuple(range(len(document.steps))))
    counts = _Counts(document, metrics)
    verdict = Verdict("hold")
    now_us = 0
    while now_us < longest_us:
        now_us += every_us
        counts.add(document.steps[state.step], int(rng.poisson(arrivals_a_look)), truths, rng)
        verdict = judge(document, counts.evidence())
        state, _ = step(document, state, verdict, now_us)
        if state.phase != "running":
            break
    return _ended(document, state, verdict, counts, now_us)


def _ended(document: ExperimentDocument, state: RolloutState, verdict: Verdict, counts: _Counts, now_us: int) -> Run:
    return Run(
        phase=state.phase,
        hours=now_us / HOUR_US,
        treatment_units=sum(count for arm, count in counts.units.items() if arm != document.control),
        harm=verdict.outcome == "harm",
        better=tuple(f"{found.metric} of {found.arm}" for found in verdict.metrics if found.better),
    )


def _metrics(document: ExperimentDocument) -> tuple[MetricDocument, ...]:
    return (*document.guardrails, *((document.goal,) if document.goal is not None else ()))
