"""What a record costs: `Journal.append` in the writer, and the recorder process from socket to acknowledgement.

Usage: `python benchmarks/recorder.py [--seconds 3]`. Prints one table. Each row starts its own recorder on an empty directory; plain blocking
clients keep `under way` batches unanswered, so that the recorder is the only thing that is measured. CPU is user + system time of the recorder
process; the wait is from sending a batch to its answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from audit import journal as journal_module
from audit import leaf, wire
from audit.highwater import HighWater
from audit.statements import Clock, machine_boot_id

ROOT = Path(__file__).resolve().parents[1]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LEAF_FILL = "x" * 480


def record() -> dict[str, object]:
    """Return a record of about 650 bytes once rendered."""
    return {
        "v": 1,
        "id": "019a9f3c-5b7e-7a3c-8f10-2b6d3c4e5f60",
        "type": "call",
        "time": "2026-11-20T10:00:00.123456Z",
        "mono_ns": 1,
        "tenant": "acme",
        "note": LEAF_FILL,
    }


def cpu_s(pid: int) -> float:
    """Return user + system seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class Client:
    """One writer on a blocking socket that keeps some batches under way."""

    def __init__(self, path: Path, node: str, batch_records: int) -> None:
        """Connect and say hello."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(path))
        self.socket.sendall(wire.encode_hello(node, 1))
        self._decoder = wire.Decoder(from_writer=False)
        self._node = node
        self.batch_records = batch_records
        self._next_seq = 0
        self.acked = 0

    def batches(self, total: int) -> list[bytes]:
        """Render `total` batches ahead, so that rendering is not in the measured time."""
        out = []
        for _ in range(total):
            first = self._next_seq
            body = record()
            leaves = []
            for seq in range(first, first + self.batch_records):
                body["writer"] = {"node": self._node, "epoch": 1, "seq": seq}
                leaves.append(leaf.render(body))
            out.append(wire.encode_batch(first, leaves))
            self._next_seq += self.batch_records
        return out

    def send(self, frame: bytes) -> None:
        """Send one batch."""
        self.socket.sendall(frame)

    def wait(self) -> None:
        """Wait for acknowledgements and count them."""
        for frame in self._decoder.feed(self.socket.recv(65536)):
            if not isinstance(frame, wire.Ack):
                raise TypeError(frame)
            self.acked += frame.count


def measure_recorder(data_dir: Path, batch_records: int, clients: int, window: int, seconds: float) -> tuple[float, float, float, float]:
    """Return (records/s, CPU microseconds per record, median and 99th percentile of the wait for an answer in ms)."""
    path = data_dir / "recorder.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        fd = listener.fileno()
        command = [sys.executable, "-m", "audit.recorder", str(data_dir), str(fd), "bench.recorder"]
        process = subprocess.Popen(command, pass_fds=[fd], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            writers = [Client(path, f"bench.w{number}", batch_records) for number in range(clients)]
            frames = max(window + 1, int(150_000 * seconds / batch_records / clients))
            stocks: list[Iterator[bytes]] = [iter(writer.batches(frames)) for writer in writers]
            for writer, stock in zip(writers, stocks, strict=True):
                writer.send(next(stock))
                writer.wait()
            before_cpu_s, before_s, before = cpu_s(process.pid), time.perf_counter(), sum(writer.acked for writer in writers)
            waits = drive(writers, stocks, window, before_s + seconds)
            elapsed_s = time.perf_counter() - before_s
            done = sum(writer.acked for writer in writers) - before
            used_s = cpu_s(process.pid) - before_cpu_s
            waits.sort()
            return done / elapsed_s, used_s / done * 1e6, waits[len(waits) // 2] * 1e3, waits[len(waits) * 99 // 100] * 1e3
        finally:
            process.terminate()
            process.wait()


def drive(writers: list[Client], stocks: list[Iterator[bytes]], window: int, until_s: float) -> list[float]:
    """Keep `window` batches of each writer under way until the time or the stock is over; return the seconds each batch waited for its answer."""
    waits = []
    with selectors.DefaultSelector() as selector:
        under_way = []
        for writer, stock in zip(writers, stocks, strict=True):
            under_way.append(Window(writer, stock, window))
            selector.register(writer.socket, selectors.EVENT_READ, under_way[-1])
        while time.perf_counter() < until_s and all(each.fill() for each in under_way):
            for key, _ in selector.select():
                waits += key.data.take()
        for each in under_way:
            while each.sent_s:
                waits += each.take()
    return waits


class Window:
    """The batches of one writer that are not answered yet. Owned by `drive`."""

    def __init__(self, writer: Client, stock: Iterator[bytes], size: int) -> None:
        """Send batches of `stock`, at most `size` at a time."""
        self.sent_s: deque[float] = deque()
        self._writer = writer
        self._stock = stock
        self._size = size
        self._answered = writer.acked

    def fill(self) -> bool:
        """Send what may be sent; return False when the stock is used up."""
        while len(self.sent_s) < self._size:
            frame = next(self._stock, None)
            if frame is None:
                return False
            self.sent_s.append(time.perf_counter())
            self._writer.send(frame)
        return True

    def take(self) -> list[float]:
        """Read answers; return how long each batch they complete has waited."""
        self._writer.wait()
        waits = []
        while self._answered + self._writer.batch_records <= self._writer.acked:
            self._answered += self._writer.batch_records
            waits.append(time.perf_counter() - self.sent_s.popleft())
        return waits


def measure_append(data_dir: Path, count: int) -> tuple[float, float]:
    """Return CPU microseconds of rendering, and of all else in `Journal.append`.

    They are measured apart: kept leaves of a run without a recorder would mostly measure fresh memory being handed out.
    """

    async def run() -> tuple[float, float]:
        clock = Clock(machine_boot_id())
        mark = HighWater.claim(data_dir, "bench.w0", clock.wall_ms(), clock.boot_id)
        bounds = journal_module.Limits(records=1 << 40, leaf_bytes=1 << 50)
        journal = journal_module.Journal("bench.w0", mark.epoch, data_dir / "none", mark, clock=clock, limits=bounds)
        body = record()
        journal.append(body)
        rendered = leaf.render(body)
        render_s = cpu_of(lambda: leaf.render(body), count)
        journal_module.render = lambda _: rendered
        append_s = cpu_of(lambda: journal.append(body), count)
        journal_module.render = leaf.render
        mark.close()
        return render_s / count * 1e6, append_s / count * 1e6

    return asyncio.run(run())


def cpu_of(step: Callable[[], object], count: int) -> float:
    """Return CPU seconds of `count` steps."""
    start_s = time.process_time()
    for _ in range(count):
        step()
    return time.process_time() - start_s


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    seconds = parser.parse_args().seconds
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, leaf of {len(leaf.render(record())) + 60} bytes")
    with tempfile.TemporaryDirectory() as folder:
        render_us, queue_us = (min(each) for each in zip(*[measure_append(Path(folder), 20_000) for _ in range(5)], strict=True))
        print(f"Journal.append: rendering {render_us:.2f} us, numbering and queueing {queue_us:.2f} us of CPU")
    print("| writers | batch | under way | records/s | recorder CPU us/record | wait p50 ms | p99 ms |\n|---|---|---|---|---|---|---|")
    for clients, batch_records, window in ((1, 16, 1), (1, 256, 1), (2, 16, 4), (2, 256, 4)):
        with tempfile.TemporaryDirectory() as folder:
            rate, cpu_us, p50, p99 = measure_recorder(Path(folder), batch_records, clients, window, seconds)
        print(f"| {clients} | {batch_records} | {window} | {rate:,.0f} | {cpu_us:.1f} | {p50:.2f} | {p99:.2f} |", flush=True)


if __name__ == "__main__":
    main()
