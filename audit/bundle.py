"""Evidence bundles: records with their proofs, in one zip file that OpenSSL or Go alone can check on another machine.

A bundle holds exact leaves, a C2SP tlog-proof for each, the signed checkpoint, the question that was asked, and programs that check it. Two kinds:

- `selection`: records that answer a question. Inclusion proves that they are there, never that nothing else is.
- `range`: every leaf from `first` up to `end`. Nothing is left out between, which follows from the proven indices themselves.

Rules for reading, because a bundle comes from a stranger:

- Nothing is unpacked to disk; only the names of a bundle are read, each once; links, encryption and other compressions are refused.
- Every size is bounded before anything is allocated: the file, its directory, each member as it is read (not as it claims), and all together.
- All proofs carry the one checkpoint, so a signature is verified once, not once a record.
- The question is tested: a bundle with a proven record that does not answer it, or with another scope than its kind has, is contradicted.

Example:
    data = make_bundle(source, keys, indices, question={"type": "call"}, made="2026-11-21T10:00:00Z")
    verdict = verify_bundle(io.BytesIO(data), keys)
"""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

from audit.keyring import BoundedKey, KeyPolicy, LogKey
from audit.keys import VerifierKey
from audit.merkle import SIZE_LIMIT, ProofError, consistency_proof, inclusion_proof, leaf_hash, verify_consistency, verify_inclusion
from audit.note import Checkpoint, NoteError, SignedCheckpoint, open_checkpoint, parse_hash
from audit.proof import LeafProof, parse_proof
from audit.query import QueryError, row_of
from audit.query import question as question_of
from audit.source import CHECKPOINT, LogSource
from audit.tiles import ENTRY_LIMIT_BYTES, WIDTH, TileReader

FORMAT: Final = "assay-bundle@1"
RECORDS_LIMIT: Final = 10_000
FILE_LIMIT_BYTES: Final = 128 << 20
CONTENT_LIMIT_BYTES: Final = 256 << 20
MEMBER_LIMIT_BYTES: Final = 2_000_000
_DIRECTORY_LIMIT_BYTES: Final = (2 * RECORDS_LIMIT + 32) * 128
_END_RECORD_BYTES: Final = 22
_PROGRAMS: Final = ("README.txt", "verify.sh", "verify.go", "go.mod.txt", "go.sum.txt")
_SINGLE: Final = frozenset({*_PROGRAMS, "manifest.json", "checkpoint", "keys", "known-checkpoint", "consistency"})
_NUMBERED: Final = re.compile(r"(?:records/([0-9]{8,19})\.leaf|proofs/([0-9]{8,19})\.tlog-proof)", re.ASCII)
_CLAIMS: Final = {
    "selection": "each record is in the log; others may have been left out",
    "range": "every record from `first` up to `end`, none left out",
}
_CONSTANT_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""The date in every member: the same question to the same log gives the same bytes."""


class BundleError(ValueError):
    """A bundle cannot be made, or is not one."""


class BundleContradicted(BundleError):  # noqa: N818 - says what was found
    """A bundle's records are proven, and are not those that the question it states asks for."""


@dataclass(frozen=True, slots=True)
class BundleVerdict:
    """What a bundle proves: its claim, the head it stands on, and the proven leaves by index."""

    kind: str
    first: int
    end: int
    question: Mapping[str, Any]
    head: SignedCheckpoint
    leaves: Mapping[int, bytes]
    extends_size: int | None
    """Size of the auditor's own earlier head that this one was proven to extend."""

    @property
    def is_complete(self) -> bool:
        """Say whether nothing between `first` and `end` is left out."""
        return self.kind == "range"


# ---- making -----------------------------------------------------------------------------------------------------------------------


