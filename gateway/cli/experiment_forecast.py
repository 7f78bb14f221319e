"""`assay experiment plan`: what an experiment does and can show, before anyone is drawn. Reads the configuration and, where there is one, the log.

Exit code 1 where it cannot work as it stands: the configuration has problems, an arm is not approved for its share, or the deadline passes before a
margin can be proven.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from experiments.document import ExperimentDocument, LiveExperiment
from gateway.cli.experiment_dry_run import rehearse, show
from gateway.cli.folder import DirOption, layout_of
from gateway.cli.missing_approvals import unapproved_arms
from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out
from gateway.config.compile import Compiled, compile_folder
from gateway.config.layout import Layout
from gateway.documents import Manifest, RouteDocument, decode
from gateway.processes.control import ControlDirectory, ControlError

if TYPE_CHECKING:
    from experiments.forecast import Forecast


def register(app: typer.Typer) -> None:
    """Add the command to `assay experiment`."""
    app.command("plan")(plan)


def plan(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the experiment.")],
    directory: DirOption = Path(),
    units_per_day: Annotated[
        float | None, typer.Option("--units-per-day", min=0.001, help="New units of the model a day; default: counted from the log.")
    ] = None,
    rate: Annotated[list[str] | None, typer.Option("--rate", help="METRIC=2%: rate of bad events now; default: from the log, else assumed.")] = None,
    sample: Annotated[int, typer.Option("--sample", min=100, max=1_000_000, help="Units assigned before and after.")] = 10_000,
    hours: Annotated[float, typer.Option("--hours", min=0.001, help="How much of the log's end the dry run takes.")] = 24.0,
    records: Annotated[str | None, typer.Option("--records", metavar="FIRST:END", help="A range of the log for the dry run, instead.")] = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Say who moves, what can be shown by which week, who has to approve, and whether the deadline is long enough.

    Where there is a log, yesterday's calls are drawn again under the plan: who would have been where, and the rates they had. Nothing is called.

    Example: assay experiment plan credit-v4 --units-per-day 20000 --rate errors=1%
    """
    from experiments.forecast import forecast  # noqa: PLC0415
    from experiments.movement import moved  # noqa: PLC0415 - NumPy and SciPy, only when asked for

    layout = layout_of(directory)
    compiled = compile_folder(layout.config)
    if compiled.manifest is None:
        for issue in compiled.issues:
            err.print(str(issue), markup=False, soft_wrap=True)
        fail("a configuration with problems cannot be planned", hint=f"assay check {directory}", code=Exit.NO)
    digest = compiled.manifest.experiments.get(name)
    if digest is None:
        fail(f"there is no experiment `{name}`", hint=f"configured: {', '.join(sorted(compiled.manifest.experiments)) or 'none'}")
    document = msgspec.json.decode(compiled.objects[digest], type=ExperimentDocument)
    rehearsed = rehearse(_data(layout, compiled), document, hours=hours, records=records)
    known = _rates(rate or [])
    if rehearsed is not None:
        units_per_day = units_per_day or rehearsed.units_per_day
        known = {**rehearsed.rates, **known}
    is_undeclared = document.external is not None and not document.steps[0].shares
    foreseen = None if units_per_day is None or is_undeclared else forecast(document, units_per_day=units_per_day, rates=known)
    before, step = _in_force(layout, compiled, name)
    movement = moved(before, document, sample=sample, step=step)
    unapproved = unapproved_arms(layout, compiled, document)
    told = {
        "experiment": name,
        "units_per_day": units_per_day,
        "moved": [{"before": before, "after": after, "units": units} for (before, after), units in movement.pairs.items()],
        "between_arms": movement.between_arms(),
        "to_version": movement.to_version(before, document, _default_version(compiled, document.model)),
        "sample": sample,
        "approvals_missing": list(unapproved.values()),
        "dry_run": None if rehearsed is None else msgspec.to_builtins(rehearsed),
        "forecast": None if foreseen is None else msgspec.to_builtins(foreseen, str_keys=True),
        "not_identified": [
            metric.metric for metric in (*document.guardrails, *(() if document.goal is None else (document.goal,))) if not metric.is_identified
        ],
        "too_short_for": [] if foreseen is None else [one.metric for one in foreseen.too_short_for],
    }
    if json_flag:
        emit_json(_finite(told))
    else:
        _show(document, told, foreseen)
        if rehearsed is not None:
            show(rehearsed, unapproved)
    if unapproved or told["too_short_for"]:
        raise typer.Exit(int(Exit.NO))


