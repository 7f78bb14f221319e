"""`assay audit witness`: run a small witness (https://c2sp.org/tlog-witness) for one log.

It remembers the last head of the log in a folder of its own and cosigns the next only if it extends that one. Let somebody other than the
log's operator run it: that is what its cosignature is worth.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
import uvicorn

from audit.keys import COSIGNATURE_V1, InvalidKey, SigningKey, VerifierKey, load_signing_key, save_signing_key
from audit.note import NoteError
from audit.witness import StateFile, Witness, application
from gateway import logs
from gateway.cli.serve import address
from gateway.cli.terminal import JsonFlag, err, fail, out
from gateway.processes.parent import CannotListen, listen_tcp

KEY_FILE: Final = "witness.key"
_VKEY_LIMIT_BYTES: Final = 4096


def register(app: typer.Typer) -> None:
    """Add `witness` to the `audit` group."""
    app.command("witness")(witness)


def witness(
    directory: Annotated[Path, typer.Option("--dir", help="Folder of the witness's key and of what it remembers; never the log's own.")],
    origin: Annotated[str, typer.Option("--origin", help="Origin of the log, as in its checkpoints.")],
    vkey: Annotated[list[str], typer.Option("--vkey", help="Verification key of the log (text or file). Repeat during a key change.")],
    bind: Annotated[str, typer.Option("--bind", help="Where to take checkpoints, `address:port`; port 0 for any that is free.")] = "127.0.0.1:8090",
    name: Annotated[str, typer.Option("--name", help="Name in the witness's key; used when the key is made.")] = "witness.local",
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Run a witness: cosign what extends the last head of a log, refuse everything else.

    The key is made at the first start. Address and verification key are printed once it listens; put both in the log's `audit.witnesses`.

    Example: assay audit witness --dir witness --origin assay.example/prod --vkey log.vkey
    """
    with _alone(directory):
        key = _key(directory / KEY_FILE, name)
        try:
            keys = [VerifierKey.parse(_text(one)) for one in vkey]
            one = Witness(key, {origin: keys}, StateFile(directory / "state.json"), now_s=lambda: int(time.time()))
        except (InvalidKey, NoteError) as fault:
            fail(str(fault))
        try:
            listener = listen_tcp(_address(bind), "--bind")
        except CannotListen as fault:
            fail(str(fault).partition(";")[0], hint="end what uses the port, or name another one with --bind")
        host, port = listener.getsockname()[:2]
        _tell(f"http://{f'[{host}]' if ':' in host else host}:{port}", one.verifier, as_json=json_flag)
        logs.configure("witness")
        config = uvicorn.Config(application(one), log_config=None, access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=2)
        _serve(uvicorn.Server(config), listener)


def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; uvicorn repeats the signal once it has ended, which is no failure here."""
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the folder: two witnesses with one memory could cosign two histories."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        fail(f"another witness works in `{directory}`", hint="end it, or give this one a folder of its own with --dir")
    try:
        yield
    finally:
        os.close(descriptor)


def _key(path: Path, name: str) -> SigningKey:
    """Load the witness's key, making it at the first start (mode 0600)."""
    try:
        if not path.exists():
            save_signing_key(SigningKey.generate(name, kind=COSIGNATURE_V1), path)
        return load_signing_key(f"file:{path.name}", base=path.parent, environ={})
    except InvalidKey as fault:
        fail(str(fault))


def _text(vkey: str) -> str:
    """Return a key that is given as text or as the name of a file."""
    path = Path(vkey)
    if "+" in vkey and not path.is_file():
        return vkey
    try:
        with path.open("rb") as file:
            return file.read(_VKEY_LIMIT_BYTES).decode("utf-8", "replace")
    except OSError as fault:
        fail(f"cannot read the key `{vkey}`: {fault.strerror}", hint="--vkey takes `name+keyid+base64`, or a file that holds it")


def _address(bind: str) -> tuple[str, int]:
    try:
        host, port = address(bind)
    except ValueError:
        host, port = "", 0
    if not host or not 0 <= port <= 65535:
        fail(f"`{bind}` is not a listener", hint="--bind 127.0.0.1:8090")
    return host, port


def _tell(url: str, key: VerifierKey, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"url": url, "vkey": str(key)}))  # one line: whoever started this process waits for it
        return
    err.print("In the log's gateway.yaml:  audit: {witnesses: [...]}", markup=False, highlight=False)
    out.print(f'{{url: {url}, key: "{key}"}}', markup=False, soft_wrap=True)