def make_bundle(
    source: LogSource,
    keys: Sequence[LogKey],
    indices: Sequence[int],
    *,
    question: Mapping[str, Any],
    made: str,
    span: tuple[int, int] | None = None,
    witnesses: Sequence[VerifierKey] = (),
    known_checkpoint: bytes | None = None,
    origin: str | None = None,
) -> bytes:
    """Return the bundle of the leaves at `indices`, each verified before it goes in.

    Args:
        source: The log.
        keys: Its keys; one must have signed the head.
        indices: Leaves in ascending order, at most `RECORDS_LIMIT`, below the head's size; for a range exactly those of `span`.
        question: What was asked, as `audit.query.Query.stated` says it; for a range `{"range": "first:end"}`. Every record must answer it.
        made: When, RFC 3339; part of the bytes.
        span: (first, end) of a range; None for a selection.
        witnesses: Keys that go into `keys`.
        known_checkpoint: A head held from earlier; the bundle then proves that the log extends it.
        origin: Origin where it is not the name of the key.

    Raises:
        BundleError: Too many records, or none, or one that does not answer the question.
        NoteError, ProofError, SourceError, TileError: The log does not hold together.
    """
    if not 1 <= len(indices) <= RECORDS_LIMIT:
        raise BundleError(f"a bundle holds 1 to {RECORDS_LIMIT} records, `{len(indices)}` were chosen")
    if span is not None and list(indices) != list(range(*span)):
        raise BundleError(f"a range holds every record from `{span[0]}` up to `{span[1]}`")
    note = source.read(CHECKPOINT)
    if note is None:
        raise NoteError("the log has no checkpoint")
    head = open_checkpoint(note, keys, witnesses, origin=origin).checkpoint
    reader = TileReader(source.read, head.size)
    members: dict[str, bytes] = {name: importlib.resources.files("audit").joinpath("bundle_files", name).read_bytes() for name in _PROGRAMS}
    policy = KeyPolicy(tuple(key if isinstance(key, BoundedKey) else BoundedKey(key) for key in keys), tuple(witnesses))
    members |= {"manifest.json": _manifest(head, indices, question, made, span), "checkpoint": note, "keys": policy.text().encode()}
    if known_checkpoint is not None:
        members |= _consistency(known_checkpoint, head, keys, reader, origin)
    _require_answers(span or (0, head.size), question, (), is_range=span is not None)
    for index, leaf in _leaves(source, indices, head.size):
        _require_answers(span or (0, head.size), question, [(index, leaf)], is_range=span is not None)
        path = tuple(inclusion_proof(index, head.size, reader.hash_at))
        verify_inclusion(index, head.size, leaf_hash(leaf), path, head.root)
        members[f"records/{index:08d}.leaf"] = leaf
        members[f"proofs/{index:08d}.tlog-proof"] = LeafProof(index, path, note).encode()
    if sum(len(data) for data in members.values()) > CONTENT_LIMIT_BYTES:
        raise BundleError(f"the records and their proofs have more than {CONTENT_LIMIT_BYTES} bytes; choose fewer")
    return _zipped(members)


def _manifest(head: Checkpoint, indices: Sequence[int], question: Mapping[str, Any], made: str, span: tuple[int, int] | None) -> bytes:
    first, end = span or (0, head.size)
    kind = "selection" if span is None else "range"
    document = {
        "format": FORMAT,
        "kind": kind,
        "claim": _CLAIMS[kind],
        "first": first,
        "end": end,
        "origin": head.origin,
        "size": head.size,
        "root": head.root.hex(),
        "question": dict(question),
        "made": made,
        "records": len(indices),
    }
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _consistency(known: bytes, head: Checkpoint, keys: Sequence[LogKey], reader: TileReader, origin: str | None) -> dict[str, bytes]:
    old = open_checkpoint(known, keys, origin=origin).checkpoint
    if old.size > head.size:
        raise ProofError(f"the kept head has size `{old.size}`, the log shows `{head.size}`: it was cut or rolled back")
    path = consistency_proof(old.size, head.size, reader.hash_at) if old.size else []
    verify_consistency(old.size, head.size, old.root, head.root, path)
    return {"known-checkpoint": known, "consistency": b"".join(base64.b64encode(one) + b"\n" for one in path)}


def _leaves(source: LogSource, indices: Sequence[int], size: int) -> Iterator[tuple[int, bytes]]:
    """Give the leaves; neighbours share one read of their bundle."""
    held, entries = -1, list[bytes]()
    for index in indices:
        if not 0 <= index < size:
            raise ProofError(f"the signed head has `{size}` leaves, there is no leaf `{index}`")
        number, at = divmod(index, WIDTH)
        if number != held:
            found = source.bundle(number, min(WIDTH, size - number * WIDTH))
            if found is None:
                raise ProofError(f"the log does not hold the entry `{index}`")
            held, entries = number, found
        yield index, entries[at]


def _zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, _CONSTANT_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    return buffer.getvalue()


# ---- checking ---------------------------------------------------------------------------------------------------------------------


