"""The memo reader may only accept what the parser and the rules accept, with the same meaning."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.native.caller import Caller
from gateway.native.connection import Connection
from gateway.native.drive import Trampoline, Wait
from gateway.native.front import Front, FrontLimits
from gateway.native.plain import FieldLines, PlainReader


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False

    def write(self, data):
        self.written += data

    def get_extra_info(self, _name):
        return ("127.0.0.1", 1)

    def is_closing(self):
        return self.is_closed

    def can_write_eof(self):
        return False

    def close(self):
        self.is_closed = True

    abort = close


LINES_WRITTEN = FieldLines()
WARM = PlainReader()
"""Sees all examples: what it remembers of one must not change what it says of another."""


class Pool:
    def release(self, connection):
        pass

    def forget(self, connection):
        pass


LINES = [
    b"Host: h",
    b"host: [::1]:80",
    b"Host: a b",
    b"Host:",
    b"HOST:\th \t",
    b"Content-Length: 2",
    b"content-length: 0",
    b"Content-Length: 02",
    b"Content-Length: 3",
    b"Content-Length:  2 ",
    b"Connection: keep-alive",
    b"Connection: close",
    b"Connection: X-A",
    b"Transfer-Encoding: chunked",
    b"X-A: 1",
    b"X-A: \xff\xfe",
    b"X-A: a\x00b",
    b"X-A : 1",
    b" folded",
    b"X-A",
    b": v",
    b"X-A: a\rb",
    b"X-A: a\nX-B: c",
    b"Authorization: Bearer k",
    b"Expect: 100-continue",
    b"Upgrade: h2c",
    b"Content-Encoding: gzip",
    b"Cookie: a=b",
    b"X-\xe9: 1",
    b"X(A): 1",
    b"X-A: \x7f",
    b"X-A: a\tb",
    b"Accept: */*",
]
STARTS = [
    b"GET / HTTP/1.1",
    b"POST /a//b?q=%zz HTTP/1.1",
    b"GET /../ HTTP/1.1",
    b"GET /a%2fb HTTP/1.1",
    b"HEAD /a HTTP/1.1",
    b"GET /a HTTP/1.0",
    b"GET  /a HTTP/1.1",
    b"GET /a  HTTP/1.1",
    b"get /a HTTP/1.1",
    b"DELETE /a?x#y HTTP/1.1",
    b"PUT /\xc3 HTTP/1.1",
    b"GET /a HTTP/1.1 ",
    b"TRACE / HTTP/1.1",
    b'GET /"?"{} HTTP/1.1',
    b"PATCH /a?b?c HTTP/1.1",
]
STATUSES = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 404 Not Found",
    b"HTTP/1.1 204 No",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/1.1 200 ",
    b"HTTP/1.1 100 C",
    b"HTTP/1.1 600 X",
    b"HTTP/1.1 200 \xff",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1 500 a\tb",
    b"http/1.1 200 OK",
]
BODIES = st.sampled_from([b"", b"ok", b"ok!", b"\r\n"])
LINE_LISTS = st.lists(st.sampled_from(LINES), max_size=6)


def message(start, lines, body):
    return b"".join(line + b"\r\n" for line in [start, *lines]) + b"\r\n" + body


def serve_slowly(data):
    """What the parser and the rules make of the same bytes."""

    async def main():
        seen = []

        async def serve(exchange):
            request = exchange.request
            seen.append((request.method, request.path, request.query, list(request.headers), request.body))
            exchange.respond(200, [], b"")

        loop = asyncio.get_running_loop()
        front = Front(serve, render=lambda _: ([], b""), loop=loop, trampoline=Trampoline(), limits=FrontLimits())
        front.plain = Declining()
        caller = Caller(front)
        caller.connection_made(Transport())
        caller.data_received(data)
        return seen, caller.transport.is_closed

    return asyncio.run(main())


class Declining:
    def request(self, *_: object):
        return None

    def reply(self, *_: object):
        return None


def read_slowly(data):
    connection = Connection(Pool(), 0.0, Declining())
    connection.connection_made(Transport())
    wait = connection.begin("POST", b"", 1.0)
    connection.data_received(data)
    if not wait.done or wait.error is not None:
        return None
    reply = wait.value
    return (reply.status, list(reply.headers), b"".join(reply._parts)), connection.state.value


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(STARTS), LINE_LISTS.map(lambda lines: [b"Host: h", *lines]) | LINE_LISTS, BODIES)
def test_a_plain_request_means_what_the_parser_says(start, lines, body):
    data = message(start, lines, body)
    plain = PlainReader().request(data, 1 << 20)
    assert WARM.request(data, 1 << 20) == plain
    if plain is not None:
        method, path, query, named, body = plain
        assert serve_slowly(data) == ([(method, path, query, list(named.items()), body)], False)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(STATUSES), LINE_LISTS.map(lambda lines: [b"Content-Length: 2", *lines]) | LINE_LISTS, BODIES)
def test_a_plain_reply_means_what_the_parser_says(start, lines, body):
    data = message(start, lines, body)
    plain = PlainReader().reply(data)
    assert WARM.reply(data) == plain
    if plain is not None:
        status, headers, body = plain
        assert read_slowly(data) == ((status, list(headers), body), "idle")


def test_the_usual_messages_are_plain():
    request = message(
        b"POST /v2/models/m/infer HTTP/1.1", [b"Host: h", b"Content-Length: 2", b"Connection: keep-alive", b"Authorization: Bearer k"], b"ok"
    )
    assert PlainReader().request(request, 10) == ("POST", "/v2/models/m/infer", b"", {b"host": b"h", b"authorization": b"Bearer k"}, b"ok")
    assert PlainReader().request(request, 1) is None
    assert PlainReader().reply(message(b"HTTP/1.1 200 OK", [b"Content-Length: 2", b"X-A: 1"], b"ok")) == (200, ((b"x-a", b"1"),), b"ok")


def test_memos_hold_no_credentials_and_are_bounded():
    plain = PlainReader()
    memo = plain._request_field.__self__
    for index in range(6000):
        plain.request(
            message(b"GET / HTTP/1.1", [b"Host: h", b"X-Id: %d" % index, b"Authorization: Bearer k%d" % index, b"X-Long: " + b"a" * 600], b""), 10
        )
    assert len(memo) <= 4096
    assert not any(b"Bearer" in line or b"aaa" in line for line in memo)
    for index in range(6000):
        for line in (b"Set-Cookie: s=%d" % index, b"X-Long: " + b"a" * 600, b"X-Id: %d" % index):
            assert plain.reply(message(b"HTTP/1.1 200 OK", [b"Content-Length: 0", line], b"")) is not None
    heads = plain._reply_heads
    assert len(heads) <= 4096
    assert not any(b"Cookie" in line or b"aaa" in line for memo in (heads, heads._field.__self__) for line in memo)


@given(st.binary(max_size=30), st.sampled_from([b"assay-decision", b"x-other", b"authorization"]))
def test_a_line_break_is_never_written_whether_its_name_was_seen_before_or_not(value, name):
    assert LINES_WRITTEN[name, b"seen"] == name + b": seen\r\n"
    if b"\r" in value or b"\n" in value:
        with pytest.raises(ValueError, match="line break"):
            LINES_WRITTEN[name, value]
    else:
        assert LINES_WRITTEN[name, value] == name + b": " + value + b"\r\n"


def test_a_plain_request_does_not_overtake_one_that_waits():
    async def main():
        served, waits = [], [Wait() for _ in range(3)]

        async def serve(exchange):
            served.append(exchange.request.path)
            await waits[len(served) - 1]
            exchange.respond(200, [], b"")

        loop = asyncio.get_running_loop()
        caller = Caller(Front(serve, render=lambda _: ([], b""), loop=loop, trampoline=Trampoline(), limits=FrontLimits()))
        caller.connection_made(Transport())
        one, two, three = (message(b"GET /%d HTTP/1.1" % index, [b"Host: h"], b"") for index in range(3))
        caller.data_received(one + two)
        waits[0].give(None)  # the first is answered, the second still waits for its turn of the loop
        caller.data_received(three)
        for wait in waits[1:]:
            await asyncio.sleep(0.01)
            wait.give(None)
        await asyncio.sleep(0.01)
        return served

    assert asyncio.run(main()) == ["/0", "/1", "/2"]
