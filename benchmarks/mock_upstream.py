"""A model that answers after a fixed delay: the upstream for measuring added latency.

One uvloop process, a protocol over httptools; every POST is answered after `--delay-ms` with the same JSON, whatever it asks. Connections are
kept alive; a pipelined request waits for the one before.

Example:
    $ python -m benchmarks.mock_upstream --port 9100 --delay-ms 5
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import httptools
import uvloop

from benchmarks.load import chat_reply, v2_reply


def _with_head(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


V2, CHAT = _with_head(v2_reply()), _with_head(chat_reply())


class DelayedAnswer(asyncio.Protocol):
    """Answers each request on a connection once, in order, after the delay."""

    def __init__(self, delay_s: float) -> None:
        """Answer after `delay_s` seconds."""
        self._delay_s = delay_s
        # Owned by this connection's callbacks, all on one loop.
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.WriteTransport | None = None
        self._url = b""
        self._free_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own classes are not registered as asyncio's

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        """Answers still to come have nowhere to go."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what is not HTTP ends the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def on_message_begin(self) -> None:
        """Forget the path of the request before."""
        self._url = b""

    def on_url(self, url: bytes) -> None:
        """Collect the path."""
        self._url += url

    def on_message_complete(self) -> None:
        """Answer after the delay, never before an earlier answer."""
        loop = asyncio.get_running_loop()
        self._free_at = max(loop.time(), self._free_at) + self._delay_s
        loop.call_at(self._free_at, self._answer, CHAT if b"/chat/" in self._url else V2)

    def _answer(self, reply: bytes) -> None:
        if self._transport is not None:
            self._transport.write(reply)


async def serve(port: int, delay_s: float) -> None:
    """Answer on 127.0.0.1 until cancelled."""
    server = await asyncio.get_running_loop().create_server(lambda: DelayedAnswer(delay_s), "127.0.0.1", port, backlog=512)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description="Answer every request with the same JSON after a delay.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay-ms", type=float, default=5.0)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.delay_ms / 1000))


if __name__ == "__main__":
    main()