def verify_bundle(
    file: IO[bytes],
    keys: Sequence[LogKey],
    witnesses: Sequence[VerifierKey] = (),
    *,
    known_checkpoint: bytes | None = None,
    origin: str | None = None,
) -> BundleVerdict:
    """Check a bundle from a stranger with keys from elsewhere.

    Args:
        file: The zip file, seekable.
        keys: Keys of the log.
        witnesses: Keys of witnesses whose cosignatures are told.
        known_checkpoint: The auditor's own earlier head; the bundle must then prove that its head extends exactly this one.
        origin: Origin where it is not the name of the key.

    Raises:
        BundleError: It is not a bundle, is beyond a limit, or its parts do not fit together.
        BundleContradicted: A record does not answer the question, or the scope is not the question's.
        NoteError: The checkpoint is not signed by a given key.
        ProofError: A record is not what the checkpoint covers.
    """
    members = _read_members(file)
    manifest = _read_manifest(members)
    head = open_checkpoint(_need(members, "checkpoint"), keys, witnesses, origin=origin)
    if (manifest["origin"], manifest["size"]) != (head.checkpoint.origin, head.checkpoint.size):
        raise BundleError("the manifest names another head than the bundle's checkpoint")
    leaves = dict(_proven(members, head.checkpoint))
    kind, first, end = manifest["kind"], manifest["first"], manifest["end"]
    if len(leaves) != manifest["records"]:
        raise BundleError(f"the manifest counts `{manifest['records']}` records, the bundle holds `{len(leaves)}`")
    if kind == "range" and (
        not 0 <= first < end <= head.checkpoint.size or sorted(leaves) != list(range(first, min(end, first + RECORDS_LIMIT + 1)))
    ):
        raise BundleError(f"the bundle claims every record from `{first}` up to `{end}` and does not hold them all")
    if kind == "selection" and (first, end) != (0, head.checkpoint.size):
        raise BundleContradicted(f"a selection is of the whole log, 0 up to {head.checkpoint.size}; the manifest says {first} up to {end}")
    _require_answers((first, end), manifest["question"], leaves.items(), is_range=kind == "range")
    extends = None if known_checkpoint is None else _extends(members, known_checkpoint, head.checkpoint, keys, origin)
    return BundleVerdict(kind, first, end, manifest["question"], head, leaves, extends)


def _require_answers(scope: tuple[int, int], stated: Mapping[str, Any], leaves: Iterable[tuple[int, bytes]], *, is_range: bool) -> None:
    """Check that records are what a question asks for, in the way a full scan of the log answers it.

    Raises:
        BundleContradicted: A record is not, or the question is another one than the scope's.
        BundleError: The question is none that can be tested.
    """
    if is_range:
        if dict(stated) != {"range": f"{scope[0]}:{scope[1]}"}:
            raise BundleContradicted(f"the question of this range has to be `{scope[0]}:{scope[1]}`, the bundle states `{str(dict(stated))[:80]}`")
        return
    conditions = {name: value for name, value in stated.items() if name != "oldest_first"}
    if not all(isinstance(value, str) for value in conditions.values()) or not isinstance(stated.get("oldest_first", False), bool):
        raise BundleError("the question of a bundle has one text for each condition")
    try:
        asked = question_of(conditions)
    except QueryError as error:
        raise BundleError(f"the bundle states a question that cannot be tested: {error}") from error
    for index, leaf in leaves:
        if not asked.matches(row_of(index, leaf)):
            raise BundleContradicted(f"record `{index}` is in the log, and does not answer the question that the bundle states: {conditions}")


def _proven(members: Mapping[str, bytes], head: Checkpoint) -> Iterator[tuple[int, bytes]]:
    """Give each record once its proof has been checked against the head."""
    checkpoint = members["checkpoint"]
    numbers = {kind: {_NUMBERED.fullmatch(name)[at] for name in members if name.startswith(kind)} for at, kind in ((1, "records/"), (2, "proofs/"))}  # type: ignore[index]
    if numbers["records/"] != numbers["proofs/"] or not numbers["records/"]:
        raise BundleError("every record has one proof, and every proof its record")
    for number in sorted(str(one) for one in numbers["records/"]):
        proof = parse_proof(members[f"proofs/{number}.tlog-proof"])
        if number != f"{proof.index:08d}":
            raise BundleError(f"the proof in `proofs/{number}.tlog-proof` is of index `{proof.index}`")
        if proof.checkpoint_note != checkpoint:
            raise BundleError(f"the proof of record `{proof.index}` carries another checkpoint than the bundle")
        leaf = members[f"records/{number}.leaf"]
        verify_inclusion(proof.index, head.size, leaf_hash(leaf), proof.hashes, head.root)
        yield proof.index, leaf


