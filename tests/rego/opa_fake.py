"""A small server with OPA's REST contract for one query, which does what it is told: answers, waits, breaks, redirects. Paces tests only.

A document repeats the question's `asked`, as `package assay.answers` does, unless it has one of its own.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self


class FakeOpa:
    """`answers` is what each request gets in turn, the last one for ever.

    A document, a (status, document), `hang`, `close`, `redirect`, or a list of bytes that are sent one after the other in place of a reply.
    """

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.requests: list[dict[str, Any]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(next((line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length")), 0))
                body = json.loads(await reader.readexactly(length) or b"{}")
                self.requests.append({"line": head.splitlines()[0], "body": body})
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if answer == "hang":
                    await asyncio.sleep(60)
                if answer == "close":
                    break
                if answer == "redirect":
                    writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /v1/elsewhere\r\ncontent-length: 0\r\n\r\n")
                    continue
                if isinstance(answer, list) and answer and isinstance(answer[0], bytes):
                    for piece in answer:
                        writer.write(piece)
                        await writer.drain()
                    continue
                status, document = answer if isinstance(answer, tuple) else (200, answer)
                payload = document if isinstance(document, bytes) else json.dumps(repeating(document, body)).encode()
                writer.write(b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(payload), payload))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def repeating(document: Any, question: dict[str, Any]) -> Any:
    """Return an answer that says which question it answers."""
    if not isinstance(document, dict) or not isinstance(document.get("result"), dict) or "asked" in document["result"]:
        return document
    return {**document, "result": {**document["result"], "asked": question.get("input", {}).get("asked")}}
