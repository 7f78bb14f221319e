"""The front door's paths that are not calls to a model: health, metadata of the v2 protocol, feedback. `docs/http.md` lists them."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from audit.journal import JournalError
from gateway import feedback
from gateway.exchange import UpstreamError
from gateway.limits import PROOFS, PROOFS_PER_S
from gateway.protocols import v2
from gateway.refusals import Refusal

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.lane import Lane

FEEDBACK_ROOM_RECORDS: Final = 16_384
"""Feedback may fill this much of the journal; the rest is for calls."""
FEEDBACK_WAIT_NS: Final = 10_000_000_000
PROOF_WAIT_S: Final = 10.0
_PROOF_BYTES: Final = 4 << 20
_DECISION: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_KEPT: Final = (b"content-type", b"cache-control", b"retry-after", b"www-authenticate")
_JSON: Final = (b"content-type", b"application/json")


async def serve(lane: Lane, exchange: Exchange) -> None:
    """Serve a request that is not a model call. Raises Refusal."""
    path = exchange.request.path
    handler = PATHS.get(path)
    if handler is not None:
        await handler(lane, exchange)
    elif path.startswith("/v2/models/"):
        _describe_model(lane, exchange)
    elif path.startswith(PROOFS):
        await _receipt(lane, exchange)
    else:
        raise Refusal("not_found", f"there is nothing at `{path}`")


async def _live(_lane: Lane, exchange: Exchange) -> None:
    _require_get(exchange)
    exchange.respond(200, [_JSON], b'{"live":true}')


async def _ready(lane: Lane, exchange: Exchange) -> None:
    _require_get(exchange)
    reason = lane.ready()
    if reason is not None:
        raise Refusal("not_ready", reason)
    exchange.respond(200, [_JSON], b'{"ready":true}')


async def _server(_lane: Lane, exchange: Exchange) -> None:
    _require_get(exchange)
    exchange.respond(200, [_JSON], v2.SERVER_BODY)


def _describe_model(lane: Lane, exchange: Exchange) -> None:
    """`GET /v2/models/{m}[/versions/{v}][/ready]`."""
    fields = dict(exchange.request.headers)
    principal = lane.authenticator.authenticate(fields.get(b"authorization"), time.time_ns() // 1000)
    model, *steps = exchange.request.path.split("/")[3:]
    route = lane.snapshot.routes.get(model)
    ready = steps[-1:] == ["ready"]
    steps = steps[:-1] if ready else steps
    if principal.models is not None and model not in principal.models:
        route = None
    if route is None or (steps[:1] == ["versions"] and steps[1:2] != [] and steps[1] not in route.versions):
        raise Refusal("unknown_model", f"no model or version at `{exchange.request.path}`")
    if steps and (len(steps) != 2 or steps[0] != "versions"):
        raise Refusal("not_found", f"there is nothing at `{exchange.request.path}`")
    _require_get(exchange)
    body = b'{"ready":true}' if ready else v2.metadata_body(route.model, sorted(route.versions))
    exchange.respond(200, [_JSON], body)


async def _receipt(lane: Lane, exchange: Exchange) -> None:
    """`GET /receipts/{id}`: the proof that what a receipt promised is in the log, as the controller makes it."""
    fields = dict(exchange.request.headers)
    principal = lane.authenticator.authenticate(fields.get(b"authorization"), time.time_ns() // 1000)
    _require_get(exchange)
    # Proofs are made by the process that publishes: whoever holds any key must not be able to keep it from that.
    if not lane.limits.reserve(principal.id, PROOFS, PROOFS_PER_S, lane.monotonic_s()):
        raise Refusal("rate_limited", f"a key may ask for {PROOFS_PER_S} proofs a second")
    decision = exchange.request.path.removeprefix(PROOFS)
    if not _DECISION.fullmatch(decision):
        raise Refusal("not_found", f"`{exchange.request.path[:80]}` names no decision: `/receipts/` and what `Assay-Decision` said")
    if lane.proofs is None:
        raise Refusal("not_ready", "this worker does not know where proofs are made")
    try:
        # Who asks is checked again there, by the same key: whose decision it is only the log knows.
        asked = [(b"authorization", fields[b"authorization"])]
        until_s = time.monotonic() + PROOF_WAIT_S
        reply = await lane.upstream.send(lane.proofs, "GET", f"/api/receipts/{decision}".encode(), asked, b"", until_s)
        body = await reply.read(_PROOF_BYTES)
    except UpstreamError as fault:
        raise Refusal("not_ready", f"the controller does not answer just now ({fault.fault.value})") from None
    exchange.respond(reply.status, [field for field in reply.headers if field[0] in _KEPT], body)


def _require_get(exchange: Exchange) -> None:
    request = exchange.request
    if request.method not in ("GET", "HEAD"):
        raise Refusal("method_not_allowed", f"`{request.path}` is read with GET; inference is a POST to `.../infer`")


async def _feedback(lane: Lane, exchange: Exchange) -> None:
    """`POST /feedback`: labels and rewards, each a record, answered once committed."""
    request = exchange.request
    unix_us = time.time_ns() // 1000
    principal = lane.authenticator.authenticate(dict(request.headers).get(b"authorization"), unix_us)
    if request.method != "POST":
        raise Refusal("method_not_allowed", "feedback is a POST")
    if "feedback:write" not in principal.scopes:
        raise Refusal("missing_scope", "feedback needs the scope `feedback:write`")
    events = feedback.read(request.body, unix_us, lane.snapshot.classes, lane.snapshot.settings.feedback_metrics)
    if lane.journal.unacked_count + len(events) > FEEDBACK_ROOM_RECORDS:
        raise Refusal("audit_unavailable", "too many records wait to be confirmed; send the whole request again")
    # Which decision is of which model only the log knows: what the key is limited to goes into the record, and whoever reads it joins accordingly.
    limits: dict[str, Any] = {} if principal.models is None else {"models": sorted(principal.models)}
    if "feedback:correct" in principal.scopes:
        limits["may_correct"] = True
    seq = None
    for event in events:
        head = lane.source.head(lane.ids.next(unix_us // 1000), event.kind, unix_us, time.monotonic_ns(), principal.tenant, principal.actor)
        try:
            seq = lane.journal.append({**head, **event.fields, **limits, "source": principal.id, "parents": [event.decision]})
        except JournalError:
            raise Refusal("audit_unavailable", "the line of unconfirmed records is full; send the whole request again") from None
    if seq is not None:
        await lane.ledger.committed(seq, time.monotonic_ns() + FEEDBACK_WAIT_NS)
    exchange.respond(202, [_JSON], b'{"accepted":%d}' % len(events))


PATHS: Final[dict[str, Callable[[Lane, Exchange], Awaitable[None]]]] = {
    "/livez": _live,
    "/readyz": _ready,
    "/v2": _server,
    "/v2/health/live": _live,
    "/v2/health/ready": _ready,
    "/feedback": _feedback,
}
"""Path -> handler."""
