"""`assay audit query` and `assay audit show`: ask the log, and have one call explained.

The index (`data/index.sqlite`) finds, the leaves are shown: what is printed is read from the log itself. `--full-scan` does without the index.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audit.explain import Explanation, explain
from audit.follow import Follower, follow
from audit.formats import FORMATS, Format, FormatUnavailable, render_rows, require
from audit.index import Indexer, IndexUnavailable
from audit.query import Page, QueryError, Row, full_scan, question
from audit.store.errors import StoreError
from audit.vault.standing import standing
from experiments.assignment import recompute
from gateway.cli.admin_client import AdminClient, AdminOption, ApiKeyOption
from gateway.cli.folder import DirOption
from gateway.cli.recorded import record_read
from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out
from gateway.inquiry import Ask, index_of, related_rows

DataOption = Annotated[Path, typer.Option("--data", help="Data directory.", show_default=True)]
DEFAULT_DATA = Path("data")
TABLE_WIDTH = 168
"""Columns when the output is no terminal."""
_MIN_WIDTHS = {"#": 4, "decision or record": 36}
"""Ids are never cut, however narrow the terminal: they are what `show` is called with."""


def register(app: typer.Typer) -> None:
    """Add `query` and `show` to the `audit` group."""
    app.command("query")(query)
    app.command("show")(show)


def query(
    since: Annotated[str | None, typer.Option(help="From this time on: `2026-11-20` or RFC 3339 with a zone.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this time.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Record type, such as `call` or `approval.granted`.")] = None,
    model: Annotated[str | None, typer.Option(help="Model name.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of the model.")] = None,
    subject: Annotated[str | None, typer.Option(help="Pseudonym of the unit.")] = None,
    decision: Annotated[str | None, typer.Option(help="Decision id: the call, its outcome, its feedback.")] = None,
    policy: Annotated[str | None, typer.Option(help="Verdict: allow, deny or allow_with_warnings.")] = None,
    rule: Annotated[str | None, typer.Option(help="Id of the first policy reason.")] = None,
    code: Annotated[str | None, typer.Option(help="Problem code of a refusal or failure.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Experiment name.")] = None,
    arm: Annotated[str | None, typer.Option(help="Assigned or served arm.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Tenant.")] = None,
    actor: Annotated[str | None, typer.Option(help="`kind:id`, such as `key:k_3f`.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most rows on the page.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Cursor printed by the page before.")] = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Walk forwards; the default is newest first.")] = False,  # noqa: FBT002 - typer reads it as a flag
    full: Annotated[bool, typer.Option("--full-scan", help="Read every leaf instead of the index.")] = False,  # noqa: FBT002 - typer reads it as a flag
    form: Annotated[str | None, typer.Option("--format", help="Write the rows as `jsonl`, `csv` or `parquet` instead of a table.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write them; default: standard output.")] = None,
    data: DataOption = DEFAULT_DATA,
    as_json: JsonFlag = False,  # noqa: FBT002 - typer reads it as a flag
) -> None:
    """Find records. What is read, and by whom, is a record of its own.

    Example: `assay audit query --model credit-risk --policy deny --since 2026-11-20 --format csv -o refused.csv`.
    """
    chosen = _format(form, output, as_json=as_json)
    with told_errors():
        asked = question(
            {
                "since": since,
                "until": until,
                "type": type_,
                "model": model,
                "version": version,
                "subject": subject,
                "decision": decision,
                "policy": policy,
                "rule": rule,
                "code": code,
                "experiment": experiment,
                "arm": arm,
                "tenant": tenant,
                "actor": actor,
            },
            oldest_first=oldest_first,
        )
        with opened(data, full=full) as ask:
            page = ask(asked, limit, cursor)
    record_read(data, "query", question=asked.stated(), size=page.size, rows=len(page.rows), full_scan=full)
    if chosen is not None:
        _write_rows(chosen, page, output)
    elif as_json:
        emit_json({"size": page.size, "cursor": page.cursor, "rows": [msgspec.structs.asdict(row) for row in page.rows]})
    else:
        _print_page(page)


def _format(name: str | None, output: Path | None, *, as_json: bool) -> Format | None:
    """Return the format asked for, before anything is read."""
    if name is None:
        if output is not None:
            fail("`--output` needs a format", hint=f"--format {'|'.join(FORMATS)}")
        return None
    found = next((one for one in FORMATS if one == name), None)
    if found is None or as_json:
        fail(f"`--format {name}` is not possible here", hint=f"one of {', '.join(FORMATS)}, without `--json`")
    if found == "parquet" and output is None:
        fail("Parquet is no text for a terminal", hint="name a file with `-o`")
    try:
        require(found)
    except FormatUnavailable as error:
        fail(str(error))
    return found


def _write_rows(form: Format, page: Page, output: Path | None) -> None:
    data = render_rows(form, page.rows)
    if output is None:
        typer.echo(data, nl=False)
    else:
        output.write_bytes(data)
    more = f"; more: --cursor {page.cursor}" if page.cursor else ""
    err.print(f"[dim]{len(page.rows)} rows, pinned to size {page.size}{more}[/]", soft_wrap=True)


def show(
    record_id: Annotated[str, typer.Argument(metavar="ID", help="Decision or record id, or `#` and the index of a leaf.")],
    data: DataOption = DEFAULT_DATA,
    full: Annotated[bool, typer.Option("--full-scan", help="Read every leaf instead of the index.")] = False,  # noqa: FBT002 - typer reads it as a flag
    payload: Annotated[bool, typer.Option("--payload", help="Show what the vault keeps of it: through the admin port, recorded.")] = False,  # noqa: FBT002 - typer reads it as a flag
    directory: DirOption = Path(),
    admin: AdminOption = None,
    api_key: ApiKeyOption = None,
    as_json: JsonFlag = False,  # noqa: FBT002 - typer reads it as a flag
) -> None:
    """Explain one call in words and recompute its arm. Example: `assay audit show 019a83c0-...`.

    `--payload` needs a key with the scope `vault:read`. Exit code 1 when the record contradicts itself, or the vault the record.
    """
    with told_errors(), opened(data, full=full) as ask:
        idx = _find(ask, record_id, data)
        record = read_record(data, idx)
        related = {row.idx: read_record(data, row.idx) for row in related_rows(ask, record, idx)}
    record_read(data, "query", question={"id": record_id}, size=idx + 1, rows=1 + len(related), full_scan=full)
    explanation = explain(record, list(related.values()), recompute, standing(record, list(related.values()), data, time.time_ns() // 1000))
    kept = AdminClient(directory, admin, api_key).get(f"/api/records/{idx}/payload") if payload else None
    if as_json:
        rest = [{"index": index, "record": one} for index, one in related.items()]
        told = {"index": idx, "record": record, "related": rest, "explanation": asdict(explanation)}
        emit_json(told if kept is None else {**told, "payload": kept})
    else:
        _print_explanation(idx, explanation, related)
        if kept is not None:
            _print_payload(kept)
    if explanation.arm.state == "contradicted" or (kept is not None and kept.get("matches") is False):
        raise typer.Exit(int(Exit.NO))


@contextlib.contextmanager
def opened(data: Path, *, full: bool) -> Iterator[Ask]:
    """Ask a data directory: through its index, brought up to date first, or by reading every leaf."""
    check_data(data)
    indexer = None if full else _index(data)
    if indexer is None:
        with Follower(data) as follower:
            size = follower.end()
        yield lambda asked, limit, cursor: full_scan(follow(data, 0), asked, size=size, limit=limit, cursor=cursor)
        return
    with indexer:
        yield lambda asked, limit, cursor: indexer.page(asked, limit=limit, cursor=cursor)


def check_data(data: Path) -> None:
    """Refuse a directory that holds no log."""
    if not (data / "ranges").is_dir() and not (data / "log").is_dir():
        fail(f"`{data}` holds no log", hint="name the data directory with `--data`; `assay serve` writes it")


def read_record(data: Path, idx: int) -> dict[str, Any]:
    """The record of one leaf, from the log itself."""
    for _, leaf in follow(data, idx, until=idx + 1):
        record = json.loads(leaf)
        return record if isinstance(record, dict) else {"type": "unreadable"}
    return fail(f"leaf `{idx}` is not in the log", hint="ask `assay audit query` for what there is")


def _index(data: Path) -> Indexer | None:
    """The index, brought up to date; None when it cannot be written now."""
    try:
        indexer = Indexer(data, follow)
        try:
            indexer.catch_up()
        except BaseException:
            indexer.close()
            raise
    except IndexUnavailable as error:
        err.print(f"[yellow]note:[/] {escape(str(error))}; reading every leaf", soft_wrap=True)
        return None
    return indexer


def _find(ask: Ask, record_id: str, data: Path) -> int:
    idx = index_of(ask, record_id)
    if idx is None:
        fail(f"no record with id `{record_id}` in `{data}`", hint="a call's id is in its `Assay-Decision` header; `assay audit query` lists them")
    return idx


@contextlib.contextmanager
def told_errors() -> Iterator[None]:
    """Print what cannot be asked or read, and exit."""
    try:
        yield
    except QueryError as error:
        fail(str(error), hint=error.hint)
    except StoreError as error:
        fail(str(error), hint="run `assay audit verify` to see what is left of the log", code=Exit.NO)


def _print_page(page: Page) -> None:
    if not page.rows:
        out.print(f"No record matches, of {page.size} in the log.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("#", "time", "type", "model", "arm", "verdict", "status", "decision or record", "subject"):
        table.add_column(name, no_wrap=True, justify="right" if name in {"#", "status"} else "left", min_width=_MIN_WIDTHS.get(name))
    for row in page.rows:
        table.add_row(*(escape(text) for text in _cells(row)), style="red" if row.policy == "deny" or (row.status or 0) >= 500 else "")
    console = out if out.is_terminal else Console(highlight=False, width=TABLE_WIDTH)
    console.print(table)
    out.print(f"[dim]{len(page.rows)} rows, pinned to size {page.size}[/]")
    if page.cursor:
        out.print(f"[dim]more:[/] --cursor {page.cursor}", soft_wrap=True)


def _cells(row: Row) -> tuple[str, ...]:
    arm = row.assigned or ""
    if row.served and row.served != row.assigned:
        arm += f" > {row.served}"
    return (
        str(row.idx),
        row.time[:23].replace("T", " "),
        row.type,
        f"{row.model} {row.version or ''}".strip() if row.model else "",
        arm,
        " ".join(filter(None, (row.policy, row.rule))),
        " ".join(filter(None, (str(row.status) if row.status is not None else "", row.code))),
        row.decision or row.id,
        (row.subject or "")[:12],
    )


def _print_payload(kept: dict[str, Any]) -> None:
    out.print("\n[dim]In the vault[/]")
    if kept["state"] != "kept":
        out.print(f"  {kept['state']}: nothing to show", markup=False)
        return
    colour, word = ("green", "matches") if kept["matches"] else ("bold red", "contradicts")
    out.print(f"  [{colour}]It {word} the commitment of the record.[/]")
    for source, fields in kept["fields"].items():
        for pointer, value in fields.items():
            out.print(f"  {source} {pointer}: {json.dumps(value, ensure_ascii=False)}", markup=False, soft_wrap=True)


def _print_explanation(idx: int, explanation: Explanation, related: dict[int, dict[str, Any]]) -> None:
    out.print(f"[bold]{escape(explanation.headline)}[/]  [dim]leaf #{idx}[/]")
    colour = {"reproduced": "green", "contradicted": "bold red", "no_experiment": "dim"}[explanation.arm.state]
    for section in explanation.sections:
        out.print(f"\n[dim]{escape(section.title)}[/]")
        for line in section.lines:
            style = colour if line == explanation.arm.words else None
            out.print(f"  {escape(line)}", style=style, soft_wrap=True)
    if related:
        listed = ", ".join(f"#{index} {one.get('type')}" for index, one in related.items())
        out.print(f"\n[dim]Records used:[/] #{idx}, {escape(listed)}", soft_wrap=True)
