"""What the store holds, as SQLModel classes: the shape that migrations lead to and that admin reads go through.

Appending does not go through these classes: a thousand rows a time by the driver's `executemany` cost a tenth (`audit/store/ranges.py`).
A test holds the migrated files to these definitions.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, DateTime, Identity, Integer, LargeBinary, SmallInteger, Text, UniqueConstraint
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel


class RangeTable(SQLModel, registry=registry()):
    """Base of the tables of a range file."""


class ControlTable(SQLModel, registry=registry()):
    """Base of the tables of the control file."""


class SharedTable(SQLModel, registry=registry()):
    """Base of the tables of a shared log in PostgreSQL."""


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


class SharedLeafRow(SharedTable, table=True):
    """One committed record: its index in the log and the exact bytes that are hashed."""

    __tablename__ = "leaf"
    __table_args__ = (UniqueConstraint("node", "epoch", "seq"),)

    idx: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    node: str = Field(sa_column=Column(Text, nullable=False))
    epoch: int = Field(sa_column=Column(BigInteger, nullable=False))
    seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    data: bytes = Field(sa_column=Column("bytes", LargeBinary, nullable=False))


class SharedHeadRow(SharedTable, table=True):
    """One row: the index of the next leaf. Every append locks it, so that indices are in the order of commits."""

    __tablename__ = "head"
    __table_args__ = (CheckConstraint("id = 1"),)

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    next_index: int = Field(sa_column=Column(BigInteger, nullable=False))


class SharedWriterRow(SharedTable, table=True):
    """Where a writer stands, and whose it is: `instance` is the name of the data directory it belongs to."""

    __tablename__ = "writer"

    node: str = Field(sa_column=Column(Text, primary_key=True))
    epoch: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    last_seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    ended: bool = Field(sa_column=Column(Boolean, nullable=False))
    instance: str = Field(sa_column=Column(Text, nullable=False))


class SharedClaimRow(SharedTable, table=True):
    """The data directory that used a writer's name first; no other may."""

    __tablename__ = "claim"

    node: str = Field(sa_column=Column(Text, primary_key=True))
    instance: str = Field(sa_column=Column(Text, nullable=False))


class SharedCheckpointRow(SharedTable, table=True):
    """A signed tree head. Rows are only ever added, each larger than all before."""

    __tablename__ = "checkpoint"

    size: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    root: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    note: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    term: int = Field(sa_column=Column(BigInteger, nullable=False))


class SharedLeaderRow(SharedTable, table=True):
    """One row: who leads, when it last said so by the server's clock (NULL when the lease was given back), and what it says is in force."""

    __tablename__ = "leader"
    __table_args__ = (CheckConstraint("id = 1"),)

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    term: int = Field(sa_column=Column(BigInteger, nullable=False))
    instance: str = Field(sa_column=Column(Text, nullable=False))
    renewed_at: dt.datetime | None = Field(sa_column=Column(DateTime(timezone=True), nullable=True))
    node: str = Field(sa_column=Column(Text, nullable=False, server_default=""))
    manifest: str | None = Field(sa_column=Column(Text, nullable=True))
    live: str | None = Field(sa_column=Column(Text, nullable=True))
    stated_at: dt.datetime | None = Field(sa_column=Column(DateTime(timezone=True), nullable=True))
    shown: bytes | None = Field(sa_column=Column(LargeBinary, nullable=True))


class SharedLiveRow(SharedTable, table=True):
    """A live state by its digest; those that are over are removed by the leader."""

    __tablename__ = "live"

    digest: str = Field(sa_column=Column(Text, primary_key=True))
    data: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    put_at: dt.datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class SharedPseudonymRow(SharedTable, table=True):
    """One row at most: the pseudonym keys of every tenant, sealed under a key that the nodes share and that is not here."""

    __tablename__ = "pseudonym"
    __table_args__ = (CheckConstraint("id = 1"),)

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    key_id: str = Field(sa_column=Column(Text, nullable=False))
    version: int = Field(sa_column=Column(BigInteger, nullable=False))
    sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class SharedTermRow(SharedTable, table=True):
    """One leadership of a controller."""

    __tablename__ = "term"

    term: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    node: str = Field(sa_column=Column(Text, nullable=False))
    started_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class SharedBundleRow(SharedTable, table=True):
    """A configuration digest that took force, in the order it did."""

    __tablename__ = "bundle"

    serial: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    digest: str = Field(sa_column=Column(Text, nullable=False))
    term: int = Field(sa_column=Column(BigInteger, nullable=False))
    installed_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class SharedObjectRow(SharedTable, table=True):
    """A document of a configuration by its digest, so that every node finds what another has put in force."""

    __tablename__ = "object"

    digest: str = Field(sa_column=Column(Text, primary_key=True))
    data: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
