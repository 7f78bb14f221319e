"""What a verdict rests on, and what a record tells of it.

A policy sees one document, `input/v1`: what is fixed about a version (`Standing.document`), the facts of one call (`Facts`) and, where a reply is
judged, the facts of the reply. Facts have one type each by construction, so 1, true and 1.0 cannot be taken for one another.

What may be told (semantics.md 1.2, 1.6): verdict, reasons and obligations; facts that policies read and that say nothing about a person (method,
media type, scopes of the key, experiment); never the path, which may name whom a call is about, nor anything of a body. A digest stands for the
whole input, so that whoever puts it together again knows that it is the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from audit import canonical
from policies.verdict import Verdict

_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,63}/[a-z0-9!#$&^_.+-]{1,63}\Z")
_HEADER_SAFE: Final = re.compile(r"[!#-+\--~]{1,64}\Z")
_MOST_WARNINGS: Final = 8


@dataclass(slots=True)
class Facts:
    """What may vary from one call to the next, as policies see it."""

    tenant: str
    method: str
    path: str
    content_type: str
    """Media type, see `media_type`."""
    kib: int
    """Length of the body in KiB, rounded up: a policy that bounds sizes then reads the same value for most calls."""
    rows: int
    scopes: tuple[str, ...]
    exhausted: bool
    experiment: str
    arm: str
    policy_s: float = 0.0
    """Seconds of their thread that policies have used for this call; no policy sees it."""


PATHS: Final[Mapping[tuple[str, ...], str]] = {
    ("tenant",): "tenant",
    ("request", "method"): "method",
    ("request", "path"): "path",
    ("request", "content_type"): "content_type",
    ("request", "kib"): "kib",
    ("request", "rows"): "rows",
    ("subject", "scopes"): "scopes",
    ("usage", "exhausted"): "exhausted",
    ("route", "experiment"): "experiment",
    ("route", "arm"): "arm",
}
"""Path of the input document -> field of `Facts`."""
REPLY_PATHS: Final[Mapping[tuple[str, ...], str]] = {
    ("response", "status"): "status",
    ("response", "content_type"): "content_type",
    ("response", "kib"): "kib",
}
"""Path of the input document -> field of `ReplyFacts`."""
ELSEWHERE: Final = frozenset(("tenant", "kib", "rows"))
"""Facts that stand in a record anyway: its tenant, its usage."""


@dataclass(frozen=True, slots=True)
class ReplyFacts:
    """What policies see of a reply besides its body."""

    status: int
    content_type: str
    """Media type, see `media_type`."""
    kib: int
    """Length in KiB, rounded up; -1 where only its end will tell, and then policies see none."""


def input_document(facts: Facts, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the policy input `input/v1` of a call. Built by the gateway only: nothing of it is copied from the caller unread."""
    return {
        "schema": "input/v1",
        "point": "request",
        "tenant": facts.tenant,
        "request": {
            "method": facts.method,
            "path": facts.path,
            "content_type": facts.content_type,
            "kib": facts.kib,
            "rows": facts.rows,
        },
        "subject": {"verified": True, "scopes": list(facts.scopes)},
        "usage": {"exhausted": facts.exhausted},
        "route": {"experiment": facts.experiment, "arm": facts.arm} if facts.experiment else {},
        **fixed,
    }


def reply_document(facts: Facts, fixed: Mapping[str, Any], reply: ReplyFacts) -> dict[str, Any]:
    """Return the policy input of a reply, without its body: the call's input and `response`."""
    response: dict[str, Any] = {"status": reply.status, "content_type": reply.content_type}
    if reply.kib >= 0:
        response["kib"] = reply.kib
    return {**input_document(facts, fixed), "point": "response", "response": response}


def media_type(header: bytes | None) -> str:
    """Return the media type of a Content-Type in lower case, without parameters; "" without a header, "invalid" for what is none."""
    return "" if header is None else _media_type(header[:256])


@lru_cache(maxsize=256)
def _media_type(header: bytes) -> str:
    text = header.partition(b";")[0].strip().lower().decode("latin-1")
    return text if _MEDIA_TYPE.match(text) else "invalid"


# --- what records tell


def told_of(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as a record's `policy` tells it."""
    told: dict[str, Any] = {"decision": verdict.decision}
    if verdict.reasons:
        told["reasons"] = list(verdict.reasons)
    if verdict.obligations:
        told["obligations"] = [one.told() for one in verdict.obligations]
    if verdict.by:
        told["engine"] = verdict.by
    return told


def told_input(read: Mapping[str, Any], fixed: str) -> dict[str, Any]:
    """Return what a record tells of the input of a verdict.

    Args:
        read: the facts that policies read, see `facts_read`.
        fixed: `fixed_digest` of the standing's document.
    """
    told: dict[str, Any] = {"input_digest": input_digest(read, fixed)}
    kept = {name: value for name, value in read.items() if name not in ELSEWHERE and value is not False}
    if kept:
        told["facts"] = kept
    return told


def facts_read(facts: Facts, names: Iterable[str]) -> dict[str, Any]:
    """Return the facts a verdict rests on, as they may be told: without the path."""
    return {name: list(value) if isinstance(value := getattr(facts, name), tuple) else value for name in names if name != "path"}


def reply_facts_read(reply: ReplyFacts, names: Iterable[str]) -> dict[str, Any]:
    """Return the facts of a reply that a verdict rests on, each under its name with `reply_` before it."""
    return {f"reply_{name}": getattr(reply, name) for name in names}


def fixed_digest(fixed: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a standing's part of the input document, as canonical JSON."""
    return hashlib.sha256(canonical.encode(fixed)).hexdigest()


def input_digest(read: Mapping[str, Any], fixed: str) -> str:
    """Return the digest by which an input that was put together again is known to be the one that was judged."""
    return hashlib.sha256(canonical.encode({"facts": dict(read), "fixed": fixed})).hexdigest()


def warning_of(verdict: Verdict) -> bytes | None:
    """Return the ids of a verdict's warnings for a header, or None: `LIM-010, OFFICE-2`. What is recorded only (`dryrun`) is not told."""
    if verdict.decision != "allow_with_warnings":
        return None
    ids = sorted({reason["id"] for reason in verdict.reasons if reason["mode"] in ("warn", "warning") and _HEADER_SAFE.match(reason["id"])})
    return ", ".join(ids[:_MOST_WARNINGS]).encode() or None
