"""Whom an experiment is for: rules over what the caller says of a call, exclusions, and the segments results are told by.

Attributes come from the header `Assay-Context` (a flat JSON object, from keys with the scope `context:assert`) and `tenant` from the key. Rules are
compiled once; a call costs a dictionary lookup a rule.

Rules of meaning (semantics.md 2.10):
- `who`: every rule must hold. An attribute that is missing holds no rule, not even `not`: silence is never consent.
- `exclude`: the first that holds takes the unit out, before any exposure; it is served by the control and recorded under the exclusion's name.
- `segments`: attribute -> the values told apart; anything else is `other`, a missing attribute `unknown`. No free text enters a record.
- Types count: `"1"`, `1` and `true` are three values.

Example:
    >>> matches(rules, {"country": "CH", "plan": "pro"})
    True
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.document import ExclusionDocument, RuleDocument

Context = Mapping[str, str | int | bool]
EMPTY: Context = {}
MOST_ATTRIBUTES = 32


def holds(rule: RuleDocument, context: Context) -> bool:
    """Say whether one rule holds; a missing attribute holds none."""
    value = context.get(rule.attribute)
    if value is None:
        return False
    if rule.op == "in":
        return spelled(value) in rule.values
    if rule.op == "not":
        return spelled(value) not in rule.values
    if type(value) is not int or rule.bound is None:
        return False
    return value >= rule.bound if rule.op == "at_least" else value < rule.bound


def matches(rules: tuple[RuleDocument, ...], context: Context) -> bool:
    """Say whether every rule holds."""
    return all(holds(rule, context) for rule in rules)


def excluded_by(exclusions: tuple[ExclusionDocument, ...], context: Context) -> str | None:
    """Return the name of the first exclusion whose every rule holds, or None."""
    for exclusion in exclusions:
        if matches(exclusion.rules, context):
            return exclusion.name
    return None


def segments_of(segments: Mapping[str, tuple[str, ...]], context: Context) -> dict[str, str]:
    """Return the segment of a call for each declared attribute."""
    found = {}
    for attribute, known in segments.items():
        value = context.get(attribute)
        text = None if value is None else spelled(value)[2:]
        found[attribute] = "unknown" if text is None else text if text in known else "other"
    return found


def spelled(value: str | int | bool) -> str:  # noqa: FBT001 - a value that may be one, not a switch
    """Return a value with its type, so that `"1"`, `1` and `true` differ: `s:1`, `i:1`, `b:true`."""
    if value is True or value is False:
        return "b:true" if value else "b:false"
    return f"i:{value}" if type(value) is int else f"s:{value}"
