"""One handler, two transports: the same requests and the same model give the same replies."""

import asyncio

import httptools
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transport_harness import model, native, portable, proxy, read_request

# What each transport may say for itself: the date a model left out, and framing.
OWN = {b"date", b"transfer-encoding", b"connection", b"content-length"}


class Parsed:
    """A reply as a caller sees it."""

    def __init__(self) -> None:
        self.headers = []
        self.body = b""
        self.complete = False

    def on_header(self, name, value):
        self.headers.append((name.lower(), value))

    def on_body(self, piece):
        self.body += piece

    def on_message_complete(self):
        self.complete = True


async def ask(port, request, is_head):
    """Send a request on a new connection; return status, end-to-end headers, body, and whether it was complete."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    parsed = Parsed()
    parser = httptools.HttpResponseParser(parsed)
    received = b""
    try:
        async with asyncio.timeout(5):
            writer.write(request)
            while not parsed.complete:
                data = await reader.read(65536)
                if not data:
                    break
                received += data
                parser.feed_data(data)
                if is_head and received.endswith(b"\r\n\r\n"):
                    parsed.complete = True
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    if not received:
        return None
    lengths = [value for name, value in parsed.headers if name == b"content-length"]
    assert not is_head or not parsed.body
    assert is_head or parser.get_status_code() in (204, 304) or not lengths or int(lengths[0]) == len(parsed.body) or not parsed.complete
    kept = sorted(field for field in parsed.headers if field[0] not in OWN)
    return parser.get_status_code(), kept, parsed.body, parsed.complete


def compare(request, pieces, *, closes, streams, pause_s=0.0):
    """Run both transports before the same model."""
    is_head = request.startswith(b"HEAD")
    asked = []

    async def script(reader, writer):
        while True:
            head, body = await read_request(reader)
            lines = head.rstrip().split(b"\r\n")
            asked.append((lines[0], sorted(line.lower() for line in lines[1:]), body))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                if pause_s:
                    await asyncio.sleep(pause_s)
            if closes:
                return

    async def main():
        async with model(script) as port:
            async with native(lambda upstream: proxy(upstream, port, streams=streams)) as stack:
                first = await ask(stack.port, request, is_head)
            async with portable(lambda upstream: proxy(upstream, port, streams=streams)) as other:
                second = await ask(other, request, is_head)
        return first, second

    first, second = uvloop.run(main())
    if first is not None and second is not None and not first[3]:
        # How much of a broken stream had passed when it broke is a matter of timing; that it broke is not.
        assert not second[3]
        assert first[:2] == second[:2]
    else:
        assert first == second
    assert asked[: len(asked) // 2] == asked[len(asked) // 2 :]
    return first


METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"DELETE"])
PATHS = st.sampled_from([b"/", b"/a//b", b"/a/%7e%c3%a9?q=1&r=%2f", b"/a/../b", b"/%2e%2e/x", b"/a%2fb", b"/a?x=a|b"])
FIELDS = st.lists(
    st.sampled_from(
        [
            b"X-A: 1",
            b"X-A: 2",
            b"X-B: \xe9",
            b"Connection: X-A",
            b"Authorization: Bearer k",
            b"Assay-Unit: u",
            b"TE: trailers",
            b"Accept: */*",
            b"Cookie: a=b",
        ]
    ),
    max_size=4,
)
REPLY_FIELDS = st.lists(
    st.sampled_from(
        [
            b"X-R: 1",
            b"X-R: 2",
            b"Set-Cookie: a=b",
            b"Connection: X-R",
            b"Keep-Alive: timeout=5",
            b"Content-Type: a/b",
            b"Content-Encoding: gzip",
            b"X-E: ",
        ]
    ),
    max_size=4,
)
BODIES = st.sampled_from([b"", b"x", b"\x00\xff" * 50, b"b" * 70_000, b"c" * 300_000])


@st.composite
def requests(draw):
    method, body = draw(METHODS), draw(BODIES)
    if method in (b"GET", b"HEAD", b"DELETE"):
        body = b""
    lines = [method + b" " + draw(PATHS) + b" HTTP/1.1", b"Host: h", *draw(FIELDS)]
    if body and draw(st.booleans()):
        return b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", b"%x" % len(body), body, b"0", b"", b""])
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


@st.composite
def replies(draw):
    """Pieces of a reply, and whether the model closes after them."""
    status = draw(st.sampled_from([b"200 OK", b"201 Created", b"204 No Content", b"304 Not Modified", b"404 Not Found", b"500 Error", b"299 Odd"]))
    interim = draw(st.sampled_from([b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    body = b"" if status[:3] in (b"204", b"304") else draw(BODIES)
    head = b"\r\n".join([b"HTTP/1.1 " + status, *draw(REPLY_FIELDS)]) + b"\r\n"
    form = draw(st.sampled_from(["length", "chunked", "eof", "short", "cut"]))
    if status[:3] in (b"204", b"304"):
        return [interim + head + b"\r\n"], False
    if form in ("chunked", "cut"):
        middle = len(body) // 2
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:middle], body[middle:]) if part)
        return [interim + head + b"Transfer-Encoding: chunked\r\n\r\n", chunks + (b"0\r\n\r\n" if form == "chunked" else b"")], form == "cut"
    if form == "eof":
        return [interim + head + b"\r\n", body], True
    extra = 5 if form == "short" else 0
    return [interim + head + b"Content-Length: %d\r\n\r\n" % (len(body) + extra) + body], form == "short"


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests(), replies(), st.booleans())
def test_both_transports_say_the_same(request, reply, streams):
    pieces, closes = reply
    if request.startswith(b"HEAD"):
        pieces, closes = (
            [pieces[0].partition(b"\r\n\r\n")[0] + b"\r\n\r\n"] if b" 100 " not in pieces[0] else [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"],
            False,
        )
    compare(request, pieces, closes=closes, streams=streams)


GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
NAMED = {
    "refused in both: no host": (b"GET / HTTP/1.1\r\n\r\n", [b""], 400),
    "refused in both: coding": (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", [b""], 501),
    "refused in both: coded body": (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\na", [b""], 415),
    "refused in both: encoded slash": (b"GET /a%2fb HTTP/1.1\r\nHost: h\r\n\r\n", [b""], 400),
    "refused in both: too many fields": (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 100 + b"\r\n", [b""], 431),
    "refused in both: trace": (b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", [b""], 405),
    "both lengths": (GET, [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], 502),
    "two lengths": (GET, [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"], 502),
    "not http": (GET, [b"SSH-2.0\r\n\r\n"], 502),
    "other coding": (GET, [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"], 502),
    "odd status": (GET, [b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n"], 502),
    "an early close": (GET, [b""], 502),
    "a huge head": (GET, [b"HTTP/1.1 200 OK\r\nA: " + b"b" * 40_000 + b"\r\nContent-Length: 0\r\n\r\n"], 502),
    "more than announced": (GET, [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n"], 200),
}


@pytest.mark.parametrize("name", NAMED)
def test_both_transports_refuse_the_same(name):
    request, pieces, status = NAMED[name]
    first = compare(request, pieces, closes=True, streams=False)
    assert first is not None
    assert first[0] == status


def test_both_transports_pass_a_slow_stream_on_whole():
    pieces = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"4\r\ntick\r\n"] * 5, b"0\r\n\r\n"]
    first = compare(GET, pieces, closes=False, streams=True, pause_s=0.01)
    assert first[2] == b"tick" * 5


@pytest.mark.parametrize("form", [b"Content-Length: 90\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"])
def test_a_stream_that_breaks_off_is_visibly_incomplete_in_both(form):
    first = compare(GET, [b"HTTP/1.1 200 OK\r\n" + form], closes=True, streams=True, pause_s=0.02)
    assert first[0] == 200
    assert not first[3]
