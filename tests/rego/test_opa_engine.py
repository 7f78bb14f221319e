"""One suite for every engine: what our engine decides, a real OPA decides too, published to or loading our bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opa_server import OpaServer

from policies.bundle import PolicyBundle
from policies.engine import BothEngine, Difference, OpaEngine, OwnEngine, same_decision
from policies.opa.archive import archive, revision_of
from policies.opa.client import Client
from policies.opa.connection import Bounds, OpaConnection
from policies.opa.publish import PublishError, publish, verify
from policies.opa.server import Server
from policies.verdict import Verdict

pytestmark = pytest.mark.component("opa")
PATIENT = Bounds(timeout_s=10.0)
CLIENT_TIMEOUT_S = 10.0
OFFICE = """package policy.office

default allow := false

allow if input.hour in {8, 9, 10}

deny contains {"id": "OFF-001", "status": 401, "msg": sprintf("%v is too late: %d", [object.get(input, "who", null), input.hour])} if input.hour > 20

deny contains {"id": "OFF-002", "msg": "an object with a set", "data": {input.hour, 1}} if input.hour == 21

deny contains "a bare message" if input.hour == 22

deny contains input.echo if {
	input.hour == 23
	input.echo
}

warn contains {"id": "OFF-010", "msg": "soon"} if time.now_ns() > 1000

obligations contains {"type": "round", "digits": 2} if input.round
"""
BROKEN = """package policy.broken

allow := true

deny contains {"id": "BRK-001", "msg": "two"} if value == 1

value := 1 if input.a

value := 2 if input.b

deny contains {"id": "BRK-002", "msg": "no number"} if to_number(input.number) > 3
"""
TYPES = """package policy.types

allow := true

deny contains {"id": sprintf("T-%s", [type_name(input.v)]), "msg": json.marshal(input.v)} if input.v != null

deny contains {"id": "ONE", "msg": "one"} if input.v == 1

