"""`assay audit` verify, prove, verify-proof, checkpoint, keys: check any C2SP tiled log, ours or another's.

Nothing here needs a running gateway. The key should come from somewhere else than the log; where it comes from the log's
own directory the commands say so, because then they prove that the log is whole and not whose it is.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.markup import escape
from rich.table import Table

from audit.keys import COSIGNATURE_V1, ED25519, InvalidKey, SigningKey, VerifierKey, read_secret, save_signing_key
from audit.merkle import ProofError
from audit.note import NoteError, open_checkpoint
from audit.proof import make_proof, parse_proof, verify_proof
from audit.source import CHECKPOINT, LogSource, SourceError, open_directory, open_url
from audit.tiles import TileError
from audit.verdict import Grade, Verdict
from audit.verify import verify_log
from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out

app = typer.Typer(no_args_is_help=True, help="Check the signed log, without trusting who wrote it.")

HTTP_TIMEOUT_S = 30.0
_FILE_LIMIT_BYTES = 2_000_000

LogArgument = Annotated[str, typer.Argument(metavar="DIR|URL", help="A data directory, a directory with `checkpoint` and `tile/`, or a URL prefix.")]
VkeyOption = Annotated[
    list[str] | None, typer.Option("--vkey", help="Verification key of the log (text, or a file that holds it). Repeat during a key change.")
]
WitnessOption = Annotated[list[str] | None, typer.Option("--witness", help="Verification key of a witness whose cosignature counts.")]
OriginOption = Annotated[str | None, typer.Option("--origin", help="Origin of the log, where it is not the name of its key.")]

TokenOption = Annotated[
    str | None,
    typer.Option("--token", help="Bearer token for a URL whose entries need a role, as `env:NAME` or `file:PATH`."),
]

_COLOURS = {Grade.OK: "green", Grade.FAILED: "bold red", Grade.UNPROVEN: "yellow"}


@app.command("verify")
def verify(
    log: LogArgument,
    vkey: VkeyOption = None,
    known: Annotated[Path | None, typer.Option("--known", help="A checkpoint of this log that you kept from earlier.")] = None,
    witness: WitnessOption = None,
    origin: OriginOption = None,
    token: TokenOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Verify a whole log: the head, every entry, every tile, every record.

    Exit codes: 0 all checks ok; 1 a check failed; 2 usage; 3 something is missing, or freshness is unproven.

    Example: assay audit verify data --vkey log.vkey --known last-month.checkpoint
    """
    kept = _read_file(known) if known else None
    with _opened(log, token) as source:
        keys, witnesses, is_own_key = _keys(log, vkey, witness)
        verdict = verify_log(source, keys, kept, witnesses, None if json_flag else _progress(), origin=origin)
    if is_own_key:
        verdict.independence.doubt(
            "key and witnesses came from the log's own directory: this proves that the log is whole, not whose it is; hint: --vkey and --witness"
        )
    if json_flag:
        emit_json({**verdict.document(), "key_from_log_directory": is_own_key})
    else:
        _print_verdict(verdict)
    raise typer.Exit(verdict.exit_code)


