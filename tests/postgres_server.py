"""A real PostgreSQL server of the test's own: a cluster under a temporary folder, run by an unprivileged user, on a Unix socket and loopback.

Example:
    server = Server.create(tmp_path_factory.mktemp("postgres"))
    server.start()
    url = server.database("log")
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from audit.store.place import PostgresPlace

USER = "assay"
_serial = itertools.count()


def programs() -> Path | None:
    """Return the folder of the newest server's programs, None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def _unprivileged() -> dict[str, object]:
    """Return how a child gives root away: the server refuses to run as root."""
    if os.getuid() != 0:
        return {}
    name = next((name for name in ("postgres", "nobody") if _known(name)), "nobody")
    entry = pwd.getpwnam(name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One cluster. Started and stopped by its test."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._bin = programs()
        assert self._bin is not None, "PostgreSQL's programs are missing: `apt-get install postgresql`"

    @classmethod
    def create(cls) -> Server:
        """Make a cluster in a new folder that the unprivileged user owns."""
        folder = Path(tempfile.mkdtemp(prefix="assay-postgres-", dir="/tmp"))
        server = cls(folder, _free_port())
        server._own(folder)
        server._run("initdb", "-D", str(folder / "data"), "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        server.configure(
            "max_connections = 60", "shared_buffers = 64MB", "log_min_messages = warning", "checkpoint_timeout = 1h", "max_wal_size = 4GB"
        )
        return server

    def standby(self, *options: str) -> Server:
        """Make a streaming standby of this running server."""
        folder = Path(tempfile.mkdtemp(prefix="assay-standby-", dir="/tmp"))
        other = Server(folder, _free_port())
        self._own(folder)
        source = f"host=127.0.0.1 port={self.port} user={USER} application_name=standby"
        other._run("pg_basebackup", "-d", source, "-D", str(folder / "data"), "-R", "--checkpoint=fast", "--no-sync")
        other.configure(*options)
        return other

    def configure(self, *lines: str) -> None:
        """Append settings; they hold from the next start or reload."""
        path = self.folder / "data" / "postgresql.auto.conf"
        with path.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def start(self, *, wait: bool = True) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-o", options, "-w" if wait else "-W", "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", mode, "-w", "stop")

    def promote(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "promote")

    def reload(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "reload")

    def pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split("\n")[0])

    def close(self) -> None:
        """End the server at once, whatever state it is in, and remove the cluster."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = self.pid()
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGQUIT)
            wait_for(lambda: not Path(f"/proc/{pid}").exists())
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str, database: str = "postgres", values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []

    def database(self, name: str) -> str:
        """Create an empty database and return its connection string."""
        self.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def _own(self, folder: Path) -> None:
        user = _unprivileged()
        if user:
            os.chown(folder, int(str(user["user"])), int(str(user["group"])))

    def _run(self, program: str, *arguments: str) -> None:
        assert self._bin is not None
        with tempfile.TemporaryFile() as output:  # not a pipe: the server inherits it
            done = subprocess.run(
                [str(self._bin / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                timeout=90,
                check=False,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                **_unprivileged(),  # type: ignore[call-overload]
            )
            output.seek(0)
            assert done.returncode == 0, f"{program}: {output.read().decode()}"


def new_log(server: Server) -> PostgresPlace:
    """Return an empty database as the place of a log."""
    name = f"log_{next(_serial)}"
    return place_of(server.database(name), name)


def place_of(url: str, name: str) -> PostgresPlace:
    """Return the place behind a connection string, which goes into the environment as an operator's secret would."""
    variable = f"ASSAY_TEST_{os.getpid()}_{name}".upper()
    os.environ[variable] = url
    return PostgresPlace(f"env:{variable}")


def wait_for(condition, timeout_s: float = 30.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "condition not met in time"
        time.sleep(0.02)