deny contains {"id": "TRUE", "msg": "true"} if input.v == true
"""
MODULES = {"policies/office.rego": OFFICE, "policies/broken.rego": BROKEN, "policies/types.rego": TYPES}
OPEN = {"approval": "off", "limits": "off"}
MODES: dict[str, Callable[[str], dict[str, str]]] = {
    "enforced": lambda _name: dict(OPEN),
    "broken only warns": lambda _name: {**OPEN, "broken": "warn"},
    "broken is tried": lambda _name: {**OPEN, "broken": "dryrun", "types": "off"},
    "with the shipped ones": lambda _name: {"broken": "off"},
}
DOCUMENTS: dict[str, Any] = {
    "allowed": {"hour": 9},
    "not allowed": {"hour": 12},
    "nothing known": {},
    "a reason with a status": {"hour": 21, "who": "ada"},
    "a reason that is text": {"hour": 22, "who": "bob"},
    "a reason that is the caller's": {"hour": 23, "who": "x", "echo": {"id": 'a"b\n', "msg": "ünïcödé \u2028 \U0001f600", "status": 200}},
    "an obligation nobody knows": {"hour": 9, "round": True},
    "two values for one rule": {"hour": 9, "a": True, "b": True},
    "a built-in that fails": {"hour": 9, "number": "four"},
    "a built-in that does not": {"hour": 9, "number": "4"},
    "one": {"hour": 9, "v": 1},
    "one point zero": {"hour": 9, "v": 1.0},
    "true": {"hour": 9, "v": True},
    "a big number": {"hour": 9, "v": 123456789012345678901234567890},
    "a fraction": {"hour": 9, "v": 0.1},
    "text": {"hour": 9, "v": "</script>&<>"},
    "nested": {"hour": 9, "v": {"b": [1, {"a": []}], "a": None}},
}
NOW_NS = 999


@asynccontextmanager
async def opa_engine(server: OpaServer, bundle: PolicyBundle, *, archived: str | None = None, **options: Any):
    client = Client(Server(server.url), CLIENT_TIMEOUT_S)
    revision = revision_of(bundle.modules, {})
    if archived is None:
        assert await publish(client, bundle.modules, bundle.packages, {}) == revision
    connection = OpaConnection(client, revision, bundle=archived, bounds=PATIENT)
    try:
        yield OpaEngine(connection, bundle.packages, **options)
    finally:
        await connection.close()


def answers(ask: Callable[[Any, int], Any], documents: dict[str, Any]) -> Any:
    async def all_of_them() -> dict[str, Verdict]:
        return {name: await ask(document, NOW_NS) for name, document in documents.items()}

    return all_of_them()


@pytest.fixture(scope="module")
def server():
    with OpaServer() as running:
        yield running


@pytest.mark.parametrize("modes", MODES)
def test_a_published_opa_gives_the_verdicts_of_our_engine(server, modes):
    bundle = PolicyBundle.load(MODULES, MODES[modes](modes))  # type: ignore[arg-type]  # modes are checked by the bundle

    async def conversation() -> tuple[Any, Any]:
        async with opa_engine(server, bundle) as opa:
            return await answers(OwnEngine(bundle.packages).ask, DOCUMENTS), await answers(opa.ask, DOCUMENTS)

    ours, theirs = asyncio.run(conversation())
    different = {name: (ours[name], theirs[name]) for name in DOCUMENTS if not same_decision(ours[name], theirs[name])}
    assert different == {}
    assert {verdict.decision for verdict in ours.values()} >= {"deny"}


def test_an_opa_that_loads_our_bundle_gives_them_too_and_tells_its_revision(tmp_path):
    bundle = PolicyBundle.load(MODULES, OPEN)  # type: ignore[arg-type]  # as above
    path = tmp_path / "assay.tar.gz"
    path.write_bytes(archive(bundle.modules, bundle.packages, {}))

    async def conversation(server: OpaServer) -> tuple[Any, Any]:
        async with opa_engine(server, bundle, archived=str(path)) as opa:
            return await answers(OwnEngine(bundle.packages).ask, DOCUMENTS), await answers(opa.ask, DOCUMENTS)

    with OpaServer("--bundle", str(path)) as server:
        ours, theirs = asyncio.run(conversation(server))
    assert {name for name in DOCUMENTS if not same_decision(ours[name], theirs[name])} == set()


def test_the_same_policies_make_the_same_archive():
    bundle = PolicyBundle.load(MODULES, {})
    assert archive(bundle.modules, bundle.packages, {"a": {"b": 1}}) == archive(
        dict(reversed(bundle.modules.items())), bundle.packages, {"a": {"b": 1}}
    )


def test_another_revision_on_the_server_denies(server):
    old, new = PolicyBundle.load(MODULES, OPEN), PolicyBundle.load({**MODULES, "policies/office.rego": OFFICE + "\n# changed\n"}, OPEN)  # type: ignore[arg-type]

    async def conversation() -> Verdict:
        async with opa_engine(server, old):
            pass
        client = Client(Server(server.url), CLIENT_TIMEOUT_S)
        connection = OpaConnection(client, revision_of(new.modules, {}), bounds=PATIENT)
        verdict = await OpaEngine(connection, new.packages).ask({"hour": 9}, NOW_NS)
        await connection.close()
        return verdict

    verdict = asyncio.run(conversation())
    assert verdict.decision == "deny"
    assert "revision" in verdict.reasons[0]["msg"]


def test_data_is_published_with_the_policies_and_what_was_published_before_goes(server):
    rule = "package policy.params\n\ndefault allow := false\n\nallow if input.who in data.params.people\n\nallow if data.old.flag\n"
    bundle = PolicyBundle.load({"policies/params.rego": rule, "policies/params.json": '{"people": []}'}, OPEN)  # type: ignore[arg-type]

    async def conversation() -> list[str]:
        client = Client(Server(server.url), CLIENT_TIMEOUT_S)
        found = []
        for data in ({"old": {"flag": True}, "params": {"people": []}}, {"params": {"people": ["ada"]}}):
            revision = await publish(client, bundle.modules, bundle.packages, data)
            await verify(client, bundle.modules, bundle.packages, data)
            engine = OpaEngine(OpaConnection(client, revision, bounds=PATIENT), bundle.packages)
            found += [(await engine.ask({"who": who}, NOW_NS)).decision for who in ("ada", "bob")]
        await client.close_connection()
        return found

    assert asyncio.run(conversation()) == ["allow", "allow", "allow", "deny"]


def test_a_strangers_rule_inside_our_package_is_refused_and_found(server):
    bundle = PolicyBundle.load(MODULES, OPEN)  # type: ignore[arg-type]

    async def conversation() -> None:
        client = Client(Server(server.url), CLIENT_TIMEOUT_S)
        await publish(client, bundle.modules, bundle.packages, {})
        await verify(client, bundle.modules, bundle.packages, {})
        server.put("theirs", "package policy.office\n\nallow if input.friend\n")
        with pytest.raises(PublishError, match="`theirs`"):
            await verify(client, bundle.modules, bundle.packages, {})
        with pytest.raises(PublishError, match="`theirs`"):
            await publish(client, bundle.modules, bundle.packages, {})
        await client.delete_policy("theirs")
        server.put("assay/policies/office.rego", OFFICE.replace("{8, 9, 10}", "{8, 9, 10, 11}"))
        with pytest.raises(PublishError, match="not what was published"):
            await verify(client, bundle.modules, bundle.packages, {})
        await client.close_connection()

    asyncio.run(conversation())


def test_what_opa_refuses_is_not_rewritten_and_leaves_the_server_without_answers(server):
    bundle = PolicyBundle.load(MODULES, OPEN)  # type: ignore[arg-type]
    old_syntax = {**bundle.modules, "policies/v0.rego": "package policy.v0\n\nallow { true }\n"}

    async def conversation() -> Verdict:
        client = Client(Server(server.url), CLIENT_TIMEOUT_S)
        revision = await publish(client, bundle.modules, bundle.packages, {})
        with pytest.raises(PublishError, match="if"):
            await publish(client, old_syntax, bundle.packages, {})
        verdict = await OpaEngine(OpaConnection(client, revision, bounds=PATIENT), bundle.packages).ask({"hour": 9}, NOW_NS)
        await client.close_connection()
        return verdict

    assert asyncio.run(conversation()).decision == "deny"


async def compared(both: BothEngine, count: int) -> None:
    for _ in range(2000):
        if both.agreed + both.differed >= count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("OPA was never heard")


def test_both_decides_as_ours_and_reports_where_opa_differs(server):
    bundle = PolicyBundle.load(MODULES, OPEN)  # type: ignore[arg-type]
    told: list[Difference] = []

    async def conversation() -> BothEngine:
        async with opa_engine(server, bundle) as opa:
            both = BothEngine(opa._remote, bundle.packages, told.append)
            assert both.evaluate({"hour": 9}, NOW_NS).decision == "allow"
            # Someone changes the rule below us: the answers still tell our revision, only their content differs.
            await compared(both, 1)
            server.put("assay/policies/office.rego", OFFICE.replace("{8, 9, 10}", "{8}"))
            assert both.evaluate({"hour": 9}, NOW_NS).decision == "allow"
            await compared(both, 2)
            return both

    both = asyncio.run(conversation())
    assert (both.agreed, both.differed, both.unanswered) == (1, 1, 0)
    (difference,) = told
    assert (difference.ours.decision, difference.theirs.decision) == ("allow", "deny")
    assert difference.document == {"hour": 9}
