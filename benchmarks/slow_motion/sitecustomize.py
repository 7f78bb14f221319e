"""Put on PYTHONPATH by `benchmarks/instructions.py`: what a worker needs to be counted. Changes nothing where its variables are not set.

- `ASSAY_SLOWER`: the process runs so many times slower than alone. Its intervals are lengthened as much, so that as many records travel together
  and as many timers go off per call as without a counter; else every call would be a batch of its own, and late.
- `ASSAY_PROFILE`: a file; the first SIGUSR2 begins counting calls of functions in a worker, the second writes them there.
"""

from __future__ import annotations

import cProfile
import os
import signal
import sys
from types import FrameType


def _lengthen(times: int) -> None:
    from audit import journal  # noqa: PLC0415 - a process that is not counted loads none of this
    from gateway import ledger  # noqa: PLC0415 - as above
    from gateway.lane import Lane  # noqa: PLC0415 - as above
    from gateway.native import sweep  # noqa: PLC0415 - as above
    from gateway.processes import control  # noqa: PLC0415 - as above

    for module, name in ((journal, "FLUSH_S"), (ledger, "BATCH_WINDOW_S"), (ledger, "BACKLOG_REFUSE_S")):
        setattr(module, name, getattr(module, name) * times)
    control.TICK_S = control.TICK_S * min(times, 20)  # 5 s: below the 10 s after which a state counts as stale
    add, write_late = sweep.Sweep.add, Lane.write_late_decisions
    sweep.TICK_S = sweep.TICK_S * times
    sweep.Sweep.add = lambda self, look, every_s: add(self, look, every_s * times)
    Lane.write_late_decisions = lambda self, older_than_s: write_late(self, older_than_s * times)


def _profile_between_signals(path: str) -> None:
    profile = cProfile.Profile()
    is_running = False

    def turn(_signal: int, _frame: FrameType | None) -> None:
        nonlocal is_running
        is_running = not is_running
        if is_running:
            profile.enable()
        else:
            profile.disable()
            profile.dump_stats(path)

    signal.signal(signal.SIGUSR2, turn)


if "gateway.processes.worker" in sys.orig_argv:
    if "ASSAY_SLOWER" in os.environ:
        _lengthen(int(os.environ["ASSAY_SLOWER"]))
    if "ASSAY_PROFILE" in os.environ:
        _profile_between_signals(os.environ["ASSAY_PROFILE"])
