"""Rollouts: what a configuration starts, changes and stops; and that a controller killed anywhere folds to the state it had."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from control_fakes import ROOT, Broken, Documents, MemoryClerk, call, experiment, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.store.errors import TermLost
from experiments import preregistration
from experiments.document import BreakerDocument, HoldoutDocument, MetricDocument
from experiments.evidence import Fold
from experiments.lifecycle import ASKED_BY, IllegalStepError, Verb
from experiments.rollout import Action, initial
from gateway.control.orders import Order
from gateway.control.registry import Registry
from gateway.control.rollouts import Rollouts
from gateway.control.running import Running

FIRST = experiment()
VARIANTS = {
    "first": FIRST,
    "continued": experiment(owner="someone else"),
    "epoch": experiment(salt="other"),
    "exploratory": experiment(alpha_ppm=10_000),
    "ab": experiment(strategy="ab", steps=FIRST.steps[:1]),
    "deadline": experiment(deadline_us=100, deadline_then="rollback"),
    "stops": experiment(deadline_us=100, deadline_then="stop"),
    "draft": experiment(start="manual"),
    "other draft": experiment(start="manual", salt="other"),
}


class Controller:
    """A controller's share of it: registry and rollouts on a log, which a new one can be started on."""

    def __init__(self, leaves: list[bytes] | None = None, documents: Documents | None = None) -> None:
        self.clerk = MemoryClerk(leaves)
        self.documents = documents or Documents()
        self.registry = Registry(ROOT)
        for index, leaf in enumerate(self.clerk.leaves):
            self.registry.fold(index, msgspec.json.decode(leaf))
        self.rollouts = Rollouts(self.registry, self.clerk, self.documents.get)

    def align(self, now_us: int = 1, **configured: Any) -> bool:
        digests = {name: self.documents.put(document) for name, document in configured.items()}
        return asyncio.run(self.rollouts.align(digests, now_us))

    def judge(self, now_us: int) -> bool:
        return asyncio.run(self.rollouts.judge(now_us))

    def take(self, name: str, verb: Verb, now_us: int = 2, **seen: Any) -> Action:
        order = Order(name, verb, "because", {"kind": "key", "id": "k_1"}, **seen)
        return asyncio.run(self.rollouts.take(lambda running: order if name in running else running[name], now_us))

    def again(self) -> Controller:
        return Controller(list(self.clerk.leaves), self.documents)

    def state(self, name: str = "x"):
        return self.rollouts.running[name].state

    def told(self) -> dict[str, Any]:
        """What workers draw with, and what the log says of it."""
        live = {name: msgspec.to_builtins(found) for name, found in self.rollouts.live(5).items()}
        registry = self.registry
        return {"live": live, "states": dict(registry.rollouts), "documents": dict(registry.documents), "begun_at": dict(registry.begun_at)}


def test_what_is_configured_starts_with_its_salt_and_document_recorded_first():
    controller = Controller()
    assert controller.align(x=FIRST) is True
    assert controller.clerk.kinds() == ["experiment.start", "rollout.step"]
    start = json.loads(controller.clerk.leaves[0])
    assert (start["salt"], start["epoch"], start["document_digest"]) == ("pepper", 1, controller.documents.put(FIRST))
    assert controller.state().phase == "running"


def test_the_same_configuration_again_changes_nothing_and_records_nothing():
    controller = Controller()
    controller.align(x=FIRST)
    assert controller.align(x=FIRST) is False
    assert len(controller.clerk.leaves) == 2


@pytest.mark.parametrize(("variant", "epoch", "records"), [("continued", 1, 2), ("epoch", 2, 4), ("exploratory", 2, 4)])
def test_a_change_goes_on_in_its_epoch_or_starts_another_by_its_kind(variant, epoch, records):
    controller = Controller()
    controller.align(x=FIRST)
    controller.align(x=VARIANTS[variant])
    assert controller.state().epoch == epoch
    assert len(controller.clerk.leaves) == records
    assert controller.rollouts.running["x"].document == VARIANTS[variant]


def test_what_is_no_longer_configured_is_stopped_once_and_comes_back_in_a_new_epoch():
    controller = Controller()
    controller.align(x=FIRST)
    assert controller.align() is True
    assert controller.rollouts.live(0) == {}
    assert controller.align() is False
    assert controller.clerk.kinds()[2:] == ["rollout.step", "rollout.step", "experiment.stop"]
    controller.align(x=FIRST)
    assert (controller.state().epoch, controller.state().phase) == (2, "running")


