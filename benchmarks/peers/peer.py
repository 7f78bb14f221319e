"""What the harness needs to know of a gateway, and nothing more."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.load import Traffic, v2_traffic


@dataclass(frozen=True, slots=True)
class Setting:
    """One run: where to listen, whom to call, how many cores there are, where files go."""

    port: int
    upstream_port: int
    """The model: answers at once, or after the delay."""
    authority_port: int
    """Answers 204 at once on `/auth`, whatever the model does."""
    cores: int
    """1 or 2: how many workers (threads, processes) to configure."""
    folder: Path
    """Empty, the peer's own; removed after the run."""


class Peer:
    """A gateway under test. Subclasses say how to write its configuration and start it; the harness starts and stops it."""

    name: ClassVar[str]
    """First column of the table; also what `--peers` selects by."""
    get_it: ClassVar[str] = ""
    """What to do where it is not installed."""
    start_timeout_s: ClassVar[float] = 10.0
    executable: ClassVar[str] = ""

    @classmethod
    def missing(cls) -> str | None:
        """Return why it cannot run here, or None."""
        return None if not cls.executable or find(cls.executable) else f"`{cls.executable}` is not installed; {cls.get_it}"

    def prepare(self, setting: Setting) -> None:
        """Write the configuration into `setting.folder`."""

    def command(self, setting: Setting) -> list[str]:
        """Return the command that runs the gateway in the foreground."""
        raise NotImplementedError

    def environment(self, setting: Setting) -> dict[str, str]:  # noqa: ARG002 - some peers need the setting
        """Return variables to add to the environment."""
        return {}

    def traffic(self, setting: Setting) -> Traffic:  # noqa: ARG002 - some peers need the setting
        """Return the requests it understands."""
        return v2_traffic()

    def role_of(self, command_line: str) -> str:  # noqa: ARG002 - peers with several kinds of process read it
        """Return which role a process of its tree has: `worker`, or another word for what runs beside the workers."""
        return "worker"

    @classmethod
    def version_command(cls) -> list[str]:
        """Return a command whose first line of output is the version."""
        return [cls.executable, "-v"] if cls.executable else []


def find(executable: str) -> str | None:
    """Return the path of an executable; Debian keeps daemons out of an ordinary user's PATH."""
    return shutil.which(executable) or shutil.which(executable, path="/usr/local/sbin:/usr/sbin:/sbin")
