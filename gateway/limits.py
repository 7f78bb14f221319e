"""Rates: how many calls a key may make to a model in a second, and how many bytes of refusals a tenant may write into the log.

A token bucket per (key, model) in each worker, holding its share of the limit, so that the sum over workers never exceeds it; early refusal near the
limit, when callers happen to meet one worker only, is the price. Reserve comes before forwarding: there is no check-then-add.
"""

from __future__ import annotations

from typing import Final

_MOST_BUCKETS: Final = 65_536
DENIED_BYTES_PER_S: Final = 64 * 1024
"""Leaves of refused calls a tenant may write, over all workers: about 90 a second. What is past it is counted, not recorded one by one."""
DENIED_BURST_BYTES: Final = 1024 * 1024
PROOFS_PER_S: Final = 20
"""Proofs a key may ask for, by the front door or where they are made."""
PROOFS: Final = "/receipts/"
"""Stands for a model where proofs are counted."""


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


class DeniedBytes:
    """The quota of recorded refusals by tenant: whoever holds a key of any kind must not be able to fill the disk with what he may not do.

    Owned by one worker's loop, and holds its share. A leaf's length is known once it is written, so the last one may go a little below nothing.
    """

    __slots__ = ("_burst", "_held", "_rate_per_s")

    def __init__(self, workers: int) -> None:
        """Hold one share in `workers` of every tenant's quota."""
        self._rate_per_s = DENIED_BYTES_PER_S / workers
        self._burst = DENIED_BURST_BYTES / workers
        self._held: dict[str, tuple[float, float]] = {}  # tenant -> (bytes left, at); changed by `has_room` and `spend`. As many as there are tenants

    def has_room(self, tenant: str, now_s: float) -> bool:
        """Say whether a tenant may have another refusal recorded."""
        left, at_s = self._held.get(tenant, (self._burst, now_s))
        left = min(self._burst, left + (now_s - at_s) * self._rate_per_s)
        self._held[tenant] = (left, now_s)
        return left > 0

    def spend(self, tenant: str, size_bytes: int) -> None:
        """Take what a recorded refusal has cost; `has_room` was asked before."""
        left, at_s = self._held[tenant]
        self._held[tenant] = (left - size_bytes, at_s)
