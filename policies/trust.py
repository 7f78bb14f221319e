"""The trust root: who people are, which keys are theirs, what their roles let them sign, and how many must agree.

`trust/root.json` lies outside the reloaded folder. Its digest is pinned when the gateway starts and told in the log.

Rules:
- A **person** counts, not a key: two keys of one person are one voice. A key belongs to one person.
- The root is signed by a threshold of its own people with the role `root`. Another root follows it only with version + 1, signed by the old root's
  threshold **and** by its own (as TUF does), so nobody is handed a duty they have not shown they can carry out.
- A key id is the first 16 hex digits of SHA-256 over the 32 public bytes: computed, and compared with what the file says.
- Keys are Ed25519, written raw in base64 (`ed25519`) or as a line of OpenSSH (`ssh-ed25519`). Signatures are bare Ed25519 over the PAE of
  `policies/dsse.py`.

Example:
    root = TrustRoot.parse(Path("trust/root.json").read_bytes())
    root.person_of("0123456789abcdef").name     # "alice"
    root.needed("approve.high")                 # 2
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from audit import canonical
from audit.keys import SigningKey, decode_base64
from policies.dsse import pae, strict_json

PAYLOAD_TYPE: Final = "application/vnd.assay.trust-root+json"
ROLES: Final = frozenset({"root", "approver"})
THRESHOLDS: Final = frozenset({"approve.low", "approve.medium", "approve.high", "root"})
DEFAULT_THRESHOLDS: Final = {"approve.low": 1, "approve.medium": 1, "approve.high": 2, "root": 1}
MOST_BYTES: Final = 1024 * 1024


class InvalidTrust(ValueError):  # noqa: N818 - reads as the statement it is
    """A trust root is malformed, not signed by enough of its people, or does not follow the one before."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what the file holds."""


class Key(_Strict, frozen=True):
    """A public key of a person."""

    id: str
    type: str
    public: str

    def raw(self) -> bytes:
        """Return the 32 public bytes. Raises InvalidTrust."""
        return _public_bytes(self.type, self.public)


class Person(_Strict, frozen=True):
    """The identity that counts."""

    name: str
    keys: tuple[Key, ...]
    roles: tuple[str, ...]


class Signature(_Strict, frozen=True):
    """One signature of the root."""

    key: str
    sig: str


