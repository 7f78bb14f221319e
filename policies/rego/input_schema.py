"""Input paths against a JSON Schema: which are unknown, which are certain to be there.

What is iterated over is followed into its items: with `some a in input.approvals`, `a.persn` is looked up among the fields of an approval. A schema
closes an object by `properties`, unless `additionalProperties` says more.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from policies.rego.errors import Issue
from policies.rego.ir import Const, Doc, Get, Local, Match, RuleIR
from policies.rego.program import Linked
from policies.rego.reads import rule_parts


def is_required(schema: Any, path: tuple[Any, ...]) -> bool:
    """Tell whether a JSON Schema requires a field and everything above it."""
    place = schema
    for key in path:
        if type(place) is not dict or key not in place.get("required", ()):
            return False
        place = place.get("properties", {}).get(key)
    return bool(path)


def unknown_input(linked: Linked, schema: Any) -> Iterator[Issue]:
    """Find the input paths that a JSON Schema does not know; what is iterated over is followed into its items."""
    for rule in linked.rules:
        places: dict[int, Any] = {}
        for branch in rule.branches:
            for statement in branch.body:
                if type(statement) is Match and type(statement.left) is Local and type(statement.right) in {Doc, Get}:
                    places.setdefault(statement.left.slot, _place_of(statement.right, schema, places))
        for item in _references(rule_parts(rule)):
            yield from _unknown_field(linked, rule, item, schema, places)


def _references(part: Any) -> Iterator[Any]:
    stack = [part]
    while stack:
        item = stack.pop()
        if type(item) is tuple:
            stack.extend(item)
            continue
        if type(item) is Doc or type(item) is Get:
            yield item
        if hasattr(item, "__dataclass_fields__"):
            stack.extend(getattr(item, name) for name in item.__dataclass_fields__)


def _start(ref: Any, schema: Any, places: dict[int, Any]) -> Any:
    if type(ref) is Doc:
        return schema if ref.root == "input" else None
    return places.get(ref.base.slot) if type(ref.base) is Local else None


def _place_of(ref: Any, schema: Any, places: dict[int, Any]) -> Any:
    place = _start(ref, schema, places)
    for element in ref.path:
        place = _below(place, element)
    return place


def _below(place: Any, element: Any) -> Any:
    """Return the schema of a member, None where nothing is known about it."""
    if type(place) is not dict:
        return None
    if type(element) is Const and type(element.value) is str:
        return place.get("properties", {}).get(element.value, place.get("additionalProperties"))
    return place.get("items", place.get("additionalProperties"))


def _unknown_field(linked: Linked, rule: RuleIR, ref: Any, schema: Any, places: dict[int, Any]) -> Iterator[Issue]:
    place = _start(ref, schema, places)
    names = ["input"] if type(ref) is Doc else [""]
    for element in ref.path:
        known = place.get("properties") if type(place) is dict else None
        names.append(str(element.value) if type(element) is Const else "_")
        if type(known) is dict and type(element) is Const and type(element.value) is str and element.value not in known:
            if "additionalProperties" not in place or place["additionalProperties"] is False:
                near = difflib.get_close_matches(element.value, list(known), n=1)
                hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(known))}"
                path = ".".join(names).lstrip(".")
                yield linked.modules[rule.module].source.issue("unknown-input", f"the input schema has no `{path}`", ref.pos, hint)
            return
        place = _below(place, element)
