"""Who signs the log: a key in this process, or a command that asks a machine which never lets its key go.

A key is named by reference:

- `file:PATH`, `env:NAME`: the key itself (`audit.keys`);
- `command:PATH`: a small file of mode 0600 with two lines, the verification key and the command with its arguments. The command gets the text to be
  signed on standard input and writes the bare signature (base64) to standard output; no shell is involved.

The file may not lie in `config/` below the base: whoever may change policies and models must not thereby choose a program that is run.

What a command gives is verified before it is used: a wrong key, a broken device or a command that prints something else signs nothing.

Example:
    signer = load_signer("command:keys/hsm.signer", base=root, environ=os.environ)
    note.sign(checkpoint.text(), [signer])
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from audit.keys import InvalidKey, SignatureInvalid, VerifierKey, decode_base64, load_signing_key, read_secret_file

TIMEOUT_S: Final = 10.0
CONFIG: Final = "config"
_OUTPUT_LIMIT_BYTES: Final = 16 * 1024


class SignerUnavailable(Exception):  # noqa: N818 - reads as the state it is
    """The command did not sign now. Nothing was signed; it can be asked again."""


class Signer(Protocol):
    """Signs for one name with one key."""

    @property
    def name(self) -> str:
        """Name in signatures: the origin of the log."""

    @property
    def kind(self) -> int:
        """Signature type."""

    @property
    def verifier(self) -> VerifierKey:
        """The key its signatures verify with."""

    def sign(self, message: bytes) -> bytes:
        """Return the bare signature over `message`."""


@dataclass(frozen=True, slots=True)
class CommandSigner:
    """Signs by running a command. Blocks for at most `timeout_s`."""

    verifier: VerifierKey
    command: tuple[str, ...]
    folder: Path
    """Where the command runs."""
    timeout_s: float = TIMEOUT_S

    @property
    def name(self) -> str:
        """Name in signatures."""
        return self.verifier.name

    @property
    def kind(self) -> int:
        """Signature type."""
        return self.verifier.kind

    def sign(self, message: bytes) -> bytes:
        """Return the command's signature over `message`, verified.

        Raises:
            SignerUnavailable: It cannot be run, takes too long, fails, or gives anything but a signature of its key.
        """
        try:
            done = subprocess.run(self.command, input=message, capture_output=True, check=False, timeout=self.timeout_s, cwd=self.folder)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SignerUnavailable(f"signing command `{self.command[0]}`: {error}") from error
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip()[:200]
            raise SignerUnavailable(f"signing command `{self.command[0]}` failed with status {done.returncode}: {said}")
        try:
            signature = decode_base64(done.stdout[:_OUTPUT_LIMIT_BYTES].decode("ascii").strip())
            self.verifier.verify(message, signature)
        except (ValueError, SignatureInvalid) as error:
            raise SignerUnavailable(f"signing command `{self.command[0]}` gave no signature of `{self.name}`: {error}") from error
        return signature


def load_signer(reference: str, *, base: Path, environ: Mapping[str, str]) -> Signer:
    """Return the signer that a reference names; a command is not run yet.

    Raises:
        InvalidKey: The reference has another form, or what it names is missing, careless or malformed.
    """
    scheme, _, rest = reference.partition(":")
    if scheme != "command" or not rest:
        return load_signing_key(reference, base=base, environ=environ)
    path = (base / rest).resolve()
    if path.is_relative_to((base / CONFIG).resolve()):
        raise InvalidKey(f"`{path}` lies in `{CONFIG}/`, where no program may be named; hint: keep it in `keys/`")
    lines = [line for line in read_secret_file(path).splitlines() if line.strip() and not line.startswith("#")]
    try:
        vkey, command = lines
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise InvalidKey(f"`{path}` must have two lines: the verification key, and the command that signs ({error})") from error
    return CommandSigner(VerifierKey.parse(vkey), words, base)
