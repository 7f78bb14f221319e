"""When to leave a failing server alone: a state machine over (result, moment).

| state | `admits` | success | failure |
|---|---|---|---|
| closed | always | stays, forgets failures | the `failures`-th in a row opens |
| open | never before `open_s` is over; then one probe | closes | opens again |

Example:
    breaker = Breaker(failures=5, open_s=2.0)
    if breaker.admits(now_s): ...; breaker.note(succeeded, now_s)
"""

from __future__ import annotations


class Breaker:
    """One server's breaker. Changed by `admits` and `note` alone, on the loop of its owner."""

    __slots__ = ("_failed", "_failures", "_open_s", "_opened_s", "_probing_s")

    def __init__(self, failures: int, open_s: float) -> None:
        """Open after `failures` failures in a row, for `open_s` seconds."""
        self._failures = failures
        self._open_s = open_s
        self._failed = 0
        self._opened_s: float | None = None
        self._probing_s: float | None = None

    @property
    def is_open(self) -> bool:
        """Say whether the server is left alone."""
        return self._opened_s is not None

    def admits(self, now_s: float) -> bool:
        """Say whether a request may be sent now; a True while open is the one probe.

        A probe whose result never arrives (its caller was cancelled) is forgotten after another `open_s`.
        """
        if not self.would_admit(now_s):
            return False
        if self._opened_s is not None:
            self._probing_s = now_s
        return True

    def would_admit(self, now_s: float) -> bool:
        """Say what `admits` would, changing nothing."""
        if self._opened_s is None:
            return True
        if now_s - self._opened_s < self._open_s:
            return False
        return self._probing_s is None or now_s - self._probing_s >= self._open_s

    def note(self, succeeded: bool, now_s: float) -> None:  # noqa: FBT001 - the result is what this is about
        """Take note of how a request ended."""
        if succeeded:
            self._failed, self._opened_s, self._probing_s = 0, None, None
            return
        self._failed += 1
        if self._opened_s is not None or self._failed >= self._failures:
            self._opened_s, self._probing_s = now_s, None

    def __repr__(self) -> str:
        return f"Breaker({'open' if self.is_open else 'closed'}, failed={self._failed})"
