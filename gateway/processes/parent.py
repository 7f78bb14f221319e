"""The parent: binds every socket, starts the processes, restarts what dies. It serves nothing itself.

Children inherit the listening sockets, so a restart refuses nobody: connections wait in the kernel's line. When the parent itself is killed, the
kernel ends its children (`end_with_parent`): nothing is left that serves and that nobody looks after. Order of start: recorder,
controller, workers, and the keeper where there is a vault; of stop: workers (drain), controller, keeper, recorder. A process that
ends with `Status.CONFIGURATION` before the gateway was ever ready ends the whole gateway, because trying again would not help; at any other time it
is restarted with growing pauses.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from gateway.processes import parting
from gateway.processes.control import ControlDirectory

_PAUSES_S = (0.05, 0.1, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 10.0
_STOP_S = 15.0
_UNIX_PATH_BYTES = 100
_DESCRIPTORS = 65_536


NODE_FILE: Final = "node"
"""File in `data/run/` that names the node: commands write records under a name of their own there."""


class Status(enum.IntEnum):
    """Exit statuses of children that mean something to the parent."""

    OK = 0
    CONFIGURATION = 78
    """The configuration cannot be served (EX_CONFIG); the reason is on standard error."""


class CannotListen(Exception):  # noqa: N818 - says what happened
    """An address cannot be bound, or the data directory is in use; the text says which and what to do."""


_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent dies (prctl(2)); on other systems than Linux, do nothing.

    Args:
        parent: process id of the parent, as the parent itself told it.
        number: which signal.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew
        sys.exit(int(Status.OK))


@dataclass(slots=True)
class Child:
    """One process the parent keeps alive. Changed by the parent's loop alone."""

    name: str
    command: Sequence[str]
    inherits: tuple[int, ...]
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    deaths_in_a_row: int = 0
    start_at_s: float = 0.0

    def start(self) -> None:
        """Start the process, in a group of its own: Ctrl-C is the parent's to hear, which ends its children in their order."""
        self.process = subprocess.Popen(self.command, pass_fds=self.inherits, process_group=0)
        self.started_s = time.monotonic()


@dataclass(frozen=True, slots=True)
class VaultPlan:
    """Where the vault's keys are, by absolute reference, and where what was erased is remembered."""

    key: str
    previous: str
    marks: Path


