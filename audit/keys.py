"""Keys: Ed25519 signing and verification keys in the text forms of C2SP signed notes.

A verification key travels as a *vkey*, `<name>+<hex key id>+<base64(type || public key)>`; a signing key as the *skey* Go's `note` package reads,
`PRIVATE+KEY+<name>+<hex key id>+<base64(type || seed)>`. The key id is SHA-256(name || 0x0A || type || public key)[:4]
(https://c2sp.org/signed-note).

Rules:

- The signature type is one byte. `ALGORITHMS` maps it to the primitive; what text is signed is the business of `audit.note`.
- A secret is named by reference, `file:PATH` or `env:NAME`; a file readable by group or others is refused.
- Text is accepted in one spelling only: base64 is decoded, encoded again and compared.

Example:
    >>> key = SigningKey.generate("assay.example/prod", seed=bytes(32))
    >>> str(key.verifier)
    'assay.example/prod+fed74a0e+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop'
    >>> key.verifier.verify(b"text", key.sign(b"text"))
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519: Final = 0x01
"""Signature type of a log's own signature."""
COSIGNATURE_V1: Final = 0x04
"""Signature type of a witness's timestamped cosignature (https://c2sp.org/tlog-cosignature)."""

KEY_FILE_LIMIT_BYTES: Final = 4096
KEY_TEXT_LIMIT_CHARS: Final = 2048
_SECRET_PREFIX: Final = "PRIVATE+KEY+"  # noqa: S105 - a format marker, not a secret


class InvalidKey(ValueError):  # noqa: N818 - reads as the statement it is
    """A key is malformed, unreadable, of an unknown type, or kept carelessly."""


class SignatureInvalid(ValueError):  # noqa: N818 - reads as the statement it is
    """A signature does not verify under the key that is said to have made it."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One signature primitive: sizes in bytes, and what to do with a seed or a public key."""

    title: str
    seed_bytes: int
    public_key_bytes: int
    signature_bytes: int
    public_key_of: Callable[[bytes], bytes]
    sign: Callable[[bytes, bytes], bytes]
    """(seed, message) -> signature."""
    verify: Callable[[bytes, bytes, bytes], bool]
    """(public key, message, signature) -> whether it verifies."""


def _ed25519_public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


@functools.lru_cache(maxsize=8)
def _ed25519_private(seed: bytes) -> Ed25519PrivateKey:
    """Return the key of a seed; making it takes as long as a signature, and who signs every call signs with one key."""
    return Ed25519PrivateKey.from_private_bytes(seed)


def _ed25519_sign(seed: bytes, message: bytes) -> bytes:
    return _ed25519_private(seed).sign(message)


def _ed25519_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


_ED25519_ALGORITHM: Final = Algorithm("Ed25519", 32, 32, 64, _ed25519_public, _ed25519_sign, _ed25519_verify)

ALGORITHMS: Final[Mapping[int, Algorithm]] = {ED25519: _ED25519_ALGORITHM, COSIGNATURE_V1: _ED25519_ALGORITHM}
"""Signature type -> primitive. Both types use Ed25519; they differ in the text that is signed."""


def key_id(name: str, kind: int, public_key: bytes) -> bytes:
    """Return the four bytes SHA-256(name || 0x0A || type || public key)[:4] (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:4]


def check_name(name: str) -> str:
    """Return `name` if it may name a key: not empty, no space of any kind, no plus, no control character.

    Raises:
        InvalidKey: Otherwise.
    """
    if not name or len(name) > 255:
        raise InvalidKey(f"key name must have 1 to 255 characters, got `{len(name)}`")
    if "+" in name or any(character.isspace() or ord(character) < 0x21 or ord(character) == 0x7F for character in name):
        raise InvalidKey(f"key name `{name!r}` contains a space, a plus or a control character")
    return name


def decode_base64(text: str) -> bytes:
    """Decode standard base64 that is written in its one canonical spelling.

    Python's decoder ignores the spare bits of the last character, so that several texts decode to the same bytes; here only the text that
    encoding gives back is accepted.

    Raises:
        ValueError: The text is not base64, or not its canonical spelling.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError(f"not base64: {error}") from error
    if base64.b64encode(data).decode("ascii") != text:
        raise ValueError("not the canonical base64 spelling")
    return data


def _algorithm(kind: int) -> Algorithm:
    algorithm = ALGORITHMS.get(kind)
    if algorithm is None:
        known = ", ".join(f"0x{code:02x}" for code in ALGORITHMS)
        raise InvalidKey(f"unknown signature type `0x{kind:02x}`; known are {known}")
    return algorithm


