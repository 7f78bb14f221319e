"""Who may see what on the admin port: keys with the scopes `admin:read` or `audit:read`, as a bearer token or as a browser session made from one.

What this port tells, it tells of every tenant: traffic, experiments, the log's entries. Where a gateway serves, or has served,
more than one, a key of one tenant needs the scope `tenants:all` beside its role. Without it go the log's head and hash tiles, which tell of nobody,
and the steps that make an experiment safer (`pause`, `rollback`, `stop`), whose answer names phases alone.

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

from experiments.lifecycle import ASKED_BY
from gateway.apikeys import ROLES
from gateway.authenticate import Authenticator, Principal
from gateway.refusals import Refusal

COOKIE: Final = "assay-session"
SESSION_S: Final = 8 * 3600
SEES_TRAFFIC: Final = frozenset({"admin:read"})
SEES_EXPERIMENTS: Final = frozenset({"admin:read", "admin:write", *ASKED_BY.values()})
"""Whoever may act on experiments may see them."""
SEES_RECORDS: Final = frozenset({"audit:read"})
SEES_THE_VAULT: Final = frozenset({"audit:read", "vault:read", "subject:erase"})
"""How much it holds and who was erased when; of what it holds nothing."""
SEES_THE_HEAD: Final = frozenset(ROLES)
"""The log's head tells of nobody."""
SAFER_STEPS: Final = frozenset(verb for verb, scope in ASKED_BY.items() if scope == "experiment:operate")
"""Whoever is on call may take them with their scope and their model, also where they may look at nothing."""
PAGES: Final = {
    "/": SEES_TRAFFIC,
    "/experiments": SEES_EXPERIMENTS,
    "/records": SEES_RECORDS,
    "/vault": SEES_THE_VAULT,
    "/audit-log": SEES_THE_HEAD,
}
"""First page of each part of the console -> scopes, one of which opens it; the same as of what machines read there."""
_MOST_SESSIONS_OF_A_KEY: Final = 20
"""The oldest ends when one more is signed in: a key must not push out the sessions of others. Their number is bounded by that of the keys."""


@dataclass(slots=True)
class _Session:
    key_id: str
    secret: bytes
    ends_s: float


def require_one_of(principal: Principal, scopes: frozenset[str], path: str) -> None:
    """Refuse a principal without one of the scopes that open a path."""
    if scopes.isdisjoint(principal.scopes):
        raise Refusal("missing_scope", f"`{path}` needs the scope {' or '.join(f'`{scope}`' for scope in sorted(scopes))}")


class Access:
    """Sessions of one process. Owned by the controller's loop."""

    def __init__(self, authenticator: Callable[[], Authenticator], tenants_ever: Callable[[], frozenset[str]]) -> None:
        """Ask `authenticator()` and `tenants_ever()` anew each time, so that a revoked key is out at once."""
        self._authenticator = authenticator
        self._tenants_ever = tenants_ever
        self._sessions: dict[str, _Session] = {}  # changed by `sign_in`, `sign_out` and `who`

    def sign_in(self, secret: str) -> str:
        """Return a session's name. Raises Refusal when the key is not valid or has no role."""
        key_id = self._principal(secret.encode()).id
        now_s = time.monotonic()
        self._sessions = {name: session for name, session in self._sessions.items() if now_s < session.ends_s}
        own = [name for name, session in self._sessions.items() if session.key_id == key_id]  # oldest first
        for name in own[: max(0, len(own) + 1 - _MOST_SESSIONS_OF_A_KEY)]:
            del self._sessions[name]
        name = secrets.token_urlsafe(32)
        self._sessions[name] = _Session(key_id, secret.encode(), now_s + SESSION_S)
        return name

    def sign_out(self, request: Request) -> None:
        """End the session of a request."""
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)

    def who(self, request: Request, *, of_nobody: bool = False) -> Principal | None:
        """Return who asks, or None; a bearer token that is not valid, or may not see all tenants, is a Refusal.

        Args:
            request: with a bearer token or the session's cookie.
            of_nobody: what is answered tells of no tenant.
        """
        header = request.headers.get("authorization")
        if header is not None:
            scheme, _, secret = header.partition(" ")
            if scheme.lower() != "bearer":
                raise Refusal("no_credentials", "the `Authorization` header is not `Bearer KEY`")
            return self._principal(secret.encode(), of_nobody=of_nobody)
        name = request.cookies.get(COOKIE, "")
        session = self._sessions.get(name)
        if session is None:
            return None
        if time.monotonic() >= session.ends_s:
            del self._sessions[name]
            return None
        try:
            return self._principal(session.secret, of_nobody=of_nobody)
        except Refusal:
            del self._sessions[name]
            return None

    def _principal(self, secret: bytes, *, of_nobody: bool = False) -> Principal:
        authenticator = self._authenticator()
        principal = authenticator.of_secret(secret, time.time_ns() // 1000)
        if not set(ROLES) & set(principal.scopes):
            raise Refusal("missing_scope", f"the admin port needs one of the scopes {', '.join(f'`{role}`' for role in ROLES)}")
        if not of_nobody and "tenants:all" not in principal.scopes and len(self._tenants_ever() | authenticator.tenants) > 1:
            raise Refusal(
                "missing_scope",
                "this gateway serves, or has served, several tenants, and this tells of all of them: it needs the scope `tenants:all`",
                hint="beside the deployment, for people who answer for the whole gateway: `assay key create --tenant "
                f"{principal.tenant} {' '.join(f'--scope {scope}' for scope in principal.scopes if scope in ROLES)} --scope tenants:all`",
            )
        return principal
