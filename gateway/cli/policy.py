"""`assay policy`: what an author of policies needs, on files alone; no gateway has to run.

Each command imports what it needs when it runs: the engine and its built-ins are not for `--help`. Screens are made in `policy_screens`.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import textwrap
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out

if TYPE_CHECKING:
    from policies.lint.subject import LintRule
    from policies.sources import Sources
    from policies.templates import Template
    from policies.testing.run import Suite

app = typer.Typer(no_args_is_help=True, help="Write, check and try policies.")

FOLDER = Path("config/policies")
PARAMETERS = "params.yaml"
_TONES = {"plain": "", "good": "green", "bad": "bold red", "quiet": "dim"}
PoliciesArgument = Annotated[
    list[Path] | None, typer.Argument(metavar="POLICY...", help=f"`.rego` files or folders of them. Default: `{FOLDER}`.", show_default=False)
]
DataOption = Annotated[
    list[Path] | None, typer.Option("--data", "-d", metavar="FILE", help="Base document: a JSON or YAML file, or a folder filed by its subfolders.")
]
InputOption = Annotated[Path | None, typer.Option("--input", "-i", metavar="FILE", help="The input document, JSON or YAML.")]
NowOption = Annotated[int | None, typer.Option("--now", metavar="NS", help="What `time.now_ns()` answers, nanoseconds since 1970; default: now.")]


@app.command("new")
def new(
    template: Annotated[str | None, typer.Argument(metavar="[TEMPLATE]", help="Without one, the templates are listed.")] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of the package, for example `night_shift`.")] = None,
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Folder of the policies.")] = FOLDER,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Begin a policy from a template: rules with comments, tests, cases, parameters, an example input. It begins in mode `dryrun`.

    Example: assay policy new residency where_data_lives
    """
    from policies.templates import NoSuchTemplate, make, templates  # noqa: PLC0415 - the engine, only when it is asked

    if template is None:
        _print_templates(templates(), json_flag=json_flag)
        return
    try:
        made = make(template, name)
    except NoSuchTemplate as error:
        fail(str(error), hint="`assay policy new` lists the templates")
    params = made.pop(PARAMETERS)
    _write_new(folder, made, params)
    package = next(file for file in made if not file.endswith(("_test.rego", ".yaml", ".json"))).removesuffix(".rego")
    if json_flag:
        emit_json({"package": f"policy.{package}", "files": sorted(str(folder / file) for file in [*made, PARAMETERS])})
        return
    for file in [*made, PARAMETERS]:
        out.print(f"  {folder / file}", markup=False, soft_wrap=True)
    where = "" if folder == FOLDER else f" {folder}"
    out.print(f"Package policy.{package} is written. Read {package}.rego, fill in {PARAMETERS}, then:", markup=False, soft_wrap=True)
    out.print(f"  assay policy test{where}", markup=False, soft_wrap=True)
    out.print(f"  assay policy explain data.policy.{package}{where} --input {folder / f'{package}_input.json'}", markup=False, soft_wrap=True)
    more = f"its METADATA, or `modes: {{{package}: warn}}` in {folder / 'modes.yaml'}, says when it is to do more"
    out.print(
        f"A saved file is in force within a second. This one is `dryrun`, which records and refuses nothing; {more}.", markup=False, soft_wrap=True
    )


def _print_templates(found: list[Template], *, json_flag: bool) -> None:
    if json_flag:
        emit_json([{"template": one.name, "package": one.package, "title": one.title, "description": one.description} for one in found])
        return
    for one in found:
        out.print(f"[bold]{one.name}[/]  {one.title}", markup=True)
        out.print(textwrap.fill(one.description, 100, initial_indent="  ", subsequent_indent="  ") + "\n", markup=False, soft_wrap=True)
    out.print("Begin one with: assay policy new TEMPLATE NAME", markup=False)


