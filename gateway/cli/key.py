"""`assay key`: create, list, revoke API keys of callers. A secret is printed once and kept nowhere.

The second tenant of a gateway changes who may look at its admin port (`gateway/admin/access.py`), for good. So a tenant that is new is never made by
a slip of the keyboard: it takes `--new-tenant`, and somebody who goes on seeing everything.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway import apikeys, pseudonyms
from gateway.cli.folder import DirOption, layout_of
from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out
from gateway.config.compile import compile_folder
from gateway.config.gateway_file import GatewayFile
from gateway.config.layout import Layout, write_durably
from gateway.config.quantities import parse_duration_us
from policies.approvals import time_text

FIRST_TENANT: Final = "default"
"""Whose keys they are where nobody ever named a tenant."""
app = typer.Typer(no_args_is_help=True, help="API keys of callers.")


@app.command("create")
def create(
    scope: Annotated[list[str], typer.Option("--scope", help=f"What it may do: {', '.join(apikeys.SCOPES)}.")],
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Whose calls these are, where there are several; records are kept apart by it.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="A model it may call; default: all.")] = None,
    expires_in: Annotated[str | None, typer.Option("--expires-in", help="For example 90d; default: never.")] = None,
    note: Annotated[str, typer.Option("--note", help="Who or what it is for.")] = "",
    directory: DirOption = Path(),
    *,
    new_tenant: Annotated[bool, typer.Option("--new-tenant", help="The tenant is one more beside those there are.")] = False,
    json_flag: JsonFlag = False,
) -> None:
    """Make a key and print its secret, once.

    Example: assay key create --scope infer --scope feedback:write --expires-in 90d
    """
    layout, found = _deployment(directory)
    path = layout.resolve(found.keys.file)
    now_us = time.time_ns() // 1000
    try:
        expires_us = now_us + parse_duration_us(expires_in) if expires_in else None
        file = apikeys.load(path) if path.exists() else apikeys.new_file(os.urandom)
        tenant = _tenant(tenant, file, _tenants_ever(layout, found), now_us, new_tenant=new_tenant)
        secret, file = apikeys.create(
            file, tenant=tenant, scopes=scope, models=model or (), expires_us=expires_us, note=note, random=os.urandom, now_us=now_us
        )
    except (ValueError, apikeys.InvalidKeyFile) as error:
        fail(str(error))
    write_durably(path, apikeys.encode(file), mode=0o600, replace=True)
    key = file.keys[-1]
    if json_flag:
        emit_json({"id": key.id, "secret": secret, "tenant": key.tenant, "scopes": list(key.scopes), "models": list(key.models)})
        return
    out.print(secret, markup=False, soft_wrap=True)
    err.print(f"Key {key.id} of tenant {key.tenant}. This is the only time its secret is shown.", markup=False, soft_wrap=True)


@app.command("list")
def list_keys(
    directory: DirOption = Path(),
    *,
    json_flag: JsonFlag = False,
) -> None:
    """List keys, without secrets.

    Example: assay key list
    """
    file = _load(_path(directory))
    now_us = time.time_ns() // 1000
    rows = [
        {
            "id": key.id,
            "tenant": key.tenant,
            "scopes": list(key.scopes),
            "models": list(key.models),
            "created": time_text(key.created_us),
            "expires": time_text(key.expires_us) if key.expires_us is not None else None,
            "expired": key.expires_us is not None and key.expires_us <= now_us,
            "note": key.note,
        }
        for key in file.keys
    ]
    if json_flag:
        emit_json({"keys": rows})
        return
    for key in file.keys:
        models = ", ".join(key.models) or "all models"
        expires = "never expires" if key.expires_us is None else f"expires {time_text(key.expires_us)}"
        out.print(f"{key.id}  {key.tenant}  {', '.join(key.scopes)}; {models}; {expires}  {key.note}".rstrip(), markup=False, soft_wrap=True)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, `k_...`.")],
    directory: DirOption = Path(),
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Remove a key. Running workers forget it when they next read the file.

    Example: assay key revoke k_0123456789abcdef
    """
    path = _path(directory)
    try:
        file = apikeys.revoke(_load(path), key_id)
    except apikeys.InvalidKeyFile as error:
        fail(str(error))
    write_durably(path, apikeys.encode(file), mode=0o600, replace=True)
    if json_flag:
        emit_json({"revoked": key_id})
    else:
        out.print(f"{key_id} revoked", markup=False)


def _tenant(named: str | None, file: apikeys.KeyFile, ever: frozenset[str], now_us: int, *, new_tenant: bool) -> str:
    """Return whose key it is to be, or exit: unnamed among several, or new without somebody having said so."""
    known = sorted(ever | {key.tenant for key in file.keys})
    listed = ", ".join(f"`{one}`" for one in known)
    if named is None:
        if len(known) > 1:
            fail(f"this gateway has several tenants: {listed}", hint="say whose key it is: `--tenant NAME`")
        return known[0] if known else FIRST_TENANT
    if named in known or not known:
        return named
    blind = apikeys.losing_sight(file, now_us) if len(known) == 1 else ()
    if not new_tenant:
        lost = f"; from then on these keys see nothing of it: {', '.join(key.id for key in blind)}" if blind else ""
        fail(
            f"`{named}` would be a new tenant beside {listed}. With several, the admin port, which tells of all of them, answers only keys that have "
            f"`tenants:all`, for good{lost}",
            hint=f"`--tenant {known[0]}`, or no `--tenant`, for one more key of the same team; `--new-tenant` to keep calls of others apart",
        )
    if blind and not apikeys.has_overseer(file, now_us):
        roles = sorted({"admin:read"} | {scope for key in blind for scope in key.scopes if scope in apikeys.ROLES})
        fail(
            "with a second tenant nobody could look at this gateway any more: no key has `admin:read` with `tenants:all`; these would see nothing: "
            f"{', '.join(key.id for key in blind)}",
            hint=f"first: `assay key create --tenant {known[0]} {' '.join(f'--scope {role}' for role in roles)} --scope tenants:all`",
        )
    if blind:
        err.print(
            f"These keys see nothing of the admin port any more, for want of `tenants:all`: {', '.join(key.id for key in blind)}",
            markup=False,
            soft_wrap=True,
        )
    return named


def _tenants_ever(layout: Layout, found: GatewayFile) -> frozenset[str]:
    """Return the tenants that have pseudonym keys: their records are there, whether or not they have an API key today."""
    path = layout.resolve(found.store_directory) / "vault" / "epochs.json"
    try:
        return frozenset(pseudonyms.load(path))
    except (OSError, ValueError) as error:
        fail(f"the tenants of this gateway cannot be read from `{path}`: {error}", hint="run it as the user who runs the gateway")


def _path(directory: Path) -> Path:
    layout, found = _deployment(directory)
    return layout.resolve(found.keys.file)


def _deployment(directory: Path) -> tuple[Layout, GatewayFile]:
    layout = layout_of(directory)
    compiled = compile_folder(layout.config)
    if compiled.gateway is None:
        for issue in compiled.issues:
            err.print(str(issue), markup=False, soft_wrap=True)
        fail("gateway.yaml has problems", hint=f"assay check {directory}", code=Exit.NO)
    return layout, compiled.gateway


def _load(path: Path) -> apikeys.KeyFile:
    try:
        return apikeys.load(path)
    except apikeys.InvalidKeyFile as error:
        fail(str(error))
