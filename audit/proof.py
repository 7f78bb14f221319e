"""One leaf, proven offline: the text form of https://c2sp.org/tlog-proof, made from a log and checked with nothing but keys.

A proof holds the leaf's index, its inclusion proof and the whole signed checkpoint. It does not hold the leaf: who checks it brings the leaf.
Inclusion proves presence, never that nothing else is there.

Example:
    text = make_proof(source, 41, keys)
    verify_proof(text, leaf, keys)
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from audit.keyring import LogKey
from audit.keys import VerifierKey
from audit.merkle import ProofError, inclusion_proof, leaf_hash, verify_inclusion
from audit.note import NOTE_LIMIT_BYTES, NoteError, SignedCheckpoint, open_checkpoint, parse_decimal, parse_hash
from audit.source import CHECKPOINT, LogSource
from audit.tiles import TileReader

HEADER: Final = "c2sp.org/tlog-proof@v1"
HASH_LIMIT: Final = 63


@dataclass(frozen=True, slots=True)
class LeafProof:
    """A parsed proof; nothing about it is verified."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint_note: bytes

    def encode(self) -> bytes:
        """Return the text of the proof."""
        lines = [HEADER, f"index {self.index}", *(base64.b64encode(one).decode() for one in self.hashes), ""]
        return ("\n".join(lines) + "\n").encode() + self.checkpoint_note


def parse_proof(data: bytes) -> LeafProof:
    """Read a proof; its optional `extra` line is skipped, it is not authenticated.

    Raises:
        NoteError: It is malformed.
    """
    if len(data) > 2 * NOTE_LIMIT_BYTES:
        raise NoteError("proof is too large")
    head, separator, note = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise NoteError("proof is not ASCII before its checkpoint") from error
    if not separator or lines[0] != HEADER:
        raise NoteError(f"a proof begins with the line `{HEADER}`")
    rest = lines[2:] if len(lines) > 1 and lines[1].startswith("extra ") else lines[1:]
    if not rest or not rest[0].startswith("index ") or len(rest) - 1 > HASH_LIMIT:
        raise NoteError(f"a proof has one line `index N` and at most {HASH_LIMIT} hashes")
    return LeafProof(parse_decimal(rest[0].removeprefix("index ")), tuple(parse_hash(line) for line in rest[1:]), note)


def make_proof(source: LogSource, index: int, keys: Sequence[LogKey], *, origin: str | None = None) -> LeafProof:
    """Prove the leaf at `index` of the log behind `source`; the proof is verified against the leaf before it is given out.

    Raises:
        NoteError: The checkpoint is missing or not signed by a given key.
        ProofError: There is no such leaf, or the log does not hold together.
        SourceError, TileError: A file of the log cannot be read.
    """
    note = source.read(CHECKPOINT)
    if note is None:
        raise NoteError("the log has no checkpoint")
    head = open_checkpoint(note, keys, origin=origin).checkpoint
    proof = LeafProof(index, tuple(inclusion_proof(index, head.size, TileReader(source.read, head.size).hash_at)), note)
    leaf = source.entry(index, head.size)
    if leaf is None:
        raise ProofError(f"the log does not hold the entry `{index}`")
    verify_inclusion(index, head.size, leaf_hash(leaf), proof.hashes, head.root)
    return proof


def verify_proof(
    proof: LeafProof, leaf: bytes, keys: Sequence[LogKey], witnesses: Sequence[VerifierKey] = (), *, origin: str | None = None
) -> SignedCheckpoint:
    """Check that `leaf` is in the log at the proof's index; return the checkpoint that says so.

    Raises:
        NoteError: The checkpoint is not signed by a given key.
        ProofError: The leaf is not what the checkpoint covers at this index.
    """
    head = open_checkpoint(proof.checkpoint_note, keys, witnesses, origin=origin)
    verify_inclusion(proof.index, head.checkpoint.size, leaf_hash(leaf), proof.hashes, head.checkpoint.root)
    return head
