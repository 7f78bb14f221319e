"""`assay key`: create, list, revoke API keys of callers. A secret is printed once and kept nowhere."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from gateway import apikeys
from gateway.cli.folder import DirOption, layout_of
from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out
from gateway.config.compile import compile_folder
from gateway.config.layout import write_durably
from gateway.config.quantities import parse_duration_us
from policies.approvals import time_text

app = typer.Typer(no_args_is_help=True, help="API keys of callers.")


@app.command("create")
def create(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose calls these are; pseudonyms and records are kept apart by tenant.")],
    scope: Annotated[list[str], typer.Option("--scope", help=f"What it may do: {', '.join(apikeys.SCOPES)}.")],
    model: Annotated[list[str] | None, typer.Option("--model", help="A model it may call; default: all.")] = None,
    expires_in: Annotated[str | None, typer.Option("--expires-in", help="For example 90d; default: never.")] = None,
    note: Annotated[str, typer.Option("--note", help="Who or what it is for.")] = "",
    directory: DirOption = Path(),
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Make a key and print its secret, once.

    Example: assay key create --tenant acme --scope infer --scope feedback:write --expires-in 90d
    """
    path = _path(directory)
    now_us = time.time_ns() // 1000
    try:
        expires_us = now_us + parse_duration_us(expires_in) if expires_in else None
        file = apikeys.load(path) if path.exists() else apikeys.new_file(os.urandom)
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
    err.print(f"Key {key.id} of tenant {key.tenant}. This is the only time its secret is shown.", markup=False)


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


def _path(directory: Path) -> Path:
    layout = layout_of(directory)
    compiled = compile_folder(layout.config)
    if compiled.gateway is None:
        for issue in compiled.issues:
            err.print(str(issue), markup=False, soft_wrap=True)
        fail("gateway.yaml has problems", hint=f"assay check {directory}", code=Exit.NO)
    return layout.resolve(compiled.gateway.keys.file)


def _load(path: Path) -> apikeys.KeyFile:
    try:
        return apikeys.load(path)
    except apikeys.InvalidKeyFile as error:
        fail(str(error))
