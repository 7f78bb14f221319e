"""Policies in force as records and objects: `policy.change` before a bundle takes force, and every text kept under the digests records name.

A record of a call carries the digests of bundle, modes and parameters. What they stand for is stored among the objects of the control directory
(`PolicyBundle.objects`), so that `assay policy explain` can run the very bundle that decided, after any number of changes and upgrades: a release
brings its own shipped policies, and a changed one is a `policy.change` like any other.

Example:
    changes = PolicyChanges(control, clerk, registry.policies)
    await changes.tell(bundle)      # a record if the bundle is another one than the last record says
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.control.clerk import Clerk
from gateway.processes.control import ControlDirectory, ControlError
from policies.bundle import PolicyBundle, listing_of

_log = logging.getLogger(__name__)
MOST_NAMED: Final = 200
"""Modules, and packages with their modes, that one record names."""


class PolicyChanges:
    """What the log says of the policies in force. Owned by the controller's loop."""

    def __init__(
        self, control: ControlDirectory, clerk: Clerk, last: Mapping[str, str] | None, keep: Callable[[Mapping[str, bytes]], None] | None = None
    ) -> None:
        """Continue after the last `policy.change` of the log; `last` is its `new`. `keep` stores objects for other nodes of a shared log."""
        self._control = control
        self._keep = keep
        self._clerk = clerk
        self.last = dict(last) if last is not None else None

    async def tell(self, bundle: PolicyBundle) -> bool:
        """Keep a bundle's texts, then commit that it takes force; False when the log says so already.

        Raises:
            audit.journal.JournalError: it was not committed; the bundle must not take force.
        """
        await asyncio.to_thread(self._control.put_many, bundle.objects())
        if bundle.record == self.last:
            return False
        if self._keep is not None:
            await asyncio.to_thread(self._keep, bundle.objects())
        changed = self._changed(bundle)
        modes = dict(sorted(bundle.modes.items())[:MOST_NAMED])
        index = await self._clerk.record("policy.change", old=self.last or {}, new=bundle.record, changed=changed[:MOST_NAMED], modes=modes)
        self.last = dict(bundle.record)
        _log.info("policies in force", extra={**bundle.record, "changed": changed[:MOST_NAMED], "index": index})
        return True

    def _changed(self, bundle: PolicyBundle) -> list[str]:
        """Name the modules that are new, gone or other, and `modes` and `params` where they are."""
        before = dict(self._listing())
        after: dict[str, Any] = dict(json.loads(listing_of(bundle.modules)))
        named = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        last = self.last or {}
        parts = {"modes": "modes_digest", "params": "data_digest"}
        return [*named, *(name for name, key in parts.items() if last.get(key) != bundle.record.get(key))]

    def _listing(self) -> list[list[str]]:
        try:
            listing: list[list[str]] = json.loads(self._control.get(self.last["digest"])) if self.last else []
        except (ControlError, ValueError, KeyError):
            return []  # of a release that kept none
        return listing
