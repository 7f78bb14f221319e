"""A worker: the lane on one uvloop. No database, no thread. How callers and models are spoken with is `gateway/processes/transports.py`.

Life: claim a name and an epoch, open the journal, wait until the controller has published, serve; then look ten times a second at what is
in force and swap it whole. On SIGTERM: stop accepting, finish what runs, close the journal (which states the last sequence number), end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import json
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import uvloop

from audit.highwater import HighWater
from audit.journal import Journal
from audit.keys import InvalidKey
from audit.statements import Clock, machine_boot_id
from gateway import apikeys, logs, pseudonyms
from gateway.authenticate import Authenticator
from gateway.config.layout import Layout
from gateway.counters import Counters
from gateway.exchange import Endpoint, Headers, UpstreamError
from gateway.framing import FramingError
from gateway.keeping import Line
from gateway.lane import Lane
from gateway.limits import DeniedBytes, RateLimits
from gateway.live import Live
from gateway.live import decode as decode_live
from gateway.native.sweep import Sweep
from gateway.policy_server import Counts, Place, PolicyServer
from gateway.processes.control import LOOK_S, TICK_S, ControlDirectory
from gateway.processes.freshness import Settling, tightest_bound_us
from gateway.processes.parent import end_with_parent
from gateway.processes.transports import TRANSPORTS, Transport
from gateway.promises import RECEIPT_KEY, FollowedKey, Promises
from gateway.protocols import problem
from gateway.record import Source
from gateway.refusals import Refusal
from gateway.shadows import Shadows
from gateway.snapshot import Snapshot, Version
from gateway.standing import Approvals

LATE_DECISION_S: Final = 0.015
"""A call that has been open for longer writes its `decision`; with the sweep's tick this keeps the 20 ms of semantics.md 1.1 for nearly all."""
FLUSH_S: Final = 0.010
"""How long records that nobody waits for are gathered (semantics allow 20 ms): at 3,000 calls a second this halves the commits of 5 ms."""
DRAIN_S: Final = 10.0
_LAST_ANSWERS_S: Final = 60.0
_STATUS_S: Final = 1.0
_FAULT_PACE_S: Final = 1.0


class InForce:
    """What this worker serves by, followed from the control directory. Owned by the worker's loop."""

    def __init__(self, control: ControlDirectory, vault: Path, keys: Path) -> None:
        """Prepare; nothing is read before `look`."""
        self._control = control
        self._vault = vault
        self._keys = keys
        self._approvals: tuple[bytes, Approvals] | None = None  # as published, and read
        self._stamps: tuple[int, int] = (0, 0)  # times of the keys file and the vault when last read

    def look(self, lane: Lane | None) -> tuple[Snapshot, Live] | None:
        """Return what is in force now, taking over what did not change from the lane; None before anything was published.

        Compared is what the lane serves by, not what was read last: what was read and could not be installed is no confirmation of the old state.
        """
        current = self._control.current()
        if current is None:
            return None
        as_of_us = time.time_ns() // 1000 - (time.monotonic_ns() // 1000 - current.as_of_us)
        if lane is not None and (lane.snapshot.config_digest, lane.live.digest) == (current.manifest, current.live):
            lane.live.as_of_us = as_of_us
            return lane.snapshot, lane.live
        if lane is not None and lane.snapshot.config_digest == current.manifest:
            snapshot = lane.snapshot
        else:
            snapshot = Snapshot.build(current.manifest, self._control.get, None if lane is None else lane.snapshot)
        document = decode_live(self._control.get_live(current.live))
        published = bytes(document.approvals)
        if self._approvals is None or self._approvals[0] != published:
            self._approvals = (published, Approvals(document.read_approvals()))
        return snapshot, Live(document, current.live, as_of_us, snapshot, self._approvals[1])

    def keys_changed(self) -> tuple[Authenticator, dict[str, pseudonyms.TenantPseudonyms]] | None:
        """Return authenticator and pseudonyms when the keys file or the vault has changed since the last look.

        A key of a tenant that has no pseudonym key yet is not taken: the controller is about to make one, and then the vault has changed.
        """
        stamps = (_stamp(self._keys), _stamp(self._vault))
        if stamps == self._stamps:
            return None
        authenticator = Authenticator(apikeys.KeyTable.of(apikeys.load(self._keys)))
        # A key that has ended is the controller's to destroy, once it believes the clock; until then it is the current one.
        held = pseudonyms.load(self._vault)
        if any(not held.get(tenant) for tenant in authenticator.tenants):
            return None
        self._stamps = stamps  # only now: what could not be read, or is not whole yet, is read again at the next look
        return authenticator, {tenant: pseudonyms.TenantPseudonyms(max(keys, key=lambda key: key.epoch)) for tenant, keys in held.items() if keys}


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def render(counters: Counters, error: FramingError) -> tuple[Headers, bytes]:
    """Count a request whose form is refused, and return the reply to it."""
    counters.early(error.code)
    refusal = Refusal(error.code, error.detail, hint=error.hint, status=error.status)
    return [problem.CONTENT_TYPE], problem.problem_body(refusal, None)


