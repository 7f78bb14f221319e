"""What the controller tells the workers, through files under `data/control/`.

- `objects/<sha256>`: documents by digest, never changed, synced before anything names them;
- `current.json`: which configuration and which live state are in force, and as of when. Replaced atomically every 250 ms; its age is how a
  worker knows that its controller is alive (`Live.as_of_us`). It is not synced: after a crash of the machine the controller writes it anew.

Workers only read. A worker that cannot read keeps what it has and goes stale within the models' bounds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

_SYNC_EACH = 64
TICK_S = 0.25
"""How often the controller writes and workers look."""


class ControlError(Exception):
    """An object is missing or is not what its digest says."""


class Current(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in force."""

    manifest: str
    """Digest of the manifest; the `config_digest` of records."""
    live: str
    """Digest of the published live state; the `live_digest` of records."""
    as_of_us: int
    """Monotonic clock of this machine in microseconds when the controller last confirmed both."""


class ControlDirectory:
    """`data/control/` as both sides see it."""

    def __init__(self, data_dir: Path) -> None:
        """Use `data_dir`/control."""
        self._root = data_dir / "control"
        self._objects = self._root / "objects"
        self._current = self._root / "current.json"
        self._stored: set[str] = set()  # objects this process has stored or found whole; changed by `put_many`

    def create(self) -> None:
        """Make the folders; the controller calls this once."""
        self._objects.mkdir(mode=0o750, parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Store an object durably and return its digest (SHA-256, hex)."""
        digest = hashlib.sha256(data).hexdigest()
        self.put_many({digest: data})
        return digest

    def put_many(self, objects: Mapping[str, bytes]) -> None:
        """Store objects durably by their digests; one sync of the folder for all."""
        fresh = {digest: data for digest, data in objects.items() if digest not in self._stored and not self._is_whole(digest, data)}
        for digest, data in fresh.items():
            _write(self._objects / digest, data, sync=len(fresh) <= _SYNC_EACH)
        if len(fresh) > _SYNC_EACH:
            os.sync()  # one for thousands of small files, instead of one each
        if fresh:
            _sync_folder(self._objects)
        self._stored.update(objects)

    def _is_whole(self, digest: str, data: bytes) -> bool:
        """Say whether an object is there with all its bytes: after a power loss a file may have its name and not its content."""
        try:
            return (self._objects / digest).read_bytes() == data
        except FileNotFoundError:
            return False

    def get(self, digest: str) -> bytes:
        """Return an object.

        Raises:
            ControlError: it is missing, or its bytes are not what the digest says.
        """
        try:
            data = (self._objects / digest).read_bytes()
        except FileNotFoundError:
            raise ControlError(f"object `{digest}` is missing from `{self._objects}`") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise ControlError(f"object `{digest}` in `{self._objects}` has been changed")
        return data

    def publish(self, current: Current) -> None:
        """Say what is in force."""
        _write(self._current, msgspec.json.encode(current), sync=False)

    def current(self) -> Current | None:
        """Return what is in force, or None before the controller has said so."""
        try:
            return msgspec.json.decode(self._current.read_bytes(), type=Current)
        except FileNotFoundError:
            return None

    def forget(self) -> None:
        """Withdraw what was in force before a start, so that no worker serves by it."""
        with contextlib.suppress(FileNotFoundError):
            self._current.unlink()


def _write(path: Path, data: bytes, *, sync: bool) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    fresh.replace(path)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
