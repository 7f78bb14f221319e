"""Who may see what on the admin port: keys with the scopes `admin:read` or `audit:read`, as a bearer token or as a browser session made from one.

A session is a random name in this process's memory, held by the browser in a cookie no script can read; it ends with the process, after
`SESSION_S`, or when the key stops being valid. A form that changes anything is a POST, and the cookie is SameSite=Strict, so no other site
can send one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from gateway.authenticate import Authenticator, Principal
from gateway.refusals import Refusal

COOKIE: Final = "assay-session"
SESSION_S: Final = 8 * 3600
ROLES: Final = ("admin:read", "admin:write", "audit:read", "experiment:start", "experiment:operate", "experiment:promote")
_MOST_SESSIONS: Final = 10_000


@dataclass(slots=True)
class _Session:
    secret: bytes
    ends_s: float


class Access:
    """Sessions of one process. Owned by the controller's loop."""

    def __init__(self, authenticator: Callable[[], Authenticator]) -> None:
        """Ask `authenticator()` anew each time, so that a revoked key is out at once."""
        self._authenticator = authenticator
        self._sessions: dict[str, _Session] = {}  # changed by `sign_in`, `sign_out` and `who`

    def sign_in(self, secret: str) -> str:
        """Return a session's name. Raises Refusal when the key is not valid or has no role."""
        self._principal(secret.encode())
        if len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        name = secrets.token_urlsafe(32)
        self._sessions[name] = _Session(secret.encode(), time.monotonic() + SESSION_S)
        return name

    def sign_out(self, request: Request) -> None:
        """End the session of a request."""
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)

    def who(self, request: Request) -> Principal | None:
        """Return who asks, or None; a bearer token that is not valid is a Refusal."""
        header = request.headers.get("authorization")
        if header is not None:
            scheme, _, secret = header.partition(" ")
            if scheme.lower() != "bearer":
                raise Refusal("no_credentials", "the `Authorization` header is not `Bearer KEY`")
            return self._principal(secret.encode())
        name = request.cookies.get(COOKIE, "")
        session = self._sessions.get(name)
        if session is None:
            return None
        if time.monotonic() >= session.ends_s:
            del self._sessions[name]
            return None
        try:
            return self._principal(session.secret)
        except Refusal:
            del self._sessions[name]
            return None

    def _principal(self, secret: bytes) -> Principal:
        principal = self._authenticator().of_secret(secret, time.time_ns() // 1000)
        if not set(ROLES) & set(principal.scopes):
            raise Refusal("missing_scope", f"the admin port needs one of the scopes {', '.join(f'`{role}`' for role in ROLES)}")
        return principal
