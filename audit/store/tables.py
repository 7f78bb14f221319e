"""What the store holds, as SQLModel classes: the shape that migrations lead to and that admin reads go through.

Appending does not go through these classes: a thousand rows a time by the driver's `executemany` cost a tenth (`audit/store/ranges.py`).
A test holds the migrated files to these definitions.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, Text, UniqueConstraint
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel


class RangeTable(SQLModel, registry=registry()):
    """Base of the tables of a range file."""


class ControlTable(SQLModel, registry=registry()):
    """Base of the tables of the control file."""


class LeafRow(RangeTable, table=True):
    """One committed record: its index in the log and the exact bytes that are hashed."""

    __tablename__ = "leaf"
    __table_args__ = (UniqueConstraint("node", "epoch", "seq"),)

    idx: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    node: str = Field(sa_column=Column(Text, nullable=False))
    epoch: int = Field(sa_column=Column(BigInteger, nullable=False))
    seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    data: bytes = Field(sa_column=Column("bytes", LargeBinary, nullable=False))


class WriterRow(RangeTable, table=True):
    """Where a writer stood when this range was opened, so that a retry is recognised across files; `ended` once its end is stated."""

    __tablename__ = "writer"

    node: str = Field(sa_column=Column(Text, primary_key=True))
    epoch: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    last_seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    ended: int = Field(sa_column=Column(Integer, nullable=False))


class CheckpointRow(ControlTable, table=True):
    """A signed tree head. Rows are only ever added, each larger than all before."""

    __tablename__ = "checkpoint"

    size: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    root: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    note: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    term: int = Field(sa_column=Column(BigInteger, nullable=False))


class TermRow(ControlTable, table=True):
    """One leadership of a controller. The largest term is the current one."""

    __tablename__ = "term"

    term: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    node: str = Field(sa_column=Column(Text, nullable=False))
    started_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class BundleRow(ControlTable, table=True):
    """A configuration digest that took force, in the order it did."""

    __tablename__ = "bundle"

    serial: int | None = Field(default=None, sa_column=Column(Integer, primary_key=True, autoincrement=True))
    digest: str = Field(sa_column=Column(Text, nullable=False))
    term: int = Field(sa_column=Column(BigInteger, nullable=False))
    installed_us: int = Field(sa_column=Column(BigInteger, nullable=False))
