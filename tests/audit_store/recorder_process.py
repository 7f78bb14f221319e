"""A real recorder process behind a socket the test keeps, and a real writer process with a client-side journal as judge."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from audit.highwater import HighWater
from audit.journal import Journal, JournalError
from audit.statements import Clock, machine_boot_id
from audit.store import layout
from audit.store.leaves import LeafStore

ROOT = Path(__file__).resolve().parents[2]


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


@functools.cache
def empty_range() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        LeafStore.open(Path(folder)).close()
        return layout.range_path(Path(folder), 0).read_bytes()


class RecorderProcess:
    """Binds the socket as the parent of `assay serve` does, and starts recorders that inherit it."""

    def __init__(self, data_dir: Path, node: str = "n1.recorder", *, is_first_start: bool = False) -> None:
        """Unless `is_first_start`, the directory already has an empty store: a first start spends seconds on migrations."""
        self.data_dir = data_dir
        self.node = node
        (data_dir / "run").mkdir(parents=True, exist_ok=True)
        if not is_first_start:
            layout.ranges_dir(data_dir).mkdir(exist_ok=True)
            layout.range_path(data_dir, 0).write_bytes(empty_range())
        self.socket_path = data_dir / "run" / "recorder.sock"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.socket_path))
        self._listener.listen(128)
        self._process: subprocess.Popen[bytes] | None = None
        self._is_traced = False
        self.trace_path = data_dir / "run" / "strace"  # what was injected is marked there
        self.peers: list[socket.socket] = []  # closed with the recorder

    def start(self, *, faults: str = "", inject: Sequence[str] = ()) -> None:
        """Start a recorder.

        Args:
            faults: Python run in it before its main, to break something it stands on.
            inject: what strace does to its system calls (`fdatasync:error=EIO:when=3`); every call it names is traced.
        """
        fd = self._listener.fileno()
        call = f"main(Path({str(self.data_dir)!r}), {fd}, {self.node!r})"
        program = f"{faults}\nimport sys; from pathlib import Path; from audit.recorder import main\nsys.exit({call})"
        command = ["-c", program] if faults else ["-m", "audit.recorder", str(self.data_dir), str(fd), self.node]
        under = ["strace", "-qq", "-o", str(self.trace_path), *(word for each in inject for word in ("-e", f"inject={each}"))] if inject else []
        self._is_traced = bool(inject)
        self._process = subprocess.Popen(
            [*under, sys.executable, *command],
            pass_fds=[fd],
            cwd=ROOT,
            env=child_environment(),
            stderr=subprocess.PIPE,
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        assert self._process is not None
        self._signal(signal.SIGKILL)
        self._process.communicate()

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the recorder; where it is traced it is strace's child, and strace would keep the signal to itself."""
        traced = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split() if self._is_traced else [str(self.pid)]
        for pid in traced:
            os.kill(int(pid), number)

    def end(self, timeout_s: float = 30) -> tuple[int, str]:
        """Wait for the end; return exit code and stderr."""
        assert self._process is not None
        _, stderr = self._process.communicate(timeout=timeout_s)
        return self._process.returncode, stderr.decode()

    def terminate(self) -> tuple[int, str]:
        """End it at once, whoever is connected still; with SIGTERM it would wait for them."""
        assert self._process is not None
        self._signal(signal.SIGINT)
        return self.end()

    def close(self) -> None:
        if self.is_running():
            self.kill()
        self._listener.close()
        for peer in self.peers:
            peer.close()


def new_journal(data_dir: Path, node: str = "n1.w0", **options: object) -> Journal:
    clock = Clock(machine_boot_id())
    mark = HighWater.claim(data_dir / "run", node, clock.wall_ms(), clock.boot_id)
    return Journal(node, mark.epoch, data_dir / "run" / "recorder.sock", mark, clock=clock, **options)  # type: ignore[arg-type]


def wait_until(condition, timeout_s: float = 20.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "condition not met in time"
        time.sleep(0.01)


async def _write(data_dir: Path, node: str, judge_path: Path, pause_s: float) -> None:
    """Append records until SIGTERM; write down every acknowledgement as `seq count index`, beyond this process's death."""
    judge = os.open(judge_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    journal = new_journal(data_dir, node)
    os.link(journal._highwater.path, judge_path.with_suffix(".hwm"))  # the judge's own hold on the mark
    os.write(judge, b"epoch %d 0\n" % journal.epoch)
    journal.on_ack.append(lambda first, count, index: os.write(judge, b"%d %d %d\n" % (first, count, index)))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await journal.open(deadline_s=60)
    number = 0
    while not stop.is_set():
        for _ in range(20):
            try:
                journal.append({"v": 1, "type": "test", "id": f"{node}-{journal.epoch}-{journal._next_seq}", "note": "x" * (number * 37 % 900)})
            except JournalError:
                break
            number += 1
        await asyncio.sleep(pause_s)
    await journal.close(deadline_s=30)
    os.write(judge, b"closed 0 0\n")


def start_writer(data_dir: Path, node: str, judge_path: Path, pause_s: float = 0.001) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(Path(__file__)), str(data_dir), node, str(judge_path), str(pause_s)], cwd=ROOT, env=child_environment()
    )


if __name__ == "__main__":
    import uvloop

    uvloop.run(_write(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])))
