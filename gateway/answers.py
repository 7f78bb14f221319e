"""How a refusal looks on the wire, and which refusal a model server's fault becomes."""

from __future__ import annotations

from typing import Final

from gateway.bodies import REPLY_LIMIT_BYTES
from gateway.exchange import Exchange, Fault, Headers, UpstreamError
from gateway.protocols import problem, v2
from gateway.refusals import Refusal
from gateway.snapshot import Version

FAULT_CODES: Final = {
    Fault.CONNECT: "upstream_unreachable",
    Fault.TIMEOUT: "upstream_timeout",
    Fault.CLOSED: "upstream_broken",
    Fault.PROTOCOL: "upstream_broken",
    Fault.TOO_LARGE: "upstream_too_large",
    Fault.BUSY: "upstream_busy",
}
_TOLD: Final = {
    Fault.CONNECT: "no connection to the model server",
    Fault.TIMEOUT: "no complete reply before the deadline",
    Fault.CLOSED: "the model server closed the connection before a complete reply",
    Fault.PROTOCOL: "the model server's reply is no clear HTTP",
    Fault.TOO_LARGE: f"the reply is longer than the {REPLY_LIMIT_BYTES >> 20} MiB that are read whole",
    Fault.BUSY: "all connections to the model server are in use",
}


def answer(exchange: Exchange, refusal: Refusal, decision_id: str | None, *, as_v2: bool, more: Headers = ()) -> None:
    """Answer a refusal in the shape of the caller's protocol; `more` are further headers."""
    headers: list[tuple[bytes, bytes]] = [v2.CONTENT_TYPE if as_v2 else problem.CONTENT_TYPE]
    if decision_id is not None:
        headers.append((b"assay-decision", decision_id.encode()))
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after_s))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="assay"'))
    headers.extend(more)
    body = v2.error_body(refusal, decision_id) if as_v2 else problem.problem_body(refusal, decision_id)
    exchange.respond(refusal.status, headers, body)


def of_fault(fault: UpstreamError, version: Version) -> Refusal:
    """Return what a caller is told: what kind of fault it was. Addresses and the model's own words are for the gateway's log."""
    return Refusal(FAULT_CODES[fault.fault], f"version `{version.name}` of `{version.model}`: {_TOLD[fault.fault]}", fault=fault.fault.value)
