"""What a change of configuration does before it does it: which files' meaning changes, and which units would be served by another version.

Pure: takes two manifests and a way to load objects. Who moves is measured, not estimated by formula: a sample of pseudonyms is assigned under
both configurations with every experiment at its first step. Rollouts that are further along move more or fewer; the result says so.

Example:
    changes = plan(old, load_old, new, load_new, sample=10_000)
    [str(change) for change in changes]     # ["experiment credit-ab: changed (steps)", ...]
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from experiments.changes import change_kind
from experiments.document import ExperimentDocument, LiveExperiment
from experiments.ranges import assigner_of
from gateway.documents import Manifest, RouteDocument, SettingsDocument

Load = Callable[[str], bytes]
EMPTY = Manifest(settings="", models={}, experiments={}, policies={})
"""What was in force before the first configuration."""

_MEANING_OF_CHANGE = {
    "none": "same document",
    "continue": "running evidence goes on",
    "epoch": "another assignment: a new epoch with fresh evidence",
    "exploratory": "judged by other rules than it began with: what was learnt so far becomes exploratory",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is different."""

    kind: Literal["settings", "model", "experiment", "policy"]
    name: str
    action: Literal["added", "removed", "changed"]
    fields: tuple[str, ...] = ()
    """Top-level fields of the compiled document that differ; of the steps of an experiment which of theirs."""
    note: str = ""

    def __str__(self) -> str:
        """Return one line for people."""
        fields = f" ({', '.join(self.fields)})" if self.fields else ""
        return f"{self.kind} {self.name}: {self.action}{fields}" + (f"; {self.note}" if self.note else "")


@dataclass(frozen=True, slots=True)
class Movement:
    """How many units of a model would be served by another version."""

    model: str
    moved: int
    sample: int
    by_pair: Mapping[str, int]
    """`3 -> 4` -> units."""


def plan(old: Manifest, load_old: Load, new: Manifest, load_new: Load) -> list[Change]:
    """Return what is different between two configurations, models first."""
    changes: list[Change] = []
    if old.settings != new.settings:
        before = msgspec.json.decode(load_old(old.settings), type=SettingsDocument) if old.settings else None
        changes.append(_changed("settings", "gateway.yaml", before, msgspec.json.decode(load_new(new.settings), type=SettingsDocument)))
    for name, before_digest, after_digest in _different(old.models, new.models):
        changes.append(_compare("model", name, before_digest, after_digest, load_old, load_new, RouteDocument))
    for name, before_digest, after_digest in _different(old.experiments, new.experiments):
        changes.append(_compare("experiment", name, before_digest, after_digest, load_old, load_new, ExperimentDocument))
    for name, before_digest, after_digest in _different(old.policies, new.policies):
        action: Literal["added", "removed", "changed"] = "added" if before_digest is None else "removed" if after_digest is None else "changed"
        changes.append(Change("policy", name, action))
    return changes


def movements(old: Manifest, load_old: Load, new: Manifest, load_new: Load, *, sample: int) -> list[Movement]:
    """Return, for each model that both configurations have and whose routing may differ, how many of `sample` units change version."""
    before, after = _Routing(old, load_old), _Routing(new, load_new)
    found = []
    for model in sorted(set(old.models) & set(new.models)):
        if old.models[model] == new.models[model] and before.digests(model) == after.digests(model):
            continue
        pairs: dict[str, int] = {}
        version_before, version_after = before.router(model), after.router(model)
        for number in range(sample):
            pseudonym = hashlib.sha256(b"assay plan %d" % number).hexdigest()[:32]
            one, other = version_before(pseudonym), version_after(pseudonym)
            if one != other:
                pairs[f"{one} -> {other}"] = pairs.get(f"{one} -> {other}", 0) + 1
        found.append(Movement(model, sum(pairs.values()), sample, dict(sorted(pairs.items()))))
    return found


class _Routing:
    """Who would be served by what under one configuration."""

    def __init__(self, manifest: Manifest, load: Load) -> None:
        self._manifest = manifest
        self._load = load
        self._by_model: dict[str, list[ExperimentDocument]] = {}
        for _, digest in sorted(manifest.experiments.items()):
            document = msgspec.json.decode(load(digest), type=ExperimentDocument)
            self._by_model.setdefault(document.model, []).append(document)

    def digests(self, model: str) -> list[str]:
        return [self._manifest.experiments[document.experiment] for document in self._by_model.get(model, [])]

    def router(self, model: str) -> Callable[[str], str]:
        """Return the function from a pseudonym to the version that serves it, with every experiment at its first step."""
        default = msgspec.json.decode(self._load(self._manifest.models[model]), type=RouteDocument).default_version
        assigners = [(document, assigner_of(document, _first_step(document))) for document in self._by_model.get(model, [])]

        def version(pseudonym: str) -> str:
            for document, assigner in assigners:
                assignment = assigner.assign(pseudonym, ("plan", 0, 0), unit=pseudonym)
                if assignment is None:
                    continue
                if assignment.arm in document.arms:
                    return document.arms[assignment.arm]
                return assignment.versions[0][1]
            return default

        return version


def _first_step(document: ExperimentDocument) -> LiveExperiment:
    step = document.steps[0]
    return LiveExperiment(experiment=document.experiment, epoch=1, phase="running", step=0, exposure=step.exposure, shares=step.shares)


def _different(old: Mapping[str, str], new: Mapping[str, str]) -> list[tuple[str, str | None, str | None]]:
    names = sorted(set(old) | set(new))
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _compare(
    kind: Literal["model", "experiment"], name: str, old: str | None, new: str | None, load_old: Load, load_new: Load, document: type[Any]
) -> Change:
    before = msgspec.json.decode(load_old(old), type=document) if old is not None else None
    after = msgspec.json.decode(load_new(new), type=document) if new is not None else None
    return _changed(kind, name, before, after)


def _changed(kind: Literal["settings", "model", "experiment"], name: str, before: Any, after: Any) -> Change:
    if before is None:
        return Change(kind, name, "added")
    if after is None:
        note = "its units go back to the default version" if kind == "experiment" else "calls to it become 404" if kind == "model" else ""
        return Change(kind, name, "removed", note=note)
    fields = tuple(
        named
        for field in before.__struct_fields__
        if getattr(before, field) != getattr(after, field)
        for named in (_of_steps(before, after) if field == "steps" else (field,))
    )
    return Change(kind, name, "changed", fields, _note(before, after, fields))


def _of_steps(before: ExperimentDocument, after: ExperimentDocument) -> tuple[str, ...]:
    """Return what differs in steps, as the file calls it: an `ab` declares no `steps`, but `exposure` and `split`."""
    if before.strategy != "ab" or after.strategy != "ab":
        return ("steps",)
    old, new = before.steps[0], after.steps[0]
    return tuple("split" if field == "shares" else field for field in old.__struct_fields__ if getattr(old, field) != getattr(new, field))


def _note(before: Any, after: Any, fields: tuple[str, ...]) -> str:
    if isinstance(before, ExperimentDocument):
        return _MEANING_OF_CHANGE[change_kind(before, after)]
    if isinstance(before, RouteDocument) and {"versions", "intended_use", "risk"} & set(fields):
        touched = sorted(
            name for name, version in after.versions.items() if before.versions.get(name) != version or before.intended_use != after.intended_use
        )
        return f"check approvals of version {', '.join(touched)}" if touched else "check approvals"
    return ""
