"""What a call says of itself: its headers, its body as the protocol reads it, the unit it is about.

Two fields of one name that the gateway reads would be two calls in one, and are refused; so is what is no clear question. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.authenticate import Principal
from gateway.exchange import Headers, Request
from gateway.promises import ASKED
from gateway.protocols import v2
from gateway.protocols.pointer import MISSING
from gateway.protocols.strictjson import JsonError, parse
from gateway.record import CallRecord
from gateway.refusals import Refusal
from gateway.snapshot import Route, Target

_ONCE: Final = frozenset((b"authorization", b"assay-context", b"assay-receipt", b"assay-unit", b"assay-variant", b"content-type", b"traceparent"))
"""Fields the gateway reads: two of one name would be two calls in one."""
Fields = Mapping[bytes, bytes]


@dataclass(slots=True)
class Parsed:
    """A call as its protocol read it."""

    rows: int
    document: Any
    """The body as JSON, where the protocol or the unit's pointer needs it."""
    columns: Mapping[str, list[Any]] | None
    """Inputs by name, where the model has a contract."""
    upstream_target: bytes


def fields_of(headers: Headers) -> Fields:
    """Return the fields by name; one that the gateway reads may not stand twice."""
    fields = dict(headers)
    if len(fields) != len(headers):
        names = [name for name, _ in headers if name in _ONCE]
        if len(set(names)) != len(names):
            raise Refusal("malformed_request", f"one of the headers {', '.join(sorted(name.decode() for name in set(names)))} stands twice")
    return fields


def describe(record: CallRecord, request: Request, fields: Fields, parsed: Parsed) -> None:
    """Put into a call's record what its request says of itself."""
    record.rows = parsed.rows
    record.bytes_in = len(request.body)
    record.trace = _trace(fields.get(b"traceparent"))
    if ASKED in fields:
        record.wants_receipt = _is_asked(fields[ASKED])


def _is_asked(value: bytes) -> bool:
    """Read the header that asks for a receipt. What is no clear question is refused, not guessed at."""
    if value != b"1":
        raise Refusal(
            "malformed_request", "the header `Assay-Receipt` asks for a receipt by the value `1`", hint="send `Assay-Receipt: 1`, or nothing"
        )
    return True


def read_call(request: Request, target: Target) -> Parsed:
    """Read a call's body as its protocol does. Raises Refusal, in the protocol's words."""
    route = target.route
    if route.document.protocol == "v2":
        if request.method != "POST":
            raise Refusal("method_not_allowed", f"`{request.method} {request.path}`: inference is a POST")
        call = v2.InferCall(request.body)
        columns = None if route.contract is None else call.columns()
        return Parsed(call.rows, call.document, columns, target.upstream_path)
    document = None
    if route.unit is not None and request.body:
        try:
            document = parse(request.body)
        except JsonError as fault:
            raise Refusal("malformed_body", f"request body: {fault}") from None
    path = target.upstream_path + (b"?" + request.query if request.query else b"")
    return Parsed(1, document, None, path)


def http_input(request: Request, parsed: Parsed) -> bytes:
    """Return what a record of an `http` route commits to: method, path and query are as much of the call as its body."""
    return b"%b %b\n\n%b" % (request.method.encode(), parsed.upstream_target, request.body)


def _trace(header: bytes | None) -> str | None:
    """Return the trace id of a W3C `traceparent`, or None where it is not one."""
    if header is None or len(header) != 55 or header[2:3] != b"-" or header[35:36] != b"-":
        return None
    trace = header[3:35]
    return trace.decode() if trace.isalnum() and trace.islower() | trace.isdigit() else None


NO_UNIT: Final = "say whom the call is about: in the body, where the model's file says, or in the header `Assay-Unit` (scope `unit:assert`)"


def unit_of(asserted: bytes | None, route: Route, document: Any, principal: Principal) -> str:
    """Return the unit a call is about: asserted header, else the declared pointer; empty where there is neither."""
    if asserted is not None:
        if not principal.may_assert_unit:
            raise Refusal("missing_scope", "the header `Assay-Unit` needs the scope `unit:assert`")
        if not asserted:
            raise Refusal("schema_mismatch", "the header `Assay-Unit` is empty", hint=NO_UNIT)
        return asserted.decode("utf-8", "replace")
    if route.unit is not None:
        value = route.unit(document)
        if value is MISSING or value == "" or type(value) not in (str, int):
            raise Refusal("schema_mismatch", f"the unit is missing: `{route.document.unit_pointer}` has to hold text or a whole number", hint=NO_UNIT)
        return str(value)
    return ""
