"""`assay experiment analyze`: statistics on people's own files; no gateway needed. What is computed is in `experiments/analysis.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out


def register(app: typer.Typer) -> None:
    """Add the command to `assay experiment`."""
    app.command("analyze")(analyze_file)


def analyze_file(
    data: Annotated[Path, typer.Argument(help="CSV file with a header, or Parquet; one row an observation.")],
    unit: Annotated[str, typer.Option("--unit", help="Column of the unit that was randomised.")],
    arm: Annotated[str, typer.Option("--arm", help="Column of the arm.")],
    metric: Annotated[
        list[str],
        typer.Option(
            "--metric",
            help="NAME:TYPE[:COLUMN]; proportion, mean, count, ratio (column NUM/DEN), quantile (column COL@0.95). The first is the primary one.",
        ),
    ],
    control: Annotated[str, typer.Option("--control", help="Arm the others are compared with.")] = "control",
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="always_valid: look whenever you like. group_sequential: at planned looks. fixed: at one planned size. bayesian: under a prior.",
        ),
    ] = "always_valid",
    alpha: Annotated[float, typer.Option("--alpha", min=1e-6, max=0.5, help="Error probability of each comparison.")] = 0.05,
    planned_units: Annotated[
        int | None, typer.Option("--planned-units", min=2, help="Units of two arms together that were planned: tunes and measures information.")
    ] = None,
    covariate: Annotated[str | None, typer.Option("--covariate", help="Column known before the exposure, to reduce the variance by (CUPED).")] = None,
    share: Annotated[list[str] | None, typer.Option("--share", help="ARM=WEIGHT, the declared allocation; default: equal.")] = None,
    look: Annotated[
        list[float] | None, typer.Option("--look", help="Information fraction of an earlier look, for group_sequential; may be repeated.")
    ] = None,
    spending: Annotated[str, typer.Option("--spending", help="obrien_fleming or pocock, for group_sequential.")] = "obrien_fleming",
    prior: Annotated[str, typer.Option("--prior", help="A,B of each rate's Beta prior, for bayesian.")] = "1,1",
    prior_sd: Annotated[
        float | None,
        typer.Option("--prior-sd", help="Standard deviation of the prior of a difference of means, for bayesian; default: the control's."),
    ] = None,
    *,
    is_sorted: Annotated[bool, typer.Option("--sorted", help="Rows are sorted by unit: memory does not grow with the units.")] = False,
    svg: Annotated[Path | None, typer.Option("--svg", help="Write the intervals as a picture.")] = None,
    json_flag: JsonFlag = False,
) -> None:
    """Compare the arms of an experiment in a CSV or Parquet file, by unit. Exit code 1 if the sample ratio is off.

    Example: assay experiment analyze visits.csv --unit user --arm variant --metric bought:proportion --control a
    """
    from experiments.analysis import analyze, needed_columns, parse_metric  # noqa: PLC0415 - SciPy, only when asked for
    from experiments.comparison import Plan  # noqa: PLC0415 - SciPy, only when asked for
    from experiments.rows import read_file  # noqa: PLC0415 - SciPy, only when asked for

    try:
        metrics = [parse_metric(text) for text in metric]
        plan = Plan(
            method=method,  # type: ignore[arg-type]  # checked by `Plan`
            alpha=alpha,
            planned_units=planned_units,
            earlier_looks=tuple(look or ()),
            spending=spending,  # type: ignore[arg-type]  # checked where it is used
            beta_prior=_pair(prior),
            prior_sd=prior_sd,
        )
        result = analyze(
            read_file(data, unit, arm, needed_columns(metrics, covariate)),
            metrics,
            control=control,
            plan=plan,
            covariate=covariate,
            shares=None if share is None else dict(map(_share, share)),
            is_sorted=is_sorted,
        )
    except ImportError:
        fail(f"{data}: Parquet needs pyarrow", hint="pip install 'assay-gateway[parquet]', or convert the file to CSV")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        fail(f"{data}: {error}")
    if svg is not None:
        from gateway.cli.intervals import intervals_svg  # noqa: PLC0415 - only when asked for

        try:
            svg.write_text(intervals_svg(result), encoding="utf-8")
        except OSError as error:
            fail(f"{svg}: {error.strerror}")
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


def _pair(text: str) -> tuple[float, float]:
    first, _, second = text.partition(",")
    try:
        return float(first), float(second)
    except ValueError:
        raise ValueError(f"`{text}` is not a prior; write A,B, for example 1,1") from None


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table  # noqa: PLC0415 - only when a person reads

    from gateway.cli.intervals import bar, scale  # noqa: PLC0415 - only when a person reads

    # Numbers go first: what a narrow terminal has no room for is below the table, and the picture shows nothing that is not in numbers too.
    is_wide = out.width >= 140
    interval_of = f"{100 - 100 * result['alpha']:g} % interval"
    table = Table("metric", "arm", *(["units", "mean", "control's"] if is_wide else []), "difference", interval_of, "verdict")
    if is_wide:
        table.add_column("basis")
        table.add_column("0 is |")
    spans = {name: scale([found for found in result["comparisons"] if found["metric"] == name]) for name in _names(result)}
    for found in result["comparisons"]:
        interval = "-" if found["lower"] is None else f"{found['lower']:+.4g} to {found['upper']:+.4g}"
        gap = "-" if found["difference"] is None else f"{found['difference']:+.4g}"
        row = [gap, interval, found["verdict"]]
        if is_wide:
            row = [_counted(found), *map(_mean, found["means"]), *row, _basis(found), bar(found, spans[found["metric"]])]
        table.add_row(found["metric"], found["arm"], *row)
    out.print(table)
    for line in _footnotes(result, with_means=not is_wide):
        out.print(line, markup=False, soft_wrap=True)


def _basis(found: dict[str, Any]) -> str:
    return found["basis"] if found["test"] is None else f"{found['basis']} ({found['test']})"


def _counted(found: dict[str, Any]) -> str:
    return f"{found['n'][0]} / {found['n'][1]}"


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _footnotes(result: dict[str, Any], *, with_means: bool) -> list[str]:
    units = ", ".join(f"{name} {count}" for name, count in result["units"].items())
    lines = [f"{result['method']}; units: {units}; left out, seen in two arms: {result['in_two_arms']}; shares: {result['srm']['shares']}"]
    if result["planned_units"] is None and result["method"] == "always_valid":
        lines.append(f"intervals are tightest near {result['tuned_for_units']} units; --planned-units, fixed beforehand, tunes them")
    for found in result["comparisons"]:
        said = [f"{' / '.join(map(_mean, found['means']))} of {_counted(found)} units, {_basis(found)}"] if with_means else []
        if found["note"]:
            said.append(found["note"])
        if found.get("cuped") and found["cuped"]["variance_factor"] < 0.995:
            said.append(f"covariate removes {1 - found['cuped']['variance_factor']:.0%} of the variance")
        if found.get("posterior"):
            said.append(f"P(higher) = {found['posterior']['probability_better']:.4f} under {found['posterior']['prior']}")
        if found.get("look"):
            look = found["look"]
            said.append(f"z = {_text(look['z'])} against {_text(look['boundary'])} at {look['fractions'][-1]:.1%} of the planned information")
        if found.get("threshold") is not None:
            said.append(f"rows past {found['threshold']:g}, the control's {found['quantile']:g} quantile among its first rows")
        if len(result["comparisons"]) > 1 and found["shown_after_correction"] is False and found["verdict"] in ("higher", "lower"):
            said.append("not shown after correction for several comparisons")
        if said:
            lines.append(f"{found['metric']}, {found['arm']}: {'; '.join(said)}")
    return lines


def _text(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"


def _names(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(found["metric"] for found in result["comparisons"]))
