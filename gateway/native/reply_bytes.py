"""The bytes of a reply: status line, fields, framing. Pure, but for the memo of rendered fields.

Names and values come from the lane; a line break in one of them would end the head early (response splitting), so every field is checked.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from gateway.exchange import Headers
from gateway.framing import NO_BODY_STATUSES, check_reply
from gateway.native.plain import FieldLines

CLOSE: Final = b"connection: close\r\n"
KEEP_ALIVE_1_0: Final = b"connection: keep-alive\r\n"
"""HTTP/1.0 closes unless told otherwise."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES: Final = {status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(200, 600)}
_render: Final = FieldLines().__getitem__


def date_line(unix_s: float) -> bytes:
    """Return the Date field for replies that lack one (RFC 9110 6.6.1)."""
    return f"date: {formatdate(unix_s, usegmt=True)}\r\n".encode()


def head_bytes(status: int, headers: Headers, length_line: bytes, connection_line: bytes, date: bytes) -> bytes:
    """Return a complete head, blank line included.

    Args:
        status: 200..599.
        headers: end-to-end fields, names in lower case.
        length_line: `length_line(...)`, CHUNKED or empty; left out for statuses without a body.
        connection_line: empty, CLOSE or KEEP_ALIVE_1_0.
        date: what `date_line` returned last; used when the fields lack one.

    Raises:
        ValueError: see `gateway.framing.check_reply`.
    """
    status_line = _STATUS_LINES.get(status)
    if status_line is None:
        check_reply(status, headers)
        raise ValueError(f"`{status}` is not a status")
    if status in NO_BODY_STATUSES:
        length_line = b""
    head = b"%b%b%b%b" % (status_line, b"".join(map(_render, headers)), length_line, connection_line)
    if head.find(b"\ndate: ") >= 0:  # no value holds a line break, so this is a field of that name
        return head + b"\r\n"
    return b"%b%b\r\n" % (head, date)


def length_line(body_bytes: int) -> bytes:
    """Return the Content-Length field."""
    return b"content-length: %d\r\n" % body_bytes


def chunk_bytes(chunk: bytes) -> bytes:
    """Return one chunk of a chunked body (RFC 9112 7.1); it may not be empty, for that would end the body."""
    return b"%x\r\n%b\r\n" % (len(chunk), chunk)
