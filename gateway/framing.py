"""Which messages are unambiguous: the rules both transports apply to heads, as pure functions.

The parsers (llhttp, h11) accept more than two servers in a row can agree on: no Host or two, `Transfer-Encoding` on HTTP/1.0 or
`gzip, chunked`, `Content-Length: 007`, megabytes of headers. Whoever reads such a message differently from the next server can be made to
smuggle a request past it. So every head passes here after parsing, and what is not plainly clear is refused.

Requests (`read_request_head`):

- HTTP/1.0 or 1.1; exactly one Host, without spaces or commas; at most 100 fields and 32 KiB.
- `Transfer-Encoding` only as exactly `chunked`, only once, only on 1.1, never beside `Content-Length`; that one at most once, canonical digits.
- CONNECT, TRACE and any `Upgrade` are refused; `Expect` may only be `100-continue`; a coded body (`Content-Encoding`) is 415.
- Hop-by-hop fields go, those that `Connection` names included (RFC 9110 7.6.1). A `Connection` that names a field carrying meaning end to end
  (Host, Authorization, Content-Type, ...) is refused: it would make us drop what the next server should have seen.

Replies (`read_reply_head`), as a table over method, status and fields::

    body by        when
    NONE           HEAD; 1xx, 204, 304
    LENGTH         one canonical Content-Length
    CHUNKED        Transfer-Encoding is `chunked` on HTTP/1.1
    EOF            none of these: the body ends with the connection, which is not used again

and a `FramingError` for anything else: both lengths, other codings, two lengths, a status outside 100..599, 101.

Gateway's own credentials and framing never travel on: `for_upstream` is what the lane calls before adding the model's own credentials.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from gateway.exchange import Headers
from gateway.pathname import PathError, normalise

HEADER_COUNT_LIMIT: Final = 100
HEAD_LIMIT_BYTES: Final = 32 * 1024
NO_BODY_STATUSES: Final = frozenset((204, 304))
"""Statuses above 199 whose replies never have a body (RFC 9110 15.3.5, 15.4.5)."""
BODY_METHODS: Final = frozenset(("POST", "PUT", "PATCH"))
"""Methods sent with `Content-Length: 0` when there is no body (RFC 9110 8.6)."""
HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_NOT_TO_BE_NAMED: Final = frozenset(
    (b"host", b"authorization", b"content-length", b"content-type", b"content-encoding", b"expect", b"cookie", b"accept", b"idempotency-key")
)
_OVERRIDES: Final = (
    b"inference-header-content-length",
    b"x-http-method-override",
    b"x-http-method",
    b"x-method-override",
    b"x-original-url",
    b"x-rewrite-url",
)
"""Fields that would make a model read another body, method or path than was judged."""
_OURS: Final = frozenset((b"host", b"content-length", b"authorization", b"expect", b"accept-encoding", *_OVERRIDES, *HOP_BY_HOP))
_IDENTITY: Final = (b"accept-encoding", b"identity")
_HAS_SPECIAL_FORM: Final = frozenset((*HOP_BY_HOP, b"host", b"content-length", b"expect", b"content-encoding"))
LINE_BREAK: Final = re.compile(rb"[\r\n]")
_CANONICAL_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,17}")
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+;=%\-]+(?::[0-9]*)?|\[[0-9A-Fa-f:.]+\](?::[0-9]*)?")
_TOKEN_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUE_BYTES: Final = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])


class FramingError(Exception):
    """A message that is refused for its form.

    `code` is a key of `gateway.refusals.CODES`; `status` what the caller gets when it was the caller's message. On replies of a model only
    the detail matters.
    """

    def __init__(self, status: int, code: str, detail: str, hint: str | None = None) -> None:
        """Keep what to answer."""
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.hint = hint


class RequestHead(NamedTuple):
    """What a request's head means."""

    headers: list[tuple[bytes, bytes]]
    """End-to-end fields, in order; without Content-Length and Expect."""
    content_length: int
    """Bytes of body to come; -1 when chunked."""
    keep_alive: bool
    expects_continue: bool
    host: bytes


