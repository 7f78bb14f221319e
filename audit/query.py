"""Questions to the log: what may be asked, and the answer by reading every leaf.

Rules:
- A page is pinned to one tree size; its cursor carries that size, so pages of one walk never mix two states of a growing log.
- A cursor belongs to the question it came from. With another question it is refused, not reinterpreted.
- `full_scan` reads the leaves themselves and is what the index (`audit/index.py`) is held to: both give the same rows for the same question.

Example:
    page = full_scan(follow(data, 0), Query(model="credit-risk", policy="deny"), size=4096, limit=50)
    page.rows[0].idx, page.cursor
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import re
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import takewhile

import msgspec

from audit.entry import CALL_TYPES, HeadingModel, read_heading, text_of, time_text, time_us

UNREADABLE = "unreadable"
"""Type given to a leaf that is not a record this version can read, so that it is counted and can be asked for."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """What is indexed of one leaf. `actor` is `kind:id`; `rule` is the id of the first policy reason."""

    idx: int
    time: str
    type: str
    id: str
    tenant: str
    actor: str
    decision: str | None = None
    subject: str | None = None
    model: str | None = None
    version: str | None = None
    policy: str | None = None
    rule: str | None = None
    experiment: str | None = None
    assigned: str | None = None
    served: str | None = None
    status: int | None = None
    code: str | None = None


class QueryError(Exception):
    """The question cannot be asked; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """All given conditions must hold. `since` is included, `until` is not; `arm` matches the assigned or the served arm."""

    since: str | None = None
    until: str | None = None
    type: str | None = None
    id: str | None = None
    tenant: str | None = None
    actor: str | None = None
    decision: str | None = None
    subject: str | None = None
    model: str | None = None
    version: str | None = None
    policy: str | None = None
    rule: str | None = None
    experiment: str | None = None
    arm: str | None = None
    code: str | None = None
    oldest_first: bool = False

    def equals(self) -> dict[str, str]:
        """The conditions of the form column = value."""
        values = {name: getattr(self, name) for name in _EQUAL_COLUMNS}
        return {name: value for name, value in values.items() if value is not None}

    def stated(self) -> dict[str, str | bool]:
        """What was asked and nothing else, as a record or a bundle states it."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value not in (None, False)}

    def digest(self) -> str:
        """Short digest of the question, which a cursor carries."""
        return hashlib.sha256(msgspec.json.encode(dataclasses.astuple(self))).hexdigest()[:16]

    def matches(self, row: Row) -> bool:
        """Whether a row answers the question."""
        if self.since is not None and row.time < self.since:
            return False
        if self.until is not None and row.time >= self.until:
            return False
        if self.arm is not None and self.arm not in (row.assigned, row.served):
            return False
        return all(getattr(row, name) == value for name, value in self.equals().items())


_EQUAL_COLUMNS = (
    "type", "id", "tenant", "actor", "decision", "subject", "model", "version", "policy", "rule", "experiment", "code",
)  # fmt: skip


CONDITIONS = tuple(field.name for field in dataclasses.fields(Query) if field.name != "oldest_first")
"""Names of the conditions a question may have."""


_CONDITION_CHARS = 200
_WORDING = re.compile(r"[^\s@]+|person:uid [0-9]+")
_PSEUDONYM = re.compile(r"[0-9a-f]{32}")


def question(given: Mapping[str, str | None], *, oldest_first: bool = False) -> Query:
    """The question with these conditions, as a person or a program gives them; None asks nothing.

    Raises:
        QueryError: when there is no condition of a name, or a time is not one.
    """
    values = {name: value for name, value in given.items() if value is not None}
    for name, value in values.items():
        if name not in CONDITIONS:
            raise QueryError(f"`{name[:40]}` is no condition", f"conditions: {', '.join(CONDITIONS)}")
        # What is asked becomes a record for ever: free text and a person's own id have no place in it, their pseudonym has.
        if len(value) > _CONDITION_CHARS or _WORDING.fullmatch(value) is None:
            raise QueryError(
                f"the value of `{name}` is longer than {_CONDITION_CHARS} characters, or no name", "no spaces and no `@`: what is asked is recorded"
            )
    if "subject" in values and _PSEUDONYM.fullmatch(values["subject"]) is None:
        raise QueryError("a subject is asked for by pseudonym, 32 hexadecimal digits", "whoever may read the vault can tell it")
    for name in {"since", "until"} & set(values):
        values[name] = normal_time(values[name])
    return Query(**values, oldest_first=oldest_first)


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Rows of one page, the tree size they are pinned to, and the cursor of the next page (None at the end)."""

    size: int
    rows: tuple[Row, ...]
    cursor: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """Where a walk stands: pinned size, and the last index already given (None at its start)."""

    size: int
    after: int | None

    def bounds(self, query: Query) -> tuple[int, int]:
        """First and one-past-last index still to look at."""
        if self.after is None:
            return 0, self.size
        return (self.after + 1, self.size) if query.oldest_first else (0, min(self.after, self.size))


