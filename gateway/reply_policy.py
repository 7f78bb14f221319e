"""What policies do about a reply before a byte of it leaves: judge it, hold it back, or change it as obligations ask.

Rules:

- Nothing is told of a reply that obligations apply to unless they could be carried out on all of it. A reply that is no clear JSON (by its type, its
  coding, its bytes), is a part (206), longer than can be held, or does not fit an obligation is *withheld*: the caller gets a refusal.
- A reply without a body has nothing to hide. A stream has no end to wait for: where something must be done to it, it is withheld at its head.
- A policy in `enforce` that reads the body of a reply is never asked without it: what cannot be read is withheld.
- What policies read only to warn, or in a dry run, changes no call: they see the body where it is held anyway, or is short.
- What leaves is written anew from the parsed document: of two spellings of one key only one is in it, and no digit that was not asked for.

Steps of `govern`: 1. what the head tells; 2. the body, where it is asked for; 3. the verdict; 4. what has to be done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

import orjson

from gateway.exchange import Headers, Request, UpstreamReply
from gateway.facts import (
    PATHS,
    REPLY_PATHS,
    Facts,
    ReplyFacts,
    facts_read,
    fixed_digest,
    media_type,
    reply_document,
    reply_facts_read,
    told_input,
    told_of,
    warning_of,
)
from gateway.framing import for_upstream
from gateway.protocols.strictjson import JsonError, parse
from gateway.refusals import Refusal
from policies.bundle import PointPolicies
from policies.obligations import NotCarriedOut, Obligation, carry_out, merge
from policies.verdict import Verdict

_Held = TypeVar("_Held")
REMEMBERED_CHARS: Final = 512
MEMO_ENTRIES: Final = 1024
"""Verdicts on replies that one gate remembers; the oldest goes first."""
WANTED_BELOW_BYTES: Final = 256 * 1024
"""A policy that does not enforce sees the body of a reply below this length."""
MOST_VALUES: Final = 200_000
"""Values of a document times obligations: what a worker, who serves nobody else meanwhile, takes on."""
_LONG_NUMBER: Final = re.compile(rb"(?<![.0-9])[0-9]{19}")
_CHARSET: Final = re.compile(rb"charset\s*=\s*\"?([^\s\";]*)", re.IGNORECASE)
_JSON_TYPES: Final = frozenset(("", "application/json", "text/json"))
_OF_THE_OLD_BODY: Final = frozenset((b"etag", b"content-md5", b"digest", b"content-digest", b"repr-digest", b"content-range", b"accept-ranges"))
UNREAD: Final = object()
"""Stands for a body that was not read."""


class ReplyGate:
    """The `response` packages before one version. The memo is its only mutable state, owned by the worker's loop; it never changes an answer."""

    __slots__ = (
        "_digest",
        "_fixed",
        "_key",
        "_memo",
        "_names",
        "_reply_key",
        "_reply_names",
        "_told",
        "needs_body",
        "needs_length",
        "policies",
        "wants_body",
    )

    def __init__(self, fixed: Mapping[str, Any], policies: PointPolicies) -> None:
        """Learn what the packages read.

        Args:
            fixed: the version's part of the input document.
            policies: the packages asked at `response`.
        """
        self._fixed = fixed
        self.policies = policies
        self._names = tuple(name for path, name in PATHS.items() if policies.reads(path))
        self._reply_names = tuple(name for path, name in REPLY_PATHS.items() if policies.reads(path))
        self._key = attrgetter("exhausted", "rows", *self._names)
        self._reply_key = attrgetter("status", "kib", *self._reply_names) if "kib" in self._reply_names else attrgetter("status", "content_type")
        self._memo: dict[tuple[Any, ...], ReplyJudged] = {}
        self._told: dict[tuple[Any, ...], dict[str, Any]] = {}  # what records tell of inputs that differ in their bodies alone
        self._digest = ""  # of `_fixed`; set by the first answer
        self.needs_body = policies.reads(("response", "body"), enforced=True)
        self.wants_body = policies.reads(("response", "body"))
        self.needs_length = policies.reads(("response", "kib"), enforced=True)

    def judge(self, facts: Facts, reply: ReplyFacts, body: Any, now_us: int) -> tuple[ReplyJudged, bool]:
        """Return our engine's verdict on a reply, and whether it was remembered; one on a body never is."""
        held = self.remembered(facts, reply)
        if held is not None:
            return held, True
        return self.conclude(facts, reply, self.policies.evaluate(self.document(facts, reply, body), now_us * 1000, facts)), False

    def remembered(self, facts: Facts, reply: ReplyFacts) -> ReplyJudged | None:
        """Return the answer, where it is remembered."""
        return None if self.wants_body else self._memo.get((self._key(facts), self._reply_key(reply)))

    def document(self, facts: Facts, reply: ReplyFacts, body: Any) -> dict[str, Any]:
        """Return the input of the policies; `body` is the JSON document, or `UNREAD`."""
        document = reply_document(facts, self._fixed, reply)
        if self.wants_body and body is not UNREAD:
            document["response"]["body"] = body
        return document

    def conclude(self, facts: Facts, reply: ReplyFacts, verdict: Verdict) -> ReplyJudged:
        """Return the answer that follows from the policies' verdict, whoever evaluated them, and remember it."""
        key = (self._key(facts), self._reply_key(reply))
        is_short = len(facts.path) <= REMEMBERED_CHARS
        told = self._told.get(key)
        if told is None:
            told = self._told_input(facts, reply)
            if is_short:
                _remember(self._told, key, told)
        judged = ReplyJudged(verdict, {**told_of(verdict), **told}, warning_of(verdict))
        if is_short and verdict.is_settled and not (self.wants_body or self.policies.reads_clock):
            _remember(self._memo, key, judged)
        return judged

    def _told_input(self, facts: Facts, reply: ReplyFacts) -> dict[str, Any]:
        if not self._digest:
            self._digest = fixed_digest(self._fixed)
        return told_input({**facts_read(facts, self._names), **reply_facts_read(reply, self._reply_names)}, self._digest)


