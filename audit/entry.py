"""A committed leaf read as values: the one reading that index, evaluation, maturity and explanations share.

Rules:
- Reading is lenient about what it does not know (a newer writer may add keys) and strict about what it uses: a known key of the wrong type makes the
  whole leaf unreadable, and an unreadable leaf is counted, never guessed at.
- Nothing here re-serialises a leaf. The bytes are the evidence; an `Entry` is a convenience.

Example:
    entry = read_entry(leaf_bytes)
    if entry is not None and entry.type == "call":
        entry.decision_id, entry.model_name
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

CALL_TYPES = frozenset({"call", "decision"})
"""Types whose own id is the decision id that callers see."""

FEEDBACK_TYPES = frozenset({"label", "reward"})


class Actor(msgspec.Struct, frozen=True, gc=False):
    """Who caused the record: `key`, `person` or `system`, and its id."""

    kind: str = ""
    id: str = ""


class Model(msgspec.Struct, frozen=True, gc=False):
    """The version that served, or would have."""

    name: str
    version: str = ""
    digest: str = ""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One arm as judged before the draw; `reason` is set when it was not eligible."""

    arm: str
    reason: str | None = None


class Route(msgspec.Struct, frozen=True, gc=False):
    """Which arm, with what probability, and what was drawn."""

    experiment: str | None = None
    epoch: int = 0
    mode: str = ""
    assigned: str | None = None
    served: str | None = None
    exposed: bool = False
    pinned: bool = False
    shares: dict[str, int] = {}
    exposure: int | None = None
    hashes: dict[str, str] = {}
    eligible: tuple[Candidate, ...] = ()


class Reason(msgspec.Struct, frozen=True, gc=False):
    """One policy reason: rule id, package, message."""

    id: str = ""
    package: str = ""
    msg: str = ""


class Policy(msgspec.Struct, frozen=True, gc=False):
    """The verdict on the call."""

    decision: str = ""
    reasons: tuple[Reason, ...] = ()
    digest: str = ""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How the call ended. `latency_us` counts from the request's first byte to the reply's last."""

    status: int = 0
    code: str | None = None
    fault: str | None = None
    latency_us: int | None = None
    stages: dict[str, int] = {}


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What the call consumed."""

    rows: int = 1
    bytes_in: int = 0
    bytes_out: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_nano: int | None = None
    currency: str = ""
    unread: int = 0
    """1 where the reply was to say what it consumed, and did not."""


class Approval(msgspec.Struct, frozen=True, gc=False):
    """Approvals that let the version serve."""

    ids: tuple[str, ...] = ()


class Entry(msgspec.Struct, frozen=True):
    """One record of any type; keys a type does not carry are None. Field meanings: `docs/records.md`."""

    id: str
    type: str
    time: str
    tenant: str = "-"
    actor: Actor = Actor()
    subject: str | None = None
    parents: tuple[str, ...] = ()
    model: Model | str | None = None
    version: str | int | None = None
    """Of the model, as text; a number where the record is about a trust root."""
    digest: str | None = None
    route: Route | None = None
    policy: Policy | None = None
    approval: Approval | None = None
    config_digest: str | None = None
    prediction: str | int | tuple[str | int, ...] | None = None
    score_ppm: int | tuple[int, ...] | None = None
    outcome: Outcome | None = None
    usage: Usage | None = None
    # feedback
    decision: str | None = None
    row: int = 0
    metric: str | None = None
    value_ppm: int | None = None
    label: str | int | None = None
    corrects: bool = False
    may_correct: bool = False
    models: tuple[str, ...] = ()
    event_id: str | None = None
    event_time: str | None = None
    source: str | None = None
    # the rest
    experiment: str | None = None
    epoch: int | None = None
    action: str | None = None
    reason: str | None = None
    count: int | None = None
    person: str | None = None
    approval_id: str | None = None
    signed: bool | tuple[Any, ...] | None = None
    """Of an approval: whether its signatures were checked. Of a step and of an erasure: the consents it rests on."""
    evidence: dict[str, Any] | None = None
    erasure: Any = None
    entries: Any = None
    from_: Any = msgspec.field(name="from", default=None)
    to: Any = None

    @property
    def decision_id(self) -> str | None:
        """The decision this record makes, ends or answers; None when it concerns no call."""
        if self.type in CALL_TYPES:
            return self.id
        if self.type == "outcome":
            return self.parents[0] if self.parents else None
        return self.decision

    @property
    def model_name(self) -> str | None:
        """Name of the model concerned; approvals carry it as text, calls as an object."""
        return self.model.name if isinstance(self.model, Model) else self.model

    @property
    def model_version(self) -> str | None:
        """Version of the model concerned."""
        return self.model.version if isinstance(self.model, Model) else text_of(self.version)


class HeadingModel(msgspec.Struct, frozen=True, gc=False):
    """The version concerned."""

    name: str
    version: str = ""


class _HeadingRoute(msgspec.Struct, frozen=True, gc=False):
    experiment: str | None = None
    assigned: str | None = None
    served: str | None = None


class _HeadingReason(msgspec.Struct, frozen=True, gc=False):
    id: str = ""


class _HeadingPolicy(msgspec.Struct, frozen=True, gc=False):
    decision: str = ""
    reasons: tuple[_HeadingReason, ...] = ()


class _HeadingOutcome(msgspec.Struct, frozen=True, gc=False):
    status: int = 0
    code: str | None = None


class Heading(msgspec.Struct, frozen=True, gc=False):
    """What is asked for across records, and nothing else: half the cost of an `Entry`, for those who read every leaf."""

    id: str
    type: str
    time: str
    tenant: str = "-"
    actor: Actor = Actor()
    subject: str | None = None
    parents: tuple[str, ...] = ()
    model: HeadingModel | str | None = None
    version: str | int | None = None
    route: _HeadingRoute | None = None
    policy: _HeadingPolicy | None = None
    outcome: _HeadingOutcome | None = None
    decision: str | None = None
    experiment: str | None = None


def text_of(version: str | int | None) -> str | None:
    """Return a model's version; None for the number of a trust root, which is no model's."""
    return version if isinstance(version, str) else None


_decoder = msgspec.json.Decoder(Entry)
_heading_decoder = msgspec.json.Decoder(Heading)


def read_heading(leaf: bytes) -> Heading | None:
    """Read the heading of one leaf; None when it is not a record this version can read."""
    try:
        return _heading_decoder.decode(leaf)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def read_entry(leaf: bytes) -> Entry | None:
    """Read one leaf; None when it is not a record this version can read."""
    try:
        return _decoder.decode(leaf)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def time_us(text: str) -> int | None:
    """Microseconds since 1970 of an RFC 3339 time with a zone; None when it is not one."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return (moment - _EPOCH) // _MICROSECOND


def time_text(us: int) -> str:
    """The record form of a moment: RFC 3339 UTC, six decimals, `Z`. Such texts sort as their times do."""
    return (_EPOCH + us * _MICROSECOND).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
