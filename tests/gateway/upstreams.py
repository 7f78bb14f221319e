"""Real model servers on loopback, good and bad. A request says itself how it wants to be treated, in the header `X-Behave`.

- `Models` one thread with one event loop for all servers of a test session
- `Model` one server: counts what it was asked, may run a hook before it answers

Behaviours: `answer` (default), `slow:SECONDS`, `status:CODE`, `close` (not a byte), `half` (less than announced, then the end), `long` (more than
announced), `twice` (a second reply nobody asked for), `two-lengths`, `garbage`, `unreadable` (200, not JSON), `big:BYTES`, `endless` (chunked
for ever), `stream:PIECES:PAUSE_S`, `broken-stream`, `bad-chunk`, `raw:BASE64` (a whole reply, head and all), `last:BASE64` (the same, then the end).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self


@dataclass(slots=True)
class Asked:
    """One request as a model saw it."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Model:
    """One model server. `asked` and `connections` belong to the loop's thread; tests read them."""

    label: str
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    before: Callable[[Asked], None] | None = None
    """Run when a request is complete, before a byte is answered."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            self.connections -= 1
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        asked = Asked(head[0], headers, body)
        self.asked.append(asked)
        if len(self.asked) > 20_000:  # under load only the newest matter
            del self.asked[:10_000]
        if self.before is not None:
            self.before(asked)
        how, *arguments = headers.get("x-behave", "answer").split(":")
        keeps: bool = await getattr(self, f"_{how.replace('-', '_')}")(writer, asked, *arguments)
        await writer.drain()
        return keeps

    def reply(self, asked: Asked) -> bytes:
        """The v2 answer: label 1, score 0.75, the version that answers, and the first input given back."""
        try:
            echo: Any = json.loads(asked.body)["inputs"][0]["data"][0]
        except (ValueError, LookupError, TypeError):
            echo = None
        outputs = [
            {"name": "label", "shape": [1], "datatype": "INT64", "data": [1]},
            {"name": "score", "shape": [1], "datatype": "FP64", "data": [0.75]},
        ]
        return json.dumps({"model_name": "m", "model_version": self.label, "outputs": outputs, "parameters": {"echo": echo}}).encode()

    async def _answer(self, writer: asyncio.StreamWriter, asked: Asked) -> bool:
        writer.write(whole(200, self.reply(asked)))
        return True

    async def _slow(self, writer: asyncio.StreamWriter, asked: Asked, seconds: str) -> bool:
        await asyncio.sleep(float(seconds))
        return await self._answer(writer, asked)

    async def _status(self, writer: asyncio.StreamWriter, _asked: Asked, code: str) -> bool:
        writer.write(whole(int(code), b'{"error":"the model says no"}'))
        return True

    async def _close(self, _writer: asyncio.StreamWriter, _asked: Asked) -> bool:
        return False

    async def _half(self, writer: asyncio.StreamWriter, asked: Asked) -> bool:
        body = self.reply(asked)
        writer.write(head(200, len(body)) + body[: len(body) // 2])
        return False

    async def _long(self, writer: asyncio.StreamWriter, asked: Asked) -> bool:
        body = self.reply(asked)
        writer.write(head(200, len(body)) + body + b"and what nobody asked for")
        return True

    async def _twice(self, writer: asyncio.StreamWriter, asked: Asked) -> bool:
        writer.write(whole(200, self.reply(asked)) + whole(200, b'{"outputs":[{"name":"label","data":["poison"]}]}'))
        return True

    async def _two_lengths(self, writer: asyncio.StreamWriter, asked: Asked) -> bool:
        body = self.reply(asked)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        return False

    async def _garbage(self, writer: asyncio.StreamWriter, _asked: Asked) -> bool:
        writer.write(b"\x00\xff\x17this is no HTTP\r\n\r\n")
        return False

    async def _unreadable(self, writer: asyncio.StreamWriter, _asked: Asked) -> bool:
        writer.write(whole(200, b"<html>not JSON</html>"))
        return True

    async def _big(self, writer: asyncio.StreamWriter, _asked: Asked, size_bytes: str) -> bool:
        writer.write(whole(200, b" " * int(size_bytes)))
        return True

    async def _endless(self, writer: asyncio.StreamWriter, _asked: Asked) -> bool:
        writer.write(chunked_head())
        while True:
            writer.write(chunk(b"x" * 1_000_000))
            await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter, _asked: Asked, pieces: str, pause_s: str) -> bool:
        writer.write(chunked_head())
        for number in range(int(pieces)):
            writer.write(chunk(b"piece %d\n" % number))
            await writer.drain()
            await asyncio.sleep(float(pause_s))
        writer.write(b"0\r\n\r\n")
        return True

    async def _broken_stream(self, writer: asyncio.StreamWriter, _asked: Asked) -> bool:
        writer.write(chunked_head() + chunk(b"a piece and then nothing\n"))
        return False

    async def _raw(self, writer: asyncio.StreamWriter, _asked: Asked, reply: str) -> bool:
        writer.write(base64.b64decode(reply))
        return True

    async def _last(self, writer: asyncio.StreamWriter, _asked: Asked, reply: str) -> bool:
        writer.write(base64.b64decode(reply))
        return False

    async def _bad_chunk(self, writer: asyncio.StreamWriter, _asked: Asked) -> bool:
        writer.write(chunked_head() + b"zz\r\nno\r\n")
        return False


class Wordy(Model):
    """Counts the tokens of its replies, as a language model does; version 2 is the talkative one. Asked to stream it tells events, the count last."""

    def usage(self, asked: Asked) -> dict[str, int]:
        said = 40 + len(asked.body) % 7
        return {"prompt_tokens": len(asked.body), "completion_tokens": said if self.label == "1" else 5 * said}

    def reply(self, asked: Asked) -> bytes:
        return json.dumps({"model_version": self.label, "text": "so be it", "usage": self.usage(asked)}).encode()

    async def _answer(self, writer: asyncio.StreamWriter, asked: Asked) -> bool:
        if b'"stream": true' not in asked.body:
            return await Model._answer(self, writer, asked)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in ({"text": "so", "usage": None}, {"text": " be it", "usage": None}, {"usage": self.usage(asked)}):
            said = json.dumps(event).encode()
            writer.write(chunk(b"data: " + said[:7]))
            await writer.drain()
            writer.write(chunk(said[7:] + b"\n\n"))
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return True


def head(status: int, length: int) -> bytes:
    return b"HTTP/1.1 %d Said\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, length)


def whole(status: int, body: bytes) -> bytes:
    return head(status, len(body)) + body


def chunked_head() -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Models:
    """All model servers of a session, in one thread. Owned by the fixture that made it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="models", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def add(self, label: str, kind: type[Model] = Model) -> Model:
        """Start one more server."""
        model = kind(label)
        asyncio.run_coroutine_threadsafe(self._start(model), self._loop).result(5)
        return model

    async def _start(self, model: Model) -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(model.serve(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 20)
        model.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
