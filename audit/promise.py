"""Was a promise kept? A receipt (`audit/receipt.py`) against the log it is about, offline, with nothing but the log's key.

Two ways, both without trusting anybody who serves them:

- `judge_with_proof`: with what `/receipts/{id}` answered. Presence of the hash is proven; that a record is *not* there never can be in this way, nor
  that the leaf under the hash is of this call.
- `judge_in_log`: with the log itself. Every entry is read and hashed to the signed root, so that absence is as sure as presence.

Verdicts:

- *kept*: a signed head covers exactly the promised leaf, and, where it was judged by the log, the leaf carries the numbers that were promised.
- *broken*: the same signed log contradicts the promise. Receipt and head are both signed by its owner: together they are evidence against them, and
  `PromiseVerdict.evidence` puts them side by side. It is broken when the leaf carries other numbers, when another leaf has the promised number, when
  the log states that the number is lost or that the writer ended before it, when later numbers of the writer are there, and when the log by its
  own times has gone on past the promised delay.
- *open*: the log at hand ends before it could be told. A copy made later tells.

A receipt that no key certified in the log has signed is none: `NoteError`.

Example:
    verdict = judge_in_log(note, open_directory(Path("data")), [VerifierKey.parse(text)])
    print(verdict.evidence)
"""

from __future__ import annotations

import datetime as dt
import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from audit.entry import read_heading, time_us
from audit.keyring import LogKey
from audit.merkle import inclusion_proof, leaf_hashes, verify_inclusion
from audit.note import NoteError, SignedCheckpoint, open_checkpoint
from audit.proof import LeafProof, parse_proof, verify_proof
from audit.receipt import Certificates, Receipt, open_receipt, parse_receipt
from audit.source import CHECKPOINT, LogSource
from audit.tiles import WIDTH, HashTiles, TileReader

PROOF_FORMAT: Final = "assay-receipt-proof@1"
PROOF_LIMIT_BYTES: Final = 4 << 20
_STATEMENTS: Final = re.compile(rb'"type":"(?:key\.(?:certified|withdrawn)|log\.(?:lost|recover)|writer\.close)"')


class Promise(enum.StrEnum):
    """How it stands with a promise."""

    KEPT = "kept"
    BROKEN = "broken"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class PromiseVerdict:
    """What was found, and the head it rests on."""

    promise: Promise
    said: str
    receipt: Receipt
    head: SignedCheckpoint
    index: int | None = None
    """The leaf that keeps the promise, or contradicts it."""
    evidence: str = ""
    """Where it is broken: what to keep and to show to others, as text."""

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        head = self.head.checkpoint
        told: dict[str, Any] = {
            "promise": str(self.promise),
            "said": self.said,
            "receipt": self.receipt.document(),
            "index": self.index,
            "size": head.size,
            "root": head.root.hex(),
        }
        return {**told, "evidence": self.evidence} if self.evidence else told


# ---- with the log -----------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    """What one pass over the log has shown of a receipt. Changed by `look` alone."""

    receipt: Receipt
    certificates: Certificates = field(default_factory=Certificates)
    promised: tuple[int, bytes] | None = None
    """Index and bytes of the promised leaf."""
    at_number: int | None = None
    """Another leaf with the promised number."""
    stated: tuple[int, str] | None = None
    """Where the log says that the number is lost or was never used, and how."""
    later: int | None = None
    """A leaf with a later number of the writer."""
    latest: str = ""

    def look(self, start: int, entries: Sequence[bytes], hashes: Sequence[bytes]) -> None:
        """Take one bundle in."""
        receipt = self.receipt
        # `writer` is the last key of every record, its own keys are sorted: the number of a leaf is how it ends.
        writer = f'"writer":{{"epoch":{receipt.epoch},"node":"{receipt.node}","seq":'.encode()
        number = b"%b%d}}" % (writer, receipt.seq)
        for offset, (entry, digest) in enumerate(zip(entries, hashes, strict=True)):
            if digest == receipt.leaf_hash:
                self.promised = (start + offset, entry)
            elif entry.endswith(number):
                self.at_number = start + offset
            elif self.later is None and writer in entry[-len(number) - 16 :]:
                self._number(start + offset, entry)
            if _STATEMENTS.search(entry):
                self._state(start + offset, _decoded(entry), entries[:offset])
        self.latest = self._latest_of(entries[-1:])

    def _latest_of(self, entries: Sequence[bytes]) -> str:
        """Return the latest time the log has told, these entries included."""
        return max((self.latest, *(heading.time for heading in map(read_heading, entries) if heading is not None)))

    def _number(self, index: int, entry: bytes) -> None:
        writer = _decoded(entry).get("writer")
        if isinstance(writer, dict) and isinstance(writer.get("seq"), int) and writer["seq"] > self.receipt.seq:
            self.later = index

    def _state(self, index: int, record: dict[str, Any], before: Sequence[bytes]) -> None:
        """Take in what a record says of keys, or of the end of a writer; `before` are the entries of its bundle that it follows."""
        kind, receipt = record.get("type"), self.receipt
        if kind in ("key.certified", "key.withdrawn"):
            if kind == "key.withdrawn":
                # Its own time is its owner's to choose: nobody takes promises back by a date before what the log had told already.
                record = {**record, "time": max(str(record.get("time", "")), self.latest, self._latest_of(before))}
            self.certificates.fold(index, record)
            return
        by: Any = record.get("writer") if kind == "writer.close" else record
        if not isinstance(by, dict) or (by.get("node"), by.get("epoch")) != (receipt.node, receipt.epoch):
            return
        if kind == "log.lost":
            first, last = record.get("from"), record.get("to")
            if isinstance(first, int) and first <= receipt.seq and (not isinstance(last, int) or receipt.seq <= last):
                self.stated = (index, "the log itself states that this number is lost")
        else:
            last = record.get("last" if kind == "log.recover" else "last_seq")
            if isinstance(last, int) and last < receipt.seq:
                self.stated = (index, f"the log says that this writer ended with number `{last}`")


