"""How far the query index lags behind the log while records come in at a steady rate.

Usage: `python -m benchmarks.lag [--rate 20000] [--seconds 20]`. One process appends at the rate, as a recorder does (groups of 10 ms); another
follows and indexes, as the controller does (`ROWS_PER_STEP` leaves a step). Once every 100 ms the leaves that wait for the index are counted; the lag
is what they are in seconds at that rate. Where the machine cannot even append at the rate, the rate that was reached is told.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from audit.follow import Follower, follow
from audit.index import Indexer
from audit.store.leaves import LeafStore
from benchmarks.growth import leaf
from gateway.control.tail import ROWS_PER_STEP

GROUP_S = 0.01
SAMPLE_S = 0.1


def append(folder: Path, rate: int, count: int, committed: Synchronized[int]) -> None:
    """Append `count` records at `rate` a second; `committed` tells how far it is."""
    store = LeafStore.open(folder)
    leaves = [leaf(seq) for seq in range(count)]  # rendered by writers, whose cost is not the recorder's
    start_s = time.perf_counter()
    while (done := committed.value) < count:
        due = min(count, int((time.perf_counter() - start_s + GROUP_S) * rate))
        if due > done:
            store.stage(("n1.w0", 1), done, leaves[done:due])
            store.commit()
            store.housekeep(idle=False)
            committed.value = due
        time.sleep(GROUP_S)
    store.close()


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    chosen = parser.parse_args()
    count = int(chosen.rate * chosen.seconds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        LeafStore.open(folder).close()
        committed = multiprocessing.Value("q", 0)
        writer = multiprocessing.Process(target=append, args=(folder, chosen.rate, count, committed))
        with Indexer(folder, follow) as indexer, Follower(folder) as follower:
            writer.start()
            while committed.value == 0:
                time.sleep(0.01)
            start_s, start_cpu_s, sample_at_s = time.perf_counter(), time.process_time(), 0.0
            lags, wanted, appended_s = [0], 0, 0.0
            while wanted < count:
                rows = follower.read(wanted, ROWS_PER_STEP)
                wanted = indexer.add(rows) if rows else wanted
                now_s = time.perf_counter()
                if not appended_s and committed.value == count:
                    appended_s = now_s - start_s
                if now_s >= sample_at_s:
                    sample_at_s = now_s + SAMPLE_S
                    lags.append(committed.value - wanted)
                if len(rows) < ROWS_PER_STEP:
                    time.sleep(SAMPLE_S)
            cpu_us = (time.process_time() - start_cpu_s) / count * 1e6
            caught_up_s = time.perf_counter() - start_s - appended_s
        writer.join()
    print(
        f"Python {sys.version.split()[0]}: {count:,} records appended at {count / appended_s:,.0f}/s (asked {chosen.rate:,}); "
        f"index {cpu_us:.1f} us of CPU a record, at most {max(lags):,} records or {max(lags) / chosen.rate:.1f} s behind, "
        f"caught up {caught_up_s:.1f} s after the last"
    )


if __name__ == "__main__":
    main()
