"""The rollout's life as scripts: each line is (when, what is known) and what must happen."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiments.assignment import Assigner
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.lifecycle import ASKED_BY, STAGE, TABLE, IllegalStepError, after, may_be_asked
from experiments.progress import in_words, offered
from experiments.rollout import RolloutState, apply, initial, live, step
from experiments.shared_files import LayersFile, MetricsFile
from experiments.shares import WHOLE
from experiments.verdict import NO_DATA, MetricVerdict, Verdict

FOLDER = Path(__file__).parents[2] / "config" / "experiments"
LAYERS = LayersFile.model_validate(yaml.safe_load((FOLDER / "_layers.yaml").read_text()))
METRICS = MetricsFile.model_validate(yaml.safe_load((FOLDER / "_metrics.yaml").read_text()))


def load(name, **changes: object):
    return compile_experiment(parse_experiment({**yaml.safe_load((FOLDER / name).read_text()), "start": "auto", **changes}), LAYERS, METRICS)


CANARY, AB = load("credit-canary.yaml"), load("credit-ab.yaml")
CANARY = msgspec.structs.replace(CANARY, steps=(*CANARY.steps[:-1], msgspec.structs.replace(CANARY.steps[-1], approve="lending-risk")))
MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
ENOUGH = {"champion": 2000, "challenger": 2000}


def harm(on_harm):
    found = MetricVerdict("errors", "challenger", "harm", False, "errors: worse", True, on_harm)
    return Verdict("harm", on_harm, False, ENOUGH, ("errors: worse",), (found,), {"units": ENOUGH})


UNDECIDED = Verdict("hold", may_advance=True, units=ENOUGH, reasons=("errors: undecided",))
FINE = Verdict("fine", may_advance=True, units=ENOUGH, reasons=("errors: fine",))
BLOCKED = Verdict("hold", units=ENOUGH, reasons=("sample ratio off",))
FEW = replace(UNDECIDED, units={"champion": 10, "challenger": 199})


def run(document, script):
    """Play a script from the start at time 0; returns what was done as (verb, to)."""
    state, start = apply(document, initial(document, 1), "start", 0, "loaded")
    done = [(start.verb, state.phase, state.step)]
    for now_us, verdict, known in script:
        if isinstance(verdict, str):
            state, action = apply(document, state, verdict, now_us, "someone asked")
            done.append((action.verb, state.phase, state.step))
            continue
        state, actions = step(document, state, verdict, now_us, **known)
        done += [(action.verb, state.phase, state.step) for action in actions]
    return done, state


def test_a_canary_climbs_holds_for_approval_and_is_promoted():
    done, _ = run(
        CANARY,
        [
            (29 * MINUTE, UNDECIDED, {}),
            (30 * MINUTE, FEW, {}),
            (31 * MINUTE, UNDECIDED, {}),
            (2 * HOUR, UNDECIDED, {}),
            (3 * HOUR, UNDECIDED, {}),
            (2 * DAY, FINE, {}),
            (2 * DAY + 1, FINE, {}),
            (2 * DAY + 2, "approve", {}),
            (2 * DAY + 2, UNDECIDED, {}),
            (2 * DAY + 3, FINE, {}),
            (2 * DAY + 4, harm("rollback"), {}),
        ],
    )
    assert done == [
        ("start", "running", 0),
        ("advance", "running", 1),
        ("advance", "running", 2),
        ("hold", "running", 2),  # waits for approval, said once
        ("approve", "running", 2),
        ("hold", "running", 2),  # approved, not yet proven fine
        ("promote", "promoted", 2),
    ]


@pytest.mark.parametrize(
    ("verdict", "known", "phase"),
    [
        (harm("rollback"), {}, "rolled_back"),
        (harm("hold"), {}, "running"),
        (NO_DATA, {}, "running"),
        (NO_DATA, {"is_tripped": True}, "rolled_back"),
        (FINE, {"is_tripped": True}, "rolled_back"),
        (BLOCKED, {}, "running"),
        (FINE, {}, "running"),
    ],
)
def test_what_a_verdict_does_on_the_first_step_before_its_hold_is_over(verdict, known, phase):
    done, state = run(CANARY, [(MINUTE, verdict, known)])
    assert (state.phase, state.step) == (phase, 0)
    assert "promote" not in {verb for verb, *_ in done}


@pytest.mark.parametrize("verdict", [NO_DATA, BLOCKED, harm("hold")])
def test_no_data_and_blocked_evidence_hold_whatever_the_time_and_are_recorded_once(verdict):
    done, _ = run(CANARY, [(DAY, verdict, {}), (2 * DAY, verdict, {}), (3 * DAY, verdict, {})])
    assert done == [("start", "running", 0), ("hold", "running", 0)]


@pytest.mark.parametrize(("then", "phase"), [("rollback", "rolled_back"), ("hold", "running"), ("stop", "stopped")])
def test_the_deadline_does_what_was_declared(then, phase):
    document = load("credit-canary.yaml", deadline={"after": "7d", "then": then})
    assert run(document, [(7 * DAY - 1, NO_DATA, {})])[1].phase == "running"
    assert run(document, [(7 * DAY, NO_DATA, {})])[1].phase == phase


def test_a_breaker_that_holds_stops_the_climb_only_while_it_is_tripped():
    document = load("credit-canary.yaml", breaker={"errors": "> 5% over 2m", "action": "hold"})
    done, _ = run(document, [(DAY, UNDECIDED, {"is_tripped": True}), (DAY + 1, UNDECIDED, {})])
    assert [verb for verb, *_ in done] == ["start", "hold", "advance"]


def test_an_ab_test_is_rolled_back_by_harm_never_promoted_and_stops_at_its_deadline():
    assert run(AB, [(DAY, FINE, {}), (2 * DAY, UNDECIDED, {}), (3 * DAY, NO_DATA, {})])[0] == [("start", "running", 0)]
    assert run(AB, [(DAY, harm("rollback"), {})])[1].phase == "rolled_back"
    assert run(AB, [(21 * DAY, FINE, {})])[1].phase == "stopped"
    state, _ = apply(AB, initial(AB, 1), "start", 0, "loaded")
    with pytest.raises(IllegalStepError, match="default_version"):
        apply(AB, state, "promote", 1, "I like it")


phases = st.sampled_from(sorted(STAGE))
verbs = st.sampled_from(sorted({verb for _, verb in TABLE}))


@given(phases, verbs, st.integers(0, 2))
def test_a_step_outside_the_table_raises_and_one_inside_leads_where_it_says(phase, verb, index):
    state = RolloutState(phase, 1, index, 5, 5)
    if (phase, verb) not in TABLE or (verb == "advance" and index == 2) or (verb == "approve" and index != 2):
        with pytest.raises(IllegalStepError):
            apply(CANARY, state, verb, 9, "test")
    else:
        after, action = apply(CANARY, state, verb, 9, "test")
        assert after.phase == TABLE[(phase, verb)]
        assert action.before == state
        assert after.epoch == state.epoch


@given(phases, st.sampled_from([NO_DATA, UNDECIDED, FINE, BLOCKED, harm("rollback"), harm("hold")]), st.integers(0, 10 * DAY), st.booleans())
def test_nothing_but_proof_promotes_and_only_running_experiments_move(phase, verdict, now_us, tripped):
    state = RolloutState(phase, 1, 2, 0, 0, approved=(2,))
    after, actions = step(CANARY, state, verdict, now_us, is_tripped=tripped)
    if phase not in ("running", "paused"):
        assert (after, actions) == (state, ())
    if phase == "paused":
        assert after.phase in ("paused", "rolled_back")
    if after.phase == "promoted" != phase:
        assert verdict is FINE
        assert not tripped
    assert step(CANARY, after, verdict, now_us, is_tripped=tripped) == (after, ())


def test_what_is_archived_has_no_way_out_and_what_is_decided_never_runs_again():
    assert not [at for at, _ in TABLE if at == "archived"]
    assert not [at for (at, _), to in TABLE.items() if STAGE[at] == "decided" and STAGE[to] in ("running", "paused", "draft")]


def test_every_phase_has_a_stage_and_every_phase_but_the_last_a_way_out():
    assert {at for at, _ in TABLE} | set(TABLE.values()) == set(STAGE)
    assert {at for at, _ in TABLE} == set(STAGE) - {"archived"}


def test_whoever_is_on_call_can_make_anything_that_serves_safer_alone():
    for phase in ("running", "paused"):
        assert {"rollback", "stop"} <= {verb for verb in may_be_asked(phase) if ASKED_BY[verb] == "experiment:operate"}
    assert "rollback" in may_be_asked("promoted")


def test_a_pause_keeps_the_step_sends_everyone_to_the_control_and_still_ends():
    done, state = run(CANARY, [(31 * MINUTE, UNDECIDED, {}), (HOUR, "pause", {}), (3 * HOUR, FINE, {}), (DAY, UNDECIDED, {})])
    assert done[-1] == ("pause", "paused", 1)
    assert live(CANARY, state).exposure == 0
    resumed, _ = apply(CANARY, state, "resume", DAY, "all well")
    assert (resumed.phase, resumed.step, resumed.entered_us) == ("running", 1, DAY)
    assert step(CANARY, state, harm("rollback"), DAY)[0].phase == "rolled_back"
    assert step(CANARY, state, NO_DATA, 7 * DAY)[0].phase == "rolled_back"


def test_a_step_is_approved_once_and_only_where_it_asks_for_it():
    state = RolloutState("running", 1, 0)
    with pytest.raises(IllegalStepError, match="asks for no approval"):
        apply(CANARY, state, "approve", 1, "yes")
    state, _ = apply(CANARY, replace(state, step=2), "approve", 1, "yes")
    with pytest.raises(IllegalStepError, match="approved already"):
        apply(CANARY, state, "approve", 2, "yes")


@pytest.mark.parametrize(
    ("phase", "exposure", "arms"),
    [
        ("running", CANARY.steps[1].exposure, {"champion", "challenger"}),
        ("rolled_back", 0, {"champion"}),
        ("promoted", WHOLE, {"challenger"}),
    ],
)
def test_what_workers_draw_in_each_phase(phase, exposure, arms):
    document = load("credit-canary.yaml", layer={"name": "credit", "slots": "0-999"})
    found = live(document, RolloutState(phase, 1, 1))
    assigner = Assigner(document, found)
    assert found.exposure == exposure
    assert {assigner.assign(f"{n:032x}").arm for n in range(500)} == arms


def test_the_record_of_a_step_is_integers_and_words():
    state, _ = apply(CANARY, initial(CANARY, 3), "start", 0, "loaded")
    _, (action,) = step(CANARY, state, harm("rollback"), MINUTE)
    assert action.record(CANARY) == {
        "experiment": "credit-canary",
        "epoch": 3,
        "from": "running/0",
        "to": "rolled_back/0",
        "action": "rollback",
        "exposure": 0,
        "evidence": {"units": ENOUGH},
        "reason": "errors: worse",
    }


def told(verdict, now_us=MINUTE, document=CANARY, **more: object):
    state, _ = apply(document, initial(document, 1), "start", 0, "loaded")
    return in_words(document, replace(state, **more), verdict, now_us)


def metric(name, outcome):
    return MetricVerdict(name, "challenger", outcome, False, f"{name}: seen", True, "hold")


def test_what_is_said_of_a_running_experiment_is_what_is_so_now_and_not_an_old_hold():
    verdict = replace(UNDECIDED, metrics=(metric("accuracy", "fine"), metric("errors", "hold")))
    said = told(verdict, held="evidence is missing or blocked")
    assert said.startswith("Proven fine: accuracy. Not proven yet: errors. This step waits for ")
    assert "blocked" not in said
    assert told(BLOCKED) == "Nothing is proven yet. It holds: evidence is missing or blocked."
    assert told(replace(FEW, units={"champion": 10, "challenger": 199}), now_us=DAY).endswith("more units an arm.")
    assert told(FINE, now_us=0).startswith("Every metric is proven fine. This step waits for ")


def test_nobody_is_told_to_take_a_step_that_only_the_gateway_takes():
    for phase in ("promoted", "rolled_back", "superseded", "stopped", "archived"):
        with pytest.raises(IllegalStepError) as refused:
            after("x", phase, "start")
        assert not {"archive", "supersede"} & set(str(refused.value).split("`"))


def test_an_approval_is_offered_only_where_a_step_waits_for_one_and_a_promotion_only_where_something_promotes():
    last = len(CANARY.steps) - 1
    assert "approve" not in offered(CANARY, RolloutState("running", 1, step=0))
    assert "approve" in offered(CANARY, RolloutState("running", 1, step=last))
    assert "approve" not in offered(CANARY, RolloutState("running", 1, step=last, approved=(last,)))
    assert ("promote" in offered(CANARY, RolloutState("running", 1)), "promote" in offered(AB, RolloutState("running", 1))) == (True, False)


def test_a_promotion_without_a_goal_does_not_speak_of_one():
    document = msgspec.structs.replace(CANARY, goal=None)
    last = len(document.steps) - 1
    state = RolloutState("running", 1, step=last, approved=(last,))
    _, (action,) = step(document, state, FINE, 300 * DAY)
    assert (action.verb, action.reason) == ("promote", "every guardrail is proven not worse than its margin")
