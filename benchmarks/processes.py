"""Process trees: start, stop, and what they cost, read from /proc (Linux).

Rules:
- CPU time is `utime + stime` of every live process of a tree, in ticks (usually 10 ms), so measure for seconds.
- A tree is stopped from its root by SIGTERM; what is left after the grace gets SIGKILL, by pid. Nothing else is ever signalled.
- Roles are told apart by command line, by the peer that knows its own processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and resident memory of a role's processes."""

    user_s: float = 0.0
    system_s: float = 0.0
    resident_bytes: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Add two processes up."""
        return Usage(self.user_s + other.user_s, self.system_s + other.system_s, self.resident_bytes + other.resident_bytes)

    def since(self, before: Usage) -> Usage:
        """CPU spent since `before`; memory as it is now."""
        return Usage(self.user_s - before.user_s, self.system_s - before.system_s, self.resident_bytes)

    @property
    def cpu_s(self) -> float:
        """User and system time together."""
        return self.user_s + self.system_s


def tree(root: int) -> list[int]:
    """Return the pids of `root` and all its live descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            if stat is not None:
                children.setdefault(int(stat[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def usage_by_role(root: int, role_of: Callable[[str], str]) -> dict[str, Usage]:
    """Return role -> what the tree's processes of that role have used so far."""
    roles: dict[str, Usage] = {}
    for pid in tree(root):
        stat = _stat(pid)
        if stat is None:
            continue
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        one = Usage(int(stat[11]) / TICKS_PER_S, int(stat[12]) / TICKS_PER_S, int(stat[21]) * PAGE_BYTES)
        role = role_of(command)
        roles[role] = roles.get(role, Usage()) + one
    return roles


def spent(before: Mapping[str, Usage], after: Mapping[str, Usage]) -> dict[str, Usage]:
    """Return role -> usage between two readings."""
    return {role: usage.since(before.get(role, Usage())) for role, usage in after.items()}


def start(command: Sequence[str], log: Path, cores: str | None, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process; `cores` is a taskset list such as `0`, or None for all."""
    pinned = ["taskset", "-c", cores, *command] if cores else list(command)
    with log.open("ab") as output:
        return subprocess.Popen(pinned, stdout=output, stderr=output, env={**os.environ, **(environment or {})})


def stop(process: subprocess.Popen[bytes], grace_s: float = 10.0) -> None:
    """Stop a process we started and everything below it; returns when all of it is gone."""
    below = [(pid, started(pid)) for pid in tree(process.pid)[1:]]
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid, since in below:
        if not _gone_within(pid, since, 2.0):
            os.kill(pid, signal.SIGKILL)
            _gone_within(pid, since, 2.0)


def _gone_within(pid: int, since: str | None, seconds: float) -> bool:
    """Wait for a process to end. A pid used again has another start time and is none of ours."""
    deadline_at = time.monotonic() + seconds
    while since is not None and started(pid) == since:
        if time.monotonic() > deadline_at:
            return False
        time.sleep(0.02)
    return True


def started(pid: int) -> str | None:
    """Return a process's start time in ticks, or None if it has ended (a zombie has)."""
    stat = _stat(pid)
    return None if stat is None or stat[0] == "Z" else stat[19]


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from `state` on (proc(5) field 3 is index 0), or None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
