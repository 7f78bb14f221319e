"""Which engine answers: ours, a real OPA server, or ours with OPA looking on. One interface, one `Verdict`.

| engine | `is_local` | `evaluate` | `ask` |
|---|---|---|---|
| `builtin` | yes | our engine, at once | the same, in a future that is done |
| `opa` | no | refuses | OPA's answer, or the fail mode of the decision point |
| `both` | yes | our engine decides; a sample goes to OPA off the path | the same, done |

A caller that may not wait asks `is_local` once, where the engine is chosen, and then calls either `evaluate` or `await engine.ask(...)`.
`ask` returns a plain future: it needs no asyncio task around it, never raises, and ends within the server's `timeout_s`.

Example:
    engine = OwnEngine(bundle.packages)
    verdict = engine.evaluate(document, now_ns) if engine.is_local else await engine.ask(document, now_ns)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from policies.bundle import Package
from policies.verdict import Finding, Verdict, combine

Combine = Callable[[Iterable[Finding]], Verdict]
FailMode = Literal["closed", "builtin", "open"]
"""What a decision point does without an answer: deny, let our own engine answer, or allow with a warning."""


class DecisionEngine(Protocol):
    """Answers for the packages of one decision point."""

    is_local: bool
    """Whether `evaluate` answers, without waiting for anything."""

    def evaluate(self, document: Mapping[str, Any], now_ns: int) -> Verdict:
        """Return the verdict on an input document at once.

        Raises:
            RuntimeError: the engine is not local.
        """

    def ask(self, document: Mapping[str, Any], now_ns: int) -> asyncio.Future[Verdict]:
        """Return the verdict to come. Called on a running event loop."""


class Remote(Protocol):
    """A server that finds for packages; `policies.opa.connection.OpaConnection` is the implementation."""

    def find(self, packages: Sequence[Package], document: Mapping[str, Any], now_ns: int) -> asyncio.Future[tuple[Finding, ...]]:
        """Return the findings to come, or an error as the future's exception."""


class OwnEngine:
    """Our engine over some packages. Immutable."""

    __slots__ = ("_combine", "packages")
    is_local = True

    def __init__(self, packages: Sequence[Package], combine: Combine = combine) -> None:
        """Answer for `packages`; `combine` turns findings into the verdict of the decision point."""
        self.packages = tuple(packages)
        self._combine = combine

    def evaluate(self, document: Mapping[str, Any], now_ns: int) -> Verdict:
        """Return the verdict."""
        return self._combine([package.find(document, now_ns) for package in self.packages])

    def ask(self, document: Mapping[str, Any], now_ns: int) -> asyncio.Future[Verdict]:
        """Return the verdict in a future that is done."""
        return _done(self.evaluate(document, now_ns))


class OpaEngine:
    """A real OPA server over some packages, with the decision point's fail mode. Owns nothing that changes."""

    __slots__ = ("_combine", "_fail", "_own", "_remote", "packages")
    is_local = False

    def __init__(self, remote: Remote, packages: Sequence[Package], fail: FailMode = "closed", combine: Combine = combine) -> None:
        """Ask `remote` for `packages`.

        Args:
            remote: The server.
            packages: What the decision point evaluates.
            fail: What to do without an answer.
            combine: From findings to the verdict of the decision point.
        """
        self._remote = remote
        self.packages = tuple(packages)
        self._fail = fail
        self._combine = combine
        self._own = OwnEngine(packages, combine)

    def evaluate(self, document: Mapping[str, Any], now_ns: int) -> Verdict:
        """Refuse: an answer of a server is waited for."""
        del document, now_ns
        raise RuntimeError("engine `opa` answers through `ask`; hint: look at `is_local`")

    def ask(self, document: Mapping[str, Any], now_ns: int) -> asyncio.Future[Verdict]:
        """Return the verdict to come."""
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        found = self._remote.find(self.packages, document, now_ns)

        def settle(found: asyncio.Future[tuple[Finding, ...]]) -> None:
            if verdict.done():
                # The caller has gone; taking the exception keeps asyncio from complaining of one that nobody saw.
                _ = found.cancelled() or found.exception()
            elif found.cancelled():
                verdict.set_result(self._without("the question was given up", document, now_ns))
            elif (fault := found.exception()) is not None:
                verdict.set_result(self._without(str(fault), document, now_ns))
            else:
                verdict.set_result(self._combine(found.result()))

        found.add_done_callback(settle)
        return verdict

    def _without(self, why: str, document: Mapping[str, Any], now_ns: int) -> Verdict:
        """Return the verdict of the fail mode; every one of them says that OPA did not answer."""
        if self._fail == "closed":
            failed = [
                Finding(package.name, package.mode, required="allow" in package.rules, allow=False, error=f"opa: {why}") for package in self.packages
            ]
            return self._combine(failed)
        note = {"id": "ENGINE-ERR", "package": "-", "msg": f"opa: {why}"[:256], "mode": "warning"}
        if self._fail == "open":
            return Verdict("allow_with_warnings", (note,))
        verdict = self._own.evaluate(document, now_ns)
        return replace(verdict, decision="deny" if verdict.decision == "deny" else "allow_with_warnings", reasons=(*verdict.reasons, note))


