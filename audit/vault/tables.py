"""What the vault holds, as SQLModel classes: one shape for the SQLite file and for PostgreSQL. A test holds the migrated stores to it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Text, UniqueConstraint
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel


class VaultTable(SQLModel, registry=registry()):
    """Base of the vault's tables."""


class KeyRow(VaultTable, table=True):
    """The data key of one subject, wrapped. When the row is gone, so is everything sealed under it."""

    __tablename__ = "vault_key"
    __table_args__ = (UniqueConstraint("tenant", "subject"), Index("vault_key_handle", "handle"))

    id: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    tenant: str = Field(sa_column=Column(Text, nullable=False))
    subject: str = Field(sa_column=Column(Text, nullable=False))
    handle: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    master: str = Field(sa_column=Column(Text, nullable=False))
    wrapped: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class EntryRow(VaultTable, table=True):
    """What was kept of one call. `box` is NULL once it was erased; the row goes when its time is over."""

    __tablename__ = "vault_entry"
    __table_args__ = (Index("vault_entry_key", "key_id"), Index("vault_entry_expires", "expires_us"))

    record: str = Field(sa_column=Column(Text, primary_key=True))
    key_id: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    kept_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    expires_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    box: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    erasure: str | None = Field(default=None, sa_column=Column(Text, nullable=True))


class TombstoneRow(VaultTable, table=True):
    """A data key that was destroyed on request. `subject` lets an entry still under way be refused; it is blanked after a day."""

    __tablename__ = "vault_tombstone"

    key_id: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    erasure: str = Field(sa_column=Column(Text, nullable=False))
    erased_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    tenant: str = Field(sa_column=Column(Text, nullable=False))
    subject: str = Field(sa_column=Column(Text, nullable=False))