def _extends(members: Mapping[str, bytes], known: bytes, head: Checkpoint, keys: Sequence[LogKey], origin: str | None) -> int:
    old = open_checkpoint(known, keys, origin=origin).checkpoint
    carried = members.get("known-checkpoint")
    if carried is None and (old.size, old.root) != (head.size, head.root):
        raise BundleError("the bundle proves nothing about your earlier head; hint: ask for one made with `--known` and that head")
    if carried is not None and open_checkpoint(carried, keys, origin=origin).checkpoint != old:
        raise BundleError("the bundle proves that the log extends another head than yours")
    path = [parse_hash(line) for line in members.get("consistency", b"").decode("ascii", "replace").splitlines()[:64]]
    verify_consistency(old.size, head.size, old.root, head.root, path)
    return old.size


def _read_manifest(members: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        document = json.loads(_need(members, "manifest.json"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"the manifest is not JSON: {error}") from error
    kinds = {"format": str, "kind": str, "first": int, "end": int, "origin": str, "size": int, "question": dict, "records": int}
    if type(document) is not dict or any(type(document.get(key)) is not kind for key, kind in kinds.items()):
        raise BundleError(f"the manifest must have {', '.join(kinds)}")
    if document["format"] != FORMAT or document["kind"] not in _CLAIMS:
        raise BundleError(f"this is `{document['format'][:40]}`, kind `{document['kind'][:40]}`; known is `{FORMAT}`, kinds `selection` and `range`")
    if not all(0 <= document[key] < SIZE_LIMIT for key in ("first", "end", "size", "records")):
        raise BundleError("a number of the manifest is out of range")
    return document


def _need(members: Mapping[str, bytes], name: str) -> bytes:
    data = members.get(name)
    if data is None:
        raise BundleError(f"the bundle has no `{name}`")
    return data


def _read_members(file: IO[bytes]) -> dict[str, bytes]:
    """Read every member within the bounds; what is read is counted, not what the directory claims."""
    _check_directory(file)
    members: dict[str, bytes] = {}
    total = 0
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                limit = _member_limit(info, members)
                with archive.open(info) as member:
                    data = member.read(limit + 1)
                total += len(data)
                if len(data) > limit or total > CONTENT_LIMIT_BYTES:
                    raise BundleError(f"`{info.filename[:80]}` is larger than a bundle's part may be")
                members[info.filename] = data
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, RuntimeError, zlib.error) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"not a zip file that can be read: {error}") from error
    return members


def _check_directory(file: IO[bytes]) -> None:
    """Bound the file and its directory before `zipfile` reads it whole; bundles have no comment and no 64-bit directory (APPNOTE 4.3.16)."""
    size = file.seek(0, io.SEEK_END)
    if size > FILE_LIMIT_BYTES:
        raise BundleError(f"the file has `{size}` bytes, at most {FILE_LIMIT_BYTES} are read")
    if size < _END_RECORD_BYTES:
        raise BundleError("not a zip file: too short")
    file.seek(size - _END_RECORD_BYTES)
    end = file.read(_END_RECORD_BYTES)
    directory = int.from_bytes(end[12:16], "little")
    if end[:4] != b"PK\x05\x06" or end[20:22] != b"\0\0" or directory == 0xFFFFFFFF:
        raise BundleError("not a zip file as bundles are: it has a comment, a 64-bit directory, or no end")
    if directory > _DIRECTORY_LIMIT_BYTES:
        raise BundleError(f"the zip file's directory has `{directory}` bytes, at most {_DIRECTORY_LIMIT_BYTES} are possible")
    file.seek(0)


def _member_limit(info: zipfile.ZipInfo, members: Mapping[str, bytes]) -> int:
    """Return how long a member may be, or refuse it."""
    name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
    numbered = _NUMBERED.fullmatch(name)
    if name not in _SINGLE and numbered is None:
        raise BundleError(f"`{name[:80]}` is no part of a bundle")
    if name in members:
        raise BundleError(f"`{name[:80]}` is there twice")
    if kind not in {0, stat.S_IFREG} or info.flag_bits & 0x1 or info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise BundleError(f"`{name[:80]}` is a link, encrypted, or compressed in another way than deflate")
    limit = ENTRY_LIMIT_BYTES if numbered is not None and numbered[1] else MEMBER_LIMIT_BYTES
    if info.file_size > limit:
        raise BundleError(f"`{name[:80]}` claims `{info.file_size}` bytes, at most {limit} are possible")
    return limit