def normal_time(text: str) -> str:
    """A user's time as records write it.

    Args:
        text: RFC 3339 with a zone, or a date, which means its midnight in UTC.

    Raises:
        QueryError: when it is neither.
    """
    us = time_us(text if "T" in text or " " in text else f"{text}T00:00:00Z")
    if us is None:
        raise QueryError(f"`{text}` is not a time with a zone", "write `2026-11-20`, or `2026-11-20T10:00:00Z` with its zone")
    return time_text(us)


def start(query: Query, cursor: str | None, size: int) -> Position:
    """Where to begin: at the cursor if there is one, else at a fresh walk pinned to `size` leaves.

    Raises:
        QueryError: when the cursor is damaged, from another question, or from a log longer than this one.
    """
    if cursor is None:
        return Position(size, None)
    try:
        pinned, after, digest = msgspec.json.decode(base64.b64decode(cursor, altchars=b"-_", validate=True), type=tuple[int, int, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise QueryError("the cursor is damaged", "pass the cursor exactly as printed, or start without one") from error
    if digest != query.digest():
        raise QueryError("the cursor belongs to another question", "repeat the same conditions, or start without one")
    if not 0 <= after < pinned or pinned > size:
        raise QueryError(
            f"the cursor is pinned to size `{pinned}`, but the log holds `{size}` leaves",
            "check that `--data` names the same log; if it does, run `assay audit verify`",
        )
    return Position(pinned, after)


def page_of(query: Query, position: Position, found: list[Row], limit: int) -> Page:
    """A page from up to `limit` + 1 rows in walking order; the extra row only tells that more follow."""
    rows = tuple(found[:limit])
    if len(found) <= limit or not rows:
        return Page(position.size, rows, None)
    plain = msgspec.json.encode((position.size, rows[-1].idx, query.digest()))
    return Page(position.size, rows, base64.b64encode(plain, altchars=b"-_").decode())


def full_scan(leaves: Iterable[tuple[int, bytes]], query: Query, *, size: int, limit: int, cursor: str | None = None) -> Page:
    """Answer by reading every leaf, in index order from 0. Time grows with the log, memory with `limit`."""
    position = start(query, cursor, size)
    first, end = position.bounds(query)
    found: deque[Row] = deque(maxlen=limit + 1)
    for idx, leaf in takewhile(lambda pair: pair[0] < end, leaves):
        row = row_of(idx, leaf)
        if idx < first or not query.matches(row):
            continue
        found.append(row)
        if query.oldest_first and len(found) > limit:
            break
    rows = list(found) if query.oldest_first else list(reversed(found))
    return page_of(query, position, rows, limit)


def row_of(idx: int, leaf: bytes) -> Row:
    """What is indexed of a leaf."""
    heading = read_heading(leaf)
    if heading is None:
        return Row(idx, "", UNREADABLE, "", "-", "")
    actor, model, route, policy, outcome = heading.actor, heading.model, heading.route, heading.policy, heading.outcome
    kind = heading.type
    decision = heading.decision
    if kind in CALL_TYPES:
        decision = heading.id
    elif kind == "outcome":
        decision = heading.parents[0] if heading.parents else None
    name = model.name if isinstance(model, HeadingModel) else model
    version = model.version if isinstance(model, HeadingModel) else text_of(heading.version)
    return Row(
        idx,
        heading.time,
        kind,
        heading.id,
        heading.tenant,
        f"{actor.kind}:{actor.id}",
        decision,
        heading.subject,
        name,
        version,
        policy.decision if policy is not None else None,
        policy.reasons[0].id if policy is not None and policy.reasons else None,
        route.experiment if route is not None else heading.experiment,
        route.assigned if route is not None else None,
        route.served if route is not None else None,
        outcome.status if outcome is not None else None,
        outcome.code if outcome is not None else None,
    )
