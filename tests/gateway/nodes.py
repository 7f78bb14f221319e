"""Several gateways on one log in PostgreSQL, each in a directory of its own, with the same keys and people.

Example:
    pair = Pair.create(tmp_path, server.database("log"), one, two)
    with pair.running():
        pair.leader.infer("plain")
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from deployment import Deployment, wait_until
from upstreams import Model

from audit.vault.crypto import MasterKey
from gateway.config.layout import write_durably
from gateway.control.sharedkeys import NodesKey

VAULT = 'vault: {key: "file:keys/vault.key"}\n'
STALE_S = 45
SHARED = ("keys/log.key", "keys/vault.key", "keys/api-keys.json", "trust/root.json")


@dataclass
class Pair:
    """Two nodes. The first one started leads until it ends."""

    a: Deployment
    b: Deployment
    leader: Deployment = field(init=False)
    follower: Deployment = field(init=False)

    def __post_init__(self) -> None:
        self.leader, self.follower = self.a, self.b

    @classmethod
    def create(cls, folder: Path, url: str, one: Model, two: Model, *, workers: int = 1) -> Self:
        """Write two deployments alike; nothing is started."""
        key = NodesKey(os.urandom(32)).secret_text()
        a, b = (Deployment(folder / name, workers=workers, postgres=url, node=name, nodes_key=key, settings=VAULT) for name in ("a", "b"))
        write_durably(a.layout.keys / "vault.key", MasterKey(os.urandom(32)).secret_text().encode(), mode=0o600)
        for node in (a, b):
            path = node.layout.config / "gateway.yaml"
            # What the survivor of a dead leader must not refuse, on a machine however slow; what it must refuse of high risk before it leads.
            path.write_text(path.read_text().replace("default: 10s, high_risk: 1s", f"default: {STALE_S}s, high_risk: 2s"))
        pair = {"1": one.url, "2": two.url}
        capture = {"prediction": "/outputs/0/data/0"}
        a.write_model("plain", pair, expose_arm=True)
        a.write_model("sync", {"1": one.url}, audit="sync", capture=capture)
        a.write_model("batch", {"1": one.url}, capture=capture)
        a.write_model("risky", {"1": one.url}, risk="high")
        a.write_model("split", pair, expose_arm=True, capture=capture)
        a.write_experiment("half", "split", {"control": "1", "treatment": "2"})
        a.write_model("kept", {"1": one.url}, audit="sync", capture={"vault": {"retention": "30d", "request": {"/parameters": "keep"}}})
        a.add_key("operator", "experiment:operate", "experiment:start", "admin:read", "vault:read", "audit:read", "subject:erase", "tenants:all")
        for model in ("plain", "sync", "batch", "split", "kept"):
            a.approve(model, "1", url=one.url)
        for person in ("alice", "bob"):
            a.approve("risky", "1", url=one.url, person=person)
        a.approve("split", "2", url=two.url)
        made = cls(a, b)
        made.copy()
        return made

    def copy(self) -> None:
        """Give the second node what the first has."""
        for shared in SHARED:
            shutil.copy(self.a.directory / shared, self.b.directory / shared)
        shutil.copytree(self.a.layout.approvals, self.b.layout.approvals, dirs_exist_ok=True)
        for folder in ("models", "experiments"):
            shutil.copytree(self.a.layout.config / folder, self.b.layout.config / folder, dirs_exist_ok=True)
        self.b.keys, self.b.vkey, self.b.people = self.a.keys, self.a.vkey, self.a.people

    def start(self) -> None:
        """Start one, then the other, so that it is known who leads."""
        for node in (self.a, self.b):
            node.start(wait=False)
            node.wait_ready(120)

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Start both, and stop them whatever happens."""
        try:
            self.start()
            yield self
            assert self.follower.stop() == 0
            assert self.leader.stop() == 0
        finally:
            self.close()

    def close(self) -> None:
        """End what still runs."""
        self.a.close()
        self.b.close()

    def swap(self) -> None:
        """Say that the other one leads now."""
        self.leader, self.follower = self.follower, self.leader

    def wait_roles(self, timeout_s: float = 60.0) -> None:
        """Wait until both nodes say who leads as the test has it."""
        wait_until(lambda: role(self.leader) == "leads", f"`{self.leader.node}` to lead", timeout_s)
        wait_until(lambda: role(self.follower) == "follows", f"`{self.follower.node}` to follow", timeout_s)


def role(node: Deployment) -> str:
    """Return `leads` or `follows`."""
    told: dict[str, Any] = node.api("/api/status")["node"]
    return str(told["role"])
