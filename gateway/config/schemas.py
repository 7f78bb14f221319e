"""The JSON Schema of every file, from the models that read them: editors complete and check by it.

Example:
    schema("model")["properties"]["risk"]["enum"]       # ["low", "medium", "high"]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from experiments.config import LayersFile, MetricsFile
from experiments.config import json_schema as experiment_schema
from gateway.config.gateway_file import GatewayFile, ModesFile
from gateway.config.model_file import ModelFile

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
FILES: Final[Mapping[str, tuple[str, type[BaseModel] | None]]] = {
    "gateway": ("gateway.yaml", GatewayFile),
    "model": ("models/MODEL.yaml", ModelFile),
    "experiment": ("experiments/NAME.yaml", None),
    "layers": ("experiments/_layers.yaml", LayersFile),
    "metrics": ("experiments/_metrics.yaml", MetricsFile),
    "modes": ("policies/modes.yaml", ModesFile),
}
"""Kind -> where such a file lies, and the model that reads it (an experiment has one for each strategy)."""


def schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a kind of file. Raises KeyError for an unknown kind."""
    place, model = FILES[kind]
    found = experiment_schema() if model is None else model.model_json_schema(by_alias=True)
    return {"$schema": DIALECT, **found, "title": place}


def keys_of(kind: str) -> frozenset[str]:
    """Return every key a kind of file may have, at any level, without the free names (of versions, inputs, arms)."""
    found: set[str] = set()
    _collect(schema(kind), found)
    return frozenset(found)


def _collect(node: Any, found: set[str]) -> None:
    if isinstance(node, dict):
        properties = node.get("properties")
        if isinstance(properties, dict):
            found.update(properties)
        for name, child in node.items():
            if name not in {"examples", "default", "enum", "const"}:
                _collect(child, found)
    elif isinstance(node, list):
        for child in node:
            _collect(child, found)
