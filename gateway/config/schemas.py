"""The JSON Schema of every file, from the models that read them: editors complete and check by it.

Example:
    schema("model")["properties"]["risk"]["enum"]       # ["low", "medium", "high"]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from experiments.config import json_schema as experiment_schema
from experiments.shared_files import LayersFile, MetricsFile
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


def key_paths(kind: str) -> frozenset[str]:
    """Return every key a kind of file may have as a path: `versions.NAME.upstreams`; `NAME` is a free name, `[]` an item of a list."""
    document = schema(kind)
    found: set[str] = set()
    _collect(document, document.get("$defs", {}), "", found)
    return frozenset(found)


def _collect(node: Mapping[str, Any], definitions: Mapping[str, Any], path: str, found: set[str]) -> None:
    """Add the paths below `node`; the schemas have no recursion, so this ends."""
    if "$ref" in node:
        _collect(definitions[str(node["$ref"]).rsplit("/", maxsplit=1)[-1]], definitions, path, found)
    for alternative in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        _collect(alternative, definitions, path, found)
    for name, child in node.get("properties", {}).items():
        found.add(f"{path}.{name}" if path else name)
        _collect(child, definitions, f"{path}.{name}" if path else name, found)
    free = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
    for child in free:
        if isinstance(child, dict):
            _collect(child, definitions, f"{path}.NAME", found)
    if isinstance(node.get("items"), dict):
        _collect(node["items"], definitions, f"{path}[]", found)
