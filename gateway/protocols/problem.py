"""RFC 9457 problem details: the error shape wherever a protocol has none of its own."""

from __future__ import annotations

from http import HTTPStatus

import orjson

from gateway.refusals import Refusal

CONTENT_TYPE = (b"content-type", b"application/problem+json")


def problem_body(refusal: Refusal, decision_id: str | None) -> bytes:
    """Return the body of a problem+json reply."""
    title = HTTPStatus(refusal.status).phrase
    return orjson.dumps({"type": "about:blank", "title": title, "status": refusal.status, **refusal.facts(decision_id)})
