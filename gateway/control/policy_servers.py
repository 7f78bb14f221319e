"""The OPA servers as the controller looks after them: our policies are put there before anything asks for them, and kept there.

Rules:
- Before a configuration takes force, at least one of its servers has its policies, whole and read back; else the configuration in force stays.
- Then the servers are asked at the decision point `config`. Our engine has judged the files before: what either refuses is refused.
- A change that is refused after that leaves the new policies on the servers; `look` puts those in force back. In between, and in the moment
  between publishing and the workers' next look, servers answer for another revision and the fail mode holds; remembered verdicts go on.
- A server that lost its policies (OPA keeps them in memory) gets them again within seconds of being back, and one whose policies somebody changed
  within half a minute of that.
- Servers that load a bundle by themselves are only looked at.

Example:
    async with servers.changing():
        await servers.prepare(settings, bundle)         # raises NotPrepared
        verdicts = await servers.judge(environment, compiled.asked, compiled.verdicts)
    servers.settle(settings.policy_server, bundle)
    await servers.look()                                # once a second
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateway.config.policy_point import Asked, config_document
from gateway.documents import PolicyServerDocument
from gateway.policy_server import Counts, Place, PolicyServer, addresses_of, connect
from policies.bundle import PolicyBundle
from policies.opa.archive import revision_of
from policies.opa.query import PATH, OpaError, findings, fresh, packages_of, question
from policies.opa.server import Server
from policies.verdict import Verdict

if TYPE_CHECKING:
    from policies.opa.client import Client

_log = logging.getLogger(__name__)
PUBLISH_S: Final = 10.0
"""For each request that puts policies: OPA compiles all of them every time."""
LOOK_S: Final = 2.0
"""For the question whether a server still has them."""
BRING_S: Final = 60.0
"""For everything a server needs until it has the policies: one that takes its time over each of them must not hold up a change for long."""
ASK_S: Final = 1.0
"""Least time for an answer at `config`: nobody waits for it on the lane."""
VERIFY_EVERY: Final = 30
"""Every so many looks a server's policies are read back whole."""
_AT_ONCE: Final = 16


class NotPrepared(Exception):  # noqa: N818 - says what happened
    """No server has the policies; the text says why."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        """`may_pass`: it may be otherwise later with nothing changed here, and finding out changes nothing there."""
        super().__init__(message)
        self.may_pass = may_pass


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why a server has not the policies it should have."""

    why: str
    was_touched: bool = False
    """It took some of them: what was in force there before is not any more."""


