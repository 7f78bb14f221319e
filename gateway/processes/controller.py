"""The controller: everything slow. It compiles configuration, takes approvals in, moves rollouts, publishes the tree, and serves the admin port.

It leads (`gateway/control/leading.py`), or where another node of a shared log does, follows (`gateway/control/following.py`) until it may. Whichever
it does, it opens the journal, folds the log, reads on as the log grows, certifies its receipt key, tells metrics, and answers people.

Start: open the journal, fold the log, take the lead or find out who has it, prepare the role. A node that is alone leads first of all; where others
could, whoever has folded the log leads, so that a long log does not keep all of them waiting for the one that was restarted. What no call waits for
(the index, the admin port, the statistics) is loaded after that, in threads: it is more than half of what there is to load. If a loop fails
unexpectedly the process ends and the parent starts it again: workers go on within their staleness bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

from audit.excerpts import Excerpts
from audit.follow import follow
from audit.highwater import HighWater
from audit.journal import Journal
from audit.keys import InvalidKey, VerifierKey, read_secret
from audit.statements import Clock, machine_boot_id
from audit.store.control import ControlStore
from audit.store.errors import LedElsewhere, StoreDamaged, StoreError, TermLost
from audit.store.place import postgres_place
from audit.tiles import TileError
from experiments.rollout import Action
from experiments.stats import late
from gateway import apikeys, logs
from gateway.admin.traffic import Traffic
from gateway.authenticate import Principal
from gateway.config.compile import Compiler
from gateway.config.layout import Layout
from gateway.control.clerk import Clerk
from gateway.control.deployment import CannotStart, read_gateway, read_root, read_signers, read_vault_key, signed_mark
from gateway.control.inbox import Inbox
from gateway.control.keysfile import KeysFile
from gateway.control.leading import Leading, every
from gateway.control.orders import Asked
from gateway.control.parts import Parts
from gateway.control.receiptkey import ReceiptKey
from gateway.control.registry import CONCERNING, Registry
from gateway.control.rollouts import Rollouts
from gateway.control.tail import ROWS_PER_STEP, Others, Tail, fold_registry
from gateway.control.vaultclock import VaultClock
from gateway.control.witnesses import Known, Witnesses
from gateway.processes import parting
from gateway.processes.control import ControlDirectory
from gateway.processes.parent import Status, end_with_parent
from gateway.promises import RECEIPT_KEY

if TYPE_CHECKING:
    from audit.index import Indexer
    from audit.store.postgres_nodes import Nodes
    from gateway.admin.state import AdminState
    from gateway.control.erasures import Erasures
    from gateway.control.following import Following
    from gateway.control.lease import Lease
    from gateway.control.sharedkeys import NodesKey
    from gateway.processes.embedded import EmbeddedServer

_log = logging.getLogger("assay.controller")
_TAIL_S: Final = 0.1
_RECEIPTS_S: Final = 5.0
"""How often the receipt key is looked after."""
_STANDBY_S: Final = 0.5
"""How often a controller that stands by looks whether it may lead."""
_EX_TEMPFAIL: Final = 75
"""Exit status of a controller that led and leads no more: its next life follows."""


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
        self._control = ControlDirectory(self._data)
        self._control.create()
        self._vault_key = read_vault_key(chosen.vault)
        nodes_key = self._read_nodes_key()
        try:
            self._store: ControlStore | None = ControlStore.open(self._data)  # None until this node leads; changed by `_lead` and `_take_lease`
            self._nodes = self._reach_nodes(nodes_key)
            self._lead(may_follow=nodes_key is not None)
        except StoreError as fault:
            raise CannotStart(str(fault)) from fault
        self._keys = self._keys_file(nodes_key)
        self._stop = asyncio.Event()
        self._server: EmbeddedServer | None = None  # of the admin port; set by `_admin`
        self._admin_state: AdminState | None = None  # what it tells; set by `_admin_server`
        self._role: Leading | Following | None = None  # changed by `_begin` and `_take_over`
        self._roles: list[Leading | Following] = []  # all there were, to be closed; grown where `_role` changes
        self._lease: Lease | None = None  # of a shared log that this node leads; set by `_hold`

    # --- who leads -------------------------------------------------------------------------------------------------------------------------

    def _read_nodes_key(self) -> NodesKey | None:
        """Return the key the nodes share, None where none is configured. Raises CannotStart."""
        postgres = self._gateway.postgres
        if postgres is None or postgres.key is None:
            return None
        from gateway.control.sharedkeys import NodesKey  # noqa: PLC0415 - only where nodes share keys

        try:
            return NodesKey.parse(read_secret(postgres.key, base=self._layout.root, environ=os.environ))
        except InvalidKey as fault:
            raise CannotStart(f"postgres.key: {fault}") from fault

    def _reach_nodes(self, key: NodesKey | None) -> Nodes | None:
        """Return what the nodes of a shared log tell each other; None where the log is this node's own.

        Raises:
            StoreError: this node cannot read the pseudonym keys that the others share.
        """
        place = postgres_place(self._data)
        if place is None:
            return None
        from audit.store.postgres_nodes import Nodes  # noqa: PLC0415 - only where the store is PostgreSQL
        from gateway.control.sharedkeys import require_key  # noqa: PLC0415 - as above

        nodes = Nodes(place)
        require_key(nodes.sealed(), key)
        return nodes

    def _keys_file(self, key: NodesKey | None) -> KeysFile:
        epochs = self._data / "vault" / "epochs.json"
        if key is None or self._nodes is None:
            return KeysFile(self._chosen.keys, epochs)
        from gateway.control.sharedkeys import SharedKeys  # noqa: PLC0415 - only where nodes share keys

        return KeysFile(self._chosen.keys, epochs, SharedKeys(self._nodes, key))

    def _lead(self, *, may_follow: bool) -> None:
        """Become the leader; a node that may follow asks later, one that may not waits for as long as another leads.

        Raises:
            StoreError: another process of this machine leads, or the store cannot be used.
        """
        assert self._store is not None  # noqa: S101 - just opened
        if may_follow:
            self._store.close()
            self._store = None
            return
        is_told = False
        while True:
            self._asked_s = time.monotonic()
            try:
                self._store.lead(f"{self._chosen.node}.controller", time.time_ns() // 1000)
            except LedElsewhere as fault:
                if not is_told:
                    _log.warning("standing by: nothing is served here until this node leads, or shares `postgres.key`", extra={"why": str(fault)})
                is_told = True
                time.sleep(_STANDBY_S)
            else:
                return

    def _take_lease(self) -> bool:
        """Try to become the leader, blocking; say whether this node is."""
        store = ControlStore.open(self._data)
        self._asked_s = time.monotonic()
        try:
            store.lead(f"{self._chosen.node}.controller", time.time_ns() // 1000)
        except LedElsewhere:
            store.close()
            return False
        except BaseException:
            store.close()
            raise
        self._store = store
        return True

    def _hold(self, group: asyncio.TaskGroup) -> None:
        """Hold the lease from now on, where there is one."""
        if self._nodes is None or self._store is None:
            return
        from gateway.control.lease import Lease  # noqa: PLC0415 - only where the store is PostgreSQL

        self._lease = Lease(self._nodes, self._store.term, self._chosen.node, self._asked_s)
        self._held = group.create_task(self._lease.run(), name="lease")

    # --- life ------------------------------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until told to stop; returns the exit status."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        clock = Clock(machine_boot_id())
        node = f"{self._chosen.node}.controller"
        highwater = HighWater.claim(self._data / "run", node, clock.wall_ms(), clock.boot_id)
        journal = Journal(node, highwater.epoch, self._chosen.recorder, highwater, clock=clock)
        # What ends when this process writes no more is in `_after_journal`.
        async with asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as self._after_journal:
            self._after_journal.callback(self._close_store)
            self._after_journal.push_async_callback(self._end_lease)
            self._after_journal.push_async_callback(self._close_roles)
            self._hold(group)
            await journal.open(deadline_s=60.0)
            try:
                self._clerk = Clerk(journal, clock)
                await self._begin(group)
                await self._loops(group)
            finally:
                await journal.close(deadline_s=5.0)
            if parting.is_announced(self._data / "run"):
                parting.withdraw(self._data / "run")
                if isinstance(self._role, Leading):
                    await parting.await_close(self._data, f"{self._chosen.node}.recorder", self._role.publishing.publisher.size)
        return 0

    async def _close_roles(self) -> None:
        for role in reversed(self._roles):
            await role.close()

    async def _end_lease(self) -> None:
        """Renew no more: the lease is about to be given back."""
        if self._lease is not None:
            await _ended([self._held])

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
        if self._nodes is not None:
            self._nodes.close()

    async def _begin(self, group: asyncio.TaskGroup) -> None:
        """Open what either role works with, then prepare the one that this node has."""
        self._parts = await self._open_parts()
        try:
            if self._store is None and await asyncio.to_thread(self._take_lease):
                self._hold(group)
        except StoreError as fault:
            raise CannotStart(str(fault)) from fault
        role = self._leading() if self._store is not None else self._following()
        await self._prepare(role)
        self._receipt_key = ReceiptKey(
            self._data / "run" / RECEIPT_KEY,
            self._gateway.audit.origin,
            self._chosen.node,
            self._clerk,
            self._parts.registry.receipt_keys,
            lifetime_us=self._gateway.audit.receipt_key,
            checkpoint_us=self._gateway.audit.checkpoint,
        )

    async def _prepare(self, role: Leading | Following) -> None:
        self._role = role
        self._roles.append(role)
        await role.prepare()

    def _leading(self) -> Leading:
        assert self._store is not None  # noqa: S101 - asked where it leads
        return Leading(self._parts, self._store, self._lease)

    def _following(self) -> Following:
        from gateway.control.following import Following  # noqa: PLC0415 - only where the store is PostgreSQL

        assert self._nodes is not None  # noqa: S101 - nobody else could lead
        return Following(self._parts, self._nodes, self._take_lease)

    async def _open_parts(self) -> Parts:
        registry = Registry(self._root)
        excerpts = Excerpts(self._data, CONCERNING, [signer.verifier for signer in self._signers])
        try:
            folded = await asyncio.to_thread(fold_registry, self._data, registry, excerpts)
        except (StoreDamaged, TileError) as fault:
            raise CannotStart(
                f"what is in force cannot be read from the log: {fault}\nhint: `assay audit verify` says what else is damaged"
            ) from fault
        rollouts = Rollouts(registry, self._clerk, self._control.get)
        tail = Tail(self._data, None, rollouts, self._open_index)
        self._after_journal.callback(tail.close)
        if self._nodes is not None:
            tail.hear_others(Others(registry, folded, self._clerk.writer_key, self._hear))
        try:
            await self._keys.look(time.time_ns() // 1000)
        except (apikeys.InvalidKeyFile, StoreError) as fault:
            raise CannotStart(str(fault)) from fault
        return Parts(
            chosen=self._chosen,
            layout=self._layout,
            compiler=self._compiler,
            gateway=self._gateway,
            root=self._root,
            signers=self._signers,
            mark=signed_mark(self._gateway, self._layout),
            control=self._control,
            clerk=self._clerk,
            registry=registry,
            excerpts=excerpts,
            rollouts=rollouts,
            inbox=Inbox(self._layout.approvals, self._root, self._clerk, registry),
            witnesses=Witnesses([Known(one.url, VerifierKey.parse(one.key)) for one in self._gateway.audit.witnesses], self._data),
            keys=self._keys,
            vault_clock=VaultClock(self._data / "vault" / "clock.json", machine_boot_id()),
            tail=tail,
            traffic=Traffic(),
            nodes=self._nodes,
            erasures=self._open_vault(),
        )

    def _open_index(self) -> Indexer:
        from audit.index import Indexer  # noqa: PLC0415 - SQLAlchemy takes long to load, and no call waits for the index

        return Indexer(self._data, follow)

    def _open_vault(self) -> Erasures | None:
        """Return the hand on the vault, where there is one; the role opens it."""
        vault = self._gateway.vault
        if self._vault_key is None:
            return None
        from gateway.control.erasures import Erasures  # noqa: PLC0415 - SQLAlchemy takes long to load, and most gateways have no vault

        people = 0 if vault is None else vault.erase_people
        erasures = Erasures(
            self._data, self._vault_key, self._layout.root / "marks", self._clerk, self._root, self._gateway.audit.origin, people=people
        )
        self._after_journal.callback(erasures.close)
        return erasures

    def _hear(self, kind: str) -> None:
        if self._role is not None:
            self._role.hear(kind)

    # --- loops ---------------------------------------------------------------------------------------------------------------------------

    async def _loops(self, group: asyncio.TaskGroup) -> None:
        """Run every loop until told to stop or one fails; those of a role until it is another."""
        loops = {
            "tail": self._follow_log(),
            "observe": every(1.0, self._observe_loop),
            "receipts": every(_RECEIPTS_S, self._receipts_loop),
        }
        tasks = self._started(group, loops)
        admin = group.create_task(self._admin(), name="admin")
        try:
            while not self._stop.is_set():
                assert self._role is not None  # noqa: S101 - `_begin` has prepared it
                ours = self._started(group, self._role.loops())
                await self._until_over()
                await _ended(ours)
                if not self._stop.is_set():
                    await self._take_over(group)
        finally:
            self._end_admin()
            await _ended(tasks)
        await admin

    def _started(self, group: asyncio.TaskGroup, loops: dict[str, Coroutine[None, None, None]]) -> list[asyncio.Task[None]]:
        return [group.create_task(self._watched(name, work), name=name) for name, work in loops.items()]

    async def _until_over(self) -> None:
        """Wait until this process is to stop, or its role is over."""
        ends = [self._stop.wait(), *([] if isinstance(self._role, Leading) or self._role is None else [self._role.may_lead.wait()])]
        waiting = [asyncio.ensure_future(end) for end in ends]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    async def _take_over(self, group: asyncio.TaskGroup) -> None:
        """Lead from now on: the lease is this node's."""
        self._hold(group)
        leading = self._leading()
        await self._prepare(leading)
        if self._admin_state is not None:
            self._show(self._admin_state, leading)

    async def _watched(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Run a loop; when it fails, say so at once and let the process end: the parent starts it again."""
        try:
            await work
        except asyncio.CancelledError:
            raise
        except (CannotStart, TermLost):
            self._end_admin()
            raise  # told in words where the process ends
        except Exception:
            _log.exception("a loop of the controller failed; the process ends and is started again", extra={"loop": name})
            self._end_admin()
            raise

    async def _receipts_loop(self) -> None:
        try:
            await self._receipt_key.settle(time.time_ns() // 1000, time.monotonic())
        except OSError as fault:  # a full disk: no receipts, or those of the former key, until there is space
            _log.warning("the receipt key cannot be put in place", extra={"why": str(fault)})

    async def _follow_log(self) -> None:
        tail = self._parts.tail
        await asyncio.to_thread(tail.open_index)
        while True:
            if self._role is not None and self._role.is_cut_off:  # a read would wait for the server, and everything else for the read
                await asyncio.sleep(_TAIL_S)
                continue
            # Each step has costs of its own, whatever it reads: leaves of a tenth of a second are taken together.
            is_full = tail.step() >= ROWS_PER_STEP
            await asyncio.sleep(0 if is_full else _TAIL_S)

    async def _observe_loop(self) -> None:
        statuses = []
        for path in sorted((self._data / "run").glob("status-*.json")):
            try:
                statuses.append(json.loads(path.read_bytes()))
            except (OSError, ValueError):
                continue
        self._parts.traffic.observe(statuses, int(time.time()))
        self._control.collect_live(time.monotonic())

    # --- the admin port --------------------------------------------------------------------------------------------------------------------

    def _admin_server(self) -> EmbeddedServer:
        import uvicorn  # noqa: PLC0415 - `_admin` has loaded all this in a thread

        from gateway.admin.app import create_app  # noqa: PLC0415 - as above
        from gateway.admin.reading import Reading  # noqa: PLC0415 - as above
        from gateway.admin.state import AdminState  # noqa: PLC0415 - as above
        from gateway.processes.embedded import BoundedHttp, EmbeddedServer  # noqa: PLC0415 - as above

        parts, role = self._parts, self._role
        assert role is not None  # noqa: S101 - `_begin` has prepared it
        reading = Reading(self._data, [signer.verifier for signer in self._signers], parts.witnesses.keys)
        self._after_journal.callback(reading.close)
        state = AdminState(
            environment=self._gateway.environment,
            data_dir=self._data,
            node=self._chosen.node,
            vkey=str(self._signers[0].verifier),
            traffic=parts.traffic,
            configuration=role if not isinstance(role, Leading) else role.configuration,
            rollouts=parts.rollouts,
            registry=parts.registry,
            inbox=parts.inbox,
            tree=role if not isinstance(role, Leading) else role.publishing.publisher,
            witnesses=parts.witnesses,
            reading=reading,
            clerk=self._clerk,
            authenticator=lambda: self._keys.authenticator,
            tenants_ever=lambda: self._keys.tenants_ever,
            leader=self._leader,
            erasures=parts.erasures,
        )
        self._admin_state = state
        return EmbeddedServer(
            uvicorn.Config(
                create_app(state, self._take_step), http=BoundedHttp, log_config=None, access_log=False, lifespan="off", server_header=False
            )
        )

    def _show(self, state: AdminState, leading: Leading) -> None:
        """Tell from now on what this node has put in force and signed."""
        state.configuration, state.tree = leading.configuration, leading.publishing.publisher

    def _leader(self) -> str | None:
        """Return who leads, None where this node does."""
        role = self._role
        return None if role is None or isinstance(role, Leading) else role.leader

    async def _take_step(self, asked: Asked, principal: Principal) -> Action:
        assert self._role is not None  # noqa: S101 - `_begin` has prepared it
        return await self._role.take_step(asked, principal)

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


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _first(faults: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what went wrong first, out of the groups it came in."""
    fault: BaseException = faults
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


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

    status = int(Status.CONFIGURATION)
    try:
        status = uvloop.run(start())
    except* CannotStart as faults:
        print(f"assay: {_first(faults)}", file=sys.stderr, flush=True)  # noqa: T201 - the parent's terminal is the place for it
    except* TermLost as faults:
        _log.warning("this node leads no more; it is started again, and follows", extra={"why": str(_first(faults))})
        status = _EX_TEMPFAIL
    return status


if __name__ == "__main__":
    sys.exit(main())
