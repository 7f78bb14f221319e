"""What is wrong with an experiment beside the rest of the configuration: its model, its metrics, its layer, the other experiments.

A file alone is checked by its own model (`experiments/config.py`); whether anybody approved its versions is asked when it starts.

Example:
    >>> check(file, models={"credit-risk": ModelFacts({"3", "4"}, "3")}, others=[])
    []
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from experiments.config import AbFile, AnyExperimentFile, BlueGreenFile, CanaryFile, ChampionChallengerFile, ShadowFile
from experiments.document import USAGE_SOURCES, MetricSource
from experiments.parts import LATENCY_NAME
from experiments.quantities import MarginValue
from experiments.shared_files import BUILT_IN, NO_LAYERS, NO_METRICS, LayersFile, MetricDeclaration, MetricsFile

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an experiment file; the loader turns `path` into line and column."""

    path: KeyPath
    message: str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What an experiment needs to know of its model."""

    versions: frozenset[str]
    default_version: str
    has_labels: bool = True
    """Whether the route captures a prediction that labels can be compared with."""
    usage: frozenset[MetricSource] = frozenset()
    """What its file says how to read of a reply: `tokens`, `input_tokens`, `output_tokens`, `cost`."""
    currency: str = ""
    """Of its prices."""
    labels_seen_when: str | None = None
    """Its `labels.observed_when`: labels come for some calls only."""


def check(
    file: AnyExperimentFile,
    *,
    models: Mapping[str, ModelFacts],
    others: Iterable[AnyExperimentFile] = (),
    layers: LayersFile = NO_LAYERS,
    metrics: MetricsFile = NO_METRICS,
) -> list[Fault]:
    """Check a file against the rest of the configuration.

    Args:
        file: the experiment.
        models: model -> what is known of it.
        others: the other experiments.
        layers: `_layers.yaml`.
        metrics: `_metrics.yaml`.

    Returns:
        Faults in the order of the file's keys; empty if it can be compiled.
    """
    model = models.get(file.model)
    faults: list[Fault] = []
    if model is None:
        faults.append(Fault(("model",), f"unknown model `{file.model}`; allowed: {listed(models)}"))
    else:
        faults += _version_faults(file, model)
    faults += _metric_faults(file, model, metrics)
    faults += [] if model is None else _usage_faults(file, model, metrics)
    faults += _time_faults(file)
    faults += _layer_faults(file, layers)
    if isinstance(file, ShadowFile):
        return faults + _mirrored_faults(file, model, metrics) + _person_faults(file) + _follower_faults(file, others)
    if isinstance(file, BlueGreenFile):
        faults += _verify_faults(file, others)
    for other in others:
        if not isinstance(other, ShadowFile):
            faults += _conflicts(file, other)
    return faults


def _version_faults(file: AnyExperimentFile, model: ModelFacts) -> list[Fault]:
    faults = [
        Fault(
            ("arms", name, "version"),
            f"model `{file.model}` has no version `{arm.version}`; allowed: {listed(model.versions)}",
        )
        for name, arm in file.arms.items()
        if arm.version and arm.version not in model.versions
    ]
    if isinstance(file, BlueGreenFile):
        if file.arms["blue"].version != model.default_version:
            said = f"blue must be the model's `default_version` `{model.default_version}`, which serves everyone before the switch"
            faults.append(Fault(("arms", "blue", "version"), said))
        if file.arms["blue"].version == file.arms["green"].version:
            faults.append(Fault(("arms", "green", "version"), "blue and green are the same version"))
    if isinstance(file, CanaryFile | ChampionChallengerFile | ShadowFile):
        rival = "shadow" if isinstance(file, ShadowFile) else "challenger"
        if not file.arms["champion"].version:
            return faults  # a person: any version may be compared with them, the default too
        if file.arms["champion"].version != model.default_version:
            faults.append(
                Fault(
                    ("arms", "champion", "version"),
                    f"the champion must be the model's `default_version` `{model.default_version}`, which serves everyone who is not exposed",
                )
            )
        if file.arms["champion"].version == file.arms[rival].version:
            faults.append(Fault(("arms", rival, "version"), f"champion and {rival} are the same version"))
    return faults


def _metric_faults(file: AnyExperimentFile, model: ModelFacts | None, metrics: MetricsFile) -> list[Fault]:
    used: list[tuple[KeyPath, str, KeyPath, MarginValue]] = [
        (("guardrails", name), name, ("guardrails", name, "max_harm"), guardrail.max_harm) for name, guardrail in file.guardrails.items()
    ]
    if file.goal is not None:
        used.append((("goal", "metric"), file.goal.metric, ("goal", "margin"), file.goal.margin))
    faults: list[Fault] = []
    for path, name, margin_path, margin in used:
        if LATENCY_NAME.match(name) is not None:
            if margin.unit == "pp":
                faults.append(Fault(margin_path, f"`{name}` is a latency: write its margin as `10%` or `20ms`, not in pp"))
            continue
        if name not in BUILT_IN and name not in metrics.metrics:
            known = [*BUILT_IN, "p50_ms", "p95_ms", "p99_ms", *metrics.metrics]
            faults.append(Fault(path, f"unknown metric `{name}`; allowed: {listed(known)}, or declare it in `_metrics.yaml`"))
            continue
        declared = None if name in BUILT_IN else metrics.metrics[name]
        if declared is not None and declared.type != "proportion":
            faults += _value_faults(name, declared, metrics, path, margin_path, margin)
            continue
        is_label = declared.source == "labels" if declared is not None else BUILT_IN[name][0] == "label"
        better = BUILT_IN[name][1] if declared is None else declared.better
        faults += [Fault(margin_path, said) for said in _rate_margin_faults(name, margin, better)]
        if model is not None and not model.has_labels and is_label:
            faults.append(Fault(path, f"`{name}` compares labels with predictions; model `{file.model}` captures none (`capture.prediction`)"))
    return faults


def _usage_faults(file: AnyExperimentFile, model: ModelFacts, metrics: MetricsFile) -> list[Fault]:
    """What metrics need to be read of replies, and the model's file does not say how."""
    used: dict[str, KeyPath] = {name: ("guardrails", name) for name in file.guardrails}
    if file.goal is not None:
        used.setdefault(file.goal.metric, ("goal", "metric"))
    faults = []
    for name, path in used.items():
        declared = metrics.metrics.get(name)
        below = None if declared is None or declared.per is None else metrics.metrics.get(declared.per)
        for source in dict.fromkeys(one.source for one in (declared, below) if one is not None):
            if source in USAGE_SOURCES - model.usage:
                where = "`cost`" if source == "cost" else f"`capture.usage.{source}`" if source != "tokens" else "`capture.usage`"
                faults.append(Fault(path, f"`{name}` is made `from: {source}`, and the file of model `{file.model}` has no {where}"))
    return faults