def test_a_draft_is_on_record_with_its_plan_and_nothing_is_drawn_until_someone_starts_it():
    controller = Controller()
    controller.align(x=VARIANTS["draft"])
    assert controller.clerk.kinds() == ["experiment.registered"]
    assert controller.state().phase == "draft"
    assert controller.rollouts.live(5)["x"].exposure == 0
    assert controller.judge(10**12) is False
    planned = json.loads(controller.clerk.leaves[0])
    assert planned["preregistration_digest"] == preregistration.digest(planned["preregistration"])
    action = controller.take("x", "start")
    assert (action.before.phase, action.after.phase, controller.state().phase) == ("draft", "running", "running")
    assert controller.clerk.kinds() == ["experiment.registered", "experiment.start", "rollout.step"]
    start, step = (json.loads(leaf) for leaf in controller.clerk.leaves[1:])
    assert start["preregistration_digest"] == planned["preregistration_digest"]
    assert start["actor"] == step["actor"] == {"kind": "key", "id": "k_1"}
    assert controller.again().registry.rollouts["x"].phase == "running"


def test_a_draft_that_is_edited_is_put_on_record_anew_in_the_same_epoch():
    controller = Controller()
    controller.align(x=VARIANTS["draft"])
    controller.align(x=VARIANTS["other draft"])
    assert controller.clerk.kinds() == ["experiment.registered", "experiment.registered"]
    assert (controller.state().epoch, controller.state().phase) == (1, "draft")


def test_what_someone_paused_does_not_come_back_by_an_edit_or_a_restart():
    controller = Controller()
    controller.align(x=FIRST)
    controller.take("x", "pause")
    again = controller.again()
    again.align(x=FIRST)
    assert again.state().phase == "paused"
    again.align(x=VARIANTS["epoch"])
    assert (again.state().phase, again.state().epoch) == ("draft", 2)


def test_what_was_stopped_stays_stopped_over_a_restart():
    controller = Controller()
    controller.align(x=VARIANTS["stops"])
    controller.judge(200)
    again = controller.again()
    again.align(x=VARIANTS["stops"])
    assert (again.state().phase, again.state().epoch) == ("stopped", 1)


def test_an_order_decided_on_another_epoch_or_phase_changes_nothing():
    controller = Controller()
    controller.align(x=FIRST)
    for seen in ({"epoch": 2}, {"phase": "paused"}):
        with pytest.raises(IllegalStepError, match="moved on"):
            controller.take("x", "rollback", **seen)
    assert controller.state().phase == "running"
    assert len(controller.clerk.leaves) == 2


def test_renewed_pseudonyms_begin_a_new_epoch_of_sticky_experiments_alone_and_once():
    controller = Controller()
    controller.align(5, x=FIRST, y=experiment("y", sticky="none"), z=experiment("z"))
    controller.take("z", "pause", 6)
    controller.rollouts.feed(call(1))
    assert asyncio.run(controller.rollouts.begin_anew(20, 0)) is False
    again = controller.again()
    again.align(10, x=FIRST, y=experiment("y", sticky="none"), z=experiment("z"))
    assert asyncio.run(again.rollouts.begin_anew(20, 15)) is True
    assert {name: (again.state(name).epoch, again.state(name).phase) for name in "xyz"} == {
        "x": (2, "running"),
        "y": (1, "running"),
        "z": (2, "draft"),
    }
    assert again.rollouts.running["x"].fold.evidence().stages["assigned"] == {"champion": 0, "challenger": 0}
    assert asyncio.run(again.rollouts.begin_anew(30, 15)) is False
    assert again.again().registry.rollouts["x"].epoch == 2


def test_a_controller_that_lost_its_term_takes_no_step():
    controller = Controller()
    controller.align(x=VARIANTS["deadline"])
    led = len(controller.clerk.leaves)

    def lost() -> None:
        raise TermLost("another controller leads")

    controller.rollouts._fence = lost
    for act in (lambda: controller.judge(200), lambda: controller.take("x", "stop"), controller.align):
        with pytest.raises(TermLost):
            act()
    assert len(controller.clerk.leaves) == led


def test_a_rolled_back_experiment_stays_so_until_its_document_changes():
    controller = Controller()
    controller.align(x=VARIANTS["deadline"])
    assert controller.judge(200) is True
    assert controller.state().phase == "rolled_back"
    again = controller.again()
    again.align(x=VARIANTS["deadline"])
    assert again.state().phase == "rolled_back"
    again.align(x=VARIANTS["epoch"])
    assert (again.state().phase, again.state().epoch) == ("running", 2)


# --- the fold is the state

