"""How the log grows: what a record costs, what a start and a proof take, and how much disk, at 10^4, 10^5, ... records.

Usage: `python -m benchmarks.growth [--most 1000000] [--without-index | --only-index]`. One process does everything in turn: append in groups of
2,048, publish, seal and take into excerpts, index. CPU seconds of this process, so that other work on the machine counts little; proofs and
questions in wall time, best of twenty, pages of 50. Verification is of the whole log as a stranger does it; a start opens everything but the index
and finds what is in force. `--only-index` indexes the same records without a log beneath, and asks.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from audit import tiles
from audit.excerpts import Excerpting, Excerpts
from audit.follow import follow
from audit.index import Indexer
from audit.keys import SigningKey
from audit.leaf import render
from audit.merkle import inclusion_proof
from audit.publisher import Publisher
from audit.query import Query
from audit.source import open_directory
from audit.store.control import ControlStore
from audit.store.leaves import LeafStore
from audit.verify import verify_log
from gateway.control.registry import CONCERNING

GROUP = 2048
KEY = SigningKey.generate("bench.example/growth", seed=b"g" * 32)


def record_id(seq: int) -> str:
    """Return the id of a record."""
    return f"019a9f3c-5b7e-7a3c-8f10-{seq:012x}"


def record_time(seq: int) -> str:
    """Return the time of a record: one a millisecond."""
    return f"2026-11-20T{seq // 3_600_000 % 24:02d}:{seq // 60_000 % 60:02d}:{seq // 1000 % 60:02d}.{seq % 1000:03d}000Z"


def pseudonym(seq: int) -> str:
    """Return the subject of a record; it falls anywhere among the others."""
    return f"{seq * 2654435761 % 2**32:08x}" * 4


def questions(count: int) -> dict[str, Query]:
    """Return what is asked of a log of `count` records, about what lies in its first third."""
    at = count // 300 * 100 + 49
    return {
        "id": Query(id=record_id(at)),
        "decision": Query(decision=record_id(at)),
        "subject": Query(subject=pseudonym(at)),
        "model, time": Query(model="credit-risk", version="1", since=record_time(at), until=record_time(at + 1000)),
        "arm": Query(experiment="credit-v4", arm="b"),
        "denied": Query(policy="deny"),
    }


def leaf(seq: int) -> bytes:
    """Return a record of a call, about 700 bytes, with what varies from call to call: one in ten of an experiment, one in 5,000 denied.

    One in a hundred is a label of the call fifty records before.
    """
    is_label = seq % 100 == 99
    return render(
        {
            "v": 1,
            "id": record_id(seq),
            "type": "label" if is_label else "call",
            **({"decision": record_id(seq - 50)} if is_label else {}),
            **({"route": {"experiment": "credit-v4", "assigned": "ab"[seq // 10 % 2], "served": "ab"[seq // 10 % 2]}} if seq % 10 == 0 else {}),
            "time": record_time(seq),
            "mono_ns": seq,
            "boot_id": "28f3f9ce-3d49-42d9-8e5b-7a37f34f1ee6",
            "tenant": "acme",
            "actor": {"kind": "key", "id": "k1"},
            "subject": pseudonym(seq),
            "model": {"name": "credit-risk", "version": str(seq % 3), "digest": "sha256:" + "ab" * 32},
            "policy": {"decision": "allow" if seq % 5000 else "deny", "digest": "cd" * 32},
            "outcome": {"status": 200, "latency_us": 5000 + seq % 97},
            **({} if seq % 10 == 0 else {"usage": {"rows": 1, "bytes_in": 300, "bytes_out": 500}}),
            "config_digest": "ef" * 32,
            "writer": {"node": "n1.w0", "epoch": 1, "seq": seq},
        }
    )


def cpu_s(step: Callable[[], object]) -> float:
    """Return CPU seconds of a step."""
    start_s = time.process_time()
    step()
    return time.process_time() - start_s


def best_s(step: Callable[[], object], times: int) -> float:
    """Return the shortest wall time of a step."""
    seconds = []
    for _ in range(times):
        start_s = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start_s)
    return min(seconds)


def asked_s(indexer: Indexer, count: int) -> list[float]:
    """Return how long each question takes."""
    return [best_s(lambda query=query: indexer.page(query, limit=50), 20) for query in questions(count).values()]  # type: ignore[misc]


def size_bytes(folder: Path) -> int:
    """Return what the files below a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Growing:
    """A log and its costs. Owned by `main`."""

    def __init__(self, folder: Path, *, has_index: bool) -> None:
        """Open an empty log in `folder`."""
        self.folder = folder
        self.has_index = has_index
        self.count = self.leaf_bytes = 0
        self.append_s = self.publish_s = self.index_s = 0.0
        self._open()
        self._open_index()

    def _open(self) -> None:
        self.store, self.control = LeafStore.open(self.folder), ControlStore.open(self.folder)
        self.control.lead("bench", 0)
        self.publisher = Publisher.open(self.folder, self.control, [KEY])
        self.excerpts = Excerpts(self.folder, CONCERNING, [KEY.verifier])
        for _ in self.excerpts.search(self.store.next_index):
            pass
        self.excerpting = Excerpting(self.folder, CONCERNING, KEY, done=self.excerpts.believed)

    def _open_index(self) -> None:
        self.indexer = Indexer(self.folder, follow) if self.has_index else None

    def close(self) -> None:
        """Close everything."""
        if self.indexer is not None:
            self.indexer.close()
        self._close()

    def _close(self) -> None:
        for closable in (self.publisher, self.control, self.store):
            closable.close()

    def grow_to(self, target: int) -> None:
        """Append up to `target` records, publishing and indexing on the way."""
        since = 0
        while self.count < target:
            leaves = [leaf(seq) for seq in range(self.count, min(self.count + GROUP, target))]
            self.append_s += cpu_s(lambda leaves=leaves: self._append(leaves))  # type: ignore[misc]
            since += len(leaves)
            if since >= 20_000 or self.count == target:
                since = 0
                self.publish_s += cpu_s(self._publish)
                if self.indexer is not None:
                    self.index_s += cpu_s(self.indexer.catch_up)

    def _append(self, leaves: list[bytes]) -> None:
        self.store.stage(("n1.w0", 1), self.count, leaves)
        self.store.commit()
        self.store.housekeep(idle=False)
        self.count += len(leaves)
        self.leaf_bytes += sum(map(len, leaves))

    def _publish(self) -> None:
        while self.publisher.publish_once():
            pass
        while self.publisher.seal_some(hot=2):
            pass
        self.publisher.remove_old_databases(0)
        while self.excerpting.step(self.publisher):
            pass

    def start_s(self) -> float:
        """Return the CPU seconds of a start: stores and tree opened, the log searched for what is in force."""
        self._close()
        return cpu_s(self._open)

    def asked_s(self) -> list[float]:
        """Return how long each question takes."""
        if self.indexer is None:
            return []
        return asked_s(self.indexer, self.count)

    def proof_s(self) -> float:
        """Return how long a proof takes, its tiles read from disk."""
        read = open_directory(self.folder).read

        def prove() -> None:
            inclusion_proof(self.count // 3, self.count, tiles.TileReader(read, self.count).hash_at)

        return best_s(prove, 20)

    def row(self) -> list[Any]:
        """Return the figures at this size."""
        before = self.append_s, self.publish_s, self.index_s
        verify_s = cpu_s(lambda: verify_log(open_directory(self.folder), [KEY.verifier]))
        start_s, proof_s, asked_s = self.start_s(), self.proof_s(), self.asked_s()
        self.store.housekeep(idle=True)
        index_bytes = sum(path.stat().st_size for path in self.folder.glob("index.sqlite*"))
        ratio = (size_bytes(self.folder) - index_bytes) / self.leaf_bytes
        return [
            f"{self.count:,}",
            *(f"{seconds / self.count * 1e6:.1f}" for seconds in before),
            f"{self.count / verify_s:,.0f}",
            f"{start_s:.2f}",
            f"{proof_s * 1e3:.2f}",
            f"{ratio:.2f}",
            f"{ratio + index_bytes / self.leaf_bytes:.2f}" if self.has_index else "-",
            *(f"{seconds * 1e3:.2f}" for seconds in asked_s),
        ]


def sizes(most: int) -> Iterator[int]:
    """Give 10^4, 10^5, ... up to `most`."""
    size = 10_000
    while size <= most:
        yield size
        size *= 10


def index_alone(most: int) -> None:
    """Print what the index costs and how long it takes to answer."""
    print("| records | index µs | index: x record bytes |" + "".join(f" {name} ms |" for name in questions(1)))
    print("|---|---|---|" + "---|" * len(questions(1)))
    count, leaf_bytes, seconds = 0, 0, 0.0
    with tempfile.TemporaryDirectory() as folder, Indexer(Path(folder), lambda _, first: iter([(first, leaf(first))])) as indexer:
        for size in sizes(most):
            while count < size:
                batch = [(seq, leaf(seq)) for seq in range(count, min(count + GROUP, size))]
                seconds += cpu_s(lambda batch=batch: indexer.add(batch))  # type: ignore[misc]
                count += len(batch)
                leaf_bytes += sum(len(one) for _, one in batch)
            told = [f"{count:,}", f"{seconds / count * 1e6:.1f}", f"{size_bytes(Path(folder)) / leaf_bytes:.2f}"]
            print("| " + " | ".join([*told, *(f"{one * 1e3:.2f}" for one in asked_s(indexer, count))]) + " |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--without-index", action="store_true")
    parser.add_argument("--only-index", action="store_true")
    chosen = parser.parse_args()
    if chosen.only_index:
        index_alone(chosen.most)
        return
    print(f"Python {sys.version.split()[0]}, leaf of {len(leaf(12345))} bytes")
    names = "" if chosen.without_index else "".join(f" {name} ms |" for name in questions(1))
    print(
        "| records | append µs | publish, seal, excerpt µs | index µs | verify records/s | start CPU s | proof ms | disk x | with index x |" + names
    )
    print("|---|---|---|---|---|---|---|---|---|" + "---|" * names.count("|"))
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Growing(Path(folder), has_index=not chosen.without_index)) as log:
        for size in sizes(chosen.most):
            log.grow_to(size)
            print("| " + " | ".join(log.row()) + " |", flush=True)


if __name__ == "__main__":
    main()