@app.command("prove")
def prove(
    log: LogArgument,
    index: Annotated[int, typer.Argument(help="Index of the leaf, from 0.", min=0)],
    vkey: VkeyOption = None,
    origin: OriginOption = None,
    token: TokenOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write the proof; default: standard output.")] = None,
    leaf_output: Annotated[Path | None, typer.Option("--leaf", help="Where to write the bytes of the leaf.")] = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Write an offline proof that one leaf is in the log (`.tlog-proof`).

    Example: assay audit prove data 41 -o 41.tlog-proof --leaf 41.json
    """
    with _opened(log, token) as source, _told_as(Exit.NO):
        keys, _, _ = _keys(log, vkey, None)
        proof = make_proof(source, index, keys, origin=origin)
        head = open_checkpoint(proof.checkpoint_note, keys, origin=origin).checkpoint
        leaf = source.entry(index, head.size)
    if leaf_output and leaf is not None:
        leaf_output.write_bytes(leaf)
    if output:
        output.write_bytes(proof.encode())
    if json_flag:
        emit_json({"index": index, "size": head.size, "origin": head.origin, "hashes": len(proof.hashes), "proof": proof.encode().decode()})
    elif not output:
        typer.echo(proof.encode().decode(), nl=False)
    else:
        err.print(f"Leaf {index} of {head.size} is proven by {len(proof.hashes)} hashes.", markup=False)


@app.command("verify-proof")
def verify_one(
    proof: Annotated[Path, typer.Argument(metavar="PROOF", help="A `.tlog-proof` file.")],
    leaf: Annotated[Path, typer.Option("--leaf", help="The file with the exact bytes of the leaf.")],
    vkey: Annotated[list[str], typer.Option("--vkey", help="Verification key of the log (text or file).")],
    witness: WitnessOption = None,
    origin: OriginOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Check such a proof with nothing but the log's key.

    Example: assay audit verify-proof 41.tlog-proof --leaf 41.json --vkey log.vkey
    """
    keys, witnesses = [_vkey(text) for text in vkey], [_vkey(text) for text in witness or ()]
    with _told_as(Exit.NO):
        parsed = parse_proof(_read_file(proof))
        head = verify_proof(parsed, _read_file(leaf), keys, witnesses, origin=origin)
    seen = [{"name": one.key.name, "time_s": one.time_s} for one in head.cosignatures]
    if json_flag:
        emit_json({"index": parsed.index, "size": head.checkpoint.size, "origin": head.checkpoint.origin, "cosignatures": seen})
        return
    out.print(f"[green]ok[/]  leaf {parsed.index} is in {escape(head.checkpoint.origin)} at size {head.checkpoint.size}", soft_wrap=True)
    for one in seen:
        out.print(f"    witness {one['name']} saw that head at POSIX time {one['time_s']}", markup=False, soft_wrap=True)


@app.command("checkpoint")
def checkpoint(
    log: LogArgument,
    vkey: VkeyOption = None,
    witness: WitnessOption = None,
    origin: OriginOption = None,
    token: TokenOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Print the log's signed head, verified. Keep it: the next `verify --known` proves that nothing was rewritten since.

    Example: assay audit checkpoint data > 2026-11.checkpoint
    """
    with _opened(log, token) as source, _told_as(Exit.NO):
        keys, witnesses, _ = _keys(log, vkey, witness)
        data = source.read(CHECKPOINT)
        if data is None:
            fail(f"`{log}` has no checkpoint", hint="is this a log, and was anything published?", code=Exit.NO)
        head = open_checkpoint(data, keys, witnesses, origin=origin)
    if not json_flag:
        typer.echo(data.decode(), nl=False)
        return
    seen = [{"name": one.key.name, "time_s": one.time_s} for one in head.cosignatures]
    head_now = head.checkpoint
    emit_json({"origin": head_now.origin, "size": head_now.size, "root": head_now.root.hex(), "cosignatures": seen, "note": data.decode()})


@app.command("keys")
def keys(
    what: Annotated[str | None, typer.Argument(metavar="[DIR|VKEY]", help="A data directory or a verification key to describe.")] = None,
    generate: Annotated[Path | None, typer.Option("--generate", help="Make a new signing key in this file (mode 0600).")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the new key; for a log its origin, such as `assay.example/prod`.")] = None,
    *,
    is_witness: Annotated[bool, typer.Option("--for-witness", help="Make a witness's key instead of a log's.")] = False,
    json_flag: JsonFlag = False,
) -> None:
    """Show the verification keys of a log, or make a signing key.

    Example: assay audit keys --generate keys/log.key --name assay.example/prod
    """
    if generate is not None:
        if name is None or what is not None:
            fail("`--generate` needs `--name` and nothing else to describe")
        with _told_as(Exit.USAGE):
            made = SigningKey.generate(name, kind=COSIGNATURE_V1 if is_witness else ED25519)
            save_signing_key(made, generate)
        shown = [("log" if made.kind == ED25519 else "witness", made.verifier)]
    elif what is None:
        fail("name a data directory or a verification key", hint="or make one: --generate FILE --name ORIGIN")
    elif Path(what).is_dir():
        found, witnesses, _ = _keys(what, None, None)
        shown = [*(("log", key) for key in found), *(("witness", key) for key in witnesses)]
    else:
        key = _vkey(what)
        shown = [("log" if key.kind == ED25519 else "witness", key)]
    if json_flag:
        emit_json({"keys": [{"role": role, "name": key.name, "id": key.id.hex(), "vkey": str(key)} for role, key in shown]})
        return
    for role, key in shown:
        out.print(f"{role:8}{key}", markup=False, soft_wrap=True)


# ---- what the commands share ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _told_as(code: Exit) -> Iterator[None]:
    """Print an error of the log core and exit with `code`; what could not be read exits with 3."""
    try:
        yield
    except SourceError as error:
        fail(str(error), code=code if error.is_refused else Exit.INCOMPLETE)
    except (NoteError, ProofError, TileError, InvalidKey) as error:
        fail(str(error), code=code)


@contextlib.contextmanager
def _opened(log: str, token: str | None = None) -> Iterator[LogSource]:
    """Open a directory or a URL; `token` is a reference to a secret."""
    if log.startswith(("http://", "https://")):
        try:
            secret = read_secret(token, base=Path(), environ=os.environ).strip() if token else None
        except InvalidKey as error:
            fail(str(error))
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        with httpx.Client(timeout=HTTP_TIMEOUT_S, headers=headers) as client:
            yield open_url(log, client)
    elif Path(log).is_dir():
        yield open_directory(Path(log))
    else:
        fail(f"`{log}` is neither a directory nor an http(s) URL")


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        fail(f"cannot read `{path}`: {error.strerror}")
    if len(data) > _FILE_LIMIT_BYTES:
        fail(f"`{path}` is larger than {_FILE_LIMIT_BYTES} bytes")
    return data


def _vkey(text: str) -> VerifierKey:
    """Read a key given as text or as the name of a file."""
    if "+" not in text or Path(text).is_file():
        text = _read_file(Path(text)).decode("utf-8", "replace")
    try:
        return VerifierKey.parse(text)
    except InvalidKey as error:
        fail(str(error), hint="a key reads `name+keyid+base64`; it is printed when a log is made, and by `assay audit keys DIR`")


def _keys(log: str, vkey: Sequence[str] | None, witness: Sequence[str] | None) -> tuple[list[VerifierKey], list[VerifierKey], bool]:
    """Return the log's keys, the witnesses' keys, and whether the log's came from its own directory."""
    witnesses = [_vkey(text) for text in witness or ()]
    if vkey:
        return [_vkey(text) for text in vkey], witnesses, False
    folder = Path(log) / "log"
    if not (folder / "vkey").is_file():
        fail("no verification key was given", hint="--vkey KEY; get it from where the log's owner publishes it, not from the log")
    if witness is None and (folder / "witnesses").is_file():
        witnesses = [_vkey(line) for line in _lines(folder / "witnesses")]
    err.print("[yellow]note:[/] the key comes from the log's own directory; use --vkey with one you got elsewhere", soft_wrap=True)
    return [_vkey(line) for line in _lines(folder / "vkey")], witnesses, True


def _lines(path: Path) -> list[str]:
    return [line for line in _read_file(path).decode("utf-8", "replace").splitlines() if line.strip()]


def _progress() -> Any:
    """Return a progress printer for a person at a terminal, None otherwise."""
    if not sys.stderr.isatty():
        return None

    def tell(done: int, size: int) -> None:
        err.print(f"{done:,} of {size:,} leaves", end="\r", markup=False)

    return tell


def _print_verdict(verdict: Verdict) -> None:
    """Print the verdict as a table, then what was found, worst first."""
    if verdict.origin:
        out.print(f"{verdict.origin}  size {verdict.size}  root {verdict.root.hex()[:16]}…", markup=False, soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in verdict.checks:
        table.add_row(check.name, f"[{_COLOURS[check.grade]}]{check.grade}[/]", escape(check.summary))
    out.print(table)
    for check in verdict.checks:
        for fault in sorted(check.faults, key=lambda one: one.grade is not Grade.FAILED):
            place = "" if fault.index is None else f"leaf {fault.index}: "
            file = f" ({fault.path})" if fault.path and fault.path not in fault.message else ""
            out.print(f"[{_COLOURS[fault.grade]}]{check.name}[/] {escape(place + fault.message + file)}", soft_wrap=True)
        if check.fault_count > len(check.faults):
            out.print(f"{check.name} and {check.fault_count - len(check.faults)} more", markup=False)
        for note in check.notes:
            out.print(f"{check.name} note: {note}", markup=False, soft_wrap=True)
