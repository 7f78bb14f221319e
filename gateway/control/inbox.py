"""Takes signed approvals and revocations in from the `approvals/` folder of the deployment.

Whoever can write there can deliver an envelope; only a signature by a person of the pinned trust root makes it count. An envelope is
recorded once, whole, before it takes force. Taking the file away changes nothing: only a revocation or its end takes an approval out of
force.
"""

from __future__ import annotations

import logging
from pathlib import Path

from gateway.control.clerk import Clerk
from gateway.control.registry import Registry
from policies.approvals import Approval, InvalidApproval, Revocation, load
from policies.trust import TrustRoot

_log = logging.getLogger(__name__)
_MOST_BYTES = 48 * 1024


class Inbox:
    """The folder and what has been made of its files. Owned by the controller's loop."""

    def __init__(self, folder: Path, root: TrustRoot, clerk: Clerk, registry: Registry) -> None:
        """Watch `folder`."""
        self._folder = folder
        self._root = root
        self._clerk = clerk
        self._registry = registry
        self._seen: dict[Path, int] = {}  # file -> time of change when it was last looked at
        self.refused: dict[str, str] = {}
        """Name of a file -> why it counts for nothing."""

    async def take_in(self) -> bool:
        """Record every new valid envelope; returns whether anything new is in force."""
        changed = False
        for path in self._new_files():
            changed = await self._take(path) or changed
        return changed

    def _new_files(self) -> list[Path]:
        """Return the files that are new or changed since the last look, in the order of their names."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                stamp = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
            if self._seen.get(path) != stamp:
                self._seen[path] = stamp
                found.append(path)
        return found

    async def _take(self, path: Path) -> bool:
        try:
            data = _read(path)
            found = load(data, self._root)
        except (InvalidApproval, OSError) as fault:
            self.refused[path.name] = str(fault)
            _log.warning("an envelope counts for nothing", extra={"file": path.name, "why": str(fault)})
            return False
        self.refused.pop(path.name, None)
        if self._registry.knows(found.id):
            return False
        kind = "approval.granted" if isinstance(found, Approval) else "approval.revoked"
        index = await self._clerk.record(kind, **_told(found), envelope=data.decode())
        if isinstance(found, Approval):
            self._registry.approvals[found.id] = found
        else:
            self._registry.revocations[found.id] = found
        _log.info(kind, extra={"model": found.model, "version": found.version, "person": found.person, "index": index})
        return True


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InvalidApproval(f"the envelope is longer than {_MOST_BYTES} bytes")
    return data


def _told(found: Approval | Revocation) -> dict[str, str]:
    return {
        "approval_id": found.id,
        "model": found.model,
        "version": found.version,
        "digest": found.digest,
        "person": found.person,
    }
