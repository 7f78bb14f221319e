"""Writes Assay configurations of any size: one model for the lane, thousands for scale.

Rules: same arguments, same bytes; nothing but files under `config/` is written, so keys and trust of `assay init` stay as they are.

Example:
    write_configuration(folder, Shape(front_port=8080, admin_port=8081, workers=1, upstream_port=9001))
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import MODEL


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a configuration is and where it points."""

    front_port: int
    admin_port: int
    workers: int
    upstream_port: int
    origin: str = "bench.example/log"
    """Origin of the log: the one its key was made for."""
    split: bool = False
    """A 50/50 A/B experiment between two versions of the measured model."""
    audit: str = "batch"
    schema: bool = False
    """A schema contract on the measured model."""
    policies_off: tuple[str, ...] = ()
    """Policy packages switched off."""
    more_models: int = 0
    versions_per_model: int = 3
    more_experiments: int = 0


def digest_of(model: str, version: str) -> str:
    """Return the declared digest of a generated version."""
    return "sha256:" + hashlib.sha256(f"{model}/{version}".encode()).hexdigest()


def write_configuration(folder: Path, shape: Shape) -> None:
    """Write `config/` under `folder`.

    Args:
        folder: the deployment; made if missing.
        shape: what to write.
    """
    config = folder / "config"
    for part in ("models", "experiments", "policies"):
        (config / part).mkdir(parents=True, exist_ok=True)
        for old in (config / part).glob("*.yaml"):
            old.unlink()
    (config / "gateway.yaml").write_text(gateway_file(shape))
    modes = "".join(f"  {package}: off\n" for package in shape.policies_off)
    (config / "policies" / "modes.yaml").write_text(f"modes:\n{modes}" if modes else "modes: {}\n")
    (config / "models" / f"{MODEL}.yaml").write_text(model_file(MODEL, 2, shape.upstream_port, audit=shape.audit, schema=shape.schema))
    if shape.split:
        (config / "experiments" / "bench-split.yaml").write_text(experiment_file("bench-split", MODEL))
    write_more(config, shape)


def write_more(config: Path, shape: Shape) -> None:
    """Write the models and experiments that stand beside the measured one.

    Experiments of one model share its layer, each on slots of its own, as many teams' experiments on one model would.
    """
    names = [f"model-{number:05d}" for number in range(shape.more_models)]
    for name in names:
        text = model_file(name, shape.versions_per_model, shape.upstream_port, audit=shape.audit)
        (config / "models" / f"{name}.yaml").write_text(text)
    if not shape.more_experiments or not names:
        return
    per_model = -(-shape.more_experiments // len(names))
    width = 1000 // per_model
    for number in range(shape.more_experiments):
        model, place = names[number % len(names)], number // len(names)
        name = f"experiment-{number:05d}"
        slots = f"{place * width}-{(place + 1) * width - 1}"
        (config / "experiments" / f"{name}.yaml").write_text(experiment_file(name, model, slots))
    layers = "".join(f"  layer-{name}: {{slots: 1000}}\n" for name in names)
    (config / "experiments" / "_layers.yaml").write_text(f"layers:\n{layers}")


def gateway_file(shape: Shape) -> str:
    """Return `gateway.yaml`."""
    return f"""environment: development
front: {{bind: "127.0.0.1:{shape.front_port}", workers: {shape.workers}}}
admin: {{bind: "127.0.0.1:{shape.admin_port}"}}
audit: {{origin: "{shape.origin}", key: "file:keys/log.key"}}
"""


def model_file(name: str, versions: int, upstream_port: int, *, audit: str = "batch", schema: bool = False) -> str:
    """Return a model's file: low risk, `versions` versions at one upstream."""
    entries = "".join(
        f'  "{v}": {{upstreams: ["http://127.0.0.1:{upstream_port}"], digest: "{digest_of(name, str(v))}", '
        f"stage: {'production' if v == 1 else 'candidate'}}}\n"
        for v in range(1, versions + 1)
    )
    inputs = "".join(f"    {field}: {{type: number, min: 0}}\n" for field in ("income", "debt", "age_days"))
    contract = f"schema:\n  inputs:\n{inputs}" if schema else ""
    return f"""model: {name}
protocol: v2
owner: benchmark
intended_use: measuring the gateway
risk: low
versions:
{entries}default_version: "1"
audit: {audit}
{contract}capture: {{prediction: /outputs/0/data/0, score: /outputs/1/data/0}}
"""


def experiment_file(name: str, model: str, slots: str | None = None) -> str:
    """Return a 50/50 A/B experiment, optionally on slots of the model's layer."""
    layer = f'layer: {{name: layer-{model}, slots: "{slots}"}}\n' if slots else ""
    return f"""experiment: {name}
strategy: ab
model: {model}
arms: {{control: {{version: "1"}}, treatment: {{version: "2"}}}}
split: {{control: 50%, treatment: 50%}}
{layer}"""
