"""Load with a journal: calls over kept connections from a thread of its own, and what every one of them was answered.

The journal is the judge's: a call is *acknowledged* when its complete 200 reply has arrived here, whatever happens to the gateway afterwards.

Example:
    with Load(deployment, {"plain": 2, "durable": 2}) as load:
        deployment.signal("recorder", signal.SIGKILL)
        load.wait_for(100)
    assert load.failed == []
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from deployment import BODY, Deployment, wait_until

PAUSE_S = 0.002
TIMEOUT_S = 120.0
"""A call that hangs is found; one that waits for processes to start on a busy machine is not one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One call and what became of it. Times in monotonic seconds."""

    model: str
    sent_s: float
    ended_s: float
    status: int
    """0 where no complete reply came."""
    decision: str
    version: str
    """What the model said it is."""
    trouble: str
    """`refused` when no connection could be made, `broken` when one ended without a complete reply, `late`, or the code of a refusal."""

    @property
    def decided_ms(self) -> int:
        """When the worker made the decision's id, Unix milliseconds (UUIDv7)."""
        return int(self.decision.replace("-", "")[:12], 16)


class Load:
    """Keeps calling until the block ends. `answers` grows in the load's thread; tests read it."""

    def __init__(self, deployment: Deployment, callers: Mapping[str, int], *, behave: str = "answer", pause_s: float = PAUSE_S) -> None:
        self.answers: list[Answer] = []
        self._deployment = deployment
        self._callers = callers
        self._behave = behave
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT_S + 10)
        assert not self._thread.is_alive()

    def wait_for(self, count: int, status: int = 200, timeout_s: float = 30.0) -> None:
        """Wait until `count` more calls than now have been answered with a status."""
        start = len(self.answers)
        wait_until(
            lambda: sum(answer.status == status for answer in self.answers[start:]) >= count,
            f"{count} more answers of {status}; the last were {self.answers[-3:]}",
            timeout_s,
        )

    @property
    def acknowledged(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status == 200]

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for model, count in self._callers.items():
                for _ in range(count):
                    group.create_task(self._call_on(model))

    async def _call_on(self, model: str) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        data = self._request(model)
        while not self._stop.is_set():
            sent_s = time.monotonic()
            status, fields, body, trouble = 0, {}, b"", ""
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    if connection is None:
                        connection = await asyncio.open_connection("127.0.0.1", self._deployment.front_port)
                    reader, writer = connection
                    writer.write(data)
                    status, fields, body = await _read(reader)
            except TimeoutError:
                trouble = "late"
            except (ConnectionError, asyncio.IncompleteReadError, OSError):
                trouble = "refused" if connection is None else "broken"
            if trouble or fields.get("connection") == "close":
                if connection is not None:
                    connection[1].close()
                connection = None
            if status not in (0, 200):
                with contextlib.suppress(ValueError):
                    trouble = json.loads(body).get("code", "")
            version = json.loads(body)["model_version"] if status == 200 else ""
            self.answers.append(Answer(model, sent_s, time.monotonic(), status, fields.get("assay-decision", ""), version, trouble))
            await asyncio.sleep(0.02 if trouble else self._pause_s)
        if connection is not None:
            connection[1].close()

    def _request(self, model: str) -> bytes:
        body = json.dumps(BODY).encode()
        lines = [
            f"POST /v2/models/{model}/infer HTTP/1.1",
            "host: gateway",
            f"authorization: Bearer {self._deployment.keys['product']}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-behave: {self._behave}",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _read(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    if "content-length" in fields:
        body = await reader.readexactly(int(fields["content-length"]))
    else:
        body = b""
        while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    return int(head[0].split(" ")[1]), fields, body
