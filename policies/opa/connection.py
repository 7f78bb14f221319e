"""One OPA server as the gateway uses it: requests in flight, a deadline for each, a breaker over all.

The lane's handlers run outside any asyncio task and may wait for nothing but a plain future. So `find` returns a future at once; a task owned
here does the talking and every path ends by setting that future: the answer, an error, the deadline, the bound on requests in flight, `close`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from policies.bundle import Package
from policies.opa.breaker import Breaker
from policies.opa.query import PATH, OpaError, failed, findings, fresh, question
from policies.verdict import Finding

Found = tuple[Finding, ...]


class Asking(Protocol):
    """What a connection needs of a client; `policies.opa.client.Client` is the implementation."""

    async def decide(self, path: str, given: Mapping[str, Any]) -> Any:
        """Return OPA's answer. Raises OpaError."""

    async def close_connection(self) -> None:
        """Close what is open."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a decision may cost.

    Args:
        timeout_s: Seconds from the question to its end.
        in_flight: Questions at once; one more is answered `busy`.
        failures: Failures in a row after which the server is left alone.
        open_s: For how long.
    """

    timeout_s: float = 0.05
    in_flight: int = 256
    failures: int = 5
    open_s: float = 2.0


@dataclass(slots=True)
class Tally:
    """Counts since the start; changed by the connection alone."""

    answered: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    """Kind of fault -> how many."""


class OpaConnection:
    """A server and what is under way to it. Owned by one event loop; `close` ends every question."""

    def __init__(
        self, client: Asking, revision: str, *, bundle: str | None = None, bounds: Bounds | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Speak to `client`'s server, which must have `revision` in force.

        Args:
            client: The way to the server.
            revision: The revision every answer must tell.
            bundle: Name of OPA's bundle whose provenance must tell it too, where OPA loads a bundle.
            bounds: What a decision may cost.
            clock: Monotonic seconds, for the breaker.
        """
        self._client = client
        self.revision = revision
        self._bundle = bundle
        self.bounds = bounds or Bounds()
        self._clock = clock
        self.breaker = Breaker(self.bounds.failures, self.bounds.open_s)
        self.tally = Tally()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_due(self) -> bool:
        """Say whether the server has been left alone for long enough to be tried again."""
        return self.breaker.is_open and self.breaker.would_admit(self._clock())

    def find(self, packages: Sequence[Package], document: Mapping[str, Any], now_ns: int) -> asyncio.Future[Found]:
        """Ask for the findings of some packages. The future fails with `OpaError` alone, and ends within `timeout_s`."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Found] = loop.create_future()
        if len(self._tasks) >= self.bounds.in_flight:
            self._end(answer, OpaError("busy", f"`{self.bounds.in_flight}` questions wait already"), None)
        elif not self.breaker.admits(self._clock()):
            self._end(answer, OpaError("breaker", f"`{self.bounds.failures}` questions in a row failed; the next attempt comes by itself"), None)
        else:
            task = loop.create_task(self._ask(answer, packages, document, now_ns))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            timer = loop.call_later(self.bounds.timeout_s, self._expire, answer, task)
            answer.add_done_callback(lambda _answer: timer.cancel())
        return answer

    async def close(self) -> None:
        """End every question and close the connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close_connection()

    async def _ask(self, answer: asyncio.Future[Found], packages: Sequence[Package], document: Mapping[str, Any], now_ns: int) -> None:
        try:
            found = await self._findings(packages, document, now_ns)
        except OpaError as fault:
            self._end(answer, fault, succeeded=fault.kind == "policy")
        except asyncio.CancelledError:
            self._end(answer, OpaError("timeout", "the question was given up"), None)
            raise
        except Exception as fault:  # noqa: BLE001 - a defect of a library must end the decision like any other fault
            self._end(answer, OpaError("answer", f"{type(fault).__name__}: {fault}"), succeeded=False)
        else:
            self._end(answer, found, succeeded=True)

    async def _findings(self, packages: Sequence[Package], document: Mapping[str, Any], now_ns: int) -> Found:
        """All packages in one query; where a policy cannot be evaluated, one by one, so that the others still have their say."""
        try:
            asked = fresh()
            answer = await self._client.decide(PATH, question(packages, document, now_ns, asked))
            return findings(packages, answer, self.revision, self._bundle, asked)
        except OpaError as fault:
            if fault.kind != "policy":
                raise
            if len(packages) == 1:
                return (failed(packages[0], str(fault)),)
        alone = [await self._findings([package], document, now_ns) for package in packages]
        return tuple(found for (found,) in alone)

    def _expire(self, answer: asyncio.Future[Found], task: asyncio.Task[None]) -> None:
        self._end(answer, OpaError("timeout", f"no answer within `{self.bounds.timeout_s}` s"), succeeded=False)
        task.cancel()

    def _end(self, answer: asyncio.Future[Found], outcome: Found | OpaError, succeeded: bool | None) -> None:  # noqa: FBT001 - as in `Breaker.note`
        """Set the future and tell the breaker, once; `succeeded` None says nothing about the server."""
        if answer.done():
            return
        if succeeded is not None:
            self.breaker.note(succeeded, self._clock())
        if isinstance(outcome, OpaError):
            self.tally.faults[outcome.kind] = self.tally.faults.get(outcome.kind, 0) + 1
            answer.set_exception(outcome)
        else:
            self.tally.answered += 1
            answer.set_result(outcome)
