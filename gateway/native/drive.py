"""Runs a coroutine straight from protocol callbacks, without an asyncio task.

A task costs two trips through the event loop per call: one to start it, one to wake it when its future is set. Here the callback that brings the
bytes resumes the coroutine on the spot.

- `Wait` is what a coroutine awaits: a value that one protocol callback will `give`, or an error it will `fail` with. One waiter, one shot.
- `Drive` owns one coroutine and knows what it waits for.
- `Trampoline` is the worker's turnstile: only one coroutine runs at a time. A wake-up that happens while another coroutine runs (a pool handing its
  connection on, say) is queued and run when that one parks, so the stack never grows and no coroutine is entered twice.

What a driven coroutine may await: a `Wait`; any asyncio future or task; `asyncio.sleep`, `gather`, `wait_for`, locks, queues and events, for
these are futures underneath. What it may not: `asyncio.timeout` and `TaskGroup`, and anything on anyio, which ask for the current task - there is
none. It should not rely on context variables: it runs in the context of whichever callback resumes it.

Cancellation is `Drive.throw(error)`, at the coroutine's current await. Rules:

- Waiting for a `Wait`: the wait is forgotten; giving it later does nothing.
- Waiting for a future: the future is cancelled, as a task would (use `asyncio.shield` for shared ones).
- Woken but not yet resumed: the error wins. The value already given is still in `Wait.value`; whoever awaits something that has to be given
  back (a pooled connection) looks there in its `except`.
- Running (it caused its own cancellation): the error is thrown at its next await.
- Thrown twice: the first error counts until it has been delivered.

A `Wait` also works inside an ordinary asyncio task (health probes, tests), at a task's price: it has the few methods that tasks ask of a
future.

Example::

    wait: Wait[bytes] = Wait()

    async def handler() -> None:
        print(await wait)

    Drive(handler(), trampoline, finished).start()
    wait.give(b"hello")  # prints before it returns
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Finished = Callable[[BaseException | None], None]
"""Called once when the coroutine ends: None, or the exception it ended with."""


class Wait(Generic[T]):
    """A value on its way to the one coroutine that awaits it."""

    # Owner of all fields: the event loop's thread. `_drive` is set by the Drive that parks here and cleared when it leaves.
    __slots__ = ("_asyncio_future_blocking", "_callback", "_drive", "done", "error", "value")

    def __init__(self) -> None:
        """Start with nothing given."""
        self._asyncio_future_blocking = False
        self._callback: tuple[Callable[[Any], object], Context | None] | None = None
        self._drive: Drive | None = None
        self.done = False
        self.error: BaseException | None = None
        self.value: T | None = None

    def give(self, value: T) -> None:
        """Hand the value over and resume the waiter. Does nothing when something was given before."""
        if not self.done:
            self.done = True
            self.value = value
            self._resume()

    def fail(self, error: BaseException) -> None:
        """Let the waiter's await raise `error`. Does nothing when something was given before."""
        if not self.done:
            self.done = True
            self.error = error
            self._resume()

    def _resume(self) -> None:
        drive = self._drive
        if drive is not None:
            self._drive = None
            drive.wake()
        elif self._callback is not None:
            callback, context = self._callback
            asyncio.get_running_loop().call_soon(callback, self, context=context)

    def result(self) -> T:
        """Return the value or raise the error; only once `done`."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value] # once done without error the value is a T

    def __await__(self) -> Generator[Any, None, T]:
        """Park until given."""
        if not self.done:
            self._asyncio_future_blocking = True
            yield self
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value] # as in `result`

    # The rest is what asyncio.Task asks of the thing it waits for.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop."""
        return asyncio.get_running_loop()

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Remember the task's wake-up."""
        if self.done:
            asyncio.get_running_loop().call_soon(callback, self, context=context)
        else:
            self._callback = (callback, context)

    def cancel(self, msg: Any = None) -> bool:
        """Fail with CancelledError on behalf of a cancelled task."""
        if self.done:
            return False
        self.fail(asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))
        return True