moves = st.lists(
    st.one_of(
        st.tuples(st.just("align"), st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(sorted(VARIANTS)), max_size=2)),
        st.tuples(st.just("judge"), st.integers(0, 300)),
        st.tuples(st.just("feed"), st.integers(0, 40)),
        st.tuples(st.just("take"), st.sampled_from(sorted(ASKED_BY))),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("crash"), st.tuples(st.integers(1, 4), st.booleans(), st.sampled_from(sorted(VARIANTS)))),
    ),
    max_size=12,
)


@settings(max_examples=150)
@given(moves)
def test_after_any_history_a_restarted_controller_has_the_state_of_the_one_before(history):
    controller = Controller()
    configured: dict[str, Any] = {}
    at_us = 1
    for move, what in history:
        if move == "align":
            configured = {name: replace_name(VARIANTS[variant], name) for name, variant in what.items()}
            controller.align(at_us, **configured)
        elif move == "judge":
            at_us += what
            controller.judge(at_us)
        elif move == "feed":
            for number in range(what):
                controller.rollouts.feed(call(number, arm=("champion", "challenger")[number % 2]))
        elif move == "take":
            with contextlib.suppress(IllegalStepError, KeyError):
                controller.take("x", what, at_us)
        elif move == "restart":
            controller = controller.again()
            controller.align(at_us, **configured)
        else:
            dies_at, after_commit, variant = what
            configured = {"x": replace_name(VARIANTS[variant], "x")}
            controller.clerk.dies_at, controller.clerk.after_commit = controller.clerk.calls + dies_at, after_commit
            try:
                controller.align(at_us, **configured)
                controller.judge(at_us)
            except Broken:
                controller = controller.again()
                controller.align(at_us, **configured)
            controller.clerk.dies_at = None
        after = controller.again()
        after.align(at_us, **configured)
        assert after.told() == controller.told()
        assert len(after.clerk.leaves) == len(controller.clerk.leaves), "a restart alone records nothing"
        assert_invariants(controller, configured)


def replace_name(document, name: str):
    return msgspec.structs.replace(document, experiment=name)


def assert_invariants(controller: Controller, configured: dict[str, Any]) -> None:
    assert set(controller.rollouts.running) == set(configured)
    for name, found in controller.rollouts.running.items():
        assert found.document == configured[name]
        assert found.state == controller.registry.rollouts[name]
    epochs: dict[str, int] = {}
    for leaf in controller.clerk.leaves:
        record = json.loads(leaf)
        if record["type"] == "rollout.step":
            assert record["epoch"] >= epochs.get(record["experiment"], 1)
            if record["epoch"] > epochs.get(record["experiment"], 0):
                assert record["action"] in ("start", "stop", "archive")  # a draft that was never started may end
            epochs[record["experiment"]] = record["epoch"]


def test_what_was_paused_and_edited_is_begun_by_nobody_but_a_person_whatever_restarts_or_edits_follow():
    controller = Controller()
    controller.align(x=FIRST)
    controller.take("x", "pause")
    controller.align(x=VARIANTS["epoch"])
    assert controller.state().phase == "draft"
    restarted = controller.again()
    restarted.align(x=VARIANTS["epoch"])
    assert (restarted.state().phase, restarted.told()["live"]["x"]["exposure"]) == ("draft", controller.told()["live"]["x"]["exposure"])
    restarted.align(x=VARIANTS["ab"])
    assert restarted.state().phase == "draft"
    restarted.take("x", "start")
    assert restarted.state().phase == "running"


@pytest.mark.parametrize(("dies_at", "after_commit"), [(at, after) for at in (1, 2) for after in (False, True)])
def test_a_controller_killed_while_an_epoch_begins_begins_it_whole_or_leaves_the_one_before(dies_at, after_commit):
    controller = Controller()
    controller.align(x=FIRST)
    controller.clerk.dies_at, controller.clerk.after_commit = 2 + dies_at, after_commit
    with pytest.raises(Broken):
        controller.align(x=VARIANTS["epoch"])
    after = controller.again()
    after.align(x=VARIANTS["epoch"])
    assert after.state().epoch == 2
    assert after.registry.documents["x"] == after.documents.put(VARIANTS["epoch"])
    start = json.loads(after.clerk.leaves[after.registry.begun_at["x"]])
    assert (start["type"], start["epoch"]) == ("experiment.start", 2)


# --- align and judge at once


