"""`assay policy explain DECISION_ID`: why a recorded call was allowed, refused or changed, run again on the bundle that decided."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Final

import typer
from rich.markup import escape

from gateway.cli.query import opened, read_record, told_errors
from gateway.cli.terminal import Exit, emit_json, fail, out
from gateway.processes.control import ControlDirectory
from gateway.retrace import Retraced, retrace

_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_COLOURS: Final = {"reproduced": "green", "contradicted": "bold red", "undecidable": "yellow"}


def is_decision(text: str) -> bool:
    """Say whether a text is an id of a decision, as `Assay-Decision` gives it."""
    return _ID.match(text) is not None


def explain_decision(decision: str, data: Path, path: str | None, *, full: bool, as_json: bool) -> None:
    """Print why a recorded decision is what it is. Exit code 1: it contradicts itself; 3: it cannot be decided again."""
    with told_errors(), opened(data, full=False) as ask:
        from audit.query import Query  # noqa: PLC0415 - with the index

        rows = ask(Query(decision=decision, oldest_first=True), 100, None).rows
        records = [read_record(data, row.idx) for row in rows]
    record = next((one for one in records if one.get("id") == decision), None)
    if record is None or record.get("type") not in {"call", "decision"}:
        fail(f"no call with id `{decision}` in `{data}`", hint="a call's id is in its `Assay-Decision` header; `--log` names the data directory")
    ending = next((one for one in records if one.get("type") == "outcome"), None)
    found = retrace(record, ending, ControlDirectory(data), path, full=full)
    if as_json:
        emit_json({"decision_id": decision, "points": [asdict(one) for one in found]})
    else:
        for one in found:
            _print(one, full=full)
    states = {one.state for one in found}
    if "contradicted" in states:
        raise typer.Exit(int(Exit.NO))
    if "undecidable" in states:
        raise typer.Exit(int(Exit.INCOMPLETE))


def _print(one: Retraced, *, full: bool) -> None:
    """Print one point: what was recorded, the rules that said something, and in a line each those that did not."""
    out.print(f"[bold]{one.point}[/]: recorded [bold]{escape(str(one.recorded.get('decision', 'nothing')))}[/]")
    for reason in one.recorded.get("reasons", ()):
        line = f"  {reason.get('id')} ({reason.get('package')}, {reason.get('mode')}): {reason.get('msg')}"
        out.print(line, markup=False, soft_wrap=True)
    for duty in one.recorded.get("obligations", ()):
        out.print("  " + " ".join(f"{key}={value}" for key, value in duty.items()), markup=False, soft_wrap=True)
    if one.state == "contradicted" and one.found is not None:
        out.print(f"  run again: {one.found['decision']}; {', '.join(str(reason['id']) for reason in one.found['reasons'])}", markup=False)
    spoke = {reason.get("package") for reason in one.recorded.get("reasons", ())}
    for trace in one.traces:
        is_told = full or trace.package in spoke or trace.rule == "obligations"
        out.print("\n".join(f"  {line}" for line in trace.text.splitlines()[: None if is_told else 1]), markup=False, soft_wrap=True)
    out.print(f"[{_COLOURS[one.state]}]{one.state}[/]: {escape(one.why)}\n", soft_wrap=True)
