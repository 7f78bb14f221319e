"""`assay serve`: run the gateway of a deployment."""

from __future__ import annotations

import socket as sockets
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from audit.store.errors import StoreError
from audit.store.place import PostgresPlace, settle_place
from gateway.cli.terminal import Exit, err, fail
from gateway.config.compile import Compiler
from gateway.config.gateway_file import Vault
from gateway.config.layout import Layout, NoConfiguration
from gateway.processes.parent import CannotListen, Parent, Plan, VaultPlan


def serve(
    directory: Annotated[Path, typer.Argument(help="The deployment: the folder that holds `config/`.")] = Path(),
    node: Annotated[str, typer.Option(help="Name of this machine in records; unique among the nodes of one log.")] = "",
    transport: Annotated[
        Literal["native", "portable"],
        typer.Option(help="How callers and models are spoken with; `portable` (uvicorn, httpx) costs many times the CPU."),
    ] = "native",
) -> None:
    """Run the gateway: workers, recorder and controller, until SIGTERM.

    Example: assay serve /srv/assay
    """
    try:
        layout = Layout.of(directory)
    except NoConfiguration as fault:
        fail(str(fault), hint="`assay init DIR` writes a reference configuration")
    compiled = Compiler(layout.config).compile()
    if compiled.gateway is None or compiled.manifest is None:
        for issue in compiled.issues:
            err.print(str(issue), markup=False, soft_wrap=True)
        fail(f"{len(compiled.issues)} issue(s) in `{layout.config}`", hint=f"`assay check {directory}`", code=Exit.NO)
    gateway = compiled.gateway
    place = None if gateway.postgres is None else PostgresPlace(absolute_reference(layout, gateway.postgres.connection))
    try:
        settle_place(layout.resolve(gateway.store_directory), place)
    except StoreError as fault:
        fail(str(fault))
    plan = Plan(
        config_dir=layout.config,
        data_dir=layout.resolve(gateway.store_directory),
        node=node or _node_name(),
        front=address(gateway.front.bind),
        admin=address(gateway.admin.bind),
        workers=gateway.front.workers,
        keys=layout.resolve(gateway.keys.file),
        transport=transport,
        vault=None if gateway.vault is None else _vault(layout, gateway.vault),
    )
    try:
        parent = Parent(plan)
    except CannotListen as fault:
        fail(str(fault))
    err.print("starting; the addresses follow once it serves", highlight=False)
    sys.exit(parent.run())


def _vault(layout: Layout, vault: Vault) -> VaultPlan:
    previous = "" if vault.previous is None else absolute_reference(layout, vault.previous)
    return VaultPlan(absolute_reference(layout, vault.key), previous, layout.root / "marks")


def absolute_reference(layout: Layout, reference: str) -> str:
    """Return a secret's reference that means the same from every folder."""
    scheme, _, rest = reference.partition(":")
    return f"file:{layout.resolve(rest).absolute()}" if scheme == "file" else reference


def address(bind: str) -> tuple[str, int]:
    """Return host and port of a checked `address:port`."""
    host, _, port = bind.rpartition(":")
    return host.strip("[]"), int(port)


def _node_name() -> str:
    """Return this machine's short name in the characters writer names may have."""
    name = "".join(char if char.isalnum() or char == "-" else "-" for char in sockets.gethostname().split(".")[0].lower())
    return name.strip("-")[:32] or "n1"