def test_a_step_that_is_being_committed_is_not_undone_by_a_configuration_that_stops_the_experiment():
    async def run() -> Controller:
        controller = Controller()
        digest = controller.documents.put(VARIANTS["deadline"])
        await controller.rollouts.align({"x": digest}, 1)
        record = controller.clerk.record

        async def slow(kind: str, **carries: Any) -> int:
            for _ in range(3):
                await asyncio.sleep(0)
            return await record(kind, **carries)

        controller.clerk.record = slow
        await asyncio.gather(controller.rollouts.judge(500), controller.rollouts.align({}, 500), controller.rollouts.judge(500))
        return controller

    controller = asyncio.run(run())
    assert controller.registry.rollouts["x"].phase == "archived"
    assert controller.again().registry.rollouts["x"].phase == "archived"
    steps = [json.loads(leaf) for leaf in controller.clerk.leaves if b'"rollout.step"' in leaf]
    assert all(before["to"] == after["from"] for before, after in pairwise(steps))


# --- evidence


def test_evidence_goes_on_over_a_change_that_continues_once_it_has_been_read_again():
    controller = Controller()
    controller.align(x=FIRST)
    assert controller.rollouts.take_unread() is None
    records = [call(number, arm=("champion", "challenger")[number % 2]) for number in range(6)]
    for record in records:
        controller.rollouts.feed(record)
    before = controller.rollouts.running["x"].fold.evidence()
    controller.align(x=VARIANTS["continued"])
    assert controller.rollouts.has_unread
    assert controller.rollouts.take_unread() == controller.registry.begun_at["x"] == 0
    assert not controller.rollouts.has_unread
    for record in records:
        controller.rollouts.feed(record)
    assert controller.rollouts.running["x"].fold.evidence() == before


SOON = MetricDocument(metric="errors", kind="errors", better="lower", margin=5_000, margin_unit="pp")
BOUGHT = MetricDocument(metric="bought", kind="reward", better="higher", margin=50_000, margin_unit="pp", window_us=3_600_000_000, missing="zero")


def bought(number: int, at: str = "10:00:30"):
    decision = f"{number:08d}-0000-7000-8000-000000000000"
    told = {"type": "reward", "id": f"{number:08d}-9998-7000-8000-000000000000", "time": f"2026-11-20T{at}.000000Z", "decision": decision}
    return {**told, "metric": "bought", "value_ppm": 1_000_000}


def test_an_answer_finds_its_unit_however_many_calls_came_between(monkeypatch):
    """It had been forgotten after a million decisions, in time as it was, and with `missing: zero` been counted as a no."""
    monkeypatch.setattr("gateway.control.rollouts._MOST_DECISIONS", 50)
    controller = Controller()
    controller.align(x=experiment(guardrails=(SOON, BOUGHT)))
    rollouts = controller.rollouts
    for number in range(40):
        rollouts.feed(call(number))
    for number in range(40, 400):  # later calls of units that are counted already
        rollouts.feed({**call(number), "subject": f"s{number % 40}"})
    assert len(rollouts._experiment_of) <= 50 + 8
    for number in range(400):
        rollouts.feed(bought(number))
    found = rollouts.running["x"].fold.evidence().metrics["bought"]
    assert found.answered == {"challenger": 0, "champion": 0}
    rollouts.feed(call(400, at="11:00:01"))
    found = rollouts.running["x"].fold.evidence().metrics["bought"]
    assert (found.answered["challenger"], found.events["challenger"]) == (40, 0)


def test_a_node_whose_clock_is_ahead_closes_nobodys_window():
    """With `missing: zero` every unit would have said no, and the arm whose units answer sooner would have won."""
    controller = Controller()
    controller.align(x=experiment(guardrails=(SOON, BOUGHT)))
    for number in range(40):
        controller.rollouts.feed(call(number, arm=("champion", "challenger")[number % 2]))
    controller.rollouts.feed(call(99, at="23:00:00"))
    running = controller.rollouts.running["x"]
    for now, due in (("10:30:00", 0), ("11:00:00", 40)):
        controller.judge(int(datetime.fromisoformat(f"2026-11-20T{now}Z").timestamp() * 1e6))
        assert sum(running.evidence.metrics["bought"].due.values()) == due
        controller.rollouts.feed(call(0))


def test_evidence_of_one_epoch_is_not_that_of_another():
    controller = Controller()
    controller.align(x=FIRST)
    controller.align(x=VARIANTS["epoch"])
    controller.rollouts.feed(call(1, epoch=1))
    assert controller.rollouts.running["x"].fold.evidence().stages["assigned"]["challenger"] == 0
    controller.rollouts.feed(call(2, epoch=2))
    assert controller.rollouts.running["x"].fold.evidence().stages["assigned"]["challenger"] == 1