class PolicyServers:
    """Publishes, watches and asks at `config`. Owned by the controller's loop."""

    def __init__(self, place: Place, counts: Counts) -> None:
        """Look after nothing yet; `counts` are where answers at `config` are counted."""
        self._place = place
        self._counts = counts
        self._changing = asyncio.Lock()
        self._document: PolicyServerDocument | None = None  # what is in force; changed by `settle`
        self._bundle: PolicyBundle | None = None
        self._looks = 0
        self._faulty: set[str] = set()  # addresses of servers that the log was told of; changed by `_tell`
        self._remembered: dict[tuple[str, ...], Verdict] = {}  # answers at `config`; replaced whole by `judge`

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Keep `look` from putting back what is about to be replaced."""
        async with self._changing:
            yield

    def settle(self, document: PolicyServerDocument | None, bundle: PolicyBundle) -> None:
        """Say what is in force."""
        self._document, self._bundle = document, bundle

    async def prepare(self, document: PolicyServerDocument | None, bundle: PolicyBundle) -> None:
        """Put the policies of a configuration on its servers; returns once at least one has them.

        Raises:
            NotPrepared: none has.
        """
        if document is None or self.has(document, bundle):
            return
        try:
            servers = addresses_of(document, self._place)
        except ValueError as fault:
            raise NotPrepared(str(fault)) from fault
        faults = await asyncio.gather(*(self._bring(server, document, bundle) for server in servers))
        told = [f"`{server.url}`: {fault.why}" for server, fault in zip(servers, faults, strict=True) if fault is not None]
        if len(told) == len(servers):
            raise NotPrepared("; ".join(told), may_pass=not any(fault is not None and fault.was_touched for fault in faults))
        self._tell(servers, faults)

    def has(self, document: PolicyServerDocument | None, bundle: PolicyBundle) -> bool:
        """Say whether these policies and servers are in force: then preparing them is nothing."""
        return self._bundle is not None and document == self._document and self._revision(bundle) == self._revision(self._bundle)

    async def judge(
        self, document: PolicyServerDocument | None, bundle: PolicyBundle, environment: str, asked: Mapping[str, Asked]
    ) -> dict[str, Verdict]:
        """Return what the servers say of each file, by its path; nothing where our engine decides alone or nobody is asked at `config`."""
        policies = bundle.at("config")
        if document is None or not policies.packages or not asked:
            return {}
        try:
            servers = connect(document, bundle, self._place, ASK_S)
        except ValueError as fault:
            raise NotPrepared(str(fault)) from fault
        server = PolicyServer(document, bundle, servers, _log, self._counts)
        room = asyncio.Semaphore(_AT_ONCE)
        kept: dict[tuple[str, ...], Verdict] = {}

        async def verdict(path: str, one: Asked) -> Verdict:
            key = (self._revision(bundle), *bundle.record.values(), document.engine, environment, path, one.digest)
            found = None if policies.reads_clock else self._remembered.get(key)
            if found is None:
                async with room:
                    found = await server.engine("config", policies.about(one.route.model)).ask(config_document(environment, one), time.time_ns())
            if found.is_settled:
                kept[key] = found
            return found

        try:
            verdicts = await asyncio.gather(*(verdict(path, one) for path, one in asked.items()))
        finally:
            await server.close()
        self._remembered = kept
        return dict(zip(asked, verdicts, strict=True))

    async def look(self) -> None:
        """See that every server has the policies in force; put them there where not. Never raises."""
        if self._document is None or self._bundle is None or self._changing.locked():
            return
        self._looks += 1
        async with self._changing:
            document, bundle = self._document, self._bundle
            try:
                servers = addresses_of(document, self._place)
            except ValueError as fault:
                _log.error("policy servers cannot be looked after", extra={"why": str(fault)})
                return
            faults = await asyncio.gather(*(self._bring(server, document, bundle, is_thorough=self._looks % VERIFY_EVERY == 0) for server in servers))
            self._tell(servers, faults)

    async def _bring(self, server: Server, document: PolicyServerDocument, bundle: PolicyBundle, *, is_thorough: bool = True) -> _Fault | None:
        """See that a server has these policies, or put them there, within `BRING_S`; returns what is wrong, or None."""
        try:
            async with asyncio.timeout(BRING_S):
                return await self._brought(server, document, bundle, is_thorough=is_thorough)
        except TimeoutError:
            return _Fault(f"it has not taken the policies within {BRING_S:g} s", was_touched=True)

    async def _brought(self, server: Server, document: PolicyServerDocument, bundle: PolicyBundle, *, is_thorough: bool) -> _Fault | None:
        from policies.opa.client import Client  # noqa: PLC0415 - an extra, that may not be installed

        asking = Client(server, LOOK_S)
        try:
            fault = await self._lacks(asking, document, bundle)
        finally:
            await asking.close_connection()
        if document.bundle is not None or (fault is not None and fault.kind not in ("answer", "revision", "http")):
            return None if fault is None else _Fault(str(fault))
        if fault is None and not is_thorough:
            return None
        client = Client(server, PUBLISH_S)
        try:
            return await self._publish(client, bundle, is_there=fault is None)
        finally:
            await client.close_connection()

    async def _lacks(self, client: Client, document: PolicyServerDocument, bundle: PolicyBundle) -> OpaError | None:
        """Ask a server a question about nothing: its answer tells the revision."""
        try:
            asked = fresh()
            answer: Any = await client.decide(PATH, question((), {}, 0, asked))
            findings((), answer, self._revision(bundle), document.bundle, asked)
        except OpaError as fault:
            return fault
        except Exception as fault:  # noqa: BLE001 - whatever a server answers must not end the controller
            return OpaError("answer", f"{type(fault).__name__}: {fault}")
        return None

    async def _publish(self, client: Client, bundle: PolicyBundle, *, is_there: bool) -> _Fault | None:
        from policies.opa.publish import PublishError, publish, verify  # noqa: PLC0415 - an extra, that may not be installed

        put = functools.partial(publish, client, bundle.modules, packages_of(bundle), bundle.data)
        try:
            if is_there:
                try:
                    await verify(client, bundle.modules, packages_of(bundle), bundle.data)
                except PublishError as fault:
                    _log.error("policies on a policy server are not those published, and are put back", extra={"why": str(fault)})
                    await put()
                return None
            revision = await put()
        except (PublishError, ValueError) as fault:
            return _Fault(str(fault), was_touched=True)
        _log.info("policies published", extra={"server": client.root_url, "revision": revision})
        return None

    def _tell(self, servers: Sequence[Server], faults: Sequence[_Fault | None]) -> None:
        """Say once when a server has not the policies in force, and once when it has them again."""
        for server, fault in zip(servers, faults, strict=True):
            if fault is None and server.url in self._faulty:
                _log.info("a policy server has the policies in force again", extra={"server": server.url})
            elif fault is not None and server.url not in self._faulty:
                what = "a policy server has not the policies in force; where none has, the fail mode decides"
                _log.error(what, extra={"server": server.url, "why": fault.why})
        self._faulty = {server.url for server, fault in zip(servers, faults, strict=True) if fault is not None}

    @staticmethod
    def _revision(bundle: PolicyBundle) -> str:
        return revision_of(bundle.modules, packages_of(bundle), bundle.data)
