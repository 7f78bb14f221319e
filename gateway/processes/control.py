"""What the controller tells the workers, through files under `data/control/`.

- `objects/<sha256>`: documents of the configuration by digest, never changed, synced before anything names them; records name them, so they stay;
- `live/<sha256>`: published live states by digest, the same way, but for the removal of old ones (`collect_live`);
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
"""How often the controller writes, whether or not anything has changed."""
LOOK_S = 0.1
"""How often workers look: a change is written at once, and waits for this."""


KEEP_LIVE_S = 600.0
"""A live state that was in force within this time is never removed: a worker that read its name a moment ago may still load it."""
KEEP_LIVE_BYTES = 256 << 20
"""Older ones are kept while all together take no more than this."""


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
        self._live = self._root / "live"
        self._live_ended_s: dict[str, float | None] = {}  # live state -> when it was last in force, None: now; oldest first; changed by `put_live`
        self._live_bytes: dict[str, int] = {}  # size of each of them; changed by `put_live` and `collect_live`
        self._current = self._root / "current.json"
        self._stored: set[str] = set()  # objects this process has stored or found whole; changed by `put_many`

    def create(self) -> None:
        """Make the folders; the controller calls this once."""
        self._objects.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._live.mkdir(mode=0o750, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Store an object durably and return its digest (SHA-256, hex)."""
        digest = hashlib.sha256(data).hexdigest()
        self.put_many({digest: data})
        return digest

    def put_live(self, data: bytes, now_s: float) -> str:
        """Store a live state durably and return its digest; it counts as in force from now until the next one is put.

        Args:
            data: its bytes.
            now_s: monotonic seconds.
        """
        digest = hashlib.sha256(data).hexdigest()
        if not self._live_ended_s:
            # Of an earlier life: when they were last in force is not known, so they count as if it had been a moment ago.
            for path in sorted(self._live.glob("[0-9a-f]" * 64), key=lambda path: path.stat().st_mtime_ns):
                self._live_ended_s[path.name], self._live_bytes[path.name] = now_s, path.stat().st_size
        if digest not in self._live_bytes or not _is_whole(self._live / digest, data):
            _write(self._live / digest, data, sync=True)
            _sync_folder(self._live)
        self._live_ended_s |= {held: now_s for held, ended_s in self._live_ended_s.items() if ended_s is None}
        self._live_ended_s.pop(digest, None)
        self._live_ended_s[digest] = None
        self._live_bytes[digest] = len(data)
        return digest

    def collect_live(self, now_s: float) -> int:
        """Remove live states that take more room than they may; return how many. Never one that was in force in the last `KEEP_LIVE_S`.

        Records name the live state they were decided by. One that has been removed leaves the record as true as before: the choice is recomputed from
        the record alone.
        """
        removed = 0
        total = sum(self._live_bytes.values())
        for digest, ended_s in list(self._live_ended_s.items()):
            if total <= KEEP_LIVE_BYTES:
                break
            if ended_s is None or now_s - ended_s <= KEEP_LIVE_S:
                continue
            (self._live / digest).unlink(missing_ok=True)
            del self._live_ended_s[digest]
            total -= self._live_bytes.pop(digest)
            removed += 1
        return removed

    def put_many(self, objects: Mapping[str, bytes]) -> None:
        """Store objects durably by their digests; one sync of the folder for all."""
        fresh = {digest: data for digest, data in objects.items() if digest not in self._stored and not _is_whole(self._objects / digest, data)}
        for digest, data in fresh.items():
            _write(self._objects / digest, data, sync=len(fresh) <= _SYNC_EACH)
        if len(fresh) > _SYNC_EACH:
            os.sync()  # one for thousands of small files, instead of one each
        if fresh:
            _sync_folder(self._objects)
        self._stored.update(objects)

    def get(self, digest: str) -> bytes:
        """Return a document of the configuration.

        Raises:
            ControlError: it is missing, or its bytes are not what the digest says.
        """
        return _read(self._objects, digest)

    def get_live(self, digest: str) -> bytes:
        """Return a live state. Raises as `get`."""
        return _read(self._live, digest)

    def lacks(self, digest: str) -> bool:
        """Say whether a document of the configuration is not here."""
        return not (self._objects / digest).exists()

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


def _read(folder: Path, digest: str) -> bytes:
    try:
        data = (folder / digest).read_bytes()
    except FileNotFoundError:
        raise ControlError(f"object `{digest}` is missing from `{folder}`") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ControlError(f"object `{digest}` in `{folder}` has been changed")
    return data


def _is_whole(path: Path, data: bytes) -> bool:
    """Say whether an object is there with all its bytes: after a power loss a file may have its name and not its content."""
    try:
        return path.read_bytes() == data
    except FileNotFoundError:
        return False


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