def _rates(texts: list[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        metric, _, value = text.partition("=")
        try:
            rate = float(value.removesuffix("%")) / 100 if value.endswith("%") else math.nan
        except ValueError:
            rate = math.nan
        if not metric or not 0 < rate < 1:
            fail(f"`{text}` is not a rate", hint="write METRIC=2%, above 0% and below 100%")
        found[metric] = rate
    return found


def _data(layout: Layout, compiled: Compiled) -> Path:
    store = compiled.gateway.store_directory if compiled.gateway else None
    return layout.resolve(store or "data")


def _in_force(layout: Layout, compiled: Compiled, name: str) -> tuple[ExperimentDocument | None, int]:
    """Return what draws units now, and the step it is on; of a draft, and of what has ended, that is nothing."""
    from gateway.live import decode as decode_live  # noqa: PLC0415 - the lane's modules, only when asked for

    control = ControlDirectory(_data(layout, compiled))
    try:
        current = control.current()
        if current is None:
            return None, 0
        stored = decode_live(control.get_live(current.live)).experiments.get(name)
        live = None if stored is None else msgspec.json.decode(stored, type=LiveExperiment)
        digest = decode(control.get(current.manifest), Manifest).experiments.get(name)
        if digest is None or live is None or live.phase not in ("running", "paused"):
            return None, 0
        return msgspec.json.decode(control.get(digest), type=ExperimentDocument), live.step
    except (ControlError, ValueError, OSError):
        return None, 0


def _default_version(compiled: Compiled, model: str) -> str:
    manifest = compiled.manifest
    if manifest is None or model not in manifest.models:
        return ""
    return decode(compiled.objects[manifest.models[model]], RouteDocument).default_version


def _show_movement(document: ExperimentDocument, told: dict[str, Any]) -> None:
    if document.external is not None:
        out.print(f"Whom it moves `{document.external.system}` decides, call by call.", markup=False)
        return
    out.print(f"Who moves, of {told['sample']} units, on the first step (before -> after):")
    for row in told["moved"]:
        stays = "" if row["before"] != row["after"] else " (stay)"
        out.print(f"  {row['before']} -> {row['after']}: {row['units']}{stays}", markup=False)
    out.print(f"  between arms: {told['between_arms']}")
    for version, units in told["to_version"].items():
        out.print(f"  served by version {version} instead of another: {units}", markup=False)
    if not told["to_version"]:
        out.print("  served by another version than now: 0")


def _show(document: ExperimentDocument, told: dict[str, Any], foreseen: Forecast | None) -> None:
    out.print(f"{document.experiment}: {document.strategy.replace('_', ' ')} on {document.model}", markup=False)
    _show_movement(document, told)
    for line in told["approvals_missing"]:
        out.print(f"Approval missing: {line}", markup=False, soft_wrap=True)
    for name in told["not_identified"]:
        said = "labels come for some calls only (`labels.observed_when` of the model), and each version decides which: it can never be proven"
        out.print(f"{name}: {said}. Use a metric with `missing: zero`.", markup=False, soft_wrap=True)
    if foreseen is None:
        why = "less than ten minutes of this model's traffic are in the log; say it with --units-per-day N"
        if document.external is not None and not document.steps[0].shares:
            why = f"`{document.external.system}` declares no split, and without one nothing is tested"
        out.print(f"What can be shown is unknown: {why}.", markup=False, soft_wrap=True)
        return
    out.print(f"At {told['units_per_day']:,.0f} new units a day, looking whenever you like, with 80 % power:", markup=False)
    weeks = ", ".join(f"week {week}: {units:,}" for week, units in foreseen.units_by_week.items())
    out.print(f"  units an arm: {weeks}", markup=False, soft_wrap=True)
    for one in foreseen.metrics:
        said = "assumed" if one.is_assumed else "seen"
        sizes = ", ".join(f"{week}: {100 * gap:.2f} pp" if gap < 1 else f"{week}: nothing" for week, gap in one.detectable.items())
        out.print(f"  {one.metric} ({one.role}, {100 * one.rate:.2g} % {said}): smallest rise found by week {sizes}", markup=False, soft_wrap=True)
        if one.needed_units is not None and one.margin is not None and one.needed_days is not None:
            when = f"after {one.needed_days:.1f} days" if math.isfinite(one.needed_days) else "never on this ramp"
            out.print(f"    margin {100 * one.margin:g} pp takes {one.needed_units:,} units an arm: {when}", markup=False, soft_wrap=True)
    for one in foreseen.too_short_for:
        out.print(
            f"Too short: the deadline of {foreseen.deadline_days:g} days passes before the margin of {one.metric} can be proven; "
            "it would end undecided although nothing is wrong with the challenger.",
            markup=False,
            soft_wrap=True,
        )


def _finite(value: Any) -> Any:
    """Return JSON without infinities: what never happens is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
