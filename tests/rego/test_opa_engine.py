"""One suite for every engine: what our engine decides, a real OPA decides too, published to or loading our bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opa_server import OpaServer

from policies.bundle import PolicyBundle
from policies.engine import BothEngine, OpaEngine, OwnEngine, same_decision
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
async def opa_engine(server: OpaServer, bundle: PolicyBundle, *, archived: str | None = None, kind: type[OpaEngine] = OpaEngine, **options: Any):
    client = Client(Server(server.url), CLIENT_TIMEOUT_S)
    revision = revision_of(bundle.modules, bundle.packages, {})
    if archived is None:
        assert await publish(client, bundle.modules, bundle.packages, {}) == revision
    connection = OpaConnection(client, revision, bundle=archived, bounds=PATIENT)
    try:
        yield kind(connection, bundle.at("request"), **options)
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
            return await answers(OwnEngine(bundle.at("request")).ask, DOCUMENTS), await answers(opa.ask, DOCUMENTS)

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
            return await answers(OwnEngine(bundle.at("request")).ask, DOCUMENTS), await answers(opa.ask, DOCUMENTS)

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
        connection = OpaConnection(client, revision_of(new.modules, new.packages, {}), bounds=PATIENT)
        verdict = await OpaEngine(connection, new.at("request")).ask({"hour": 9}, NOW_NS)
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
            engine = OpaEngine(OpaConnection(client, revision, bounds=PATIENT), bundle.at("request"))
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
        verdict = await OpaEngine(OpaConnection(client, revision, bounds=PATIENT), bundle.at("request")).ask({"hour": 9}, NOW_NS)
        await client.close_connection()
        return verdict

    assert asyncio.run(conversation()).decision == "deny"


TRIED = """package policy.tried

deny contains {"id": "TRY-1", "msg": "tried"} if input.hour == 11
"""
ROUNDED = OFFICE.replace('"type": "round"', '"type": "round", "path": "/x"')
CHANGES: dict[str, tuple[str, str, str, bool]] = {
    # what is other on the server: its module, text there, the decision, whether the engines disagree
    "nothing": ("policies/office.rego", ROUNDED + "\n# changed\n", "allow", False),
    "an allow": ("policies/office.rego", ROUNDED.replace("{8, 9, 10}", "{8}"), "deny", True),
    "a denial": ("policies/office.rego", ROUNDED.replace("input.hour > 20", "input.hour > 2"), "deny", True),
    "an obligation": ("policies/office.rego", ROUNDED.replace('"digits": 2', '"digits": 3'), "deny", True),
    "what is only tried": ("policies/tried.rego", TRIED.replace("== 11", "== 9"), "allow", True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_both_denies_where_what_is_enforced_differs_and_only_tells_what_else_does(server, name):
    """Someone changes a rule below us on the server: its answers still tell our revision, only their content differs."""
    modules = {**MODULES, "policies/office.rego": ROUNDED, "policies/tried.rego": TRIED}
    bundle = PolicyBundle.load(modules, {**OPEN, "tried": "dryrun"})  # type: ignore[arg-type]
    path, text, decision, differs = CHANGES[name]
    document = {"hour": 9, "round": True}
    told: list[tuple[str, str]] = []

    async def conversation() -> tuple[Verdict, Verdict]:
        async with opa_engine(server, bundle, kind=BothEngine, note=lambda *note: told.append(note)) as both:
            before = await both.ask(document, NOW_NS)
            server.put(f"assay/{path}", text)
            return before, await both.ask(document, NOW_NS)

    before, after = asyncio.run(conversation())
    assert (before.decision, len(before.obligations), before.reasons) == ("allow", 1, ())
    assert after.decision == decision
    assert after.obligations == (before.obligations if after.allowed else ())
    assert [result for result, _ in told] == ["agreed", "differed" if differs else "agreed"]
    assert after.is_settled is not differs, "a difference is never remembered"
    assert [reason["id"] for reason in after.reasons] == (["ENGINE-DIFF"] if differs else [])
    if differs:
        assert (after.reasons[0]["mode"], after.reasons[0]["msg"]) == ("dryrun" if after.allowed else "enforce", told[1][1][:256])


def test_engines_that_agree_are_told_apart_from_none_that_answered(server):
    bundle = PolicyBundle.load(MODULES, OPEN)  # type: ignore[arg-type]
    told: list[str] = []

    async def conversation() -> list[Verdict]:
        found = []
        for fail in ("closed", "native"):
            async with opa_engine(server, bundle, kind=BothEngine, fail=fail, note=lambda result, _: told.append(result)) as both:
                found.append(await both.ask({"hour": 9}, NOW_NS))
                server.put("assay/answers.rego", "package assay.answers")
                found.append(await both.ask({"hour": 9}, NOW_NS))
        return found

    verdicts = asyncio.run(conversation())
    assert [verdict.decision for verdict in verdicts] == ["allow", "deny", "allow", "allow_with_warnings"]
    assert [verdict.by for verdict in verdicts] == ["", "", "", "native"]
    assert told == ["agreed", "revision"] * 2