def _remember(memo: dict[tuple[Any, ...], _Held], key: tuple[Any, ...], value: _Held) -> None:
    if len(memo) >= MEMO_ENTRIES:
        del memo[next(iter(memo))]
    memo[key] = value


@dataclass(frozen=True, slots=True)
class ReplyJudged:
    """The `response` packages' answer."""

    verdict: Verdict
    told: Mapping[str, Any]
    """The `outcome.policy` part of a record."""
    warning: bytes | None


@dataclass(frozen=True, slots=True)
class ReplyRules:
    """What stands between a reply and its caller."""

    duties: tuple[Obligation, ...]
    """What the verdict on the request asks to be done to the reply."""
    gate: ReplyGate | None
    """Who judges the reply itself; None where no package does."""


@dataclass(slots=True)
class Governed:
    """What became of a reply."""

    told: dict[str, Any] | None = None
    """The `outcome.policy` part of the record."""
    warning: bytes | None = None
    model_body: bytes | None = None
    """What the model sent, where it was read."""
    body: bytes | None = None
    """What may leave; None: the reply was not read and may pass as it comes."""
    refusal: Refusal | None = None
    """Why nothing of it leaves."""

    @property
    def is_changed(self) -> bool:
        """Say whether other bytes leave than the model sent."""
        return self.body != self.model_body


class ReplyServer(Protocol):
    """Answers on replies in place of our engine; `gateway.policy_server.PolicyServer` is one."""

    async def judge_reply(self, gate: ReplyGate, facts: Facts, reply: ReplyFacts, body: Any, now_us: int) -> tuple[ReplyJudged, bool]:
        """Return the answer on a reply, and whether it was remembered."""


async def govern(rules: ReplyRules, facts: Facts, reply: UpstreamReply, now_us: int, limit_bytes: int, server: ReplyServer | None = None) -> Governed:
    """Judge a reply whose head has arrived, and do what has to be done to it.

    Args:
        rules: what applies.
        facts: of the call.
        reply: read here if its body is asked for, closed here if nothing of it leaves.
        now_us: the call's Unix microseconds.
        limit_bytes: longest body that is held.
        server: who is asked, where our engine does not decide alone.

    Raises:
        UpstreamError: the body did not arrive, or is longer.
    """
    governed = Governed()
    is_empty = reply.content_length == 0 or reply.status in (204, 304)  # 1
    seen = ReplyFacts(reply.status, media_type(_one(reply.headers, b"content-type")), (reply.content_length + 1023) >> 10)
    gate, duties = rules.gate, rules.duties
    if gate is not None:
        fault = _unfit_reply(reply) if gate.needs_body and not is_empty else None
        if fault is None and _is_to_be_read(gate, reply):  # 2
            governed.model_body = governed.body = await reply.read(limit_bytes)
            seen = ReplyFacts(seen.status, seen.content_type, (len(governed.body) + 1023) >> 10)
            fault, document = _document(gate, governed.body)
        else:
            document = UNREAD
        if fault is not None:
            return _withhold(governed, reply, fault)
        if server is None:  # 3
            judged, is_cached = gate.judge(facts, seen, document, now_us)
        else:
            judged, is_cached = await server.judge_reply(gate, facts, seen, document, now_us)
        governed.told = {**judged.told, "cached": 1 if is_cached else 0}
        governed.warning = judged.warning
        if not judged.verdict.allowed:
            _close(governed, reply)
            governed.refusal = _denied(judged.verdict)
            return governed
        duties = merge((*duties, *judged.verdict.obligations)) if judged.verdict.obligations else duties
    if duties and not is_empty:  # 4
        fault = _unfit_reply(reply)
        if fault is not None:
            return _withhold(governed, reply, fault)
        if governed.model_body is None:
            governed.model_body = await reply.read(limit_bytes)
        try:
            governed.body = rewritten(duties, governed.model_body) if governed.model_body else b""
        except NotCarriedOut as why:
            return _withhold(governed, reply, str(why))
    return governed