@dataclass(slots=True)
class Plan:
    """What to run."""

    config_dir: Path
    data_dir: Path
    node: str
    front: tuple[str, int]
    admin: tuple[str, int]
    workers: int
    keys: Path
    transport: str = "native"
    """What workers serve with: a name of `gateway.processes.transports.TRANSPORTS`."""
    vault: VaultPlan | None = None
    """None where nothing is captured: then no process keeps anything."""
    say: Callable[[str], None] = field(default=lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201 - the parent's own voice


def listen_tcp(address: tuple[str, int], key: str) -> socket.socket:
    """Bind a listening TCP socket that children can inherit.

    Args:
        address: host and port.
        key: configuration key that names the address, for the error.

    Raises:
        CannotListen: the address is in use or is not this machine's.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as fault:
        listener.close()
        raise CannotListen(
            f"cannot listen on `{address[0]}:{address[1]}` ({key}): {fault.strerror}; end what uses the port, or change `{key}` in gateway.yaml"
        ) from None
    listener.set_inheritable(True)
    return listener


def _reached_at(host: str) -> str:
    """Return how this machine reaches an address that is bound on it."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared, not bound


def hold(run_dir: Path) -> int:
    """Take a data directory's one lock for as long as this process lives: a second gateway would take its sockets away.

    Raises:
        CannotListen: another gateway has it.
    """
    handle = os.open(run_dir / "parent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise CannotListen(f"`{run_dir.parent}` is in use by another gateway; end it first, or give this one another `store`") from None
    return handle


def listen_unix(run_dir: Path, name: str = "recorder") -> tuple[socket.socket, Path]:
    """Bind a process's Unix socket under `run_dir`, or in a private temporary folder where that path is too long for a socket."""
    path = run_dir / f"{name}.sock"
    told = run_dir / f"{name}.path"  # where commands look for a socket that is not in `run_dir`
    told.unlink(missing_ok=True)
    if len(os.fsencode(path)) > _UNIX_PATH_BYTES:
        path = Path(tempfile.mkdtemp(prefix="assay-")) / f"{name}.sock"
        told.write_text(str(path), encoding="utf-8")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fsencode(path))
    path.chmod(0o600)
    listener.listen(256)
    listener.set_inheritable(True)
    return listener, path


def _raise_descriptor_limit() -> None:
    """Let this process and its children open as many files as they may: the usual soft limit of 1,024 is less than a worker's callers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Parent:
    """Runs a plan until told to stop."""

    def __init__(self, plan: Plan) -> None:
        """Bind all sockets; nothing is started yet.

        Raises:
            CannotListen: an address cannot be bound, or another gateway has the data directory.
        """
        self._plan = plan
        _raise_descriptor_limit()
        os.umask(0o027)  # children inherit it: records of all tenants are nobody else's to read
        self._run_dir = plan.data_dir / "run"
        self._run_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._lock = hold(self._run_dir)
        (self._run_dir / "ready").unlink(missing_ok=True)  # of a gateway that was killed
        parting.withdraw(self._run_dir)
        (self._run_dir / NODE_FILE).write_text(plan.node, encoding="utf-8")
        self._front = listen_tcp(plan.front, "front.bind")
        self._admin = listen_tcp(plan.admin, "admin.bind")
        self._recorder, self._recorder_path = listen_unix(self._run_dir)
        self._keeper = None if plan.vault is None else listen_unix(self._run_dir, "keeper")
        self._stopping = False  # set by the signal handler
        self._was_ready = False  # set once all children have run for a moment
        self._children = self._planned()

    @property
    def front_port(self) -> int:
        """Return the port callers use."""
        port: int = self._front.getsockname()[1]
        return port

    @property
    def admin_port(self) -> int:
        """Return the port of console, API and metrics."""
        port: int = self._admin.getsockname()[1]
        return port

    def _planned(self) -> list[Child]:
        plan = self._plan
        python = (sys.executable, "-m")
        common = ("--data", str(plan.data_dir), "--node", plan.node, "--parent", str(os.getpid()))
        recorder = Child(
            "recorder",
            (*python, "gateway.processes.recorder", *common, "--listen", str(self._recorder.fileno())),
            (self._recorder.fileno(),),
        )
        controller = Child(
            "controller",
            (
                *python,
                "gateway.processes.controller",
                *common,
                *("--config", str(plan.config_dir), "--keys", str(plan.keys)),
                *("--recorder", str(self._recorder_path), "--listen", str(self._admin.fileno())),
                *(() if plan.vault is None else ("--vault", plan.vault.key)),
            ),
            (self._admin.fileno(),),
        )
        workers = [
            Child(
                f"worker {index}",
                (
                    *python,
                    "gateway.processes.worker",
                    *common,
                    *("--config", str(plan.config_dir), "--recorder", str(self._recorder_path), "--listen", str(self._front.fileno())),
                    *("--index", str(index), "--workers", str(plan.workers), "--keys", str(plan.keys)),
                    *("--transport", plan.transport, "--admin", f"{_reached_at(plan.admin[0])}:{self.admin_port}"),
                    *(() if self._keeper is None else ("--keeper", str(self._keeper[1]))),
                ),
                (self._front.fileno(),),
            )
            for index in range(plan.workers)
        ]
        return [recorder, controller, *workers, *self._planned_keeper((*python, "gateway.processes.keeper", *common))]

    def _planned_keeper(self, command: tuple[str, ...]) -> list[Child]:
        """Return the keeper, where there is a vault."""
        vault = self._plan.vault
        if vault is None or self._keeper is None:
            return []
        socket_fd = self._keeper[0].fileno()
        keys = ("--key", vault.key, *(("--previous", vault.previous) if vault.previous else ()))
        return [Child("keeper", (*command, "--listen", str(socket_fd), "--marks", str(vault.marks), *keys), (socket_fd,))]

    def run(self) -> int:
        """Start everything and keep it running; returns the exit status once stopped."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        ControlDirectory(self._plan.data_dir).forget()
        for child in self._children:
            child.start()
        status = Status.OK
        while not self._stopping:
            time.sleep(0.02)
            if any(self._is_hopeless(child) for child in self._children):
                status = Status.CONFIGURATION
                break
            for child in self._children:
                self._revive(child)
        self._end_all()
        return int(status)

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _is_hopeless(self, child: Child) -> bool:
        if not self._was_ready and (self._run_dir / "ready").exists():
            self._was_ready = True
            # Only now: a start that fails (a key's mode, a missing root) must not have said that it serves.
            self._plan.say(f"front door  http://{self._plan.front[0]}:{self.front_port}\nadmin port  http://{self._plan.admin[0]}:{self.admin_port}")
        return not self._was_ready and child.process is not None and child.process.poll() == Status.CONFIGURATION

    def _revive(self, child: Child) -> None:
        """Restart a dead child when its pause is over."""
        now = time.monotonic()
        if child.process is not None:
            status = child.process.poll()
            if status is None:
                return
            lived = now - child.started_s
            child.deaths_in_a_row = 1 if lived > _STEADY_S else child.deaths_in_a_row + 1
            pause = 0.0 if child.deaths_in_a_row == 1 else _PAUSES_S[min(child.deaths_in_a_row - 2, len(_PAUSES_S) - 1)]
            child.start_at_s = now + pause
            child.process = None
            self._plan.say(f"{child.name} ended with status {status} after {lived:.1f} s; it is started again in {pause:g} s")
        if now >= child.start_at_s:
            child.start()

    def _end_all(self) -> None:
        """Stop workers, then the controller, the keeper, and the recorder (`gateway/processes/parting.py`); whatever outlives its time is killed."""
        is_announced = parting.announce(self._run_dir)
        controller, recorder = self._children[1:2], self._children[:1]
        _await_end(_terminated([child for child in self._children if child.name.startswith("worker")]))
        leaving = _terminated(controller)
        if is_announced:
            self._await_parting(leaving)
        else:
            _await_end(leaving)
        _await_end(_terminated([child for child in self._children if child.name == "keeper"]))
        _await_end(_terminated(recorder))
        _await_end(leaving)
        parting.withdraw(self._run_dir)
        (self._run_dir / "ready").unlink(missing_ok=True)
        for listener in (self._front, self._admin, self._recorder):
            listener.close()
        self._recorder_path.unlink(missing_ok=True)
        if self._keeper is not None:
            self._keeper[0].close()
            self._keeper[1].unlink(missing_ok=True)
        os.close(self._lock)

    def _await_parting(self, leaving: list[subprocess.Popen[bytes]]) -> None:
        """Wait until the controller writes no more records, or is gone."""
        deadline = time.monotonic() + _STOP_S
        while parting.is_announced(self._run_dir) and time.monotonic() < deadline and any(process.poll() is None for process in leaving):
            time.sleep(0.02)


def _terminated(children: Sequence[Child]) -> list[subprocess.Popen[bytes]]:
    """Ask those that run to end; return them."""
    running = [child.process for child in children if child.process is not None and child.process.poll() is None]
    for process in running:
        process.terminate()
    return running


def _await_end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until processes have ended; kill what outlives its time."""
    deadline = time.monotonic() + _STOP_S
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
