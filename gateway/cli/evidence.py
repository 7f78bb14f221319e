"""`assay audit export` and `verify-bundle`: records with their proofs in one file, and the check of such a file from a stranger."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from audit.bundle import RECORDS_LIMIT, BundleContradicted, BundleError, BundleVerdict, make_bundle, verify_bundle
from audit.entry import time_text
from audit.note import open_checkpoint
from audit.query import Query, QueryError, question
from audit.source import CHECKPOINT, LogSource, open_directory
from gateway.cli.opening import Keys, OriginOption, VkeyOption, WitnessOption, given_keys, keys_for, read_file, told_as
from gateway.cli.query import DEFAULT_DATA, DataOption, check_data, opened, told_errors
from gateway.cli.recorded import record_read
from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out


def register(app: typer.Typer) -> None:
    """Add `export` and `verify-bundle` to the `audit` group."""
    app.command("export")(export)
    app.command("verify-bundle")(verify)


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the bundle (zip).")],
    where: Annotated[list[str] | None, typer.Option("--where", help="A condition as in `query`: `policy=deny`. Repeat: all must hold.")] = None,
    span: Annotated[str | None, typer.Option("--range", help="Every record from FIRST up to END: `FIRST:END`. Nothing is left out.")] = None,
    known: Annotated[Path | None, typer.Option("--known", help="A head that the receiver holds; the bundle proves that the log extends it.")] = None,
    vkey: VkeyOption = None,
    witness: WitnessOption = None,
    origin: OriginOption = None,
    data: DataOption = DEFAULT_DATA,
    full: Annotated[bool, typer.Option("--full-scan", help="Read every leaf instead of the index.")] = False,  # noqa: FBT002 - typer reads it as a flag
    as_json: JsonFlag = False,  # noqa: FBT002 - typer reads it as a flag
) -> None:
    """Write an evidence bundle: records, proofs, the signed head, and programs that check it with OpenSSL or Go alone.

    Records of a question prove that they are there, never that there are no others; a range proves that nothing in it is left out.

    Example: assay audit export --where decision=019a83c0-7a3b-7c11-8d2e-3f1b2a4c5d6e -o case-4711.zip
    """
    check_data(data)
    source = open_directory(data)
    keys = keys_for(str(data), vkey, witness)
    with told_as(Exit.NO):
        size = _signed_size(source, keys, origin)
    ends = None if span is None else _span(span, size)
    if ends is not None and where:
        fail("`--range` holds every record: it takes no `--where`")
    with told_errors():
        asked = question(_conditions(where or ()), oldest_first=True)
        indices = list(range(*ends)) if ends else _found(data, asked, size, full=full)
    stated: dict[str, Any] = {"range": span} if span else asked.stated()
    record_read(data, "export", question=stated, size=size, rows=len(indices), full_scan=full)
    made = time_text(time.time_ns() // 1000)
    kept = read_file(known) if known else None
    with told_as(Exit.NO):
        try:
            bundle = make_bundle(
                source, keys.log, indices, question=stated, made=made, span=ends, witnesses=keys.witnesses, known_checkpoint=kept, origin=origin
            )
        except BundleError as error:
            fail(str(error), code=Exit.NO)
    output.write_bytes(bundle)
    if as_json:
        emit_json({"file": str(output), "kind": "range" if ends else "selection", "records": len(indices), "size": size, "bytes": len(bundle)})
    else:
        out.print(f"{len(indices)} records of {size} with their proofs: {output} ({len(bundle):,} bytes)", markup=False, soft_wrap=True)


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The zip file.")],
    vkey: Annotated[list[str], typer.Option("--vkey", help="Verification key of the log, or a key policy (text or file).")],
    witness: WitnessOption = None,
    known: Annotated[Path | None, typer.Option("--known", help="A head of this log that you kept from earlier.")] = None,
    origin: OriginOption = None,
    extract: Annotated[Path | None, typer.Option("--extract", help="Write the proven records into this new folder.")] = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Check a bundle with nothing but the log's key. Nothing of it is run, and nothing is unpacked unless asked and proven.

    Exit codes: 0 every record is proven and answers the question the bundle states; 1 one is not or does not, or this is no bundle.

    Example: assay audit verify-bundle case-4711.zip --vkey log.vkey
    """
    keys = given_keys(vkey, witness)
    kept = read_file(known) if known else None
    with told_as(Exit.NO):
        try:
            with bundle.open("rb") as file:
                verdict = verify_bundle(file, keys.log, keys.witnesses, known_checkpoint=kept, origin=origin)
        except BundleContradicted as error:
            fail(f"contradicted: {error}", code=Exit.NO)
        except BundleError as error:
            fail(str(error), code=Exit.NO)
        except OSError as error:
            fail(f"cannot read `{bundle}`: {error.strerror}")
    if extract is not None:
        _extract(verdict, extract)
    _print(verdict, as_json=json_flag)


