"""What of a call is captured for the vault, and how each field is changed before it leaves the worker. Pure.

A plan names JSON pointers into the request's body, the reply's body and the call's context, each with a rule:

| rule | what is kept |
|---|---|
| `keep` | the value as it is |
| `hash` | `{"hash": ...}`: HMAC-SHA256 under the tenant's key, other for each record: a claimed value can be tested, none can be read |
| `mask` | text of 12 characters and more: `****` and the last 4; everything else: `****` |
| `truncate:N` | the first N characters of text, the first N items of a list; anything else is dropped |
| `drop` | nothing: takes a part out of what a shorter pointer keeps |

Rules:
- A pointer inside another one refines it: the inner rule is applied in the place that the outer one keeps. Under `hash`, `mask` and `truncate` there
  is nothing left to refine, and `assay check` refuses it.
- What is not there is left out. A body that is no JSON has no fields.

Example:
    plan = Plan.of(document)          # {"/applicant": "keep", "/applicant/email": "hash"}
    fields = plan.take({"request": body, "reply": reply, "context": attributes}, hashed)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from gateway.documents import VaultDocument
from gateway.protocols.pointer import MISSING, compile_pointer

SOURCES: Final = ("request", "reply", "context")
RULE: Final = re.compile(r"keep|drop|hash|mask|truncate:[1-9][0-9]{0,3}\Z")
_MASK: Final = "****"
_MASKED_WHOLE: Final = 12
"""Text shorter than this shows nothing of itself."""
Hashed = Callable[[str, bytes], str]
"""Gives the hash of a value, by the name of its field and its JSON."""


@dataclass(frozen=True, slots=True)
class _Field:
    """One pointer that is not inside another one, and those that are."""

    pointer: str
    get: Callable[[Any], Any]
    rule: str
    inner: tuple[tuple[tuple[str, ...], str, str], ...]
    """(steps below this field, pointer, rule), outer ones first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is captured of the calls of one model, for one tenant or for all."""

    retention_us: int
    fields: Mapping[str, tuple[_Field, ...]]
    """Source -> its fields."""

    @classmethod
    def of(cls, document: VaultDocument) -> Plan:
        """Compile a plan."""
        named = {"request": document.request, "reply": document.reply, "context": document.context}
        return cls(document.retention_us, {source: _compiled(rules) for source, rules in named.items() if rules})

    @property
    def reads_reply(self) -> bool:
        """Say whether the reply's body has to be read."""
        return "reply" in self.fields

    def take(self, documents: Mapping[str, Any], hashed: Hashed) -> dict[str, dict[str, Any]]:
        """Return the captured fields by source and pointer, changed as the rules say; what is not there is left out."""
        taken: dict[str, dict[str, Any]] = {}
        for source, fields in self.fields.items():
            document = documents.get(source, MISSING)
            if document is MISSING:
                continue
            values = {field.pointer: _taken(source, field, field.get(document), hashed) for field in fields}
            present = {pointer: value for pointer, value in values.items() if value is not MISSING}
            if present:
                taken[source] = present
        return taken


def inside(pointer: str, others: Iterable[str]) -> str | None:
    """Return the nearest of `others` that `pointer` lies inside of, or None."""
    around = [other for other in others if pointer.startswith(other + "/")]
    return max(around, key=len, default=None)


def changed(rule: str, value: Any, name: str, hashed: Hashed) -> Any:
    """Return a value as a rule leaves it; `MISSING` where nothing is left."""
    if value is MISSING or rule == "drop":
        return MISSING
    if rule == "keep":
        return value
    if rule == "hash":
        return {"hash": hashed(name, msgspec.json.encode(value, order="sorted"))}
    if rule == "mask":
        return f"{_MASK}{value[-4:]}" if type(value) is str and len(value) >= _MASKED_WHOLE else _MASK
    most = int(rule.partition(":")[2])
    return value[:most] if type(value) in (str, list) else MISSING


def _compiled(rules: Mapping[str, str]) -> tuple[_Field, ...]:
    roots = [pointer for pointer in sorted(rules) if inside(pointer, rules) is None]
    fields = []
    for root in roots:
        below = sorted((pointer for pointer in rules if pointer.startswith(root + "/")), key=lambda pointer: pointer.count("/"))
        inner = tuple((_steps(pointer[len(root) :]), pointer, rules[pointer]) for pointer in below)
        fields.append(_Field(root, compile_pointer(root), rules[root], inner))
    return tuple(fields)


def _steps(pointer: str) -> tuple[str, ...]:
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])


def _taken(source: str, field: _Field, value: Any, hashed: Hashed) -> Any:
    for steps, pointer, rule in field.inner:
        value = _refined(value, steps, partial(_changed, rule=rule, name=f"{source} {pointer}", hashed=hashed))
    return changed(field.rule, value, f"{source} {field.pointer}", hashed)


def _changed(value: Any, *, rule: str, name: str, hashed: Hashed) -> Any:
    return changed(rule, value, name, hashed)


def _refined(value: Any, steps: tuple[str, ...], change: Callable[[Any], Any]) -> Any:
    """Return `value` with the part at `steps` changed or taken out; the original is not touched."""
    if not steps:
        return change(value)
    name, rest = steps[0], steps[1:]
    if type(value) is dict and name in value:
        part = _refined(value[name], rest, change)
        kept = {key: each for key, each in value.items() if key != name}
        return kept if part is MISSING else {**kept, name: part}
    if type(value) is list and name.isascii() and name.isdecimal() and int(name) < len(value):
        at = int(name)
        part = _refined(value[at], rest, change)
        # An item that is dropped leaves its place: pointers to those behind it stay true.
        return [*value[:at], None if part is MISSING else part, *value[at + 1 :]]
    return value
