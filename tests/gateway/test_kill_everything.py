"""kill -9 at random points under load, again and again, judged by a journal the callers keep themselves.

After the last cycle, for every call that was answered 200 while any process was dying:
- on the `sync` route: its decision and its outcome are in the log;
- on the `batch` route: it is in the log, or its worker died, and then the answers lost in one death lie within the window of 50 ms, and `log.lost`
  states at least as many;
- no number of any writer is missing beyond what is stated; the log verifies; every checkpoint kept on the way is a prefix of the next.

`ASSAY_KILL_CYCLES` sets the cycles of the quick run (10), `ASSAY_KILL_CYCLES_SLOW` those of the slow one (500).
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment, is_alive, wait_until
from gateway_load import Answer, Load
from upstreams import Model

from audit.follow import follow
from audit.merkle import leaf_hashes, root
from audit.note import open_checkpoint

CYCLES = int(os.environ.get("ASSAY_KILL_CYCLES", "10"))
SLOW_CYCLES = int(os.environ.get("ASSAY_KILL_CYCLES_SLOW", "500"))
KINDS = ("worker", "recorder", "controller", "stalled recorder, then workers", "everything")
STALL_S = 0.3
"""Longer than the window: calls that were answered after it had passed would be lost with the workers."""
WINDOW_MS = 50
PATIENCE_S = 180.0
"""How long anything is waited for: what is awaited here says nothing about how fast the machine is."""
SLACK_MS = 10
"""Clocks are read in whole milliseconds, and a batch's age may be too great by its 10 ms."""


