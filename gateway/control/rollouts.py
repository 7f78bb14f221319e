"""Judges running experiments and moves them. The only writer of `experiment.*` and `rollout.step` records.

A step takes force in this order: judged from committed records, recorded and committed, then published to workers. Killed anywhere in
between, the controller that follows folds the log and judges again. While the evidence is still being read after a start, nothing is
judged: that is a hold.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from experiments.breaker import Window
from experiments.compiler import change_kind
from experiments.document import ExperimentDocument, LiveExperiment
from experiments.evidence import Fold
from experiments.judge import judge
from experiments.rollout import Action, RolloutState, apply, initial, live, step
from experiments.verdict import NO_DATA, Verdict
from gateway.control.clerk import Clerk
from gateway.control.registry import Registry

_log = logging.getLogger(__name__)
_FINAL = ("stopped", "superseded")
_MOST_WAITING = 50_000
"""Treatment calls whose outcome is awaited for the breaker; the oldest go first."""


@dataclass(slots=True)
class Running:
    """One configured experiment. Owned by `Rollouts`."""

    document: ExperimentDocument
    digest: str
    state: RolloutState
    fold: Fold
    window: Window | None
    verdict: Verdict = field(default=NO_DATA)
    fed: int = 0
    """Observations since the last verdict; without any there is nothing new to judge but time."""
    waiting: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Treatment calls whose `decision` was read and whose `outcome` was not."""


