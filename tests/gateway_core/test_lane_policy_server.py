"""The lane where a policy server has a say: nothing goes on without its answer, and nobody decides in its place who was not told to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from lane_harness import BODY, MODEL, Harness, experiment, live_of, route, settings, snapshot_of

from experiments.document import LiveExperiment
from experiments.shares import WHOLE
from gateway.documents import PolicyServerDocument
from gateway.policy_server import PolicyServer
from gateway.snapshot import Snapshot
from policies.bundle import Package
from policies.opa.connection import Found
from policies.opa.query import OpaError
from policies.verdict import Finding

OPA = PolicyServerDocument(engine="opa", addresses=("http://127.0.0.1:1",), timeout_us=1_000_000)
BOTH = PolicyServerDocument(engine="both", addresses=("http://127.0.0.1:1",), timeout_us=1_000_000, on_failure={"request": "native"})


class Scripted:
    """Servers that answer when told to: every question is kept with its future."""

    connections = ()

    def __init__(self) -> None:
        self.asked: list[tuple[Mapping[str, Any], asyncio.Future[Found], Sequence[Package]]] = []

    def find(self, packages: Sequence[Package], document: Mapping[str, Any], now_ns: int) -> asyncio.Future[Found]:
        del now_ns
        answer: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self.asked.append((document, answer, packages))
        return answer

    def answer(self, *, deny: Sequence[str] = ()) -> None:
        """Answer everything that is open; versions in `deny` are denied."""
        for document, answer, packages in self.asked:
            if not answer.done():
                refused = ({"id": "S-1", "msg": "no"},) if document["model"]["version"] in deny else ()
                answer.set_result(tuple(Finding(one.name, one.mode, "allow" in one.rules, allow=not refused, deny=refused) for one in packages))

    def fail(self) -> None:
        for _, answer, _ in self.asked:
            if not answer.done():
                answer.set_exception(OpaError("timeout", "late"))


def harness(chosen: PolicyServerDocument = OPA, **more: Any) -> tuple[Harness, Scripted, PolicyServer]:
    snapshot = snapshot_of(chosen=settings(policy_server=chosen), **more)
    names = {name: LiveExperiment(experiment=name, epoch=1, phase="running", step=0, exposure=WHOLE, shares=document.steps[0].shares)
             for name, document in snapshot.experiments.items()}  # fmt: skip
    servers = Scripted()
    server = PolicyServer(chosen, snapshot.policies, servers, logging.getLogger("test"), {})  # type: ignore[arg-type]  # the same two methods
    found = Harness(snapshot_of())
    found.lane.install(snapshot, live_of(snapshot, experiments=names), server)
    return found, servers, server


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_call_waits_for_the_answer_and_leaves_no_decision_before_it():
    async def conversation() -> tuple[list[str], int, list[dict[str, Any]]]:
        found, servers, _ = harness()
        call = asyncio.ensure_future(found.call())
        await turns()
        found.lane.write_late_decisions(0.0)
        before = [record["type"] for record in found.terminals()] + [str(len(found.journal.leaves))]
        servers.answer()
        exchange = await call
        return before, exchange.status, found.journal.records("call", "decision", "outcome")

    before, status, records = asyncio.run(conversation())
    assert before == ["0"], "what is not decided is not recorded as decided"
    assert status == 200
    assert records[0]["policy"]["engine"] == "opa"
    assert records[0]["policy"]["decision"] == "allow"


def test_all_candidates_are_asked_at_once_and_the_fallback_only_where_it_is_needed():
    async def conversation(deny: Sequence[str]) -> tuple[list[int], list[dict[str, Any]]]:
        found, servers, _ = harness(routes=[route()], experiments=[experiment()])
        call = asyncio.ensure_future(found.call())
        passes = []
        for _ in range(4):
            await turns()
            passes.append(len(servers.asked))
            servers.answer(deny=deny)
        await call
        return passes, found.terminals()

    passes, (record,) = asyncio.run(conversation(()))
    assert passes == [2, 2, 2, 2]
    assert {one["arm"] for one in record["route"]["eligible"]} == {"champion", "challenger"}
    passes, (record,) = asyncio.run(conversation(("3", "4")))
    assert passes[0] == 2
    assert record["outcome"]["status"] == 403
    assert all(one["reason"] == "S-1" for one in record["route"]["eligible"])


def test_what_was_answered_is_remembered_and_what_was_not_is_asked_again():
    async def conversation() -> list[Any]:
        found, servers, server = harness()
        seen: list[Any] = []
        for act in (servers.fail, servers.answer, servers.answer):
            call = asyncio.ensure_future(found.call())
            await turns()
            act()
            seen.append(((await call).status, len(servers.asked)))
        return [*seen, server.counts]

    assert asyncio.run(conversation()) == [(403, 1), (200, 2), (200, 2), {"request": {"timeout": 1, "answered": 1}}]


def test_in_the_fail_mode_native_the_record_says_that_our_engine_decided():
    async def conversation() -> tuple[int, dict[str, Any]]:
        found, servers, _ = harness(BOTH)
        call = asyncio.ensure_future(found.call())
        await turns()
        servers.fail()
        exchange = await call
        return exchange.status, found.terminals()[0]

    status, record = asyncio.run(conversation())
    assert (status, record["policy"]["engine"], record["policy"]["decision"]) == (200, "native", "allow_with_warnings")


def test_a_caller_who_leaves_while_a_server_is_asked_has_a_record_and_the_answer_hurts_nobody():
    async def conversation() -> list[dict[str, Any]]:
        found, servers, _ = harness()
        call = asyncio.ensure_future(found.call(body=BODY))
        await turns()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        servers.answer()
        await turns()
        assert not found.lane.open
        return found.terminals()

    (record,) = asyncio.run(conversation())
    assert (record["outcome"]["status"], record["outcome"]["code"]) == (499, "caller_gone")


def other_policies() -> Snapshot:
    return snapshot_of(policies={"policies/x.rego": 'package policy.x\n\ndeny contains {"id": "X", "msg": "m"} if input.x\n'},
                       chosen=settings(policy_server=OPA))  # fmt: skip


def test_a_configuration_is_never_in_force_with_another_engine_than_it_says():
    found, _, server = harness()
    before = found.lane.snapshot, found.lane.policy_server
    asked = before[0]
    for snapshot, chosen in ((asked, None), (snapshot_of(), server), (other_policies(), server)):
        with pytest.raises(ValueError, match="is configured"):
            found.lane.install(snapshot, live_of(snapshot), chosen)
    assert (found.lane.snapshot, found.lane.policy_server) == before
    found.lane.install(snapshot_of(), live_of(snapshot_of()))
    assert found.lane.policy_server is None
    assert MODEL in found.lane.snapshot.routes
