"""`assay experiment analyze`: what needs no gateway running. The statistics themselves are in `experiments/analysis.py`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table

from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out


def register(app: typer.Typer) -> None:
    """Add the commands to `assay experiment`."""
    app.command("analyze")(analyze_file)


def analyze_file(
    data: Annotated[Path, typer.Argument(help="CSV file with a header, one row an observation.")],
    unit: Annotated[str, typer.Option("--unit", help="Column of the unit that was randomised.")],
    arm: Annotated[str, typer.Option("--arm", help="Column of the arm.")],
    metric: Annotated[list[str], typer.Option("--metric", help="NAME:proportion or NAME:mean, with :COLUMN if the column is called otherwise.")],
    control: Annotated[str, typer.Option("--control", help="Arm the others are compared with.")] = "control",
    method: Annotated[
        str, typer.Option("--method", help="always_valid: look whenever you like. fixed: at one size chosen beforehand.")
    ] = "always_valid",
    alpha: Annotated[float, typer.Option("--alpha", min=1e-6, max=0.5, help="Error probability of each interval.")] = 0.05,
    share: Annotated[list[str] | None, typer.Option("--share", help="ARM=WEIGHT, the declared allocation; default: equal.")] = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Compare the arms of an experiment in a CSV file, by unit. Exit code 1 if the sample ratio is off.

    Example: assay experiment analyze visits.csv --unit user --arm variant --metric bought:proportion --control a
    """
    from experiments.analysis import analyze, parse_metric  # noqa: PLC0415 - SciPy, only when asked for

    if method not in ("always_valid", "fixed"):
        fail(f"unknown method `{method}`", hint="allowed: always_valid, fixed")
    try:
        with data.open(newline="", encoding="utf-8-sig") as file:
            result = analyze(
                csv.DictReader(file),
                unit=unit,
                arm=arm,
                metrics=[parse_metric(text) for text in metric],
                control=control,
                method=cast("Any", method),
                alpha=alpha,
                shares=None if share is None else dict(map(_share, share)),
            )
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        fail(f"{data}: {error}")
    if json_flag:
        emit_json(result)
    else:
        _show(result)
    if not result["valid"]:
        err.print("The sample ratio is off: no comparison above can be trusted until the cause is found.", markup=False)
        raise typer.Exit(int(Exit.NO))


def _share(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not name or not 0 < value < float("inf"):
        raise ValueError(f"`{text}` is not a share; write ARM=WEIGHT with a weight above 0")
    return name, value


def _show(result: dict[str, Any]) -> None:
    table = Table("metric", "arm", "units", "mean", "control's", "difference", f"{100 - 100 * result['alpha']:g} % interval", "basis")
    for found in result["comparisons"]:
        interval = found.get("note") or f"{found['lower']:+.4g} to {found['upper']:+.4g}"
        means = ["-" if mean is None else f"{mean:.4g}" for mean in found["means"]]
        gap = "-" if found["difference"] is None else f"{found['difference']:+.4g}"
        table.add_row(found["metric"], found["arm"], f"{found['n'][0]} / {found['n'][1]}", *means, gap, interval, found["basis"])
    out.print(table)
    units = ", ".join(f"{name} {count}" for name, count in result["units"].items())
    out.print(f"units: {units}; left out, seen in two arms: {result['in_two_arms']}; shares: {result['srm']['shares']}", markup=False)
