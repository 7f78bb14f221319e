"""Receipts of one worker: who asks with `Assay-Receipt: 1` gets a signed promise that the record of the call is in the log.

Rules:

- Who does not ask costs one look into the header table. Who asks costs one Ed25519 signature in the worker.
- The worker signs with a receipt key that the controller has made and certified in the log (`gateway/control/receiptkey.py`), and with no other: the
  file it follows is written after the record that certifies what is in it.
- The promise is of the leaf that ended the call, or, where the reply is a stream, of the `decision` that is written before its first byte.
- Where there is no key just now, or the call has no record of its own, the reply has no receipt. It never fails for that.

Example:
    promises = Promises.load(run_dir / RECEIPT_KEY, journal)
    headers.append(promises.header(record))
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final, Protocol

from audit.entry import time_text
from audit.keys import SigningKey, read_secret_file
from audit.receipt import Receipt, header_of, make_receipt, origin_of
from gateway.record import CallRecord

RECEIPT_KEY: Final = "receipts.key"
"""File of the receipt key in `data/run/`."""
ASKED: Final = b"assay-receipt"
"""Header of a request that asks, with the value `1`, and of the reply that promises."""


class Writer(Protocol):
    """Whose records are promised."""

    @property
    def node(self) -> str:
        """Name of the writer."""

    @property
    def epoch(self) -> int:
        """Its epoch."""


class FollowedKey:
    """The file of the receipt key, read again when it has changed. Owned by the worker's loop; `_stamp` is changed by `look` alone."""

    def __init__(self, path: Path) -> None:
        """Follow the file at `path`; nothing is read yet."""
        self._path = path
        self._stamp = 0

    def look(self, held: Promises | None, writer: Writer) -> Promises | None:
        """Return who signs now: `held` while the file is the same, None while there is none.

        Raises:
            audit.keys.InvalidKey: It is careless or malformed; it is read again at the next look.
        """
        try:
            stamp = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            self._stamp = 0
            return None
        if stamp != self._stamp:
            held = Promises.load(self._path, writer)
            self._stamp = stamp
        return held


class Promises:
    """Signs for one writer with one key. Immutable; another key makes another one."""

    __slots__ = ("_key", "_origin", "_writer")

    def __init__(self, key: SigningKey, writer: Writer) -> None:
        """Promise records of `writer` under `key`."""
        self._key = key
        self._origin = origin_of(key.name)
        self._writer = writer

    @classmethod
    def load(cls, path: Path, writer: Writer) -> Promises:
        """Read the key that the controller has put in place.

        Raises:
            audit.keys.InvalidKey: It is missing, careless or malformed.
        """
        return cls(SigningKey.parse(read_secret_file(path)), writer)

    def header(self, record: CallRecord) -> tuple[bytes, bytes]:
        """Return the header that promises the leaf of `record`, whose `promised` is set."""
        assert record.promised is not None  # noqa: S101 - asked before
        seq, digest = record.promised
        now = time_text(time.time_ns() // 1000)
        receipt = Receipt(self._origin, record.id, digest, self._writer.node, self._writer.epoch, seq, now)
        return ASKED, header_of(make_receipt(receipt, self._key))
