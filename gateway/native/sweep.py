"""The worker's one timer: who has a deadline is looked at here, at fixed intervals.

A timer per call costs more than the call's parsing and is nearly always cancelled. Instead every owner of deadlines (callers' connections,
upstream pools) registers one function that compares them with the clock. Deadlines are therefore kept to within one interval.

Example::

    sweep = Sweep(loop)
    sweep.add(upstream.sweep, every_s=0.025)
    sweep.start()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

TICK_S: Final = 0.025


class _Duty:
    __slots__ = ("due_at", "every_s", "look")

    def __init__(self, look: Callable[[float], None], every_s: float, due_at: float) -> None:
        self.look = look
        self.every_s = every_s
        self.due_at = due_at  # owned by Sweep._tick


class Sweep:
    """Calls each registered function at its interval with the loop's time."""

    # Owner of all fields: the loop's thread.
    __slots__ = ("_duties", "_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Prepare; nothing ticks before `start`."""
        self._loop = loop
        self._duties: list[_Duty] = []
        self._handle: asyncio.TimerHandle | None = None

    def add(self, look: Callable[[float], None], every_s: float) -> None:
        """Call `look(loop_time)` about every `every_s` seconds (at least one tick of 25 ms)."""
        self._duties.append(_Duty(look, every_s, self._loop.time()))

    def start(self) -> None:
        """Begin ticking."""
        if self._handle is None:
            self._handle = self._loop.call_later(TICK_S, self._tick)

    def stop(self) -> None:
        """End ticking."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        now = self._loop.time()
        self._handle = self._loop.call_later(TICK_S, self._tick)
        for duty in self._duties:
            if now >= duty.due_at:
                duty.due_at = now + duty.every_s - TICK_S / 2
                try:
                    duty.look(now)
                except Exception as failure:  # noqa: BLE001 - one owner's defect must not stop the others' deadlines
                    self._loop.call_exception_handler({"message": "a sweep failed", "exception": failure})
