"""What every command prints by: exit codes, `--json`, errors with a hint.

Exit codes are part of the contract: 0 ok; 1 the verdict is no (check failed, tampered, test failed); 2 usage; 3 incomplete, or freshness unproven.
Results go to standard output, everything else (progress, errors, hints) to standard error, so that `--json | jq` always works.
"""

from __future__ import annotations

import enum
import json
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console


class Exit(enum.IntEnum):
    """Exit codes of every command."""

    OK = 0
    NO = 1
    USAGE = 2
    INCOMPLETE = 3


out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def emit_json(document: Any) -> None:
    """Print one JSON document, keys sorted, to standard output."""
    typer.echo(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False))


def fail(message: str, *, hint: str | None = None, code: Exit = Exit.USAGE) -> NoReturn:
    """Print what happened and what to do, then exit with `code`."""
    err.print(f"[bold red]error:[/] {_escaped(message)}", soft_wrap=True)
    if hint:
        err.print(f"[bold cyan]hint:[/] {_escaped(hint)}", soft_wrap=True)
    raise typer.Exit(int(code))


def _escaped(text: str) -> str:
    from rich.markup import escape  # noqa: PLC0415 - only on the error path

    return escape(text)