def redacted(obligations: tuple[Obligation, ...], headers: Headers, body: bytes) -> bytes:
    """Return the body of a request as the model may see it.

    Raises:
        NotCarriedOut: it is no clear JSON, by its head or its bytes.
    """
    if not body:
        return body
    fault = _unfit(headers)
    if fault is not None:
        raise NotCarriedOut(fault)
    return rewritten(obligations, body)


def head_for(request: Request, body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers a model gets with `body`, which is the request's own or what `redacted` made of it."""
    headers = for_upstream(request.headers)
    return headers if body is request.body else without_old_body(headers)


def rewritten(obligations: tuple[Obligation, ...], body: bytes) -> bytes:
    """Return a JSON body with obligations carried out; the same bytes where nothing in it is concerned.

    Raises:
        NotCarriedOut: the body is no clear JSON, holds too many values, or does not fit.
    """
    # Between two values stands a comma or a bracket: the most there can be, before any work is done on them.
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values * len(obligations) > MOST_VALUES:
        raise NotCarriedOut(f"it holds too many values: {MOST_VALUES // len(obligations)} can be gone through")
    try:
        document = parse(body)
    except JsonError as why:
        raise NotCarriedOut(str(why)) from None
    is_exact = _LONG_NUMBER.search(body) is not None
    if is_exact:
        document = _exact(body)  # whole numbers beyond 64 bits stay what they are
    document, places = carry_out(obligations, document)
    if not places:
        return body
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() if is_exact else orjson.dumps(document)


def without_old_body(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers of a message whose body was changed: none that describes the bytes there were before, by which they could be guessed."""
    return [field for field in headers if field[0] not in _OF_THE_OLD_BODY]


def _exact(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # a number of thousands of digits
        raise NotCarriedOut("a number in it is too long") from None


def _one(headers: Headers, name: bytes) -> bytes | None:
    """Return the value of a field; one that stands twice says nothing that could be relied on."""
    found = [value for key, value in headers if key == name]
    return b"twice" if len(found) > 1 else found[0] if found else None


def _unfit_reply(reply: UpstreamReply) -> str | None:
    return "it is a part of a reply" if reply.status == 206 else _unfit(reply.headers)


def _unfit(headers: Headers) -> str | None:
    """Return why a body cannot be read as JSON, by its head; None when it can."""
    coding = _one(headers, b"content-encoding")
    if coding is not None and coding.strip().lower() not in (b"", b"identity"):
        return "it is compressed"
    field = _one(headers, b"content-type")
    kind = media_type(field)
    if kind not in _JSON_TYPES and not kind.endswith("+json"):
        return "its type is not JSON"
    charset = _CHARSET.search(field or b"")
    if charset is not None and charset[1].lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        return "it is not in UTF-8"
    return None


def _is_to_be_read(gate: ReplyGate, reply: UpstreamReply) -> bool:
    is_short = 0 <= reply.content_length < WANTED_BELOW_BYTES
    return gate.needs_body or (gate.needs_length and reply.content_length < 0) or (gate.wants_body and is_short)


def _document(gate: ReplyGate, body: bytes) -> tuple[str | None, Any]:
    """Return why a body cannot be judged, and the document in it."""
    if not gate.wants_body or not body:
        return None, UNREAD
    try:
        return None, parse(body)
    except JsonError as why:
        return (str(why) if gate.needs_body else None), UNREAD


def _withhold(governed: Governed, reply: UpstreamReply, why: str) -> Governed:
    _close(governed, reply)
    reason = {"id": "OBL-FAILED", "package": "-", "msg": f"the reply is withheld: {why}"[:256], "mode": "enforce"}
    governed.refusal = Refusal("reply_withheld", f"the model's reply cannot be passed on: {why}", reasons=(reason,))
    return governed


def _denied(verdict: Verdict) -> Refusal:
    denials = tuple(reason for reason in verdict.reasons if reason["mode"] == "enforce")
    first = denials[0]
    return Refusal("policy_denied", f"a policy refuses the reply: {first['id']} {first['msg']}", reasons=denials, status=verdict.status)


def _close(governed: Governed, reply: UpstreamReply) -> None:
    governed.body = None
    if governed.model_body is None:
        reply.close()
