"""What the controller that leads does: it puts configuration in force, judges, signs, and tells every worker what is in force.

Order of a beginning: the keys are such as may sign; on a shared log the records of others are folded up to this leader's own `log.led`; what was in
force is restored; the trust root follows the pinned one; beginning, keys and root are on record; configuration, experiments and approvals are in
force; the first statement is made. Then a few loops, each with its own pace.

Example:
    leading = Leading(parts, store, lease)
    await leading.prepare()
    tasks = leading.loops()
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import watchfiles

from audit.excerpts import Excerpting
from audit.publisher import Publication
from audit.signer import SignerUnavailable
from audit.store import layout
from audit.store.control import ControlStore
from audit.store.durable import read_or_none
from audit.store.errors import StoreDamaged, StoreError, StoreFull
from experiments.rollout import Action
from gateway import live as live_state
from gateway.authenticate import Principal
from gateway.control.beginning import CannotBegin, beginning, read_previous
from gateway.control.configuration import Configuration
from gateway.control.deployment import CannotStart, outlet_of, require_follows, write_verification_keys
from gateway.control.lease import Lease
from gateway.control.logkeys import KeyHasEnded, due, refuse_ended
from gateway.control.orders import Asked
from gateway.control.parts import Parts
from gateway.control.policy_changes import PolicyChanges
from gateway.control.policy_servers import PolicyServers
from gateway.control.publishing import Publishing
from gateway.control.registry import CONCERNING
from gateway.control.steps import Steps
from gateway.policy_server import Place
from gateway.processes.control import TICK_S, Current
from policies.bundle import BundleError

_log = logging.getLogger("assay.controller")
JUDGE_S: Final = 0.5
VAULT_S: Final = 2.0
"""How often ended pseudonym keys are looked for: they are destroyed, and every tenant gets a new one."""
_LOOK_S: Final = 1.0
"""How often policy servers are asked whether they have what is in force."""
_AGAIN_S: Final = 2.0
"""How often a folder that waits for a policy server is read again."""
_EXPIRE_S: Final = 60.0
"""How often entries of the vault whose time is over are deleted."""
_CATCH_UP_S: Final = 60.0


class Leading:
    """Owned by the controller's loop."""

    def __init__(self, parts: Parts, store: ControlStore, lease: Lease | None) -> None:
        """Lead with a store that leads already; `lease` is its hold on a shared log, None where no other node is."""
        self._parts = parts
        self._store = store
        self._lease = lease
        self._outlet = outlet_of(parts.gateway, parts.layout)
        self._outlet_fault: str | None = None  # what was told last; changed by `_tell_push`
        self._expired_s = -math.inf  # when entries of the vault were last looked through; changed by `_vault_loop`
        self._aligned = ""  # manifest that the rollouts follow; changed by `_align`
        self._published: tuple[str, str] | None = None  # manifest and live state that belong together; changed by `_publish_live`
        self._last_leaf_s = time.monotonic()  # when a checkpoint last grew; a heartbeat follows when it is old
        changes = PolicyChanges(parts.control, parts.clerk, parts.registry.policies, store.keep_objects)
        self._policy_servers = PolicyServers(Place(parts.layout.root, os.environ), parts.traffic.policy_server)
        self.configuration = Configuration(parts.compiler, parts.control, store, parts.clerk, changes, self._policy_servers)
        self._steps = Steps(parts.rollouts, self.configuration, parts.control, parts.registry, parts.root)
        self._publishing: Publishing | None = None  # set by `prepare`

    @property
    def is_cut_off(self) -> bool:
        """Say whether the log cannot be read: a leader that cannot read it ends."""
        return False

    @property
    def publishing(self) -> Publishing:
        """The publishing thread; there is one once `prepare` has returned."""
        assert self._publishing is not None  # noqa: S101 - as its docstring says
        return self._publishing

    async def prepare(self) -> None:
        """Bring everything in force before a worker may serve.

        Raises:
            CannotStart: it cannot be served.
        """
        parts = self._parts
        # Before the publisher is there: what it publishes when it is closed again would be signed by a key that is refused.
        require_keys(parts)
        try:
            self._publishing = await Publishing.start(
                parts.data,
                self._store.term,
                parts.signers,
                parts.witnesses,
                mark=parts.mark,
                hot_ranges=parts.gateway.audit.hot_ranges,
                excerpting=Excerpting(parts.data, CONCERNING, parts.signers[0], done=parts.excerpts.believed),
            )
        except StoreDamaged as fault:
            raise CannotStart(str(fault)) from fault
        write_verification_keys(parts.data / "log", parts.signers, parts.witnesses.keys)
        if self._lease is not None:
            await self._take_the_word(self._lease)
        if parts.erasures is not None:
            try:
                await parts.erasures.prepare(parts.registry.erased)
            except StoreError as fault:
                raise CannotStart(f"vault: {fault}") from fault
        parts.rollouts.lead(self._store.require_term)
        restored = self.configuration.restore()
        former = self._store.installed_elsewhere(parts.clerk.writer) if restored else None
        require_follows(parts.root, parts.registry.pinned, parts.layout)
        await self._record_beginning()
        await self._record_keys()
        await parts.clerk.record("trust.pinned", digest=parts.root.digest, version=parts.root.version, root=parts.root.encode().decode())
        await self._configure(former)
        await self._policy_servers.look()  # OPA forgets when it is started again: workers would ask for what is not there
        await parts.inbox.take_in()
        await self._align()
        self._publish_live()

    async def _take_the_word(self, lease: Lease) -> None:
        """Say that this controller leads, and fold what others have said before."""
        index = await self._parts.clerk.record("log.led", term=self._store.term)
        self._parts.registry.lead(self._store.term, self._parts.clerk.writer_key)
        try:
            async with asyncio.timeout(_CATCH_UP_S):
                is_folded = False
                while not is_folded:
                    is_folded = self._parts.tail.catch_up(index)
                    await asyncio.sleep(0)  # the lease is renewed meanwhile
        except (StoreError, TimeoutError) as fault:
            raise CannotStart(f"what the leader before has recorded cannot be read: {fault}") from fault
        shown = await asyncio.to_thread(read_or_none, layout.checkpoint_path(self._parts.data))
        if shown is not None:
            await asyncio.to_thread(lease.nodes.show, lease.term, shown)

    async def _configure(self, former: str | None) -> None:
        """Put the folder in force, or keep what was: where another node's leader put it in force, or where the folder has issues."""
        if former is not None:
            self.configuration.inherit(former)
            await self._settle_policies()
            _log.info("the configuration in force is another node's", extra={"put_in_force_by": former, "config_digest": self.configuration.digest})
            return
        await self.configuration.reload()
        if self.configuration.manifest is None:
            raise CannotStart("\n".join(self.configuration.issues))
        if self.configuration.issues:
            await self._settle_policies()
            _log.error("serving the configuration that was in force before; the folder has issues")

    async def _settle_policies(self) -> None:
        """Refuse to serve by restored policies that this release cannot enforce: nothing else is in force."""
        try:
            await self.configuration.settle_policies()
        except BundleError as fault:
            told = "\n".join(self.configuration.issues)
            raise CannotStart(f"the policies that were in force cannot be enforced: {fault}\nand the folder has issues:\n{told}") from fault

    async def _record_beginning(self) -> None:
        """Commit which log begins, and which one it follows. Raises CannotStart: it cannot follow what it is to follow."""
        audit, registry, place = self._parts.gateway.audit, self._parts.registry, self._parts.layout
        try:
            path = place.resolve(audit.follows.checkpoint) if audit.follows is not None else place.root
            previous = read_previous(audit.follows, path, origin=audit.origin)
            record = beginning(registry.opened, has_begun=bool(registry.log_keys.bounds), origin=audit.origin, previous=previous)
        except CannotBegin as fault:
            raise CannotStart(str(fault)) from fault
        if record is not None:
            await self._parts.clerk.record("log.open", **record)

    async def _record_keys(self) -> None:
        """Commit which keys begin and end, before any of them signs (`gateway/control/logkeys.py`)."""
        registry = self._parts.registry
        signing = [str(signer.verifier) for signer in self._parts.signers]
        for kind, carries in due(registry.log_keys, signing, self._parts.revoked_keys(), self.publishing.publisher.size):
            await self._parts.clerk.record(kind, **carries)
            registry.log_keys.fold({"type": kind, **carries})

    # --- what is in force ----------------------------------------------------------------------------------------------------------------

    async def _align(self) -> None:
        manifest, digest = self.configuration.manifest, self.configuration.digest
        assert manifest is not None and digest is not None  # noqa: S101, PT018 - `prepare` ends without them
        rollouts, registry = self._parts.rollouts, self._parts.registry
        await rollouts.align(manifest.experiments, time.time_ns() // 1000)
        begun = [registry.begun_at[name] for name in rollouts.running]
        if begun:
            self._parts.tail.read_evidence_from(min(begun))
        self._aligned = digest

    def _publish_live(self) -> None:
        document = live_state.LiveDocument(
            experiments=self._parts.rollouts.live(time.time_ns() // 1000),
            approvals=self._parts.registry.in_force(),
        )
        data = live_state.encode(document)
        # Always a manifest together with rollouts that follow it: new documents under an old state would send everyone to a version not begun.
        self._published = (self._aligned, self._parts.control.put_live(data, time.monotonic()))
        if self._lease is not None:
            self._lease.publish(*self._published, data)
        self._tick()

    def _tick(self) -> None:
        assert self._published is not None  # noqa: S101 - `prepare` publishes before any loop runs
        if self._lease is None or self._lease.holds(time.monotonic()):  # else another may have put something else in force
            self._parts.control.publish(Current(*self._published, time.monotonic_ns() // 1000))

    def hear(self, kind: str) -> None:
        """Act on what another node has committed: approvals and revocations are published at once."""
        if self._published is not None and kind.startswith("approval."):
            self._publish_live()

    # --- loops ---------------------------------------------------------------------------------------------------------------------------

    def loops(self) -> dict[str, Coroutine[None, None, None]]:
        """Return what runs for as long as this controller leads, by name."""
        return {
            "tick": every(TICK_S, self._tick_loop),
            "watch": self._watch(),
            "publish": every(self._parts.gateway.audit.checkpoint / 1e6, self._publish_loop),
            "judge": every(JUDGE_S, self._judge_loop),
            "policy servers": every(_LOOK_S, self._policy_servers.look),
            "vault": every(VAULT_S, self._vault_loop),
        }

    async def close(self) -> None:
        """Publish what is left, and sign no more."""
        if self._publishing is not None:
            await self._publishing.close()

    async def take_step(self, asked: Asked, principal: Principal) -> Action:
        """Take a step of an experiment that someone asked for, and tell the workers at once."""
        action = await self._steps.take(asked, principal)
        self._publish_live()
        _log.info("step taken", extra={"experiment": asked.experiment, "action": action.verb, "by": principal.id})
        return action

    async def _tick_loop(self) -> None:
        try:
            self._tick()
        except OSError as fault:  # a full disk: workers go stale within their bounds, and hear again once there is space
            _log.warning("cannot tell the workers what is in force", extra={"why": str(fault)})

    async def _vault_loop(self) -> None:
        parts = self._parts
        try:
            now_us = time.time_ns() // 1000
            await parts.keys.look(now_us)
            may_destroy = parts.vault_clock.look(now_us, time.monotonic_ns() // 1000)
            renewed_us = await parts.keys.settle(now_us, may_destroy=may_destroy)
        except (OSError, StoreError) as fault:
            _log.warning("pseudonym keys cannot be looked after", extra={"why": str(fault)})
            return
        if may_destroy and parts.erasures is not None and time.monotonic() - self._expired_s >= _EXPIRE_S:
            self._expired_s = time.monotonic()
            try:
                await parts.erasures.expire(now_us)
            except StoreError as fault:  # nothing that has ended is shown meanwhile; the next round tries again
                _log.warning("what has ended could not be deleted from the vault", extra={"why": str(fault)})
        if await parts.rollouts.begin_anew(time.time_ns() // 1000, renewed_us):
            self._publish_live()

    async def _watch(self) -> None:
        """Follow the folders: configuration, approvals, keys."""
        parts = self._parts
        parts.layout.approvals.mkdir(parents=True, exist_ok=True)
        watched = {parts.layout.config, parts.layout.approvals, parts.chosen.keys.parent}
        # A change made after the first reading and before the watch began would never be told: the first quiet moment reads everything again.
        has_settled = False
        read_s = time.monotonic()
        async for changes in watchfiles.awatch(*watched, step=100, debounce=200, rust_timeout=300, yield_on_timeout=True):
            is_due = self.configuration.is_waiting and time.monotonic() - read_s >= _AGAIN_S
            is_quiet = not changes and has_settled and not is_due
            if is_quiet and not parts.inbox.has_unread:
                continue
            has_settled = True
            await look_at_keys(parts)
            if await parts.inbox.take_in():
                self._publish_live()  # at once: a revocation does not wait for the compiler
            if is_quiet:
                continue
            read_s = time.monotonic()
            if await self.configuration.reload():
                await self._align()
                self._publish_live()

    async def _publish_loop(self) -> None:
        try:
            publication = await self.publishing.publish()
        except (StoreFull, SignerUnavailable) as fault:  # nothing was signed; the next round tries again
            _log.warning("the tree cannot be published", extra={"why": str(fault)})
            return
        if publication is not None:
            await self._show(publication)
        idle_s = time.monotonic() - self._last_leaf_s
        if idle_s >= self._parts.gateway.audit.heartbeat / 1e6:
            self._last_leaf_s = time.monotonic()
            await self._parts.clerk.record("log.heartbeat", size=self.publishing.publisher.size)

    async def _show(self, publication: Publication) -> None:
        """Show a signed head to the nodes that follow, and push it where it is kept besides."""
        self._last_leaf_s = time.monotonic()
        if self._lease is not None:
            await asyncio.to_thread(self._lease.nodes.show, self._lease.term, publication.note)
        if self._outlet is not None:
            self._tell_push(await asyncio.to_thread(self._outlet.push, publication.note))

    def _tell_push(self, fault: str | None) -> None:
        """Say once when a checkpoint could not be pushed, and once when it could again."""
        if fault is not None and fault != self._outlet_fault:
            _log.error("the signed checkpoint could not be pushed", extra={"why": fault})
        elif fault is None and self._outlet_fault is not None:
            _log.info("signed checkpoints are pushed again")
        self._outlet_fault = fault

    async def _judge_loop(self) -> None:
        if not self._parts.tail.is_behind and await self._parts.rollouts.judge(time.time_ns() // 1000):
            self._publish_live()


def require_keys(parts: Parts) -> None:
    """Check that no key of this node has ended. Raises CannotStart."""
    try:
        refuse_ended(parts.registry.log_keys, [str(signer.verifier) for signer in parts.signers], parts.revoked_keys())
    except KeyHasEnded as fault:
        raise CannotStart(f"audit.key: {fault}") from fault


async def look_at_keys(parts: Parts) -> None:
    """Take the keys file in if it has changed; what cannot be asked now is asked again."""
    try:
        await parts.keys.look(time.time_ns() // 1000)
    except StoreError as fault:
        _log.warning("pseudonym keys cannot be looked after", extra={"why": str(fault)})


async def every(pace_s: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do something again and again."""
    while True:
        await work()
        await asyncio.sleep(pace_s)
