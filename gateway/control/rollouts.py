"""Judges running experiments and moves them, or follows another node's controller that does. The only writer of their records.

A step takes force in this order: judged from committed records, recorded and committed, then published to workers. Killed anywhere in
between, the controller that follows folds the log and judges again. While the evidence is still being read after a start, nothing is
judged: that is a hold.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from experiments import preregistration
from experiments.breaker import Window
from experiments.changes import change_kind
from experiments.document import ExperimentDocument, LiveExperiment
from experiments.evidence import Fold
from experiments.lifecycle import Verb
from experiments.people import HUMAN_DECISION, PersonFold, fold_of
from experiments.rollout import Action, RolloutState, apply, ends_proven, initial, live, step
from experiments.verdict import NO_DATA
from gateway.control.clerk import Clerk
from gateway.control.orders import Order
from gateway.control.registry import Registry
from gateway.control.running import Running, Starting

_log = logging.getLogger(__name__)
_NEVER_US = 2**62
_MOST_WAITING = 50_000
"""Treatment calls whose outcome is awaited for the breaker, and answers whose call is awaited; the oldest go first."""
_MOST_EARLY, _MOST_EARLY_EACH = 4096, 16
"""Decisions whose answers are read before them, and answers kept for each: what a caller makes up costs no more."""
_MOST_DECISIONS = 1_000_000
"""Decisions whose late labels find their experiment (about 150 bytes each), beside those that units count by, which are never forgotten."""
_LOOKED_AT = 8
"""Oldest decisions looked at for each new one; as long as one in eight of them counts for nothing, the table does not grow."""


class Rollouts:
    """Every configured experiment and its state. Owned by the controller's loop."""

    def __init__(self, registry: Registry, clerk: Clerk, load: Callable[[str], bytes], fence: Callable[[], None] = lambda: None) -> None:
        """Start with nothing configured.

        Args:
            registry: what the log says.
            clerk: writes records.
            load: gives documents by digest.
            fence: raises when another controller has taken over; asked before every step.
        """
        self._registry = registry
        self._clerk = clerk
        self._load = load
        self._fence = fence  # replaced by `lead`
        self.running: dict[str, Running] = {}
        # A step is computed from a state and committed in an await: `align` and `judge` must not interleave, or one would undo the other's.
        self._moving = asyncio.Lock()
        self._unread_from: int | None = None  # set by `_go_on`, taken by the tail
        # Whose evidence an answer belongs to: decision -> experiment, oldest first; and answers read before their decision. Changed by `feed`.
        self._experiment_of: dict[str, str] = {}
        self._early: OrderedDict[str, list[dict[str, Any]]] = OrderedDict()

    def lead(self, fence: Callable[[], None]) -> None:
        """Move from now on what was followed; `fence` as at the beginning. What is not where the log says is taken up anew by `align`."""
        self._fence = fence
        self.running = {name: found for name, found in self.running.items() if found.state == self._registry.rollouts.get(name)}

    def follow(self, configured: Mapping[str, str]) -> None:
        """Show what another node's controller moves: the states are the log's, evidence is read here too, and nothing is committed.

        Args:
            configured: experiment -> digest of its document.
        """
        for name in set(self.running) - set(configured):
            del self.running[name]
        for name, digest in configured.items():
            state, held = self._registry.rollouts.get(name), self.running.get(name)
            if state is None or state.phase == "archived":  # configured a moment ago: its leader is about to begin it
                continue
            if held is None or held.digest != digest or held.state.epoch != state.epoch:
                self._go_on(self._document(digest), digest)
            else:
                held.state = state

    async def consider(self, now_us: int) -> None:
        """Judge what was fed by now, for whoever looks; nothing moves."""
        for found in list(self.running.values()):
            if found.fed:
                found.judge(now_us)
                await asyncio.sleep(0)

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
            changed = await self._archive(name, now_us) or changed
            self.running.pop(name, None)
        fresh: list[Starting] = []
        for name, digest in sorted(configured.items()):
            held = self.running.get(name)
            if held is not None and held.digest == digest:
                continue
            document = self._document(digest)
            found = self._fresh_epoch(document, digest)
            if found is not None:
                fresh.append(found)
            else:
                changed = self._go_on(document, digest) or changed
        await self._register([one for one in fresh if one.is_draft])
        await self._start([one for one in fresh if not one.is_draft], now_us)
        return changed or bool(fresh)

    def _fresh_epoch(self, document: ExperimentDocument, digest: str) -> Starting | None:
        """Return the epoch to start or to put on record, or None where the one that runs goes on."""
        name = document.experiment
        state = self._registry.rollouts.get(name)
        waits = document.start == "manual"
        if state is None:
            return Starting(document, digest, 1, "configured", waits)
        before = self._registry.documents[name]
        if state.phase == "draft":
            # It has not begun: what is said now is what counts, in the same epoch. No edit starts it, for a pause may be what made it a draft.
            return None if before == digest else Starting(document, digest, state.epoch, "configured", is_draft=True)
        if state.phase == "archived":
            return Starting(document, digest, state.epoch + 1, "configured again", waits)
        kind = "none" if before == digest else change_kind(self._document(before), document)
        if kind not in ("epoch", "exploratory"):
            return None
        # What someone paused does not come back by an edit, and what was started by hand goes on without asking again.
        waits = state.phase == "paused" or (waits and state.phase != "running")
        return Starting(document, digest, state.epoch + 1, f"changed: {kind}", waits)

    def _go_on(self, document: ExperimentDocument, digest: str) -> bool:
        """Take an epoch up where the log left it; returns whether its document has changed."""
        name = document.experiment
        self.running[name] = _fresh(document, digest, self._registry.rollouts[name])
        # The epoch goes on, and so does its evidence: what was read into the fold before is read again into the new one.
        begun_at = self._registry.begun_at[name]
        self._unread_from = begun_at if self._unread_from is None else min(begun_at, self._unread_from)
        return self._registry.documents[name] != digest

    async def _register(self, drafts: Sequence[Starting]) -> None:
        """Put the plans of drafts on record; nothing is drawn."""
        if not drafts:
            return
        bodies = [_registered_record(draft) for draft in drafts]
        indexes = await self._clerk.record_all([("experiment.registered", body) for body in bodies])
        for draft, body, index in zip(drafts, bodies, indexes, strict=True):
            self._registry.registered(index, body)
            state = self._registry.rollouts[draft.document.experiment]
            self.running[draft.document.experiment] = _fresh(draft.document, draft.digest, state)

    async def _start(self, starting: Sequence[Starting], now_us: int, by: Mapping[str, Any] | None = None) -> None:
        """Commit plans and salts before the first draw, then start; thousands of experiments wait for the log twice, not twice each."""
        if not starting:
            return
        indexes = await self._clerk.record_all([("experiment.start", {**_start_record(fresh), **(by or {})}) for fresh in starting])
        for fresh, index in zip(starting, indexes, strict=True):
            self._registry.begun(fresh.document.experiment, fresh.digest, fresh.epoch, index)
        actions = [apply(fresh.document, initial(fresh.document, fresh.epoch), "start", now_us, fresh.reason)[1] for fresh in starting]
        await self._commit([(fresh.document, action) for fresh, action in zip(starting, actions, strict=True)], by)
        for fresh, action in zip(starting, actions, strict=True):
            self.running[fresh.document.experiment] = _fresh(fresh.document, fresh.digest, action.after)

    async def _archive(self, name: str, now_us: int) -> bool:
        """End what is no longer configured: what runs is stopped first. Its records stay."""
        state = self._registry.rollouts[name]
        if state.phase == "archived":
            return False
        document = self._document(self._registry.documents[name])
        steps: list[tuple[ExperimentDocument, Action]] = []
        verbs: tuple[Verb, ...] = ("stop", "archive") if state.phase in ("running", "paused") else ("archive",)
        for verb in verbs:
            state, action = apply(document, state, verb, now_us, "no longer configured")
            steps.append((document, action))
        await self._commit(steps)
        await self._clerk.record("experiment.stop", experiment=name, epoch=state.epoch, reason="no longer configured")
        return True

    async def begin_anew(self, now_us: int, renewed_us: int) -> bool:
        """Begin a new epoch of every experiment whose units keep their arm and that began before their pseudonyms were renewed.

        One that is paused goes on as a draft of its next epoch, so that nobody's pause ends by itself. Returns whether workers have to be told.
        """
        async with self._moving:
            began = [one for one in self.running.values() if one.state.phase in ("running", "paused") and one.state.started_us < renewed_us]
            moving = [one for one in began if one.document.sticky == "unit"]
            reason = "pseudonym keys were renewed: every unit is drawn anew"
            fresh = [Starting(one.document, one.digest, one.state.epoch + 1, reason, one.state.phase == "paused") for one in moving]
            await self._register([one for one in fresh if one.is_draft])
            await self._start([one for one in fresh if not one.is_draft], now_us)
            return bool(fresh)

    async def take(self, admit: Callable[[Mapping[str, Running]], Order], now_us: int) -> Action:
        """Take a step that people asked for; it is committed with who asked before it takes force.

        Args:
            admit: says whether they may have it, asked while nothing else moves; what it raises is raised here and nothing was changed.
            now_us: Unix microseconds.

        Raises:
            IllegalStepError: the experiment has moved on since it was looked at, or the step does not exist from here.
        """
        async with self._moving:
            order = admit(self.running)
            found = self.running[order.experiment]
            order.require_seen(found.state)
            by = order.record_part(found.verdict)
            if order.verb == "start" and found.state.phase == "draft":
                await self._start([Starting(found.document, found.digest, found.state.epoch, order.reason)], now_us, by)
                return Action("start", found.state, self.running[order.experiment].state, order.reason, {})
            state, action = apply(found.document, found.state, order.verb, now_us, order.reason, found.verdict.evidence)
            await self._commit([(found.document, action)], by)
            found.state = state
            found.due_us = _due(found.document, state, now_us)
            return action

    def feed(self, record: dict[str, Any]) -> None:
        """Take one committed record into the evidence of the experiment it concerns."""
        if record["type"] in ("shadow", HUMAN_DECISION):
            self._feed_pairs(record)
            return
        experiment = record.get("route", {}).get("experiment")
        if experiment is not None:
            found = self.running.get(experiment)
            if found is not None:
                _take(found, record)
                self._remember(record["id"], experiment)
            return
        decision = record["parents"][0] if record["type"] == "outcome" else record.get("decision")
        if decision is None:
            return
        experiment = self._experiment_of.get(decision)
        if experiment is not None and (found := self.running.get(experiment)) is not None:
            _take(found, record)
        elif experiment is None:
            # An answer may be committed a moment before its call, by another worker: it waits for it here.
            waiting = self._early.setdefault(decision, [])
            if len(waiting) < _MOST_EARLY_EACH:
                waiting.append(record)
            if len(self._early) > _MOST_EARLY:
                self._early.popitem(last=False)

    def _feed_pairs(self, record: dict[str, Any]) -> None:
        """Hand an answer to its shadow, and a person's decision to all whose champion is a person: which calls it is about their folds know."""
        named = record.get("experiment")
        for found in self.running.values() if named is None else filter(None, (self.running.get(named),)):
            if named is not None or isinstance(found.fold, PersonFold):
                _take(found, record)

    def _remember(self, decision: str, experiment: str) -> None:
        self._experiment_of[decision] = experiment
        for _ in range(_LOOKED_AT):
            if len(self._experiment_of) <= _MOST_DECISIONS:
                break
            oldest = next(iter(self._experiment_of))
            of = self._experiment_of.pop(oldest)
            if (found := self.running.get(of)) is not None and found.fold.counts(oldest):
                self._experiment_of[oldest] = of  # its answer may come as late as it likes: who is slow is not silent
        for record in self._early.pop(decision, ()):
            _take(self.running[experiment], record)

    async def judge(self, now_us: int) -> bool:
        """Judge every running experiment and take the steps that are due; returns whether workers have to be told."""
        async with self._moving:
            return await self._judge(now_us)

    async def _judge(self, now_us: int) -> bool:
        judged: list[tuple[Running, RolloutState]] = []
        steps: list[tuple[ExperimentDocument, Action]] = []
        for found in list(self.running.values()):
            if found.fed:
                await asyncio.sleep(0)  # between two verdicts the tick goes first, by which workers know that this process lives
            if not found.is_watched(now_us):
                # Its page goes on telling what it ended with, also after a restart; nothing moves any more.
                if found.fed and found.verdict is NO_DATA:
                    found.judge(now_us)
                continue
            if not found.fed and now_us < found.due_us:
                continue
            if found.fed:
                found.judge(now_us)
            is_tripped = found.window is not None and found.window.is_tripped(now_us)
            state, actions = step(found.document, found.state, found.verdict, now_us, is_tripped=is_tripped)
            steps += [(found.document, action) for action in actions]
            judged.append((found, state))
        # What a shadow starts is started before the shadow ends: killed in between, the next controller ends it.
        await self._start([follower for found, state in judged for follower in self._followers(found, state, now_us)], now_us)
        # One wait for all of them: after a start every experiment has a first hold to state.
        if steps:
            await self._commit(steps)
        for document, action in steps:
            _log.info("rollout step", extra={"experiment": document.experiment, "action": action.verb, "reason": action.reason})
        for found, state in judged:
            found.state = state
            found.due_us = _due(found.document, state, now_us)
        return bool(steps)

    def _followers(self, found: Running, after: RolloutState, now_us: int) -> list[Starting]:
        """Return the draft that a shadow which has just been proven starts, if there is one."""
        shadow = found.document.shadow
        if shadow is None or shadow.then_start is None or after.phase != "stopped":
            return []
        if not ends_proven(found.document, found.state, found.verdict, now_us):  # its deadline ended it, before it had seen enough or while paused
            return []
        follower = self.running.get(shadow.then_start)
        # A draft of a later epoch may be what became of someone's pause: people start that one.
        if follower is None or follower.state.phase != "draft" or follower.state.epoch != 1:
            return []
        reason = f"shadow `{found.document.experiment}` proved every limit kept"
        return [Starting(follower.document, follower.digest, follower.state.epoch, reason)]

    @property
    def has_unread(self) -> bool:
        """Say whether evidence has to be read again before anything is judged."""
        return self._unread_from is not None

    def take_unread(self) -> int | None:
        """Return the leaf from which evidence has to be read again, once; None when there is none."""
        unread_from, self._unread_from = self._unread_from, None
        return unread_from

    async def _commit(self, steps: Sequence[tuple[ExperimentDocument, Action]], by: Mapping[str, Any] | None = None) -> None:
        self._fence()  # a controller that another one has followed acts no more
        bodies = [{**action.record(document), "state": msgspec.to_builtins(action.after), **(by or {})} for document, action in steps]
        indexes = await self._clerk.record_all([("rollout.step", body) for body in bodies])
        moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        for index, body in zip(indexes, bodies, strict=True):
            self._registry.stepped(index, body, moment)

    def live(self, now_us: int) -> dict[str, LiveExperiment]:
        """Return what workers draw with."""
        return {name: self.live_of(name, now_us) for name in self.running}

    def live_of(self, name: str, now_us: int) -> LiveExperiment:
        """Return what workers draw with in one experiment. Raises KeyError when there is none of that name."""
        found = self.running[name]
        return live(found.document, found.state, holdout_released=_holdout_over(found.document, now_us))

    def _document(self, digest: str) -> ExperimentDocument:
        return msgspec.json.decode(self._load(digest), type=ExperimentDocument)


