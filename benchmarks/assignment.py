"""What an assignment costs: processor time of the draw a call makes, in this process.

Method: a canary of two arms, everyone exposed, as an `Assigner` has it in a worker; every unit is new. The least of five runs, because other
work on the machine can only add to it; what the loop itself takes is taken off.

Example:
    $ python -m benchmarks.assignment
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.report import machine
from experiments.assignment import Assigner
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.rollout import apply, initial, live

CANARY: dict[str, Any] = {
    "experiment": "bench",
    "strategy": "canary",
    "model": "m",
    "arms": {"champion": {"version": "1"}, "challenger": {"version": "2"}},
    "steps": [{"share": "50%", "hold": "1h"}],
    "guardrails": {"errors": {"max_harm": "1pp"}},
    "deadline": {"after": "30d"},
}


def assigner() -> Assigner:
    """Return the canary as it stands once it was started."""
    document = compile_experiment(parse_experiment(CANARY))
    state, _ = apply(document, initial(document, 1), "start", 0, "benchmark")
    return Assigner(document, live(document, state))


def cost_us(drawn: Assigner, subjects: Sequence[str]) -> float:
    """Return the processor time of one assignment in microseconds."""
    began_s = time.process_time()
    for subject in subjects:
        drawn.assign(subject, ("n1.w0", 1, 1))
    took_s = time.process_time() - began_s
    began_s = time.process_time()
    for _subject in subjects:
        pass
    return (took_s - (time.process_time() - began_s)) / len(subjects) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=100_000, help="assignments of a run (default 100,000)")
    subjects = [f"{number:032x}" for number in range(parser.parse_args().units)]
    drawn = assigner()
    least = min(cost_us(drawn, subjects) for _ in range(5))
    print(machine())
    print(f"an assignment: {least:.2f} µs of processor time, least of 5 runs of {len(subjects):,}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
