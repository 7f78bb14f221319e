"""When a worker that starts may be called ready: once the state it serves by is fresh enough for every model, and stays so.

A start is when state is least fresh: building a snapshot takes long on a busy machine, and the controller loads what no call waits for. A call of a
model of high risk is refused then (`state_stale`), rightly; but a balancer that was told "ready" has sent it. So the first "ready" waits for the
tightest bound that a configured model has, held over two confirmations of the controller. Later the default bound alone counts: one late confirmation
must not take a gateway away from the models whose bound is longer.

Example:
    settling = Settling()
    settling.look(live.as_of_us, now_us, tightest_bound_us(snapshot))
    settling.is_over
"""

from __future__ import annotations

from typing import Final

from gateway.snapshot import Snapshot

CONFIRMATIONS: Final = 2
"""One may have been on its way for long; a second one says that the controller goes on."""


def tightest_bound_us(snapshot: Snapshot) -> int:
    """Return how old the state may be for every configured model to be served, in microseconds."""
    settings = snapshot.settings
    if any(route.document.risk == "high" for route in snapshot.routes.values()):
        return min(settings.staleness_high_risk_us, settings.staleness_default_us)
    return settings.staleness_default_us


class Settling:
    """Counts confirmations since the worker's start. Owned by its loop; pure but for what it has counted."""

    def __init__(self) -> None:
        """Begin with nothing heard."""
        self.is_over = False
        """Whether the state was fresh for long enough; once it is, for good."""
        self._confirmed_us: int | None = None  # latest confirmation that was fresh; changed by `look`
        self._count = 0  # of them in a row; changed by `look`

    def look(self, as_of_us: int, now_us: int, bound_us: int, default_us: int) -> None:
        """Take in what is served by at this moment.

        Args:
            as_of_us: when the controller confirmed it.
            now_us: the time.
            bound_us: the tightest bound of any model.
            default_us: the default bound; where none is tighter there is nothing to wait for.
        """
        if abs(now_us - as_of_us) > bound_us:
            self._count = 0
            return
        # Both clocks are read for each confirmation, so that one and the same wavers by microseconds.
        if self._confirmed_us is None or as_of_us - self._confirmed_us > _WAVERS_US:
            self._confirmed_us = as_of_us
            self._count += 1
        self.is_over |= bound_us >= default_us or self._count >= CONFIRMATIONS


_WAVERS_US: Final = 50_000
