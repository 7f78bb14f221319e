"""Postings: which records of a stretch of the log have a value, small enough to be written in order and never again. Pure.

A B-tree of a value that falls anywhere (a pseudonym, an id) is changed in another page by nearly every record, and outgrows every cache. Here records
are taken by *blocks*, and blocks by *runs*, and each is sorted once:

- A value is a *term*: 22 bits of its CRC-32, begun with a number for its column. Few of the records of a run share a term by chance, and whoever asks
  reads the record's row and compares: a posting only ever says where to look.
- A block's postings are one array of 64-bit numbers in order, term << 16 | place within the run.
- A full run's postings are those of its blocks, sorted together and cut into `PARTS` by the upper bits of the term, each an array of 32-bit numbers:
  the lower bits of the term << 16 | place. A question reads one part, 4 KiB for each column, of each run.
- What many records share (their shape) is no term: for each block and shape there is an array of places within the block.

Example:
    entries = block_entries([(0, "019a..", None, "5f.."), ...], run_rows=65536)
    parts = run_parts([entries, ...])
    places_in_part(parts[part_of(term)], term)      # [17, 4011]
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

PARTS: Final = 64
_PLACE_BITS: Final = 16
_PLACES: Final = (1 << _PLACE_BITS) - 1
_LOW_BITS: Final = 16
_LOW: Final = (1 << _LOW_BITS) - 1
_TERM_SHIFT: Final = 10
"""CRC-32 >> 10 is a term: six bits for its part and sixteen within it."""
_ID, _DECISION, _SUBJECT = 1, 2, 3
_crc32 = zlib.crc32

Keys = tuple[int, str, str | None, str | None]
"""What of a record is posted: (index, id, decision if it is not the id, subject)."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows of a block, and of a run: a multiple of it, at most 65,536."""

    block: int = 2048
    run: int = 65_536

    @property
    def blocks_a_run(self) -> int:
        """Blocks of a full run."""
        return self.run // self.block


def id_term(value: str) -> int:
    """Return the term of a record's id."""
    return _crc32(value.encode(), _ID) >> _TERM_SHIFT


def decision_term(value: str) -> int:
    """Return the term of the decision that a record is about."""
    return _crc32(value.encode(), _DECISION) >> _TERM_SHIFT


def subject_term(value: str) -> int:
    """Return the term of a subject's pseudonym."""
    return _crc32(value.encode(), _SUBJECT) >> _TERM_SHIFT


def block_entries(rows: Iterable[Keys], run_rows: int) -> bytes:
    """Return a block's postings."""
    entries = []
    for index, own, decision, subject in rows:
        place = index % run_rows
        entries.append(_crc32(own.encode(), _ID) >> _TERM_SHIFT << _PLACE_BITS | place)
        if subject is not None:
            entries.append(_crc32(subject.encode(), _SUBJECT) >> _TERM_SHIFT << _PLACE_BITS | place)
        if decision is not None:
            entries.append(_crc32(decision.encode(), _DECISION) >> _TERM_SHIFT << _PLACE_BITS | place)
    entries.sort()
    return array("Q", entries).tobytes()


def run_parts(blocks: Sequence[bytes]) -> list[bytes]:
    """Return a run's postings, by part, from those of its blocks."""
    entries: list[int] = []
    for block in blocks:
        entries += array("Q", block)
    entries.sort()
    bounds = [bisect_left(entries, part << _LOW_BITS << _PLACE_BITS) for part in range(PARTS + 1)]
    low = (1 << _LOW_BITS << _PLACE_BITS) - 1
    return [array("I", [entry & low for entry in entries[bounds[part] : bounds[part + 1]]]).tobytes() for part in range(PARTS)]


def part_of(term: int) -> int:
    """Return the part of a run that has a term."""
    return term >> _LOW_BITS


def places_in_part(entries: bytes, term: int) -> list[int]:
    """Return the places within a run that a part has for a term, ascending."""
    return _places(array("I", entries), term & _LOW)


def places_in_block(entries: bytes, term: int) -> list[int]:
    """Return the places within its run that a block has for a term, ascending."""
    return _places(array("Q", entries), term)


def _places(entries: array[int], term: int) -> list[int]:
    start = bisect_left(entries, term << _PLACE_BITS)
    end = bisect_left(entries, (term + 1) << _PLACE_BITS, start)
    return [entry & _PLACES for entry in entries[start:end]]


def shape_places(rows: Iterable[tuple[int, int]], block_rows: int) -> dict[int, bytes]:
    """Return shape -> places within the block, from (index, shape) in order."""
    places: dict[int, list[int]] = {}
    for index, shape in rows:
        places.setdefault(shape, []).append(index % block_rows)
    return {shape: array("H", found).tobytes() for shape, found in places.items()}


def places_of(packed: bytes) -> array[int]:
    """Return the places within a block that `shape_places` packed."""
    return array("H", packed)
