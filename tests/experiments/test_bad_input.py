"""What goes wrong while an experiment runs is a stated hold or a rollback, never a silent promotion: clocks, unknown decisions, an arm that went."""

import pytest

from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.evidence import Fold
from experiments.judge import judge
from experiments.rollout import apply, initial, step
from experiments.verdict import NO_DATA, Verdict

HOUR_US = 3_600_000_000
CANARY = {
    "experiment": "next",
    "strategy": "canary",
    "model": "m",
    "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
    "steps": [{"share": "50%", "hold": "1h", "min_units": 100}],
    "guardrails": {"errors": {"max_harm": "2pp"}, "diverted": {"max_harm": "1pp"}},
    "deadline": {"after": "7d", "then": "rollback"},
}
DOCUMENT = compile_experiment(parse_experiment(CANARY))
FINE = Verdict("fine", "hold", True, {"champion": 5000, "challenger": 5000}, ("r",), (), {}, ())


def record(number, arm, *, served=None, status=200):
    route = {"experiment": "next", "epoch": 1, "exposed": True, "assigned": arm, "served": served or arm, "shares": dict(DOCUMENT.steps[0].shares)}
    return {"type": "call", "id": f"{number:08d}", "subject": f"{number:032x}", "route": route, "outcome": {"status": status, "latency_us": 1}}


def judged(records):
    fold = Fold(DOCUMENT, 1)
    for one in records:
        fold.add(one)
    return judge(DOCUMENT, fold.evidence())


def running():
    return apply(DOCUMENT, initial(DOCUMENT, 1), "start", 1000 * HOUR_US, "configured")[0]


@pytest.mark.parametrize("back_us", [1, HOUR_US, 999 * HOUR_US])
def test_a_clock_set_back_promotes_nothing_and_ends_nothing(back_us):
    state = running()
    after, actions = step(DOCUMENT, state, FINE, state.entered_us - back_us)
    assert (after.phase, actions) == ("running", ())


def test_a_clock_set_far_ahead_ends_what_is_undecided_by_its_declared_default_and_promotes_nothing():
    state = running()
    after, (action,) = step(DOCUMENT, state, NO_DATA, state.entered_us + 10**6 * HOUR_US)
    assert (after.phase, action.verb) == ("rolled_back", "rollback")


def test_answers_to_decisions_that_nobody_knows_are_evidence_of_nothing():
    fold = Fold(DOCUMENT, 1)
    for number in range(10_000):
        fold.add({"type": "outcome", "id": f"o{number}", "parents": [f"x{number}"], "outcome": {"status": 500, "latency_us": 1}})
    assert fold.evidence().stages["assigned"] == {"champion": 0, "challenger": 0}
    assert judge(DOCUMENT, fold.evidence()).outcome == "hold"


def test_an_arm_whose_version_may_no_longer_serve_is_rolled_back_by_what_was_diverted():
    half = [record(n, ("champion", "challenger")[n % 2]) for n in range(1000)]
    gone = [record(n, ("champion", "challenger")[n % 2], served="champion") for n in range(1000, 3000)]
    verdict = judged(half + gone)
    assert verdict.outcome == "harm"
    assert verdict.reasons[0].startswith(("diverted", "sample ratio off at stage `served`"))
    assert step(DOCUMENT, running(), verdict, 1002 * HOUR_US)[0].phase == "rolled_back"


def test_an_arm_that_is_not_drawn_any_more_holds_everything_by_its_sample_ratio():
    verdict = judged([record(n, ("champion", "challenger")[n % 2]) for n in range(400)] + [record(n, "champion") for n in range(400, 2000)])
    assert verdict.outcome == "hold"
    assert verdict.reasons[0].startswith("sample ratio off at stage `assigned`")
    assert step(DOCUMENT, running(), verdict, 1002 * HOUR_US)[0].phase == "running"


def test_an_arm_whose_servers_are_gone_is_rolled_back_by_its_errors():
    verdict = judged([record(n, ("champion", "challenger")[n % 2], status=502 if n % 2 else 200) for n in range(200)])
    assert (verdict.outcome, verdict.on_harm) == ("harm", "rollback")