BREAKER = experiment(breaker=BreakerDocument(above_ppm=50_000, window_us=60_000_000, min_calls=20, action="rollback"))
A_SECOND_LATER_US = int(datetime.fromisoformat("2026-11-20T10:00:01Z").timestamp() * 1e6)


def fed(records) -> Controller:
    controller = Controller()
    controller.align(x=BREAKER)
    for record in records:
        controller.rollouts.feed(record)
    return controller


def is_tripped(controller: Controller) -> bool:
    window = controller.rollouts.running["x"].window
    assert window is not None
    return window.is_tripped(A_SECOND_LATER_US)


def test_the_breaker_counts_calls_that_are_one_record():
    assert is_tripped(fed([call(number, status=502) for number in range(20)]))
    assert not is_tripped(fed([call(number, status=200) for number in range(20)]))


def test_the_breaker_counts_calls_whose_outcome_is_a_record_of_its_own():
    slow = [record for number in range(20) for record in (call(number, kind="decision"), outcome(number, status=504))]
    assert is_tripped(fed(slow))
    assert is_tripped(fed(slow * 2))


def test_the_breaker_counts_no_champion_no_other_epoch_and_no_outcome_of_another_experiment():
    assert not is_tripped(fed([call(number, arm="champion", status=502) for number in range(20)]))
    assert not is_tripped(fed([call(number, epoch=9, status=502) for number in range(20)]))
    assert not is_tripped(fed([outcome(number, status=504) for number in range(20)]))
    assert not is_tripped(fed([r for n in range(20) for r in (call(n, kind="decision", arm="champion"), outcome(n, 504))]))


@pytest.mark.parametrize(
    ("outcome_told", "trips"),
    [
        ({"status": 503, "code": "audit_unavailable"}, False),
        ({"status": 500, "code": "internal"}, False),
        ({"status": 499, "code": "caller_gone"}, False),
        ({"status": 200, "code": "reply_unreadable"}, True),
        ({"status": 200, "code": "upstream_broken", "streamed": True}, True),
        ({"status": 403, "code": "policy_denied", "policy": {"decision": "deny"}}, True),
        ({"status": 403, "code": "policy_denied", "policy": {"decision": "allow"}}, False),
    ],
    ids=lambda value: value.get("code") if isinstance(value, dict) else "",
)
def test_the_breaker_counts_what_the_version_did_and_not_what_befell_the_gateway(outcome_told, trips):
    records = [{**call(number), "outcome": {"latency_us": 5, **outcome_told}} for number in range(20)]
    assert is_tripped(fed(records)) is trips


def test_answers_to_calls_nobody_has_seen_are_bounded_however_many_are_sent():
    controller = Controller()
    controller.align(x=BREAKER)
    for number in range(6000):
        for copy in range(20 if number < 50 else 1):
            controller.rollouts.feed({"type": "label", "id": f"{number}-{copy}", "decision": f"made up {number}", "label": "1"})
        if number < 50:
            assert len(controller.rollouts._early[f"made up {number}"]) == 16
    assert len(controller.rollouts._early) == 4096


def test_a_tripped_breaker_rolls_back():
    controller = fed([call(number, status=502) for number in range(20)])
    controller.judge(A_SECOND_LATER_US)
    assert controller.state().phase == "rolled_back"


def test_a_holdout_that_has_ended_is_released():
    holdout = HoldoutDocument(name="q4", salt="q4", share=2**28, version="3", until="2026-11-20", owner="risk")
    controller = Controller()
    controller.align(x=experiment(holdout=holdout))
    day_us = 86_400_000_000
    assert controller.rollouts.live(A_SECOND_LATER_US)["x"].holdout_released is False
    assert controller.rollouts.live(A_SECOND_LATER_US + day_us)["x"].holdout_released is True


class Counting(Fold):
    """Evidence of as many units as it is told."""

    unit_count = 0

    def __init__(self) -> None:
        """Count nothing by itself."""

    def evidence(self) -> str:
        return f"{self.unit_count} units"


def test_looks_are_kept_while_it_goes_on_and_not_after_it_has_ended():
    """What comes in late is not what the verdict rested on: drawn as one line, the end would contradict the verdict."""
    found = Running(FIRST, "digest", initial(FIRST, 1), Counting(), None)
    for units, phase in ((30, "running"), (60, "paused"), (200, "rolled_back"), (400, "promoted")):
        found.fold.unit_count, found.state = units, replace(found.state, phase=phase)
        found.look()
    assert [counts for _, counts in found.looks] == ["30 units", "60 units"]
