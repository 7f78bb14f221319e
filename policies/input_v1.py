"""The input document `input/v1` as a JSON Schema, by decision point: which paths a policy can read at all.

It says what is known, not what is required: `check` uses it to find misspelt fields. What stands at `config` below `model` and `experiment` is the
compiled file, whose grammar has schemas of its own (`assay schema`), so it is left open here.

Example:
    schema_of(frozenset({"request"}))["properties"]["model"]["properties"].keys()
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from policies.metadata import POINTS, Point


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


_TEXT: Final = {"type": "string"}
_WHOLE: Final = {"type": "integer"}
_TRUTH: Final = {"type": "boolean"}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_OPEN: Final[dict[str, Any]] = {}
_EVERYWHERE: Final = {"schema": _TEXT, "point": _TEXT, "env": _TEXT}
_CALL: Final = {
    "tenant": _TEXT,
    "request": _object(method=_TEXT, path=_TEXT, content_type=_TEXT, kib=_WHOLE, rows=_WHOLE),
    "subject": _object(verified=_TRUTH, scopes=_TEXTS),
    "usage": _object(exhausted=_TRUTH),
    "route": _object(experiment=_TEXT, arm=_TEXT),
    "model": _object(name=_TEXT, version=_TEXT, digest=_TEXT, risk=_TEXT, stage=_TEXT, owner=_TEXT),
    "approvals": {
        "type": "array",
        "items": _object(
            person=_TEXT, roles=_TEXTS, in_force=_TRUTH, model=_TEXT, version=_TEXT, digest=_TEXT, environments=_TEXTS, max_exposure_ppm=_WHOLE
        ),
    },
    # `policy.limits` has a default for `max_kib`; the gateway gives none in this release.
    "params": _object(max_rows=_WHOLE, max_kib=_WHOLE),
}
_POINTS: Final[dict[Point, dict[str, Any]]] = {
    "request": {**_EVERYWHERE, **_CALL},
    "response": {**_EVERYWHERE, **_CALL, "response": _object(status=_WHOLE, content_type=_TEXT, kib=_WHOLE, body=_OPEN)},
    "config": {**_EVERYWHERE, "config": _object(kind=_TEXT, name=_TEXT), "model": _OPEN, "experiment": _OPEN},
}


def schema_of(points: Collection[Point]) -> dict[str, Any]:
    """Return the schema of a package asked at some points: what any of them has, open where one of them is."""
    known: dict[str, Any] = {}
    for point in POINTS:
        for name, place in _POINTS[point].items() if point in points else ():
            known[name] = place if name not in known or not place else known[name]
    return _object(**known)
