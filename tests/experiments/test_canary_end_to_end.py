"""A canary from assignment to its end: real draws, records as the gateway writes them, fold, judge, rollout. No outcome is scripted."""

import random

import pytest

from experiments.assignment import Assigner, recompute
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.evidence import Fold
from experiments.judge import judge
from experiments.rollout import apply, initial, live, step

SECOND = 1_000_000
DOCUMENT = compile_experiment(
    parse_experiment(
        {
            "experiment": "swap",
            "strategy": "canary",
            "model": "m",
            "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
            "steps": [
                {"share": "5%", "hold": "1m", "min_units": 30},
                {"share": "20%", "hold": "1m", "min_units": 60},
                {"share": "50%", "hold": "1m"},
            ],
            "guardrails": {"errors": {"max_harm": "0.5pp"}, "p50_ms": {"max_harm": "50%", "on_harm": "hold"}},
            "goal": {"metric": "error_rate", "margin": "2pp"},
            "deadline": {"after": "1d"},
        }
    )
)


def serve(failing, wrong, *, calls=20_000, seed=1):
    """Serve calls of ever new units a second apart, judge every 100; failing and wrong: arm -> rate."""
    rng = random.Random(seed)  # noqa: S311 - a simulation
    state, start = apply(DOCUMENT, initial(DOCUMENT, 1), "start", 0, "loaded")
    fold, done, assigner = Fold(DOCUMENT, 1), [start.verb], Assigner(DOCUMENT, live(DOCUMENT, state))
    for number in range(calls):
        unit, decision = f"{rng.getrandbits(128):032x}", f"{number:08d}"
        assignment = assigner.assign(unit)
        arm, route = assignment.arm, assignment.route() | {"served": assignment.arm}
        assert recompute(route, unit, DOCUMENT.salt) == arm
        truth = rng.choice("01")
        prediction = truth if rng.random() >= wrong[arm] else "x"
        outcome = {"status": 502 if rng.random() < failing[arm] else 200, "latency_us": int(rng.expovariate(1 / 5000))}
        fold.add(
            {
                "type": "call",
                "id": decision,
                "subject": unit,
                "route": route,
                "policy": {"decision": "allow"},
                "prediction": prediction,
                "outcome": outcome,
            }
        )
        fold.add({"type": "label", "id": f"{calls + number:08d}", "decision": decision, "label": truth})
        if number % 100 == 99:
            state, actions = step(DOCUMENT, state, judge(DOCUMENT, fold.evidence()), number * SECOND)
            done += [action.verb for action in actions if action.verb != "hold"]
            assigner = Assigner(DOCUMENT, live(DOCUMENT, state))
            if state.phase != "running":
                return done, number
    return done, calls


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_challenger_that_fails_more_is_rolled_back(seed):
    done, calls = serve({"champion": 0.04, "challenger": 0.12}, {"champion": 0.1, "challenger": 0.1}, seed=seed)
    assert done[-1] == "rollback"
    assert calls < 6000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_the_versions_swapped_it_climbs_all_steps_and_is_promoted(seed):
    done, calls = serve({"champion": 0.12, "challenger": 0.04}, {"champion": 0.1, "challenger": 0.05}, seed=seed)
    assert done == ["start", "advance", "advance", "promote"]
    assert calls < 20_000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_challenger_that_answers_and_is_wrong_is_rolled_back_by_late_labels(seed):
    done, _ = serve({"champion": 0.0, "challenger": 0.0}, {"champion": 0.05, "challenger": 0.2}, seed=seed)
    assert done[-1] == "rollback"
