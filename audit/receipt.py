"""Receipts: a signed promise that one record is in the log, given to the caller before the tree covers it.

A receipt is a C2SP signed note, so that OpenSSL or Go checks its signature as it checks a checkpoint's:

    assay-receipt@1
    log assay.example/prod
    decision 01a1fbcc-5e01-7403-96da-84370087a0ca
    leaf q6TzIO…=                                  SHA-256 of 0x00 and the leaf's bytes (RFC 6962 2.1)
    writer n1.w0 1763700000123 41                  node, epoch, sequence number
    time 2026-11-21T10:00:00.123456Z
    merge 5 s                                      from that time a signed head covers the leaf this soon

    — assay.example/prod/receipts base64

Rules:

- It is signed by a *receipt key*, made by the controller, never by the log's own key, which no worker holds. The log certifies the key: a record
  `key.certified` stands in it before the key's first receipt, `key.withdrawn` after its last.
- Its second line begins with `log `, so that no receipt can be read as a checkpoint, whose second line is a number.
- It says nothing of what the record holds: whoever has the leaf compares its hash.

Example:
    note = make_receipt(Receipt(origin, decision, leaf_hash(leaf), "n1.w0", epoch, seq, time_text(now_us)), key)
    receipt = open_receipt(note, certified)
"""

from __future__ import annotations

import base64
import bisect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from audit.entry import time_us
from audit.keys import InvalidKey, VerifierKey, check_name, decode_base64
from audit.note import Note, NoteError, Signature, parse, parse_hash, verify
from audit.signer import Signer

FORMAT: Final = "assay-receipt@1"
MERGE_S: Final = 5
"""Seconds within which a signed head covers a promised record."""
PURPOSE: Final = "receipts"
RECEIPT_LIMIT_BYTES: Final = 4096
_SUFFIX: Final = "/receipts"
_FIELDS: Final = re.compile(
    re.escape(FORMAT) + r"\n"
    r"log (?P<origin>[!-~]{1,255})\n"
    r"decision (?P<decision>[0-9a-f-]{36})\n"
    r"leaf (?P<leaf>[A-Za-z0-9+/]{43}=)\n"
    r"writer (?P<node>[!-~]{1,255}) (?P<epoch>0|[1-9][0-9]{0,15}) (?P<seq>0|[1-9][0-9]{0,15})\n"
    r"time (?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)\n"
    r"merge (?P<merge>[1-9][0-9]{0,3}) s\n",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is promised; nothing about it is verified."""

    origin: str
    decision: str
    """Id of the call, as `Assay-Decision` says it."""
    leaf_hash: bytes
    node: str
    epoch: int
    seq: int
    time: str
    """When it was promised, RFC 3339 in UTC."""
    merge_s: int = MERGE_S

    def text(self) -> str:
        """Return the note's text."""
        leaf = base64.b64encode(self.leaf_hash).decode()
        return (
            f"{FORMAT}\nlog {self.origin}\ndecision {self.decision}\nleaf {leaf}\n"
            f"writer {self.node} {self.epoch} {self.seq}\ntime {self.time}\nmerge {self.merge_s} s\n"
        )

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "origin": self.origin,
            "decision": self.decision,
            "leaf_hash": self.leaf_hash.hex(),
            "writer": {"node": self.node, "epoch": self.epoch, "seq": self.seq},
            "time": self.time,
            "merge_s": self.merge_s,
        }


def key_name(origin: str) -> str:
    """Return the name of a log's receipt keys."""
    return check_name(origin + _SUFFIX)


def origin_of(name: str) -> str:
    """Return the origin of the log that a receipt key promises for.

    Raises:
        InvalidKey: It is not the name of one.
    """
    if not name.endswith(_SUFFIX) or name == _SUFFIX:
        raise InvalidKey(f"`{name[:80]}` does not name a receipt key: it has to end in `{_SUFFIX}`")
    return name.removesuffix(_SUFFIX)


def make_receipt(receipt: Receipt, key: Signer) -> bytes:
    """Return the signed note: one Ed25519 signature, and little else, because it is made while a caller waits."""
    text = receipt.text()
    return Note(text, (Signature(key.name, key.verifier.id, key.sign(text.encode())),)).encode()


def header_of(note: bytes) -> bytes:
    """Return a receipt as the value of the header `Assay-Receipt`: base64 of the note."""
    return base64.b64encode(note)