def malformed(detail: str, hint: str | None = None, status: int = 400) -> FramingError:
    """Return the refusal of a request that is not clear HTTP."""
    return FramingError(status, "malformed_request", detail, hint)


def check_characters(headers: Headers) -> None:
    """Refuse names that are no token and values with controls (RFC 9110 5.1, 5.5). For servers whose parser does not.

    Raises:
        FramingError: 400.
    """
    for name, value in headers:
        if not name or name.translate(None, _TOKEN_BYTES):
            raise malformed(f"header name `{_shown(name)}` is not a token")
        if value.translate(None, _VALUE_BYTES):
            raise malformed(f"the value of header `{_shown(name)}` holds control characters")


def check_head_size(headers: Headers, target_bytes: int = 0) -> None:
    """Refuse a head of more than 100 fields or 32 KiB.

    Raises:
        FramingError: 431.
    """
    if len(headers) > HEADER_COUNT_LIMIT:
        raise malformed(f"the request has {len(headers)} header fields, more than {HEADER_COUNT_LIMIT}", "send fewer headers", 431)
    size_bytes = target_bytes + sum(len(name) + len(value) + 4 for name, value in headers)
    if size_bytes > HEAD_LIMIT_BYTES:
        raise malformed(f"the head of the request is longer than {HEAD_LIMIT_BYTES} bytes", "send smaller headers", 431)


def read_request_head(  # noqa: C901 - straight-line checks, kept in one frame because every call passes here
    method: str, http_version: str, headers: list[tuple[bytes, bytes]]
) -> RequestHead:
    """Judge a request's head and take its framing out.

    Args:
        method: as sent.
        http_version: `1.0` or `1.1`; anything else is refused.
        headers: all fields in order, names in lower case, values stripped.

    Raises:
        FramingError: the request is refused with its status; the connection must be closed.
    """
    if http_version != "1.1" and http_version != "1.0":  # noqa: PLR1714 - a set look-up costs more on this path
        raise malformed(f"HTTP version `{http_version}` is not served here", "use HTTP/1.1", 505)
    if method in ("CONNECT", "TRACE") or not method.isalpha():
        raise FramingError(405, "method_not_allowed", f"method `{method}` is not served here")
    kept = []
    special: dict[bytes, bytes] | None = None
    for field in headers:
        name = field[0]
        if name in _HAS_SPECIAL_FORM:
            if special is None:
                special = {}
            if name in special:
                special[name] = _repeated(name, special[name], field[1])
            else:
                special[name] = field[1]
            if name != b"host" and name != b"content-encoding":  # noqa: PLR1714 - as above
                continue
        kept.append(field)
    if special is None or (host := special.pop(b"host", None)) is None:
        raise malformed("the request has no Host header", "send exactly one Host header (RFC 9112 3.2)")
    if not is_host(host):
        raise malformed(f"Host `{_shown(host)}` is not a host and port")
    length = special.pop(b"content-length", None)
    if not special:  # the usual case: a host, perhaps a length, nothing else that matters here
        return RequestHead(kept, 0 if length is None else parse_length(length), http_version == "1.1", False, host)
    return _read_special(kept, special, length, host, http_version)


def _read_special(kept: list[tuple[bytes, bytes]], special: dict[bytes, bytes], length: bytes | None, host: bytes, http_version: str) -> RequestHead:
    if b"upgrade" in special:
        raise malformed("protocol upgrades are not served here", "send the request without `Upgrade`")
    coding = special.get(b"transfer-encoding")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise malformed(f"Transfer-Encoding `{_shown(coding)}` is not served here", "only `chunked` is", 501)
        if http_version != "1.1":
            raise malformed("Transfer-Encoding on HTTP/1.0 is ambiguous", "use HTTP/1.1 (RFC 9112 6.1)")
        if length is not None:
            raise malformed("Content-Length and Transfer-Encoding together are ambiguous", "send one of them (RFC 9112 6.1)")
    encoding = special.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise FramingError(415, "unsupported_media", f"a body with Content-Encoding `{_shown(encoding)}` is not read here", "send it uncoded")
    expect = special.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise malformed(f"Expect `{_shown(expect)}` cannot be met", "only `100-continue` can", 417)
    keep_alive = http_version == "1.1"
    connection = special.get(b"connection")
    if connection is not None:
        named = connection_names(connection)
        forbidden = named & _NOT_TO_BE_NAMED
        if forbidden:
            raise malformed(f"Connection names the end-to-end header `{_shown(min(forbidden))}`", "name hop-by-hop headers only")
        keep_alive = b"close" not in named and (keep_alive or b"keep-alive" in named)
        kept = [field for field in kept if field[0] not in named]
    content_length = -1 if coding is not None else 0 if length is None else parse_length(length)
    return RequestHead(kept, content_length, keep_alive, expect is not None and http_version == "1.1", host)


