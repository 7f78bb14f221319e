"""`assay experiment power|simulate`: before the start; no gateway needed. What is computed is in `experiments/planning.py` and `simulation.py`."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.terminal import JsonFlag, emit_json, err, fail, out

if TYPE_CHECKING:
    from experiments.document import ExperimentDocument
    from experiments.simulation import Simulation, Truth

FORMAT = 1
"""Version of the JSON; it changes only when a key changes its meaning."""


def register(app: typer.Typer) -> None:
    """Add the commands to `assay experiment`."""
    app.command("power")(power_of)
    app.command("simulate")(simulate_file)


def power_of(
    effect: Annotated[str, typer.Option("--effect", help="To be seen: `1pp` of a rate, `5%` of the control's value, or a number (of a mean).")],
    rate: Annotated[str | None, typer.Option("--rate", help="The control's rate, such as `10%`, of a proportion.")] = None,
    mean: Annotated[float | None, typer.Option("--mean", help="The control's mean; needed for an effect in %.")] = None,
    sd: Annotated[float | None, typer.Option("--sd", help="Standard deviation of a unit's value, of a mean.")] = None,
    alpha: Annotated[float, typer.Option("--alpha", min=1e-6, max=0.5, help="Two-sided error probability.")] = 0.05,
    power: Annotated[float, typer.Option("--power", min=0.01, max=0.9999, help="Probability of seeing the effect.")] = 0.8,
    share: Annotated[str, typer.Option("--share", help="The treatment's part of the two arms' units.")] = "50%",
    method: Annotated[str, typer.Option("--method", help="always_valid, group_sequential or fixed.")] = "always_valid",
    looks: Annotated[int, typer.Option("--looks", help="Equally spaced, of group_sequential.")] = 5,
    spending: Annotated[str, typer.Option("--spending", help="obrien_fleming or pocock, of group_sequential.")] = "obrien_fleming",
    correlation: Annotated[float, typer.Option("--correlation", help="Of a covariate known before the exposure (CUPED).")] = 0.0,
    units_per_week: Annotated[
        int | None, typer.Option("--units-per-week", min=1, help="New units of both arms: adds what each week can see.")
    ] = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """How many units an experiment needs, and what it could see after each week.

    Example: assay experiment power --rate 10% --effect 1pp --units-per-week 20000
    """
    from experiments.planning import Question, detectable, plan_size  # noqa: PLC0415 - SciPy, only when asked for

    try:
        base = _share(rate) if rate is not None else mean
        question = Question(
            effect=_effect(effect, base, is_rate=rate is not None),
            rate=_share(rate) if rate is not None else None,
            sd=sd,
            alpha=alpha,
            power=power,
            share=_share(share),
            method=method,
            looks=looks,
            spending=spending,  # type: ignore[arg-type]  # checked where it is used
            correlation=correlation,
        )
        size = plan_size(question)
        weeks = [] if units_per_week is None else _weeks(units_per_week, size.units, lambda units: detectable(question, units))
    except ValueError as error:
        fail(str(error))
    needed = None if units_per_week is None else size.units / units_per_week
    document = {"format": FORMAT, "question": asdict(question), **asdict(size), "weeks": needed, "detectable_by_week": weeks}
    if json_flag:
        emit_json(document)
        return
    out.print(f"{size.units:,} units: {size.control:,} control, {size.treatment:,} treatment", markup=False)
    out.print(
        f"a fixed-size test without covariate: {size.fixed_units:,}; {method}: x {size.method_factor:.2f}; covariate: x {size.covariate_factor:.2f}"
    )
    if needed is not None:
        out.print(f"{needed:.1f} weeks at {units_per_week:,} units a week; smallest effect seen with power {power:g} by then:")
    most = max((week["effect"] for week in weeks if week["effect"] is not None), default=1.0)
    for week in weeks:
        told = "none" if week["effect"] is None else _told(week["effect"], is_rate=rate is not None)
        bar = "" if week["effect"] is None else "█" * max(1, round(30 * week["effect"] / most))
        out.print(f"  week {week['week']:>2}  {week['units']:>12,} units  {told:>9}  {bar}", markup=False, soft_wrap=True)


def simulate_file(
    file: Annotated[Path, typer.Argument(help="An experiment file, `config/experiments/NAME.yaml`.")],
    truth: Annotated[
        list[str],
        typer.Option(
            "--truth",
            help="METRIC=CONTROL:TREATMENT, rates of the bad event (`errors=1%:6%`); of a latency also the treatment's rate past the margin.",
        ),
    ],
    units_per_hour: Annotated[float, typer.Option("--units-per-hour", help="New units of the model's whole traffic.")],
    runs: Annotated[int, typer.Option("--runs", min=1, max=100_000, help="How many times.")] = 200,
    look_every: Annotated[str | None, typer.Option("--look-every", help="Time between looks, `5m`; default: a hundredth of all holds.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same runs.")] = 1,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Run an experiment many times on a stated truth: power, error rate, duration. The judge and the steps are the real ones.

    Example: assay experiment simulate canary.yaml --truth errors=1%:6% --truth p95_ms=5%:5%:1% --truth accuracy=9%:9% --units-per-hour 5000
    """
    from experiments.quantities import parse_duration_us  # noqa: PLC0415 - only when asked for
    from experiments.simulation import simulate  # noqa: PLC0415 - SciPy, only when asked for

    try:
        truths = dict(map(_truth, truth))
        every_us = None if look_every is None else max(1, parse_duration_us(look_every))
        found = simulate(_document(file), truths, units_per_hour=units_per_hour, runs=runs, seed=seed, look_every_us=every_us)
    except (OSError, ValueError) as error:
        fail(str(error))
    document = _told_runs(found, {name: asdict(one) for name, one in truths.items()}, seed)
    if json_flag:
        emit_json(document)
        return
    out.print(f"{runs} runs, a look every {found.looks_every_s:g} s:")
    for phase, ended in document["ended"].items():
        if ended["runs"]:
            hours, units = ended["hours"], ended["treatment_units"]
            out.print(
                f"  {phase:<12} {ended['share']:>6.1%} +- {ended['standard_error']:.1%}  "
                f"after {hours['median']:.1f} h (9 of 10 within {hours['p90']:.1f} h), {units['median']:,.0f} treatment units",
                soft_wrap=True,
            )
    for name, part in document["better"].items():
        out.print(f"  proven better, {name}: {part:.1%}", soft_wrap=True)


