"""What the processes hold and leave: descriptors, modes of files, connections of the admin port."""

from __future__ import annotations

import resource
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from deployment import CHECKOUT, ENVIRONMENT, Deployment, sockets_of, wait_until

from gateway.processes.embedded import MOST_CONNECTIONS

pytestmark = pytest.mark.usefixtures("nothing_leaks")


def listening(gateway: Deployment) -> dict[str, str]:
    """Inode of each listening socket of the gateway: `front`, `admin` (TCP) and `recorder` (Unix)."""
    ports = {f"{gateway.front_port:04X}": "front", f"{gateway.admin_port:04X}": "admin"}
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        name = ports.get(words[1].rpartition(":")[2])
        if name is not None and words[3] == "0A":
            found[name] = words[9]
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if words[-1].endswith("recorder.sock") and words[-1].startswith(str(gateway.data)) and words[3] == "00010000":
            found["recorder"] = words[6]
    return found


def test_each_process_inherits_its_own_listening_socket_and_no_other(gateway: Deployment):
    names = {inode: name for name, inode in listening(gateway).items()}
    held = {name: sorted(names[inode] for inode in sockets_of(pid) & names.keys()) for name, pid in gateway.pids().items()}
    assert held == {"parent": ["admin", "front", "recorder"], "worker 0": ["front"], "controller": ["admin"], "recorder": ["recorder"]}


def test_the_lock_of_the_data_directory_is_the_parents_alone(gateway: Deployment):
    lock = gateway.data / "run" / "parent.lock"
    holders = [name for name, pid in gateway.pids().items() if any(path.resolve() == lock for path in Path(f"/proc/{pid}/fd").iterdir())]
    assert holders == ["parent"]


def test_nothing_in_the_data_directory_is_for_other_people_to_read(gateway: Deployment):
    paths = [path for path in gateway.data.rglob("*") if not path.is_symlink()]
    assert len(paths) > 20
    open_to_others = [path.name for path in paths if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o007]
    assert open_to_others == ["vkey"], "the key the log is verified with, and nothing else"


LIMITED = """\
import resource
from gateway.processes.parent import _raise_descriptor_limit
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
_raise_descriptor_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_the_usual_soft_limit_of_descriptors_is_raised_for_every_process(gateway: Deployment):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True, cwd=CHECKOUT, env=ENVIRONMENT)
    assert int(done.stdout) == wanted
    for name, pid in gateway.pids().items():
        (line,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max open files")]
        assert int(line.split()[3]) >= wanted, name


def test_idle_connections_to_the_admin_port_cost_a_bounded_number_of_descriptors_and_nobody_a_call(gateway: Deployment):
    controller = gateway.pids()["controller"]
    before = len(sockets_of(controller))
    with ExitStack() as held:
        for _ in range(MOST_CONNECTIONS + 150):
            held.enter_context(closing(socket.create_connection(("127.0.0.1", gateway.admin_port), timeout=5)))
        wait_until(lambda: len(sockets_of(controller)) >= MOST_CONNECTIONS, "the connections to be taken in")
        assert len(sockets_of(controller)) <= before + MOST_CONNECTIONS + 5
        for _ in range(5):
            assert gateway.infer("plain").status_code == 200
    wait_until(lambda: gateway.client.get(f"{gateway.admin}/healthz").status_code == 200, "the admin port to answer again", 5)
