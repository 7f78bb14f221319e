"""How a log begins: `log.open`, once, before anything of it is signed, with the head of the log it follows (`audit/lineage.py`).

Rules:

- A log without a record of its keys is new; every other one has begun, whether it says how (`log.open`) or is of an earlier release.
- Which log another one follows is said at its first start and never again: a configuration that says something else is refused.

Example:
    record = beginning(registry.opened, has_begun=bool(registry.log_keys.bounds), origin=origin, previous=previous)
    if record is not None: await clerk.record("log.open", **record)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audit.keys import VerifierKey
from audit.lineage import LinkError, link_to
from gateway.config.gateway_file import Follows


class CannotBegin(Exception):  # noqa: N818 - says what happened
    """The log cannot begin, or go on, as it is configured."""


def read_previous(follows: Follows | None, path: Path, *, origin: str) -> dict[str, Any] | None:
    """Return what a `log.open` record says of the log to follow; None where none is configured.

    Args:
        follows: As configured.
        path: Its checkpoint file, resolved.
        origin: Of the log that begins.

    Raises:
        CannotBegin: The file cannot be read, its head is not signed by the named key, or is of the same origin.
    """
    if follows is None:
        return None
    try:
        return link_to(path.read_bytes(), VerifierKey.parse(follows.key), new_origin=origin)
    except OSError as fault:
        raise CannotBegin(f"audit.follows.checkpoint: `{path}` cannot be read: {fault.strerror}") from fault
    except LinkError as fault:
        raise CannotBegin(f"audit.follows: {fault}") from fault


def beginning(opened: Mapping[str, Any] | None, *, has_begun: bool, origin: str, previous: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what the `log.open` record that is due carries; None where none is.

    Args:
        opened: The log's `log.open` record.
        has_begun: Whether a key of the log was ever recorded.
        origin: Of the log.
        previous: The log it is configured to follow.

    Raises:
        CannotBegin: It has begun without following that one.
    """
    if opened is None and not has_begun:
        return {"origin": origin} if previous is None else {"origin": origin, "previous": previous}
    if previous is not None and (opened is None or opened.get("previous") != previous):
        raise CannotBegin(
            f"audit.follows: log `{origin}` has begun without following `{previous['origin']}` from size `{previous['size']}`\n"
            "hint: which log another one follows is said at its first start and never again; take `audit.follows` out, or begin with an empty store"
        )
    return None