def _repeated(name: bytes, first: bytes, second: bytes) -> bytes:
    """Join repeated list fields; refuse the others."""
    if name in (b"host", b"content-length", b"transfer-encoding", b"expect"):
        raise malformed(f"the request has more than one {_shown(name)} header", "send it exactly once")
    return first + b", " + second


def parse_length(value: bytes) -> int:
    """Return a Content-Length.

    Raises:
        FramingError: anything but canonical decimal digits: signs, spaces, leading zeros, lists, more than 18 digits.
    """
    if not _CANONICAL_LENGTH.fullmatch(value):
        raise malformed(f"Content-Length `{_shown(value)}` is not a canonical number", "send decimal digits without sign or leading zero")
    return int(value)


def is_host(value: bytes) -> bool:
    """Tell whether a Host field is one host with an optional port."""
    return _HOST.fullmatch(value) is not None


def connection_names(value: bytes) -> frozenset[bytes]:
    """Return the names a Connection field lists, in lower case."""
    return frozenset(name.strip() for name in value.lower().split(b","))


def read_target(target: bytes, host: bytes) -> tuple[str, bytes]:
    """Split a request target into normalised path and raw query.

    Absolute form is accepted when it names the same authority as Host (RFC 9112 3.2.2 has the target win; two answers are one too many).

    Raises:
        FramingError: 400 for other forms, fragments, bytes outside visible ASCII, and paths without a single reading.
    """
    path, mark, query = target.partition(b"?")
    if not path.startswith(b"/"):
        path = _path_of_absolute_form(path, host)
    if mark and (b"#" in query or not query.isascii()):
        raise malformed("the query holds a fragment or bytes that are not ASCII", "percent-encode them")
    try:
        return normalise(path), query
    except PathError as error:
        raise malformed(str(error), "send a plain path; encode each segment once") from error


def _path_of_absolute_form(path: bytes, host: bytes) -> bytes:
    scheme, separator, rest = path.partition(b"://")
    authority, slash, tail = rest.partition(b"/")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise malformed(f"request target `{_shown(path)}` is not a path", "send a target that starts with `/`")
    if authority.lower() != host.lower():
        raise malformed(f"the target names `{_shown(authority)}` but Host says `{_shown(host)}`", "let them agree")
    return b"/" + tail if slash else b"/"


