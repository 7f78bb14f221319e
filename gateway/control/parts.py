"""What a controller works with whether it leads or follows (`leading.py`, `following.py`): opened once, kept when the role changes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.excerpts import Excerpts
from audit.signer import Signer
from audit.store.copies import SignedMark
from gateway.admin.traffic import Traffic
from gateway.config.compile import Compiler
from gateway.config.gateway_file import GatewayFile
from gateway.config.layout import Layout
from gateway.control.clerk import Clerk
from gateway.control.inbox import Inbox
from gateway.control.keysfile import KeysFile
from gateway.control.registry import Registry
from gateway.control.rollouts import Rollouts
from gateway.control.tail import Tail
from gateway.control.vaultclock import VaultClock
from gateway.control.witnesses import Witnesses
from gateway.processes.control import ControlDirectory
from policies.trust import TrustRoot

if TYPE_CHECKING:
    from audit.store.postgres_nodes import Nodes
    from gateway.control.erasures import Erasures


@dataclass(slots=True)
class Parts:
    """One of each. Owned by the controller's loop."""

    chosen: argparse.Namespace
    """The command line."""
    layout: Layout
    compiler: Compiler
    gateway: GatewayFile
    root: TrustRoot
    signers: list[Signer]
    mark: SignedMark | None
    control: ControlDirectory
    clerk: Clerk
    registry: Registry
    excerpts: Excerpts
    """What the registry was folded with."""
    rollouts: Rollouts
    inbox: Inbox
    witnesses: Witnesses
    keys: KeysFile
    vault_clock: VaultClock
    tail: Tail
    traffic: Traffic
    nodes: Nodes | None
    """Where several nodes write one log."""
    erasures: Erasures | None
    """Where there is a vault."""

    @property
    def data(self) -> Path:
        """The data directory."""
        path: Path = self.chosen.data
        return path

    @property
    def node(self) -> str:
        """The name of this gateway."""
        name: str = self.chosen.node
        return name

    def revoked_keys(self) -> dict[str, int]:
        """Return keys of the log that are not believed past a size."""
        return {one.key: one.until for one in self.gateway.audit.revoked}
