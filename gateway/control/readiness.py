"""Whether a version is ready for everyone at once: approved for all of the traffic, and its servers reachable. Asked before a switch.

A connection that opens is all that is asked: it is true of every protocol, and a server that answers badly is for shadow and breaker to find.

Example:
    silent = await unreachable(("http://127.0.0.1:9004",))     # () when all answer
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from experiments.shares import WHOLE
from gateway.refusals import Refusal
from gateway.snapshot import Route
from gateway.standing import Approvals

DEADLINE_S: Final = 2.0


def require_approved(route: Route, version: str, approvals: Approvals, environment: str, now_us: int) -> None:
    """Refuse a version that its people have not approved for everyone: after the switch the default would go on serving in its name.

    Raises:
        Refusal: `not_approved`.
    """
    standing = approvals.standing(route, route.versions[version], environment, WHOLE, now_us)
    if standing.refusal is not None:
        raise Refusal(
            "not_approved",
            f"version `{version}` of `{route.model}` may not serve everyone: {standing.refusal}",
            hint=f"`assay model approve {route.model} {version}` first, for all of the traffic",
        )


async def unreachable(upstreams: Iterable[str]) -> tuple[str, ...]:
    """Return the upstreams that did not accept a connection in time."""
    asked = tuple(upstreams)
    answers = await asyncio.gather(*(_accepts(upstream) for upstream in asked))
    return tuple(upstream for upstream, answered in zip(asked, answers, strict=True) if not answered)


async def _accepts(upstream: str) -> bool:
    parts = urlsplit(upstream)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(DEADLINE_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