def _told_runs(found: Simulation, truths: dict[str, Any], seed: int) -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415 - only when asked for

    ended = {}
    for phase in found.ended:
        runs = [run for run in found.runs if run.phase == phase]
        share, error = found.share(phase)
        spread = {
            name: {"median": float(np.median(values)), "p90": float(np.quantile(values, 0.9))} if runs else None
            for name, values in (("hours", [run.hours for run in runs]), ("treatment_units", [run.treatment_units for run in runs]))
        }
        ended[phase] = {"runs": len(runs), "share": share, "standard_error": error, **spread}
    better: dict[str, int] = {}
    for run in found.runs:
        for name in run.better:
            better[name] = better.get(name, 0) + 1
    return {
        "format": FORMAT,
        "runs": len(found.runs),
        "seed": seed,
        "looks_every_s": found.looks_every_s,
        "truth": truths,
        "ended": ended,
        "better": {name: count / len(found.runs) for name, count in sorted(better.items())},
    }


def _document(file: Path) -> ExperimentDocument:
    from experiments.compiler import compile_experiment  # noqa: PLC0415 - only when asked for
    from experiments.shared_files import LayersFile, MetricsFile  # noqa: PLC0415 - only when asked for
    from gateway.config.experiment_files import read_experiment, read_layers, read_metrics  # noqa: PLC0415 - only when asked for

    experiment, issues = read_experiment(file.read_bytes(), str(file))
    layers, metrics = LayersFile(), MetricsFile()
    if (beside := file.with_name("_layers.yaml")).exists():
        read, wrong = read_layers(beside.read_bytes(), str(beside))
        layers, issues = read or layers, [*issues, *wrong]
    if (beside := file.with_name("_metrics.yaml")).exists():
        read_m, wrong = read_metrics(beside.read_bytes(), str(beside))
        metrics, issues = read_m or metrics, [*issues, *wrong]
    if experiment is None or issues:
        for issue in issues:
            err.print(str(issue), markup=False, soft_wrap=True)
        fail(f"{file} cannot be simulated")
    return compile_experiment(experiment, layers, metrics)


def _truth(text: str) -> tuple[str, Truth]:
    from experiments.simulation import Truth  # noqa: PLC0415 - only when asked for

    name, _, rates = text.partition("=")
    parts = rates.split(":")
    if not name or len(parts) not in (2, 3):
        raise ValueError(f"`{text}` is not a truth; write METRIC=CONTROL:TREATMENT, for example errors=1%:6%")
    return name, Truth(*map(_share, parts))


def _share(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)%", text)
    if match is None or not float(match[1]) <= 100:
        raise ValueError(f"`{text}` is not a share; write a percentage up to 100%, for example 10%")
    return float(match[1]) / 100


def _effect(text: str, base: float | None, *, is_rate: bool) -> float:
    match = re.fullmatch(r"([+-]?[0-9]+(?:\.[0-9]+)?)(pp|%|)", text)
    if match is None or (match[2] == "pp") > is_rate or (is_rate and not match[2]):
        raise ValueError(f"`{text}` is not an effect; write `1pp` (of a rate), `5%` (of the control's value) or a number (of a mean)")
    value = float(match[1])
    if match[2] == "pp":
        return value / 100
    if match[2] == "%":
        if base is None:
            raise ValueError("an effect in % of the control's value needs --rate or --mean")
        return value / 100 * abs(base)
    return value


def _weeks(units_per_week: int, needed: int, effect: Any) -> list[dict[str, Any]]:
    weeks = []
    for week in range(1, min(26, max(4, math.ceil(needed / units_per_week))) + 1):
        seen = effect(week * units_per_week)
        weeks.append({"week": week, "units": week * units_per_week, "effect": seen if math.isfinite(seen) else None})
    return weeks


def _told(effect: float, *, is_rate: bool) -> str:
    return f"{100 * effect:.2f} pp" if is_rate else f"{effect:.4g}"
