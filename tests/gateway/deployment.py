"""A deployment in a temporary folder: people, keys, configuration, and `assay serve` as real processes on loopback.

Example:
    deployment = Deployment(tmp_path / "d", workers=2)
    deployment.write_model("m", {"1": model.url})
    deployment.approve("m", "1")
    with deployment.running():
        reply = deployment.infer("m")
        deployment.record(reply.headers["assay-decision"])
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from audit.entry import read_entry, read_heading
from audit.follow import Follower
from audit.keys import SigningKey, VerifierKey, save_signing_key
from audit.source import open_directory
from audit.store.place import PostgresPlace, settle_place
from audit.verdict import Verdict
from audit.verify import verify_log
from gateway import apikeys
from gateway.config.layout import Layout, write_durably
from policies.approvals import Approval, Revocation, origin_of, sign_approval, sign_revocation
from policies.trust import DEFAULT_THRESHOLDS, PersonKey, ceremony

CHECKOUT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "from gateway.cli.main import main; main()")
DAY_US = 86_400_000_000
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
    # Many processes are started here: compiled once, and not into the checkout.
    "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "assay-tests-pycache"),
}
PURPOSE = "tests"
BODY = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}
SETTINGS = """\
environment: development
front: {{bind: "127.0.0.1:{front}", workers: {workers}, body_limit: 64KiB}}
admin: {{bind: "127.0.0.1:{admin}"}}
store: sqlite:data/
audit: {{origin: assay.example/test, key: "file:keys/log.key", checkpoint: 200ms, heartbeat: 10s}}
keys: {{file: keys/api-keys.json}}
staleness: {{default: 10s, high_risk: 1s}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 15.0, pause_s: float = 0.02) -> Any:
    """Wait until a condition gives something true, and return that."""
    ends_s = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(httpx.TransportError):
            found = condition()
            if found:
                return found
        assert time.monotonic() < ends_s, f"waited {timeout_s:g} s for {what}"
        time.sleep(pause_s)


def digest_of(model: str, version: str) -> str:
    return f"sha256:{hashlib.sha256(f'{model} {version}'.encode()).hexdigest()}"


class Log:
    """Reads a data directory's records as they are committed. Owned by the test that asks."""

    def __init__(self, data_dir: Path) -> None:
        self._follower = Follower(data_dir)
        self.records: list[dict[str, Any]] = []
        self.by_id: dict[str, dict[str, Any]] = {}
        self.children: dict[str, list[dict[str, Any]]] = {}
        """Id of a record -> those that name it as their parent."""

    def refresh(self) -> list[dict[str, Any]]:
        """Read what was committed since the last time; return all records."""
        while rows := self._follower.read(len(self.records)):
            for _, leaf in rows:
                record = msgspec.json.decode(leaf)
                assert None not in (read_entry(leaf), read_heading(leaf)), f"reports and queries can read {record}"
                assert record["id"] not in self.by_id, "no record stands in the log twice"
                self.records.append(record)
                self.by_id[record["id"]] = record
                for parent in record.get("parents", ()):
                    self.children.setdefault(parent, []).append(record)
        return self.records

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.refresh() if record["type"] == kind]

    def close(self) -> None:
        self._follower.close()


