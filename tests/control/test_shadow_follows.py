"""What a shadow starts: only when it is proven, before it ends itself, and once whatever is killed in between."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from control_fakes import Broken, experiment
from test_rollouts_follow import Controller

from experiments.document import PartDocument, ShadowDocument, StepDocument
from experiments.shares import WHOLE
from gateway.authenticate import Principal
from gateway.control.orders import Asked, admit
from gateway.refusals import Refusal

PART = PartDocument(name="label", kind="label", at="/label", max_disagreement_ppm=10_000)
STEP = StepDocument(exposure=WHOLE, shares={"champion": WHOLE, "shadow": 0}, hold_us=0, min_units=1)
MIRROR = experiment(
    "m",
    strategy="shadow",
    arms={"champion": "3", "shadow": "4"},
    sticky="none",
    steps=(STEP,),
    deadline_us=1000,
    deadline_then="stop",
    shadow=ShadowDocument(compare=(PART,), timeout_us=1, per_second=1, per_day=0, then_start="x"),
)
DRAFT = experiment(start="manual")


def pair(number: int, *, agrees: int = 1) -> dict[str, Any]:
    return {
        "type": "shadow",
        "id": f"r{number}",
        "time": "2026-11-20T10:00:00.000000Z",
        "parents": [f"d{number:06d}"],
        "experiment": "m",
        "epoch": 1,
        "champion": {"status": 200, "latency_us": 5},
        "outcome": {"status": 200, "latency_us": 5},
        "compared": {"label": {"agrees": agrees}},
    }


def fed(pairs: int, agrees: int = 1) -> Controller:
    controller = Controller()
    controller.align(m=MIRROR, x=DRAFT)
    for number in range(pairs):
        controller.rollouts.feed(pair(number, agrees=agrees))
    return controller


def phases(controller: Controller) -> tuple[str, str]:
    return controller.state("m").phase, controller.state("x").phase


def test_a_proven_shadow_starts_its_draft_and_then_ends():
    controller = fed(1000)
    assert controller.judge(10)
    assert phases(controller) == ("stopped", "running")
    assert controller.clerk.kinds()[-3:] == ["experiment.start", "rollout.step", "rollout.step"]
    assert json.loads(controller.clerk.leaves[-3])["reason"] == "shadow `m` proved every limit kept"


@pytest.mark.parametrize(("pairs", "agrees", "now_us", "phase"), [(10, 1, 10, "running"), (10, 1, 5000, "stopped"), (1000, 0, 10, "rolled_back")])
def test_what_is_not_proven_starts_nothing(pairs: int, agrees: int, now_us: int, phase: str):
    controller = fed(pairs, agrees)
    controller.judge(now_us)
    assert phases(controller) == (phase, "draft")


@pytest.mark.parametrize("why", ["too few pairs", "its hold", "paused"])
def test_a_deadline_that_ends_a_shadow_before_it_may_count_as_proven_starts_nothing(why: str):
    steps = {"too few pairs": {"min_units": 2000}, "its hold": {"hold_us": 10_000}, "paused": {}}
    controller = Controller()
    controller.align(m=msgspec.structs.replace(MIRROR, steps=(msgspec.structs.replace(STEP, **steps[why]),)), x=DRAFT)
    if why == "paused":
        controller.take("m", "pause")
    for number in range(1000):
        controller.rollouts.feed(pair(number))
    controller.judge(5000)
    assert controller.rollouts.running["m"].verdict.outcome == "fine"
    assert phases(controller) == ("stopped", "draft")


def test_a_draft_that_somebodys_pause_became_is_not_started():
    controller = fed(0)
    controller.take("x", "start")
    controller.take("x", "pause")
    asyncio.run(controller.rollouts.begin_anew(3, 10**18))
    assert controller.state("x").phase == "draft"
    # The shadow began before the renewal too, and draws for each call: it goes on.
    assert controller.state("m").phase == "running"
    for number in range(1000):
        controller.rollouts.feed(pair(number))
    controller.judge(10)
    assert phases(controller) == ("stopped", "draft")


def test_people_who_stop_it_start_nothing():
    controller = fed(10)
    controller.take("m", "stop")
    controller.judge(10)
    assert phases(controller) == ("stopped", "draft")


@pytest.mark.parametrize("dies_after", [1, 2, 3])
def test_killed_between_the_two_steps_the_next_controller_takes_each_once(dies_after: int):
    controller = fed(1000)
    controller.clerk.dies_at = controller.clerk.calls + dies_after
    controller.clerk.after_commit = True
    with pytest.raises(Broken):
        controller.judge(10)
    again = controller.again()
    again.align(m=MIRROR, x=DRAFT)
    for number in range(1000):
        again.rollouts.feed(pair(number))
    again.judge(20)
    again.judge(30)
    assert phases(again) == ("stopped", "running")
    starts = [json.loads(leaf) for leaf in again.clerk.leaves if json.loads(leaf)["type"] == "rollout.step"]
    assert [record["action"] for record in starts if record["experiment"] == "m"] == ["start", "stop"]
    assert [record["action"] for record in starts if record["experiment"] == "x"].count("start") == 1


@pytest.mark.parametrize(("min_units", "may"), [(2000, False), (1000, True)])
def test_a_switch_rests_on_its_shadow_only_once_that_has_seen_the_declared_pairs(min_units, may):
    controller = Controller()
    half = {"blue": WHOLE, "green": 0}
    switch = {"strategy": "blue_green", "arms": {"blue": "3", "green": "4"}, "control": "blue", "verify_shadow": "m"}
    steps = (msgspec.structs.replace(STEP, shares=half),)
    shadow = msgspec.structs.replace(MIRROR, steps=(msgspec.structs.replace(STEP, min_units=min_units),), deadline_us=None)
    controller.align(m=shadow, x=experiment(**switch, steps=steps))
    for number in range(1000):
        controller.rollouts.feed(pair(number))
    controller.judge(10)
    principal = Principal("k", "acme", ("experiment:promote",), None, False, False, {"kind": "key", "id": "k"}, None)
    asked = Asked("x", "promote", "time to switch")
    if may:
        assert not admit(asked, controller.rollouts.running, principal, None, 10).against_evidence
        return
    with pytest.raises(Refusal, match="not proven fine"):
        admit(asked, controller.rollouts.running, principal, None, 10)