def _start_record(fresh: Starting) -> dict[str, Any]:
    return {**_registered_record(fresh), "salt": fresh.document.salt}


def _registered_record(fresh: Starting) -> dict[str, Any]:
    plan = preregistration.plan_of(fresh.document)
    return {
        "experiment": fresh.document.experiment,
        "epoch": fresh.epoch,
        "document_digest": fresh.digest,
        "preregistration": plan,
        "preregistration_digest": preregistration.digest(plan),
        "reason": fresh.reason,
    }


def _due(document: ExperimentDocument, state: RolloutState, now_us: int) -> int:
    """Return when a hold or the deadline ends next; far in the future when neither does."""
    ends = [state.entered_us + document.steps[state.step].hold_us]
    if document.deadline_us is not None:
        ends.append(state.started_us + document.deadline_us)
    if document.breaker is not None:
        # A tripped window empties with time.
        ends.append(now_us + document.breaker.window_us)
    return min((end for end in ends if end > now_us), default=_NEVER_US)


def _fresh(document: ExperimentDocument, digest: str, state: RolloutState) -> Running:
    window = Window(document.breaker) if document.breaker is not None else None
    fold = Fold(document, state.epoch) if document.shadow is None else fold_of(document, state.epoch)
    return Running(document, digest, state, fold, window)


def _take(found: Running, record: dict[str, Any]) -> None:
    found.fold.add(record)
    found.fed += 1
    found.seen_until = max(found.seen_until, record["time"])
    found.look()
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
    outcome = record["outcome"]
    is_ours = outcome.get("code") in ("audit_unavailable", "internal")
    was_withheld = outcome.get("policy", {}).get("decision") == "deny"
    is_bad = outcome["status"] >= 500 or was_withheld or ("code" in outcome and outcome["status"] < 400)
    window.add(decision, at_us, failed=is_bad and not is_ours)


def _is_treatment(found: Running, route: dict[str, Any]) -> bool:
    return route.get("epoch") == found.state.epoch and route.get("served") not in (None, "default", found.document.control)


def _holdout_over(document: ExperimentDocument, now_us: int) -> bool:
    if document.holdout is None:
        return False
    return datetime.fromtimestamp(now_us / 1e6, UTC).date().isoformat() > document.holdout.until
