"""Rows to units to sufficient statistics: what keeps an analysis clustered, and in bounded memory.

A row says something about a unit; a unit counts once. `UnitTable` adds rows up by unit in any order and needs memory for the units (about 50 bytes
each and column), never for the rows. `SortedUnits` is for files sorted by unit: a unit is complete when the next begins, so memory is that of one
chunk; that the file *is* sorted is checked row by row. Both hand complete units on as `Totals`, in order of first appearance, whatever the chunks.

Example:
    >>> table = UnitTable(["bought"])
    >>> for chunk in chunks: table.add(chunk)
    >>> table.totals().arms
    array([0, 1, 1, 0])
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from experiments.rows import Array, Chunk

MAX_ARMS = 64
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Totals:
    """Complete units.

    Attributes:
        first: number of the first unit, counted from 0 over the whole file.
        arms: code of each unit's arm, shape (units,); -1 for a unit seen in two arms.
        sums: column -> sum over its rows, missing ones left out.
        counts: column -> rows with a value.
        rows: rows of each unit.
    """

    first: int
    arms: Codes
    sums: dict[str, Array]
    counts: dict[str, Array]
    rows: Array


@dataclass(slots=True)
class ArmNames:
    """Codes of arms in order of appearance. Owned by one table."""

    codes: dict[str, int] = field(default_factory=dict)

    def of(self, arms: Sequence[str]) -> Codes:
        """Codes of a chunk's arms. Raises ValueError past 64 different ones."""
        for name in dict.fromkeys(arms):
            self.codes.setdefault(name, len(self.codes))
        if len(self.codes) > MAX_ARMS:
            raise ValueError(f"the arm column has more than {MAX_ARMS} different values; is it the right column?")
        return np.fromiter(map(self.codes.__getitem__, arms), np.int64, len(arms))


class UnitTable:
    """Adds rows up by unit, whatever their order."""

    def __init__(self, columns: Sequence[str]) -> None:
        """Start empty."""
        self.arm_names = ArmNames()
        # Mutable state, changed by `add` alone: hashes of the units in order with the number of each, and one entry a unit in every other array (with
        # room to grow).
        self._hashes = np.zeros(0, dtype=np.int64)
        self._numbers = np.zeros(0, dtype=np.int64)
        self._arms = np.full(1024, -2, dtype=np.int64)
        self._rows = np.zeros(1024)
        self._sums = {name: np.zeros(1024) for name in columns}
        self._counts = {name: np.zeros(1024) for name in columns}

    def add(self, chunk: Chunk) -> None:
        """Take in a chunk."""
        at = self._numbered(chunk.units)
        self._grow(self._numbers.size)
        codes = self.arm_names.of(chunk.arms)
        is_new = self._arms[at] == -2
        self._arms[at[is_new]] = codes[is_new]
        self._arms[at[(self._arms[at] != codes)]] = -1
        np.add.at(self._rows, at, 1.0)
        for name in self._sums:
            values = chunk.values[name]
            there = ~np.isnan(values)
            kept, where = (values, at) if there.all() else (values[there], at[there])
            np.add.at(self._sums[name], where, kept)
            np.add.at(self._counts[name], where, 1.0)

    def totals(self) -> Totals:
        """All units so far."""
        n = self._numbers.size
        return Totals(
            0,
            self._arms[:n],
            {name: values[:n] for name, values in self._sums.items()},
            {name: values[:n] for name, values in self._counts.items()},
            self._rows[:n],
        )

    def _numbered(self, units: Sequence[str]) -> Codes:
        """Numbers of a chunk's units, in order of first appearance.

        Units are told apart by Python's 64-bit hash of their text: a sorted array of hashes has a tenth of the size of a dict of strings, and two of
        ten million units are taken for one with probability 3e-6.
        """
        hashes, first, inverse = np.unique(np.fromiter(map(hash, units), np.int64, len(units)), return_index=True, return_inverse=True)
        place = np.searchsorted(self._hashes, hashes)
        is_known = np.zeros(hashes.size, dtype=np.bool_)
        inside = place < self._hashes.size
        is_known[inside] = self._hashes[place[inside]] == hashes[inside]
        numbers = np.empty(hashes.size, dtype=np.int64)
        numbers[is_known] = self._numbers[place[is_known]]
        new = np.flatnonzero(~is_known)
        numbers[new[np.argsort(first[new])]] = self._numbers.size + np.arange(new.size)
        self._hashes = np.insert(self._hashes, place[new], hashes[new])
        self._numbers = np.insert(self._numbers, place[new], numbers[new])
        return numbers[inverse]

    def _grow(self, units: int) -> None:
        if units <= self._arms.size:
            return
        more = max(units, 2 * self._arms.size) - self._arms.size
        self._arms = np.concatenate((self._arms, np.full(more, -2, dtype=np.int64)))
        self._rows = np.concatenate((self._rows, np.zeros(more)))
        for values in (self._sums, self._counts):
            for name in values:
                values[name] = np.concatenate((values[name], np.zeros(more)))


