"""What is configured, compiled: one immutable value that a call pins for its whole life.

The controller publishes documents by digest; a worker builds a `Snapshot` beside the old one and swaps one reference, so no call ever sees two
configurations. What did not change is taken over from the previous snapshot: a change of one model compiles one route.

Example::

    snapshot = Snapshot.build(current.manifest, control.get, previous=old)
    route = snapshot.targets["/v2/models/credit-risk/infer"].route
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from experiments.document import ExperimentDocument
from experiments.wording import recorded_forms
from gateway.capture import Plan
from gateway.documents import Manifest, RouteDocument, SettingsDocument, VersionDocument, decode
from gateway.endpoints import Replicas
from gateway.protocols import v2
from gateway.protocols.contract import Check, compile_contract
from gateway.protocols.http import Serves
from gateway.protocols.pointer import compile_pointer
from gateway.usage import Meter
from policies.bundle import PolicyBundle

Load = Callable[[str], bytes]
"""Gives the bytes stored under a digest."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model: its document and its replicas."""

    model: str
    document: VersionDocument
    replicas: Replicas
    record: dict[str, str]
    """The `model` object of records."""

    @property
    def name(self) -> str:
        """Return the version's name."""
        return self.document.name


@dataclass(frozen=True, slots=True)
class Route:
    """One model file, compiled."""

    document: RouteDocument
    digest: str
    versions: Mapping[str, Version]
    default: Version
    contract: Check | None
    unit: Callable[[Any], Any] | None
    prediction: Callable[[Any], Any] | None
    score: Callable[[Any], Any] | None
    deadline_s: float
    serves: Serves
    """Paths of an `http` model."""
    plan: Plan | None = None
    """What of a call goes into the vault; None where nothing does."""
    plans: Mapping[str, Plan] = field(default_factory=dict)
    """What goes there instead, by tenant."""
    classes: Mapping[str, str] = field(default_factory=dict)
    """Declared classes that are no names -> the names they are recorded under."""
    meter: Meter | None = None
    """How tokens and cost are read; None where a model's file says nothing of them."""
    reads_reply: bool = field(init=False)
    """Whether anything is captured from replies."""
    reads_outcome: bool = field(init=False)
    """Whether prediction or score is read from replies."""
    captures_reply: bool = field(init=False)
    """Whether anything of a reply may go into the vault."""

    @property
    def model(self) -> str:
        """Return the model's name."""
        return self.document.model

    def __post_init__(self) -> None:
        """Work out what every call asks."""
        captures = self.plan is not None and any(plan.reads_reply for plan in (self.plan, *self.plans.values()))
        reads = self.prediction is not None or self.score is not None
        for name, value in (("captures_reply", captures), ("reads_outcome", reads), ("reads_reply", reads or captures)):
            object.__setattr__(self, name, value)  # frozen from here on