def _print(verdict: BundleVerdict, *, as_json: bool) -> None:
    head = verdict.head.checkpoint
    seen = [{"name": one.key.name, "time_s": one.time_s} for one in verdict.head.cosignatures]
    if as_json:
        emit_json(
            {
                "origin": head.origin,
                "size": head.size,
                "root": head.root.hex(),
                "kind": verdict.kind,
                "first": verdict.first,
                "end": verdict.end,
                "complete": verdict.is_complete,
                "answers": True,  # one that does not is refused
                "question": dict(verdict.question),
                "records": sorted(verdict.leaves),
                "extends": verdict.extends_size,
                "cosignatures": seen,
            }
        )
        return
    out.print(f"[green]ok[/]  {len(verdict.leaves)} records are in {escape(head.origin)} at size {head.size}", soft_wrap=True)
    if verdict.is_complete:
        out.print(f"[green]ok[/]  they are every record from {verdict.first} up to {verdict.end}", soft_wrap=True)
    else:
        asked = " ".join(f"{name}={value}" for name, value in sorted(verdict.question.items()) if name != "oldest_first")
        out.print(f"[green]ok[/]  each of them answers the question: {escape(asked or 'every record')}", soft_wrap=True)
        out.print("    a selection: nothing says that no other record answers the question", markup=False, soft_wrap=True)
    if verdict.extends_size is not None:
        out.print(f"[green]ok[/]  the log extends your head of size {verdict.extends_size}", soft_wrap=True)
    for one in seen:
        out.print(f"    witness {one['name']} saw that head at POSIX time {one['time_s']}", markup=False, soft_wrap=True)


def _extract(verdict: BundleVerdict, folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        fail(f"`{folder}` exists", hint="name a new folder: what lies there already was not proven")
    for index, leaf in verdict.leaves.items():
        (folder / f"{index:08d}.leaf").write_bytes(leaf)


def _signed_size(source: LogSource, keys: Keys, origin: str | None) -> int:
    note = source.read(CHECKPOINT)
    if note is None:
        fail("the log has no checkpoint", code=Exit.NO)
    return open_checkpoint(note, keys.log, keys.witnesses, origin=origin).checkpoint.size


def _span(text: str, size: int) -> tuple[int, int]:
    first, _, end = text.partition(":")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end) <= size):
        fail(f"`{text[:60]}` is not a range of this log", hint=f"--range FIRST:END with FIRST below END, and END at most {size}")
    if int(end) - int(first) > RECORDS_LIMIT:
        fail(f"a bundle holds at most {RECORDS_LIMIT} records", hint="for more, hand over the log itself")
    return int(first), int(end)


def _conditions(where: list[str] | tuple[str, ...]) -> dict[str, str | None]:
    given: dict[str, str | None] = {}
    for one in where:
        name, separator, value = one.partition("=")
        if not separator or name in given:
            raise QueryError(f"`{one[:60]}` is not a condition of its own", "write `--where name=value`, each name once")
        given[name] = value
    return given


def _found(data: Path, asked: Query, size: int, *, full: bool) -> list[int]:
    """Return the indices of the records that answer, below the signed size."""
    with opened(data, full=full) as ask:
        page = ask(asked, RECORDS_LIMIT, None)
    if page.cursor is not None:
        fail(f"more than {RECORDS_LIMIT} records answer", hint="narrow the question, or hand over the log itself", code=Exit.NO)
    indices = [row.idx for row in page.rows if row.idx < size]
    if not indices:
        fail("no record answers the question", hint="`assay audit query` tells what there is; the head is a second behind", code=Exit.NO)
    if len(indices) < len(page.rows):
        err.print(f"note: {len(page.rows) - len(indices)} records are younger than the signed head and left out", markup=False, soft_wrap=True)
    return indices
