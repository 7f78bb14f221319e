"""What a controller does that does not lead: its node serves by what the leader says, proves from its own copy of the log, and may lead next.

It compiles no folder, judges nothing, signs nothing. It reads the leader's statement eight times a second and puts what it names before its own
workers, as old as the statement is by the server's clock: when the leader is silent, or the database away, they refuse calls within their own bounds
of staleness. Approvals and revocations that are put into its folder it commits itself; the leader folds them from the log. What only a leader may do
is refused with the name of the node that leads.

A head that the leader shows is shown here once the leaves here give its root; where they do not, the node stops.

When the lease is free it is taken (`may_lead`), and the controller goes on as a leader, in the same process, with what was in force.

Example:
    following = Following(parts, nodes, open_store)
    await following.prepare()
    await following.may_lead.wait()
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Final

import watchfiles

from audit.mirror import Mirror
from audit.store.errors import StoreBehind, StoreBroken, StoreDamaged, StoreError, StoreFull
from audit.store.postgres_nodes import Nodes, Stated
from experiments.rollout import Action
from gateway.authenticate import Principal
from gateway.control.deployment import CannotStart, require_follows, write_verification_keys
from gateway.control.leading import JUDGE_S, VAULT_S, every, look_at_keys, require_keys
from gateway.control.orders import Asked
from gateway.control.parts import Parts
from gateway.control.sharedkeys import CannotShare
from gateway.documents import Manifest, decode
from gateway.processes.control import TICK_S, Current
from gateway.refusals import Refusal

_log = logging.getLogger("assay.controller")
LOOK_S: Final = TICK_S / 2
"""A statement is at most this old when it is read, beside its age: workers of a model of high risk have a second for all of it."""
_TRY_AGAIN_S: Final = 1.0
"""How long after the lease could not be taken it is tried again."""


class Following:
    """Owned by the controller's loop; `_mirror` is used in one thread at a time."""

    def __init__(self, parts: Parts, nodes: Nodes, lead: Callable[[], bool]) -> None:
        """Follow what `nodes` says; `lead` takes the lease, blocking, and says whether it could."""
        self._parts = parts
        self._nodes = nodes
        self._lead = lead
        self._mirror: Mirror | None = None  # set by `prepare`
        self._stated: Stated | None = None  # what was read last; changed by `_look`
        self._fault: str | None = None  # why the database could not be asked, as was told; changed by `_tell`
        self._placed = ("", "")  # manifest and live state that lie in the control directory; changed by `_place`
        self._sealed_version = 0  # of the pseudonym keys here; changed by `_look`
        self._tried_s = 0.0
        self._keys_due = asyncio.Event()
        self.may_lead = asyncio.Event()
        """Set once this node has the lease."""
        self.digest: str | None = None
        self.manifest: Manifest | None = None
        self.issues: tuple[str, ...] = ()
        self.in_force_since_s = time.monotonic()

    @property
    def leader(self) -> str:
        """The node that leads, or led last."""
        return "" if self._stated is None else self._stated.node

    @property
    def size(self) -> int:
        """Leaves covered by the head that is shown here."""
        return 0 if self._mirror is None else self._mirror.size

    @property
    def is_cut_off(self) -> bool:
        """Say whether the database could not be asked the last time."""
        return self._fault is not None

    async def prepare(self) -> None:
        """Make sure that this node can serve and lead: its keys, its trust root, its copy of the tree.

        Raises:
            CannotStart: it must not.
        """
        parts = self._parts
        require_keys(parts)
        require_follows(parts.root, parts.registry.pinned, parts.layout)
        write_verification_keys(parts.data / "log", parts.signers, parts.witnesses.keys)
        try:
            if parts.erasures is not None:
                await parts.erasures.prepare(parts.registry.erased)
            self._mirror = await asyncio.to_thread(self._open_mirror)
            await self._look()
        except StoreError as fault:
            raise CannotStart(str(fault)) from fault
        _log.info("following", extra={"leader": self.leader, "size": self.size})

    def _open_mirror(self) -> Mirror:
        parts = self._parts
        mirror = Mirror.open(parts.data, [signer.verifier for signer in parts.signers], origin=parts.gateway.audit.origin, mark=parts.mark)
        shown = self._nodes.shown()
        if shown is not None:
            mirror.follow(shown)
        return mirror

    # --- what is in force ----------------------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Read what the leader says, and put it before the workers as old as it is."""
        asked_us = time.monotonic_ns() // 1000
        stated = await asyncio.to_thread(self._nodes.look)
        self._stated = stated
        if stated.sealed_version != self._sealed_version:
            self._sealed_version = stated.sealed_version
            self._keys_due.set()
        if stated.manifest is None or stated.live is None or stated.age_us is None:
            return
        if (stated.manifest, stated.live) != self._placed and not await self._place(stated.manifest, stated.live):
            return  # it is over already: the next look finds the one that follows
        self._parts.control.publish(Current(stated.manifest, stated.live, asked_us - stated.age_us))

    async def _place(self, manifest: str, live: str) -> bool:
        """Bring the documents of a statement here; False where its live state has been removed meanwhile."""
        data = await asyncio.to_thread(self._fetch, manifest, live)
        if data is None:
            return False
        self._parts.control.put_live(data, time.monotonic())
        if manifest != self.digest:
            self.manifest, self.digest = decode(self._parts.control.get(manifest), Manifest), manifest
            self.in_force_since_s = time.monotonic()
            _log.info("configuration in force", extra={"config_digest": manifest, "leader": self.leader})
        self._follow_rollouts()
        self._placed = (manifest, live)
        return True

    def _fetch(self, digest: str, live: str) -> bytes | None:
        control = self._parts.control
        self._bring([digest])
        manifest = decode(control.get(digest), Manifest)
        self._bring([manifest.settings, *manifest.models.values(), *manifest.experiments.values(), *manifest.policies.values()])
        return self._nodes.live(live)

    def _bring(self, digests: list[str]) -> None:
        missing = [digest for digest in digests if self._parts.control.lacks(digest)]
        if missing:
            self._parts.control.put_many(self._nodes.objects(missing))

    def _follow_rollouts(self) -> None:
        if self.manifest is not None:
            self._parts.rollouts.follow(self.manifest.experiments)

    def hear(self, kind: str) -> None:
        """Act on what another node has committed."""
        if kind.startswith(("experiment.", "rollout.")):
            self._follow_rollouts()

    # --- loops ---------------------------------------------------------------------------------------------------------------------------

    def loops(self) -> dict[str, Coroutine[None, None, None]]:
        """Return what runs for as long as this controller follows, by name."""
        return {
            "look": every(LOOK_S, self._look_loop),
            "mirror": every(self._parts.gateway.audit.checkpoint / 1e6, self._mirror_loop),
            "watch": self._watch(),
            "keys": self._keys_loop(),
            "consider": every(JUDGE_S, self._consider_loop),
        }

    async def close(self) -> None:
        """Nothing is left open."""

    async def take_step(self, asked: Asked, principal: Principal) -> Action:
        """Refuse: only the leader takes steps. Raises Refusal."""
        del principal
        raise Refusal("led_elsewhere", f"this node follows `{self.leader}`, which leads: a step of `{asked.experiment}` is taken there")

    async def _look_loop(self) -> None:
        try:
            await self._look()
        except StoreError as fault:
            self._tell(str(fault))
            return
        except OSError as fault:  # a full disk: workers go stale within their bounds, and hear again once there is space
            _log.warning("cannot tell the workers what is in force", extra={"why": str(fault)})
            return
        self._tell(None)
        if self._stated is not None and self._stated.is_free and time.monotonic() - self._tried_s >= _TRY_AGAIN_S:
            await self._try_to_lead()

    async def _try_to_lead(self) -> None:
        self._tried_s = time.monotonic()
        require_keys(self._parts)
        require_follows(self._parts.root, self._parts.registry.pinned, self._parts.layout)
        try:
            leads = not self.may_lead.is_set() and await asyncio.to_thread(self._lead)
        except StoreError as fault:
            self._tell(str(fault))
            return
        if leads:
            _log.warning("this node leads from now on", extra={"led_before": self.leader})
            self.may_lead.set()

    def _tell(self, fault: str | None) -> None:
        """Say once when the leader cannot be heard, and once when it can again."""
        if fault is not None and self._fault is None:
            _log.error("what the leader says cannot be read; calls are refused once it is too old", extra={"why": fault})
        elif fault is None and self._fault is not None:
            _log.info("what the leader says can be read again")
        self._fault = fault

    async def _mirror_loop(self) -> None:
        """Raises StoreDamaged, which ends the process: the tree here is not the one that was signed."""
        try:
            await asyncio.to_thread(self._mirror_once)
        except (StoreBroken, StoreFull) as fault:
            _log.warning("the leader's heads cannot be followed just now", extra={"why": str(fault)})

    def _mirror_once(self) -> None:
        shown = self._nodes.shown()
        if shown is not None and self._mirror is not None:
            try:
                self._mirror.follow(shown)
            except (StoreDamaged, StoreBehind):
                self._parts.control.forget()
                raise

    async def _keys_loop(self) -> None:
        parts = self._parts
        while True:
            self._keys_due.clear()
            await look_at_keys(parts)
            now_us = time.time_ns() // 1000
            try:
                parts.vault_clock.look(now_us, time.monotonic_ns() // 1000)
                await parts.keys.settle(now_us, may_destroy=False)
                if parts.erasures is not None:
                    await parts.erasures.remember(parts.registry.erased)
            except CannotShare:
                parts.control.forget()
                raise
            except (OSError, StoreError) as fault:
                _log.warning("pseudonym keys cannot be looked after", extra={"why": str(fault)})
            try:
                await asyncio.wait_for(self._keys_due.wait(), VAULT_S)
            except TimeoutError:
                continue

    async def _watch(self) -> None:
        """Follow the folders: approvals and keys are taken in, a changed configuration is told."""
        parts = self._parts
        parts.layout.approvals.mkdir(parents=True, exist_ok=True)
        watched = {parts.layout.config, parts.layout.approvals, parts.chosen.keys.parent}
        is_first = True
        async for changes in watchfiles.awatch(*watched, step=100, debounce=200, rust_timeout=300, yield_on_timeout=True):
            if changes or is_first or parts.inbox.has_unread:
                is_first = False
                await look_at_keys(parts)
                await parts.inbox.take_in()
            if any(path.startswith(str(parts.layout.config)) for _, path in changes):
                _log.warning("the configuration was changed on a node that follows: it takes no force here", extra={"leader": self.leader})
                self.issues = (f"this node follows `{self.leader}`: a change of its own folder takes no force",)

    async def _consider_loop(self) -> None:
        if not self._parts.tail.is_behind:
            await self._parts.rollouts.consider(time.time_ns() // 1000)
