"""Signed notes, checkpoints and cosignatures (https://c2sp.org/signed-note, tlog-checkpoint, tlog-cosignature), read strictly.

A note is text ending in a newline, an empty line, and signature lines `— <key name> <base64(key id || signature)>`. A checkpoint is a note whose text
is origin, tree size, root hash and optional extension lines.

Rules:

- Parsing says nothing about trust: only what `verify` or `open_checkpoint` returns is to be believed.
- Signatures of unknown keys (by name and id together) are ignored; a bad signature of a known key refuses the whole note; none at all refuses it too.
- One spelling: base64 and numbers are canonical, nothing may trail, at most 100 signatures and 1 MB.
- `cosignature/v1` signs a time with the text: "as of then this is the largest consistent tree I have seen".

Example:
    >>> from audit.keys import SigningKey
    >>> key = SigningKey.generate("log.example", seed=bytes(32))
    >>> data = sign(Checkpoint("log.example", 0, EMPTY_ROOT).text(), [key])
    >>> open_checkpoint(data, [key.verifier]).checkpoint.size
    0
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from audit.keyring import BoundedKey, LogKey, plain
from audit.keys import COSIGNATURE_V1, ED25519, SignatureInvalid, VerifierKey, check_name, decode_base64
from audit.merkle import EMPTY_ROOT, HASH_BYTES, SIZE_LIMIT
from audit.signer import Signer

NOTE_LIMIT_BYTES: Final = 1_000_000
SIGNATURE_LIMIT: Final = 100
_DASH: Final = "— "
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_TIMESTAMP_BYTES: Final = 8

__all__ = ["EMPTY_ROOT", "Checkpoint", "Note", "NoteError", "SignedCheckpoint", "open_checkpoint", "parse", "sign", "verify"]


class NoteError(ValueError):
    """A note or checkpoint is malformed, or not signed as required."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line, not yet verified."""

    name: str
    key_id: bytes
    value: bytes

    def line(self) -> str:
        """Return the signature line with its newline."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.value).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note: `text` includes its final newline. Nothing about it is verified."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """Return the bytes of the note."""
        return (self.text + "\n" + "".join(signature.line() for signature in self.signatures)).encode()


@dataclass(frozen=True, slots=True)
class Verified:
    """A signature that verified, by which key, and for a cosignature at which time (POSIX seconds)."""

    key: VerifierKey
    signature: Signature
    time_s: int | None


def _text_is_sound(text: str) -> bool:
    return not any(character < " " and character != "\n" for character in text)


def parse_decimal(text: str) -> int:
    """Return a canonical decimal number below 2**63: no sign, no leading zero.

    Raises:
        NoteError: It is written otherwise.
    """
    if not _DECIMAL.fullmatch(text) or int(text) >= SIZE_LIMIT:
        raise NoteError(f"`{text[:24]}` is not a decimal number below 2**63 without leading zeros")
    return int(text)


def parse_hash(text: str) -> bytes:
    """Return the 32 bytes of a base64 hash.

    Raises:
        NoteError: It is not canonical base64 of 32 bytes.
    """
    try:
        value = decode_base64(text)
    except ValueError as error:
        raise NoteError(f"hash `{text[:48]}`: {error}") from error
    if len(value) != HASH_BYTES:
        raise NoteError(f"a hash has {HASH_BYTES} bytes, got `{len(value)}`")
    return value


def parse_signature_line(line: str) -> Signature:
    """Read one signature line without its newline.

    Raises:
        NoteError: It is malformed.
    """
    if not line.startswith(_DASH):
        raise NoteError(f"signature line `{line[:40]}` does not begin with an em dash and a space")
    name, separator, encoded = line.removeprefix(_DASH).partition(" ")
    try:
        check_name(name)
        data = decode_base64(encoded)
    except ValueError as error:
        raise NoteError(f"signature line of `{name[:80]}`: {error}") from error
    if not separator or len(data) < 5:
        raise NoteError(f"signature line of `{name}` is too short")
    return Signature(name, data[:4], data[4:])


def parse(data: bytes) -> Note:
    """Read a note.

    Raises:
        NoteError: It is malformed, too large, or without any signature line.
    """
    if len(data) > NOTE_LIMIT_BYTES:
        raise NoteError(f"note is larger than {NOTE_LIMIT_BYTES} bytes")
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise NoteError(f"note is not UTF-8: {error}") from error
    if not _text_is_sound(whole):
        raise NoteError("note contains a control character other than newline")
    body, separator, block = whole.rpartition("\n\n")
    if not separator or not block.endswith("\n"):
        raise NoteError("note has no signatures, or does not end in a newline")
    lines = block[:-1].split("\n")
    if len(lines) > SIGNATURE_LIMIT:
        raise NoteError(f"note has `{len(lines)}` signatures, at most {SIGNATURE_LIMIT} are allowed")
    return Note(body + "\n", tuple(parse_signature_line(line) for line in lines))


def _cosigned_message(text: str, time_s: int) -> bytes:
    """Frame the text for `cosignature/v1`: header line, time line, whole note text."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def make_signature(text: str, key: Signer, *, time_s: int | None = None) -> Signature:
    """Sign `text` as the type of `key` demands.

    Args:
        text: Note text with its final newline.
        key: An `ED25519` or `COSIGNATURE_V1` key.
        time_s: POSIX seconds; needed for a cosignature, unused otherwise.

    Raises:
        NoteError: The text cannot be a note's, or the time is missing or out of range.
    """
    if not text.endswith("\n") or not _text_is_sound(text):
        raise NoteError("note text must end in a newline and hold no other control character")
    if key.kind == ED25519:
        return Signature(key.name, key.verifier.id, key.sign(text.encode()))
    if key.kind != COSIGNATURE_V1:
        raise NoteError(f"keys of type `0x{key.kind:02x}` do not sign notes")
    if time_s is None or not 0 <= time_s < SIZE_LIMIT:
        raise NoteError(f"a cosignature needs a time in POSIX seconds, got `{time_s}`")
    stamp = time_s.to_bytes(_TIMESTAMP_BYTES, "big")
    return Signature(key.name, key.verifier.id, stamp + key.sign(_cosigned_message(text, time_s)))


