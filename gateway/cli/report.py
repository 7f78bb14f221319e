"""`assay report`: what the log says about models and how they are run, as JSON, Markdown or one HTML file.

A report is a function of the first N leaves. Without `--size` N is that of the newest signed checkpoint, so that a report never speaks of more than
is signed; where nothing is signed yet, it is what is committed. The same N gives the same bytes.

A report is a read of the log by a person: it is recorded before it is shown, with what it was asked for, as any other question is.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from audit import note
from audit.evaluation import Scope
from audit.evaluation.labels import TooManyLabels
from audit.follow import follow
from audit.keys import InvalidKey, SigningKey, read_secret_file
from audit.maturity import framework_names
from audit.reports.build import evaluation_report, maturity_report
from audit.reports.document import report_bytes, signed_note
from audit.reports.render import render_html, render_markdown
from audit.reports.state import LogMismatchError, LogState, compared, pin
from audit.store.control import latest_head
from audit.store.errors import StoreError
from experiments.wording import recorded_forms
from gateway.cli.query import DEFAULT_DATA, DataOption, check_data
from gateway.cli.recorded import record_read
from gateway.cli.terminal import Exit, JsonFlag, err, fail
from gateway.documents import Manifest, RouteDocument
from gateway.processes.control import ControlDirectory, ControlError

app = typer.Typer(no_args_is_help=True, help="What the log says: evaluation, experiments, maturity.")

ModelOption = Annotated[str | None, typer.Option("--model", help="Only this model.")]
SizeOption = Annotated[int | None, typer.Option("--size", min=0, help="Only the first N leaves; the default is the newest signed checkpoint.")]
FormatOption = Annotated[Literal["json", "md", "html"], typer.Option("--format", help="`json` is what is signed; the others are made from it.")]
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file instead of standard output.")]
KeyOption = Annotated[
    Path | None, typer.Option("--key", help="Sign with this key file (`PRIVATE+KEY+...`, mode 0600); writes FILE.note beside the JSON.")
]


@app.command("evaluation")
def evaluation(
    data: DataOption = DEFAULT_DATA,
    model: ModelOption = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only calls of this tenant.")] = None,
    positive: Annotated[
        str | None, typer.Option("--positive", help="The positive class, where it is neither `1` of 0/1 nor `true` of false/true.")
    ] = None,
    size: SizeOption = None,
    form: FormatOption = "md",
    output: OutputOption = None,
    key: KeyOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Traffic, refusals, latency and quality. Example: `assay report evaluation --model credit-risk --format html -o evaluation.html`."""

    def make(state: LogState) -> dict[str, Any]:
        routes = _routes(data, state)
        return evaluation_report(
            lambda: follow(data, 0, until=state.size),
            state,
            version=_version(),
            scope=Scope(model, tenant),
            observed_when=None if routes is None else {one.model: one.labels_observed_when for one in routes if one.labels_observed_when is not None},
            positive=positive,
            classes=_classes(routes or []),
        )

    _run(data, size, make, "json" if json_flag else form, output, key, {"report": "evaluation", "model": model, "tenant": tenant})


