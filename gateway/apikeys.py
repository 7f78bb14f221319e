"""API keys of callers: the file they are kept in, and the table that finds one in about a microsecond.

A key is 256 random bits, shown once. The file (`keys/api-keys.json`, mode 0600) holds only HMAC-SHA256 of each key under the file's own
random salt: who reads it can call nothing. The table maps that HMAC to the key, so that a lookup compares nothing byte by byte with a secret.

Rules:
- The file is refused when others may read it, when it holds a key it does not know, or when two entries are the same.
- A revoked key is removed from the file; the log tells that it existed. An expired one stays until it is removed.

Example:
    secret, file = create(file, tenant="acme", scopes=("infer",), models=(), expires_us=None, random=os.urandom, now_us=now)
    KeyTable.of(file).find(secret.encode())       # "k_3f..."
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from audit.keys import InvalidKey, read_secret_file
from gateway.hmac256 import Hmac256

SCOPES: Final = {
    "infer": "call models",
    "unit:assert": "say whom a call is about (Assay-Unit)",
    "context:assert": "say what a call is like (Assay-Context)",
    "variant:assert": "say which arm an experiment gives a call that another system assigns (Assay-Variant)",
    "version:pin": "name a version; recorded, and outside experiments",
    "feedback:write": "send labels and rewards",
    "feedback:correct": "correct labels that another key sent",
    "experiment:start": "start and resume experiments",
    "experiment:operate": "pause, stop and roll back experiments, alone",
    "experiment:promote": "promote what is proven fine, deliver consents of approvers",
    "admin:read": "look at console, API and reports on the admin port",
    "admin:write": "change things on the admin port",
    "audit:read": "read the log's entries",
    "vault:read": "read what was captured of a call, on the admin port; each read is recorded",
    "subject:erase": "have a subject erased, on the admin port",
    "tenants:all": "with another scope, on the admin port of a gateway of several tenants: see what concerns all of them",
}
"""What a key may be allowed."""
ROLES: Final = (
    "admin:read",
    "admin:write",
    "audit:read",
    "experiment:start",
    "experiment:operate",
    "experiment:promote",
    "vault:read",
    "subject:erase",
)
"""Scopes that open something on the admin port."""
PREFIX: Final = "assay_"
_SECRET_LENGTH: Final = len(PREFIX) + 43
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_MOST_BYTES: Final = 64 * 1024 * 1024
_MAC_BYTES: Final = 32


class StoredKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key as the file holds it."""

    id: str
    """`k_` and 16 hex digits; what records name."""
    mac: str
    """HMAC-SHA256 of the key's text under the file's salt, 64 hex digits."""
    tenant: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] = ()
    """Models it may call; empty = all."""
    created_us: int
    expires_us: int | None = None
    note: str = ""
    """Who or what it is for."""


class KeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    version: int
    salt: str
    """32 random bytes, hex."""
    keys: tuple[StoredKey, ...]


class InvalidKeyFile(Exception):  # noqa: N818 - reads as the statement it is
    """The keys file is missing, careless or malformed; the text says what to do."""


@dataclass(frozen=True, slots=True)
class KeyTable:
    """Keys by their HMAC. Immutable; a changed file makes a new one."""

    keys: tuple[StoredKey, ...]
    _mac: Hmac256
    _by_mac: dict[bytes, str]

    @classmethod
    def of(cls, file: KeyFile) -> KeyTable:
        """Return the table of a checked file."""
        return cls(file.keys, Hmac256(bytes.fromhex(file.salt)), {bytes.fromhex(key.mac): key.id for key in file.keys})

    def find(self, secret: bytes) -> str | None:
        """Return the id of the key a caller presented, or None. Whether it has expired is the caller's question."""
        if len(secret) != _SECRET_LENGTH:
            return None
        return self._by_mac.get(self._mac.digest(secret))


def new_file(random: Callable[[int], bytes]) -> KeyFile:
    """Return a file without keys; `random` gives that many random bytes."""
    return KeyFile(version=1, salt=random(32).hex(), keys=())


