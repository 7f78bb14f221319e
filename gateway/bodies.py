"""What goes to the model and what is kept of its reply: policies take out of a body before it leaves, and what they take out is kept nowhere."""

from __future__ import annotations

from typing import Any, Final

from audit.vault.entry import EntrySalts
from experiments.replies import class_of
from gateway.documents import PriceDocument
from gateway.exchange import Request
from gateway.gate import Judged
from gateway.intake import Parsed
from gateway.protocols.strictjson import JsonError, parse
from gateway.pseudonyms import TenantPseudonyms, commitment
from gateway.record import CallRecord
from gateway.refusals import Refusal
from gateway.reply_policy import redacted
from gateway.snapshot import Route
from gateway.usage import Tail
from policies.obligations import NotCarriedOut

REPLY_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""Longest reply that is read whole because something is captured from it."""
Salts = TenantPseudonyms | EntrySalts
"""Who makes the salts of a record's commitments: the tenant's key, or the call's own entry in the vault."""


def sent(judged: Judged, request: Request, parsed: Parsed, record: CallRecord, salts: Salts) -> bytes:
    """Return the request's body as the model may see it; that is what is captured too, not what policies take out of it. Raises as `_redacted`."""
    body = _redacted(judged, request, record, salts) if judged.redactions else request.body
    if record.kept is not None:
        if body is request.body and parsed.document is not None:
            record.kept.documents["request"] = parsed.document
        else:
            record.kept.note_body("request", body)
    return body


def _redacted(judged: Judged, request: Request, record: CallRecord, salts: Salts) -> bytes:
    """Return the request's body as the model may see it.

    Raises:
        Refusal: it cannot be redacted; nothing goes to the model.
    """
    try:
        body = redacted(judged.redactions, request.headers, request.body)
    except NotCarriedOut as why:
        reason = {"id": "OBL-FAILED", "package": "-", "msg": f"the request cannot be redacted: {why}"[:256], "mode": "enforce"}
        raise Refusal("policy_denied", f"a policy asks to redact this call, which cannot be done: {why}", reasons=(reason,)) from None
    if body != request.body:
        record.committed_to_model = commitment(salts.inner_salts(record.id)[0], body)
    return body


def capture(route: Route, model_body: bytes, body: bytes, record: CallRecord) -> None:
    """Read prediction, score and usage from the model's reply; what is not there stays unrecorded and is seen as missing in reports.

    Into the vault goes what the caller gets: what policies take out of a reply is not kept.
    """
    if record.kept is not None:
        record.kept.note_body("reply", body)
    if not route.reads_outcome:
        if route.meter is not None:
            record.metered = route.meter.of_body(model_body, price_of(record))
        return
    try:
        document = parse(model_body)
    except JsonError:
        record.code = "reply_unreadable"
        if route.meter is not None:
            record.metered = route.meter.of_body(model_body, price_of(record))
        return
    if route.meter is not None:
        record.metered = route.meter.of_document(document, price_of(record))
    _predicted(route, document, record)


def _predicted(route: Route, document: Any, record: CallRecord) -> None:
    if route.prediction is not None:
        found = class_of(route.prediction(document), route.classes)
        if found is not None:
            record.prediction = found
    if route.score is not None:
        value = route.score(document)
        if type(value) in (int, float) and abs(value) < 1e9:
            record.score_ppm = round(value * 1_000_000)


def metered_refused(route: Route, status: int, model_body: bytes, record: CallRecord) -> None:
    """Read usage from a reply that policies withhold from the caller: the model has answered, and is paid for it."""
    if route.meter is not None and status == 200:
        record.metered = route.meter.of_body(model_body, price_of(record))


def metered_tail(route: Route, tail: Tail, record: CallRecord) -> None:
    """Read usage from a reply that was passed on as it came."""
    if route.meter is not None:
        record.metered = route.meter.of_tail(tail, price_of(record))


def price_of(record: CallRecord) -> PriceDocument | None:
    """Return what a call of the version that served costs."""
    decision = record.decision
    return None if decision is None or decision.version is None else decision.version.document.price
