"""Pseudonyms: what a record says instead of who a call was about.

pseudonym = HMAC-SHA256(tenant's epoch key, unit), cut to 128 bits. The same unit has the same pseudonym within a tenant and an epoch, and
nobody without the epoch key can link it to the unit or to another tenant's. The controller makes the epoch keys, rotates them
(`EPOCH_DAYS`) and destroys them; workers read them. Until a key is destroyed, whoever can read `data/vault/` can test a guessed unit
against a pseudonym: that is what the file's mode 0600 guards.

A record also *commits* to the bytes it was about without telling them: SHA-256 over a salt only the vault's key can make, and the bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.hmac256 import Hmac256

EPOCH_DAYS = 90
_DAY_US = 86_400_000_000


class EpochKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tenant's key for one epoch."""

    epoch: int
    secret: bytes
    begins_us: int
    ends_us: int


class TenantPseudonyms:
    """Makes the pseudonyms and commitments of one tenant in one epoch. No I/O."""

    __slots__ = ("_commit_key", "_mac", "epoch")

    def __init__(self, key: EpochKey) -> None:
        """Derive the two working keys from the epoch's secret."""
        self.epoch = key.epoch
        self._mac = Hmac256(hmac.digest(key.secret, b"assay pseudonym", "sha256"))
        self._commit_key = hmac.digest(key.secret, b"assay commitment", "sha256")

    def of(self, unit: str) -> str:
        """Return the pseudonym of a unit: 32 hex digits."""
        return self._mac.digest(unit.encode())[:16].hex()

    def salts(self, record_id: str) -> tuple[bytes, bytes]:
        """Return the two salts of a record, 32 bytes each: for what went in and for what came out. Only the vault's key can make them."""
        salts = hashlib.blake2b(record_id.encode(), key=self._commit_key).digest()
        return salts[:32], salts[32:]

    def inner_salts(self, record_id: str) -> tuple[bytes, bytes]:
        """Return the salts for what went to the model and what came from it, where policies changed either.

        They are others than those of `salts`: who is given those, to check what they sent and got, learns nothing of what was taken out.
        """
        salts = hashlib.blake2b(record_id.encode(), key=self._commit_key, person=b"inner").digest()
        return salts[:32], salts[32:]

    def field_hash(self, record_id: str, name: str, value: bytes) -> str:
        """Return the hash that stands for a captured field, 64 hex digits: nobody without the epoch's key can try values against it."""
        said = b"\0".join((b"field", record_id.encode(), name.encode(), value))
        return hmac.digest(self._commit_key, said, "sha256").hex()


def commitment(salt: bytes, payload: bytes) -> str:
    """Return SHA-256(salt || payload) as 64 hex digits."""
    return hashlib.sha256(salt + payload).hexdigest()


def rotate(keys: Mapping[str, list[EpochKey]], tenants: set[str], now_us: int, *, may_destroy: bool = True) -> dict[str, list[EpochKey]]:
    """Return the keys that are to be kept at `now_us`: ended epochs are gone, each tenant has a current one.

    Without `may_destroy` (the clock cannot be believed) no key goes, and one that has ended stays the current one.

    A tenant that comes later ends with those that are there, so that all units get new pseudonyms at one moment: sticky experiments, whose arms
    follow the pseudonym, then begin one new epoch and not one for each tenant (docs/decisions/2026-11-21-new-pseudonyms-new-epoch.md).
    """
    kept: dict[str, list[EpochKey]] = {}
    together_us = max((key.ends_us for held in keys.values() for key in held if key.ends_us > now_us), default=now_us + EPOCH_DAYS * _DAY_US)
    for tenant in sorted(tenants | set(keys)):
        alive = [key for key in keys.get(tenant, []) if key.ends_us > now_us or not may_destroy]
        if not alive:
            last = max((key.epoch for key in keys.get(tenant, [])), default=0)
            alive = [EpochKey(last + 1, secrets.token_bytes(32), now_us, together_us)]
        kept[tenant] = alive
    return kept


def renewed_us(keys: Mapping[str, list[EpochKey]]) -> int:
    """Return when units that were known last got new pseudonyms, in Unix microseconds; 0 if they never did."""
    return max((key.begins_us for held in keys.values() for key in held if key.epoch > 1), default=0)


def load(path: Path) -> dict[str, list[EpochKey]]:
    """Return the keys in `path` by tenant; empty where there is no file yet."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, list[EpochKey]])
    except FileNotFoundError:
        return {}


def save(path: Path, keys: Mapping[str, list[EpochKey]]) -> None:
    """Replace `path` atomically with mode 0600; the old keys are gone once the directory is synced."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    # What an earlier attempt left is removed, not reused: it may have another mode, or be a link.
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(keys))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
