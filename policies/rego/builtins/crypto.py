"""Digests and HMAC."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

from policies.rego.builtins.registry import builtin, want_string


def _digest(name: str) -> Callable[[Any], str]:
    def digest(text: Any) -> str:
        """Hexadecimal digest."""
        return hashlib.new(name, want_string(text).encode(), usedforsecurity=False).hexdigest()

    return digest


def _mac(name: str) -> Callable[[Any, Any], str]:
    def mac(text: Any, key: Any) -> str:
        """Hexadecimal HMAC."""
        return hmac.new(want_string(key, 2).encode(), want_string(text).encode(), name).hexdigest()

    return mac


for _name in ("md5", "sha1", "sha256"):
    builtin(f"crypto.{_name}", 1)(_digest(_name))
for _name in ("md5", "sha1", "sha256", "sha512"):
    builtin(f"crypto.hmac.{_name}", 2)(_mac(_name))


@builtin("crypto.hmac.equal", 2)
def equal(left: Any, right: Any) -> bool:
    """Constant-time comparison."""
    return hmac.compare_digest(want_string(left).encode(), want_string(right, 2).encode())
