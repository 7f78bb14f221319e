"""Which replica of a version takes the next call: balance among origins, with passive ejection.

Owned by one worker; never changes the arm of a call, only the endpoint. An origin that fails `EJECT_AFTER` calls in a row is left alone for
`EJECT_S`; when all are ejected, all are tried again, because a wrong guess about health must not become an outage of its own.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from gateway.exchange import Endpoint

EJECT_AFTER: Final = 3
EJECT_S: Final = 5.0


class Replica:
    """One origin of a version as this worker sees it."""

    __slots__ = ("ejected_until", "endpoint", "failures_in_a_row", "pending")

    def __init__(self, endpoint: Endpoint) -> None:
        """Start with nothing pending and no failure."""
        self.endpoint = endpoint
        # The three below belong to the worker's loop: changed by `Replicas.take` and `Replicas.give_back` alone.
        self.pending = 0
        self.failures_in_a_row = 0
        self.ejected_until = 0.0

    def __repr__(self) -> str:
        """Tell the endpoint and its state."""
        return f"<{self.endpoint} pending={self.pending} failures={self.failures_in_a_row} ejected_until={self.ejected_until:.1f}>"


class Replicas:
    """The origins of one version and the rule that picks among them."""

    __slots__ = ("_least_pending", "_turn", "all")

    def __init__(self, origins: tuple[str, ...], balance: str) -> None:
        """Build the replicas of `origins`; `balance` is `round_robin` or `least_pending`."""
        self.all = tuple(Replica(parse_origin(origin)) for origin in origins)
        self._least_pending = balance == "least_pending"
        self._turn = 0  # next position of the round, owned by `take`

    def take(self, now_s: float, *, other_than: Replica | None = None) -> Replica:
        """Pick a replica and count the call as pending on it.

        Args:
            now_s: monotonic seconds.
            other_than: a replica that just failed; avoided where there is another.
        """
        replicas = self.all
        if len(replicas) == 1:
            chosen = replicas[0]
        else:
            able = [replica for replica in replicas if replica.ejected_until <= now_s and replica is not other_than] or list(replicas)
            self._turn += 1
            start = self._turn % len(able)
            chosen = able[start]
            if self._least_pending:
                chosen = min(able[start:] + able[:start], key=_pending)
        chosen.pending += 1
        return chosen

    @staticmethod
    def give_back(replica: Replica, now_s: float, *, failed: bool | None) -> None:
        """End a call taken by `take`.

        Args:
            replica: as taken.
            now_s: monotonic seconds.
            failed: an upstream fault (not an error status), or None where the call ended without telling: its caller left, or it never went out.
        """
        replica.pending -= 1
        if failed is None:
            return
        if not failed:
            replica.failures_in_a_row = 0
            return
        replica.failures_in_a_row += 1
        if replica.failures_in_a_row >= EJECT_AFTER:
            replica.ejected_until = now_s + EJECT_S


def _pending(replica: Replica) -> int:
    return replica.pending


def parse_origin(origin: str) -> Endpoint:
    """Return the endpoint of an origin `http[s]://host[:port][/prefix]`.

    Raises:
        ValueError: another scheme, no host, credentials, a query or a fragment.
    """
    if not origin.isascii() or not origin.isprintable() or " " in origin:
        raise ValueError(f"`{origin!r}` is not an upstream: it has to be ASCII without spaces; write the host in punycode")
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"`{origin}` is not an upstream: it has to be http://host[:port] or https://host[:port]")
    if "@" in parts.netloc or "?" in origin or "#" in origin:
        raise ValueError(f"`{origin}` is not an upstream: it may not hold credentials, a query or a fragment")
    default = 443 if parts.scheme == "https" else 80
    port = default if parts.port is None else parts.port
    if port == 0:
        raise ValueError(f"`{origin}` is not an upstream: nobody listens on port 0")
    host = parts.hostname
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port == default else f"{shown}:{port}"
    return Endpoint(parts.scheme, host, port, parts.path.rstrip("/"), authority.encode())