def read_note(data: bytes) -> bytes:
    """Return the note of a receipt that was kept as it is, or as the header said it.

    Raises:
        NoteError: It is neither.
    """
    if len(data) > RECEIPT_LIMIT_BYTES:
        raise NoteError(f"a receipt has at most {RECEIPT_LIMIT_BYTES} bytes, got `{len(data)}`")
    if data.startswith(FORMAT.encode()):
        return data
    try:
        return decode_base64(data.strip().decode("ascii"))
    except ValueError as error:
        raise NoteError(f"this is no receipt: neither a note that begins with `{FORMAT}`, nor the base64 of one ({error})") from error


def parse_receipt(note: bytes) -> Receipt:
    """Read a receipt's text; nothing about it is verified.

    Raises:
        NoteError: It is malformed.
    """
    if len(note) > RECEIPT_LIMIT_BYTES:
        raise NoteError(f"a receipt has at most {RECEIPT_LIMIT_BYTES} bytes, got `{len(note)}`")
    found = _FIELDS.fullmatch(parse(note).text)
    if found is None:
        raise NoteError(f"this is no receipt: its text is not that of `{FORMAT}`")
    if time_us(found["time"]) is None:
        raise NoteError(f"`{found['time']}` is no time: a promise from no day on is never due")
    return Receipt(
        found["origin"],
        found["decision"],
        parse_hash(found["leaf"]),
        found["node"],
        int(found["epoch"]),
        int(found["seq"]),
        found["time"],
        int(found["merge"]),
    )


@dataclass(frozen=True, slots=True)
class Certificate:
    """A receipt key as the log certifies it: for which gateway, at which leaf, and when it was withdrawn (empty while it was not)."""

    key: VerifierKey
    node: str
    index: int
    withdrawn: str = ""
    withdrawn_index: int = -1


class Certificates:
    """The receipt keys of a log, folded from its `key.certified` and `key.withdrawn` records. Changed by `fold` alone."""

    def __init__(self) -> None:
        """Know no key yet."""
        self.by_vkey: dict[str, Certificate] = {}

    def fold(self, index: int, record: Mapping[str, Any]) -> None:
        """Take one record in; one that is for another purpose, or is no sound key, certifies nothing."""
        vkey, kind = record.get("vkey"), record.get("type")
        if record.get("purpose") != PURPOSE or not isinstance(vkey, str):
            return
        held = self.by_vkey.get(vkey)
        if kind == "key.certified" and held is None and isinstance(record.get("node"), str):
            try:
                self.by_vkey[vkey] = Certificate(VerifierKey.parse(vkey), record["node"], index)
            except InvalidKey:
                return
        elif kind == "key.withdrawn" and held is not None and held.withdrawn_index < 0:
            self.by_vkey[vkey] = Certificate(held.key, held.node, held.index, str(record.get("time", "")), index)

    def of(self, note: bytes) -> Certificate | None:
        """Return the certificate of the key that a note says it was signed by; None where the log certifies none."""
        signers = {(one.name, one.key_id) for one in parse(note).signatures}
        return next((one for one in self.by_vkey.values() if (one.key.name, one.key.id) in signers), None)


def certified_near(certificates: Iterable[Certificate], writer: str, index: int) -> list[int]:
    """Return the leaves that certify the keys by which a leaf may have been promised, however many keys the log has certified since.

    Args:
        certificates: All of the log's.
        writer: Whose leaf it is.
        index: The leaf. Its gateway's key was certified before it; a key that follows may have signed just after.
    """
    own = sorted(one.index for one in certificates if writer.startswith(f"{one.node}."))
    at = bisect.bisect(own, index)
    return own[max(0, at - 2) : at + 1]


def open_receipt(note: bytes, certificate: Certificate) -> Receipt:
    """Return what a receipt promises, once its certified key has been seen to have signed it.

    Raises:
        NoteError: Malformed, not signed by that key, or of another log or gateway than the key may promise for.
    """
    receipt = parse_receipt(note)
    verify(parse(note), [certificate.key])
    if certificate.key.name != key_name(receipt.origin):
        raise NoteError(f"the receipt is of log `{receipt.origin}`, its key is `{certificate.key.name}`")
    if not receipt.node.startswith(f"{certificate.node}."):
        raise NoteError(f"the receipt is of writer `{receipt.node}`, its key is certified for `{certificate.node}` alone")
    if certificate.withdrawn and receipt.time > certificate.withdrawn:
        raise NoteError(
            f"the receipt is of `{receipt.time}`, its key was withdrawn at `{certificate.withdrawn}` (leaf `{certificate.withdrawn_index}`)"
        )
    return receipt
