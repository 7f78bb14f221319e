"""The receipt key of one gateway: made, certified in the log, put where workers find it, replaced on schedule, withdrawn.

The order is the argument:

1. `key.certified {purpose: receipts, vkey, node}` is committed.
2. The key's file is put in place, mode 0600. Only now can a worker sign with it: there is no receipt whose key the log does not certify.
3. A key that was followed by another one is withdrawn (`key.withdrawn`), once every worker has had time to see the new file.

A crash after 1 leaves a certified key that nobody holds; the next start makes another one and withdraws it.

Rules:

- The key lives in `data/run/`, which no backup holds: a restored gateway begins with a key of its own.
- It is kept over restarts for as long as its certificate is young enough.
- Where checkpoints are further apart than the promise allows, no key is made, and one that is there is withdrawn: no promise that cannot be kept.

Example:
    keeper = ReceiptKey(run_dir / RECEIPT_KEY, origin, "n1", clerk, registry.receipt_keys, lifetime_us=..., checkpoint_us=...)
    await keeper.settle(now_us, monotonic_s)
"""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Final

from audit.keys import InvalidKey, SigningKey, read_secret_file
from audit.receipt import MERGE_S, PURPOSE, Certificates, key_name
from gateway.control.clerk import Clerk

_log = logging.getLogger(__name__)
WITHDRAW_AFTER_S: Final = 10.0
"""A key that was replaced is withdrawn this long after: workers look ten times a second."""
CHECKPOINT_MOST_US: Final = MERGE_S * 1_000_000 * 2 // 5
"""Checkpoints that are further apart leave too little of the promised delay for the rest: no receipts then."""


class ReceiptKey:
    """Owned by the controller's loop; every attribute is changed by `settle` alone."""

    def __init__(self, path: Path, origin: str, node: str, clerk: Clerk, certificates: Certificates, *, lifetime_us: int, checkpoint_us: int) -> None:
        """Look after the key at `path`; `certificates` are those of the log, and are moved on here.

        Args:
            path: Where workers find it.
            origin: Of the log.
            node: Name of this gateway; the key promises for its writers alone.
            clerk: Commits records.
            certificates: Folded from the log's records.
            lifetime_us: How long a key signs.
            checkpoint_us: How often the log gets a checkpoint.
        """
        self._path, self._name, self._node = path, key_name(origin), node
        self._clerk, self._certificates = clerk, certificates
        self._lifetime_us, self._is_possible = lifetime_us, checkpoint_us <= CHECKPOINT_MOST_US
        self._current = ""  # verification key in place
        self._ends_us = -math.inf  # when it is replaced
        self._unplaced: SigningKey | None = None  # certified, and its file could not be written yet: there is not one record for each attempt
        self._placed_s = 0.0  # monotonic, when it was put in place or found there

    async def settle(self, now_us: int, monotonic_s: float) -> None:
        """Do what is due: put a key in place, replace one that is old, withdraw those that were replaced.

        Raises:
            audit.journal.JournalError: A record could not be committed; the next call tries again.
            OSError: The file cannot be written; the same.
        """
        if not self._is_possible:
            self._path.unlink(missing_ok=True)
        elif now_us >= self._ends_us and not self._found(now_us, monotonic_s):
            await self._make(now_us, monotonic_s)
        for vkey, one in list(self._certificates.by_vkey.items()):
            is_over = monotonic_s - self._placed_s >= WITHDRAW_AFTER_S
            if one.node == self._node and vkey != self._current and one.withdrawn_index < 0 and is_over:
                await self._withdraw(vkey)

    def _found(self, now_us: int, monotonic_s: float) -> bool:
        """Take over the key of an earlier life of this process, if it may go on; say whether it may."""
        if self._current or not self._path.exists():
            return False
        try:
            key = SigningKey.parse(read_secret_file(self._path))
            made_us = int(self._path.stat().st_mtime * 1e6)
        except (InvalidKey, OSError) as fault:
            _log.warning("the receipt key cannot be gone on with; another one is made", extra={"why": str(fault)})
            return False
        certificate = self._certificates.by_vkey.get(str(key.verifier))
        ends_us = made_us + self._lifetime_us
        is_ours = certificate is not None and certificate.node == self._node and certificate.withdrawn_index < 0 and key.name == self._name
        if not is_ours or now_us >= ends_us:
            return False
        self._current, self._ends_us, self._placed_s = str(key.verifier), ends_us, monotonic_s
        return True

    async def _make(self, now_us: int, monotonic_s: float) -> None:
        key = self._unplaced
        if key is None:
            key = SigningKey.generate(self._name)
            await self._certify(str(key.verifier))
            self._unplaced = key
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(key.secret_text() + "\n")
        fresh.replace(self._path)
        self._unplaced = None
        self._current, self._ends_us, self._placed_s = str(key.verifier), now_us + self._lifetime_us, monotonic_s

    def _carried(self, vkey: str) -> dict[str, str]:
        return {"purpose": PURPOSE, "vkey": vkey, "node": self._node}

    async def _certify(self, vkey: str) -> None:
        index = await self._clerk.record("key.certified", **self._carried(vkey))
        self._certificates.fold(index, {"type": "key.certified", **self._carried(vkey)})

    async def _withdraw(self, vkey: str) -> None:
        index = await self._clerk.record("key.withdrawn", **self._carried(vkey), reason="rotated")
        self._certificates.fold(index, {"type": "key.withdrawn", **self._carried(vkey)})
