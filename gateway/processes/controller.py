"""The controller: everything slow. It compiles configuration, takes approvals in, moves rollouts, publishes the tree, and serves the admin port.

Start: lead (term), open the journal, pin the trust root, fold the log, put a configuration in force, publish. What no call waits for (the index,
the admin port, the statistics) is loaded after that, in threads: it is more than half of what there is to load. Then a few loops, each with its own
pace; if one fails unexpectedly the process ends and the parent starts it again: workers go on within their staleness bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop
import watchfiles

from audit.follow import follow
from audit.highwater import HighWater
from audit.journal import Journal
from audit.keys import VerifierKey
from audit.signer import SignerUnavailable
from audit.statements import Clock, machine_boot_id
from audit.store.control import ControlStore
from audit.store.errors import LedElsewhere, StoreDamaged, StoreError, StoreFull
from audit.tiles import TileError
from experiments.rollout import Action
from experiments.stats import late
from gateway import apikeys, logs
from gateway import live as live_state
from gateway.admin.traffic import Traffic
from gateway.authenticate import Principal
from gateway.config.compile import Compiler
from gateway.config.layout import Layout
from gateway.control.beginning import CannotBegin, beginning, read_previous
from gateway.control.clerk import Clerk
from gateway.control.configuration import Configuration
from gateway.control.deployment import (
    CannotStart,
    outlet_of,
    read_gateway,
    read_root,
    read_signers,
    read_vault_key,
    require_follows,
    signed_mark,
    write_verification_keys,
)
from gateway.control.inbox import Inbox
from gateway.control.keysfile import KeysFile
from gateway.control.logkeys import KeyHasEnded, due, refuse_ended
from gateway.control.orders import Asked
from gateway.control.policy_changes import PolicyChanges
from gateway.control.policy_servers import PolicyServers
from gateway.control.publishing import Publishing
from gateway.control.receiptkey import ReceiptKey
from gateway.control.registry import Registry
from gateway.control.rollouts import Rollouts
from gateway.control.steps import Steps
from gateway.control.tail import ROWS_PER_STEP, Tail, fold_registry
from gateway.control.vaultclock import VaultClock
from gateway.control.witnesses import Known, Witnesses
from gateway.policy_server import Place
from gateway.processes import parting
from gateway.processes.control import TICK_S, ControlDirectory, Current
from gateway.processes.parent import Status, end_with_parent
from gateway.promises import RECEIPT_KEY
from policies.bundle import BundleError

if TYPE_CHECKING:
    from audit.index import Indexer
    from gateway.control.erasures import Erasures
    from gateway.processes.embedded import EmbeddedServer

_log = logging.getLogger("assay.controller")
JUDGE_S: Final = 0.5
_TAIL_S: Final = 0.1
_VAULT_S: Final = 2.0
"""How often ended pseudonym keys are looked for: they are destroyed, and every tenant gets a new one."""


_LOOK_S: Final = 1.0
"""How often policy servers are asked whether they have what is in force."""
_AGAIN_S: Final = 2.0
"""How often a folder that waits for a policy server is read again."""
_RECEIPTS_S: Final = 5.0
"""How often the receipt key is looked after."""
_EXPIRE_S: Final = 60.0
"""How often entries of the vault whose time is over are deleted."""
_RENEW_S: Final = 1.0
_STANDBY_S: Final = 0.5
"""How often a controller that stands by looks whether it may lead."""


class Controller:
    """One controller process. Every attribute is owned by its loop."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        """Open what needs no loop.

        Raises:
            CannotStart: trust root, key or store cannot be used.
        """
        self._chosen = chosen
        self._data: Path = chosen.data
        self._layout = Layout.of(chosen.config)
        self._compiler = Compiler(self._layout.config)
        self._gateway = read_gateway(self._compiler)
        self._root = read_root(self._layout)
        self._signers = read_signers(self._gateway, self._layout)
        self._key = self._signers[0]
        self._outlet = outlet_of(self._gateway, self._layout)
        self._outlet_fault: str | None = None  # what was told last; changed by `_push`
        self._control = ControlDirectory(self._data)
        self._control.create()
        try:
            self._store = ControlStore.open(self._data)
            self._lead()
        except StoreError as fault:
            raise CannotStart(str(fault)) from fault
        self._keys = KeysFile(chosen.keys, self._data / "vault" / "epochs.json")
        self._vault_clock = VaultClock(self._data / "vault" / "clock.json", machine_boot_id())
        self._vault_key = read_vault_key(chosen.vault)
        self._erasures: Erasures | None = None  # where there is a vault; set by `_prepare`
        self._expired_s = -math.inf  # when entries of the vault were last looked through; changed by `_vault_loop`
        self._aligned = ""  # manifest that the rollouts follow; changed by `_align`
        self._published: tuple[str, str] | None = None  # manifest and live state that belong together; changed by `_publish_live`
        self._stop = asyncio.Event()
        self._server: EmbeddedServer | None = None  # of the admin port; set by `_admin`
        self._last_leaf_s = time.monotonic()  # when a checkpoint last grew; a heartbeat follows when it is old

    def _lead(self) -> None:
        """Become the leader; on a shared log wait for as long as another node's controller leads.

        Raises:
            StoreError: another process of this machine leads, or the store cannot be used.
        """
        is_told = False
        while True:
            try:
                self._store.lead(f"{self._chosen.node}.controller", time.time_ns() // 1000)
            except LedElsewhere as fault:
                if not is_told:
                    _log.warning("standing by: nothing is served here until this node leads", extra={"why": str(fault)})
                is_told = True
                time.sleep(_STANDBY_S)
            else:
                return

    async def run(self) -> int:
        """Run until told to stop; returns the exit status."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        clock = Clock(machine_boot_id())
        node = f"{self._chosen.node}.controller"
        highwater = HighWater.claim(self._data / "run", node, clock.wall_ms(), clock.boot_id)
        journal = Journal(node, highwater.epoch, self._chosen.recorder, highwater, clock=clock)
        async with contextlib.AsyncExitStack() as self._after_journal:  # what ends when this process writes no more; filled by `_prepare`
            self._after_journal.callback(self._store.close)
            await journal.open(deadline_s=60.0)
            try:
                self._clerk = Clerk(journal, clock)
                await self._prepare()
                await self._loops()
            finally:
                await journal.close(deadline_s=5.0)
            if parting.is_announced(self._data / "run"):
                parting.withdraw(self._data / "run")
                await parting.await_close(self._data, f"{self._chosen.node}.recorder", self._publishing.publisher.size)
        return 0

    async def _prepare(self) -> None:
        """Bring everything in force before a worker may serve."""
        self._registry = Registry(self._root)
        try:
            await asyncio.to_thread(fold_registry, self._data, self._registry)
        except (StoreDamaged, TileError) as fault:
            raise CannotStart(
                f"what is in force cannot be read from the log: {fault}\nhint: `assay audit verify` says what else is damaged"
            ) from fault
        self._rollouts = Rollouts(self._registry, self._clerk, self._control.get, self._store.require_term)
        self._inbox = Inbox(self._layout.approvals, self._root, self._clerk, self._registry)
        self._witnesses = Witnesses([Known(one.url, VerifierKey.parse(one.key)) for one in self._gateway.audit.witnesses], self._data)
        try:  # before the publisher is there: what it publishes when it is closed again would be signed by the key that is refused
            refuse_ended(self._registry.log_keys, [str(signer.verifier) for signer in self._signers], self._revoked_keys())
        except KeyHasEnded as fault:
            raise CannotStart(f"audit.key: {fault}") from fault
        try:
            self._publishing = await Publishing.start(
                self._data,
                self._store.term,
                self._signers,
                self._witnesses,
                mark=signed_mark(self._gateway, self._layout),
                hot_ranges=self._gateway.audit.hot_ranges,
            )
        except StoreDamaged as fault:
            raise CannotStart(str(fault)) from fault
        self._after_journal.push_async_callback(self._publishing.close)
        write_verification_keys(self._data / "log", self._signers, self._witnesses.keys)
        await self._prepare_vault()
        self._tail = Tail(self._data, None, self._rollouts, self._open_index)
        self._after_journal.callback(self._tail.close)
        self._traffic = Traffic()
        changes = PolicyChanges(self._control, self._clerk, self._registry.policies, self._store.keep_objects)
        self._policy_servers = PolicyServers(Place(self._layout.root, os.environ), self._traffic.policy_server)
        self._configuration = Configuration(self._compiler, self._control, self._store, self._clerk, changes, self._policy_servers)
        self._steps = Steps(self._rollouts, self._configuration, self._control, self._registry, self._root)
        restored = self._configuration.restore()
        require_follows(self._root, self._registry.pinned, self._layout)
        await self._record_beginning()
        await self._record_keys()
        self._receipt_key = ReceiptKey(
            self._data / "run" / RECEIPT_KEY,
            self._gateway.audit.origin,
            self._chosen.node,
            self._clerk,
            self._registry.receipt_keys,
            lifetime_us=self._gateway.audit.receipt_key,
            checkpoint_us=self._gateway.audit.checkpoint,
        )
        await self._clerk.record("trust.pinned", digest=self._root.digest, version=self._root.version, root=self._root.encode().decode())
        await self._configuration.reload()
        if self._configuration.manifest is None:
            raise CannotStart("\n".join(self._configuration.issues))
        if self._configuration.issues:
            await self._settle_policies()
        await self._policy_servers.look()  # OPA forgets when it is started again: workers would ask for what is not there
        if restored and self._configuration.issues:
            _log.error("serving the configuration that was in force before; the folder has issues")
        try:
            self._keys.read(time.time_ns() // 1000)
        except apikeys.InvalidKeyFile as fault:
            raise CannotStart(str(fault)) from fault
        await self._inbox.take_in()
        await self._align()
        self._publish_live()

    def _open_index(self) -> Indexer:
        from audit.index import Indexer  # noqa: PLC0415 - SQLAlchemy takes long to load, and no call waits for the index

        return Indexer(self._data, follow)

    async def _prepare_vault(self) -> None:
        """Open the vault, and destroy again what a restore brought back, before anything is read from it."""
        vault = self._gateway.vault
        if self._vault_key is None:
            return
        from gateway.control.erasures import Erasures  # noqa: PLC0415 - SQLAlchemy takes long to load, and most gateways have no vault

        people = 0 if vault is None else vault.erase_people
        erasures = Erasures(
            self._data, self._vault_key, self._layout.root / "marks", self._clerk, self._root, self._gateway.audit.origin, people=people
        )
        self._after_journal.callback(erasures.close)
        try:
            await erasures.prepare(self._registry.erased)
        except StoreError as fault:
            raise CannotStart(f"vault: {fault}") from fault
        self._erasures = erasures

    async def _settle_policies(self) -> None:
        """Refuse to serve by restored policies that this release cannot enforce: the folder has issues, and nothing else is in force."""
        try:
            await self._configuration.settle_policies()
        except BundleError as fault:
            told = "\n".join(self._configuration.issues)
            raise CannotStart(f"the policies that were in force cannot be enforced: {fault}\nand the folder has issues:\n{told}") from fault

    def _revoked_keys(self) -> dict[str, int]:
        return {one.key: one.until for one in self._gateway.audit.revoked}

    async def _record_beginning(self) -> None:
        """Commit which log begins, and which one it follows. Raises CannotStart: it cannot follow what it is to follow."""
        audit = self._gateway.audit
        try:
            path = self._layout.resolve(audit.follows.checkpoint) if audit.follows is not None else self._layout.root
            previous = read_previous(audit.follows, path, origin=audit.origin)
            record = beginning(self._registry.opened, has_begun=bool(self._registry.log_keys.bounds), origin=audit.origin, previous=previous)
        except CannotBegin as fault:
            raise CannotStart(str(fault)) from fault
        if record is not None:
            await self._clerk.record("log.open", **record)

    async def _record_keys(self) -> None:
        """Commit which keys begin and end, before any of them signs (`gateway/control/logkeys.py`)."""
        signing = [str(signer.verifier) for signer in self._signers]
        for kind, carries in due(self._registry.log_keys, signing, self._revoked_keys(), self._publishing.publisher.size):
            await self._clerk.record(kind, **carries)
            self._registry.log_keys.fold({"type": kind, **carries})

    # --- what is in force ----------------------------------------------------------------------------------------------------------------

    async def _align(self) -> None:
        manifest, digest = self._configuration.manifest, self._configuration.digest
        assert manifest is not None and digest is not None  # noqa: S101, PT018 - `_prepare` ends without them
        await self._rollouts.align(manifest.experiments, time.time_ns() // 1000)
        begun = [self._registry.begun_at[name] for name in self._rollouts.running]
        if begun:
            self._tail.read_evidence_from(min(begun))
        self._aligned = digest

    def _publish_live(self) -> None:
        document = live_state.LiveDocument(
            experiments=self._rollouts.live(time.time_ns() // 1000),
            approvals=self._registry.in_force(),
        )
        # Always a manifest together with rollouts that follow it: new documents under an old state would send everyone to a version not begun.
        self._published = (self._aligned, self._control.put_live(live_state.encode(document), time.monotonic()))
        self._tick()

    def _tick(self) -> None:
        assert self._published is not None  # noqa: S101 - `_prepare` publishes before any loop runs
        self._control.publish(Current(*self._published, time.monotonic_ns() // 1000))

    # --- loops ---------------------------------------------------------------------------------------------------------------------------

    async def _loops(self) -> None:
        """Run every loop until told to stop or one fails."""
        loops = {
            "tick": self._every(TICK_S, self._tick_loop),
            "watch": self._watch(),
            "publish": self._every(self._gateway.audit.checkpoint / 1e6, self._publish_loop),
            "tail": self._follow_log(),
            "judge": self._every(JUDGE_S, self._judge_loop),
            "observe": self._every(1.0, self._observe_loop),
            "policy servers": self._every(_LOOK_S, self._policy_servers.look),
            **({"lease": self._every(_RENEW_S, self._renew_loop)} if self._store.is_leased else {}),
            "vault": self._every(_VAULT_S, self._vault_loop),
            "receipts": self._every(_RECEIPTS_S, self._receipts_loop),
        }
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._watched(name, work), name=name) for name, work in loops.items()]
            group.create_task(self._admin(), name="admin")
            await self._stop.wait()
            self._end_admin()
            for task in tasks:
                task.cancel()

    async def _every(self, pace_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await work()
            await asyncio.sleep(pace_s)

    async def _watched(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Run a loop; when it fails, say so at once and let the process end: the parent starts it again."""
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("a loop of the controller failed; the process ends and is started again", extra={"loop": name})
            self._end_admin()
            raise

    async def _tick_loop(self) -> None:
        try:
            self._tick()
        except OSError as fault:  # a full disk: workers go stale within their bounds, and hear again once there is space
            _log.warning("cannot tell the workers what is in force", extra={"why": str(fault)})

    async def _renew_loop(self) -> None:
        await asyncio.to_thread(self._store.renew)  # `TermLost` ends this process: another node leads

    async def _vault_loop(self) -> None:
        try:
            now_us = time.time_ns() // 1000
            self._keys.read(now_us)
            may_destroy = self._vault_clock.look(now_us, time.monotonic_ns() // 1000)
            renewed_us = self._keys.rotate(now_us, may_destroy=may_destroy)
        except OSError as fault:
            _log.warning("pseudonym keys cannot be looked after", extra={"why": str(fault)})
            return
        if may_destroy and self._erasures is not None and time.monotonic() - self._expired_s >= _EXPIRE_S:
            self._expired_s = time.monotonic()
            try:
                await self._erasures.expire(now_us)
            except StoreError as fault:  # nothing that has ended is shown meanwhile; the next round tries again
                _log.warning("what has ended could not be deleted from the vault", extra={"why": str(fault)})
        if await self._rollouts.begin_anew(time.time_ns() // 1000, renewed_us):
            self._publish_live()

    async def _receipts_loop(self) -> None:
        try:
            await self._receipt_key.settle(time.time_ns() // 1000, time.monotonic())
        except OSError as fault:  # a full disk: no receipts, or those of the former key, until there is space
            _log.warning("the receipt key cannot be put in place", extra={"why": str(fault)})

    async def _watch(self) -> None:
        """Follow the folders: configuration, approvals, keys."""
        self._layout.approvals.mkdir(parents=True, exist_ok=True)
        watched = {self._layout.config, self._layout.approvals, self._chosen.keys.parent}
        # A change made after the first reading and before the watch began would never be told: the first quiet moment reads everything again.
        has_settled = False
        read_s = time.monotonic()
        async for changes in watchfiles.awatch(*watched, step=100, debounce=200, rust_timeout=300, yield_on_timeout=True):
            is_due = self._configuration.is_waiting and time.monotonic() - read_s >= _AGAIN_S
            is_quiet = not changes and has_settled and not is_due
            if is_quiet and not self._inbox.has_unread:
                continue
            has_settled = True
            self._keys.read(time.time_ns() // 1000)
            if await self._inbox.take_in():
                self._publish_live()  # at once: a revocation does not wait for the compiler
            if is_quiet:
                continue
            read_s = time.monotonic()
            if await self._configuration.reload():
                await self._align()
                self._publish_live()

    async def _publish_loop(self) -> None:
        try:
            publication = await self._publishing.publish()
        except (StoreFull, SignerUnavailable) as fault:  # nothing was signed; the next round tries again
            _log.warning("the tree cannot be published", extra={"why": str(fault)})
            return
        if publication is not None:
            self._last_leaf_s = time.monotonic()
            if self._outlet is not None:
                self._tell_push(await asyncio.to_thread(self._outlet.push, publication.note))
        idle_s = time.monotonic() - self._last_leaf_s
        if idle_s >= self._gateway.audit.heartbeat / 1e6:
            self._last_leaf_s = time.monotonic()
            await self._clerk.record("log.heartbeat", size=self._publishing.publisher.size)

    def _tell_push(self, fault: str | None) -> None:
        """Say once when a checkpoint could not be pushed, and once when it could again."""
        if fault is not None and fault != self._outlet_fault:
            _log.error("the signed checkpoint could not be pushed", extra={"why": fault})
        elif fault is None and self._outlet_fault is not None:
            _log.info("signed checkpoints are pushed again")
        self._outlet_fault = fault

    async def _follow_log(self) -> None:
        await asyncio.to_thread(self._tail.open_index)
        while True:
            # Each step has costs of its own, whatever it reads: leaves of a tenth of a second are taken together.
            is_full = self._tail.step() >= ROWS_PER_STEP
            await asyncio.sleep(0 if is_full else _TAIL_S)

    async def _judge_loop(self) -> None:
        if not self._tail.is_behind and await self._rollouts.judge(time.time_ns() // 1000):
            self._publish_live()

    async def _observe_loop(self) -> None:
        statuses = []
        for path in sorted((self._data / "run").glob("status-*.json")):
            try:
                statuses.append(json.loads(path.read_bytes()))
            except (OSError, ValueError):
                continue
        self._traffic.observe(statuses, int(time.time()))
        self._control.collect_live(time.monotonic())

    def _admin_server(self) -> EmbeddedServer:
        import uvicorn  # noqa: PLC0415 - `_admin` has loaded all this in a thread

        from gateway.admin.app import create_app  # noqa: PLC0415 - as above
        from gateway.admin.reading import Reading  # noqa: PLC0415 - as above
        from gateway.admin.state import AdminState  # noqa: PLC0415 - as above
        from gateway.processes.embedded import BoundedHttp, EmbeddedServer  # noqa: PLC0415 - as above

        reading = Reading(self._data, [signer.verifier for signer in self._signers], self._witnesses.keys)
        self._after_journal.callback(reading.close)
        state = AdminState(
            environment=self._gateway.environment,
            data_dir=self._data,
            vkey=str(self._key.verifier),
            traffic=self._traffic,
            configuration=self._configuration,
            rollouts=self._rollouts,
            registry=self._registry,
            inbox=self._inbox,
            publisher=self._publishing.publisher,
            witnesses=self._witnesses,
            reading=reading,
            clerk=self._clerk,
            authenticator=lambda: self._keys.authenticator,
            tenants_ever=lambda: self._keys.tenants_ever,
            erasures=self._erasures,
        )
        return EmbeddedServer(
            uvicorn.Config(
                create_app(state, self._take_step), http=BoundedHttp, log_config=None, access_log=False, lifespan="off", server_header=False
            )
        )

    async def _take_step(self, asked: Asked, principal: Principal) -> Action:
        """Take a step of an experiment that someone asked for, and tell the workers at once."""
        action = await self._steps.take(asked, principal)
        self._publish_live()
        _log.info("step taken", extra={"experiment": asked.experiment, "action": action.verb, "by": principal.id})
        return action

    async def _admin(self) -> None:
        """Serve people, once what they look at is loaded: callers of the port wait in the kernel's line meanwhile."""
        for module in ("gateway.admin.app", "gateway.processes.embedded"):
            await asyncio.to_thread(importlib.import_module, module)
        await asyncio.to_thread(late.load)
        if not self._stop.is_set():
            self._server = self._admin_server()
            await self._server.serve(sockets=[socket.socket(fileno=self._chosen.listen)])

    def _end_admin(self) -> None:
        if self._server is not None:
            self._server.should_exit = True


def main(arguments: list[str] | None = None) -> int:
    """Run the controller; returns the exit status."""
    parser = argparse.ArgumentParser(prog="gateway.processes.controller")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--parent", type=int, required=True, help="process id of the parent; this process ends with it")
    parser.add_argument("--recorder", type=Path, required=True, help="path of the recorder's socket")
    parser.add_argument("--listen", type=int, required=True, help="inherited listening socket of the admin port")
    parser.add_argument("--vault", default="", help="absolute reference of the vault's master key, where there is a vault")
    chosen = parser.parse_args(arguments)
    end_with_parent(chosen.parent)
    logs.configure("controller")

    async def start() -> int:
        return await Controller(chosen).run()

    try:
        return uvloop.run(start())
    except CannotStart as fault:
        print(f"assay: {fault}", file=sys.stderr, flush=True)  # noqa: T201 - the parent's terminal is the place for it
        return int(Status.CONFIGURATION)


if __name__ == "__main__":
    sys.exit(main())
