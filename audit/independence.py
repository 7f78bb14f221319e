"""Is a head that verifies the newest one, and of the one log everybody else sees? The log itself cannot tell; what was kept from outside can.

Rules:

- A head that was kept from last time must be one that this log extends. Two roots for one size are a proof of misbehaviour by themselves.
- A witness's cosignature says that the head was shown to others, at a time. It stays valid for ever, and an operator can show an old head for ever:
  only a recent one proves freshness.
- With neither, freshness is unproven, and said to be.

Example:
    judge_independence(head, Kept(before, root_now), witnesses, verdict, now_s=now_s, freshness_limit_s=FRESHNESS_LIMIT_S)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from audit.keys import VerifierKey
from audit.note import SignedCheckpoint
from audit.verdict import Verdict, fork_proof

FRESHNESS_LIMIT_S: Final = 24 * 3600
"""A cosignature older than this says nothing of today."""
CLOCK_SKEW_S: Final = 300
"""A cosignature may be this far ahead of the verifier's clock."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The head that was kept from last time, verified."""

    head: SignedCheckpoint
    root_now: bytes | None
    """The root that the log as it is now gives for the kept size; None where its entries could not be read so far."""


def judge_independence(
    head: SignedCheckpoint, kept: Kept | None, witnesses: Sequence[VerifierKey], verdict: Verdict, *, now_s: int, freshness_limit_s: int
) -> None:
    """Compare a verified head with the one that was kept, and look for cosignatures that are recent; `verdict` is told.

    Args:
        head: Of the log as it is shown.
        kept: The head of last time.
        witnesses: Whose cosignatures count.
        verdict: Its check `independence`, and the proof of a fork.
        now_s: POSIX seconds.
        freshness_limit_s: A cosignature older than this leaves freshness unproven.
    """
    check, said = verdict.independence, list[str]()
    if kept is not None:
        _compare(head, kept, verdict, said)
    stale = _judge_cosignatures(head, now_s, freshness_limit_s, said)
    unseen = len(set(witnesses)) - len({one.key for one in head.cosignatures})
    if unseen:
        check.notes.append(f"{unseen} of the given witnesses did not cosign this head")
    if said:
        check.notes.extend(stale)
        check.done("; ".join(said))
    elif check.fault_count:
        check.done("the kept checkpoint and this log do not agree")
    else:
        check.done("nothing recent to compare this head with" if stale else "nothing to compare this head with")
        why = "; ".join(stale) or "no kept checkpoint and no witness"
        check.doubt(f"freshness is unproven: {why}; an operator with the key could show an old or another log")


def _judge_cosignatures(head: SignedCheckpoint, now_s: int, limit_s: int, said: list[str]) -> list[str]:
    """Add to `said` each witness that saw this head lately; return what is wrong with the times of the others."""
    stale = []
    for one in head.cosignatures:
        age_s = now_s - (one.time_s or 0)
        if age_s > limit_s:
            stale.append(f"witness `{one.key.name}` saw this head {_span(age_s)} ago, at {_moment(one.time_s or 0)}, more than {_span(limit_s)}")
        elif age_s < -CLOCK_SKEW_S:
            stale.append(f"witness `{one.key.name}` says POSIX time {one.time_s}, which is {_span(-age_s)} ahead of this clock")
        else:
            said.append(f"witness `{one.key.name}` saw this head at {_moment(one.time_s or 0)}")
    return stale


def _moment(unix_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))


def _span(seconds: int) -> str:
    """Return a span in its largest fitting unit."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _compare(head: SignedCheckpoint, before: Kept, verdict: Verdict, said: list[str]) -> None:
    check, kept, now = verdict.independence, before.head.checkpoint, head.checkpoint
    if kept.origin != now.origin:
        check.fail(f"the kept checkpoint is of origin `{kept.origin}`, this log is `{now.origin}`")
    elif kept.size > now.size:
        check.fail(f"the log was cut or rolled back: a head of size `{kept.size}` was signed, it now shows `{now.size}`", index=now.size)
    elif (proof := fork_proof(before.head, head)) is not None:
        verdict.misbehaviour = proof
        check.fail(f"the log is forked: two roots are signed for size `{kept.size}`; both notes together prove it")
    elif before.root_now is None:
        check.doubt(f"the entries could not be read up to the kept size `{kept.size}`")
    elif before.root_now != kept.root:
        check.fail(f"the log was rewritten before leaf `{kept.size}`: it does not extend the kept checkpoint; both notes together prove it")
    elif kept.size:
        said.append(f"the log extends the kept head of size {kept.size}")