class SortedUnits:
    """Adds rows up by unit in a file sorted by unit (by code point); memory is that of one chunk."""

    def __init__(self, columns: Sequence[str]) -> None:
        """Start empty."""
        self.arm_names = ArmNames()
        self._columns = tuple(columns)
        # Mutable state, changed by `add` and `finish` alone: units handed on so far, and the last unit, which the next chunk may continue.
        self._done = 0
        self._last: str | None = None
        self._open: Totals | None = None

    def add(self, chunk: Chunk) -> Totals:
        """Take in a chunk; return the units that are complete. Raises ValueError, with the row, where the file is not sorted."""
        units = list(chunk.units)
        self._check_order(units, chunk.first_row)
        codes = self.arm_names.of(chunk.arms)
        starts = np.flatnonzero(np.fromiter(map(operator.ne, units, [None, *units[:-1]]), np.bool_, len(units)))
        group = np.repeat(np.arange(starts.size), np.diff([*starts, len(units)]))
        arms = codes[starts].copy()
        arms[group[codes != arms[group]]] = -1
        sums: dict[str, Array] = {}
        counts: dict[str, Array] = {}
        for name in self._columns:
            there = ~np.isnan(chunk.values[name])
            sums[name] = np.bincount(group, np.where(there, chunk.values[name], 0.0), starts.size).astype(float)
            counts[name] = np.bincount(group, there, starts.size).astype(float)
        found = Totals(self._done, arms, sums, counts, np.bincount(group, minlength=starts.size).astype(float))
        if self._open is not None:
            found = _joined(self._open, found, is_same=units[0] == self._last)
        self._last = units[-1]
        return self._split(found)

    def finish(self) -> Totals | None:
        """Return the last unit, if there was any."""
        last, self._open = self._open, None
        return last

    def _check_order(self, units: list[str], first_row: int) -> None:
        before = units[0] if self._last is None else self._last
        in_order = list(map(operator.le, [before, *units[:-1]], units))
        if not all(in_order):
            at = in_order.index(False)
            raise ValueError(f"row {first_row + at}: unit `{units[at]}` comes after a larger one; the file is not sorted by unit")

    def _split(self, found: Totals) -> Totals:
        self._open = _part(found, slice(-1, None), found.first + found.arms.size - 1)
        self._done = self._open.first
        return _part(found, slice(0, -1), found.first)


def _part(found: Totals, which: slice, first: int) -> Totals:
    sums, counts = ({name: column[which] for name, column in columns.items()} for columns in (found.sums, found.counts))
    return Totals(first, found.arms[which], sums, counts, found.rows[which])


def _joined(before: Totals, after: Totals, *, is_same: bool) -> Totals:
    """Join the unit left open with the units of the next chunk, the first of which may be the same."""
    if not is_same:
        sums, counts = (
            {name: np.concatenate((first[name], second[name])) for name in first}
            for first, second in ((before.sums, after.sums), (before.counts, after.counts))
        )
        return Totals(before.first, np.concatenate((before.arms, after.arms)), sums, counts, np.concatenate((before.rows, after.rows)))
    arms = after.arms.copy()
    arms[0] = before.arms[0] if before.arms[0] == arms[0] else -1
    rows = after.rows.copy()
    rows[0] += before.rows[0]
    for name in after.sums:
        after.sums[name][0] += before.sums[name][0]
        after.counts[name][0] += before.counts[name][0]
    return Totals(before.first, arms, after.sums, after.counts, rows)
