"""The absolute breaker beside the statistics: too many failures of a treatment within a sliding window.

It counts calls, not units, and promises nothing about error probabilities: it is for a version that is plainly broken. Repeated records count once.
Memory: at most `max_calls`, the oldest go first.

Example:
    >>> window = Window(document.breaker)
    >>> window.add(decision_id, at_us, failed=True)
    >>> window.is_tripped(now_us)
    False
"""

from __future__ import annotations

from experiments.document import BreakerDocument


class Window:
    """Calls of one treatment within the breaker's window. Owned by one task of the controller."""

    def __init__(self, breaker: BreakerDocument, *, max_calls: int = 50_000) -> None:
        """Start empty."""
        self._breaker, self._max_calls = breaker, max_calls
        # Decision id -> (time, failed), in order of arrival; changed by `add` and `counts` alone.
        self._calls: dict[str, tuple[int, bool]] = {}

    def add(self, decision: str, at_us: int, *, failed: bool) -> None:
        """Take in one call; a repeated one changes nothing."""
        self._calls.setdefault(decision, (at_us, failed))
        if len(self._calls) > self._max_calls:
            del self._calls[next(iter(self._calls))]

    def counts(self, now_us: int) -> tuple[int, int]:
        """(calls, failures) in the window that ends now; older ones are forgotten."""
        since_us = now_us - self._breaker.window_us
        self._calls = {decision: call for decision, call in self._calls.items() if call[0] > since_us}
        return len(self._calls), sum(failed for _, failed in self._calls.values())

    def is_tripped(self, now_us: int) -> bool:
        """Whether the share of failures is above the limit, with at least `min_calls` calls."""
        calls, failures = self.counts(now_us)
        return calls >= self._breaker.min_calls and failures * 1_000_000 > self._breaker.above_ppm * calls
