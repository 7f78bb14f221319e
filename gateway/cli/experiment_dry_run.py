"""The dry run of `assay experiment plan`: reads the log's newest hours, or a range of it, and shows what the experiment would have been on them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from experiments.document import ExperimentDocument
from gateway.cli.terminal import fail, out

if TYPE_CHECKING:
    from experiments.dry_run import DryRun

MOST_LEAVES: Final = 300_000
"""Newest records that are looked at, which takes about ten seconds."""
_MARKS: Final = (b'"type":"call"', b'"type":"decision"', b'"type":"outcome"', b'"type":"label"', b'"type":"reward"')
_BAR: Final = 40


def rehearse(data: Path, document: ExperimentDocument, *, hours: float, records: str | None) -> DryRun | None:
    """Return the dry run on a log, or None where there is no log, or no call of the model in it.

    Args:
        data: data directory.
        document: what is planned.
        hours: how much of the log's end is taken.
        records: `FIRST:END`, instead of the hours.
    """
    from audit.store.errors import StoreError  # noqa: PLC0415 - SQLAlchemy, only where there is a log
    from experiments.dry_run import Rehearsal  # noqa: PLC0415 - SciPy, only when asked for

    rehearsal = Rehearsal(document)
    try:
        for record in _read(data, hours, records):
            rehearsal.add(record)
    except (StoreError, OSError):
        return None
    found = rehearsal.result()
    return found if found.calls else None


def _read(data: Path, hours: float, records: str | None) -> Iterator[dict[str, Any]]:
    from audit.follow import Follower, follow  # noqa: PLC0415 - SQLAlchemy, only where there is a log

    with Follower(data) as follower:
        end = follower.end()
        newest = follower.read(end - 1, 1) if end else []
    if not newest:
        return
    since = ""
    if records is None:
        first = max(0, end - MOST_LEAVES)
        last = datetime.fromisoformat(msgspec.json.decode(newest[0][1])["time"])
        since = (last - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S")
    else:
        first, end = _range(records, end)
    for _, leaf in follow(data, first, until=end):
        if any(mark in leaf for mark in _MARKS):
            record = msgspec.json.decode(leaf)
            if record["time"] >= since:
                yield record


def _range(text: str, end: int) -> tuple[int, int]:
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last) <= end):
        fail(f"`{text}` is not a range of this log's {end} records", hint="write FIRST:END, for example 1000:25000")
    return int(first), int(last)


def show(found: DryRun, unapproved: dict[str, str]) -> None:
    """Print what the experiment would have been.

    Args:
        found: the dry run.
        unapproved: arm -> why its version may not have its share.
    """
    out.print(
        f"On the {found.calls:,} calls that {found.units:,} units made from {found.first[:16]} to {found.last[:16]} (nothing is called):",
        markup=False,
        soft_wrap=True,
    )
    for stage in found.stages:
        out.print(f"  {stage.name}", markup=False)
        most = max(stage.calls.values(), default=1)
        for place, calls in stage.calls.items():
            told = f"{stage.units[place]:>9,} units" if place in stage.units else " " * 15
            bar = "█" * max(1, round(_BAR * calls / most))
            diverted = "  not approved: the default would serve these" if place in unapproved else ""
            out.print(f"    {place:<14} {told} {calls:>10,} calls  {bar}{diverted}", markup=False, soft_wrap=True)
    for pair, units in found.moved.items():
        before, _, after = pair.partition(" -> ")
        out.print(f"  {pair}: {units:,} units{' (stay)' if before == after else ''}", markup=False)
    for why, calls in found.refused.items():
        out.print(f"  refused, as recorded: {calls:,} calls, {why}", markup=False, soft_wrap=True)
    if found.placebo == "harm":
        out.print("  As an A/A test of these units harm would have been claimed: a false alarm; look at the metrics first.", soft_wrap=True)
    elif found.placebo:
        out.print("  As an A/A test of these units no harm would have been claimed.", markup=False)
    for line in found.left_out:
        out.print(f"  Left out: {line}.", markup=False, soft_wrap=True)
