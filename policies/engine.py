"""Which engine answers for a decision point: ours, a real OPA server, or both. One interface, one `Verdict`.

| engine | who decides | without an answer of the server |
|---|---|---|
| `native` | our engine, in this process | - |
| `opa` | the server | the fail mode |
| `both` | both are asked; where what is enforced differs, the call is denied | the fail mode |

The fail mode of a decision point is `closed` (deny) or `native` (our engine decides, with a warning); there is none that allows.

`ask` returns a plain future: it needs no asyncio task around it, and it ends within the server's `timeout_s`, with a verdict whatever the server
does; only a defect of ours is an exception. A gateway that runs `native` alone calls `PointPolicies.evaluate` and none of this.

Example:
    engine = OpaEngine(connection, bundle.at("request"), "closed")
    verdict = await engine.ask(document, now_ns)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

from policies.bundle import Package, PointPolicies, Spender
from policies.verdict import DIFFERENCE, MOST_MESSAGE, MOST_REASONS, UNANSWERED, Finding, Verdict

FailMode = Literal["closed", "native"]
"""What a decision point does without an answer: deny, or let our own engine answer with a warning."""
Found = tuple[Finding, ...]
Note = Callable[[str, str], None]
"""Told how each question ended: `answered`, `agreed`, `differed` or the kind of fault, and in words where there is something to say."""


class DecisionEngine(Protocol):
    """Answers for the packages of one decision point."""

    def ask(self, document: Mapping[str, Any], now_ns: int, spender: Spender | None = None) -> asyncio.Future[Verdict]:
        """Return the verdict to come, for a call where one asks. Called on a running event loop."""


class Remote(Protocol):
    """A server that finds for packages, such as `policies.opa.connection.OpaConnection`."""

    def find(self, packages: Sequence[Package], document: Mapping[str, Any], now_ns: int) -> asyncio.Future[Found]:
        """Return the findings to come, or an error as the future's exception."""


def untold(_result: str, _words: str) -> None:
    """Note nothing."""


class OwnEngine:
    """Our engine behind the same interface. Immutable."""

    __slots__ = ("policies",)

    def __init__(self, policies: PointPolicies) -> None:
        """Answer for the packages of a decision point."""
        self.policies = policies

    def ask(self, document: Mapping[str, Any], now_ns: int, spender: Spender | None = None) -> asyncio.Future[Verdict]:
        """Return the verdict in a future that is done."""
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        future.set_result(self.policies.evaluate(document, now_ns, spender))
        return future


class OpaEngine:
    """A real OPA server, with the decision point's fail mode. Owns nothing that changes."""

    __slots__ = ("_fail", "_note", "_remote", "policies")

    def __init__(self, remote: Remote, policies: PointPolicies, fail: FailMode = "closed", note: Note = untold) -> None:
        """Ask `remote`.

        Args:
            remote: The server.
            policies: The packages of the decision point.
            fail: What to do without an answer.
            note: Told how each question ended.
        """
        self._remote = remote
        self.policies = policies
        self._fail = fail
        self._note = note

    def ask(self, document: Mapping[str, Any], now_ns: int, spender: Spender | None = None) -> asyncio.Future[Verdict]:
        """Return the verdict to come."""
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

        def settle(found: asyncio.Future[Found]) -> None:
            fault = "the question was given up" if found.cancelled() else found.exception()
            try:
                if fault is not None:
                    self._note(getattr(fault, "kind", "refused"), str(fault))
                    if not verdict.done():
                        verdict.set_result(self._without(str(fault), document, now_ns, spender))
                elif not verdict.done():  # else the caller has gone
                    verdict.set_result(self._read(found.result(), document, now_ns, spender))
            except Exception as defect:
                if verdict.done():
                    raise
                verdict.set_exception(defect)

        self._remote.find(self.policies.packages, document, now_ns).add_done_callback(settle)
        return verdict

    def _read(self, found: Found, document: Mapping[str, Any], now_ns: int, spender: Spender | None) -> Verdict:
        """Return the verdict on what the server found; what cannot be made sense of is no answer. A call waits for it: it has to end."""
        try:
            return self._judged(found, document, now_ns, spender)
        except Exception as fault:  # noqa: BLE001 - as above
            why = f"answer: {type(fault).__name__}: {fault}"
            self._note("answer", why)
            return self._without(why, document, now_ns, spender)

    def _judged(self, found: Found, document: Mapping[str, Any], now_ns: int, spender: Spender | None) -> Verdict:
        del document, now_ns, spender
        self._note("answered", "")
        return self.policies.combined(found)

    def _without(self, why: str, document: Mapping[str, Any], now_ns: int, spender: Spender | None) -> Verdict:
        """Return the verdict of the fail mode; every one of them says that OPA did not answer."""
        if self._fail == "native":
            note = _reason(UNANSWERED, f"opa: {why}", "warning")
            verdict = self.policies.evaluate(document, now_ns, spender)
            return replace(
                verdict,
                decision="allow_with_warnings" if verdict.allowed else "deny",
                reasons=(*verdict.reasons[: MOST_REASONS - 1], note),
                by="native",
            )
        # A package that only warns, or is tried, denies nothing by failing: what it says would not have either.
        failed = [
            Finding(package.name, package.mode, required="allow" in package.rules, allow=False, error=f"opa: {why}")
            for package in self.policies.packages
        ]
        return self.policies.combined(failed)


class BothEngine(OpaEngine):
    """Our engine and a server, each asked about everything: the strictest wins."""

    __slots__ = ()

    def _judged(self, found: Found, document: Mapping[str, Any], now_ns: int, spender: Spender | None) -> Verdict:
        """Return our verdict where the server's is the same; deny where what is enforced differs, note what else does.

        What packages in `warn` or `dryrun` say must change no call, so a difference there is recorded and counted, and denies nothing.
        """
        ours, theirs = self.policies.evaluate(document, now_ns, spender), self.policies.combined(found)
        if same_decision(ours, theirs):
            self._note("agreed", "")
            return ours
        words = f"our engine says {_brief(ours)}; opa says {_brief(theirs)}"
        self._note("differed", words)
        rest = ours.reasons[: MOST_REASONS - 1]
        if _enforced(ours) != _enforced(theirs):
            return Verdict("deny", (_reason(DIFFERENCE, words, "enforce"), *rest))
        return replace(ours, reasons=(*rest, _reason(DIFFERENCE, words, "dryrun")))


def same_decision(ours: Verdict, theirs: Verdict) -> bool:
    """Say whether two engines decided alike: everything but how each words an error of its own."""
    return _essence(ours) == _essence(theirs)


def _essence(verdict: Verdict) -> Verdict:
    return replace(verdict, reasons=tuple({**reason, "msg": ""} if reason["id"] == UNANSWERED else reason for reason in verdict.reasons))


def _enforced(verdict: Verdict) -> Verdict:
    """Return what of a verdict changes a call."""
    reasons = tuple(reason for reason in _essence(verdict).reasons if reason["mode"] == "enforce")
    return replace(verdict, decision="deny" if reasons else "allow", reasons=reasons)


def _brief(verdict: Verdict) -> str:
    """Return decision, ids and obligations in a few words; messages may be long and are in neither side's record twice."""
    ids = sorted({f"{reason['id']} ({reason['mode']})" for reason in verdict.reasons})
    duties = [f"{one.kind} {one.path}" for one in verdict.obligations]
    return ", ".join([verdict.decision, *ids, *duties])


def _reason(name: str, message: str, mode: str) -> dict[str, Any]:
    return {"id": name, "package": "-", "msg": message[:MOST_MESSAGE], "mode": mode}
