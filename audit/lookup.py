"""Asking the index: from a question to rows, in walking order, reading what the answer needs and little more.

1. Times narrow the walk to the blocks whose earliest and latest time allow an answer.
2. The rows after the last full block are read one by one.
3. In full blocks one kind of condition says where to look: an id, a decision or a subject (postings), else few shapes (places by block and shape),
   else nothing, and the rows are read in order.
4. Every row found is asked whether it answers; postings may name rows that do not.

One transaction is open meanwhile: a batch that closes a block moves what is asked from one table to another.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import msgspec

from audit.entry import CALL_TYPES
from audit.index_tables import OWN, SHARED
from audit.postings import PARTS, Sizes, decision_term, id_term, part_of, places_in_block, places_in_part, places_of, subject_term
from audit.query import Query, Row

_SHAPES_MERGED: Final = 64
"""Up to so many shapes are walked side by side; past it the rows are read in index order."""
_ROWS_FIRST: Final = 32
"""Rows read together at first; then ever more, since who asks for a page of many shapes reads many."""
_ROWS_MOST: Final = 512
_SHAPES_REMEMBERED: Final = 65_536
_ROWS = f"SELECT {', '.join(OWN)} FROM leaf_index WHERE "  # noqa: S608 - column names of a constant
_SHAPE = f"SELECT {', '.join(SHARED)} FROM shape WHERE id = ?"  # noqa: S608 - as above
_SHAPE_COLUMNS: Final = frozenset(SHARED)

OwnRow = tuple[int, int, str, str, str | None, str | None]
"""A row of `leaf_index`, columns as in `OWN`."""


@dataclass(frozen=True, slots=True)
class Span:
    """Part of the log: from `first`, up to `end` (exclusive), walked from its end unless `is_ascending`."""

    first: int
    end: int
    is_ascending: bool

    def holds(self, index: int) -> bool:
        """Say whether an index is in it."""
        return self.first <= index < self.end

    @property
    def order(self) -> str:
        """The order of the walk, in SQL."""
        return "ASC" if self.is_ascending else "DESC"

    def walked(self, numbers: range) -> Iterable[int]:
        """Give ascending numbers in the order of the walk."""
        return numbers if self.is_ascending else reversed(numbers)


def missing(what: str) -> sqlite3.DatabaseError:
    """Return the error for something that the index must have and has not."""
    return sqlite3.DatabaseError(f"the index has no {what}")


class Lookup:
    """Reads one open index. Owned by its `Indexer`."""

    def __init__(self, raw: sqlite3.Connection, sizes: Sizes) -> None:
        """Read through the driver's connection."""
        self._raw = raw
        self._sizes = sizes
        self._shapes: dict[int, tuple[str | int | None, ...]] = {}  # shape -> its columns; shapes never change

    def find(self, query: Query, span: Span, indexed: int) -> Iterator[Row]:
        """Yield rows of `span` that answer, in walking order.

        Args:
            query: the question.
            span: where to look, within what is indexed.
            indexed: rows of the index.

        Raises:
            sqlite3.DatabaseError: the index is damaged.
        """
        shapes = self.shapes_of(query)
        if shapes is not None and not shapes:
            return
        closed = indexed - indexed % self._sizes.block
        old = self._within_times(query, Span(span.first, min(span.end, closed), span.is_ascending))
        young = Span(max(span.first, closed), span.end, span.is_ascending)
        for part, is_young in ((old, False), (young, True)) if span.is_ascending else ((young, True), (old, False)):
            if part.first < part.end:
                yield from self._answering(query, self._candidates(query, part, shapes, is_young=is_young))

    def row(self, own: OwnRow) -> Row:
        """Return the whole row of a record."""
        idx, shape, time, record, decision, subject = own
        shared = self._shapes.get(shape)
        if shared is None:
            shared = self._raw.execute(_SHAPE, (shape,)).fetchone()
            if shared is None:
                raise missing(f"shape of row `{idx}`")
            if len(self._shapes) >= _SHAPES_REMEMBERED:
                self._shapes.clear()
            self._shapes[shape] = shared
        kind, tenant, actor, *rest = shared
        return Row(idx, time, kind, record, tenant, actor, record if kind in CALL_TYPES else decision, subject, *rest)  # type: ignore[arg-type]

    def own_rows(self, first: int, end: int) -> Iterator[OwnRow]:
        """Yield the rows of a stretch in order, as they are stored."""
        return iter(self._raw.execute(f"{_ROWS} idx >= ? AND idx < ? ORDER BY idx", (first, end)))

    def shapes_of(self, query: Query) -> list[int] | None:
        """Return the shapes that answer the question; None when it asks for nothing that shapes hold."""
        wanted = {name: value for name, value in query.equals().items() if name in _SHAPE_COLUMNS}
        if not wanted and query.arm is None:
            return None
        conditions = [f"{name} = ?" for name in wanted] + (["? IN (assigned, served)"] if query.arm is not None else [])
        values = [*wanted.values(), *([query.arm] if query.arm is not None else [])]
        statement = f"SELECT id FROM shape WHERE {' AND '.join(conditions)}"  # noqa: S608 - names of columns
        return [shape for (shape,) in self._raw.execute(statement, values)]

    # -- where to look --------------------------------------------------------------------------------------------------------------

    def _within_times(self, query: Query, span: Span) -> Span:
        """Leave out what lies before the first and after the last row of full blocks that can be of the time asked for."""
        first, end, rows = span.first, span.end, self._sizes.block
        if query.since is not None:
            (block,) = self._raw.execute("SELECT min(number) FROM block WHERE high_time >= ?", (query.since,)).fetchone()
            statement = "SELECT min(idx) FROM leaf_index WHERE idx >= ? AND idx < ? AND time >= ?"
            first = end if block is None else max(first, self._edge(statement, block * rows, query.since))
        if query.until is not None:
            (block,) = self._raw.execute("SELECT max(number) FROM block WHERE low_time < ?", (query.until,)).fetchone()
            statement = "SELECT max(idx) FROM leaf_index WHERE idx >= ? AND idx < ? AND time < ?"
            end = first if block is None else min(end, self._edge(statement, block * rows, query.until) + 1)
        return Span(first, end, span.is_ascending)

    def _edge(self, statement: str, first: int, time: str) -> int:
        """Return the row of a block that has a time, as the block's own times say one has."""
        index: int | None = self._raw.execute(statement, (first, first + self._sizes.block, time)).fetchone()[0]
        if index is None:
            raise missing(f"row of block `{first // self._sizes.block}` that has its time")
        return index

    def _candidates(self, query: Query, span: Span, shapes: list[int] | None, *, is_young: bool) -> Iterator[OwnRow]:
        terms = _terms(query)
        if is_young:
            return self._walked(query, span, shapes)
        if terms:
            return self._rows(self._by_terms(terms, span))
        if shapes is not None and len(shapes) <= _SHAPES_MERGED:
            return self._rows(self._by_shapes(shapes, span))
        return self._every(span) if shapes is None else self._walked(query, span, shapes)

    def _answering(self, query: Query, rows: Iterator[OwnRow]) -> Iterator[Row]:
        return (row for row in map(self.row, rows) if query.matches(row))

    def _walked(self, query: Query, span: Span, shapes: list[int] | None) -> Iterator[OwnRow]:
        """Read the rows of a span in order, SQLite leaving out what cannot answer."""
        given = [
            ("id = ?", query.id),
            ("subject = ?", query.subject),
            ("time >= ?", query.since),
            ("time < ?", query.until),
            ("? IN (decision, id)", query.decision),
            ("shape IN (SELECT value FROM json_each(?))", None if shapes is None else msgspec.json.encode(shapes).decode()),
        ]
        chosen = [(condition, value) for condition, value in given if value is not None]
        conditions = " AND ".join(["idx >= ? AND idx < ?", *(condition for condition, _ in chosen)])
        values = (span.first, span.end, *(value for _, value in chosen))
        return iter(self._raw.execute(f"{_ROWS} {conditions} ORDER BY idx {span.order}", values))

    def _every(self, span: Span) -> Iterator[OwnRow]:
        """Read the rows of a span in order: each must be there."""
        rows = self._raw.execute(f"{_ROWS} idx >= ? AND idx < ? ORDER BY idx {span.order}", (span.first, span.end))
        for index in span.walked(range(span.first, span.end)):
            row: OwnRow | None = rows.fetchone()
            if row is None or row[0] != index:
                raise missing(f"row `{index}`")
            yield row

    def _by_terms(self, terms: list[int], span: Span) -> Iterator[int]:
        """Yield indices of full blocks whose postings have one of the terms, in walking order."""
        sizes = self._sizes
        (last,) = self._raw.execute("SELECT coalesce(max(place), -1) FROM run_postings").fetchone()
        in_runs = (last + 1) // PARTS * sizes.run  # rows of full runs; what follows is posted by block
        old = (self._of_run(run, terms) for run in span.walked(range(span.first // sizes.run, -(-min(span.end, in_runs) // sizes.run))))
        first_block = max(span.first, in_runs) // sizes.block
        young = (self._of_block(block, terms) for block in span.walked(range(first_block, -(-span.end // sizes.block))))
        for group in (old, young) if span.is_ascending else (young, old):
            for found in group:
                yield from (index for index in sorted(found, reverse=not span.is_ascending) if span.holds(index))

    def _of_run(self, run: int, terms: list[int]) -> set[int]:
        found: set[int] = set()
        for term in terms:
            part = self._raw.execute("SELECT entries FROM run_postings WHERE place = ?", (run * PARTS + part_of(term),)).fetchone()
            if part is None:
                raise missing(f"postings of run `{run}`")
            found.update([run * self._sizes.run + place for place in places_in_part(part[0], term)])
        return found

    def _of_block(self, block: int, terms: list[int]) -> set[int]:
        sizes = self._sizes
        entries = self._raw.execute("SELECT entries FROM block_postings WHERE block = ?", (block,)).fetchone()
        if entries is None:
            raise missing(f"postings of block `{block}`")
        first = block // sizes.blocks_a_run * sizes.run
        return {first + place for term in terms for place in places_in_block(entries[0], term)}

    def _by_shapes(self, shapes: list[int], span: Span) -> Iterator[int]:
        """Yield indices of full blocks whose rows have one of the shapes, in walking order."""
        block_rows = self._sizes.block
        low, high = span.first // block_rows, (span.end - 1) // block_rows
        statement = f"SELECT block, places FROM shape_block WHERE shape = ? AND block BETWEEN ? AND ? ORDER BY block {span.order}"  # noqa: S608 - ASC or DESC
        walks = [self._raw.execute(statement, (shape, low, high)) for shape in shapes]
        merged = heapq.merge(*walks, key=lambda found: found[0], reverse=not span.is_ascending)
        for block, group in groupby(merged, key=lambda found: found[0]):
            places = [place for _, packed in group for place in places_of(packed)]
            places.sort(reverse=not span.is_ascending)
            yield from (index for place in places if span.holds(index := block * block_rows + place))

    def _rows(self, indices: Iterator[int]) -> Iterator[OwnRow]:
        """Yield the rows of indices, in their order."""
        count = _ROWS_FIRST
        while chunk := [index for _, index in zip(range(count), indices, strict=False)]:
            marks = ", ".join("?" * len(chunk))
            found = {row[0]: row for row in self._raw.execute(f"{_ROWS} idx IN ({marks})", chunk)}
            for index in chunk:
                if index not in found:
                    raise missing(f"row `{index}`")
                yield found[index]
            count = min(2 * count, _ROWS_MOST)


def _terms(query: Query) -> list[int]:
    """Return the terms of one condition that is posted, the most particular; a decision is a call's id, or what another record is about."""
    if query.id is not None:
        return [id_term(query.id)]
    if query.decision is not None:
        return [id_term(query.decision), decision_term(query.decision)]
    return [] if query.subject is None else [subject_term(query.subject)]
