"""What was erased, remembered outside the data directory: whoever restores an older copy of the vault does not bring it back.

`marks/vault.erased` holds one JSON line an erasure (its id, the ids of the destroyed keys, what its record says) and one when that record is
committed. It names no person: ids of keys are random. The file is only ever appended to; keep the newest one when a backup is restored.

Order of an erasure, and what a crash in between leaves:
1. `begin`: the line is durable. From here on the keys are as good as destroyed: every start of the gateway destroys them again.
2. the store destroys keys and boxes, and empties its write-ahead log.
3. the record `erasure` is committed.
4. `told`: it is known to be recorded. A crash between 1 and 4 does 2 and 3 again; at worst the record stands twice, under one erasure id.

Example:
    stones = Tombstones.open(root / "marks")
    stones.begin(Erasure(name, now_us, keys, carried))
    vault.destroy(keys, name, now_us)
    stones.told(name)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from audit.store.errors import StoreDamaged
from audit.store.sqlite import sync_directory, translated
from audit.vault.store import VaultStore

FILE_NAME: Final = "vault.erased"


class Erasure(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One erasure: which keys, and what its record says."""

    erasure: str
    erased_us: int
    keys: tuple[str, ...]
    """Ids of the destroyed data keys, hex."""
    record: dict[str, Any] = {}
    """What the record carries beside the counts; empty for one that another node recorded."""
    told: bool = False


class _Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    told: str


class Tombstones:
    """The file. Used by one process at a time for writing: the controller, or the keeper before it serves."""

    def __init__(self, path: Path, held: dict[str, Erasure]) -> None:
        """Take over what a file holds; use `open`."""
        self._path = path
        self._held = held  # by id, oldest first; changed by `begin` and `told`

    @classmethod
    def open(cls, folder: Path) -> Tombstones:
        """Read the file in `folder`; both are made if they are not there.

        Raises:
            StoreDamaged: A line is none of ours. What was erased is not known then, and the vault must not be opened.
            StoreFull, StoreBroken: It cannot be read or made.
        """
        path = folder / FILE_NAME
        with translated(path):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                data = path.read_bytes()
                whole, _, torn = data.rpartition(b"\n")
                if torn:  # cut off while it was written: what it was to say never began
                    os.ftruncate(handle, len(data) - len(torn))
                os.fsync(handle)
            finally:
                os.close(handle)
            sync_directory(folder)
        return cls(path, _parsed(path, whole.splitlines()))

    def all(self) -> list[Erasure]:
        """Return every erasure, oldest first."""
        return list(self._held.values())

    def pending(self) -> list[Erasure]:
        """Return those whose record may not be committed."""
        return [erasure for erasure in self._held.values() if not erasure.told]

    def begin(self, *erasures: Erasure) -> None:
        """Remember erasures for good. Raises StoreFull or StoreBroken; then nothing may be called erased."""
        self._append(*map(msgspec.json.encode, erasures))
        self._held |= {erasure.erasure: erasure for erasure in erasures}

    def told(self, name: str) -> None:
        """Remember that an erasure's record is committed."""
        self._append(msgspec.json.encode(_Told(name)))
        self._held[name] = msgspec.structs.replace(self._held[name], told=True)

    def _append(self, *lines: bytes) -> None:
        with translated(self._path), self._path.open("r+b") as file:
            # What a full disk left of a line that could not be written must not become one line with the next.
            file.truncate(file.read().rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
            file.write(b"".join(line + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())


def destroy_again(vault: VaultStore, stones: Tombstones) -> int:
    """Destroy whatever a restored copy brought back, and note what only the store remembers; return how many data keys were destroyed.

    To be done before anything of the vault is read or kept.
    """
    remembered = vault.tombstones()
    stated = {key for keys in remembered.values() for key in keys}
    again = 0
    for erasure in stones.all():
        keys = [bytes.fromhex(key) for key in erasure.keys]
        if set(keys) - stated or vault.held(keys):
            again += vault.destroy(keys, erasure.erasure, erasure.erased_us).keys
    known = {erasure.erasure for erasure in stones.all()}
    missing = [Erasure(name, 0, tuple(key.hex() for key in keys), told=True) for name, keys in remembered.items() if name not in known]
    if missing:
        stones.begin(*missing)
    return again


def _parsed(path: Path, lines: Sequence[bytes]) -> dict[str, Erasure]:
    held: dict[str, Erasure] = {}
    for number, line in enumerate(lines, 1):
        try:
            kind: type[Erasure | _Told] = _Told if line.startswith(b'{"told"') else Erasure
            said = msgspec.json.decode(line, type=kind)
        except msgspec.DecodeError as error:
            raise StoreDamaged(
                f"`{path}` line {number} is no tombstone: {error}\nhint: put the file back from a copy; the vault is not opened without it"
            ) from error
        if isinstance(said, _Told):
            if said.told in held:
                held[said.told] = msgspec.structs.replace(held[said.told], told=True)
        else:
            held[said.erasure] = said
    return held
