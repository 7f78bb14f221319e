"""`assay audit` verify, prove, verify-proof, checkpoint, keys: check any C2SP tiled log, ours or another's.

Nothing here needs a running gateway. The key should come from somewhere else than the log; where it comes from the log's
own directory the commands say so, because then they prove that the log is whole and not whose it is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from audit.earlier import verify_earlier
from audit.follow import follow
from audit.keys import COSIGNATURE_V1, ED25519, InvalidKey, SigningKey, save_signing_key
from audit.merkle import consistency_proof, verify_consistency
from audit.note import open_checkpoint
from audit.proof import make_proof, parse_proof, verify_proof
from audit.source import CHECKPOINT
from audit.tiles import TileReader
from audit.verdict import Grade, Verdict, fork_proof
from audit.verify import verify_log
from gateway.cli.opening import (
    LogArgument,
    OriginOption,
    TokenOption,
    VkeyOption,
    WitnessOption,
    described,
    given_keys,
    keys_for,
    lines_of,
    one_key,
    opened_log,
    read_file,
    told_as,
)
from gateway.cli.recorded import record_read
from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out
from gateway.config.quantities import parse_duration_us
from gateway.control.logkeys import LogKeys

app = typer.Typer(no_args_is_help=True, help="Check the signed log, without trusting who wrote it.")

_COLOURS = {Grade.OK: "green", Grade.FAILED: "bold red", Grade.UNPROVEN: "yellow"}


@app.command("verify")
def verify(
    log: LogArgument,
    vkey: VkeyOption = None,
    known: Annotated[Path | None, typer.Option("--known", help="A checkpoint of this log that you kept from earlier.")] = None,
    witness: WitnessOption = None,
    max_age: Annotated[str, typer.Option("--max-age", help="A witness's cosignature older than this proves nothing of today.")] = "1d",
    origin: OriginOption = None,
    token: TokenOption = None,
    previous: Annotated[str | None, typer.Option("--previous", help="The log that this one follows (DIR|URL), to be verified with it.")] = None,
    previous_vkey: Annotated[list[str] | None, typer.Option("--previous-vkey", help="Key of that log, or a key policy (text or file).")] = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Verify a whole log: the head, every entry, every tile, every record.

    Exit codes: 0 all checks ok; 1 a check failed; 2 usage; 3 something is missing, or freshness is unproven. Two heads of one size with
    different roots are printed as proof of misbehaviour.

    Example: assay audit verify data --vkey log.vkey --known last-month.checkpoint
    """
    kept = read_file(known) if known else None
    try:
        limit_s = parse_duration_us(max_age) // 1_000_000
    except ValueError as error:
        fail(f"--max-age: {error}")
    with opened_log(log, token) as source:
        keys = keys_for(log, vkey, witness)
        progress = None if json_flag else _progress()
        verdict = verify_log(source, keys.log, kept, keys.witnesses, progress, freshness_limit_s=limit_s, origin=origin)
    if keys.are_the_logs_own:
        verdict.independence.doubt(
            "key and witnesses came from the log's own directory: this proves that the log is whole, not whose it is; hint: --vkey and --witness"
        )
    earlier = None if previous is None else _verify_earlier(verdict, previous, previous_vkey, token)
    if json_flag:
        told = {**verdict.document(), "key_from_log_directory": keys.are_the_logs_own}
        emit_json(told if earlier is None else {**told, "previous": earlier.document()})
    else:
        _print_verdict(verdict)
        if earlier is not None:
            out.print("\nwhich follows", markup=False)
            _print_verdict(earlier)
    codes = {verdict.exit_code, *([] if earlier is None else [earlier.exit_code])}
    raise typer.Exit(next(code for code in (Exit.NO, Exit.INCOMPLETE, Exit.OK) if code in codes))


def _verify_earlier(verdict: Verdict, previous: str, vkey: list[str] | None, token: str | None) -> Verdict:
    """Verify the log that another one follows, and that it extends the linked head."""
    if not vkey:
        fail("`--previous` needs `--previous-vkey`: the key of that log, from elsewhere than the log that follows it")
    if verdict.link is None:
        fail("this log does not say that it follows another", hint="such a log has a `log.open` record with `previous`", code=Exit.NO)
    with opened_log(previous, token) as source:
        return verify_earlier(verdict.link, source, given_keys(vkey, None).log)


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
    with opened_log(log, token) as source, told_as(Exit.NO):
        keys = keys_for(log, vkey, None)
        proof = make_proof(source, index, keys.log, origin=origin)
        head = open_checkpoint(proof.checkpoint_note, keys.log, origin=origin).checkpoint
        leaf = source.entry(index, head.size)
    if leaf_output and leaf is not None:
        if (Path(log) / "log").is_dir():
            record_read(Path(log), "query", question={"index": str(index)}, size=head.size, rows=1, full_scan=False)
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
    keys = given_keys(vkey, witness)
    with told_as(Exit.NO):
        parsed = parse_proof(read_file(proof))
        head = verify_proof(parsed, read_file(leaf), keys.log, keys.witnesses, origin=origin)
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
    with opened_log(log, token) as source, told_as(Exit.NO):
        keys = keys_for(log, vkey, witness)
        data = source.read(CHECKPOINT)
        if data is None:
            fail(f"`{log}` has no checkpoint", hint="is this a log, and was anything published?", code=Exit.NO)
        head = open_checkpoint(data, keys.log, keys.witnesses, origin=origin)
    if not json_flag:
        typer.echo(data.decode(), nl=False)
        return
    seen = [{"name": one.key.name, "time_s": one.time_s} for one in head.cosignatures]
    head_now = head.checkpoint
    emit_json({"origin": head_now.origin, "size": head_now.size, "root": head_now.root.hex(), "cosignatures": seen, "note": data.decode()})