def _write_new(folder: Path, made: dict[str, str], params: str) -> None:
    """Write files that do not exist yet, and add parameters to those that do; nothing is overwritten."""
    from policies.sources import read_document  # noqa: PLC0415 - the engine, only when it is asked

    file = folder / PARAMETERS
    with _files_named():
        known = read_document(file) if file.exists() else {}
    key = params.partition(":")[0]
    taken = [path for path in made if (folder / path).exists()]
    if taken or key in (known or {}):
        fail(f"`{folder / taken[0] if taken else file}` exists already", hint="give the package another name: nothing is ever overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in made.items():
        _write(folder / path, text)
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    if before.strip() in {"", "{}"}:
        _write(file, params)
    else:
        _write(file, before.rstrip("\n") + "\n\n" + params)
    with _files_named():
        read_document(file)


@app.command("check")
def check(
    policies: PoliciesArgument = None,
    data: DataOption = None,
    schema: Annotated[Path | None, typer.Option("--schema", metavar="FILE", help="JSON Schema of the input; other paths are errors.")] = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Check policies: syntax, names, safety, and the ways a policy silently opens.

    Example: assay policy check config/policies --data params.json
    """
    from policies.check import check as find  # noqa: PLC0415 - the engine, only when it is asked
    from policies.sources import read_document  # noqa: PLC0415 - as above

    sources = _some_modules(_sources(policies, data))
    with _files_named():
        issues = find(sources, None if schema is None else read_document(schema))
    errors = sum(issue.severity == "error" for issue in issues)
    if json_flag:
        emit_json({"ok": not errors, "modules": len(sources.modules), "issues": [_issue(issue) for issue in issues]})
    else:
        for issue in issues:
            out.print(issue.render() + "\n", markup=False, soft_wrap=True)
        for line in _on_parameters(sources, policies or [FOLDER], missed=any("`data.params" in issue.message for issue in issues)):
            out.print(line, markup=False, soft_wrap=True)
        found = f"{_count(errors, 'error')}, {_count(len(issues) - errors, 'warning')}"
        out.print(f"{'refused' if errors else 'ok'}: {_count(len(sources.modules), 'module')}, {found}", markup=False)
    if errors:
        raise typer.Exit(int(Exit.NO))


@app.command("lint")
def lint(
    policies: PoliciesArgument = None,
    without: Annotated[list[str] | None, typer.Option("--without", metavar="RULE", help="A rule that does not run; may be repeated.")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="RULE", help="Run this rule alone; may be repeated.")] = None,
    *,
    rules: Annotated[bool, typer.Option("--rules", help="List the rules with their reasons, and stop.")] = False,
    json_flag: JsonFlag = False,
) -> None:
    """Find what the language allows and an author regrets: traps, leaks, untested reasons, hard reading.

    Silence one place by a comment with a reason: # lint: ignore truthy-input the gateway always sets it

    Example: assay policy lint config/policies --without line-length
    """
    from policies.lint.run import known_rules  # noqa: PLC0415 - the engine, only when it is asked
    from policies.lint.run import lint as find  # noqa: PLC0415 - as above
    from policies.rego import PolicyError  # noqa: PLC0415 - as above

    known = known_rules()
    if rules:
        _print_rules(known.values(), json_flag=json_flag)
        return
    for name in [*(without or []), *(only or [])]:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            fail(f"there is no rule `{name}`", hint=f"did you mean `{near[0]}`?" if near else "`assay policy lint --rules` lists them")
    sources = _some_modules(_sources(policies, None))
    try:
        issues = find(sources.modules, sources.cases.values(), without=without or (), only=only or ())
    except PolicyError as error:
        err.print(str(error), markup=False, soft_wrap=True)
        fail("what is no Rego cannot be linted", hint="`assay policy check` tells every finding")
    if json_flag:
        emit_json({"ok": not issues, "modules": len(sources.modules), "issues": [_issue(issue) for issue in issues]})
    else:
        for issue in issues:
            out.print(issue.render() + f"\nwhy: {known[issue.rule].reason}\n", markup=False, soft_wrap=True)
        out.print(f"{_count(len(sources.modules), 'module')}, {len(known)} rules: {_count(len(issues), 'finding')}", markup=False)
    if issues:
        raise typer.Exit(int(Exit.NO))


def _print_rules(known: Iterable[LintRule], *, json_flag: bool) -> None:
    if json_flag:
        emit_json([{"id": rule.id, "title": rule.title, "reason": rule.reason} for rule in known])
        return
    for rule in known:
        out.print(f"[bold]{rule.id}[/]", markup=True)
        out.print(f"  {rule.title}\n  {rule.reason}", markup=False, soft_wrap=True)


@app.command("test")
def run_tests(
    policies: PoliciesArgument = None,
    data: DataOption = None,
    run: Annotated[str, typer.Option("--run", "-r", metavar="REGEX", help="Only tests whose package and name this finds.")] = "",
    threshold: Annotated[float | None, typer.Option("--threshold", min=0, max=100, help="Percent of lines and of rules to be reached.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit XML report for CI.")] = None,
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List tests that pass, with their times.")] = False,
    removal: Annotated[bool, typer.Option("--removal/--no-removal", help="Look for parts whose removal no test notices.")] = True,
    lenient: Annotated[bool, typer.Option("--lenient", help="Errors of built-ins are undefined, as in `opa test`; the gateway denies.")] = False,
    json_flag: JsonFlag = False,
) -> None:
    """Run the tests of policies; say what failed and why, what no test reached, and what no test would miss.

    Example: assay policy test config/policies --threshold 90 --junit report.xml
    """
    import re  # noqa: PLC0415 - for the error of a pattern alone

    from policies.rego import PolicyError  # noqa: PLC0415 - the engine, only when it is asked
    from policies.testing import report as reports  # noqa: PLC0415 - as above
    from policies.testing.screen import lines  # noqa: PLC0415 - as above

    sources = _some_modules(_sources(policies, data))
    try:
        suite = _suite(sources, lenient=lenient)
        found = reports.run_tests(suite, only=run, mutation=removal, threshold=threshold, on_result=lambda _: None)
    except PolicyError as error:
        err.print(str(error), markup=False, soft_wrap=True)
        fail("the policies do not load, so no test was run", hint="`assay policy check` tells every finding")
    except re.error as error:
        fail(f"`--run {run}` is no regular expression: {error}")
    if junit is not None:
        with _files_named():
            _write(junit, reports.as_junit(found))
    if json_flag:
        emit_json(reports.as_json(found))
    else:
        for text, tone in lines(found, verbose=verbose):
            out.print(text, style=_TONES[tone], markup=False, soft_wrap=True)
    if not found.ok:
        raise typer.Exit(int(Exit.NO))


@app.command("eval")
def evaluate(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="For example `data.policy.approval.allow`.")],
    policies: PoliciesArgument = None,
    data: DataOption = None,
    input_file: InputOption = None,
    now_ns: NowOption = None,
    *,
    strict_errors: Annotated[bool, typer.Option("--strict-builtin-errors", help="An error of a built-in is an error, not undefined.")] = False,
) -> None:
    """Evaluate a query and print the result set as `opa eval` does; `{}` when undefined.

    Example: assay policy eval data.policy.office.deny config/policies --input call.json
    """
    from policies.rego import Engine, RegoError  # noqa: PLC0415 - the engine, only when it is asked
    from policies.rego.resultset import error_set, pretty, result_set  # noqa: PLC0415 - as above

    sources, document = _sources(policies or [], data), _input(input_file)
    try:
        engine = Engine(sources.modules, sources.data, strict_builtin_errors=strict_errors)
        found = result_set(engine, query, document, _now(now_ns))
    except RegoError as error:
        typer.echo(pretty(error_set(error)))
        err.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(int(Exit.USAGE)) from None
    typer.echo(pretty(found))


@app.command("explain")
def explain(
    query: Annotated[str, typer.Argument(metavar="QUERY|DECISION_ID", help="`data.policy.approval.allow`, or the id of a recorded decision.")],
    policies: PoliciesArgument = None,
    data: DataOption = None,
    input_file: InputOption = None,
    now_ns: NowOption = None,
    log: Annotated[Path, typer.Option("--log", metavar="DIR", help="Data directory of the gateway that recorded the decision.")] = Path("data"),
    path: Annotated[str | None, typer.Option("--path", help="Path of the call, where a policy read it: records do not tell it.")] = None,
    *,
    full: Annotated[bool, typer.Option("--full", help="Show what held too, with its values.")] = False,
    json_flag: JsonFlag = False,
) -> None:
    """Say why a query has the answer it has, or a recorded decision: rules, their expressions, the values they saw.

    A decision is run again on the bundle that decided it: exit code 1 where the record contradicts itself, 3 where it cannot be put together again.

    Example: assay policy explain data.policy.office.allow config/policies --input call.json
    """
    from gateway.cli.policy_decision import explain_decision, is_decision  # noqa: PLC0415 - the log, only when it is asked

    if is_decision(query):
        explain_decision(query, log, path, full=full, as_json=json_flag)
        return
    from policies.explanation import as_json  # noqa: PLC0415 - the engine, only when it is asked
    from policies.explanation import explain as trace  # noqa: PLC0415 - as above
    from policies.rego import UNDEFINED, PolicyError  # noqa: PLC0415 - as above

    sources, document = _sources(policies, data), _input(input_file)
    try:
        found = trace(sources, query, document, now_ns=_now(now_ns), full=full)
    except PolicyError as error:
        err.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(int(Exit.USAGE)) from None
    if json_flag:
        emit_json(as_json(found))
        return
    out.print(found.text or "No rule was asked.", markup=False, soft_wrap=True)
    if found.value is UNDEFINED:
        out.print(f"\n{query} is undefined: {found.error or 'no rule gives it a value'}", markup=False, soft_wrap=True)
        if not found.text and query.startswith("data."):
            err.print("hint: is the name right? `assay policy eval data --input FILE POLICY` shows every document", markup=False, soft_wrap=True)
    else:
        from policies.rego.resultset import pretty  # noqa: PLC0415 - as above

        out.print(f"\n{query} = {pretty(as_json(found)['result'])}", markup=False, soft_wrap=True)


@app.command("bench")
def bench(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="For example `data.policy.approval.allow`.")],
    policies: PoliciesArgument = None,
    data: DataOption = None,
    inputs: Annotated[list[Path] | None, typer.Option("--input", "-i", metavar="FILE", help="An input document; several take turns.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000_000, help="Evaluations to time.")] = 5_000,
    now_ns: NowOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Time a query: microseconds per evaluation, with nothing remembered in between.

    Example: assay policy bench data.policy.approval.allow config/policies --input call.json
    """
    from policies.bench import QUANTILES, as_json  # noqa: PLC0415 - the engine, only when it is asked
    from policies.bench import bench as measure  # noqa: PLC0415 - as above
    from policies.rego import RegoError  # noqa: PLC0415 - as above

    sources, documents = _sources(policies, data), [_input(path) for path in inputs or ()] or [_input(None)]
    try:
        found = measure(sources, query, documents, count=count, now_ns=_now(now_ns))
    except RegoError as error:
        err.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(int(Exit.USAGE)) from None
    told = as_json(found)
    if json_flag:
        emit_json(told)
        return
    out.print(f"{query}: {count:,} evaluations, {_count(found.inputs if inputs else 0, 'input')}", markup=False)
    for share in QUANTILES:
        out.print(f"  {share * 100:>5g} % within {found.quantile_ns(share) / 1000:>10,.1f} µs", markup=False)
    out.print(f"  the slowest    {found.times_ns[-1] / 1000:>10,.1f} µs", markup=False)
    out.print(f"  {_count(found.modules, 'module')} compiled in {found.compile_ns / 1e6:,.1f} ms", markup=False)
    out.print(f"  answer: {_short_answer(told)}", markup=False, soft_wrap=True)
    if found.reads:
        out.print(f"  reads: {', '.join(found.reads)}", markup=False, soft_wrap=True)
        remembered = "no, it reads the clock" if found.reads_clock else "yes, while what it reads stays the same"
        out.print(f"  remembered by the gateway: {remembered}", markup=False)


@app.command("publish")
def publish(
    config: Annotated[Path, typer.Option("--config", metavar="FOLDER", help="The configuration whose policies are meant.")] = Path("config"),
    to: Annotated[str | None, typer.Option("--to", metavar="URL", help="A running OPA, for example http://127.0.0.1:8181.")] = None,
    archive: Annotated[Path | None, typer.Option("--archive", metavar="FILE", help="Write a bundle that OPA loads.")] = None,
    token_file: Annotated[Path | None, typer.Option("--token-file", metavar="FILE", help="Bearer token for the server.")] = None,
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Change nothing: read back what stands on the server.")] = False,
    json_flag: JsonFlag = False,
) -> None:
    """Put the policies in force and their parameters into an OPA server, or into a bundle for it.

    Example: assay policy publish --to http://127.0.0.1:8181
    """
    from gateway.cli.policy_publish import publish_policies  # noqa: PLC0415 - the engine and the client, only when asked

    publish_policies(config, to, archive, token_file, verify_only=verify, as_json=json_flag)


def _short_answer(told: dict[str, Any]) -> str:
    text = json.dumps(told["answer"], ensure_ascii=False, default=str) if "answer" in told else "undefined"
    return text if len(text) <= 100 else text[:99] + "…"


def _suite(sources: Sources, *, lenient: bool) -> Suite:
    from policies.check import with_shipped  # noqa: PLC0415 - the engine, only when it is asked
    from policies.testing.cases import load_cases  # noqa: PLC0415 - as above
    from policies.testing.run import Suite  # noqa: PLC0415 - as above

    with _files_named():
        cases = [case for file, text in sources.cases.items() for case in load_cases(file, text)]
    return Suite(with_shipped(sources.modules), sources.data, cases, own=sources.modules, lenient=lenient, now_ns=time.time_ns())


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"`{path}` cannot be written: {error.strerror}")


def _sources(policies: list[Path] | None, data: list[Path] | None) -> Sources:
    """Read what the command line names; without a policy, those of the configuration."""
    from policies.sources import read_sources  # noqa: PLC0415 - the engine, only when it is asked

    if policies is None and not FOLDER.is_dir():
        fail(f"no policy is named, and there is no `{FOLDER}` here", hint="name files or folders: `assay policy check rules/`")
    with _files_named():
        return read_sources([FOLDER] if policies is None else policies, data or [])


def _on_parameters(sources: Sources, named: list[Path], *, missed: bool) -> list[str]:
    """Say where `data.params` came from when that is not one of the folders named, or that there is none and something was missed in it."""
    elsewhere = [file for file in sources.parameters if Path(file).parent not in named]
    if elsewhere:
        return [f"`data.params` is {', '.join(f'`{file}`' for file in elsewhere)}"]
    if missed and "params" not in sources.data:
        return ["there is no `data.params`: no `params.yaml` lies in what was named", "hint: name the folder of the policies, as `config/policies`"]
    return []


def _input(path: Path | None) -> Any:
    from policies.rego import UNDEFINED  # noqa: PLC0415 - the engine, only when it is asked
    from policies.sources import read_document  # noqa: PLC0415 - as above

    with _files_named():
        return UNDEFINED if path is None else read_document(path)


def _now(now_ns: int | None) -> int:
    return time.time_ns() if now_ns is None else now_ns


def _some_modules(sources: Sources) -> Sources:
    """Refuse to judge nothing: a folder misspelt would pass."""
    if not sources.modules:
        fail("there is no `.rego` file in what was named", hint="a folder is read with its subfolders; hidden ones are left out")
    return sources


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


@contextlib.contextmanager
def _files_named() -> Iterator[None]:
    """Turn what is wrong with a file into the command's usage error."""
    from policies.sources import SourceError  # noqa: PLC0415 - the engine, only when it is asked

    try:
        yield
    except SourceError as error:
        fail(str(error), hint=error.hint or None)


def _issue(issue: Any) -> dict[str, Any]:
    return {name: getattr(issue, name) for name in ("rule", "severity", "message", "file", "line", "column", "hint", "snippet")}