@dataclass(frozen=True, slots=True)
class Target:
    """What a path of the front door leads to."""

    route: Route
    pinned: str | None
    upstream_path: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One configuration in force."""

    config_digest: str
    manifest: Manifest
    settings: SettingsDocument
    routes: Mapping[str, Route]
    experiments: Mapping[str, ExperimentDocument]
    by_model: Mapping[str, tuple[ExperimentDocument, ...]]
    """Experiments of each model, in the order of their names."""
    shadows: Mapping[str, ExperimentDocument]
    """Those that mirror calls instead of splitting them, by name."""
    targets: Mapping[str, Target]
    """v2 inference path -> where it leads."""
    policies: PolicyBundle
    classes: Mapping[str, str]
    """Declared classes of all models that are no names -> the names they are recorded under. The name follows from the class alone."""

    @property
    def judging(self) -> tuple[Mapping[str, str], int]:
        """Return what policies are put in force with, beside their texts."""
        return (self.settings.modes, self.settings.policy_budget_us)

    @classmethod
    def build(cls, config_digest: str, load: Load, previous: Snapshot | None = None) -> Snapshot:
        """Compile a manifest.

        Args:
            config_digest: digest of the manifest.
            load: gives the bytes of a digest.
            previous: the snapshot before; unchanged parts are taken from it.

        Raises:
            ValueError: an object is not the document it should be.
            policies.bundle.BundleError: a policy cannot be enforced.
        """
        manifest = msgspec.json.decode(load(config_digest), type=Manifest)
        old = None if previous is None else previous.manifest
        if previous is not None and old is not None and old.settings == manifest.settings:
            settings = previous.settings
        else:
            settings = decode(load(manifest.settings), SettingsDocument)
        judging = (settings.modes, settings.policy_budget_us)
        if previous is not None and previous.manifest.policies == manifest.policies and previous.judging == judging:
            policies = previous.policies
        else:
            texts = {path: load(digest).decode() for path, digest in manifest.policies.items()}
            policies = PolicyBundle.load(texts, settings.modes, settings.policy_budget_us / 1e6)
        routes, targets = _routes(manifest, load, previous)
        experiments, by_model = _experiments(manifest, load, previous)
        shadows = _shadows(manifest, experiments, previous)
        classes = {text: form for route in routes.values() for text, form in route.classes.items()}
        return cls(config_digest, manifest, settings, routes, experiments, by_model, shadows, targets, policies, classes)


def _routes(manifest: Manifest, load: Load, previous: Snapshot | None) -> tuple[dict[str, Route], dict[str, Target]]:
    """Compile what changed among the models; everything else is taken over as it is."""
    routes = {} if previous is None else dict(previous.routes)
    targets = {} if previous is None else dict(previous.targets)
    old = {} if previous is None else previous.manifest.models
    for model in {model for model, _ in old.items() ^ manifest.models.items()}:
        gone = routes.pop(model, None)
        for path in () if gone is None else _targets(gone):
            del targets[path]
        digest = manifest.models.get(model)
        if digest is not None:
            routes[model] = route = compile_route(digest, load(digest))
            targets.update(_targets(route))
    return routes, targets


def _experiments(
    manifest: Manifest, load: Load, previous: Snapshot | None
) -> tuple[dict[str, ExperimentDocument], dict[str, tuple[ExperimentDocument, ...]]]:
    """Read what changed among the experiments, and group anew those of the models concerned, in the order of their names."""
    experiments = {} if previous is None else dict(previous.experiments)
    by_model = {} if previous is None else dict(previous.by_model)
    old = {} if previous is None else previous.manifest.experiments
    moved: dict[str, set[str]] = {}
    for name in {name for name, _ in old.items() ^ manifest.experiments.items()}:
        gone = experiments.pop(name, None)
        if gone is not None:
            moved.setdefault(gone.model, set())
        digest = manifest.experiments.get(name)
        if digest is not None:
            experiments[name] = document = msgspec.json.decode(load(digest), type=ExperimentDocument)
            moved.setdefault(document.model, set()).add(name)
    for model, fresh in moved.items():
        kept = {document.experiment for document in by_model.get(model, ()) if document.experiment in experiments}
        names = sorted(name for name in kept | fresh if experiments[name].model == model)
        by_model[model] = tuple(experiments[name] for name in names)
        if not names:
            del by_model[model]
    return experiments, by_model


def _shadows(manifest: Manifest, experiments: Mapping[str, ExperimentDocument], previous: Snapshot | None) -> dict[str, ExperimentDocument]:
    """Find the shadows, looking only at what changed."""
    shadows = {} if previous is None else dict(previous.shadows)
    old = {} if previous is None else previous.manifest.experiments
    for name in {name for name, _ in old.items() ^ manifest.experiments.items()}:
        shadows.pop(name, None)
        document = experiments.get(name)
        if document is not None and document.shadow is not None:
            shadows[name] = document
    return shadows


def compile_route(digest: str, data: bytes) -> Route:
    """Compile one model document."""
    document = decode(data, RouteDocument)
    versions = {
        name: Version(
            document.model,
            version,
            Replicas(version.upstreams, document.balance),
            {"name": document.model, "version": name, "digest": version.digest},
        )
        for name, version in document.versions.items()
    }
    capture = document.capture
    return Route(
        document=document,
        digest=digest,
        versions=versions,
        default=versions[document.default_version],
        contract=compile_contract(document.inputs, document.unknown_inputs),
        unit=None if document.unit_pointer is None else compile_pointer(document.unit_pointer),
        prediction=None if capture.prediction is None else compile_pointer(capture.prediction),
        score=None if capture.score is None else compile_pointer(capture.score),
        deadline_s=document.deadline_us / 1e6,
        serves=Serves(document.serves),
        plan=None if capture.vault is None else Plan.of(capture.vault),
        plans={tenant: Plan.of(own) for tenant, own in capture.vault_tenants.items()},
        classes=recorded_forms(capture.classes),
        meter=Meter.of(capture, document.currency),
    )


def _targets(route: Route) -> dict[str, Target]:
    if route.document.protocol != "v2":
        return {}
    path = v2.upstream_path(route.model)
    targets = {f"/v2/models/{route.model}/infer": Target(route, None, path)}
    for version in route.versions:
        targets[f"/v2/models/{route.model}/versions/{version}/infer"] = Target(route, version, path)
    return targets
