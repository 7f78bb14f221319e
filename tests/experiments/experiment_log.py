"""The log of one experiment as a gateway writes it: real draws, real records, judged and moved by the real rollout. No outcome is scripted."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from experiments import preregistration
from experiments.assignment import Assigner
from experiments.evidence import Fold
from experiments.judge import judge
from experiments.rollout import apply, initial, live, step

BEGIN = datetime(2026, 11, 20, tzinfo=UTC)


def at(second: int) -> str:
    return (BEGIN + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def log_of(document, *, failing, wrong=None, calls=4000, seed=1, draft=True, diverted=0.0) -> list[dict[str, Any]]:
    """Return the records of `calls` calls a second apart, each of a new unit; failing, wrong: arm -> rate."""
    rng = random.Random(seed)  # noqa: S311 - a simulation
    wrong = wrong or dict.fromkeys(document.arms, 0.05)
    plan = preregistration.plan_of(document)
    registered = {
        "experiment": document.experiment,
        "epoch": 1,
        "document_digest": "d" * 64,
        "preregistration": plan,
        "preregistration_digest": preregistration.digest(plan),
        "reason": "configured",
    }
    records: list[dict[str, Any]] = [{"type": "experiment.registered", "time": at(0), **registered}] if draft else []
    records.append({"type": "experiment.start", "time": at(0), "salt": document.salt, **registered})
    state, action = apply(document, initial(document, 1), "start", 0, "configured")
    records.append({"type": "rollout.step", "time": at(0), **action.record(document), "state": msgspec.to_builtins(state)})
    fold, assigner = Fold(document, 1), Assigner(document, live(document, state))
    for number in range(calls):
        unit, decision = f"{rng.getrandbits(128):032x}", f"{number:08d}"
        assignment = assigner.assign(unit)
        if assignment is None:
            continue
        arm = assignment.arm
        truth = rng.choice("01")
        is_diverted = rng.random() < diverted
        eligible = [{"arm": arm, "reason": "approval.missing"}] if is_diverted else [{"arm": arm}]
        call = {
            "type": "call",
            "id": decision,
            "time": at(number),
            "subject": unit,
            "route": assignment.route() | {"served": "default" if is_diverted else arm, "eligible": eligible},
            "policy": {"decision": "allow"},
            "prediction": truth if rng.random() >= wrong[arm] else "x",
            "outcome": {"status": 502 if rng.random() < failing[arm] else 200, "latency_us": int(rng.expovariate(1 / 5000))},
        }
        label = {"type": "label", "id": f"{calls + number:08d}", "time": at(number), "decision": decision, "label": truth}
        records += [call, label]
        fold.add(call)
        fold.add(label)
        if number % 200 == 199:
            state, actions = step(document, state, judge(document, fold.evidence()), number * 1_000_000)
            for action in actions:
                records.append({"type": "rollout.step", "time": at(number), **action.record(document), "state": msgspec.to_builtins(state)})
            assigner = Assigner(document, live(document, state))
    return records
