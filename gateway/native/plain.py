r"""Reads and writes plain messages at the cost of some dictionary look-ups; declines everything else.

Nearly every call is one read holding a complete request with a Content-Length, answered by one read holding a complete reply. For these the general
parser's callback per header is most of the work, although header lines hardly differ from call to call. Here a head is split into lines and each
line looked up in a memo of lines already judged; heads of replies, in which little but the date moves, are looked up whole. What is not plain is not
refused here but *declined* (None): the caller then gives the same bytes to llhttp and `gateway.framing`. So this module may only accept a strict
subset of what they accept, with the same meaning; `tests/transports/test_plain.py` holds it to that.

Plain means: one read; a common method or status on HTTP/1.1; lines `name: value` of token and printable characters; no name twice; of the fields that
matter for framing only Host, Content-Length and a Connection of `keep-alive`; the body complete and nothing after it.

Memos are bounded (cleared when full) and hold neither credentials nor long lines, nor what is other in every call. Writing is the mirror image:
`FieldLines` renders a field once.

Example::

    plain = PlainReader()
    plain.request(b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n", 1024)  # ("GET", "/v2", b"", [(b"host", b"h")], b"")
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar

from gateway.framing import (
    HEADER_COUNT_LIMIT,
    HOP_BY_HOP,
    LINE_BREAK,
    NO_BODY_STATUSES,
    FramingError,
    check_reply,
    is_host,
    parse_length,
    read_target,
)

Field = tuple[bytes, bytes]
K = TypeVar("K")
V = TypeVar("V")

_MEMO_LIMIT: Final = 4096
_MEMO_LINE_LIMIT_BYTES: Final = 512
_PLAIN_HEAD_LIMIT_BYTES: Final = 8192
_CREDENTIALS: Final = frozenset((b"authorization", b"cookie", b"set-cookie", b"x-api-key", b"api-key"))
_VARYING: Final = _CREDENTIALS | {b"assay-unit", b"assay-context", b"assay-decision", b"assay-receipt", b"traceparent", b"x-request-id"}
_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)")
_REQUEST_LINE: Final = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE) (/[\x21-\x7e]*) HTTP/1\.1")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [\t\x20-\x7e]*")
_DECLINED_IN_REQUESTS: Final = (HOP_BY_HOP | {b"expect", b"content-encoding"}) - {b"connection"}
_DECLINED_IN_REPLIES: Final = HOP_BY_HOP - {b"connection"}


class Declined(Exception):  # noqa: N818 - not an error: the general parser takes over
    """A line is not plain."""


class _Memo(dict[K, V], Generic[K, V]):
    """A bounded dictionary."""

    def keep(self, key: K, value: V) -> V:
        if len(self) >= _MEMO_LIMIT:
            self.clear()
        self[key] = value
        return value


class _HeaderLines(_Memo[bytes, Field]):
    """Header line -> field."""

    def __init__(self, declined: frozenset[bytes]) -> None:
        super().__init__()
        self._declined = declined
        self._varying: _Memo[bytes, bytes] = _Memo()  # name as spelled -> name in lower case, of those that mean nothing to the framing

    def __missing__(self, line: bytes) -> Field:
        match = _LINE.fullmatch(line)
        if match is None:
            raise Declined
        spelled, value = match.groups()
        value = value.strip(b" \t")
        name = self._varying.get(spelled)
        if name is not None:
            return name, value
        name = spelled.lower()
        if name in self._declined or (name == b"connection" and value.lower() != b"keep-alive") or (name == b"host" and not is_host(value)):
            raise Declined
        if name == b"content-length":
            parse_length(value)
        if name in _VARYING:
            self._varying.keep(spelled, name)
        if name in _VARYING or len(line) > _MEMO_LINE_LIMIT_BYTES:
            return name, value
        return self.keep(line, (name, value))


class _RequestLines(_Memo[bytes, tuple[str, str, bytes]]):
    """Request line -> method, normalised path, query."""

    def __missing__(self, line: bytes) -> tuple[str, str, bytes]:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise Declined
        path, query = read_target(match[2], b"")
        parsed = (match[1].decode("ascii"), path, query)
        return parsed if len(line) > _MEMO_LINE_LIMIT_BYTES else self.keep(line, parsed)


class _StatusLines(_Memo[bytes, int]):
    """Status line -> status whose replies have a body."""

    def __missing__(self, line: bytes) -> int:
        match = _STATUS_LINE.fullmatch(line)
        if match is None or int(match[1]) in NO_BODY_STATUSES:
            raise Declined
        return self.keep(line, int(match[1]))


class _ReplyHeads(_Memo[bytes, "tuple[int, tuple[Field, ...], int]"]):
    """Head of a reply, without the blank line -> status, end-to-end fields, length of the body."""

    def __init__(self) -> None:
        super().__init__()
        self._status = _StatusLines()
        self._field = _HeaderLines(_DECLINED_IN_REPLIES).__getitem__

    def __missing__(self, head: bytes) -> tuple[int, tuple[Field, ...], int]:
        lines = head.split(b"\r\n")
        status = self._status[lines[0]]
        named = dict(map(self._field, lines[1:]))
        length = named.pop(b"content-length", None)
        if length is None or len(named) + 2 != len(lines) or len(lines) > HEADER_COUNT_LIMIT + 1:
            raise Declined
        named.pop(b"connection", None)
        told = (status, tuple(named.items()), int(length))
        return told if len(head) > _MEMO_LINE_LIMIT_BYTES or not _VARYING.isdisjoint(named) else self.keep(head, told)


class PlainReader:
    """The reading memos of one worker."""

    # Owner: the worker's loop. The memos fill themselves.
    __slots__ = ("_reply_heads", "_request_field", "_request_start")

    def __init__(self) -> None:
        """Start with empty memos."""
        self._request_start = _RequestLines()
        self._request_field = _HeaderLines(_DECLINED_IN_REQUESTS).__getitem__
        self._reply_heads = _ReplyHeads()

    def request(self, data: bytes, body_limit_bytes: int) -> tuple[str, str, bytes, dict[bytes, bytes], bytes] | None:
        """Return method, normalised path, query, end-to-end headers by name in their order and body of a plain request; None to decline."""
        end = data.find(b"\r\n\r\n", 0, _PLAIN_HEAD_LIMIT_BYTES)
        if end < 0:
            return None
        lines = data[:end].split(b"\r\n")
        try:
            method, path, query = self._request_start[lines.pop(0)]
            named = dict(map(self._request_field, lines))
        except (Declined, FramingError):
            return None
        if len(named) != len(lines) or b"host" not in named or len(lines) > HEADER_COUNT_LIMIT:
            return None
        body_bytes = int(named.pop(b"content-length", b"0"))
        named.pop(b"connection", None)
        end += 4
        if body_bytes > body_limit_bytes or len(data) != end + body_bytes:
            return None
        return method, path, query, named, data[end:]

    def reply(self, data: bytes) -> tuple[int, tuple[Field, ...], bytes] | None:
        """Return status, end-to-end headers and body of a plain reply to anything but HEAD, kept alive; None to decline."""
        end = data.find(b"\r\n\r\n", 0, _PLAIN_HEAD_LIMIT_BYTES)
        if end < 0:
            return None
        try:
            status, headers, body_bytes = self._reply_heads[data[:end]]
        except (Declined, FramingError):
            return None
        end += 4
        return (status, headers, data[end:]) if len(data) == end + body_bytes else None


class FieldLines(_Memo[Field, bytes]):
    """Field -> its line, checked when first seen. Use through `render`."""

    def __init__(self, forbidden: frozenset[bytes] = frozenset()) -> None:
        """Prepare; `forbidden` are names refused besides the framing and hop-by-hop ones."""
        super().__init__()
        self._forbidden = forbidden
        self._varying: _Memo[bytes, bytes] = _Memo()  # checked name -> the line up to its value

    def __missing__(self, field: Field) -> bytes:
        """Check and render a field.

        Raises:
            ValueError: a name the transport sets, or a line break.
        """
        name, value = field
        begin = self._varying.get(name)
        if begin is not None and LINE_BREAK.search(value) is None:
            return b"%b%b\r\n" % (begin, value)
        check_reply(200, (field,))
        if name in self._forbidden:
            raise ValueError(f"header `{name.decode('ascii', 'backslashreplace')}` is the transport's to set")
        line = b"%b: %b\r\n" % field
        if name in _VARYING:
            self._varying.keep(name, b"%b: " % name)
        if name in _VARYING or len(name) + len(value) > _MEMO_LINE_LIMIT_BYTES:
            return line
        return self.keep(field, line)