def judge_in_log(note: bytes, source: LogSource, keys: Sequence[LogKey], *, origin: str | None = None) -> PromiseVerdict:
    """Judge a receipt by its log: one pass over every entry, about as long as a verification of the tree.

    Args:
        note: The receipt's note (`audit.receipt.read_note`).
        source: The log, up to its head.
        keys: Its keys; one must have signed the head.
        origin: Origin where it is not the name of the key.

    Raises:
        NoteError: The head is not signed, the entries do not hash to it, or the receipt is none of this log.
        ProofError, SourceError, TileError: The log cannot be read or does not hold together.
    """
    receipt = parse_receipt(note)
    data = source.read(CHECKPOINT)
    if data is None:
        raise NoteError("the log has no checkpoint")
    head = open_checkpoint(data, keys, origin=origin)
    size = head.checkpoint.size
    seen, edge = _Seen(receipt), HashTiles()
    for number, entries in source.bundles(size):
        if entries is None:
            raise NoteError(f"the log does not hold its entries from `{number * WIDTH}`")
        hashes = leaf_hashes(entries)
        edge, _ = edge.append(hashes)
        seen.look(number * WIDTH, entries, hashes)
    if (edge.size, edge.root()) != (size, head.checkpoint.root):
        raise NoteError("the entries do not hash to the signed root: nothing can be said by this log; hint: `assay audit verify` says what is wrong")
    certificate = seen.certificates.of(note)
    if certificate is None:
        if seen.latest < receipt.time:
            return PromiseVerdict(
                Promise.OPEN, f"the log at hand ends at {seen.latest}, before the receipt, and certifies no such key yet", receipt, head
            )
        raise NoteError(f"no record of the log, up to size `{size}`, certifies the key of this receipt: its log's owner has not promised anything")
    open_receipt(note, certificate)
    if receipt.origin != head.checkpoint.origin:
        raise NoteError(f"the receipt is of log `{receipt.origin}`, this one is `{head.checkpoint.origin}`")
    return _judged(note, seen, head, source, certificate.index)


def _judged(note: bytes, seen: _Seen, head: SignedCheckpoint, source: LogSource, certified_at: int) -> PromiseVerdict:
    """Say what the pass over the whole log amounts to."""
    receipt = seen.receipt
    if seen.promised is not None:
        index, leaf = seen.promised
        fault = _other_numbers(receipt, _decoded(leaf))
        if fault is None:
            return PromiseVerdict(Promise.KEPT, f"leaf {index} is what was promised", receipt, head, index)
        why: str | None = f"leaf {index} has the promised hash, but {fault}"
        at: int | None = index
    elif seen.at_number is not None:
        at, why = seen.at_number, f"leaf {seen.at_number} has the promised number and is another record"
    elif seen.stated is not None:
        at, why = seen.stated[0], f"leaf {seen.stated[0]}: {seen.stated[1]}"
    elif seen.later is not None:
        at, why = seen.later, f"leaf {seen.later} has a later number of the same writer, the promised one is not there"
    else:
        at, why = None, _overdue(receipt, seen.latest)
    if why is None:
        return PromiseVerdict(Promise.OPEN, f"the log at hand ends at {seen.latest or 'nothing'}: too early to tell", receipt, head)
    return PromiseVerdict(Promise.BROKEN, why, receipt, head, at, _evidence(note, why, receipt, head, source, (certified_at, at)))


def _other_numbers(receipt: Receipt, record: dict[str, Any]) -> str | None:
    """Return how a leaf of the promised hash differs from what else was promised of it; None where it does not."""
    writer = {"node": receipt.node, "epoch": receipt.epoch, "seq": receipt.seq}
    if record.get("writer") != writer:
        return "carries another writer or number than the receipt"
    parents = record.get("parents")
    if receipt.decision != record.get("id") and not (isinstance(parents, list) and receipt.decision in parents):
        return "is of another call than the receipt"
    return None


