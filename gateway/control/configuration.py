"""From the configuration folder to what is in force: text -> compiled documents -> one swap.

A folder with any issue changes nothing: what was in force stays in force, and the issues are told everywhere (log, console, metrics,
`/readyz` of the admin port).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from audit.store.control import ControlStore
from gateway.config.compile import Compiled, Compiler
from gateway.config.policy_point import told
from gateway.control.clerk import Clerk
from gateway.control.policy_changes import PolicyChanges
from gateway.documents import Manifest, SettingsDocument, decode, encode
from gateway.processes.control import ControlDirectory
from policies.bundle import PolicyBundle

_log = logging.getLogger(__name__)


class Configuration:
    """The configuration in force. Owned by the controller's loop."""

    def __init__(
        self, compiler: Compiler, control: ControlDirectory, store: ControlStore, clerk: Clerk, policies: PolicyChanges | None = None
    ) -> None:
        """Prepare; nothing is read before `reload`. Without `policies` their changes are not told."""
        self._compiler = compiler
        self._control = control
        self._store = store
        self._clerk = clerk
        self._policies = policies
        self._shipped: PolicyBundle | None = None  # for a folder without policies of its own; made when first needed
        self.digest: str | None = None
        self.manifest: Manifest | None = None
        self.issues: tuple[str, ...] = ()
        """Why the latest reading of the folder is not in force."""
        self.in_force_since_s = time.monotonic()

    def restore(self) -> bool:
        """Put what was in force before this process started in force again; False when there is nothing."""
        digest = self._store.current_bundle()
        if digest is None:
            return False
        self._fetch([digest])
        manifest = decode(self._control.get(digest), Manifest)
        self._fetch([manifest.settings, *manifest.models.values(), *manifest.experiments.values(), *manifest.policies.values()])
        self.manifest = manifest
        self.digest = digest
        return True

    def _fetch(self, digests: Sequence[str]) -> None:
        """Bring documents here that another node of a shared log has put in force."""
        missing = {digest: self._store.object(digest) for digest in digests if self._control.lacks(digest)}
        self._control.put_many({digest: data for digest, data in missing.items() if data is not None})

    async def reload(self) -> bool:
        """Read the folder and put it in force if it is whole and new; returns whether anything changed."""
        compiled = await asyncio.to_thread(self._compiler.compile)
        if compiled.manifest is None:
            self.issues = tuple(str(issue) for issue in compiled.issues)
            for issue in self.issues:
                _log.error("configuration issue; the old configuration stays in force", extra={"issue": issue})
            return False
        self.issues = ()
        if compiled.digest == self.digest:
            await self._tell_policies(compiled.bundle)  # others after an upgrade that brought its own
            return False
        await self._put_in_force(compiled, compiled.manifest)
        return True

    async def _put_in_force(self, compiled: Compiled, manifest: Manifest) -> None:
        """1. Objects durable. 2. The change recorded, of policies first. 3. Named as in force.

        A crash in between leaves unused objects, or a record of a change that is made again.
        """
        objects = {**compiled.objects, compiled.digest: encode(manifest)}
        await asyncio.to_thread(self._control.put_many, objects)
        await asyncio.to_thread(self._store.keep_objects, objects)
        await self._tell_policies(compiled.bundle)
        changed = _changed(self.manifest, manifest)
        verdict = told(compiled.verdicts)
        said = {} if verdict is None else {"policy": verdict}
        index = await self._clerk.record("config.change", old=self.digest or "", new=compiled.digest, changed=changed[:200], signed=False, **said)
        for reason in () if verdict is None else verdict.get("reasons", ()):
            _log.warning("a policy says of the configuration", extra={"reason": reason})
        self._store.install_bundle(compiled.digest, time.time_ns() // 1000)
        self.digest, self.manifest = compiled.digest, manifest
        self.in_force_since_s = time.monotonic()
        _log.info("configuration in force", extra={"config_digest": compiled.digest, "changed": len(changed), "index": index})

    async def settle_policies(self) -> None:
        """See that the policies of what was restored hold under this release, and are told.

        Raises:
            policies.bundle.BundleError: they cannot be enforced; nothing may be served by them.
        """
        manifest = self.manifest
        if manifest is None or self._policies is None:
            return

        def load() -> PolicyBundle:
            settings = decode(self._control.get(manifest.settings), SettingsDocument)
            return PolicyBundle.load({path: self._control.get(digest).decode() for path, digest in manifest.policies.items()}, settings.modes)

        await self._policies.tell(await asyncio.to_thread(load))

    async def _tell_policies(self, bundle: PolicyBundle | None) -> None:
        if self._policies is None:
            return
        if bundle is None:
            self._shipped = self._shipped or await asyncio.to_thread(PolicyBundle.load, {}, {})
        await self._policies.tell(bundle or self._shipped or PolicyBundle.load({}, {}))


def _changed(old: Manifest | None, new: Manifest) -> list[str]:
    """Name what differs between two manifests."""
    names: list[str] = []
    if old is None or old.settings != new.settings:
        names.append("settings")
    for kind in ("models", "experiments", "policies"):
        before: dict[str, str] = {} if old is None else getattr(old, kind)
        after: dict[str, str] = getattr(new, kind)
        names += [f"{kind}/{name}" for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    return names
