"""`assay audit rebuild`: compare the index of a data directory with its log, row by row, and make it anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audit.follow import follow
from audit.index import FILE_NAME, Indexer, IndexUnavailable
from audit.store.errors import StoreError
from gateway.cli.query import DEFAULT_DATA, DataOption, check_data
from gateway.cli.terminal import Exit, JsonFlag, emit_json, fail, out

_ATTEMPTS = 5
"""A log that grows while it is compared is compared again."""


def register(app: typer.Typer) -> None:
    """Add `rebuild` to the `audit` group."""
    app.command("rebuild")(rebuild)


def rebuild(
    data: DataOption = DEFAULT_DATA,
    check: Annotated[bool, typer.Option("--check", help="Only compare, and say what differs.")] = False,  # noqa: FBT002 - typer reads it as a flag
    as_json: JsonFlag = False,  # noqa: FBT002 - typer reads it as a flag
) -> None:
    """Make the index of the log anew from its leaves, or compare every row with its leaf. The index is never evidence; the log is not touched.

    A gateway may run meanwhile. Exit codes: 0 the index says what the log says; 1 with `--check`, it does not.

    Example: assay audit rebuild --data data --check
    """
    check_data(data)
    if not check:
        for suffix in ("", "-wal", "-shm"):
            (data / f"{FILE_NAME}{suffix}").unlink(missing_ok=True)
    try:
        with Indexer(data, follow) as indexer:
            size = indexer.catch_up()
            fault = _difference(indexer)
    except IndexUnavailable as error:
        fail(str(error), hint="another command writes it just now; try again", code=Exit.INCOMPLETE)
    except StoreError as error:
        fail(str(error), hint="run `assay audit verify` to see what is left of the log", code=Exit.NO)
    if as_json:
        emit_json({"leaves": size, "fault": fault, "index": str(Path(data) / FILE_NAME)})
    elif fault is None:
        out.print(f"[green]ok[/]  {size} leaves; every row is what its leaf says", soft_wrap=True)
    else:
        fail(f"the index differs from the log: {fault}", hint="`assay audit rebuild` makes it anew", code=Exit.NO)
    raise typer.Exit(int(Exit.OK if fault is None else Exit.NO))


def _difference(indexer: Indexer) -> str | None:
    """Compare every row; a difference counts only if the index stood still meanwhile."""
    fault = None
    for _ in range(_ATTEMPTS):
        before = indexer.next_index
        fault = indexer.damage(deep=True)
        if fault is None or indexer.next_index == before:
            break
    return fault
