"""The keeper's process: `audit/vault/keeper.py` on an opened vault, with the gateway's log lines around it. Runs only where a vault is configured."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

import uvloop

from audit.keys import InvalidKey, read_secret
from audit.store.errors import StoreBroken, StoreError, StoreFull
from audit.vault.crypto import MasterKey
from audit.vault.keeper import EXIT_IO, Keeper
from audit.vault.store import VaultStore, WrongMasterKey
from audit.vault.tombstones import Tombstones, destroy_again
from gateway import logs
from gateway.processes.parent import Status, end_with_parent

_log = logging.getLogger("assay.keeper")


def master_key(reference: str) -> MasterKey:
    """Read a master key by an absolute reference. Raises InvalidKey."""
    return MasterKey.parse(read_secret(reference, base=Path("/"), environ=os.environ))


async def keep(vault: VaultStore, marks: Path, previous: MasterKey | None, listen: int) -> int:
    """Put the vault in order, then serve workers until told to stop; returns the exit status."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    renewed = vault.take_over_keys(previous)
    if renewed:
        _log.info("data keys wrapped anew under the master key", extra={"count": renewed})
    again = destroy_again(vault, Tombstones.open(marks))
    if again:
        _log.warning("a restored vault held keys of erased subjects; they are destroyed again", extra={"keys": again})
    return await Keeper(vault).serve(socket.socket(fileno=listen), stop)


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop; returns the exit status."""
    parser = argparse.ArgumentParser(prog="gateway.processes.keeper")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--parent", type=int, required=True, help="process id of the parent; this process ends with it")
    parser.add_argument("--listen", type=int, required=True, help="inherited Unix socket")
    parser.add_argument("--marks", type=Path, required=True, help="folder of what is remembered outside the data directory")
    parser.add_argument("--key", required=True, help="absolute reference of the master key")
    parser.add_argument("--previous", default="", help="absolute reference of the master key before")
    chosen = parser.parse_args(arguments)
    end_with_parent(chosen.parent)
    logs.configure("keeper", sees_payload=True)
    try:
        master = master_key(chosen.key)
        previous = master_key(chosen.previous) if chosen.previous else None
        with VaultStore.open(chosen.data, master) as vault:
            return uvloop.run(keep(vault, chosen.marks, previous, chosen.listen))
    except (StoreFull, StoreBroken) as fault:
        if not isinstance(fault, WrongMasterKey):
            _log.error("the vault cannot be opened; it is tried again", extra={"why": str(fault)})
            time.sleep(0.5)
            return EXIT_IO
        told = str(fault)
    except (StoreError, InvalidKey) as fault:
        told = f"vault: {fault}"
    print(f"assay: {told}", file=sys.stderr, flush=True)  # noqa: T201 - the parent's terminal is the place for it
    return int(Status.CONFIGURATION)


if __name__ == "__main__":
    sys.exit(main())
