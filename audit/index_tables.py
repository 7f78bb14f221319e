"""The tables of the index (`audit/index.py`): rebuilt, never migrated."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Integer, LargeBinary, MetaData
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

LAYOUT = 4
"""Raised with every change of the tables, or of what is in them; an index of another layout is rebuilt."""


class _Tables(SQLModel, registry=registry()):
    """Own registry: these tables stay out of the ledger's metadata."""


def _number(*, is_key: bool = False) -> Any:
    return Field(sa_column=Column(Integer, primary_key=is_key, nullable=False, autoincrement=False))


def _bytes() -> Any:
    return Field(sa_column=Column(LargeBinary, nullable=False))


class Shape(_Tables, table=True):
    """What many records have in common. Columns as in `audit.query.Row`."""

    __tablename__ = "shape"

    id: int = Field(primary_key=True)
    digest: bytes
    """SHA-256 of the other columns, by which a shape is found; its index has nothing else in it."""
    type: str
    tenant: str
    actor: str
    model: str | None
    version: str | None
    policy: str | None
    rule: str | None
    experiment: str | None
    assigned: str | None
    served: str | None
    status: int | None
    code: str | None


class Indexed(_Tables, table=True):
    """One leaf: what is its own, and the shape it shares. Nothing but the number has an index."""

    __tablename__ = "leaf_index"

    idx: int = Field(primary_key=True)
    shape: int
    time: str
    id: str
    decision: str | None
    """NULL where it is the record's own id: of calls."""
    subject: str | None


class Block(_Tables, table=True):
    """A full block of rows: its earliest and latest time."""

    __tablename__ = "block"

    number: int = _number(is_key=True)
    low_time: str
    high_time: str


class ShapeBlock(_Tables, table=True):
    """Which rows of a full block have a shape: `audit.postings.shape_places`."""

    __tablename__ = "shape_block"

    shape: int = _number(is_key=True)
    block: int = _number(is_key=True)
    places: bytes = _bytes()


class BlockPostings(_Tables, table=True):
    """The postings of a full block, until its run is full: `audit.postings.block_entries`."""

    __tablename__ = "block_postings"

    block: int = _number(is_key=True)
    entries: bytes = _bytes()


class RunPostings(_Tables, table=True):
    """One part of the postings of a full run: `audit.postings.run_parts`. `place` is run * PARTS + part."""

    __tablename__ = "run_postings"

    place: int = _number(is_key=True)
    entries: bytes = _bytes()


class Progress(_Tables, table=True):
    """One row: how far the index reaches, and the SHA-256 of the last leaf in it."""

    __tablename__ = "progress"

    id: int = Field(primary_key=True)
    layout: int
    next_index: int
    tail_sha256: str


METADATA: MetaData = _Tables.metadata
SHARED = tuple(name for name in Shape.model_fields if name not in ("id", "digest"))
"""Columns of a row that its shape holds."""
OWN = ("idx", "shape", "time", "id", "decision", "subject")
"""Columns of `leaf_index`."""
