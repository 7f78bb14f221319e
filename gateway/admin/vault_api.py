"""The vault on the admin port: what was captured of one call, for programs and as a page, and the erasure of a subject.

Both need a scope of their own (`vault:read`, `subject:erase`), which no other one implies. A read is committed as a `query` before anything is shown;
an erasure is its own record. The body of an erasure names the subject; nothing of it is logged, recorded or repeated in an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from audit import wire
from audit.journal import JournalError
from audit.store.errors import StoreError
from audit.vault.standing import captured_of
from gateway.admin.access import Access
from gateway.admin.captured import Captured, captured_document, in_words
from gateway.admin.experiments_api import read_body
from gateway.admin.reads import Reads
from gateway.admin.records import RecordsApi, Render
from gateway.authenticate import Principal
from gateway.control.erasures import Asked, Erasures
from gateway.refusals import Refusal
from policies.erasure import Ground

READ: Final = "vault:read"
_MOST_UNIT: Final = wire.LEAF_BYTES
"""No longer one comes into the vault: whoever is in it can be erased."""


class _Consent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    nonce: str
    envelope: str


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of an erasure."""

    unit: str
    ground: Ground
    tenant: str | None = None
    consents: tuple[_Consent, ...] = ()


class VaultApi:
    """The routes. Holds no state."""

    def __init__(
        self, erasures: Erasures | None, records: RecordsApi, reads: Reads, access: Access, render: Render, require_leader: Callable[[str], None]
    ) -> None:
        """Answer from `erasures`, None where there is no vault; show pages by `render`. `require_leader` refuses what is left to another node."""
        self._erasures = erasures
        self._records = records
        self._reads = reads
        self._access = access
        self._require_leader = require_leader
        self._render = render

    def routes(self) -> list[Route]:
        """Return the table of routes."""
        return [
            Route("/api/records/{index}/payload", self._payload),
            Route("/records/{index}/payload", self._payload_page),
            Route("/api/erasures", self._erase, methods=["POST"]),
        ]

    async def _payload(self, request: Request) -> Response:
        return JSONResponse(captured_document(await self._captured(request, self._require(request, READ))))

    async def _payload_page(self, request: Request) -> Response:
        if self._access.who(request) is None:
            return RedirectResponse("/login", status_code=303)
        principal = self._require(request, READ)
        captured = await self._captured(request, principal)
        return self._render("payload.html", principal=principal, here="vault", captured=captured, **in_words(captured))

    async def _captured(self, request: Request, principal: Principal) -> Captured:
        """Return what the vault has of the call a record belongs to, after it is committed that `principal` is shown it."""
        erasures = self._vault()
        shown = await self._records.shown(request, principal)
        decision, payload = captured_of(shown.record, list(shown.related.values()))
        if "vault" not in payload:
            raise Refusal(
                "not_found", f"record `{shown.index}` names nothing in the vault", hint="`capture.vault` in the model's file says what is captured"
            )
        await self._reads.question(principal, {"payload": decision}, size=shown.index + 1, rows=1)
        try:
            found = await erasures.read(decision)
        except StoreError as error:
            raise Refusal("vault_unavailable", f"the vault cannot be read: {error}") from None
        return Captured(shown.index, decision, payload, found)

    async def _erase(self, request: Request) -> Response:
        principal = self._require(request, "subject:erase")
        erasures = self._vault()
        self._require_leader("a consent serves one erasure, so subjects are erased")
        asked = _asked(await read_body(request), principal)
        try:
            done = await erasures.erase(asked, principal)
        except JournalError:
            raise Refusal(
                "audit_unavailable", "the subject's data are destroyed, and the record of it is not committed yet: a restart does it"
            ) from None
        except StoreError:
            raise Refusal(
                "vault_unavailable", "the erasure is noted and could not be finished; a restart finishes it", hint="see the gateway's log; ask again"
            ) from None
        return JSONResponse({"erasure": done.erasure, "keys": done.keys, "entries": done.entries, "record": done.index})

    def _vault(self) -> Erasures:
        if self._erasures is None:
            raise Refusal("not_found", "this gateway has no vault", hint="`vault` in gateway.yaml")
        return self._erasures

    def _require(self, request: Request, scope: str) -> Principal:
        principal = self._access.who(request)
        if principal is None:
            raise Refusal("no_credentials", "the request carries no key and no session")
        if scope not in principal.scopes:
            raise Refusal("missing_scope", f"`{request.url.path}` needs the scope `{scope}`")
        return principal


def _asked(body: bytes, principal: Principal) -> Asked:
    """Read an order. Raises Refusal, which repeats nothing of it."""
    try:
        said = msgspec.json.decode(body, type=_Body)
        consents = tuple((bytes.fromhex(one.nonce), one.envelope.encode()) for one in said.consents)
    except (msgspec.DecodeError, ValueError):
        raise Refusal("malformed_body", "the body is not an erasure: `{unit, ground, tenant?, consents?: [{nonce, envelope}]}`") from None
    if not 0 < len(said.unit) <= _MOST_UNIT:
        raise Refusal("schema_mismatch", f"`unit` has 1 to {_MOST_UNIT} characters")
    return Asked(said.tenant or principal.tenant, said.unit, said.ground, consents)