@dataclass(frozen=True, slots=True)
class TrustRoot:
    """A root that is well formed. `parse` also verifies that it is signed by enough of its own people; a value built by hand may not be."""

    version: int
    people: tuple[Person, ...]
    thresholds: Mapping[str, int]
    signatures: tuple[Signature, ...] = ()
    _by_key: Mapping[str, tuple[Person, bytes]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check what a root must be, so that nobody has to check again."""
        if self.version < 1:
            raise InvalidTrust(f"trust root version must be 1 or more, got `{self.version}`")
        object.__setattr__(self, "_by_key", _index(self.people))
        if set(self.thresholds) != THRESHOLDS:
            raise InvalidTrust(f"thresholds must name exactly {', '.join(sorted(THRESHOLDS))}")
        for action, needed in self.thresholds.items():
            able = sum(_role_for(action) in person.roles for person in self.people)
            if not 1 <= needed <= able:
                raise InvalidTrust(f"threshold `{action}` is {needed}, and {able} people have the role `{_role_for(action)}`; it must be 1 to {able}")

    @classmethod
    def parse(cls, data: bytes) -> TrustRoot:
        """Read `root.json` and verify that it is signed by a threshold of its own people.

        Raises:
            InvalidTrust: malformed or not signed by enough.
        """
        root = cls.parse_unsigned(data)
        root.require_signatures(root)
        return root

    @classmethod
    def parse_unsigned(cls, data: bytes) -> TrustRoot:
        """Read a root whose signatures are still being gathered. Raises InvalidTrust when it is malformed."""
        if len(data) > MOST_BYTES:
            raise InvalidTrust(f"trust root has {len(data)} bytes, more than {MOST_BYTES}")
        document = strict_json(data, InvalidTrust, "trust root")
        try:
            file = msgspec.convert(document, _RootFile)
        except msgspec.ValidationError as error:
            raise InvalidTrust(f"trust root: {error}") from error
        return cls(file.version, file.people, file.thresholds, file.signatures)

    @property
    def digest(self) -> str:
        """Return the SHA-256 (hex) of what is signed: what start-up pins. More signatures do not change it."""
        return hashlib.sha256(self.signed_bytes).hexdigest()

    @property
    def signed_bytes(self) -> bytes:
        """Return what the people sign."""
        return pae(PAYLOAD_TYPE, canonical.encode(self._body()))

    def encode(self) -> bytes:
        """Return the file: readable JSON that ends with a newline."""
        document = {**self._body(), "signatures": msgspec.to_builtins(self.signatures)}
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"

    def _body(self) -> dict[str, Any]:
        return {"version": self.version, "people": msgspec.to_builtins(self.people), "thresholds": dict(self.thresholds)}

    def needed(self, action: str) -> int:
        """Return how many people an action needs."""
        return self.thresholds[action]

    def person_of(self, key_id: str) -> Person | None:
        """Return the person a key belongs to."""
        found = self._by_key.get(key_id)
        return found[0] if found else None

    def verify(self, key_id: str, message: bytes, signature: bytes) -> Person | None:
        """Return the person who signed `message`, or None when the key is unknown or the signature is not theirs."""
        found = self._by_key.get(key_id)
        if found is None:
            return None
        try:
            Ed25519PublicKey.from_public_bytes(found[1]).verify(signature, message)
        except InvalidSignature:
            return None
        return found[0]

    def require_signatures(self, judge: TrustRoot) -> None:
        """Check that this root is signed by a threshold of `judge`'s people with the role `root`.

        Raises:
            InvalidTrust: it is not; the message says who has signed and how many are needed.
        """
        signers = self.signers(judge)
        needed = judge.needed("root")
        if len(signers) < needed:
            raise InvalidTrust(
                f"trust root version {self.version} is signed by {len(signers)} of {needed} people ({', '.join(sorted(signers)) or 'nobody'}); "
                "hint: `assay trust sign --key FILE`"
            )

    def signers(self, judge: TrustRoot) -> frozenset[str]:
        """Return the people of `judge` with the role `root` whose signature under this root verifies."""
        names = set()
        for signature in self.signatures:
            try:
                person = judge.verify(signature.key, self.signed_bytes, decode_base64(signature.sig))
            except ValueError as error:
                raise InvalidTrust(f"signature by `{signature.key}`: {error}") from error
            if person is not None and "root" in person.roles:
                names.add(person.name)
        return frozenset(names)

    def require_successor_of(self, old: TrustRoot) -> None:
        """Check that this root may take the place of `old`. Raises InvalidTrust."""
        if self.version != old.version + 1:
            raise InvalidTrust(f"expected trust root version {old.version + 1}, got version {self.version}")
        self.require_signatures(old)
        self.require_signatures(self)

    def signed(self, key: PersonKey) -> TrustRoot:
        """Return this root with the signature of `key` added (or renewed)."""
        mine = Signature(key.id, base64.b64encode(key.sign(self.signed_bytes)).decode())
        return replace(self, signatures=(*(other for other in self.signatures if other.key != key.id), mine))

    def next(self, *, people: Iterable[Person], thresholds: Mapping[str, int] | None = None) -> TrustRoot:
        """Return the unsigned root that may follow this one."""
        return TrustRoot(self.version + 1, tuple(people), dict(thresholds or self.thresholds))


class _RootFile(_Strict, frozen=True):
    version: int
    people: tuple[Person, ...]
    thresholds: dict[str, int]
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class PersonKey:
    """A person's private key. Its `repr` never shows the secret."""

    _private: Ed25519PrivateKey = field(repr=False)
    type: str = "ed25519"

    @classmethod
    def from_seed(cls, seed: bytes) -> PersonKey:
        """Return the key of a 32-byte seed."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, text: str, password: bytes | None = None) -> PersonKey:
        """Read a private key: what `assay trust init` writes, an OpenSSH ed25519 key, or PKCS #8 PEM.

        Raises:
            InvalidTrust: it is none of these, not Ed25519, or the password is wrong. The message never holds the secret.
        """
        data = text.encode()
        try:
            if text.startswith("PRIVATE+KEY+"):
                return cls.from_seed(SigningKey.parse(text).seed)
            is_ssh = "BEGIN OPENSSH PRIVATE KEY" in text
            private = load_ssh_private_key(data, password) if is_ssh else load_pem_private_key(data, password)
        except TypeError as error:
            raise InvalidTrust(f"private key: {error}") from None
        except UnsupportedAlgorithm:
            hint = "hint: keep a copy as PKCS #8: `ssh-keygen -p -m PKCS8 -f COPY`, or install the package `bcrypt`"
            raise InvalidTrust(f"an OpenSSH key with a passphrase cannot be opened here; {hint}") from None
        except ValueError:
            raise InvalidTrust("not a private key this reads, or the wrong password; allowed: Assay key, OpenSSH ed25519, PKCS #8 PEM") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise InvalidTrust("the private key is not Ed25519; hint: `ssh-keygen -t ed25519`")
        return cls(private, "ssh-ed25519" if is_ssh else "ed25519")

    def encode(self) -> str:
        """Return the key as PKCS #8 PEM, which `load` and OpenSSL read. It is the secret itself: for a file of mode 0600 and nowhere else."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    @property
    def id(self) -> str:
        """Return the key id."""
        return key_id(self._private.public_key().public_bytes_raw())

    @property
    def public(self) -> Key:
        """Return the public key as the root holds it."""
        public = self._private.public_key()
        if self.type == "ssh-ed25519":
            return Key(self.id, self.type, public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())
        return Key(self.id, self.type, base64.b64encode(public.public_bytes_raw()).decode())

    def sign(self, message: bytes) -> bytes:
        """Return the bare Ed25519 signature over `message`."""
        return self._private.sign(message)


def key_id(raw: bytes) -> str:
    """Return the id of a public key: 16 hex digits of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(raw).hexdigest()[:16]


def read_public_key(text: str) -> Key:
    """Read a public key a person hands over: an OpenSSH line (`ssh-ed25519 AAAA... comment`) or 32 bytes in base64. Raises InvalidTrust."""
    words = text.split()
    if len(words) >= 2 and words[0] == "ssh-ed25519":
        public = " ".join(words[:2])
        return Key(key_id(_public_bytes("ssh-ed25519", public)), "ssh-ed25519", public)
    return Key(key_id(_public_bytes("ed25519", text.strip())), "ed25519", text.strip())


def _public_bytes(kind: str, public: str) -> bytes:
    if kind not in {"ed25519", "ssh-ed25519"}:
        raise InvalidTrust(f"key type `{kind}` is not allowed; allowed: ed25519, ssh-ed25519")
    try:
        if kind == "ed25519":
            return Ed25519PublicKey.from_public_bytes(decode_base64(public)).public_bytes_raw()
        loaded = load_ssh_public_key(public.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidTrust(f"public key `{public[:40]}` cannot be read: {error}") from error
    if not isinstance(loaded, Ed25519PublicKey):
        raise InvalidTrust(f"public key `{public[:40]}` is not Ed25519")
    return loaded.public_bytes_raw()


def _role_for(action: str) -> str:
    return "root" if action == "root" else "approver"


def _index(people: Iterable[Person]) -> dict[str, tuple[Person, bytes]]:
    by_key: dict[str, tuple[Person, bytes]] = {}
    names: set[str] = set()
    for person in people:
        if not person.name or not person.name.isascii() or not person.name.replace("-", "").replace(".", "").replace("_", "").isalnum():
            raise InvalidTrust(f"`{person.name}` is not a person's name; allowed: ASCII letters, digits, `.`, `_`, `-`")
        if person.name in names:
            raise InvalidTrust(f"person `{person.name}` is listed twice")
        names.add(person.name)
        unknown = set(person.roles) - ROLES
        if unknown:
            raise InvalidTrust(f"`{person.name}` has the unknown role `{min(unknown)}`; allowed: {', '.join(sorted(ROLES))}")
        for key in person.keys:
            raw = key.raw()
            if key.id != key_id(raw):
                raise InvalidTrust(f"key of `{person.name}` says id `{key.id}` but is `{key_id(raw)}`")
            if key.id in by_key:
                raise InvalidTrust(
                    f"key `{key.id}` is listed for `{by_key[key.id][0].name}` and again for `{person.name}`: a key has one owner, once"
                )
            by_key[key.id] = (person, raw)
    return by_key


def ceremony(keys: Mapping[str, PersonKey], *, thresholds: Mapping[str, int]) -> TrustRoot:
    """Return version 1 of a root in which everyone named is approver and root, signed by all of them."""
    people = tuple(Person(name, (key.public,), ("approver", "root")) for name, key in keys.items())
    root = TrustRoot(1, people, dict(thresholds))
    for key in keys.values():
        root = root.signed(key)
    return root