class Trampoline:
    """Lets one driven coroutine run at a time; one per event loop."""

    # Owner of both: the loop's thread. `ready` holds drives that were woken while another ran.
    __slots__ = ("ready", "running")

    def __init__(self) -> None:
        """Start idle."""
        self.ready: deque[Drive] = deque()
        self.running = False

    def run(self, drive: Drive) -> None:
        """Resume `drive` now, or next when another coroutine is running; then whatever was woken meanwhile."""
        if self.running:
            self.ready.append(drive)
            return
        self.running = True
        try:
            drive.step()
            while self.ready:
                self.ready.popleft().step()
        finally:
            self.running = False
            if self.ready:  # `step` let a KeyboardInterrupt or SystemExit through; what was woken must not be forgotten
                asyncio.get_running_loop().call_soon(self.run, self.ready.popleft())


class Drive:
    """One coroutine and what it waits for."""

    # Owner of all fields: this object, on the loop's thread. `_waiting_for` is None while running, scheduled or finished.
    __slots__ = ("_coroutine", "_error", "_finished", "_is_running", "_send", "_trampoline", "_waiting_for", "is_finished")

    def __init__(self, coroutine: Coroutine[Any, Any, None], trampoline: Trampoline, finished: Finished) -> None:
        """Take the coroutine over; nothing runs before `start`.

        Args:
            coroutine: not yet started.
            trampoline: the loop's.
            finished: told how it ended; exceptions it raises go to the loop's exception handler.
        """
        self._coroutine = coroutine
        self._send = coroutine.send
        self._trampoline = trampoline
        self._finished = finished
        self._waiting_for: Any = None
        self._error: BaseException | None = None
        self._is_running = False
        self.is_finished = False

    def __repr__(self) -> str:
        """Tell the coroutine and its state."""
        state = "finished" if self.is_finished else "running" if self._is_running else f"waiting for {self._waiting_for!r}"
        return f"<Drive {self._coroutine!r} {state}>"

    def start(self) -> None:
        """Run up to the first await."""
        self._trampoline.run(self)

    def wake(self) -> None:
        """Resume after a wait; called by what was waited for."""
        self._waiting_for = None
        self._trampoline.run(self)

    def throw(self, error: BaseException) -> None:
        """Raise `error` at the coroutine's current await; see the rules above. Does nothing when it has finished."""
        if self.is_finished or self._error is not None:
            return
        self._error = error
        if not self._is_running and self._waiting_for is not None:
            self._leave_wait()
            self._trampoline.run(self)

    def step(self) -> None:
        """Run to the next await. For the trampoline alone."""
        if self.is_finished:
            return
        error = self._error
        self._is_running = True
        try:
            if error is None:
                awaited = self._send(None)
            else:
                self._error = None
                awaited = self._coroutine.throw(error)
        except StopIteration:
            self._end(None)
        except (KeyboardInterrupt, SystemExit) as stop:
            self._end(stop)
            raise
        except BaseException as failure:  # noqa: BLE001 - whatever ends the coroutine is handed to its owner
            self._end(failure)
        else:
            self._is_running = False
            self._park(awaited)

    def _park(self, awaited: Any) -> None:
        if type(awaited) is Wait:
            awaited._drive = self  # noqa: SLF001 - the two classes are one mechanism
            self._waiting_for = awaited
        elif awaited is None:  # asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(self._trampoline.run, self)
            return
        elif getattr(awaited, "_asyncio_future_blocking", None):
            awaited._asyncio_future_blocking = False  # noqa: SLF001 - the handshake every awaiter of a future has to make
            self._waiting_for = awaited
            awaited.add_done_callback(self._future_done)
        else:
            self._error = RuntimeError(f"a driven coroutine awaited `{awaited!r}`, which is neither a Wait nor an asyncio future")
            self._trampoline.run(self)
            return
        if self._error is not None:  # it was thrown at while it ran
            self._leave_wait()
            self._trampoline.run(self)

    def _future_done(self, future: asyncio.Future[Any]) -> None:
        if self._waiting_for is future:  # else it was thrown at after the callback had been scheduled
            self.wake()

    def _leave_wait(self) -> None:
        waiting_for, self._waiting_for = self._waiting_for, None
        if type(waiting_for) is Wait:
            waiting_for._drive = None  # noqa: SLF001 - as in `_park`
        else:
            waiting_for.remove_done_callback(self._future_done)
            waiting_for.cancel()

    def _end(self, error: BaseException | None) -> None:
        self._is_running = False
        self.is_finished = True
        try:
            self._finished(error)
        except Exception as failure:  # noqa: BLE001 - the owner's defect must not stop the other coroutines
            context = {"message": "the owner of a driven coroutine failed", "exception": failure}
            asyncio.get_running_loop().call_exception_handler(context)