@app.command("experiment")
def experiment(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the experiment.")],
    data: DataOption = DEFAULT_DATA,
    size: SizeOption = None,
    form: FormatOption = "md",
    output: OutputOption = None,
    key: KeyOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """One experiment: plan, effect, verdict, what would change it. Example: `assay report experiment credit-v4 --format html -o v4.html`."""
    from experiments.history import NoPlanError  # noqa: PLC0415 - SciPy, only when asked for
    from gateway.experiment_report import UnknownExperimentError, experiment_report  # noqa: PLC0415 - SciPy, only when asked for

    def make(state: LogState) -> dict[str, Any]:
        try:
            return experiment_report(lambda: follow(data, 0, until=state.size), state, name, version=_version())
        except (UnknownExperimentError, NoPlanError) as error:
            fail(str(error), hint="`assay audit query --type experiment.start` lists those that have begun", code=Exit.NO)

    _run(data, size, make, "json" if json_flag else form, output, key, {"report": "experiment", "experiment": name})


@app.command("maturity")
def maturity(
    data: DataOption = DEFAULT_DATA,
    model: ModelOption = None,
    framework: Annotated[str, typer.Option("--framework", help=f"One of {', '.join(framework_names())}.")] = "azure",
    size: SizeOption = None,
    form: FormatOption = "md",
    output: OutputOption = None,
    key: KeyOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """The maturity level that the log proves, and the next action. Example: `assay report maturity --format html -o maturity.html`."""
    if framework not in framework_names():
        fail(f"there is no framework `{framework}`", hint=f"choose one of {', '.join(framework_names())}")

    def make(state: LogState) -> dict[str, Any]:
        leaves = lambda: follow(data, 0, until=state.size)  # noqa: E731 - a reader that can be called twice
        return maturity_report(leaves, state, version=_version(), framework_name=framework, model=model)

    _run(data, size, make, "json" if json_flag else form, output, key, {"report": "maturity", "framework": framework, "model": model})


def _run(
    data: Path,
    size: int | None,
    make: Callable[[LogState], dict[str, Any]],
    form: Literal["json", "md", "html"],
    output: Path | None,
    key_path: Path | None,
    asked: Mapping[str, str | None],
) -> None:
    check_data(data)
    if key_path is not None and (form != "json" or output is None):
        fail("a signature needs the JSON report in a file", hint="add `--format json -o report.json`; other formats carry its SHA-256")
    with _errors():
        state = _state(data, size)
        report = make(state)
        canonical = report_bytes(report)
        key = _read_key(key_path) if key_path is not None else None
    question = {name: value for name, value in asked.items() if value is not None}
    record_read(data, "query", question=question, size=state.size, rows=state.size, full_scan=True)
    if form == "json":
        _write(canonical, output)
    else:
        render = render_html if form == "html" else render_markdown
        _write(render(report, canonical).encode(), output)
    if key is not None and output is not None:
        _write(signed_note(report, canonical, key), output.with_name(output.name + ".note"))


def _state(data: Path, size: int | None) -> LogState:
    head = latest_head(data)
    checkpoint = note.Checkpoint.parse(note.parse(head.note).text) if head is not None else None
    wanted = size if size is not None else (checkpoint.size if checkpoint is not None else None)
    return compared(pin(lambda: follow(data, 0, until=wanted), wanted), checkpoint)


def _routes(data: Path, state: LogState) -> list[RouteDocument] | None:
    """Models of the configuration of the newest call, from their objects by digest; None when they are not at hand."""
    if not state.config_digest:
        return []
    control = ControlDirectory(data)
    try:
        manifest = msgspec.json.decode(control.get(state.config_digest), type=Manifest)
        return [msgspec.json.decode(control.get(digest), type=RouteDocument) for digest in manifest.models.values()]
    except (ControlError, msgspec.MsgspecError, OSError) as error:
        err.print(f"[yellow]note:[/] label conditions and declared classes are unknown: {error}", markup=True, soft_wrap=True)
        return None


def _classes(routes: Iterable[RouteDocument]) -> dict[str, dict[str, str]]:
    """Model -> name in records -> class, of declared classes that are recorded under a name."""
    return {one.model: {form: text for text, form in recorded_forms(one.capture.classes).items()} for one in routes if one.capture.classes}


def _read_key(path: Path) -> SigningKey:
    return SigningKey.parse(read_secret_file(path))


def _write(data: bytes, output: Path | None) -> None:
    if output is None:
        typer.echo(data, nl=False)
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        fail(f"`{output}` cannot be written: {error.strerror}", hint="choose another file with `-o`")
    err.print(f"wrote {output} ({len(data)} bytes)", markup=False, soft_wrap=True)


def _version() -> str:
    try:
        return importlib.metadata.version("assay-gateway")
    except importlib.metadata.PackageNotFoundError:
        return "source"  # run from a checkout that is not installed


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except InvalidKey as error:
        fail(str(error), hint="a report is signed with a key file of mode 0600 that begins with `PRIVATE+KEY+`")
    except TooManyLabels as error:
        fail(str(error), hint="narrow the report with `--model` and `--size`", code=Exit.INCOMPLETE)
    except (LogMismatchError, StoreError, note.NoteError) as error:
        fail(str(error), hint="run `assay audit verify`; no report is made from a log that does not fit its checkpoint", code=Exit.NO)