class Rollouts:
    """Every configured experiment and its state. Owned by the controller's loop."""

    def __init__(self, registry: Registry, clerk: Clerk, load: Callable[[str], bytes]) -> None:
        """Start with nothing configured; `load` gives documents by digest."""
        self._registry = registry
        self._clerk = clerk
        self._load = load
        self.running: dict[str, Running] = {}
        # A step is computed from a state and committed in an await: `align` and `judge` must not interleave, or one would undo the other's.
        self._moving = asyncio.Lock()
        self._unread_from: int | None = None  # set by `_begin`, taken by the tail

    async def align(self, configured: Mapping[str, str], now_us: int) -> bool:
        """Follow a configuration: start what is new, restart what changed, stop what is gone.

        Args:
            configured: experiment -> digest of its document.
            now_us: Unix microseconds.

        Returns:
            Whether anything workers draw with has changed.
        """
        async with self._moving:
            return await self._align(configured, now_us)

    async def _align(self, configured: Mapping[str, str], now_us: int) -> bool:
        changed = False
        for name in sorted(set(self._registry.rollouts) - set(configured)):
            changed = await self._stop(name, now_us) or changed
            self.running.pop(name, None)
        for name, digest in sorted(configured.items()):
            held = self.running.get(name)
            if held is not None and held.digest == digest:
                continue
            document = self._document(digest)
            changed = await self._begin(document, digest, now_us) or changed
        return changed

    async def _begin(self, document: ExperimentDocument, digest: str, now_us: int) -> bool:
        name = document.experiment
        state = self._registry.rollouts.get(name)
        if state is None:
            await self._start(document, digest, 1, now_us, "configured")
            return True
        before = self._registry.documents[name]
        kind = "none" if before == digest else change_kind(self._document(before), document)
        if state.phase in _FINAL or kind in ("epoch", "exploratory"):
            reason = "configured again" if state.phase in _FINAL else f"changed: {kind}"
            await self._start(document, digest, state.epoch + 1, now_us, reason)
            return True
        self.running[name] = _fresh(document, digest, state)
        # The epoch goes on, and so does its evidence: what was read into the fold before is read again into the new one.
        begun_at = self._registry.begun_at[name]
        self._unread_from = begun_at if self._unread_from is None else min(begun_at, self._unread_from)
        return kind != "none"

    async def _start(self, document: ExperimentDocument, digest: str, epoch: int, now_us: int, reason: str) -> None:
        """Commit the salt and the document before the first draw, then start."""
        name = document.experiment
        carries = {"experiment": name, "epoch": epoch, "document_digest": digest, "salt": document.salt, "reason": reason}
        index = await self._clerk.record("experiment.start", **carries)
        self._registry.begun(name, digest, epoch, index)
        state, action = apply(document, initial(document, epoch), "start", now_us, reason)
        await self._commit(document, action)
        self.running[name] = _fresh(document, digest, state)

    async def _stop(self, name: str, now_us: int) -> bool:
        state = self._registry.rollouts[name]
        if state.phase in _FINAL:
            return False
        document = self._document(self._registry.documents[name])
        after, action = apply(document, state, "stop", now_us, "no longer configured")
        await self._commit(document, action)
        await self._clerk.record("experiment.stop", experiment=name, epoch=after.epoch, reason="no longer configured")
        return True

    def feed(self, record: dict[str, Any]) -> None:
        """Take one committed record into the evidence of every experiment it may concern."""
        experiment = record.get("route", {}).get("experiment")
        if experiment is not None:
            found = self.running.get(experiment)
            if found is not None:
                _take(found, record)
        elif record["type"] in ("outcome", "label", "reward"):
            for found in self.running.values():
                if found.state.phase == "running":
                    _take(found, record)

    async def judge(self, now_us: int) -> bool:
        """Judge every running experiment and take the steps that are due; returns whether workers have to be told."""
        async with self._moving:
            return await self._judge(now_us)

    async def _judge(self, now_us: int) -> bool:
        changed = False
        for name, found in self.running.items():
            if found.state.phase != "running":
                continue
            if found.fed:
                found.fed = 0
                found.verdict = judge(found.document, found.fold.evidence())
            is_tripped = found.window is not None and found.window.is_tripped(now_us)
            state, actions = step(found.document, found.state, found.verdict, now_us, is_tripped=is_tripped)
            for action in actions:
                await self._commit(found.document, action)
                _log.info("rollout step", extra={"experiment": name, "action": action.verb, "reason": action.reason})
                changed = True
            found.state = state
        return changed

    @property
    def has_unread(self) -> bool:
        """Say whether evidence has to be read again before anything is judged."""
        return self._unread_from is not None

    def take_unread(self) -> int | None:
        """Return the leaf from which evidence has to be read again, once; None when there is none."""
        unread_from, self._unread_from = self._unread_from, None
        return unread_from

    async def _commit(self, document: ExperimentDocument, action: Action) -> None:
        body = {**action.record(document), "state": msgspec.to_builtins(action.after)}
        index = await self._clerk.record("rollout.step", **body)
        self._registry.stepped(index, body, datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"))

    def live(self, now_us: int) -> dict[str, LiveExperiment]:
        """Return what workers draw with."""
        return {
            name: live(found.document, found.state, holdout_released=_holdout_over(found.document, now_us)) for name, found in self.running.items()
        }

    def _document(self, digest: str) -> ExperimentDocument:
        return msgspec.json.decode(self._load(digest), type=ExperimentDocument)


def _fresh(document: ExperimentDocument, digest: str, state: RolloutState) -> Running:
    window = Window(document.breaker) if document.breaker is not None else None
    return Running(document, digest, state, Fold(document, state.epoch), window)


def _take(found: Running, record: dict[str, Any]) -> None:
    found.fold.add(record)
    found.fed += 1
    if found.window is not None:
        _watch(found, found.window, record)


def _watch(found: Running, window: Window, record: dict[str, Any]) -> None:
    """Count a treatment's ended call for the breaker, whether it is one record or a `decision` and its `outcome`."""
    decision = record["id"]
    if record["type"] == "outcome":
        decision = record["parents"][0]
        if decision not in found.waiting:
            return
        del found.waiting[decision]
    elif not _is_treatment(found, record.get("route", {})):
        return
    elif "outcome" not in record:
        found.waiting[decision] = None
        if len(found.waiting) > _MOST_WAITING:
            found.waiting.popitem(last=False)
        return
    at_us = int(datetime.fromisoformat(record["time"]).timestamp() * 1e6)
    window.add(decision, at_us, failed=record["outcome"]["status"] >= 500)


def _is_treatment(found: Running, route: dict[str, Any]) -> bool:
    return route.get("epoch") == found.state.epoch and route.get("served") not in (None, "default", found.document.control)


def _holdout_over(document: ExperimentDocument, now_us: int) -> bool:
    if document.holdout is None:
        return False
    return datetime.fromtimestamp(now_us / 1e6, UTC).date().isoformat() > document.holdout.until
