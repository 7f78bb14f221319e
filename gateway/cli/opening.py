"""How the `assay audit` commands open a log and read its keys: the arguments they share, and what each error exits with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer

from audit.keyring import BoundedKey, LogKey, is_policy, parse_policy, plain
from audit.keys import InvalidKey, VerifierKey, read_secret
from audit.merkle import ProofError
from audit.note import NoteError
from audit.source import LogSource, SourceError, open_directory, open_url
from audit.tiles import TileError
from gateway.cli.terminal import Exit, err, fail

HTTP_TIMEOUT_S = 30.0
FILE_LIMIT_BYTES = 2_000_000

LogArgument = Annotated[str, typer.Argument(metavar="DIR|URL", help="A data directory, a directory with `checkpoint` and `tile/`, or a URL prefix.")]
VkeyOption = Annotated[
    list[str] | None,
    typer.Option("--vkey", help="Verification key of the log: the text, or a file that holds it or a key policy. Repeat during a key change."),
]
WitnessOption = Annotated[list[str] | None, typer.Option("--witness", help="Verification key of a witness whose cosignature counts.")]
OriginOption = Annotated[str | None, typer.Option("--origin", help="Origin of the log, where it is not the name of its key.")]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", help="Bearer token for a URL whose entries need a role, as `env:NAME` or `file:PATH`."),
]


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys a command verifies with; `are_the_logs_own` when they came from the log's own directory."""

    log: tuple[LogKey, ...]
    witnesses: tuple[VerifierKey, ...]
    are_the_logs_own: bool = False


@contextlib.contextmanager
def told_as(code: Exit) -> Iterator[None]:
    """Print an error of the log core and exit with `code`; what could not be read exits with 3."""
    try:
        yield
    except SourceError as error:
        fail(str(error), code=code if error.is_refused else Exit.INCOMPLETE)
    except (NoteError, ProofError, TileError, InvalidKey) as error:
        fail(str(error), code=code)


@contextlib.contextmanager
def opened_log(log: str, token: str | None = None) -> Iterator[LogSource]:
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


def read_file(path: Path, *, limit_bytes: int = FILE_LIMIT_BYTES) -> bytes:
    """Return a file of bounded size."""
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        fail(f"cannot read `{path}`: {error.strerror}")
    if len(data) > limit_bytes:
        fail(f"`{path}` is larger than {limit_bytes} bytes")
    return data


def one_key(text: str) -> VerifierKey:
    """Read a key given as text or as the name of a file."""
    try:
        return VerifierKey.parse(_text(text))
    except InvalidKey as error:
        fail(str(error), hint="a key reads `name+keyid+base64`; it is printed when a log is made, and by `assay audit keys DIR`")


def given_keys(vkey: Sequence[str], witness: Sequence[str] | None) -> Keys:
    """Return the keys that were named on the command line; a key policy brings its own bounds and witnesses."""
    log: list[LogKey] = []
    witnesses = [one_key(text) for text in witness or ()]
    for text in vkey:
        found = _text(text)
        if not is_policy(found):
            log.append(one_key(text))
            continue
        try:
            policy = parse_policy(found)
        except InvalidKey as error:
            fail(f"`{text}`: {error}")
        log.extend(policy.log_keys)
        witnesses.extend(key for key in policy.witnesses if key not in witnesses)
    return Keys(tuple(log), tuple(witnesses))


def keys_for(log: str, vkey: Sequence[str] | None, witness: Sequence[str] | None) -> Keys:
    """Return the keys that were named, or with a word of warning those in the log's own directory."""
    if vkey:
        return given_keys(vkey, witness)
    folder = Path(log) / "log"
    if not (folder / "vkey").is_file():
        fail("no verification key was given", hint="--vkey KEY; get it from where the log's owner publishes it, not from the log")
    witnesses = [one_key(text) for text in witness or ()]
    if witness is None and (folder / "witnesses").is_file():
        witnesses = [one_key(line) for line in lines_of(folder / "witnesses")]
    err.print("[yellow]note:[/] the key comes from the log's own directory; use --vkey with one you got elsewhere", soft_wrap=True)
    return Keys(tuple(one_key(line) for line in lines_of(folder / "vkey")), tuple(witnesses), are_the_logs_own=True)


def described(key: LogKey) -> dict[str, str | int]:
    """Return a key for JSON; bounds only where there are any."""
    bare = plain(key)
    told: dict[str, str | int] = {"name": bare.name, "id": bare.id.hex(), "vkey": str(bare)}
    if isinstance(key, BoundedKey):
        told |= {"first_size": key.first_size, "last_size": key.last_size}
    return told


def _text(given: str) -> str:
    """Return what was given: itself, or the content of the file it names."""
    if "+" not in given or Path(given).is_file():
        return read_file(Path(given)).decode("utf-8", "replace")
    return given


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file that say something; none where there is no file."""
    if not path.is_file():
        return []
    return [line for line in read_file(path).decode("utf-8", "replace").splitlines() if line.strip()]
