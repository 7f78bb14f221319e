"""Envelope encryption of the vault: master key -> key of a subject -> entries. Pure: randomness is an argument.

- The *master key* is 32 random bytes outside the data directory (a file of mode 0600, or an environment variable). Records of the vault name it by
  its fingerprint, so that a wrong one is told at once.
- A *data key* is 32 random bytes for one subject (tenant and pseudonym), stored wrapped. Wrapping uses a key derived for that one data key:
  HMAC-SHA256(master, "assay vault wrap" || key id), so that no nonce can ever meet its like under one key.
- An *entry* is sealed with AES-256-GCM under the data key; tenant, record id and key id are bound as associated data: a row that is moved to another
  record does not open.
- The *handle* of a subject, HMAC-SHA256(master, tenant, unit), finds its data keys when the pseudonyms' own key has long been destroyed.

Example:
    master = MasterKey.parse(read_secret("file:keys/vault.key", base=root, environ=os.environ))
    wrapped = master.wrap(key_id, data_key, os.urandom(12))
    box = seal(data_key, b"record id", plain, os.urandom(12))
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.keys import InvalidKey, decode_base64

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_PREFIX: Final = "VAULT+KEY+"
"""Begins the text of a master key, so that no other secret is taken for one."""


class CannotOpen(ValueError):  # noqa: N818 - reads as the statement it is
    """A box does not open: another key, another place, or altered bytes."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The key that wraps every data key. Its `repr` shows the fingerprint alone."""

    secret: bytes = field(repr=False)
    id: str = field(init=False)
    """16 hex digits of SHA-256 over the secret."""

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise InvalidKey(f"the vault's master key has {KEY_BYTES} bytes, not `{len(self.secret)}`")
        object.__setattr__(self, "id", hashlib.sha256(b"assay vault key id" + self.secret).hexdigest()[:16])

    @classmethod
    def parse(cls, text: str) -> MasterKey:
        """Read the text of a key. Raises InvalidKey, which never repeats it."""
        stripped = text.strip()
        if not stripped.startswith(_PREFIX):
            raise InvalidKey(f"a vault key begins with `{_PREFIX}`; hint: `assay audit vault-key FILE` makes one")
        try:
            return cls(decode_base64(stripped.removeprefix(_PREFIX)))
        except ValueError as error:
            raise InvalidKey(f"the vault's master key is malformed: {error}") from None

    def secret_text(self) -> str:
        """Return the text of the key: for a file of mode 0600 and nowhere else."""
        return _PREFIX + base64.b64encode(self.secret).decode()

    def handle(self, tenant: str, unit: str) -> bytes:
        """Return what a subject's data keys are found by, 16 bytes."""
        name = hashlib.sha256(tenant.encode()).digest() + unit.encode()
        return hmac.digest(self._derived(b"assay vault handle"), name, "sha256")[:16]

    def wrap(self, key_id: bytes, data_key: bytes, nonce: bytes) -> bytes:
        """Return a data key as it is stored."""
        return nonce + AESGCM(self._derived(b"assay vault wrap" + key_id)).encrypt(nonce, data_key, key_id)

    def unwrap(self, key_id: bytes, wrapped: bytes) -> bytes:
        """Return a stored data key. Raises CannotOpen."""
        return _opened(self._derived(b"assay vault wrap" + key_id), key_id, wrapped)

    def _derived(self, purpose: bytes) -> bytes:
        return hmac.digest(self.secret, purpose, "sha256")


def bound_to(tenant: str, record: str, key_id: bytes) -> bytes:
    """Return the associated data of an entry: whose, of which record, under which key."""
    return b"\0".join((b"assay vault entry", tenant.encode(), record.encode(), key_id))


def seal(data_key: bytes, bound: bytes, plain: bytes, nonce: bytes) -> bytes:
    """Return an entry as it is stored: nonce, ciphertext, tag."""
    return nonce + AESGCM(data_key).encrypt(nonce, plain, bound)


def unseal(data_key: bytes, bound: bytes, box: bytes) -> bytes:
    """Return what was sealed. Raises CannotOpen."""
    return _opened(data_key, bound, box)


def _opened(key: bytes, bound: bytes, box: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], bound)
    except (InvalidTag, ValueError):
        raise CannotOpen("it does not open: another key, another record, or altered bytes") from None
