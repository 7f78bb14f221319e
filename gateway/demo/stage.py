"""The demo's deployment: model servers, configuration, the gateway. Everything is done by the commands a person would type."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx

MODEL = "tumour-triage"
PEOPLE = ("alice", "bob")


class StageError(Exception):
    """Something the demo needs did not work; the text says what and shows what it printed."""


@dataclass(slots=True)
class ModelServer:
    """One running version of the model."""

    version: str
    url: str
    digest: str
    accuracy: float
    held_out_rows: int


@dataclass(slots=True)
class Stage:
    """A deployment and its processes. Owned by the story; `close` ends everything that was started."""

    directory: Path
    front_port: int
    admin_port: int
    models: dict[str, ModelServer] = field(default_factory=dict)
    gateway: subprocess.Popen[bytes] | None = None
    keys: dict[str, str] = field(default_factory=dict)
    vkey: str = ""
    witness_vkey: str = ""
    _children: list[subprocess.Popen[str]] = field(default_factory=list)
    """Models and witness, in the order of their start."""

    @property
    def front(self) -> str:
        """Return the front door's address."""
        return f"http://127.0.0.1:{self.front_port}"

    @property
    def admin(self) -> str:
        """Return the admin port's address."""
        return f"http://127.0.0.1:{self.admin_port}"

    def start_models(self, *versions: str) -> None:
        """Train versions and serve them, all at once; `models` has them afterwards."""
        command = (sys.executable, "-m", f"{_examples_package()}.models.serve", "--version")
        started = {version: subprocess.Popen([*command, version], stdout=subprocess.PIPE, text=True, cwd=_examples_root()) for version in versions}
        self._children += started.values()
        for version, process in started.items():
            told = _told_at_start(process, f"the model server of version {version}")
            self.models[version] = ModelServer(version, told["url"], told["digest"], told["accuracy"], told["held_out_rows"])

    def build(self) -> None:
        """Write the deployment with `assay init`, then put the demo's model in the place of the reference's."""
        told = json.loads(_assay("init", str(self.directory), "--json", *(word for name in PEOPLE for word in ("--person", name))))
        self.vkey = told["log_vkey"]
        witness = self._start_witness()
        config = self.directory / "config"
        shutil.rmtree(config / "models")
        shutil.rmtree(config / "experiments")
        (config / "models").mkdir()
        (config / "experiments").mkdir()
        gateway = (config / "gateway.yaml").read_text()
        for old, port in (("8080", self.front_port), ("8081", self.admin_port)):
            if f"bind: 127.0.0.1:{old}" not in gateway:
                raise StageError(f"the reference configuration no longer binds port {old}")
            gateway = gateway.replace(f"bind: 127.0.0.1:{old}", f"bind: 127.0.0.1:{port}")
        self.write_model(default="3")
        self.keys["product"] = told["api_key"]
        self.keys["tester"] = self._key("infer", "unit:assert", "version:pin", note="may name a version")
        self.keys["console"] = self._key("admin:read", "audit:read", note="console and log")
        answer = _told_at_start(witness, "the witness")
        self.witness_vkey = answer["vkey"]
        (config / "gateway.yaml").write_text(_with_witness(gateway, answer))
        (self.directory / "log.vkey").write_text(f"{self.vkey}\n")
        (self.directory / "witness.vkey").write_text(f"{self.witness_vkey}\n")

    def _start_witness(self) -> subprocess.Popen[str]:
        """Start a witness: a process with a key and a memory of its own."""
        origin = self.vkey.partition("+")[0]
        words = ("--dir", str(self.directory / "witness"), "--origin", origin, "--vkey", self.vkey, "--bind", "127.0.0.1:0", "--json")
        with (self.directory / "witness.log").open("wb") as log:
            process = subprocess.Popen([*_command(), "audit", "witness", *words], stdout=subprocess.PIPE, stderr=log, text=True)
        self._children.append(process)
        return process

    def _key(self, *scopes: str, note: str) -> str:
        words = [word for scope in scopes for word in ("--scope", scope)]
        told = json.loads(_assay("key", "create", "--tenant", "default", *words, "--note", note, "--dir", str(self.directory), "--json"))
        secret: str = told["secret"]
        return secret

    def write_model(self, *, default: str) -> None:
        """Write the model's file; version 5 is there and nobody has approved it."""
        unreviewed = f"sha256:{sha256(b'a build nobody has looked at').hexdigest()}"
        versions = {name: (server.url, server.digest) for name, server in self.models.items()}
        versions["5"] = (self.models["4"].url, unreviewed)
        lines = [
            f"model: {MODEL}",
            "protocol: v2",
            "owner: pathology-ml",
            "intended_use: second look at biopsies; a pathologist decides",
            "risk: medium",
            "versions:",
            *(f'  "{name}": {{upstreams: [{url}], digest: "{digest}"}}' for name, (url, digest) in sorted(versions.items())),
            f'default_version: "{default}"',
            "capture: {prediction: /outputs/0/data/0, score: /outputs/1/data/0}",
            "limits: {max_rows: 10}",
            "expose_arm: true",
            "deadline: 5s",
        ]
        (self.directory / "config" / "models" / f"{MODEL}.yaml").write_text("\n".join(lines) + "\n")

    def write_experiment(self, name: str, text: str) -> None:
        """Write an experiment's file, and take every other one away."""
        folder = self.directory / "config" / "experiments"
        for path in folder.iterdir():
            if path.name != f"{name}.yaml":
                path.unlink()
        (folder / f"{name}.yaml").write_text(text)

    def write_policy(self, name: str, text: str) -> None:
        """Write a policy's file."""
        folder = self.directory / "config" / "policies"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.rego").write_text(text)

    def end_experiments(self) -> None:
        """Take every experiment's file away."""
        for path in (self.directory / "config" / "experiments").iterdir():
            path.unlink()

    def approve(self, *versions: str) -> None:
        """Have a person approve versions, all at once."""
        words = ("--as", PEOPLE[0], "--key", str(self.directory / "keys" / f"{PEOPLE[0]}.key"), "--dir", str(self.directory))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda version: _assay("model", "approve", MODEL, version, *words), versions))

    def check(self) -> str:
        """Run `assay check` and return what it says."""
        return _assay("check", str(self.directory)).strip()

    def start_gateway(self) -> None:
        """Run `assay serve` and wait until it is ready."""
        log = (self.directory / "gateway.log").open("wb")
        with log:
            self.gateway = subprocess.Popen([*_command(), "serve", str(self.directory), "--node", "demo"], stdout=log, stderr=log)
        self.wait_for(lambda: httpx.get(f"{self.front}/readyz", timeout=1).status_code == 200, "the gateway to be ready")

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
        """Wait until a condition holds. Raises StageError when it does not in time."""
        ends = time.monotonic() + timeout_s
        while time.monotonic() < ends:
            with contextlib.suppress(httpx.HTTPError):
                if condition():
                    return
            if self.gateway is not None and self.gateway.poll() is not None:
                break
            time.sleep(0.05)
        log = self.directory / "gateway.log"
        tail = log.read_text(errors="replace")[-3000:] if log.exists() else ""
        raise StageError(f"waited {timeout_s:g} s for {what}\n{tail}")

    def status(self) -> Mapping[str, Any]:
        """Return what the admin API says of the gateway."""
        reply = httpx.get(f"{self.admin}/api/status", headers={"authorization": f"Bearer {self.keys['console']}"}, timeout=5)
        reply.raise_for_status()
        document: dict[str, Any] = reply.json()
        return document

    def experiment(self, name: str) -> Mapping[str, Any] | None:
        """Return what the admin API says of an experiment, None while it is not known."""
        reply = httpx.get(f"{self.admin}/api/experiments", headers={"authorization": f"Bearer {self.keys['console']}"}, timeout=5)
        reply.raise_for_status()
        return next((found for found in reply.json()["experiments"] if found["name"] == name), None)

    def assay(self, *words: str) -> str:
        """Run an `assay` command on this deployment and return what it printed."""
        return _assay(*words)

    def close(self) -> None:
        """End the gateway, which asks the witness to its end, then everything else."""
        processes: list[subprocess.Popen[Any]] = [] if self.gateway is None else [self.gateway]
        processes += self._children
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _told_at_start(process: subprocess.Popen[str], what: str) -> dict[str, Any]:
    """Return the line of JSON a process prints once it serves."""
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    line = process.stdout.readline()
    if not line:
        raise StageError(f"{what} ended with status {process.wait()}")
    told: dict[str, Any] = json.loads(line)
    return told


def _with_witness(gateway: str, told: Mapping[str, Any]) -> str:
    """Return the text of `gateway.yaml` with a witness named in it."""
    if gateway.count("  witnesses: []\n") != 1:
        raise StageError("the reference configuration no longer has `witnesses: []`")
    return gateway.replace("  witnesses: []\n", f'  witnesses: [{{url: {told["url"]}, key: "{told["vkey"]}"}}]\n')


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def examples(name: str) -> ModuleType:
    """Import a module of the examples: from the installed package, or from the checkout."""
    return importlib.import_module(f"{_examples_package()}.{name}")


def _examples_package() -> str:
    return "gateway.examples" if importlib.util.find_spec("gateway.examples") is not None else "examples"


def _examples_root() -> Path:
    """Return a folder from which the examples can be imported."""
    return Path(__file__).parents[2]


def _command() -> list[str]:
    return [sys.executable, "-c", "from gateway.cli.main import main; main()"]


def _assay(*words: str) -> str:
    done = subprocess.run([*_command(), *words], capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"})
    if done.returncode not in (0, 3):
        raise StageError(f"`assay {' '.join(words)}` ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
