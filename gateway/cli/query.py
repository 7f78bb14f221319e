"""`assay audit query` and `assay audit show`: ask the log, and have one call explained.

The index (`data/index.sqlite`) finds, the leaves are shown: what is printed is read from the log itself. `--full-scan` does without the index.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
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
from audit.index import Indexer, IndexUnavailable
from audit.query import Page, Query, QueryError, Row, full_scan, normal_time
from audit.store.errors import StoreError
from experiments.assignment import recompute
from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out

DataOption = Annotated[Path, typer.Option("--data", help="Data directory.", show_default=True)]
DEFAULT_DATA = Path("data")
MOST_RELATED = 1000
TABLE_WIDTH = 168
"""Columns when the output is no terminal."""
_MIN_WIDTHS = {"#": 4, "decision or record": 36}
"""Ids are never cut, however narrow the terminal: they are what `show` is called with."""

Ask = Callable[[Query, int, str | None], Page]


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
    data: DataOption = DEFAULT_DATA,
    as_json: JsonFlag = False,  # noqa: FBT002 - typer reads it as a flag
) -> None:
    """Find records. Example: `assay audit query --model credit-risk --policy deny --since 2026-11-20`."""
    with _errors():
        question = Query(
            since=normal_time(since) if since else None,
            until=normal_time(until) if until else None,
            type=type_,
            model=model,
            version=version,
            subject=subject,
            decision=decision,
            policy=policy,
            rule=rule,
            code=code,
            experiment=experiment,
            arm=arm,
            tenant=tenant,
            actor=actor,
            oldest_first=oldest_first,
        )
        with opened(data, full=full) as ask:
            page = ask(question, limit, cursor)
    if as_json:
        emit_json({"size": page.size, "cursor": page.cursor, "rows": [msgspec.structs.asdict(row) for row in page.rows]})
    else:
        _print_page(page)


def show(
    record_id: Annotated[str, typer.Argument(metavar="ID", help="Decision or record id, or `#` and the index of a leaf.")],
    data: DataOption = DEFAULT_DATA,
    full: Annotated[bool, typer.Option("--full-scan", help="Read every leaf instead of the index.")] = False,  # noqa: FBT002 - typer reads it as a flag
    as_json: JsonFlag = False,  # noqa: FBT002 - typer reads it as a flag
) -> None:
    """Explain one call in words and recompute its arm. Example: `assay audit show 019a83c0-...`.

    Exit code 1 when the record contradicts itself.
    """
    with _errors(), opened(data, full=full) as ask:
        idx = _find(ask, record_id, data)
        record = read_record(data, idx)
        related = {row.idx: read_record(data, row.idx) for row in _related_rows(ask, record, idx)}
    explanation = explain(record, list(related.values()), recompute)
    if as_json:
        rest = [{"index": index, "record": one} for index, one in related.items()]
        emit_json({"index": idx, "record": record, "related": rest, "explanation": asdict(explanation)})
    else:
        _print_explanation(idx, explanation, related)
    if explanation.arm.state == "contradicted":
        raise typer.Exit(int(Exit.NO))


@contextlib.contextmanager
def opened(data: Path, *, full: bool) -> Iterator[Ask]:
    """Ask a data directory: through its index, brought up to date first, or by reading every leaf."""
    check_data(data)
    indexer = None if full else _index(data)
    if indexer is None:
        with Follower(data) as follower:
            size = follower.end()
        yield lambda question, limit, cursor: full_scan(follow(data, 0), question, size=size, limit=limit, cursor=cursor)
        return
    with indexer:
        yield lambda question, limit, cursor: indexer.page(question, limit=limit, cursor=cursor)


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
    if record_id.startswith("#") and record_id[1:].isdigit():
        return int(record_id[1:])
    for question in (Query(decision=record_id, oldest_first=True), Query(id=record_id, oldest_first=True)):
        rows = ask(question, 1, None).rows
        if rows:
            return rows[0].idx
    return fail(f"no record with id `{record_id}` in `{data}`", hint="a call's id is in its `Assay-Decision` header; `assay audit query` lists them")


def _related_rows(ask: Ask, record: dict[str, Any], idx: int) -> list[Row]:
    """Outcome and feedback of the decision, its approvals, and the start of its experiment before it."""
    found: dict[int, Row] = {}
    decision = record.get("id") if record.get("type") in {"call", "decision"} else record.get("decision")
    if isinstance(decision, str):
        found |= {row.idx: row for row in ask(Query(decision=decision, oldest_first=True), MOST_RELATED, None).rows}
    model, approval = record.get("model"), record.get("approval")
    if isinstance(model, dict) and approval:
        granted = Query(type="approval.granted", model=model.get("name"), version=model.get("version"))
        found |= {row.idx: row for row in ask(granted, MOST_RELATED, None).rows}
    route = record.get("route")
    if isinstance(route, dict) and route.get("experiment"):
        starts = ask(Query(type="experiment.start", experiment=route["experiment"]), MOST_RELATED, None).rows
        found |= {row.idx: row for row in [row for row in starts if row.idx < idx][:1]}
    found.pop(idx, None)
    return [found[index] for index in sorted(found)]


@contextlib.contextmanager
def _errors() -> Iterator[None]:
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


def _print_explanation(idx: int, explanation: Explanation, related: dict[int, dict[str, Any]]) -> None:
    out.print(f"[bold]{escape(explanation.headline)}[/]  [dim]leaf #{idx}[/]")
    for section in explanation.sections:
        out.print(f"\n[dim]{escape(section.title)}[/]")
        for line in section.lines:
            out.print(f"  {escape(line)}", soft_wrap=True)
    out.print("\n[dim]The arm[/]")
    colour = {"reproduced": "green", "contradicted": "bold red", "no_experiment": "dim"}[explanation.arm.state]
    out.print(f"  [{colour}]{escape(explanation.arm.words)}[/]", soft_wrap=True)
    if related:
        listed = ", ".join(f"#{index} {one.get('type')}" for index, one in related.items())
        out.print(f"\n[dim]Records used:[/] #{idx}, {escape(listed)}", soft_wrap=True)
