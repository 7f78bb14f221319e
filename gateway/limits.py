"""Rates: how many calls a key may make to a model in a second.

A token bucket per (key, model) in each worker, holding its share of the limit, so that the sum over workers never exceeds it; early refusal near the
limit, when callers happen to meet one worker only, is the price. Reserve comes before forwarding: there is no check-then-add.
"""

from __future__ import annotations

from typing import Final

_MOST_BUCKETS: Final = 65_536


class RateLimits:
    """Token buckets of one worker. Owned by its loop."""

    __slots__ = ("_buckets", "_workers")

    def __init__(self, workers: int) -> None:
        """Hold one share in `workers` of every limit."""
        self._workers = workers
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}  # (key, model) -> (tokens, at); changed by `reserve` alone

    def reserve(self, key_id: str, model: str, rate_per_s: int, now_s: float) -> bool:
        """Take one call from the bucket; False when it is empty. A burst of one second's share is allowed."""
        share = max(rate_per_s / self._workers, 1e-9)
        most = max(share, 1.0)
        bucket = (key_id, model)
        held = self._buckets.get(bucket)
        tokens = most if held is None else min(most, held[0] + (now_s - held[1]) * share)
        allowed = tokens >= 1.0
        if held is None and len(self._buckets) >= _MOST_BUCKETS:
            self._forget_full(now_s)
        self._buckets[bucket] = (tokens - 1.0 if allowed else tokens, now_s)
        return allowed

    def _forget_full(self, now_s: float) -> None:
        """Drop every bucket that is full again. A rate is at least 1/s, of which a worker has a share, so that takes `workers` seconds at most."""
        until_s = now_s - max(1.0, self._workers)
        self._buckets = {bucket: held for bucket, held in self._buckets.items() if held[1] > until_s}