def _rate_margin_faults(name: str, margin: MarginValue, better: str) -> list[str]:
    if margin.unit == "pp" and margin.amount >= 1_000_000:
        return [f"no rate can get worse by {margin.amount / 1e4:g}pp: every challenger would pass; write less than `100pp`"]
    if margin.unit == "ms":
        return [f"`{name}` is a rate: write its margin as `0.5pp`, not in ms"]
    if margin.unit == "%" and better == "higher":
        return [f"`{name}` is better when higher: write its margin in pp, a relative one is ambiguous"]
    return []


def _value_faults(
    name: str, declared: MetricDeclaration, metrics: MetricsFile, path: KeyPath, margin_path: KeyPath, margin: MarginValue
) -> list[Fault]:
    faults = []
    may_be_ms = declared.source == "latency" and declared.type == "quantile"
    if margin.unit == "pp" or (margin.unit == "ms" and not may_be_ms):
        wanted = "`10%` or `20ms`" if may_be_ms else "`2%`"
        faults.append(Fault(margin_path, f"`{name}` is a {declared.type}: write its margin relative to the control's, {wanted}"))
    if margin.unit == "%" and margin.amount >= 1_000_000 and declared.better == "higher":
        faults.append(Fault(margin_path, f"`{name}` would be nothing at all when it is worse by {margin.amount / 1e4:g}%; write less than `100%`"))
    if declared.per is not None:
        below = metrics.metrics.get(declared.per)
        if below is None:
            faults.append(Fault(path, f"`{name}` is per `{declared.per}`, which `_metrics.yaml` does not declare"))
        elif below.type not in ("mean", "count"):
            faults.append(Fault(path, f"`{name}` is per `{declared.per}`, a {below.type}; a ratio is per a mean or a count"))
    return faults


