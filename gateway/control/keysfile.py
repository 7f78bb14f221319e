"""Follows the keys file: who may sign in, and a pseudonym key for every tenant that may.

Rules:
- A file that cannot be used leaves the old table in force, is told once, and is read again at every look: what was wrong with it, or with the disk,
  may be mended without another change of the file.
- Workers take a tenant's key only once the vault has a pseudonym key for it, so the vault is looked after in the same step.

- Where nodes share their pseudonym keys (`gateway/control/sharedkeys.py`) the file beside the workers is a copy of what the database says.

Example:
    keys = KeysFile(path, data_dir / "vault" / "epochs.json")
    await keys.look(time.time_ns() // 1000)
    keys.authenticator
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import apikeys, pseudonyms
from gateway.authenticate import Authenticator

if TYPE_CHECKING:
    from gateway.control.sharedkeys import SharedKeys

_log = logging.getLogger(__name__)


class KeysFile:
    """Owned by the controller's loop; every attribute is changed by `read` and `rotate` alone, in one thread at a time."""

    def __init__(self, path: Path, vault: Path, shared: SharedKeys | None = None) -> None:
        """Follow the keys file at `path`, with pseudonym keys at `vault`; nothing is read yet.

        Args:
            path: the keys file.
            vault: where workers find pseudonym keys.
            shared: pseudonym keys of all nodes, where they share them.
        """
        self._path = path
        self._vault = vault
        self._shared = shared
        self._one_at_a_time = asyncio.Lock()
        self._stamp: int | None = None  # of the file whose table and vault are in force
        self._refused: int | None = None  # of the file that was last told to be of no use
        self._authenticator: Authenticator | None = None
        self.tenants_ever: frozenset[str] = frozenset()
        """Every tenant that had a key here: their records stay when their keys are gone. Changed by `rotate`."""

    @property
    def authenticator(self) -> Authenticator:
        """The table in force; there is one once `read` has returned."""
        assert self._authenticator is not None  # noqa: S101 - `read` raises before the first
        return self._authenticator

    async def look(self, now_us: int) -> None:
        """Take the file in as `read` does, in a thread: disk and database may be slow. Raises as `read`."""
        async with self._one_at_a_time:
            await asyncio.to_thread(self.read, now_us)

    async def settle(self, now_us: int, *, may_destroy: bool) -> int:
        """Look after pseudonym keys as `rotate` does, in a thread. Raises and returns as `rotate`."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(self.rotate, now_us, may_destroy=may_destroy)

    def read(self, now_us: int) -> None:
        """Take the file in if it is another than the one in force.

        Raises:
            apikeys.InvalidKeyFile, OSError: It cannot be used, and no table was ever in force.
            audit.store.errors.StoreError: The shared pseudonym keys cannot be read; the table is in force, and they are asked for again.
        """
        stamp = self._path.stat().st_mtime_ns if self._path.exists() else 0
        if stamp == self._stamp:
            return
        try:
            self._authenticator = Authenticator(apikeys.KeyTable.of(apikeys.load(self._path)))
            self.rotate(now_us)
        except (apikeys.InvalidKeyFile, OSError):
            if self._authenticator is None:
                raise
            if stamp != self._refused:
                _log.exception("the keys file cannot be used; the old keys stay in force, and it is read again")
            self._refused = stamp
            return
        self._stamp = stamp  # only now: what could not be read is read again at the next look

    def rotate(self, now_us: int, *, may_destroy: bool = False) -> int:
        """Destroy pseudonym keys that have ended, if the clock may be believed (`gateway/control/vaultclock.py`), and make those that are missing.

        Returns:
            When known units last got new pseudonyms, in Unix microseconds.

        Raises:
            OSError: the vault cannot be written.
            audit.store.errors.StoreError: the shared keys cannot be read or changed.
        """
        held = pseudonyms.load(self._vault)

        def change(keys: dict[str, list[pseudonyms.EpochKey]]) -> dict[str, list[pseudonyms.EpochKey]]:
            return pseudonyms.rotate(keys, set(self.authenticator.tenants), now_us, may_destroy=may_destroy)

        kept = change(held) if self._shared is None else self._shared.settle(change, mine=held)
        if kept != held:
            pseudonyms.save(self._vault, kept)
        self.tenants_ever = frozenset(kept)
        return pseudonyms.renewed_us(kept)
