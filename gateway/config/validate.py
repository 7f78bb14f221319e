"""A tree of plain values -> a pydantic model, with every error as an `Issue` at its line and column.

Example:
    file, issues = validate(tree, ModelFile)
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gateway.config.issues import Issue, KeyPath, allowed, nearest
from gateway.config.tree import Tree

_Model = TypeVar("_Model", bound=BaseModel)

_WORDS_FOR_TYPES = {
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "dict_type": "must be a mapping (`key: value`)",
    "model_type": "must be a mapping (`key: value`)",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
}


def validate(tree: Tree, model: type[_Model]) -> tuple[_Model | None, list[Issue]]:
    """Return the model that a tree holds, or None and everything that is wrong with it."""
    value = {} if tree.value is None else tree.value
    try:
        return model.model_validate(value), []
    except ValidationError as error:
        issues = {_issue(tree, model, dict(details)) for details in error.errors(include_url=False)}
        return None, sorted(issues)


def keys_at(model: Any, path: Iterable[str | int]) -> frozenset[str]:
    """Return the keys that the mapping at `path` may have; empty when it is free or not a mapping."""
    candidates = _models(model)
    for part in path:
        step: list[Any] = []
        for candidate in candidates:
            step += _step(candidate, part)
        candidates = step
    names: set[str] = set()
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            names.update(field.alias or name for name, field in candidate.model_fields.items())
    return frozenset(names)


def _step(kind: Any, part: str | int) -> list[Any]:
    """Return what the value under `part` of a `kind` may be."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if part == (field.alias or name):
                return _models(field.annotation)
        return []
    arguments = typing.get_args(kind)
    if not arguments:
        return []
    return _models(arguments[-1] if len(arguments) < 3 else arguments[0])


def _models(annotation: Any) -> list[Any]:
    """Return the alternatives of an annotation: unions and `Annotated` opened."""
    origin = typing.get_origin(annotation)
    if origin in {typing.Union, types.UnionType}:
        return [found for part in typing.get_args(annotation) for found in _models(part)]
    if origin is typing.Annotated:
        return _models(typing.get_args(annotation)[0])
    return [annotation]


def _issue(tree: Tree, model: type[BaseModel], details: dict[str, Any]) -> Issue:
    kind = str(details["type"])
    path = _real_path(tree, details["loc"], last_may_be_missing=kind == "missing")
    if kind == "extra_forbidden":
        names = keys_at(model, path[:-1])
        return tree.issue(path, f"unknown key; {allowed(names)}{nearest(str(path[-1]), names)}", at_key=True)
    if kind == "missing":
        return tree.issue(path, "is missing" + _purpose(model, path), at_key=True)
    return tree.issue(path, _message(kind, details), at_key=details["loc"][-1:] == ("[key]",))


def _real_path(tree: Tree, loc: tuple[str | int, ...], *, last_may_be_missing: bool) -> KeyPath:
    """Return the part of pydantic's location that exists in the file: tags of unions and `[key]` are left out."""
    path: KeyPath = ()
    for position, part in enumerate(loc):
        there = (*path, part)
        if there in tree.places or (last_may_be_missing and position == len(loc) - 1):
            path = there
    return path


def _message(kind: str, details: dict[str, Any]) -> str:
    value = details.get("input")
    context = details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        choices = [choice.strip("'") for choice in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"{_shown(value)} is not allowed; {allowed(choices)}{nearest(str(value), choices)}"
    if kind in _WORDS_FOR_TYPES:
        quoted = f'; quote it: "{value}"' if kind == "string_type" and isinstance(value, (int, float)) and not isinstance(value, bool) else ""
        return f"{_shown(value)} {_WORDS_FOR_TYPES[kind]}{quoted}"
    if kind == "string_pattern_mismatch":
        return f"{_shown(value)} is not a name this key may have; allowed: {context['pattern']}"
    text = str(details["msg"])
    return f"{_shown(value)}: {text[:1].lower()}{text[1:]}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = str(value)
    return f"`{text[:60]}...`" if len(text) > 60 else f"`{text}`"


def _purpose(model: type[BaseModel], path: KeyPath) -> str:
    """Return the description of a missing key, for those who meet it first here."""
    candidates = _models(model)
    for part in path[:-1]:
        candidates = [found for candidate in candidates for found in _step(candidate, part)]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            for name, field in candidate.model_fields.items():
                if path and path[-1] == (field.alias or name) and field.description:
                    return f": {field.description}"
    return ""