def _overdue(receipt: Receipt, latest: str) -> str | None:
    promised_us, latest_us = time_us(receipt.time), time_us(latest)
    if promised_us is None or latest_us is None or latest_us <= promised_us + receipt.merge_s * 1_000_000:
        return None
    past = dt.timedelta(microseconds=latest_us - promised_us)
    return f"the log has no such record, and by its own times has gone on to {latest}, {past.total_seconds():.0f} s after the promise"


def _evidence(note: bytes, why: str, receipt: Receipt, head: SignedCheckpoint, source: LogSource, leaves: tuple[int, int | None]) -> str:
    """Return the promise, its key's certificate and the head that contradicts it, with proofs: all of it checks with the log's key alone."""
    certified_at, at = leaves
    log, size = head.note.encode(), head.checkpoint.size
    certificate = source.entry(certified_at, size)
    reader = TileReader(source.read, size)

    def proof(index: int) -> str:
        return LeafProof(index, tuple(inclusion_proof(index, size, reader.hash_at)), log).encode().decode()

    said = [
        f"EVIDENCE OF A BROKEN PROMISE: the owner of `{receipt.origin}` promised that leaf {receipt.leaf_hash.hex()}",
        f"is record {receipt.seq} of writer `{receipt.node}`, epoch {receipt.epoch}, within {receipt.merge_s} s of {receipt.time}.",
        f"Their signed log of size {size} says otherwise: {why}.",
        "",
        "----- the promise -----",
        note.decode().rstrip("\n"),
        f"----- its key, certified by leaf {certified_at} -----",
        (certificate or b"").decode("utf-8", "replace"),
        f"----- proof of leaf {certified_at}, with the signed head -----",
        proof(certified_at).rstrip("\n"),
    ]
    if at is not None:
        said += [f"----- proof of leaf {at}, which contradicts it -----", proof(at).rstrip("\n")]
    return "\n".join([*said, "----- end -----", ""])


# ---- with a proof -----------------------------------------------------------------------------------------------------------------


def judge_with_proof(note: bytes, document: bytes, keys: Sequence[LogKey], *, origin: str | None = None) -> PromiseVerdict:
    """Judge a receipt by what `/receipts/{id}` answered.

    Args:
        note: The receipt's note.
        document: The answer, JSON.
        keys: Keys of the log.
        origin: Origin where it is not the name of the key.

    Raises:
        NoteError: The answer is none, its head is not signed, or no key that the log certifies has signed the receipt.
        ProofError: A proof does not verify.
    """
    receipt = parse_receipt(note)
    answer = _answer(document)
    certificates, head = Certificates(), None
    for one in answer["certificates"]:
        proof, leaf = parse_proof(one["proof"].encode()), one["leaf"].encode()
        head = verify_proof(proof, leaf, keys, origin=origin)
        certificates.fold(proof.index, _decoded(leaf))
    certificate = certificates.of(note)
    if head is None or certificate is None:
        raise NoteError("the answer proves no certificate of the key that signed this receipt; hint: judge it by the log itself")
    open_receipt(note, certificate)
    if receipt.origin != head.checkpoint.origin:
        raise NoteError(f"the receipt is of log `{receipt.origin}`, the proof of `{head.checkpoint.origin}`")
    for one in answer["records"]:
        proof = parse_proof(one["proof"].encode())
        if one["leaf_hash"] == receipt.leaf_hash.hex():
            head = open_checkpoint(proof.checkpoint_note, keys, origin=origin)
            verify_inclusion(proof.index, head.checkpoint.size, receipt.leaf_hash, proof.hashes, head.checkpoint.root)
            # Of the leaf there is the hash alone: an owner who promised another call's leaf is convicted by the log, not here.
            said = f"leaf {proof.index} has the promised hash; that it tells of this call only the leaf itself can show, or the log (`--log`)"
            return PromiseVerdict(Promise.KEPT, said, receipt, head, proof.index)
    return PromiseVerdict(Promise.OPEN, "the answer proves other records; whether this one is missing only the log itself can tell", receipt, head)


def _answer(document: bytes) -> dict[str, Any]:
    if len(document) > PROOF_LIMIT_BYTES:
        raise NoteError(f"an answer about a receipt has at most {PROOF_LIMIT_BYTES} bytes")
    try:
        answer = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise NoteError(f"the answer about a receipt is not JSON: {error}") from error
    if type(answer) is not dict or answer.get("format") != PROOF_FORMAT:
        raise NoteError(f"this is no answer about a receipt: its `format` is not `{PROOF_FORMAT}`")
    members = {"records": ("leaf_hash", "proof"), "certificates": ("leaf", "proof")}
    for name, texts in members.items():
        rows = answer.get(name)
        if type(rows) is not list or not all(type(row) is dict and all(type(row.get(text)) is str for text in texts) for row in rows):
            raise NoteError(f"`{name}` of the answer has to be a list of objects with {', '.join(texts)}")
    return answer


def _decoded(leaf: bytes) -> dict[str, Any]:
    try:
        record = orjson.loads(leaf)
    except orjson.JSONDecodeError:
        return {}
    return record if type(record) is dict else {}
