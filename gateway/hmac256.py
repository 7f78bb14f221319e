"""HMAC-SHA256 (RFC 2104) under a key that is used for every call.

`hmac.digest` prepares the key anew each time, which costs more than the hash itself; here both padded states are kept and copied. Checked
against the standard library and the vectors of RFC 4231.

Example::

    mac = Hmac256(key)
    mac.digest(b"unit-7") == hmac.digest(key, b"unit-7", "sha256")
"""

from __future__ import annotations

import hashlib
from typing import Final

_BLOCK_BYTES: Final = 64


class Hmac256:
    """A key, ready to use. Immutable."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        """Prepare a key of any length."""
        if len(key) > _BLOCK_BYTES:
            key = hashlib.sha256(key).digest()
        padded = key.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def digest(self, message: bytes) -> bytes:
        """Return the 32 bytes of HMAC-SHA256(key, message)."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()
