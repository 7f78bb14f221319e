"""`assay audit vault-key`, `nodes-key` and `erase`: the vault's master key, the nodes' key, and the erasure of a subject through the admin port.

The subject is the unit as callers send it (`Assay-Unit`, or what the model's file points to). Give it as `-` and write it to standard input: what
stands on a command line is seen by everyone on the machine and stays in the shell's history.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli.admin_client import AdminClient, AdminOption, ApiKeyOption
from gateway.cli.experiment_run import As, KeyOption, WriteOption
from gateway.cli.folder import DirOption, layout_of
from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out
from gateway.config.compile import compile_folder
from gateway.config.layout import write_durably

TERMINAL: Final = Path("/dev/tty")
_CONSENT_US: Final = 86_400_000_000
_QUESTION: Final = "Everything captured of this subject is destroyed and cannot be brought back. Go on?"


def register(app: typer.Typer) -> None:
    """Add the commands to the `audit` group."""
    app.command("vault-key")(vault_key)
    app.command("nodes-key")(nodes_key)
    app.command("erase")(erase)


def vault_key(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; never overwritten.")],
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Make a master key for the vault, a file of mode 0600. Without it nothing in the vault can be read; keep a copy away from backups.

    Example: assay audit vault-key keys/vault.key
    """
    from audit.vault.crypto import KEY_BYTES, MasterKey  # noqa: PLC0415 - only this command needs it

    key = MasterKey(os.urandom(KEY_BYTES))
    _write_key(path, key.secret_text(), "what it wrapped opens with it alone")
    _tell_key(path, key.id, "master key", "vault", is_json=json_flag)


def nodes_key(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; never overwritten.")],
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Make the key that the nodes of a log in PostgreSQL share, a file of mode 0600; give every node a copy. With it every node serves.

    Example: assay audit nodes-key keys/nodes.key
    """
    from gateway.control.sharedkeys import NodesKey  # noqa: PLC0415 - only this command needs it

    key = NodesKey(os.urandom(32))
    _write_key(path, key.secret_text(), "the pseudonym keys in the database open with it alone")
    _tell_key(path, key.id, "key of the nodes", "postgres", is_json=json_flag)


def _write_key(path: Path, text: str, why: str) -> None:
    try:
        write_durably(path, f"{text}\n".encode(), mode=0o600)
    except FileExistsError:
        fail(f"`{path}` is there and is not overwritten", hint=f"move it away first: {why}")


def _tell_key(path: Path, name: str, what: str, section: str, *, is_json: bool) -> None:
    if is_json:
        emit_json({"path": str(path), "id": name})
    else:
        reference = _reference(path)
        out.print(f"Written: {path}, {what} `{name}`. In gateway.yaml: {section}: {{key: file:{reference}}}", markup=False, soft_wrap=True)


def _reference(path: Path) -> Path:
    """Return the path as `gateway.yaml` has to name it: from the folder of the deployment it lies in, absolute where it lies in none."""
    whole = path.absolute()
    for folder in whole.parents:
        if (folder / "config" / "gateway.yaml").is_file():
            return whole.relative_to(folder)
    return whole


def erase(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="The unit as callers send it; `-` reads it from standard input.")],
    tenant: Annotated[str | None, typer.Option("--tenant", help="Whose subject it is; by default the API key's own tenant.")] = None,
    ground: Annotated[str, typer.Option("--ground", help="Why, as a code: request, objection, retention, order. It goes into the log.")] = "request",
    person: As = None,
    key: KeyOption = None,
    log: Annotated[str | None, typer.Option("--log", help="Log that a signature is for; by default that of `--dir`.")] = None,
    consent: Annotated[list[Path] | None, typer.Option("--consent", help="A consent that someone else signed with `--write`.")] = None,
    write: WriteOption = None,
    directory: DirOption = Path(),
    admin: AdminOption = None,
    api_key: ApiKeyOption = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; it cannot be undone.")] = False,
    json_flag: JsonFlag = False,
) -> None:
    """Destroy the keys under which a subject's captured fields and salts are kept, for good. The log stays whole and every proof verifies.

    Example: assay audit erase - --tenant acme --yes < subject.txt
    """
    unit = _subject(subject)
    consents = [_read(path) for path in consent or ()]
    if (person is None) != (key is None):
        fail("a signature needs both who and their key", hint="--as PERSON --key FILE")
    if key is not None:
        if tenant is None:
            fail("a consent names the tenant", hint="--tenant NAME")
        consents.append(_sign(unit, log or _origin(directory), tenant, ground, key))
    if write is not None:
        if key is None:
            fail("there is nothing to write: nobody signs", hint="--as PERSON --key FILE")
        write_durably(write, json.dumps(consents[-1]).encode(), mode=0o600, replace=True)
        err.print(
            f"wrote {write}; it holds for a day, for one erasure of this subject alone. Whoever has it can test names against it",
            markup=False,
            soft_wrap=True,
        )
        return
    if not yes and not _agreed(by_input=subject == "-"):
        raise typer.Exit(int(Exit.NO))
    body: dict[str, Any] = {"unit": unit, "ground": ground, "consents": consents}
    if tenant is not None:
        body["tenant"] = tenant
    done = AdminClient(directory, admin, api_key).post("/api/erasures", body)
    if json_flag:
        emit_json(done)
    else:
        out.print(f"Erased: {done['entries']} entries under {done['keys']} keys.", markup=False)
        out.print(f"Erasure {done['erasure']}, record #{done['record']}: note both with the request.", markup=False, soft_wrap=True)


def _agreed(*, by_input: bool) -> bool:
    """Ask a person; at the terminal where the subject has used standard input up."""
    if not by_input:
        return typer.confirm(_QUESTION, err=True)
    try:
        with TERMINAL.open() as keyboard, TERMINAL.open("w") as screen:
            print(f"{_QUESTION} [y/N]: ", end="", file=screen, flush=True)
            return keyboard.readline().strip().lower() in ("y", "yes")
    except OSError:
        fail("the subject came by standard input, and there is no terminal to ask at; nothing was erased", hint="`--yes`, once you are sure")


def _subject(given: str) -> str:
    unit = sys.stdin.read().removesuffix("\n") if given == "-" else given
    if not unit:
        fail("the subject is empty", hint="`printf %s UNIT | assay audit erase -`")
    return unit


def _origin(directory: Path) -> str:
    gateway = compile_folder(layout_of(directory).config).gateway
    if gateway is None:
        fail("a consent names the log it is for, and `gateway.yaml` cannot be read", hint="`--log ORIGIN`, as the log's key is named")
    return gateway.audit.origin


def _sign(unit: str, log: str, tenant: str, ground: str, key: Path) -> dict[str, str]:
    from gateway.cli.trust import read_person_key  # noqa: PLC0415 - only who signs needs it
    from policies.erasure import GROUNDS, NONCE_BYTES, ErasureConsent, about, sign_erasure  # noqa: PLC0415 - as above

    chosen = next((one for one in GROUNDS if one == ground), None)
    if chosen is None:
        fail(f"`{ground}` is no ground", hint=f"one of {', '.join(GROUNDS)}")
    now_us = time.time_ns() // 1000
    nonce = os.urandom(NONCE_BYTES)
    signed = sign_erasure(ErasureConsent(log, tenant, about(nonce, tenant, unit), chosen, now_us, now_us + _CONSENT_US), read_person_key(key))
    return {"nonce": nonce.hex(), "envelope": signed.decode()}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as fault:
        fail(f"consent `{path}` cannot be read: {fault}")
