"""`assay audit archive` and `assay audit backup`: the log as static files elsewhere, and a whole copy of a data directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from audit.store.errors import StoreError
from gateway.cli.opening import VkeyOption, keys_for
from gateway.cli.terminal import Exit, JsonFlag, emit_json, fail, out

DataArgument = Annotated[Path, typer.Argument(help="The data directory; the gateway may be running.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the `audit` group."""
    app.command("archive")(archive_log)
    app.command("backup")(backup)


def archive_log(
    data: DataArgument,
    to: Annotated[Path, typer.Option("--to", help="The archive's folder; made if absent, brought up to date if not.")],
    vkey: VkeyOption = None,
    *,
    parquet: Annotated[bool, typer.Option("--parquet", help="Also write every sealed range as Parquet (extra `parquet`).")] = False,
    json_flag: JsonFlag = False,
) -> None:
    """Copy the log to an archive that verifies alone: entries, tiles, checkpoint; and Parquet for analysis.

    Everything is verified as read back from the archive before its checkpoint is put in place.

    Example: assay audit archive data --to /archive/assay --vkey log.vkey --parquet
    """
    from audit.archive import archive  # noqa: PLC0415 - only this command needs it

    keys = keys_for(str(data), vkey, None)
    try:
        done = archive(data, to, keys.log, parquet=parquet)
    except StoreError as error:
        fail(str(error), code=Exit.NO)
    if json_flag:
        emit_json(msgspec.to_builtins(done))
    else:
        ranges = f", {done.parquet_ranges} sealed ranges as Parquet" if done.parquet_ranges else ""
        out.print(f"`{to}` verifies up to {done.size:,} records: {done.files_added:,} files added{ranges}", markup=False)


def backup(
    data: DataArgument,
    to: Annotated[Path, typer.Option("--to", help="A folder that does not exist yet.")],
    *,
    with_vault: Annotated[bool, typer.Option("--with-vault", help="Copy pseudonym keys and vault too; delete the copy when they end.")] = False,
    json_flag: JsonFlag = False,
) -> None:
    """Copy a whole data directory while the gateway runs. The copy can be read and verified; it is not gone on with.

    Example: assay audit backup data --to /backup/2026-11-21
    """
    from audit.backup import back_up  # noqa: PLC0415 - only this command needs it

    try:
        made = back_up(data, to, with_vault=with_vault)
    except StoreError as error:
        fail(str(error), code=Exit.NO)
    if json_flag:
        emit_json(msgspec.to_builtins(made))
    else:
        out.print(f"`{to}` holds {made.leaves:,} records, signed up to {made.signed_size:,}", markup=False)