class UpstreamFaults:
    """Tells the log why a model failed, with its address; callers are told neither. At most one line a second and version."""

    def __init__(self, log: logging.Logger, now_s: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing told."""
        self._log = log
        self._now_s = now_s
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # when a version's fault was last told, and how many since; changed by `tell`

    def tell(self, name: str, version: Version, fault: UpstreamError) -> None:
        """Tell one call that failed, or count it until the next line."""
        key = (version.model, version.name)
        told_s, unsaid = self._told.get(key, (-math.inf, 0))
        now_s = self._now_s()
        if now_s - told_s < _FAULT_PACE_S:
            self._told[key] = (told_s, unsaid + 1)
            return
        self._told[key] = (now_s, 0)
        why = {"decision": name, "model": version.model, "version": version.name, "fault": fault.fault.value, "detail": fault.detail}
        self._log.warning("a model server failed", extra={**why, "more_since_last_line": unsaid})


class Worker:
    """One worker process."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        """Take over the command line."""
        self._chosen = chosen
        self._node = f"{chosen.node}.w{chosen.index}"
        self._log = logs.configure(f"worker {chosen.index}", sees_payload=True)
        self._layout = Layout.of(chosen.config)
        self._run_dir: Path = chosen.data / "run"
        self._in_force = InForce(ControlDirectory(chosen.data), chosen.data / "vault" / "epochs.json", chosen.keys)
        self._stop = asyncio.Event()
        self._upstream_faults = UpstreamFaults(self._log)
        self._policy_counts: Counts = {}  # what became of questions to policy servers; changed by `PolicyServer`
        self._ending: set[asyncio.Task[None]] = set()  # policy servers that are not asked any more, until their last answers are there
        self._receipts = FollowedKey(self._run_dir / RECEIPT_KEY)
        self._receipt_fault = ""  # why there are no receipts, as the log was told; changed by `_promises`
        self._line: Line | None = None  # to the vault's keeper, where there is one; set by `run`
        self._settling = Settling()
        self._early_told: dict[str, int] = {}  # refusals already told in denial.count records; moved on by the lane

    async def run(self) -> int:
        """Serve until told to stop; returns the exit status."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        sweep = Sweep(loop)
        transport = TRANSPORTS[self._chosen.transport](sweep)
        clock = Clock(machine_boot_id())
        highwater = HighWater.claim(self._run_dir, self._node, clock.wall_ms(), clock.boot_id)
        journal = Journal(self._node, highwater.epoch, self._chosen.recorder, highwater, clock=clock, flush_s=FLUSH_S)
        await journal.open(deadline_s=60.0)
        if self._chosen.keeper is not None:
            self._line = Line(self._node, highwater.epoch, self._chosen.keeper)
            self._line.open()
        try:
            lane = await self._lane(journal, clock, transport)
            if lane is not None:
                await self._serve(lane, journal, transport, sweep)
        finally:
            if self._line is not None:
                lost = await self._line.close(deadline_s=5.0)
                if lost:
                    self._log.error("entries of the vault were not confirmed in time and are lost; their records stand", extra={"count": lost})
            with contextlib.suppress(Exception):
                await journal.close(deadline_s=5.0)
        return 0

    async def _lane(self, journal: Journal, clock: Clock, transport: Transport) -> Lane | None:
        """Wait until something is in force; None when told to stop before."""
        while not self._stop.is_set():
            found = self._in_force.look(None)
            keys = self._in_force.keys_changed() if found is not None else None
            if found is not None and keys is not None:
                source = Source(clock.boot_id)
                limits, denied = RateLimits(self._chosen.workers), DeniedBytes(self._chosen.workers)
                lane = Lane(found[0], found[1], keys[0], keys[1], journal, transport.upstream, limits, source, denied=denied)
                lane.ledger.vault = self._line
                lane.shadows = Shadows(transport.shadow_upstream, journal, source, lane.ids, workers=self._chosen.workers)
                lane.on_defect = self._defect
                lane.on_upstream_fault = self._upstream_faults.tell
                lane.ready = functools.partial(self._not_ready, lane)
                lane.install(*found, self._policy_server(found[0], None))
                host, _, port = self._chosen.admin.rpartition(":")
                lane.proofs = Endpoint("http", host.strip("[]"), int(port), authority=self._chosen.admin.encode())
                lane.promises = self._promises(None, journal)
                return lane
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), TICK_S / 5)
        return None

    def _not_ready(self, lane: Lane) -> str | None:
        age_us = time.time_ns() // 1000 - lane.live.as_of_us
        if age_us > lane.snapshot.settings.staleness_default_us:
            return f"nothing heard from the controller for {age_us / 1e6:.1f} s"
        if not self._settling.is_over:
            return "starting: the controller is not heard from often enough yet for models of high risk to be served"
        if lane.journal.failure is not None or not lane.journal.is_connected:
            return "the recorder cannot be reached"
        return "stopping" if self._stop.is_set() else None

    def _defect(self, name: str, fault: BaseException) -> None:
        self._log.error("defect while serving a call", extra={"defect": name}, exc_info=fault)

    async def _serve(self, lane: Lane, journal: Journal, transport: Transport, sweep: Sweep) -> None:
        sweep.add(lambda _now: lane.write_late_decisions(LATE_DECISION_S), every_s=0.025)
        if lane.shadows is not None:
            sweep.add(lane.shadows.start, every_s=0.025)
        sweep.start()
        # Modules and configuration live as long as the process: the collector need not walk them again while calls wait.
        gc.collect()
        gc.freeze()
        self._follow(lane)  # building took its time: nobody is served by what was in force before it
        await transport.listen(
            lane.serve,
            render=functools.partial(render, lane.counters),
            sock=socket.socket(fileno=self._chosen.listen),
            body_limit_bytes=lane.snapshot.settings.body_limit_bytes,
        )
        self._tell(lane, journal)
        (self._run_dir / "ready").touch()
        self._log.info("serving", extra={"node": self._node, "config_digest": lane.snapshot.config_digest})
        told_s = 0.0
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), LOOK_S)
            transport.check()
            if journal.failure is not None:
                self._log.error("the log has refused this worker; it ends and is started again", extra={"why": str(journal.failure)})
                break
            self._follow(lane)
            transport.bound_bodies(lane.snapshot.settings.body_limit_bytes)
            if time.monotonic() - told_s >= _STATUS_S:
                told_s = time.monotonic()
                self._tell(lane, journal)
        await transport.drain(DRAIN_S)
        if lane.shadows is not None:
            await lane.shadows.close()
        for task in self._ending:
            task.cancel()
        if lane.policy_server is not None:
            await lane.policy_server.close()
        self._tell(lane, journal)
        sweep.stop()
        await transport.close()

    def _follow(self, lane: Lane) -> None:
        """Swap in what is newly in force; what cannot be read leaves the old in force, loudly, until the staleness bound."""
        try:
            found = self._in_force.look(lane)
            if found is not None and (found[0] is not lane.snapshot or found[1] is not lane.live):
                lane.install(*found, self._policy_server(found[0], lane.policy_server))
                self._log.info("in force", extra={"config_digest": found[0].config_digest, "live_digest": found[1].digest})
            keys = self._in_force.keys_changed()
            if keys is not None:
                lane.authenticator, lane.pseudonyms = keys
                lane.install(lane.snapshot, lane.live, lane.policy_server)
            if not self._settling.is_over:
                bound_us, default_us = tightest_bound_us(lane.snapshot), lane.snapshot.settings.staleness_default_us
                self._settling.look(lane.live.as_of_us, time.time_ns() // 1000, bound_us, default_us)
            if lane.policy_server is not None:
                lane.policy_server.look()
            lane.promises = self._promises(lane.promises, lane.journal)
        except Exception as fault:  # noqa: BLE001 - whatever is wrong with it, the old state must go on until its bound
            # What was published tells of no call: here the words may be told.
            why = {"why": str(fault)}
            self._log.error("what the controller published cannot be loaded; the old state stays in force", extra=why, exc_info=fault)

    def _promises(self, held: Promises | None, journal: Journal) -> Promises | None:
        """Return who signs receipts; nobody while the key cannot be read, a file cut short by a power cut for one: no call fails for that."""
        try:
            found, fault = self._receipts.look(held, journal), ""
        except (InvalidKey, OSError) as broken:
            found, fault = None, str(broken)
        if fault and fault != self._receipt_fault:
            self._log.error("the receipt key cannot be read; there are no receipts until it can", extra={"why": fault})
        self._receipt_fault = fault
        return found

    def _policy_server(self, snapshot: Snapshot, before: PolicyServer | None) -> PolicyServer | None:
        """Return who is asked under a snapshot; one that is not asked any more ends when calls under way have their answers."""
        document = snapshot.settings.policy_server
        if before is not None and before.serves(document, snapshot.policies):
            return before
        if before is not None:
            task = asyncio.get_running_loop().create_task(_end_later(before), name="policy server")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        return PolicyServer.of(document, snapshot.policies, Place(self._layout.root, os.environ), self._log, self._policy_counts)

    def _tell(self, lane: Lane, journal: Journal) -> None:
        """Write the status file, and a `denial.count` record for each reason that was counted since the last one."""
        document: dict[str, Any] = {
            "node": self._node,
            "epoch": journal.epoch,
            "pid": os.getpid(),
            "in_flight": len(lane.open),
            "oldest_unacked_us": int(journal.oldest_unacked_age_s(time.monotonic_ns()) * 1e6),
            "unacked": journal.unacked_count,
            "config_digest": lane.snapshot.config_digest,
            "policy_server": self._policy_counts,
            "shadows": {} if lane.shadows is None else lane.shadows.counts,
            **({} if self._line is None else {"vault_oldest_us": int(self._line.oldest_unacked_age_s(time.monotonic_ns()) * 1e6)}),
            **lane.counters.document(),
        }
        fresh = self._run_dir / f".status-{self._node}.json"
        try:
            fresh.write_text(json.dumps(document))
            fresh.replace(self._run_dir / f"status-{self._node}.json")
        except OSError as fault:  # a full disk: calls are refused where they cannot be recorded, the process goes on
            self._log.warning("the status file cannot be written", extra={"why": str(fault)})
        lane.record_denials(self._early_told)


async def _end_later(server: PolicyServer) -> None:
    """Close what no new call asks; a call that asked it before may still be in the middle of several questions."""
    await asyncio.sleep(_LAST_ANSWERS_S)
    await server.close()


def main(arguments: list[str] | None = None) -> int:
    """Run a worker; returns the exit status."""
    parser = argparse.ArgumentParser(prog="gateway.processes.worker")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--parent", type=int, required=True, help="process id of the parent; this process ends with it")
    parser.add_argument("--recorder", type=Path, required=True, help="path of the recorder's socket")
    parser.add_argument("--keeper", type=Path, help="path of the vault keeper's socket, where there is a vault")
    parser.add_argument("--listen", type=int, required=True, help="inherited listening socket")
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--admin", required=True, help="address and port of this gateway's admin port: proofs of receipts come from there")
    parser.add_argument("--transport", choices=sorted(TRANSPORTS), default="native")
    chosen = parser.parse_args(arguments)
    end_with_parent(chosen.parent)
    return uvloop.run(Worker(chosen).run())


if __name__ == "__main__":
    sys.exit(main())