def _time_faults(file: AnyExperimentFile) -> list[Fault]:
    if isinstance(file, ShadowFile) and file.deadline.after <= file.hold:
        return [Fault(("deadline", "after"), f"the deadline passes before the hold of {_hours(file.hold)} is over")]
    if not isinstance(file, CanaryFile):
        return []
    faults = []
    held_us = sum(step.hold for step in file.steps)
    if file.deadline.after <= held_us:
        faults.append(
            Fault(
                ("deadline", "after"),
                f"the deadline of {_hours(file.deadline.after)} passes before the steps are through: their holds alone take {_hours(held_us)}",
            )
        )
    if file.steps[0].share > Fraction(1, 2):
        faults.append(
            Fault(("steps", 0, "share"), "the first step must be at most 50%: above it arms are not compared, so nothing would ever be proven")
        )
    if file.breaker is None:
        faults += [
            Fault(("steps", number, "share"), "a step above 50% is watched, not tested, and needs a `breaker`")
            for number, step in enumerate(file.steps)
            if step.share > Fraction(1, 2)
        ]
    return faults


def _layer_faults(file: AnyExperimentFile, layers: LayersFile) -> list[Fault]:
    faults = []
    if file.layer is not None:
        declared = layers.layers.get(file.layer.name)
        if declared is None:
            faults.append(Fault(("layer", "name"), f"unknown layer `{file.layer.name}`; allowed: {listed(layers.layers)}"))
        elif file.layer.slots.last >= declared.slots:
            faults.append(Fault(("layer", "slots"), f"layer `{file.layer.name}` has slots 0-{declared.slots - 1}"))
    if file.holdout is not None:
        holdout = layers.holdouts.get(file.holdout)
        if holdout is None:
            faults.append(Fault(("holdout",), f"unknown holdout `{file.holdout}`; allowed: {listed(layers.holdouts)}"))
        elif holdout.model != file.model:
            faults.append(Fault(("holdout",), f"holdout `{file.holdout}` is of model `{holdout.model}`, not `{file.model}`"))
    return faults


def _mirrored_faults(file: ShadowFile, model: ModelFacts | None, metrics: MetricsFile) -> list[Fault]:
    """Guardrails that cannot be seen in pairs of replies, and a budget of what nobody has priced."""
    faults = []
    for name in sorted(file.guardrails):
        declared = metrics.metrics.get(name)
        is_known = name == "errors" or LATENCY_NAME.match(name) is not None or (declared is None and name not in BUILT_IN)
        if not is_known and (declared is None or declared.type != "mean" or declared.source not in USAGE_SOURCES or declared.better != "lower"):
            said = "a shadow's guardrails are `errors`, latencies such as `p95_ms`, and means `from` tokens or cost that are better when lower"
            faults.append(Fault(("guardrails", name), f"`{name}` cannot be seen in mirrored calls; {said}"))
    if file.budget.cost_per_day is not None and model is not None and "cost" not in model.usage:
        faults.append(Fault(("budget", "cost_per_day"), f"the file of model `{file.model}` has no `cost`: nobody knows what a call costs"))
    return faults


