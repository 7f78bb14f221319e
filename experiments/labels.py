"""Which of several things said about one decision counts: the first, unless who may has corrected it.

Records come in any order and may repeat: "first" and "last" are by record id, a UUIDv7, and so by time. A correction counts from the source whose
word it corrects, or from one that may correct others' (`docs/records.md`).

Example:
    >>> said = with_label(with_label((), first), correction)
    >>> standing(said)
    '1'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

MOST_LABELS: Final = 16
"""Kept for one decision: more sources than that correct no label."""


class Label(msgspec.Struct, frozen=True):
    """One label, or one person's decision, as its record says it."""

    id: str
    corrects: bool
    label: str
    source: str
    may_correct: bool


def label_of(record: Mapping[str, Any], key: str = "label") -> Label:
    """Return what a record says; `key` is where it says it."""
    return Label(record["id"], record.get("corrects") is True, str(record[key]), record.get("source", ""), record.get("may_correct") is True)


def with_label(said: tuple[Label, ...], new: Label) -> tuple[Label, ...]:
    """Return what was said with one more, as far as it can ever count: repeats take no room, so that no number of them hides a correction.

    Kept are the first word, the first correction, and of each source the last correction; the order they come in plays no part.
    """
    if new in said:
        return said
    words = [one for one in (*said, new) if not one.corrects]
    corrections = [one for one in (*said, new) if one.corrects]
    last = {(one.source, one.may_correct): one for one in sorted(corrections, key=_by_id)}
    kept = {one.id: one for one in (*sorted(words, key=_by_id)[:1], *sorted(corrections, key=_by_id)[:1], *last.values())}
    return tuple(kept[known] for known in sorted(kept)) if len(kept) <= MOST_LABELS else said


def _by_id(one: Label) -> str:
    return one.id


def first_of_all(said: tuple[Label, ...]) -> Label:
    """Return what was said first. Raises ValueError when nothing was."""
    return min(said, key=lambda one: (one.corrects, one.id))


def standing(said: tuple[Label, ...]) -> str:
    """Return what counts. Raises ValueError when nothing was said."""
    first = first_of_all(said)
    allowed = [one for one in said if one.corrects and (one.source == first.source or one.may_correct)]
    return max(allowed, key=lambda one: one.id).label if allowed else first.label