@app.command("diff-heads")
def diff_heads(
    one: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A head that was shown to one.")],
    other: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A head that was shown to another.")],
    vkey: Annotated[list[str], typer.Option("--vkey", help="Verification key of the log, or a key policy (text or file).")],
    log: Annotated[str | None, typer.Option("--log", help="The log itself (DIR|URL), to prove heads of different sizes consistent.")] = None,
    origin: OriginOption = None,
    token: TokenOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Compare two signed heads of one log. Two of one size with different roots are printed as proof of misbehaviour (exit 1).

    Heads of different sizes need the log for a consistency proof; without it the answer is unproven (exit 3).

    Example: assay audit diff-heads mine.checkpoint yours.checkpoint --vkey log.vkey
    """
    keys = given_keys(vkey, None)
    with told_as(Exit.NO):
        first, second = (open_checkpoint(read_file(path), keys.log, origin=origin) for path in (one, other))
        if first.checkpoint.origin != second.checkpoint.origin:
            fail("these are heads of two different logs", hint="each names its origin in its first line")
        proof = fork_proof(first, second)
        small, large = sorted((first.checkpoint, second.checkpoint), key=lambda head: head.size)
        if proof is None and small.size != large.size and log is not None:
            with opened_log(log, token) as source:
                hashes = TileReader(source.read, large.size).hash_at
                verify_consistency(small.size, large.size, small.root, large.root, consistency_proof(small.size, large.size, hashes))
    is_proven = proof is None and (small.size == large.size or log is not None)
    if json_flag:
        emit_json({"sizes": [small.size, large.size], "consistent": is_proven, "misbehaviour": None if proof is None else proof.document()})
    elif proof is not None:
        typer.echo(proof.text(), nl=False)
    elif is_proven:
        out.print(f"[green]ok[/]  the head of size {large.size} extends the one of size {small.size}", soft_wrap=True)
    else:
        err.print("unproven: the heads have different sizes; name the log with --log to have one proven from the other", markup=False, soft_wrap=True)
    raise typer.Exit(int(Exit.NO if proof is not None else Exit.OK if is_proven else Exit.INCOMPLETE))


@app.command("keys")
def keys(
    what: Annotated[str | None, typer.Argument(metavar="[DIR|VKEY]", help="A data directory or a verification key to describe.")] = None,
    generate: Annotated[Path | None, typer.Option("--generate", help="Make a new signing key in this file (mode 0600).")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the new key; for a log its origin, such as `assay.example/prod`.")] = None,
    *,
    is_witness: Annotated[bool, typer.Option("--for-witness", help="Make a witness's key instead of a log's.")] = False,
    is_policy: Annotated[bool, typer.Option("--policy", help="Print the key policy that the records of a data directory amount to.")] = False,
    json_flag: JsonFlag = False,
) -> None:
    """Show the verification keys of a log, make a signing key, or print the key policy for auditors: which key signs which sizes.

    Example: assay audit keys --generate keys/log.key --name assay.example/prod
    """
    if generate is not None:
        if name is None or what is not None:
            fail("`--generate` needs `--name` and nothing else to describe")
        with told_as(Exit.USAGE):
            made = SigningKey.generate(name, kind=COSIGNATURE_V1 if is_witness else ED25519)
            save_signing_key(made, generate)
        shown = [("log" if made.kind == ED25519 else "witness", described(made.verifier))]
    elif is_policy:
        typer.echo(_policy(what), nl=False)
        return
    elif what is None:
        fail("name a data directory or a verification key", hint="or make one: --generate FILE --name ORIGIN")
    elif Path(what).is_dir():
        found = keys_for(what, None, None)
        shown = [*(("log", described(key)) for key in found.log), *(("witness", described(key)) for key in found.witnesses)]
    else:
        key = one_key(what)
        shown = [("log" if key.kind == ED25519 else "witness", described(key))]
    if json_flag:
        emit_json({"keys": [{"role": role, **told} for role, told in shown]})
        return
    for role, told in shown:
        out.print(f"{role:8}{told['vkey']}", markup=False, soft_wrap=True)


def _policy(data: str | None) -> str:
    """Return the policy folded from a data directory's `key.*` records."""
    if data is None or not (Path(data) / "log").is_dir():
        fail("`--policy` needs a data directory", hint="assay audit keys data --policy")
    known = LogKeys()
    for _, leaf in follow(Path(data), 0):
        if b'"type":"key.' in leaf:
            known.fold(json.loads(leaf))
    witnesses = [one_key(line) for line in lines_of(Path(data) / "log" / "witnesses")]
    try:
        return known.policy(witnesses).text()
    except InvalidKey as error:
        fail(f"the records name no sound key: {error}", code=Exit.NO)


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
        table.add_row(check.name, f"[{_COLOURS[check.grade]}]{check.grade}[/]", escape(check.told))
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
    if verdict.misbehaviour is not None:
        typer.echo("\n" + verdict.misbehaviour.text(), nl=False)
