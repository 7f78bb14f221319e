"""The bytes of a reply: status line, fields, framing. Pure.

Names and values come from the lane; a line break in one of them would end the head early (response splitting), so each block is counted
before it is sent.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from gateway.exchange import Headers
from gateway.framing import HOP_BY_HOP, NO_BODY_STATUSES, check_reply

CLOSE: Final = b"connection: close\r\n"
KEEP_ALIVE_1_0: Final = b"connection: keep-alive\r\n"
"""HTTP/1.0 closes unless told otherwise."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHUNKED: Final = b"transfer-encoding: chunked\r\n"
_TRANSPORT_SETS: Final = frozenset((*HOP_BY_HOP, b"content-length"))


def _status_lines() -> dict[int, bytes]:
    phrases = {status.value: status.phrase for status in HTTPStatus}
    return {status: f"HTTP/1.1 {status} {phrases.get(status, '')}\r\n".encode() for status in range(200, 600)}


_STATUS_LINES: Final = _status_lines()


def date_line(unix_s: float) -> bytes:
    """Return the Date field for replies that lack one (RFC 9110 6.6.1)."""
    return f"date: {formatdate(unix_s, usegmt=True)}\r\n".encode()


def head_bytes(status: int, headers: Headers, body_bytes: int | None, connection_line: bytes, date: bytes, *, is_chunked: bool = False) -> bytes:
    """Return a complete head, blank line included.

    Args:
        status: 200..599.
        headers: end-to-end fields, names in lower case.
        body_bytes: length to announce, None for none.
        connection_line: empty, CLOSE or KEEP_ALIVE_1_0.
        date: what `date_line` returned last.
        is_chunked: announce a chunked body.

    Raises:
        ValueError: see `gateway.framing.check_reply`.
    """
    names = [name for name, _ in headers]
    fields = b"".join([b"%b: %b\r\n" % field for field in headers])
    count = len(names)
    status_line = _STATUS_LINES.get(status)
    if status_line is None or fields.count(b"\n") != count or fields.count(b"\r") != count or not _TRANSPORT_SETS.isdisjoint(names):
        check_reply(status, headers)
        raise ValueError(f"the headers of a `{status}` reply cannot be framed")
    if b"date" not in names:
        fields += date
    if is_chunked:
        length = _CHUNKED
    elif body_bytes is None or status in NO_BODY_STATUSES:
        length = b""
    else:
        length = b"content-length: %d\r\n" % body_bytes
    return b"%b%b%b%b\r\n" % (status_line, fields, length, connection_line)


def chunk_bytes(chunk: bytes) -> bytes:
    """Return one chunk of a chunked body (RFC 9112 7.1); it may not be empty, for that would end the body."""
    return b"%x\r\n%b\r\n" % (len(chunk), chunk)