def _person_faults(file: ShadowFile) -> list[Fault]:
    """What a person as champion needs and what makes no sense of one."""
    if not file.arms["champion"].person:
        return [] if file.decided_within is None else [Fault(("decided_within",), "only a `person` as champion decides later; leave it out")]
    faults = []
    if file.decided_within is None:
        faults.append(Fault(("arms", "champion"), "people decide later: say by when with `decided_within`, for example `decided_within: 3d`"))
    elif file.deadline.after <= file.decided_within:
        faults.append(Fault(("deadline", "after"), "the deadline passes before the first call may have been decided (`decided_within`)"))
    if len(file.compare) != 1 or next(iter(file.compare.values())).kind != "label":
        faults.append(Fault(("compare",), "a person's decision is one word: compare one part, of `kind: label`"))
    faults += [
        Fault(("guardrails", name), f"`{name}` cannot be compared with a person; the guardrail here is `errors`")
        for name in sorted(file.guardrails)
        if name != "errors"
    ]
    return faults


def _follower_faults(file: ShadowFile, others: Iterable[AnyExperimentFile]) -> list[Fault]:
    if file.then is None:
        return []
    follower = next((other for other in others if other.experiment == file.then.start), None)
    if follower is None:
        return [Fault(("then", "start"), f"there is no experiment `{file.then.start}`")]
    if follower.model != file.model:
        return [Fault(("then", "start"), f"experiment `{follower.experiment}` is of model `{follower.model}`, not `{file.model}`")]
    if follower.start != "manual" or isinstance(follower, ShadowFile):
        return [Fault(("then", "start"), f"experiment `{follower.experiment}` must be a draft that splits calls: `start: manual`, and not a shadow")]
    return []


def _verify_faults(file: BlueGreenFile, others: Iterable[AnyExperimentFile]) -> list[Fault]:
    if file.verify is None:
        return []
    place = ("verify", "shadow")
    shadow = next((other for other in others if other.experiment == file.verify.shadow), None)
    if not isinstance(shadow, ShadowFile) or shadow.model != file.model:
        return [Fault(place, f"there is no shadow `{file.verify.shadow}` of model `{file.model}`")]
    if (shadow.arms["champion"].version, shadow.arms["shadow"].version) != (file.arms["blue"].version, file.arms["green"].version):
        return [Fault(place, f"shadow `{shadow.experiment}` compares other versions than blue and green")]
    return []


def _conflicts(file: AnyExperimentFile, other: AnyExperimentFile) -> list[Fault]:
    if other.experiment == file.experiment:
        return [Fault(("experiment",), f"another file also declares experiment `{file.experiment}`")]
    if other.model != file.model or isinstance(other, ShadowFile):
        return []  # a shadow splits nothing
    for one in (file, other):
        if isinstance(one, AbFile) and one.external is not None:
            said = f"experiment `{other.experiment}` also splits `{file.model}`; one that another system assigns has the model for itself"
            return [Fault(("model",), said)]
    mine, theirs = file.layer, other.layer
    if mine is None or theirs is None or mine.name != theirs.name:
        return [
            Fault(
                ("layer",) if mine is not None else ("model",),
                f"experiment `{other.experiment}` also splits `{file.model}`; put both into one layer with different slots",
            )
        ]
    if mine.slots.first <= theirs.slots.last and theirs.slots.first <= mine.slots.last:
        return [
            Fault(
                ("layer", "slots"),
                f"slots {mine.slots.first}-{mine.slots.last} overlap {theirs.slots.first}-{theirs.slots.last} of experiment `{other.experiment}`",
            )
        ]
    return []


def _hours(duration_us: int) -> str:
    return f"{duration_us / 3_600_000_000:g}h"


def listed(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(f"`{name}`" for name in found[:24]) or "none is declared"