@dataclass(slots=True)
class Ordeal:
    """One run: a deployment, its deaths, and what callers were told. Owned by its test."""

    deployment: Deployment
    draw: random.Random
    deaths_ms: list[float] = field(default_factory=list)
    """When workers that had been killed were gone for certain, Unix milliseconds: until then one may have answered."""
    checkpoints: list[bytes] = field(default_factory=list)
    ready_after_s: list[float] = field(default_factory=list)
    """How long the front door was shut each time everything had been killed."""

    def kill(self, kind: str) -> None:
        deployment = self.deployment
        if kind == "everything":
            deployment.kill_everything()
            self.deaths_ms.append(time.time() * 1000)
            self.keep_checkpoint()
            began_s = time.monotonic()
            deployment.start(wait=False)
            deployment.wait_ready(PATIENCE_S)
            self.ready_after_s.append(time.monotonic() - began_s)
            return
        pids = deployment.pids()
        names = [kind]
        if kind == "worker":
            names = [f"worker {self.draw.randrange(2)}"]
        elif kind == "stalled recorder, then workers":
            # Killed where it stands, what it holds unread in its sockets goes with it: what callers were promised by then is lost.
            names = ["recorder", "worker 0", "worker 1"]
            os.kill(pids["recorder"], signal.SIGSTOP)
            time.sleep(STALL_S)
        for name in names:
            os.kill(pids[name], signal.SIGKILL)
        wait_until(lambda: not any(is_alive(pids[name]) for name in names), "the killed to be gone", PATIENCE_S)
        if "worker" in kind:
            self.deaths_ms.append(time.time() * 1000)
        for name in names:
            wait_until(lambda name=name: deployment.pids().get(name, pids[name]) != pids[name], f"a new `{name}`", PATIENCE_S)
        self.keep_checkpoint()

    def keep_checkpoint(self) -> None:
        note = self.deployment.checkpoint()
        if not self.checkpoints or self.checkpoints[-1] != note:
            self.checkpoints.append(note)

    def run(self, cycles: int) -> None:
        deployment = self.deployment
        with Load(deployment, {"batch": 4, "sync": 3}) as load:
            for cycle in range(cycles):
                load.wait_for(40, timeout_s=PATIENCE_S)
                wait_until(lambda: {"worker 0", "worker 1", "recorder", "controller"} <= deployment.pids().keys(), "all to run", PATIENCE_S)
                time.sleep(self.draw.uniform(0, 0.3))
                self.kill(KINDS[cycle % len(KINDS)])
            load.wait_for(40, timeout_s=PATIENCE_S)
        deployment.wait_ready(PATIENCE_S)
        deployment.wait_idle(PATIENCE_S)
        wait_until(lambda: self.dead_writers() <= self.stated_ends().keys(), "every death to be stated", PATIENCE_S)
        self.judge(load)

    # --- the judge ------------------------------------------------------------------------------------------------------------------------

    def judge(self, load: Load) -> None:
        log = self.deployment.log
        log.refresh()
        # Beside the log, so that a verdict can be looked into afterwards.
        journal = [[answer.model, answer.decision, answer.status, answer.trouble] for answer in load.answers]
        (self.deployment.directory / "journal.json").write_text(json.dumps({"answers": journal, "deaths_ms": self.deaths_ms}))
        assert {answer.trouble for answer in load.failed} <= {"broken", "refused", "audit_unavailable", "state_stale", "not_ready"}
        lost: list[Answer] = []
        for answer in load.acknowledged:
            record = log.by_id.get(answer.decision)
            if answer.model == "sync":
                assert record is not None, f"an acknowledged `sync` call is not in the log: {answer}"
                outcomes = log.children.get(answer.decision, [])
                assert [outcome["outcome"]["status"] for outcome in outcomes] == [200], f"an acknowledged `sync` call has no outcome: {answer}"
            elif record is None:
                lost.append(answer)
        stated = self.judge_writers()
        self.judge_losses(lost, stated)
        self.judge_checkpoints()
        verdict = self.deployment.verify(self.checkpoints[0])
        grades = {check.name: str(check.grade) for check in verdict.checks}
        assert (grades["chain"], grades["tamper"], grades["independence"]) == ("ok", "ok", "ok"), verdict.document()
        assert [fault.message for fault in verdict.completeness.faults if "stated: writer" not in fault.message] == []
        print(  # noqa: T201 - shown by `pytest -s`: how hard the run was
            f"\n{len(load.answers)} calls, {len(load.acknowledged)} acknowledged, {len(lost)} of them lost, {stated} records stated as lost, "
            f"{len(log.records)} records, {len(self.deaths_ms)} worker deaths; "
            f"seconds to ready again: {[round(seconds, 1) for seconds in sorted(self.ready_after_s)]}"
        )

    def dead_writers(self) -> set[tuple[str, int]]:
        """Return the writers that were killed: a later epoch of their name began, and they did not close their book."""
        last: dict[tuple[str, int], str] = {}
        for record in self.deployment.log.refresh():
            last[record["writer"]["node"], record["writer"]["epoch"]] = record["type"]
        newest = {node: max(epoch for name, epoch in last if name == node) for node, _ in last}
        return {(node, epoch) for (node, epoch), kind in last.items() if epoch < newest[node] and kind != "writer.close"}

    def stated_ends(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Return what the log says of the ends of writers that did not say it themselves."""
        ends = [record for record in self.deployment.log.refresh() if record["type"] in ("log.lost", "log.recover")]
        assert len({(end["node"], end["epoch"]) for end in ends}) == len(ends), "an end is stated once"
        return {(end["node"], end["epoch"]): end for end in ends}

    def judge_writers(self) -> int:
        """Check every writer's numbers; return how many worker records the log states as lost."""
        numbers: dict[tuple[str, int], list[int]] = {}
        for record in self.deployment.log.refresh():
            numbers.setdefault((record["writer"]["node"], record["writer"]["epoch"]), []).append(record["writer"]["seq"])
        for key, found in numbers.items():
            assert found == list(range(len(found))), f"the numbers of {key} have a gap or a double"
        ends = self.stated_ends()
        assert self.dead_writers() <= ends.keys(), "every death is stated"
        lost = [(key, end) for key, end in ends.items() if end["type"] == "log.lost"]
        assert all(end["from"] == len(numbers.get(key, [])) for key, end in lost), "lost is what comes after the last committed number"
        assert all(isinstance(end["to"], int) for _, end in lost), "the marks outlive kill -9: no loss is unknown"
        return sum(end["to"] - end["from"] + 1 for (node, _), end in lost if ".w" in node)

    def judge_losses(self, lost: list[Answer], stated: int) -> None:
        assert len(lost) <= stated, "what callers were promised and is gone is stated"
        offset_ms = (time.time() - time.monotonic()) * 1000
        by_death: dict[float, list[Answer]] = {}
        for answer in lost:
            after = [death for death in self.deaths_ms if death >= answer.decided_ms]
            assert after, f"lost without a death: {answer}"
            by_death.setdefault(min(after), []).append(answer)
        for death, answers in by_death.items():
            # Each was recorded between its decision and its reply. From the first reply to the last decision is the least that the
            # window can have been open, however slow the machine.
            span = max(answer.decided_ms for answer in answers) - min(answer.ended_s * 1000 + offset_ms for answer in answers)
            assert span <= WINDOW_MS + SLACK_MS, f"{len(answers)} answers over {span:.0f} ms were lost in the death at {death}"

    def judge_checkpoints(self) -> None:
        heads = [open_checkpoint(note, [self.deployment.vkey]).checkpoint for note in [*self.checkpoints, self.deployment.checkpoint()]]
        assert all(earlier.size <= later.size for earlier, later in pairwise(heads))
        leaves = leaf_hashes([leaf for _, leaf in follow(self.deployment.data, 0)])
        for head in heads:
            assert root(leaves[: head.size]) == head.root, f"the head of size {head.size} that was shown is no prefix of the log"


@pytest.fixture
def deployment(tmp_path: Path, one: Model) -> Iterator[Deployment]:
    made = Deployment(tmp_path / "d", workers=2)
    capture = {"prediction": "/outputs/0/data/0"}
    made.write_model("batch", {"1": one.url}, capture=capture)
    made.write_model("sync", {"1": one.url}, audit="sync", capture=capture)
    for model in ("batch", "sync"):
        made.approve(model, "1", url=one.url)
    with made.running():
        yield made


@pytest.mark.timeout(900)
def test_killing_any_process_at_any_time_loses_nothing_that_was_promised(deployment: Deployment):
    Ordeal(deployment, random.Random(1)).run(CYCLES)  # noqa: S311 - times of death, to be repeatable


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_many_kills_lose_nothing_that_was_promised(deployment: Deployment):
    Ordeal(deployment, random.Random(2)).run(SLOW_CYCLES)  # noqa: S311 - as above