def create(
    file: KeyFile,
    *,
    tenant: str,
    scopes: Iterable[str],
    models: Iterable[str] = (),
    expires_us: int | None = None,
    note: str = "",
    random: Callable[[int], bytes],
    now_us: int,
) -> tuple[str, KeyFile]:
    """Make a key.

    Returns:
        The secret, which is nowhere else, and the file with the key in it.

    Raises:
        InvalidKeyFile: an unknown scope, or a name with other characters than ASCII letters, digits, `.`, `_`, `-`.
    """
    secret = PREFIX + base64.urlsafe_b64encode(random(32)).decode().rstrip("=")
    mac = hmac.digest(bytes.fromhex(file.salt), secret.encode(), "sha256").hex()
    key = StoredKey(
        id=f"k_{random(8).hex()}",
        mac=mac,
        tenant=tenant,
        scopes=tuple(sorted(set(scopes))),
        models=tuple(sorted(set(models))),
        created_us=now_us,
        expires_us=expires_us,
        note=note,
    )
    return secret, _checked(msgspec.structs.replace(file, keys=(*file.keys, key)), "the new key")


def revoke(file: KeyFile, key_id: str) -> KeyFile:
    """Return the file without a key. Raises InvalidKeyFile when there is none of that id."""
    kept = tuple(key for key in file.keys if key.id != key_id)
    if len(kept) == len(file.keys):
        raise InvalidKeyFile(f"there is no key `{key_id}`; hint: `assay key list`")
    return msgspec.structs.replace(file, keys=kept)


def losing_sight(file: KeyFile, now_us: int) -> tuple[StoredKey, ...]:
    """Return the keys that see the admin port while there is one tenant, and nothing of it once there are two."""
    roles = set(ROLES)
    return tuple(
        key
        for key in file.keys
        if roles & set(key.scopes) and "tenants:all" not in key.scopes and (key.expires_us is None or now_us < key.expires_us)
    )


def has_overseer(file: KeyFile, now_us: int) -> bool:
    """Say whether somebody sees console, API and metrics however many tenants there are."""
    wanted = {"admin:read", "tenants:all"}
    return any(wanted <= set(key.scopes) and (key.expires_us is None or now_us < key.expires_us) for key in file.keys)


def encode(file: KeyFile) -> bytes:
    """Return the bytes to write with mode 0600."""
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def decode(data: bytes, where: str = "keys file") -> KeyFile:
    """Return a checked file. Raises InvalidKeyFile."""
    try:
        return _checked(msgspec.json.decode(data, type=KeyFile), where)
    except msgspec.DecodeError as error:
        raise InvalidKeyFile(f"{where} is not a keys file: {error}; hint: write it with `assay key create` only") from error


def load(path: Path) -> KeyFile:
    """Read a keys file.

    Raises:
        InvalidKeyFile: missing, readable by others, or malformed.
    """
    if not path.exists():
        raise InvalidKeyFile(f"keys file `{path}` is missing; hint: `assay key create --scope infer`")
    try:
        return decode(read_secret_file(path, limit_bytes=_MOST_BYTES).encode(), f"keys file `{path}`")
    except InvalidKey as error:
        raise InvalidKeyFile(str(error)) from error


def _checked(file: KeyFile, where: str) -> KeyFile:
    """Return the file if it is one, so that nobody has to check again."""
    if file.version != 1:
        raise InvalidKeyFile(f"{where}: version `{file.version}` is not known; this release reads version 1")
    if not _is_hex(file.salt, _MAC_BYTES):
        raise InvalidKeyFile(f"{where}: the salt is not 32 bytes in hex")
    for key in file.keys:
        if not _is_hex(key.mac, _MAC_BYTES):
            raise InvalidKeyFile(f"{where}: mac of key `{key.id}` is not 32 bytes in hex")
        for name in (key.id, key.tenant, *key.models):
            if not _NAME.match(name):
                raise InvalidKeyFile(f"{where}: `{name}` of key `{key.id}` is not a name; allowed: ASCII letters, digits, `.`, `_`, `-`")
        unknown = set(key.scopes) - set(SCOPES)
        if unknown or not key.scopes:
            raise InvalidKeyFile(f"{where}: key `{key.id}` has scope `{min(unknown, default='')}`; allowed: {', '.join(SCOPES)}")
    for what, values in (("id", [key.id for key in file.keys]), ("mac", [key.mac for key in file.keys])):
        if len(set(values)) != len(values):
            raise InvalidKeyFile(f"{where}: two keys have the same {what}")
    return file


def _is_hex(text: str, length_bytes: int) -> bool:
    return len(text) == 2 * length_bytes and all(digit in "0123456789abcdef" for digit in text)
