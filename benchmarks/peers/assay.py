"""Assay itself: native bare, native with everything on, portable with everything on.

*Everything on*: API key, signed approval checked per call, schema contract, built-in policies, a 50/50 split between two versions, and a
record in the signed log for every call, in `batch` mode (the reply waits if the log falls behind). *Bare*: one version, no contract, no
experiment, `async` records; the key and the approval stay, as they cannot be switched off.

Keys, trust and approvals are made by the commands a user would run, so that nothing here knows a secret's format.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from benchmarks.load import MODEL, Traffic, v2_traffic
from benchmarks.peers.deployment import Shape, write_configuration
from benchmarks.peers.peer import Peer, Setting

ASSAY = str(Path(sys.executable).with_name("assay"))
ROLES = {"gateway.processes.worker": "worker", "gateway.processes.recorder": "recorder", "gateway.processes.controller": "controller"}

PERSON = "alice"
"""Approver of the development root: one is enough for a model of low risk."""


class AssayNativeBare(Peer):
    """The native transport with as little on as can be."""

    name = "assay native, bare"
    get_it = "install this project: pip install -e ."
    start_timeout_s = 40.0
    transport: ClassVar[str] = "native"

    def __init__(self) -> None:
        """Nothing is known until `prepare`."""
        # Both set by `prepare`, read by `traffic`.
        self.folder = Path()
        self.key = ""

    @classmethod
    def missing(cls) -> str | None:
        """Return why `assay serve` cannot run here, or None."""
        if not Path(ASSAY).is_file():
            return f"`{ASSAY}` is not there; {cls.get_it}"
        done = subprocess.run([ASSAY, "serve", "--help"], capture_output=True, text=True, check=False)
        return f"`assay serve --help` failed: {done.stderr.strip()[-200:]}" if done.returncode else None

    def shape(self, setting: Setting) -> Shape:
        """Return the configuration this row stands for."""
        return Shape(setting.port, _free_port(), setting.cores, setting.upstream_port, audit="async")

    def prepare(self, setting: Setting) -> None:
        """Make a deployment as a user would: init, own configuration, key, approvals."""
        self.folder = setting.folder / "deployment"
        made = json.loads(run_assay("init", str(self.folder), "--person", PERSON, "--json"))
        self.key = made["api_key"]
        # The log's key carries the origin it was made for; the verifier key begins with it.
        origin = made["log_vkey"].partition("+")[0]
        write_configuration(self.folder, replace(self.shape(setting), origin=origin))
        signer = ("--as", PERSON, "--key", str(self.folder / "keys" / f"{PERSON}.key"))
        for version in ("1", "2"):
            run_assay("model", "approve", MODEL, version, *signer, "--dir", str(self.folder))

    def command(self, setting: Setting) -> list[str]:  # noqa: ARG002 - the port is in the configuration
        """Serve the deployment."""
        return [ASSAY, "serve", str(self.folder), "--node", "bench"] + (["--transport", self.transport] if self.transport != "native" else [])

    def traffic(self, setting: Setting) -> Traffic:  # noqa: ARG002 - the key was made in `prepare`
        """V2 calls with the key."""
        return v2_traffic((("Authorization", f"Bearer {self.key}"),))

    def role_of(self, command_line: str) -> str:
        """Tell worker, recorder and controller apart; the rest is the parent."""
        return next((role for module, role in ROLES.items() if module in command_line), "parent")

    @classmethod
    def version_command(cls) -> list[str]:
        """Assay prints its version by a flag."""
        return [ASSAY, "--version"]


class AssayEverything(AssayNativeBare):
    """The native transport with everything on."""

    name = "assay native, everything on"

    def shape(self, setting: Setting) -> Shape:
        """Contract, split, batch-signed records."""
        return Shape(setting.port, _free_port(), setting.cores, setting.upstream_port, split=True, schema=True)


class AssayPortable(AssayEverything):
    """The portable transport (Starlette, httpx) with everything on."""

    name = "assay portable, everything on"
    transport = "portable"


def run_assay(*arguments: str) -> str:
    """Run an `assay` command to its end and return its standard output.

    Raises:
        RuntimeError: it failed; the text says how.
    """
    done = subprocess.run([ASSAY, *arguments], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(f"`assay {' '.join(arguments)}` ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
