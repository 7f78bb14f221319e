"""What is kept of one call: salts of its commitments, and captured fields. Pure.

The *content* of an entry is 32 random bytes, the seed, followed by JSON. The seed makes the salts of the record's commitments, and it makes
SHA-256 over the content a salted commitment: `payload.vault` of the record, which tells nothing of what it commits to and proves it once it is shown.

Example:
    content = encode_content(seed, {"request": {"/parameters/age": 41}})
    record["payload"]["vault"] = committed(content)
    salt_in, salt_out = EntrySalts(seed).salts(record_id)
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

SEED_BYTES: Final = 32
MOST_CONTENT_BYTES: Final = 48 * 1024
"""Longest content; with the entry's head it stays below the longest item of a frame."""

Fields = dict[str, dict[str, Any]]
"""Where from (`request`, `reply`, `context`) -> JSON pointer -> value."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a worker sends to the keeper. `unit` is used to find the subject's keys later and is never stored."""

    record: str
    """Id of the call: its decision's id."""
    tenant: str
    subject: str
    """Pseudonym of the unit."""
    unit: str
    kept_us: int
    """When the call began, Unix microseconds."""
    expires_us: int
    content: bytes


class EntrySalts:
    """The salts of one record's commitments, made from its entry's seed: whoever destroys the entry destroys them."""

    __slots__ = ("seed",)

    def __init__(self, seed: bytes) -> None:
        """Take 32 random bytes."""
        self.seed = seed

    def salts(self, record: str) -> tuple[bytes, bytes]:
        """Return the salts for what went in and for what came out, 32 bytes each."""
        both = hashlib.blake2b(record.encode(), key=self.seed).digest()
        return both[:32], both[32:]

    def inner_salts(self, record: str) -> tuple[bytes, bytes]:
        """Return the salts for what went to the model and what came from it, where policies changed either."""
        both = hashlib.blake2b(record.encode(), key=self.seed, person=b"inner").digest()
        return both[:32], both[32:]


def encode_content(seed: bytes, fields: Fields) -> bytes:
    """Return the content of an entry; where the fields are too long or cannot be written, only that is kept."""
    try:
        content = seed + msgspec.json.encode({"fields": fields}, order="sorted")
    except (ValueError, TypeError, OverflowError, RecursionError):
        # A caller's text can be JSON and no UTF-8; a call is not given up for that.
        return seed + msgspec.json.encode({"fields": {}, "unwritable": 1}, order="sorted")
    if len(content) > MOST_CONTENT_BYTES:
        return seed + msgspec.json.encode({"fields": {}, "too_long": len(content)}, order="sorted")
    return content


def decode_content(content: bytes) -> tuple[EntrySalts, dict[str, Any]]:
    """Return salts and fields of a content. Raises ValueError where it is none."""
    if len(content) < SEED_BYTES:
        raise ValueError("an entry's content is shorter than its seed")
    return EntrySalts(content[:SEED_BYTES]), msgspec.json.decode(content[SEED_BYTES:], type=dict[str, Any])


def committed(content: bytes) -> str:
    """Return the commitment to a content, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()
