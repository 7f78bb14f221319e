"""`assay audit verify-receipt`: was the promise kept that a caller got with a reply?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from audit.note import NoteError
from audit.promise import PROOF_LIMIT_BYTES, Promise, PromiseVerdict, judge_in_log, judge_with_proof
from audit.receipt import read_note
from gateway.cli.opening import Keys, OriginOption, TokenOption, VkeyOption, given_keys, keys_for, opened_log, read_file, told_as
from gateway.cli.terminal import Exit, JsonFlag, emit_json, fail, out

_EXITS: Final = {Promise.KEPT: Exit.OK, Promise.BROKEN: Exit.NO, Promise.OPEN: Exit.INCOMPLETE}


def register(app: typer.Typer) -> None:
    """Add `verify-receipt` to the `audit` group."""
    app.command("verify-receipt")(verify)


def verify(
    receipt: Annotated[str, typer.Argument(metavar="RECEIPT", help="What the header `Assay-Receipt` said: the text, or a file that holds it.")],
    log: Annotated[str | None, typer.Option("--log", help="The log: a data directory, a directory with `checkpoint` and `tile/`, or a URL.")] = None,
    proof: Annotated[Path | None, typer.Option("--proof", help="What `/receipts/{id}` answered, instead of the log.")] = None,
    vkey: VkeyOption = None,
    origin: OriginOption = None,
    token: TokenOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Check a receipt offline against the log, or against the proof that `/receipts/{id}` gave.

    Exit codes: 0 the promise was kept; 1 it was broken, and the evidence is printed, or this is no receipt of the log; 3 too early to tell.
    Only the log itself can show that a promise was broken: every entry is read and hashed to the signed root.

    Example: assay audit verify-receipt call.receipt --log data --vkey log.vkey
    """
    if (log is None) == (proof is None):
        fail("name the log with `--log`, or an answer of `/receipts/{id}` with `--proof`")
    given = read_file(Path(receipt)) if len(receipt) < 256 and Path(receipt).is_file() else receipt.encode("utf-8", "replace")
    with told_as(Exit.NO):
        verdict = _judged(read_note(given), log, proof, vkey, origin, token)
    if json_flag:
        emit_json(verdict.document())
    else:
        _print(verdict)
    raise typer.Exit(int(_EXITS[verdict.promise]))


def _judged(note: bytes, log: str | None, proof: Path | None, vkey: list[str] | None, origin: str | None, token: str | None) -> PromiseVerdict:
    if log is not None:
        with opened_log(log, token) as source:
            return judge_in_log(note, source, keys_for(log, vkey, None).log, origin=origin)
    keys: Keys | None = given_keys(vkey, None) if vkey else None
    if keys is None or proof is None:
        raise NoteError("an answer proves nothing without the log's key from elsewhere: --vkey")
    return judge_with_proof(note, read_file(proof, limit_bytes=PROOF_LIMIT_BYTES), keys.log, origin=origin)


def _print(verdict: PromiseVerdict) -> None:
    receipt, head = verdict.receipt, verdict.head.checkpoint
    colour = {Promise.KEPT: "green", Promise.BROKEN: "bold red", Promise.OPEN: "yellow"}[verdict.promise]
    out.print(f"[{colour}]{verdict.promise}[/]  {escape(verdict.said)}", soft_wrap=True)
    out.print(f"      call {receipt.decision}, promised at {receipt.time} within {receipt.merge_s} s", markup=False, soft_wrap=True)
    out.print(f"      {head.origin} at size {head.size}", markup=False, soft_wrap=True)
    if verdict.evidence:
        typer.echo("\n" + verdict.evidence, nl=False)