class Deployment:
    """One deployment and, between `start` and `stop`, its processes. Owned by the fixture that made it."""

    def __init__(self, directory: Path, *, workers: int = 1, settings: str = "", postgres: str = "", node: str = "t", nodes_key: str = "") -> None:
        """`postgres` is the connection string of a shared log, `nodes_key` the text of the key its nodes share."""
        self.directory = directory
        self.node = node
        self.front_port, self.admin_port = free_port(), free_port()
        for folder in ("config/models", "config/experiments", "trust", "keys", "approvals", "data"):
            (directory / folder).mkdir(parents=True)
        text = SETTINGS.format(front=self.front_port, admin=self.admin_port, workers=workers) + settings
        if postgres:
            secret = directory / "keys" / "postgres.url"
            secret.touch(mode=0o600)
            secret.write_text(postgres)
            settle_place(directory / "data", PostgresPlace(f"file:{secret.absolute()}"))
            shared = ', key: "file:keys/nodes.key"' if nodes_key else ""
            text = text.replace("store: sqlite:data/\n", f'store: "postgres:data/"\npostgres: {{connection: "file:keys/postgres.url"{shared}}}\n')
            if nodes_key:
                write_durably(directory / "keys" / "nodes.key", nodes_key.encode(), mode=0o600)
        (directory / "config" / "gateway.yaml").write_text(text)
        self.layout = Layout.of(directory)
        self.data = directory / "data"
        log_key = SigningKey.generate("assay.example/test")
        save_signing_key(log_key, directory / "keys" / "log.key")
        self.vkey: VerifierKey = log_key.verifier
        self.people = {name: PersonKey.from_seed(os.urandom(32)) for name in ("alice", "bob")}
        write_durably(self.layout.trust_root, ceremony(self.people, thresholds=DEFAULT_THRESHOLDS).encode())
        self.keys: dict[str, str] = {}
        self._key_file = apikeys.new_file(os.urandom)
        self.add_key("product", "infer", "unit:assert", "feedback:write")
        self.add_key("tester", "infer", "unit:assert", "version:pin")
        self.add_key("console", "admin:read", "audit:read", "tenants:all")
        self.log = Log(self.data)
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(timeout=20)
        self._pids: dict[str, int] = {}
        self.environment: dict[str, str] = {}
        """More of the environment that the gateway is started in."""

    # --- what a person writes -------------------------------------------------------------------------------------------------------------

    def add_key(self, name: str, *scopes: str, tenant: str = "acme", models: tuple[str, ...] = (), expires_us: int | None = None) -> str:
        """Make an API key under a name; return its id."""
        secret, self._key_file = apikeys.create(
            self._key_file, tenant=tenant, scopes=scopes, models=models, expires_us=expires_us, random=os.urandom, now_us=time.time_ns() // 1000
        )
        self.keys[name] = secret
        self._write_keys()
        return self._key_file.keys[-1].id

    def revoke_key(self, key_id: str) -> None:
        self._key_file = apikeys.revoke(self._key_file, key_id)
        self._write_keys()

    def _write_keys(self) -> None:
        write_durably(self.layout.keys / "api-keys.json", apikeys.encode(self._key_file), mode=0o600, replace=True)

    def write_model(self, name: str, versions: Mapping[str, str], *, default: str | None = None, **keys: Any) -> None:
        """Write a model's file; versions are name -> address. Further keys are the file's own."""
        document = {
            "model": name,
            "protocol": "v2",
            "owner": "tests",
            "intended_use": PURPOSE,
            "risk": "low",
            "versions": {version: {"upstreams": [url], "digest": digest_of(name, version)} for version, url in versions.items()},
            "default_version": default or next(iter(versions)),
            **keys,
        }
        self.write_config(f"models/{name}.yaml", "".join(f"{key}: {json.dumps(value)}\n" for key, value in document.items()))

    def write_experiment(self, name: str, model: str, arms: Mapping[str, str], **keys: Any) -> None:
        """Write an A/B test of two arms, name -> version."""
        document = {
            "experiment": name,
            "strategy": "ab",
            "model": model,
            "owner": "tests",
            "hypothesis": "one is better",
            "arms": {arm: {"version": version} for arm, version in arms.items()},
            "control": next(iter(arms)),
            "split": dict.fromkeys(arms, "50%"),
            "goal": {"metric": "accuracy", "margin": "2pp"},
            "guardrails": {"errors": {"max_harm": "2pp", "on_harm": "rollback"}},
            "deadline": {"after": "1d", "then": "stop"},
            **keys,
        }
        self.write_config(f"experiments/{name}.yaml", "".join(f"{key}: {json.dumps(value)}\n" for key, value in document.items()))

    def write_config(self, path: str, text: str) -> None:
        write_durably(self.layout.config / path, text.encode(), replace=True)

    def approve(
        self,
        model: str,
        version: str,
        *,
        url: str,
        person: str = "alice",
        valid_us: int = DAY_US,
        max_exposure_ppm: int = 1_000_000,
    ) -> None:
        """Deliver a person's signed approval."""
        now_us = time.time_ns() // 1000
        approval = Approval(
            model,
            version,
            digest_of(model, version),
            (origin_of(url),),
            ("development",),
            PURPOSE,
            max_exposure_ppm,
            now_us,
            now_us,
            now_us + valid_us,
        )
        self._deliver(sign_approval(approval, self.people[person]))

    def revoke(self, model: str, version: str, *, person: str = "bob") -> None:
        """Deliver a person's signed revocation."""
        revocation = Revocation(model, version, digest_of(model, version), "tests", time.time_ns() // 1000)
        self._deliver(sign_revocation(revocation, self.people[person]))

    def _deliver(self, envelope: bytes) -> None:
        write_durably(self.layout.approvals / f"{hashlib.sha256(envelope).hexdigest()[:32]}.dsse.json", envelope)

    # --- processes ------------------------------------------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> None:
        """Run `assay serve`."""
        with (self.directory / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", str(self.directory), "--node", self.node],
                stdout=log,
                stderr=log,
                cwd=CHECKOUT,
                env=ENVIRONMENT | self.environment,
                process_group=0,
            )
        if wait:
            self.wait_ready()

    def serve_expecting_refusal(self, directory: Path | None = None) -> str:
        """Run `assay serve` where it must refuse to start; return what it said."""
        done = subprocess.run(
            [*COMMAND, "serve", str(directory or self.directory), "--node", self.node],
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
            env={**ENVIRONMENT, "NO_COLOR": "1", "COLUMNS": "300"},
            timeout=60,
            check=False,
        )
        assert done.returncode not in (0, -9), done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until the front door says it is ready and the admin port answers."""
        try:
            wait_until(self._is_ready, "the gateway to be ready", timeout_s)
        except AssertionError as fault:
            raise AssertionError(f"{fault}\n{self.output()[-4000:]}") from None

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the gateway ended"
        return self.get("/readyz").status_code == 200 and self.client.get(f"{self.admin}/healthz").status_code == 200

    def stop(self) -> int:
        """End the gateway as an operator would; return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill_everything()
            raise

    def pids(self) -> dict[str, int]:
        """Return `parent`, `recorder`, `controller`, `worker 0`, ... by name, from the kernel's own list."""
        assert self.process is not None
        parent = self.process.pid
        found = {"parent": parent}
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
                name = next((word.rpartition(".")[2] for word in words if word.startswith("gateway.processes.")), None)
                if name is not None:
                    found[f"{name} {words[words.index('--index') + 1]}" if name == "worker" else name] = int(child)
        return found

    def signal(self, name: str, number: signal.Signals) -> int:
        """Send a signal to one process by name; return its pid."""
        pid = wait_until(lambda: self.pids().get(name), f"`{name}` to run")
        os.kill(pid, number)
        return int(pid)

    @contextlib.contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Stop a process as it stands, and let it go on afterwards."""
        pid = self.signal(name, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def kill_everything(self) -> None:
        """Kill -9 the parent and all its children at once."""
        if self.process is None:
            return
        pids = list(self.pids().values()) if self.process.poll() is None else []
        for pid in pids:  # the parent is first: nothing is restarted in between
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        wait_until(lambda: not any(is_alive(pid) for pid in pids), "the killed to be gone")

    @contextlib.contextmanager
    def running(self) -> Iterator[Deployment]:
        """Start, and stop whatever happens."""
        try:
            self.start()
            yield self
            assert self.stop() == 0
        finally:
            self.close()

    def close(self) -> None:
        """End what still runs and let go of everything."""
        if self.process is not None and self.process.poll() is None:
            self.kill_everything()
        self.client.close()
        self.log.close()

    # --- what it tells --------------------------------------------------------------------------------------------------------------------

    @property
    def front(self) -> str:
        return f"http://127.0.0.1:{self.front_port}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def output(self) -> str:
        """Return what all processes have written."""
        path = self.directory / "gateway.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def get(self, path: str, *, key: str | None = None) -> httpx.Response:
        return self.client.get(f"{self.front}{path}", headers={} if key is None else self.bearer(key))

    def bearer(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[key]}"}

    def infer(
        self,
        model: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        version: str | None = None,
        key: str = "product",
        behave: str | None = None,
        unit: str | None = None,
        timeout_s: float = 20.0,
        client: httpx.Client | None = None,
    ) -> httpx.Response:
        """Make one v2 call."""
        pinned = "" if version is None else f"/versions/{version}"
        headers = {"content-type": "application/json", **self.bearer(key)}
        if behave is not None:
            headers["x-behave"] = behave
        if unit is not None:
            headers["assay-unit"] = unit
        sent = json.dumps(BODY if body is None else body).encode() if content is None else content
        return (client or self.client).post(f"{self.front}/v2/models/{model}{pinned}/infer", content=sent, headers=headers, timeout=timeout_s)

    def api(self, path: str, *, key: str = "console") -> Any:
        reply = self.client.get(f"{self.admin}{path}", headers=self.bearer(key))
        assert reply.status_code == 200, reply.text
        return reply.json()

    def record(self, decision_id: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """Wait for the record of a decision to be committed and return it."""
        wait_until(lambda: self.log.refresh() and decision_id in self.log.by_id, f"record `{decision_id}`", timeout_s)
        return self.log.by_id[decision_id]

    def outcome(self, decision_id: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """Return the record that tells how a call ended: its `call`, or the `outcome` of its `decision`."""
        record = self.record(decision_id, timeout_s)
        if record["type"] == "call":
            return record
        assert record["type"] == "decision"
        (outcome,) = wait_until(lambda: self.log.refresh() and self.log.children.get(decision_id), f"the outcome of `{decision_id}`", timeout_s)
        found: dict[str, Any] = outcome
        return found

    def settled_calls(self) -> int:
        """Make a call, wait for its record, and return how many calls the log holds up to it: with one worker, all that came before."""
        self.record(self.infer("plain").headers["assay-decision"])
        return sum(record["type"] in ("call", "decision") for record in self.log.records)

    def statuses(self) -> list[dict[str, Any]]:
        """Return the status file of every worker."""
        return [json.loads(path.read_bytes()) for path in sorted((self.data / "run").glob("status-*.json"))]

    def wait_idle(self, timeout_s: float = 10.0) -> None:
        """Wait until every worker says that no call is in flight and no record waits; that is how a leak is seen."""
        asked_s = time.time()

        def is_idle() -> bool:
            paths = list((self.data / "run").glob("status-*.json"))
            fresh = all(path.stat().st_mtime > asked_s for path in paths)
            return fresh and all(status["in_flight"] == 0 and status["unacked"] == 0 for status in self.statuses())

        wait_until(is_idle, f"all workers to be idle: {self.statuses()}", timeout_s, 0.1)

    def config_digest(self) -> str:
        return str(self.api("/api/status")["config_digest"])

    def checkpoint(self) -> bytes:
        """Return the log's signed head; wait for the first one."""
        path = self.data / "log" / "checkpoint"
        wait_until(path.exists, "the first checkpoint")
        return path.read_bytes()

    def wait_signed(self, index: int) -> None:
        """Wait until the signed head covers the record at `index`: reports and proofs speak of no more than that."""
        wait_until(lambda: int(self.checkpoint().splitlines()[1]) > index, f"record {index} to be signed")

    def verify(self, known: bytes | None = None) -> Verdict:
        """Verify the log in the data directory."""
        return verify_log(open_directory(self.data), [self.vkey], known_checkpoint=known)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that is dead and not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


def sockets_of(pid: int) -> set[str]:
    """Inodes of the sockets a process holds."""
    found = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(handle.readlink())
        except FileNotFoundError:  # closed since it was listed
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def orphans(deployment: Deployment) -> list[str]:
    """Connections to the front door that a worker still holds although nobody is at their other end."""
    held = {inode for name, pid in deployment.pids().items() if name.startswith("worker") for inode in sockets_of(pid)}
    port = f":{deployment.front_port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    theirs = {(words[2], words[1]) for words in lines if words[2].endswith(port) and words[3] == "01"}
    return [words[2] for words in lines if words[1].endswith(port) and words[9] in held and words[3] != "0A" and (words[1], words[2]) not in theirs]
