"""Where an OPA server is: an address, and what proves who speaks. A value; nothing is connected.

Example:
    Server("https://opa.internal:8181", token="...")
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

_LOOPBACK = frozenset(("127.0.0.1", "::1", "localhost"))


@dataclass(frozen=True, slots=True)
class Server:
    """Where OPA is and how to speak to it.

    Args:
        url: `http://host:port` or `https://host:port`, nothing after it.
        token: Bearer token, or None.
        client_certificate: Path of a PEM file with certificate and key, for https, or None.
        authority: Path of a PEM file with the authorities the server's certificate must come from, or None for the system's.
    """

    url: str
    token: str | None = None
    client_certificate: str | None = None
    authority: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no server address, and a token in the clear to another host."""
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.username:
            raise ValueError(f"`{self.url}` is no address of an OPA server; hint: `http://127.0.0.1:8181`")
        if parts.scheme == "http" and self.token is not None and parts.hostname not in _LOOPBACK:
            raise ValueError(f"a token would go to `{parts.hostname}` in the clear; hint: use https")