def for_upstream(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the caller's headers that may travel on to a model.

    Without framing, Host, the gateway's own credentials (`Authorization`, every `Assay-*`), and `Accept-Encoding`, for which the model is asked for
    `identity` because the gateway reads the reply.
    """
    kept = [field for field in headers if field[0] not in _OURS and field[0][:6] != b"assay-"]
    kept.append(_IDENTITY)
    return kept


class BodyBy(enum.Enum):
    """How the end of a reply's body is known."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    EOF = "eof"


class ReplyHead(NamedTuple):
    """What a reply's head means."""

    headers: list[tuple[bytes, bytes]]
    """End-to-end fields, in order; without Content-Length."""
    body_by: BodyBy
    content_length: int
    """Bytes of body to come when `body_by` is LENGTH, 0 for NONE, else -1."""
    keep_alive: bool
    """Whether the connection may carry another request afterwards."""


_REPLY_SPECIAL: Final = frozenset((*HOP_BY_HOP, b"content-length"))


def read_reply_head(method: str, status: int, http_version: str, headers: list[tuple[bytes, bytes]]) -> ReplyHead:
    """Judge a reply's head by the table at the top of this module.

    Args:
        method: of the request it answers.
        status: as sent; 1xx other than 101 mean "another head follows" and come out as NONE.
        http_version: of the reply.
        headers: all fields in order, names in lower case, values stripped.

    Raises:
        FramingError: the reply is ambiguous; the connection must be closed and the call fails with Fault.PROTOCOL.
    """
    if status < 100 or status > 599 or status == 101:
        raise malformed(f"the upstream answered with status `{status}`", status=502)
    kept = []
    special: dict[bytes, bytes] = {}
    for field in headers:
        name = field[0]
        if name in _REPLY_SPECIAL:
            if name in special:
                special[name] = _repeated_in_reply(name, special[name], field[1])
            else:
                special[name] = field[1]
        else:
            kept.append(field)
    length = special.pop(b"content-length", None)
    keep_alive = http_version == "1.1"
    if special:
        keep_alive, kept = _read_connection(special.get(b"connection"), keep_alive, kept)
    coding = special.get(b"transfer-encoding")
    if coding is not None:
        _check_reply_coding(coding, length, http_version)
    content_length = -1 if length is None else parse_length(length)
    if method == "HEAD" or status < 200 or status in NO_BODY_STATUSES:
        return ReplyHead(kept, BodyBy.NONE, 0, keep_alive)
    if coding is not None:
        return ReplyHead(kept, BodyBy.CHUNKED, -1, keep_alive)
    if length is not None:
        return ReplyHead(kept, BodyBy.LENGTH, content_length, keep_alive)
    return ReplyHead(kept, BodyBy.EOF, -1, False)


def _check_reply_coding(coding: bytes, length: bytes | None, http_version: str) -> None:
    if coding.lower() != b"chunked" or http_version != "1.1":
        raise malformed(f"the upstream's Transfer-Encoding `{_shown(coding)}` on HTTP/{http_version} is not understood", status=502)
    if length is not None:
        raise malformed("the upstream sent both Content-Length and Transfer-Encoding", status=502)


def _read_connection(
    connection: bytes | None,
    keep_alive: bool,  # noqa: FBT001 - a private step of one function
    kept: list[tuple[bytes, bytes]],
) -> tuple[bool, list[tuple[bytes, bytes]]]:
    if connection is None:
        return keep_alive, kept
    named = connection_names(connection)
    keep_alive = b"close" not in named and (keep_alive or b"keep-alive" in named)
    named -= _NOT_TO_BE_NAMED
    return keep_alive, [field for field in kept if field[0] not in named]


def _repeated_in_reply(name: bytes, first: bytes, second: bytes) -> bytes:
    if name in (b"content-length", b"transfer-encoding"):
        raise malformed(f"the upstream sent more than one {_shown(name)} header", status=502)
    return first + b", " + second


def check_reply(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> None:
    """Hold the lane to the seam: what it answers may not touch the framing.

    Raises:
        ValueError: a status outside 200..599, a framing or hop-by-hop field, a line break in a header, or a body where none may be. A
            defect of the caller of `Exchange.respond` or `Exchange.start`, never of a client.
    """
    if status < 200 or status > 599:
        raise ValueError(f"`{status}` is not the status of a final reply")
    if body and status in NO_BODY_STATUSES:
        raise ValueError(f"a `{status}` reply has no body, but {len(body)} bytes were given")
    for name, value in headers:
        if name in _REPLY_SPECIAL:
            raise ValueError(f"header `{_shown(name)}` is the transport's to set")
        if LINE_BREAK.search(value) is not None or LINE_BREAK.search(name) is not None:
            raise ValueError(f"header `{_shown(name)}` holds a line break")


def _shown(raw: bytes) -> str:
    """Return bytes for a message: short and printable."""
    return raw[:80].decode("ascii", "backslashreplace")
