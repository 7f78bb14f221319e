"""Proofs for receipts: `/api/receipts/{id}`, which the front door's `/receipts/{id}` asks on behalf of a caller.

Any valid key may ask, and is told of its own tenant's decisions alone: where a record stands, its inclusion proof, and which key the log certifies
for receipts. Nothing of what the record holds is told, so that no role is needed and no read is recorded: hashes are as public as the tiles.
A key asks at most `PROOFS_PER_S` times a second, here as at the front door: whoever holds any key must not keep this process from what else it does.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from audit.merkle import ProofError
from audit.note import NoteError
from audit.receipt import Certificates
from audit.source import SourceError
from audit.store.errors import StoreError
from audit.tiles import TileError
from gateway.admin.reading import Reading
from gateway.authenticate import Authenticator
from gateway.limits import PROOFS, PROOFS_PER_S, RateLimits
from gateway.refusals import Refusal


class ReceiptsApi:
    """The route. Owned by the controller's loop; the buckets of `_limits` are all its state."""

    def __init__(
        self, reading: Reading, authenticator: Callable[[], Authenticator], certificates: Certificates, monotonic_s: Callable[[], float]
    ) -> None:
        """Answer through `reading`, for keys of `authenticator()`, with what the log certifies."""
        self._limits = RateLimits(workers=1)
        self._monotonic_s = monotonic_s
        self._reading = reading
        self._authenticator = authenticator
        self._certificates = certificates

    def routes(self) -> list[Route]:
        """Return the table of routes."""
        return [Route("/api/receipts/{id}", self._proof)]

    async def _proof(self, request: Request) -> Response:
        header = request.headers.get("authorization")
        principal = self._authenticator().authenticate(None if header is None else header.encode("latin-1"), time.time_ns() // 1000)
        if not self._limits.reserve(principal.id, PROOFS, PROOFS_PER_S, self._monotonic_s()):
            raise Refusal("rate_limited", f"a key may ask for {PROOFS_PER_S} proofs a second")
        decision = request.path_params["id"]
        try:
            answer = await self._reading.receipt(decision, principal.tenant, tuple(self._certificates.by_vkey.values()))
        except (StoreError, ProofError, NoteError, TileError, SourceError) as error:
            raise Refusal("not_ready", f"the log cannot be read just now: {error}") from None
        if answer is None:
            raise Refusal(
                "not_found",
                f"no signed head covers a record of decision `{decision[:40]}`",
                hint="ask again once the promised delay is over; then the receipt and the log tell whether the promise was broken",
            )
        return JSONResponse(answer, headers={"cache-control": "no-store"})
