"""Takes signed approvals and revocations in from the `approvals/` folder of the deployment.

Whoever can write there can deliver an envelope; only a signature by a person of the pinned trust root makes it count. An envelope is
recorded once, whole, before it takes force. Taking the file away changes nothing: only a revocation or its end takes an approval out of
force.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from pathlib import Path

from audit.leaf import LeafError
from gateway.control.clerk import Clerk
from gateway.control.registry import Registry
from policies.approvals import Approval, InvalidApproval, Revocation, load
from policies.trust import TrustRoot

_log = logging.getLogger(__name__)
_MOST_BYTES = 48 * 1024
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.EISDIR)
"""A link, a socket, a folder: these stay what they are. Any other failure may pass."""
Stamp = tuple[int, int, int]
"""Inode, time of change and length of a file: what tells that it is another one than before."""


class Inbox:
    """The folder and what has been made of its files. Owned by the controller's loop."""

    def __init__(self, folder: Path, root: TrustRoot, clerk: Clerk, registry: Registry) -> None:
        """Watch `folder`."""
        self._folder = folder
        self._root = root
        self._clerk = clerk
        self._registry = registry
        self._seen: dict[Path, Stamp] = {}  # file -> how it was when it was last looked at
        self.refused: dict[str, str] = {}
        """Name of a file -> why it counts for nothing."""
        self.has_unread = False
        """A file could not be read at the last look: it may be a revocation, so it is tried again without waiting for it to change."""

    async def take_in(self) -> bool:
        """Record every new valid envelope; returns whether anything new is in force.

        Raises:
            audit.journal.JournalError: the log cannot be written; the envelope is looked at again the next time.
        """
        changed = False
        has_unread = False
        for path, stamp in self._new_files():
            try:
                changed = await self._take(path) or changed
            except OSError as fault:
                has_unread = True
                self._refuse(path, fault)
            else:
                self._seen[path] = stamp
        self.has_unread = has_unread
        return changed

    def _new_files(self) -> list[tuple[Path, Stamp]]:
        """Return the files that are new or changed since the last look, in the order of their names, and forget those that are gone."""
        present: dict[Path, Stamp] = {}
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(OSError):  # gone since it was listed
                found = path.lstat()
                present[path] = (found.st_ino, found.st_mtime_ns, found.st_size)
        self._seen = {path: stamp for path, stamp in self._seen.items() if path in present}
        names = {_shown(path) for path in present}
        self.refused = {name: why for name, why in self.refused.items() if name in names}
        return [(path, stamp) for path, stamp in present.items() if self._seen.get(path) != stamp]

    async def _take(self, path: Path) -> bool:
        name = _shown(path)
        try:
            data = _read(path)
            found = load(data, self._root)
            if self._registry.knows(found.id):
                self.refused.pop(name, None)
                return False
            index = await self._record(found, data)
        except (InvalidApproval, LeafError) as fault:
            self._refuse(path, fault)
            return False
        self.refused.pop(name, None)
        if isinstance(found, Approval):
            self._registry.approvals[found.id] = found
        else:
            self._registry.revocations[found.id] = found
        _log.info("envelope in force", extra={"model": found.model, "version": found.version, "person": found.person, "index": index})
        return True

    def _refuse(self, path: Path, fault: Exception) -> None:
        name, why = _shown(path), str(fault)
        if self.refused.get(name) != why:  # told once, however often it is tried
            _log.warning("an envelope counts for nothing", extra={"file": name, "why": why})
        self.refused[name] = why

    async def _record(self, found: Approval | Revocation, data: bytes) -> int:
        kind = "approval.granted" if isinstance(found, Approval) else "approval.revoked"
        return await self._clerk.record(kind, **_told(found), envelope=data.decode())


def _read(path: Path) -> bytes:
    """Return the bytes of a regular file of bounded size; a link, a pipe or a device is refused without being opened for reading.

    Raises:
        InvalidApproval: it is none.
        OSError: it cannot be read just now.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            data = file.read(_MOST_BYTES + 1) if stat.S_ISREG(found.st_mode) and found.st_size <= _MOST_BYTES else b""
    except OSError as fault:
        if fault.errno in _NO_FILE:
            raise InvalidApproval("an envelope is a regular file") from fault
        raise
    if not stat.S_ISREG(found.st_mode):
        raise InvalidApproval("an envelope is a regular file")
    if max(len(data), found.st_size) > _MOST_BYTES:
        raise InvalidApproval(f"the envelope is longer than {_MOST_BYTES} bytes")
    return data


def _shown(path: Path) -> str:
    """Return a file's name as text that can be told anywhere, whatever bytes it is made of."""
    return os.fsencode(path.name).decode("utf-8", "replace")


def _told(found: Approval | Revocation) -> dict[str, str]:
    return {
        "approval_id": found.id,
        "model": found.model,
        "version": found.version,
        "digest": found.digest,
        "person": found.person,
    }
