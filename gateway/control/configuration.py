"""From the configuration folder to what is in force: text -> compiled documents -> one swap.

A folder with any issue changes nothing: what was in force stays in force, and the issues are told everywhere (log, console, metrics,
`/readyz` of the admin port).

On a shared log the configuration in force may be what another node's leader put in force. A node that leads after it keeps that (`inherit`): its own
folder, if it is another one, is told and takes force with its next change, not before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from audit.store.control import ControlStore
from gateway.config.compile import Compiled, Compiler
from gateway.config.policy_point import refusals, told
from gateway.control.clerk import Clerk
from gateway.control.policy_changes import PolicyChanges
from gateway.control.policy_servers import NotPrepared, PolicyServers
from gateway.documents import Manifest, PolicyServerDocument, SettingsDocument, decode, encode
from gateway.processes.control import ControlDirectory
from policies.bundle import PolicyBundle
from policies.verdict import Verdict

_log = logging.getLogger(__name__)


class Configuration:
    """The configuration in force. Owned by the controller's loop."""

    def __init__(
        self,
        compiler: Compiler,
        control: ControlDirectory,
        store: ControlStore,
        clerk: Clerk,
        policies: PolicyChanges | None = None,
        servers: PolicyServers | None = None,
    ) -> None:
        """Prepare; nothing is read before `reload`. Without `policies` their changes are not told, without `servers` none is asked."""
        self._compiler = compiler
        self._control = control
        self._store = store
        self._clerk = clerk
        self._policies = policies
        self._servers = servers
        self._shipped: PolicyBundle | None = None  # for a folder without policies of its own; made when first needed
        self.digest: str | None = None
        self.manifest: Manifest | None = None
        self.issues: tuple[str, ...] = ()
        """Why the latest reading of the folder is not in force."""
        self.is_waiting = False
        """Whether the folder holds and waits for a policy server: then it is to be read again though nothing in it has changed."""
        self.in_force_since_s = time.monotonic()
        self._inherited = (
            ""  # whose configuration is in force, while this node's folder has not been changed since; changed by `inherit` and `_declines`
        )
        self._declined: str | None = None  # digest of the folder that was another one when this node began to lead; changed by `_declines`

    def inherit(self, node: str) -> None:
        """Keep what was restored: the controller of `node` put it in force, and this node's folder may be older."""
        self._inherited = node

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
        self.is_waiting = False
        if compiled.manifest is None:
            return self._refuse(str(issue) for issue in compiled.issues)
        if compiled.digest == self.digest:
            self._mended()
            self._inherited = ""
            await self._tell_policies(compiled.bundle)  # others after an upgrade that brought its own
            if self._servers is not None:
                self._servers.settle(_server_of(compiled), await self._bundle(compiled.bundle))
            return False
        if self._inherited and self._declines(compiled.digest):
            changed = ", ".join(_changed(self.manifest, compiled.manifest)[:8])
            told = f"this node's folder is another one than what `{self._inherited}` put in force ({changed})"
            return self._refuse([f"{told}; what is in force stays, and the folder takes force with its next change"])
        if self._servers is None:
            self._mended()
            await self._put_in_force(compiled, compiled.manifest, compiled.verdicts)
            return True
        return await self._put_in_force_with(self._servers, compiled, compiled.manifest)

    def _declines(self, digest: str) -> bool:
        """Say whether the folder is as it was when this node began to lead."""
        if self._declined is None:
            self._declined = digest
        if digest != self._declined:
            self._inherited = ""
        return digest == self._declined

    def _mended(self) -> None:
        if self.issues:
            _log.info("configuration issues mended; the folder is whole again", extra={"issues": len(self.issues)})
        self.issues = ()

    def _refuse(self, issues: Iterable[str]) -> bool:
        found = tuple(issues)
        if found != self.issues:  # what waits for a server is read again and again, and told once
            for issue in found:
                _log.error("configuration issue; the old configuration stays in force", extra={"issue": issue})
        self.issues = found
        return False

    async def _put_in_force_with(self, servers: PolicyServers, compiled: Compiled, manifest: Manifest) -> bool:
        """Put a configuration in force once a policy server has its policies and says nothing against it."""
        document, bundle = _server_of(compiled), await self._bundle(compiled.bundle)
        async with servers.changing():
            try:
                await servers.prepare(document, bundle)
                said = await servers.judge(document, bundle, _settings_of(compiled).environment, compiled.asked)
            except NotPrepared as fault:
                self.is_waiting = fault.may_pass
                return self._refuse([f"gateway.yaml: policies.server: no server has the policies of this configuration: {fault}"])
            refused = refusals(said)
            if refused:
                # Asking again changes nothing on the servers only where they have these policies anyway.
                self.is_waiting = servers.has(document, bundle) and any(not verdict.is_settled for verdict in said.values())
                return self._refuse(f"{path}:1:1: {message}" for path, message in refused)
            self._mended()
            await self._put_in_force(compiled, manifest, {**compiled.verdicts, **said})
            servers.settle(document, bundle)
        return True

    async def _put_in_force(self, compiled: Compiled, manifest: Manifest, verdicts: Mapping[str, Verdict]) -> None:
        """1. Objects durable. 2. The change recorded, of policies first. 3. Named as in force.

        A crash in between leaves unused objects, or a record of a change that is made again.
        """
        objects = {**compiled.objects, compiled.digest: encode(manifest)}
        await asyncio.to_thread(self._control.put_many, objects)
        await asyncio.to_thread(self._store.keep_objects, objects)
        await self._tell_policies(compiled.bundle)
        changed = _changed(self.manifest, manifest)
        verdict = told(verdicts)
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

        bundle = await asyncio.to_thread(load)
        await self._policies.tell(bundle)
        if self._servers is not None:
            self._servers.settle(decode(self._control.get(manifest.settings), SettingsDocument).policy_server, bundle)

    async def _tell_policies(self, bundle: PolicyBundle | None) -> None:
        if self._policies is not None:
            await self._policies.tell(await self._bundle(bundle))

    async def _bundle(self, bundle: PolicyBundle | None) -> PolicyBundle:
        """Return the policies of a folder: what is shipped where it has none of its own."""
        if bundle is not None:
            return bundle
        if self._shipped is None:
            self._shipped = await asyncio.to_thread(PolicyBundle.load, {}, {})
        return self._shipped


def _settings_of(compiled: Compiled) -> SettingsDocument:
    assert compiled.manifest is not None  # noqa: S101 - asked of whole configurations only
    return decode(compiled.objects[compiled.manifest.settings], SettingsDocument)


def _server_of(compiled: Compiled) -> PolicyServerDocument | None:
    return _settings_of(compiled).policy_server


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