def sign(text: str, keys: Sequence[Signer], *, time_s: int | None = None) -> bytes:
    """Return the bytes of a note over `text` signed by every key; see `make_signature`."""
    if not keys:
        raise NoteError("a note needs at least one signature")
    return Note(text, tuple(make_signature(text, key, time_s=time_s) for key in keys)).encode()


def _check(text: str, key: VerifierKey, signature: Signature) -> Verified:
    """Verify one signature of a known key."""
    if key.kind == ED25519:
        key.verify(text.encode(), signature.value)
        return Verified(key, signature, None)
    if key.kind != COSIGNATURE_V1:
        raise SignatureInvalid(f"keys of type `0x{key.kind:02x}` do not sign notes")
    time_s = int.from_bytes(signature.value[:_TIMESTAMP_BYTES], "big")
    if time_s >= SIZE_LIMIT:
        raise SignatureInvalid(f"cosignature of `{key.name}` has a time beyond 2**63 - 1")
    key.verify(_cosigned_message(text, time_s), signature.value[_TIMESTAMP_BYTES:])
    return Verified(key, signature, time_s)


def verify(note: Note, keys: Sequence[VerifierKey]) -> tuple[Verified, ...]:
    """Return the signatures of known keys, all of which verify.

    Raises:
        NoteError: A signature of a known key does not verify, or no known key signed.
    """
    known = {(key.name, key.id): key for key in keys}
    if len(known) != len(set(keys)):
        raise NoteError("two of the given keys share name and id")
    verified = []
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is None:
            continue
        try:
            verified.append(_check(note.text, key, signature))
        except SignatureInvalid as error:
            raise NoteError(str(error)) from error
    if not verified:
        signers = ", ".join(f"{signature.name}+{signature.key_id.hex()}" for signature in note.signatures[:5])
        raise NoteError(f"no known key signed this note; it carries signatures of `{signers}`")
    return tuple(verified)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: origin, number of leaves, root hash, extension lines (discouraged: nobody audits them)."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.origin or not _text_is_sound(self.origin) or "\n" in self.origin:
            raise NoteError("checkpoint origin must be one non-empty line")
        if not 0 <= self.size < SIZE_LIMIT:
            raise NoteError(f"checkpoint size `{self.size}` is out of range")
        if len(self.root) != HASH_BYTES:
            raise NoteError(f"checkpoint root must have {HASH_BYTES} bytes, got `{len(self.root)}`")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise NoteError("checkpoint of size `0` does not have the root of the empty tree")
        if any(not line or "\n" in line or not _text_is_sound(line) for line in self.extensions):
            raise NoteError("checkpoint extension lines must be single non-empty lines")

    def text(self) -> str:
        """Return the note text."""
        return "\n".join([self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions]) + "\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the text of a checkpoint note.

        Raises:
            NoteError: It is malformed.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1]:
            raise NoteError("a checkpoint has at least three lines and ends in a newline")
        return cls(lines[0], parse_decimal(lines[1]), parse_hash(lines[2]), tuple(lines[3:-1]))


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint whose signatures were verified."""

    checkpoint: Checkpoint
    note: Note
    log_signatures: tuple[Verified, ...]
    cosignatures: tuple[Verified, ...]


def open_checkpoint(
    data: bytes,
    log_keys: Sequence[LogKey],
    witness_keys: Sequence[VerifierKey] = (),
    *,
    origin: str | None = None,
) -> SignedCheckpoint:
    """Read a checkpoint and verify who signed it, and that each of these keys may sign this size.

    Args:
        data: The note.
        log_keys: Keys of the log; at least one must have signed.
        witness_keys: Keys of witnesses; those that signed are returned as cosignatures, none is required here.
        origin: Origin the checkpoint must have; by default the name of the log key that signed.

    Raises:
        NoteError: Malformed, not signed by the log, of another origin, a bad signature of a known key, or one of a key that may not sign this size.
    """
    note = parse(data)
    plain_keys = [plain(key) for key in log_keys]
    verified = verify(note, [*plain_keys, *witness_keys])
    log_signatures = tuple(one for one in verified if one.key in plain_keys)
    if not log_signatures:
        raise NoteError("the checkpoint is signed by a witness but not by the log")
    checkpoint = Checkpoint.parse(note.text)
    _require_in_bounds(checkpoint, log_signatures, log_keys)
    allowed = {one.key.name for one in log_signatures} if origin is None else {origin}
    if checkpoint.origin not in allowed:
        raise NoteError(f"checkpoint has origin `{checkpoint.origin}`, expected `{' or '.join(sorted(allowed))}`")
    return SignedCheckpoint(checkpoint, note, log_signatures, tuple(one for one in verified if one.key in witness_keys))


def _require_in_bounds(checkpoint: Checkpoint, signatures: Sequence[Verified], log_keys: Sequence[LogKey]) -> None:
    """Refuse a checkpoint that a key signed before its first or after its last size; see `audit.keyring`."""
    bounds = {key.key: key for key in log_keys if isinstance(key, BoundedKey)}
    for one in signatures:
        bound = bounds.get(one.key)
        if bound is not None and not bound.allows(checkpoint.size):
            raise NoteError(
                f"key `{one.key.name}+{one.key.id.hex()}` signed size `{checkpoint.size}`; "
                f"it may sign sizes from `{bound.first_size}` to `{bound.last_size}`"
            )
