"""What the admin port shows: the controller's own objects, read at the moment of a request and never changed from here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from audit.keys import VerifierKey
from audit.note import open_checkpoint
from audit.store.layout import checkpoint_path
from experiments.document import ExperimentDocument, LiveExperiment
from experiments.lifecycle import STAGE
from experiments.progress import in_words, offered
from experiments.shares import WHOLE, format_share
from experiments.standing import responses, sample_ratio
from gateway.admin.metrics import LogHead
from gateway.admin.reading import Reading
from gateway.admin.traffic import Traffic
from gateway.authenticate import Authenticator
from gateway.control.clerk import Clerk
from gateway.control.erasures import Erasures
from gateway.control.inbox import Inbox
from gateway.control.registry import Registry
from gateway.control.rollouts import Rollouts
from gateway.control.running import Running
from gateway.control.witnesses import Standing, Witnesses
from gateway.refusals import Refusal


class InForce(Protocol):
    """The configuration in force, whoever put it there."""

    digest: str | None
    issues: tuple[str, ...]
    in_force_since_s: float


class Tree(Protocol):
    """The log's tree as it lies here."""

    @property
    def size(self) -> int:
        """Leaves covered by the last head."""
        ...


@dataclass(slots=True)
class AdminState:
    """Everything a page may tell."""

    environment: str
    data_dir: Path
    node: str
    vkey: str
    traffic: Traffic
    configuration: InForce
    rollouts: Rollouts
    registry: Registry
    inbox: Inbox
    tree: Tree
    witnesses: Witnesses
    reading: Reading
    clerk: Clerk
    authenticator: Callable[[], Authenticator]
    tenants_ever: Callable[[], frozenset[str]]
    leader: Callable[[], str | None]
    """The node that leads, None where this one does."""
    erasures: Erasures | None = None
    """The vault, where there is one."""

    def require_leader(self, what: str) -> None:
        """Refuse what only the node that leads may do. Raises Refusal."""
        leader = self.leader()
        if leader is not None:
            raise Refusal("led_elsewhere", f"this node follows `{leader}`, which leads: {what} there")

    def head(self) -> LogHead | None:
        """Return the log's latest published head and who cosigned it, None before the first."""
        path = checkpoint_path(self.data_dir)
        try:
            data, signed_s = path.read_bytes(), path.stat().st_mtime
        except FileNotFoundError:
            return None
        opened = open_checkpoint(data, [VerifierKey.parse(self.vkey)], self.witnesses.keys)
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(signed_s))
        seen = {one.key.name: one.time_s or 0 for one in opened.cosignatures}
        return LogHead(opened.checkpoint.size, opened.checkpoint.root.hex(), moment, opened.checkpoint.origin, seen)

    def witness_standings(self) -> list[Standing]:
        """Return how it stands with each configured witness."""
        return self.witnesses.standings()

    def config_age_s(self) -> float:
        """Return seconds since the configuration in force was published."""
        return time.monotonic() - self.configuration.in_force_since_s

    def config_issues(self) -> int:
        """Return how many issues keep the latest reading of the folder from being in force."""
        return len(self.configuration.issues)

    def experiments(self) -> list[dict[str, Any]]:
        """Return one row per configured experiment."""
        return [self.experiment(name) for name in sorted(self.rollouts.running)]

    def register(self) -> list[dict[str, Any]]:
        """Return every experiment there ever was, ended ones too, as the log says: none is forgotten for having failed."""
        rows = []
        for name, state in sorted(self.registry.rollouts.items()):
            history = self.registry.history.get(name, [])
            rows.append(
                {
                    "name": name,
                    "stage": STAGE[state.phase],
                    "phase": state.phase,
                    "decision": decision_of(history),
                    "epoch": state.epoch,
                    "first": history[0]["time"] if history else "",
                    "last": history[-1]["time"] if history else "",
                    "document_digest": self.registry.documents.get(name, ""),
                }
            )
        return rows

    def experiment(self, name: str) -> dict[str, Any]:
        """Return what there is to tell of one experiment. Raises KeyError when there is none of that name."""
        found = self.rollouts.running[name]
        document, state = found.document, found.state
        verdict = found.verdict
        live = self.rollouts.live_of(name, time.time_ns() // 1000)
        return {
            "name": name,
            "strategy": document.strategy,
            "model": document.model,
            "hypothesis": document.hypothesis,
            "phase": state.phase,
            "stage": STAGE[state.phase],
            "may": offered(document, state),
            "step": state.step,
            "document_digest": found.digest,
            "epoch": state.epoch,
            "share": format_share(live.exposure),
            "verdict": _in_words(found),
            "reasons": list(verdict.reasons),
            "arms": [
                {
                    "name": arm,
                    "version": version or document.who_serves(arm),
                    "control": arm == document.control,
                    "share": _share_of(document, live, arm),
                    "units": verdict.units.get(arm, 0),
                }
                for arm, version in sorted(document.arms.items())
            ],
            "steps": [
                {
                    "share": format_share(step.exposure),
                    "hold": f"at least {step.hold_us / 1e6:g} s, {step.min_units} units an arm",
                    "state": "done" if index < state.step or state.phase == "promoted" else "now" if index == state.step else "",
                }
                for index, step in enumerate(document.steps)
            ],
            "metrics": [
                {"metric": metric.metric, "arm": metric.arm, "outcome": metric.outcome, "reason": metric.reason} for metric in verdict.metrics
            ],
            "sample_ratio": [] if found.evidence is None else sample_ratio(document, found.evidence),
            "responses": [] if found.evidence is None else responses(document, found.evidence),
            "history": list(reversed(self.registry.history.get(name, []))),
            "whole": WHOLE,
        }


def _share_of(document: ExperimentDocument, live: LiveExperiment, arm: str) -> str:
    """Return an arm's part of what is compared: of a shadow both sides answer every call, and where another system assigns it may not say."""
    if document.shadow is not None:
        return format_share(WHOLE)
    return format_share(live.shares.get(arm, 0)) if live.shares else "not declared"


def decision_of(history: list[dict[str, Any]]) -> str:
    """Return what an experiment ended with: the last step that ended it, in words; empty while it has not ended."""
    words = {"promote": "promoted", "rollback": "rolled back", "stop": "stopped", "supersede": "superseded"}
    decision = ""
    for row in history:
        decision = words.get(row["action"], "" if row["action"] == "start" else decision)
    return decision


def _in_words(found: Running) -> str:
    if found.state.phase != "running":
        return {
            "promoted": "Promoted: the challenger serves everyone.",
            "rolled_back": "Rolled back: the control serves everyone.",
            "stopped": "Stopped.",
            "draft": "A draft: nothing is drawn until someone starts it.",
            "paused": "Paused: the control serves everyone; the evidence is kept.",
            "superseded": "Superseded by a newer candidate.",
        }.get(found.state.phase, found.state.phase)
    now_us = time.time_ns() // 1000
    is_tripped = found.window is not None and found.window.is_tripped(now_us)
    return in_words(found.document, found.state, found.verdict, now_us, is_tripped=is_tripped)
