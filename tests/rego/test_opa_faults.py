"""Whatever a server does, a decision ends in time, once, and in the fail mode of its decision point."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opa_fake import FakeOpa, repeating

from gateway.control import policy_servers
from gateway.control.policy_servers import NotPrepared, PolicyServers
from gateway.documents import PolicyServerDocument
from gateway.policy_server import Place
from policies.bundle import PolicyBundle
from policies.engine import BothEngine, OpaEngine
from policies.opa.breaker import Breaker
from policies.opa.client import Client
from policies.opa.connection import Bounds, OpaConnection
from policies.opa.query import OpaError, findings
from policies.opa.server import Server
from policies.opa.servers import OpaServers
from policies.verdict import Finding, Verdict

OFFICE = "package policy.office\n\ndefault allow := false\n\nallow if input.hour == 9\n"
BUNDLE = PolicyBundle.load({"policies/office.rego": OFFICE}, {"approval": "off", "limits": "off"})
REVISION = "sha256:aa"
GOOD = {"result": {"revision": REVISION, "packages": {"office": {"known": True, "allow": True}}}}
CONFLICT = (500, {"code": "internal_error", "errors": [{"code": "eval_conflict_error", "message": "two values"}]})
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n"
BOMB = gzip.compress(json.dumps(GOOD).encode() + b" " * (64 << 20))
BAD: dict[str, Any] = {
    "undefined": {},
    "no packages": {"result": {"revision": REVISION}},
    "another revision": {"result": {**GOOD["result"], "revision": "sha256:bb"}},
    "a package it does not know": {"result": {"revision": REVISION, "packages": {"office": {"allow": True}}}},
    "allow is no boolean": {"result": {"revision": REVISION, "packages": {"office": {"known": True, "allow": "true"}}}},
    "a list": [1],
    "no JSON": b"<html>",
    "status 500": (500, {"code": "internal_error"}),
    "status 404": (404, {}),
    "status 204": (204, b""),
    "a redirect": "redirect",
    "a closed connection": "close",
    "silence": "hang",
    "a policy that fails": CONFLICT,
    "a huge answer": b" " * (5 * 1024 * 1024),
    "a huge answer of no said length": [CHUNKED + b"\r\n", *[b"10000\r\n" + b" " * 65536 + b"\r\n"] * 40],
    "a few bytes that stand for many": [CHUNKED + b"content-encoding: gzip\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BOMB), BOMB)],
    "an answer nested without end": b"[" * 100_000,
    "an answer to another question": {"result": {**GOOD["result"], "asked": "0123456789abcdef"}},
    "too much said": {"result": {"revision": REVISION, "packages": {"office": {"known": True, "allow": True, "warn": [""] * 1001}}}},
}


def bounded(**given: Any) -> Bounds:
    return Bounds(**{"timeout_s": 0.3, "failures": 3, "open_s": 0.2, **given})


def converse(fake: FakeOpa, talk: Any, *, bounds: Bounds | None = None, fail: Any = "closed") -> Any:
    async def conversation() -> Any:
        async with fake:
            connection = OpaConnection(Client(Server(fake.url), 5.0), REVISION, bounds=bounds or bounded())
            try:
                return await talk(connection, OpaEngine(connection, BUNDLE.at("request"), fail))
            finally:
                await connection.close()

    return asyncio.run(conversation())


def once(answer: Any, fail: Any = "closed") -> tuple[Verdict, FakeOpa, float]:
    fake = FakeOpa(answer)

    async def talk(_connection: OpaConnection, engine: OpaEngine) -> tuple[Verdict, float]:
        begin = time.perf_counter()
        return await engine.ask({"hour": 8}, 7), time.perf_counter() - begin

    verdict, seconds = converse(fake, talk, fail=fail)
    return verdict, fake, seconds


def test_a_good_answer_is_the_verdict_and_the_question_is_asked_once():
    verdict, fake, _ = once(GOOD)
    assert verdict == Verdict("allow", ())
    (request,) = fake.requests
    assert len(request["body"]["input"].pop("asked")) == 16
    assert request["body"] == {"input": {"packages": ["office"], "document": {"hour": 8}, "now_ns": 7}}
    assert "strict-builtin-errors=true" in request["line"]


@pytest.mark.parametrize("name", BAD)
def test_any_other_answer_denies_in_time_and_is_not_asked_again(name):
    verdict, fake, seconds = once(BAD[name])
    assert verdict.decision == "deny"
    assert {reason["id"] for reason in verdict.reasons} <= {"ENGINE-ERR", "NO-ALLOW"}
    assert len(fake.requests) == 1
    assert seconds < 3.0


@pytest.mark.parametrize(("name", "words"), [("a huge answer of no said length", "more than"), ("a few bytes that stand for many", "no JSON")])
def test_an_answer_is_read_up_to_its_bound_and_never_unpacked(name: str, words: str):
    async def conversation() -> None:
        async with FakeOpa(BAD[name]) as fake:
            client = Client(Server(fake.url), 5.0)
            try:
                await client.decide("x", {})
            finally:
                await client.close_connection()

    with pytest.raises(OpaError, match=words):
        asyncio.run(conversation())


@pytest.mark.parametrize("status", [404, 500])
@pytest.mark.parametrize("said", ["x" * 200_000, "\n", 7, None])
def test_what_a_server_says_of_an_error_is_told_in_a_line(status: int, said: Any):
    verdict, _, _ = once((status, {"message": said, "errors": [{"code": "eval_" + "y" * 5000, "message": said}]}))
    assert not verdict.allowed
    noted: list[str] = []

    async def conversation() -> None:
        answer = (status, {"message": said, "errors": [{"code": "eval_" + "y" * 5000, "message": said}]})
        async with FakeOpa(answer) as fake:
            client = Client(Server(fake.url), 5.0)
            try:
                await client.decide("x", {})
            except OpaError as fault:
                noted.append(str(fault))
            finally:
                await client.close_connection()

    asyncio.run(conversation())
    assert 0 < len(noted[0]) < 1000


def test_a_second_answer_to_one_question_answers_no_other():
    """A connection that is out of step, by a fault or by whoever can make the server say more than it was asked."""
    payload = json.dumps(repeating(GOOD, {"input": {"asked": "of the first"}})).encode()
    stray = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(payload), payload)

    async def conversation() -> list[bool]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    length = next(line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length"))
                    question = json.loads(await reader.readexactly(int(length)))
                    said = {"result": {"revision": REVISION, "packages": {"office": {"known": True, "allow": False}}}}
                    answer = json.dumps(repeating(said, question)).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
                    await asyncio.sleep(0.05)
                    writer.write(stray)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        connection = OpaConnection(Client(Server(url), 5.0), REVISION, bounds=bounded(timeout_s=3.0))
        engine = OpaEngine(connection, BUNDLE.at("request"))
        try:
            first = (await engine.ask({"hour": 8}, 0)).allowed
            await asyncio.sleep(0.2)
            return [first, (await engine.ask({"hour": 8}, 0)).allowed]
        finally:
            await connection.close()
            server.close()

    assert asyncio.run(conversation()) == [False, False]


class _Unspeakable:
    def __str__(self) -> str:
        raise RecursionError("deep")


def test_a_decision_ends_also_where_what_the_server_found_cannot_be_combined():
    class Remote:
        def find(self, packages: Any, _document: Any, _now_ns: int) -> asyncio.Future[Any]:
            found = asyncio.get_running_loop().create_future()
            found.set_result((Finding(packages[0].name, "enforce", required=True, allow=True, warn=({"id": _Unspeakable()},)),))
            return found

    async def conversation() -> Verdict:
        async with asyncio.timeout(5):
            return await OpaEngine(Remote(), BUNDLE.at("request")).ask({}, 0)

    assert asyncio.run(conversation()).decision == "deny"


@pytest.mark.parametrize("fault", [None, OpaError("http", "status `500`")])
def test_a_defect_of_ours_ends_the_wait_for_a_decision_too(fault):
    class Remote:
        def find(self, packages: Any, _document: Any, _now_ns: int) -> asyncio.Future[Any]:
            found = asyncio.get_running_loop().create_future()
            if fault is None:
                found.set_result((Finding(packages[0].name, "enforce", required=True, allow=True),))
            else:
                found.set_exception(fault)
            return found

    def note(_result: str, _words: str) -> None:
        raise ZeroDivisionError

    async def conversation() -> Verdict:
        async with asyncio.timeout(5):
            return await OpaEngine(Remote(), BUNDLE.at("request"), note=note).ask({}, 0)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(conversation())


def test_half_a_character_in_an_answer_is_told_as_what_a_record_can_hold():
    said = {"known": True, "allow": True, "deny": [{"id": "a\ud800", "msg": "m\udfff"}], "obligations": [{"type": "redact", "path": "/\ud800"}]}
    verdict, _, _ = once({"result": {"revision": REVISION, "packages": {"office": said}}})
    assert verdict.decision == "deny"
    assert verdict.obligations == ()
    json.dumps(verdict.reasons, ensure_ascii=False).encode()
    assert "a?" in [reason["id"] for reason in verdict.reasons]


def test_in_the_fail_mode_native_our_engine_decides_and_says_that_opa_did_not_answer():
    verdict, _, _ = once("close", "native")
    assert (verdict.decision, [reason["id"] for reason in verdict.reasons]) == ("deny", ["NO-ALLOW", "ENGINE-ERR"])
    assert verdict.by == "native"
    fake = FakeOpa("close")

    async def talk(_connection: OpaConnection, engine: OpaEngine) -> Verdict:
        return await engine.ask({"hour": 9}, 7)

    verdict = converse(fake, talk, fail="native")
    assert (verdict.decision, verdict.by, verdict.is_settled) == ("allow_with_warnings", "native", False)


@pytest.mark.parametrize("mode", ["warn", "dryrun"])
def test_a_package_that_denies_nothing_denies_nothing_by_being_out_of_reach(mode):
    told = "# METADATA\n# custom: {points: [response]}\n"
    bundle = PolicyBundle.load({"policies/watch.rego": told + 'package policy.watch\n\ndeny contains {"id": "W-1", "msg": "m"}\n'}, {"watch": mode})

    async def conversation() -> Verdict:
        async with FakeOpa("close") as fake:
            connection = OpaConnection(Client(Server(fake.url), 5.0), REVISION, bounds=bounded())
            try:
                return await BothEngine(connection, bundle.at("response")).ask({}, 0)
            finally:
                await connection.close()

    verdict = asyncio.run(conversation())
    assert verdict.allowed
    assert [reason["id"] for reason in verdict.reasons] == ["ENGINE-ERR"]


def servers_of(*fakes: FakeOpa) -> OpaServers:
    return OpaServers([OpaConnection(Client(Server(fake.url), 5.0), REVISION, bounds=bounded(failures=1)) for fake in fakes])


def test_of_several_servers_a_dead_one_costs_the_questions_that_found_it_dead_and_comes_back_without_a_call():
    dead, alive = FakeOpa("close", GOOD), FakeOpa(GOOD)

    async def conversation() -> list[bool]:
        async with dead, alive:
            servers = servers_of(dead, alive)
            engine = OpaEngine(servers, BUNDLE.at("request"))
            allowed = [(await engine.ask({"hour": 9}, 0)).allowed for _ in range(6)]
            assert [one.breaker.is_open for one in servers.connections].count(True) == 1
            for _ in range(200):
                servers.look()
                await asyncio.sleep(0.02)
                if not any(one.breaker.is_open for one in servers.connections):
                    break
            allowed += [(await engine.ask({"hour": 9}, 0)).allowed for _ in range(4)]
            await servers.close()
            return allowed

    assert asyncio.run(conversation()).count(False) == 1
    assert dead.requests[1]["body"]["input"]["packages"] == [], "asked about nothing"
    assert len(dead.requests) > 2


def test_with_every_server_dead_a_question_ends_at_once():
    async def conversation() -> list[str]:
        async with FakeOpa("close") as one, FakeOpa("close") as other:
            servers = servers_of(one, other)
            engine = OpaEngine(servers, BUNDLE.at("request"))
            said = [(await engine.ask({"hour": 9}, 0)).reasons[0]["msg"] for _ in range(4)]
            await servers.close()
            assert len(one.requests) + len(other.requests) == 2
            return said

    assert ["breaker" in text for text in asyncio.run(conversation())] == [False, False, True, True]


def test_a_server_that_fails_is_left_alone_then_tried_with_one_question():
    fake = FakeOpa("close", "close", "close", GOOD)

    async def talk(connection: OpaConnection, engine: OpaEngine) -> list[str]:
        said = [(await engine.ask({}, 0)).reasons[0]["msg"] for _ in range(5)]
        await asyncio.sleep(0.25)
        probe, other = engine.ask({}, 0), engine.ask({}, 0)
        assert (await other).decision == "deny"
        assert (await probe).decision == "allow"
        assert (await engine.ask({}, 0)).decision == "allow"
        assert not connection.breaker.is_open
        return said

    said = converse(fake, talk)
    assert ["breaker" in text for text in said] == [False, False, False, True, True]
    assert len(fake.requests) == 5


def test_a_policy_that_fails_says_nothing_about_the_server():
    async def talk(connection: OpaConnection, engine: OpaEngine) -> bool:
        for _ in range(6):
            assert (await engine.ask({}, 0)).decision == "deny"
        return connection.breaker.is_open

    assert converse(FakeOpa(CONFLICT), talk) is False


def test_questions_in_flight_are_bounded():
    async def talk(connection: OpaConnection, engine: OpaEngine) -> tuple[int, dict[str, int]]:
        verdicts = await asyncio.gather(*(engine.ask({}, 0) for _ in range(8)))
        return sum(verdict.allowed for verdict in verdicts), connection.tally.faults

    assert converse(FakeOpa("hang"), talk, bounds=bounded(in_flight=2)) == (0, {"busy": 6, "timeout": 2})


def test_a_handler_outside_any_task_can_wait_for_the_answer():
    """As the lane does: a coroutine driven by callbacks, `asyncio.current_task()` is None in it."""

    async def talk(_connection: OpaConnection, engine: OpaEngine) -> Verdict:
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[Verdict] = loop.create_future()

        async def handler() -> None:
            assert asyncio.current_task() is None
            finished.set_result(await engine.ask({"hour": 9}, 0))

        coroutine = handler()

        def step(done: Any = None) -> None:
            del done
            try:
                waits_for = coroutine.send(None)
            except StopIteration:
                return
            waits_for._asyncio_future_blocking = False
            waits_for.add_done_callback(step)

        loop.call_soon(step)
        return await finished

    assert converse(FakeOpa(GOOD), talk).decision == "allow"


def test_a_caller_who_leaves_leaves_nothing_behind():
    async def talk(connection: OpaConnection, engine: OpaEngine) -> int:
        answer = engine.ask({}, 0)
        await asyncio.sleep(0.01)
        answer.cancel()
        await asyncio.sleep(0.5)
        return len(connection._tasks)

    assert converse(FakeOpa("hang"), talk) == 0


def test_closing_ends_every_question_in_the_fail_mode():
    async def talk(connection: OpaConnection, engine: OpaEngine) -> Verdict:
        answer = engine.ask({}, 0)
        await asyncio.sleep(0.01)
        await connection.close()
        return await answer

    assert converse(FakeOpa("hang"), talk).decision == "deny"


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h/path", "http://u@h", "nothing", "http://h?x=1"])
def test_what_is_no_address_of_a_server_is_refused(url):
    with pytest.raises(ValueError, match="hint"):
        Server(url)


def test_a_token_does_not_travel_in_the_clear():
    with pytest.raises(ValueError, match="clear"):
        Server("http://opa.example.org:8181", token="secret")
    Server("http://127.0.0.1:8181", token="secret")


WORDS = ["result", "revision", "asked", "packages", "office", "allow", "deny", "known"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
       | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)))  # fmt: skip
def test_no_answer_but_the_right_one_allows(answer):
    try:
        (found,) = findings(BUNDLE.packages, answer, REVISION, None, "q")
    except OpaError:
        return
    assert (answer["result"]["revision"], answer["result"]["asked"]) == (REVISION, "q")
    assert found.allow is (answer["result"]["packages"]["office"]["allow"] is True if found.error is None else False)


@pytest.mark.parametrize(
    "provenance", [{}, {"bundles": {}}, {"bundles": {"other": {"revision": REVISION}}}, {"bundles": {"assay": {"revision": "sha256:bb"}}}]
)
def test_a_bundle_whose_provenance_tells_no_or_another_revision_is_refused(provenance):
    good = repeating(GOOD, {"input": {"asked": "q"}})
    with pytest.raises(OpaError, match="revision"):
        findings(BUNDLE.packages, {**good, "provenance": provenance}, REVISION, "assay", "q")
    (found,) = findings(BUNDLE.packages, {**good, "provenance": {"bundles": {"assay": {"revision": REVISION}}}}, REVISION, "assay", "q")
    assert found.allow


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=30))
def test_an_open_breaker_admits_at_most_one_question_per_pause(steps):
    breaker, now_s, last_admitted = Breaker(2, 1.0), 0.0, -10.0
    for wait_s, succeeds in steps:
        now_s += wait_s
        was_open = breaker.is_open
        if breaker.admits(now_s):
            assert not was_open or now_s - last_admitted >= 1.0
            last_admitted = now_s
            breaker.note(succeeds, now_s)


NONSENSE: dict[str, Any] = {
    "nested without end": b"[" * 100_000,
    "a list": [1],
    "text where an object is due": {"result": "x"},
    "provenance that is a list": {"result": {"revision": PolicyServers._revision(BUNDLE)}, "provenance": []},
    "policies that are numbers": (200, {"result": [1, 2]}),
    "half a character": b'{"result": {"revision": "\\ud800"}}',
}


@pytest.mark.parametrize("bundle", [None, "assay"])
@pytest.mark.parametrize("name", NONSENSE)
def test_whatever_a_server_answers_the_controller_that_looks_after_it_goes_on(name: str, bundle: str | None, tmp_path: Path):
    async def conversation() -> int:
        async with FakeOpa(NONSENSE[name]) as fake:
            document = PolicyServerDocument(engine="opa", addresses=(fake.url,), timeout_us=50_000, bundle=bundle)
            servers = PolicyServers(Place(tmp_path, {}), {})
            with pytest.raises(NotPrepared):
                await servers.prepare(document, BUNDLE)
            servers.settle(document, BUNDLE)
            await servers.look()
            return servers._looks

    assert asyncio.run(conversation()) == 1


def test_a_server_that_takes_its_time_over_everything_holds_up_a_change_for_a_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(policy_servers, "BRING_S", 0.2)

    async def conversation() -> str:
        async with FakeOpa("hang") as fake:
            document = PolicyServerDocument(engine="opa", addresses=(fake.url,), timeout_us=50_000)
            with pytest.raises(NotPrepared) as refused:
                await PolicyServers(Place(tmp_path, {}), {}).prepare(document, BUNDLE)
            return str(refused.value)

    assert "within 0.2 s" in asyncio.run(conversation())