def _split(text: str, *, what: str) -> tuple[str, bytes, int, bytes]:
    """Split `<name>+<hex id>+<base64(type || material)>` into its parts."""
    if len(text) > KEY_TEXT_LIMIT_CHARS:
        raise InvalidKey(f"{what} is longer than {KEY_TEXT_LIMIT_CHARS} characters")
    parts = text.split("+", 2)  # base64 may contain a plus, the name and the id may not
    if len(parts) != 3:
        raise InvalidKey(f"{what} must read `name+keyid+base64`")
    name, hexadecimal, encoded = parts
    check_name(name)
    if len(hexadecimal) != 8 or any(digit not in "0123456789abcdef" for digit in hexadecimal):
        raise InvalidKey(f"{what} of `{name}` must have a key id of 8 lowercase hexadecimal digits")
    try:
        material = decode_base64(encoded)
    except ValueError as error:
        raise InvalidKey(f"{what} of `{name}`: {error}") from error
    if not material:
        raise InvalidKey(f"{what} of `{name}` is empty")
    return name, bytes.fromhex(hexadecimal), material[0], material[1:]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name and signature type."""

    name: str
    kind: int
    public_key: bytes
    id: bytes = field(init=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.public_key) != _algorithm(self.kind).public_key_bytes:
            raise InvalidKey(f"public key of `{self.name}` has `{len(self.public_key)}` bytes")
        object.__setattr__(self, "id", key_id(self.name, self.kind, self.public_key))

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a vkey; surrounding white space is allowed, nothing else.

        Raises:
            InvalidKey: It is malformed, of an unknown type, or its key id is not that of the key.
        """
        name, claimed, kind, public_key = _split(text.strip(), what="verification key")
        key = cls(name, kind, public_key)
        if key.id != claimed:
            raise InvalidKey(f"verification key of `{name}` claims id `{claimed.hex()}` but its key has `{key.id.hex()}`")
        return key

    def __str__(self) -> str:
        """Return the vkey."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([self.kind]) + self.public_key).decode()}"

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check a bare signature over `message`.

        Raises:
            SignatureInvalid: It does not verify.
        """
        algorithm = _algorithm(self.kind)
        if len(signature) != algorithm.signature_bytes or not algorithm.verify(self.public_key, message, signature):
            raise SignatureInvalid(f"signature of `{self.name}` does not verify")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A secret key with its name and signature type. Its `repr` never shows the secret."""

    name: str
    kind: int
    seed: bytes = field(repr=False)
    verifier: VerifierKey = field(init=False)

    def __post_init__(self) -> None:
        algorithm = _algorithm(self.kind)
        if len(self.seed) != algorithm.seed_bytes:
            raise InvalidKey(f"seed of `{self.name}` must have {algorithm.seed_bytes} bytes, got `{len(self.seed)}`")
        object.__setattr__(self, "verifier", VerifierKey(self.name, self.kind, algorithm.public_key_of(self.seed)))

    @classmethod
    def generate(cls, name: str, *, kind: int = ED25519, seed: bytes | None = None) -> SigningKey:
        """Make a new key; `seed` (32 bytes) is for tests, otherwise the operating system's randomness is used."""
        return cls(name, kind, os.urandom(_algorithm(kind).seed_bytes) if seed is None else seed)

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """Read an skey.

        Raises:
            InvalidKey: It is malformed. The message never contains the secret.
        """
        stripped = text.strip()
        if not stripped.startswith(_SECRET_PREFIX):
            raise InvalidKey(f"a signing key must begin with `{_SECRET_PREFIX}`")
        name, claimed, kind, seed = _split(stripped.removeprefix(_SECRET_PREFIX), what="signing key")
        key = cls(name, kind, seed)
        if key.verifier.id != claimed:
            raise InvalidKey(f"signing key of `{name}` claims id `{claimed.hex()}` but has `{key.verifier.id.hex()}`")
        return key

    def secret_text(self) -> str:
        """Return the skey. It is the secret itself: for a file of mode 0600 and nowhere else."""
        encoded = base64.b64encode(bytes([self.kind]) + self.seed).decode()
        return f"{_SECRET_PREFIX}{self.name}+{self.verifier.id.hex()}+{encoded}"

    def sign(self, message: bytes) -> bytes:
        """Return the bare signature over `message`."""
        return _algorithm(self.kind).sign(self.seed, message)


def save_signing_key(key: SigningKey, path: Path) -> None:
    """Write `key` to a new file of mode 0600 and make it durable.

    Raises:
        InvalidKey: The file exists; a key is never overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise InvalidKey(f"`{path}` exists and is not overwritten; hint: move it away first") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)  # a default ACL or an odd umask may have changed it
        file.write(key.secret_text() + "\n")
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_secret_file(path: Path, *, limit_bytes: int = KEY_FILE_LIMIT_BYTES) -> str:
    """Return the text of a secret file.

    Raises:
        InvalidKey: It is missing, not a regular file, too large, not text, or readable or writable by group or others.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidKey(f"cannot read secret file `{path}`: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)  # of the open file, so that it cannot be swapped in between
        if not stat.S_ISREG(status.st_mode):
            raise InvalidKey(f"secret file `{path}` is not a regular file")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise InvalidKey(f"secret file `{path}` has mode `{mode:04o}`: others may read it; hint: chmod 600 {path}")
        data = os.read(descriptor, limit_bytes + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit_bytes:
        raise InvalidKey(f"secret file `{path}` is larger than {limit_bytes} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidKey(f"secret file `{path}` is not UTF-8 text") from error


def read_secret(reference: str, *, base: Path, environ: Mapping[str, str]) -> str:
    """Return the secret that `file:PATH` (relative to `base`) or `env:NAME` names.

    Raises:
        InvalidKey: The reference has another form, or what it names is missing or careless.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "file" and rest:
        return read_secret_file(base / rest)
    if scheme == "env" and rest:
        value = environ.get(rest)
        if not value:
            raise InvalidKey(f"environment variable `{rest}` is not set")
        return value
    raise InvalidKey("a secret is named `file:PATH` or `env:NAME`; hint: never write the secret itself here")


def load_signing_key(reference: str, *, base: Path, environ: Mapping[str, str]) -> SigningKey:
    """Load the signing key that `file:PATH` or `env:NAME` names.

    Raises:
        InvalidKey: See `read_secret` and `SigningKey.parse`.
    """
    return SigningKey.parse(read_secret(reference, base=base, environ=environ))
