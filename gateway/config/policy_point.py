"""The decision point `config`: what policies say of each model and experiment before a configuration is in force.

One verdict a file, on its compiled document with every key there, defaults included: a key that were left out would read as undefined, and a
denial on it would never fire. Documents are recognised by their digests, so a change of one file asks about one file.

The input is `input/v1` with `point: "config"`, `env`, `config{kind, name}`, `model` (the compiled `models/*.yaml`, with `name`) and, for an
experiment, `experiment` (the compiled `experiments/*.yaml`). Shares are whole numbers out of 2**32, times are microseconds.

Example:
    verdicts = ConfigPoint().judge(bundle, "staging", {"models/m.yaml": Asked(route, digest)})
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from experiments.document import ExperimentDocument
    from gateway.documents import RouteDocument
    from policies.bundle import PolicyBundle
    from policies.verdict import Verdict

MOST_REASONS: Final = 24
"""Reasons that a record of a change carries."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One file, compiled."""

    route: RouteDocument
    digest: str
    """Of everything the verdict rests on."""
    experiment: ExperimentDocument | None = None


class ConfigPoint:
    """Remembers verdicts from one reading of the folder to the next. Owned by the compiler."""

    def __init__(self, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Start with nothing remembered; `clock_ns` is what policies see as `time.now_ns()`."""
        self._clock_ns = clock_ns
        self._remembered: dict[tuple[str, ...], Verdict] = {}  # replaced whole by `judge`

    def judge(self, bundle: PolicyBundle, environment: str, asked: Mapping[str, Asked]) -> dict[str, Verdict]:
        """Return the verdict on every file, by its path; nothing where no package is asked at `config`."""
        policies = bundle.at("config")
        if not policies.packages:
            self._remembered = {}
            return {}
        digests = (*bundle.record.values(), environment)
        remembered: dict[tuple[str, ...], Verdict] = {}
        verdicts: dict[str, Verdict] = {}
        for path, one in asked.items():
            key = (*digests, path, one.digest)
            verdict = None if policies.reads_clock else self._remembered.get(key)
            if verdict is None:
                verdict = policies.about(one.route.model).evaluate(config_document(environment, one), self._clock_ns())
            verdicts[path] = verdict
            if verdict.is_settled:  # what failed may succeed the next time
                remembered[key] = verdict
        self._remembered = remembered
        return verdicts


def config_document(environment: str, one: Asked) -> dict[str, Any]:
    """Return the policy input of one file."""
    document: dict[str, Any] = {
        "schema": "input/v1",
        "point": "config",
        "env": environment,
        "config": {"kind": "model", "name": one.route.model},
        "model": {**_whole(one.route), "name": one.route.model},
    }
    if one.experiment is not None:
        document["config"] = {"kind": "experiment", "name": one.experiment.experiment}
        document["experiment"] = _whole(one.experiment)
    return document


def _whole(value: Any) -> Any:
    """Return a document as plain values with every field there, also those that have their default; what is unset is left out."""
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return {name: _whole(item) for name, item in fields.items() if item is not msgspec.UNSET}
    if isinstance(value, Mapping):
        return {str(name): _whole(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_whole(item) for item in value]
    return value


def refusals(verdicts: Mapping[str, Verdict]) -> list[tuple[str, str]]:
    """Return path and message of everything that is refused."""
    return [
        (path, f"policy `{reason['package']}` refuses this: {reason['id']} {reason['msg']}")
        for path, verdict in verdicts.items()
        if not verdict.allowed
        for reason in verdict.reasons
        if reason["mode"] == "enforce"
    ]


def told(verdicts: Mapping[str, Verdict]) -> dict[str, Any] | None:
    """Return what a record of the change tells of the verdicts; None where nobody was asked."""
    if not verdicts:
        return None
    reasons = [{**reason, "file": path} for path, verdict in sorted(verdicts.items()) for reason in verdict.reasons]
    decision = "allow_with_warnings" if any(verdict.decision == "allow_with_warnings" for verdict in verdicts.values()) else "allow"
    document: dict[str, Any] = {"decision": decision, "asked": len(verdicts)}
    if reasons:
        document["reasons"] = reasons[:MOST_REASONS]
        document["reasons_told_of"] = len(reasons)
    return document