@dataclass(frozen=True, slots=True)
class Difference:
    """OPA and our engine disagree on one document."""

    ours: Verdict
    theirs: Verdict
    document: Mapping[str, Any]
    """The input. It may hold facts about a person: what is recorded of it is the caller's to choose."""
    now_ns: int


class BothEngine:
    """Our engine decides; one question in `every` also goes to OPA, off the path. Counts are changed on the owner's loop alone."""

    __slots__ = ("_combine", "_every", "_on_difference", "_own", "_remote", "agreed", "asked", "differed", "packages", "unanswered")
    is_local = True

    def __init__(
        self, remote: Remote, packages: Sequence[Package], on_difference: Callable[[Difference], None], *, every: int = 1, combine: Combine = combine
    ) -> None:
        """Compare with `remote`.

        Args:
            remote: The server.
            packages: What the decision point evaluates.
            on_difference: Told of each disagreement, on the event loop.
            every: 1 compares all, 100 one in a hundred.
            combine: From findings to the verdict of the decision point.

        Raises:
            ValueError: `every` is below 1.
        """
        if every < 1:
            raise ValueError(f"`every` is `{every}`; hint: 1 compares every decision")
        self._own = OwnEngine(packages, combine)
        self._remote = remote
        self.packages = self._own.packages
        self._on_difference = on_difference
        self._every = every
        self._combine = combine
        self.asked = self.agreed = self.differed = self.unanswered = 0

    def evaluate(self, document: Mapping[str, Any], now_ns: int) -> Verdict:
        """Return our verdict; where an event loop runs, have OPA look at it too."""
        ours = self._own.evaluate(document, now_ns)
        self.asked += 1
        if self.asked % self._every == 0:
            self._compare(ours, document, now_ns)
        return ours

    def ask(self, document: Mapping[str, Any], now_ns: int) -> asyncio.Future[Verdict]:
        """Return our verdict in a future that is done."""
        return _done(self.evaluate(document, now_ns))

    def _compare(self, ours: Verdict, document: Mapping[str, Any], now_ns: int) -> None:
        try:
            found = self._remote.find(self.packages, document, now_ns)
        except RuntimeError:
            # No event loop here (a command, a test): nobody could hear the answer.
            self.unanswered += 1
            return

        def settle(found: asyncio.Future[tuple[Finding, ...]]) -> None:
            if found.cancelled() or found.exception() is not None:
                self.unanswered += 1
                return
            theirs = self._combine(found.result())
            if same_decision(ours, theirs):
                self.agreed += 1
            else:
                self.differed += 1
                self._on_difference(Difference(ours, theirs, document, now_ns))

        found.add_done_callback(settle)


def same_decision(ours: Verdict, theirs: Verdict) -> bool:
    """Say whether two engines decided alike: everything but how each words an error of its own."""
    return _essence(ours) == _essence(theirs)


def _essence(verdict: Verdict) -> Verdict:
    reasons = tuple({**reason, "msg": ""} if reason["id"] == "ENGINE-ERR" else reason for reason in verdict.reasons)
    return replace(verdict, reasons=reasons)


def _done(verdict: Verdict) -> asyncio.Future[Verdict]:
    future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    future.set_result(verdict)
    return future
