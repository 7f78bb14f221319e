"""`experiments/*.yaml` as the compiler needs them: read one by one, then checked and compiled against models and one another.

What an experiment may say is defined by `experiments/config.py`, what is wrong between files by `experiments/compiler.py`; here are lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from experiments.checks import ModelFacts, check
from experiments.compiler import compile_experiment
from experiments.config import STRATEGIES, AbFile, AnyExperimentFile, BlueGreenFile, CanaryFile, ChampionChallengerFile, ShadowFile
from experiments.document import ExperimentDocument, MetricSource
from experiments.shared_files import LayersFile, MetricsFile
from gateway.config.issues import Issue, allowed, nearest
from gateway.config.model_file import Found
from gateway.config.tree import read_tree
from gateway.config.validate import validate
from gateway.documents import RouteDocument

AnyExperiment = AnyExperimentFile
LAYERS: Final = "experiments/_layers.yaml"
METRICS: Final = "experiments/_metrics.yaml"
KINDS: Final[Mapping[str, type[AnyExperiment]]] = {
    "ab": AbFile,
    "canary": CanaryFile,
    "shadow": ShadowFile,
    "blue_green": BlueGreenFile,
    "champion_challenger": ChampionChallengerFile,
}


def read_experiment(data: bytes, path: str) -> tuple[AnyExperiment | None, list[Issue]]:
    """Return one experiment file, or what is wrong with it by itself."""
    tree, issues = read_tree(data, path)
    if issues:
        return None, issues
    strategy = tree.value.get("strategy") if isinstance(tree.value, dict) else None
    kind = KINDS.get(strategy) if isinstance(strategy, str) else None
    if kind is None:
        said = f"`{strategy}` is not built in this release" if strategy is not None else "is missing"
        return None, [tree.issue(("strategy",), f"{said}; {allowed(STRATEGIES)}{nearest(str(strategy), STRATEGIES)}")]
    file, issues = validate(tree, kind)
    if file is not None and file.experiment != Path(path).stem:
        issues = [tree.issue(("experiment",), f"`{file.experiment}` must be the name of its file: rename the file to `{file.experiment}.yaml`")]
    return file, issues


def read_layers(data: bytes, path: str) -> tuple[LayersFile | None, list[Issue]]:
    """Return `_layers.yaml`, or what is wrong with it."""
    tree, issues = read_tree(data, path)
    return (None, issues) if issues else validate(tree, LayersFile)


def read_metrics(data: bytes, path: str) -> tuple[MetricsFile | None, list[Issue]]:
    """Return `_metrics.yaml`, or what is wrong with it."""
    tree, issues = read_tree(data, path)
    return (None, issues) if issues else validate(tree, MetricsFile)


def facts_of(route: RouteDocument) -> ModelFacts:
    """Return what experiments need to know of a model."""
    counted: set[MetricSource] = {"input_tokens"} if route.capture.input_tokens else set()
    counted |= {"output_tokens"} if route.capture.output_tokens else set()
    counted |= {"tokens"} if counted else set()
    counted |= {"cost"} if route.currency else set()
    return ModelFacts(
        versions=frozenset(route.versions),
        default_version=route.default_version,
        has_labels=route.capture.prediction is not None,
        usage=frozenset(counted),
        currency=route.currency,
        labels_seen_when=route.labels_observed_when,
    )


def rivals(experiments: Iterable[AnyExperiment]) -> dict[str, tuple[AnyExperiment, ...]]:
    """Return, by experiment, the others of its model it has to be compared with.

    Comparing all pairs of a model would cost 10,000 experiments a minute. Sorted by layer and first slot it is enough to look at the
    experiment of the same layer that reaches furthest so far, and at one outside the layer: if anything clashes, at least one of
    each clashing pair is told. A shadow splits nothing; it is compared with the experiment that it starts.
    """
    found: dict[str, tuple[AnyExperiment, ...]] = {}
    by_model: dict[str, list[AnyExperiment]] = {}
    by_name = {experiment.experiment: experiment for experiment in experiments}
    for experiment in by_name.values():
        if isinstance(experiment, ShadowFile):
            follower = by_name.get(experiment.then.start) if experiment.then else None
            found[experiment.experiment] = () if follower is None else (follower,)
        else:
            by_model.setdefault(experiment.model, []).append(experiment)
    for group in by_model.values():
        group.sort(key=lambda item: (_layer(item), item.layer.slots.first if item.layer else 0, item.experiment))
        furthest: AnyExperiment | None = None
        for experiment in group:
            others = [group[0]] if _layer(group[0]) != _layer(experiment) else []
            if furthest is not None and _layer(furthest) == _layer(experiment):
                others.append(furthest)
            found[experiment.experiment] = tuple(others)
            if furthest is None or _layer(furthest) != _layer(experiment) or _last(experiment) > _last(furthest):
                furthest = experiment
    for experiment in by_name.values():
        if isinstance(experiment, BlueGreenFile) and experiment.verify is not None and experiment.verify.shadow in by_name:
            found[experiment.experiment] = (*found[experiment.experiment], by_name[experiment.verify.shadow])
    return found


def _layer(experiment: AnyExperiment) -> str:
    return experiment.layer.name if experiment.layer else ""


def _last(experiment: AnyExperiment) -> int:
    return experiment.layer.slots.last if experiment.layer else 0


def across(
    file: AnyExperiment,
    models: Mapping[str, RouteDocument],
    others: Iterable[AnyExperiment],
    layers: LayersFile | None,
    metrics: MetricsFile | None,
) -> tuple[ExperimentDocument | None, Found]:
    """Check one experiment against the rest of the configuration and compile it.

    Args:
        file: the experiment.
        models: the model it names, by name; empty when there is none.
        others: see `rivals`.
        layers: `_layers.yaml`, if there.
        metrics: `_metrics.yaml`, if there.
    """
    layers, metrics = layers or LayersFile(), metrics or MetricsFile()
    facts = {name: facts_of(route) for name, route in models.items()}
    faults = [(fault.path, fault.message) for fault in check(file, models=facts, others=others, layers=layers, metrics=metrics)]
    if faults:
        return None, faults
    return compile_experiment(file, layers, metrics, facts[file.model]), []
