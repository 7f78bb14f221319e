"""From a call to the vault: what a call hands over, when its reply waits, when it is refused; and the line to a real keeper."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lane_harness import BODY, REPLY, Answer, Harness, route, snapshot_of

from audit.store.errors import StoreBroken, StoreFull
from audit.vault.crypto import MasterKey
from audit.vault.entry import Entry, committed, decode_content
from audit.vault.keeper import EXIT_IO, EXIT_OK, Keeper
from audit.vault.store import VaultStore
from gateway.documents import CaptureDocument, VaultDocument
from gateway.keeping import MOST_ENTRIES, ROOM_ENTRIES, Line
from gateway.pseudonyms import commitment

PLAN = VaultDocument(retention_us=3_600_000_000, request={"/inputs": "keep"}, reply={"/outputs": "keep", "/score": "hash"})


class FakeLine(Line):
    """A line whose keeper answers when the test says so."""

    def __init__(self) -> None:
        super().__init__("n1.w0", 1, Path("/nowhere"))
        self.age_s = 0.0
        self.waiting = 0
        self.room = True

    def offer(self, item: bytes) -> int | None:
        return super().offer(item) if self.room else None

    def oldest_unacked_age_s(self, now_ns: int) -> float:
        del now_ns
        return self.age_s

    @property
    def unacked_count(self) -> int:
        return self.waiting

    def entries(self) -> list[Entry]:
        return [msgspec.msgpack.decode(item, type=Entry) for _, item in self._items]


def harness(line: FakeLine | None, answers: Any = (), **more: Any) -> Harness:
    found = Harness(snapshot_of([route(capture=CaptureDocument(prediction="/outputs/0/data/0", vault=PLAN), **more)]), answers=answers)
    found.lane.ledger.vault = line
    return found


def test_a_call_hands_over_its_fields_and_salts_and_its_record_commits_to_them():
    line = FakeLine()
    found = harness(line)
    reply = found.run()
    (record,) = found.terminals()
    (entry,) = line.entries()
    salts, said = decode_content(entry.content)
    assert (reply.status, entry.record, entry.unit, entry.tenant) == (200, record["id"], "u-1", "acme")
    assert record["payload"]["vault"] == committed(entry.content)
    assert record["payload"]["in"] == commitment(salts.salts(entry.record)[0], BODY)
    assert record["payload"]["out"] == commitment(salts.salts(entry.record)[1], REPLY)
    assert said["fields"]["request"] == {"/inputs": json.loads(BODY)["inputs"]}
    assert set(said["fields"]["reply"]) == {"/outputs", "/score"}
    assert entry.expires_us == entry.kept_us + PLAN.retention_us


def test_a_route_that_captures_nothing_begins_nothing(monkeypatch):
    monkeypatch.setattr("gateway.lane.Kept", lambda *_: pytest.fail("something was kept"))
    line = FakeLine()
    found = Harness()
    found.lane.ledger.vault = line
    assert found.run().status == 200
    assert line.entries() == []
    assert "vault" not in found.terminals()[0]["payload"]


def test_a_call_that_is_refused_leaves_nothing_and_one_whose_model_failed_leaves_its_request():
    line = FakeLine()
    refused = harness(line)
    assert refused.run(body=b'{"id": "", "inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}').status == 422
    assert line.entries() == []
    failed = harness(line, answers=[Answer(status=500, body=b'{"outputs": "secret"}')])
    assert failed.run().status == 500
    (entry,) = line.entries()
    assert set(decode_content(entry.content)[1]["fields"]) == {"request"}


@pytest.mark.parametrize("line", [None, FakeLine()], ids=["no vault", "a full one"])
def test_without_room_a_denying_route_refuses_before_the_model_is_called_and_a_degrading_one_says_what_is_lost(line):
    if line is not None:
        line.waiting = ROOM_ENTRIES + 1
    found = harness(line)
    assert found.run().document["code"] == "vault_unavailable"
    assert "send" not in str(found.points.passed)
    if line is not None:
        line.room = False
    degraded = harness(line, on_audit_unavailable="degrade")
    assert degraded.run().status == 200
    (record,) = degraded.terminals()
    assert (record["payload"]["vault_lost"], "vault" in record["payload"]) == (1, False)
    assert degraded.lane.counters.refused_early == {"vault_lost": 1}


def test_a_call_that_found_room_and_lost_it_is_not_answered_by_a_denying_route():
    line = FakeLine()
    line.room = False
    found = harness(line)
    assert found.run().document["code"] == "vault_unavailable"
    assert found.terminals()[0]["payload"]["vault_lost"] == 1


def test_calls_are_refused_when_an_entry_has_waited_for_over_a_second():
    line = FakeLine()
    line.age_s = 1.1
    assert harness(line).run().document["code"] == "vault_unavailable"


@pytest.mark.parametrize(("mode", "age_s", "waits"), [("batch", 0.0, False), ("batch", 0.06, True), ("sync", 0.0, True), ("async", 0.06, False)])
def test_a_reply_waits_for_the_vault_as_its_route_says(mode, age_s, waits):
    async def run() -> bool:
        line = FakeLine()
        line.age_s = age_s
        found = harness(line, audit=mode, risk="low")
        exchange = found.exchange()
        call = asyncio.create_task(found.lane.serve(exchange))
        for _ in range(200):
            await asyncio.sleep(0)
        has_waited = not call.done()
        line.acked_through = line.next_seq - 1
        for futures in line._waiters.values():
            for future in futures:
                future.set_result(0)
        await call
        assert exchange.status == 200
        return has_waited

    assert asyncio.run(run()) is waits


def test_a_wait_ends_with_the_deadline_of_the_call():
    async def run() -> Any:
        line = FakeLine()
        found = harness(line, audit="sync")
        exchange = found.exchange()
        call = asyncio.create_task(found.lane.serve(exchange))
        for _ in range(200):
            await asyncio.sleep(0)
        found.lane.ledger.sweep(time.monotonic_ns() + 10_000_000_000)
        await call
        return exchange.document["code"]

    assert asyncio.run(run()) == "vault_unavailable"


# --- the line and a real keeper


def item(record: str) -> bytes:
    return msgspec.msgpack.encode(Entry(record, "acme", "ab" * 16, "unit", 1, 2**52, b"s" * 40))


@asynccontextmanager
async def keeping(vault: Any, path: Path) -> AsyncIterator[asyncio.Task[int]]:
    """Run a keeper on a socket at `path`."""
    listener = _bound(path)
    listener.listen()
    listener.setblocking(False)
    stop = asyncio.Event()
    task = asyncio.create_task(Keeper(vault).serve(listener, stop))
    try:
        yield task
    finally:
        stop.set()
        await task


def _bound(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    return listener


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for is another party's state, which tells nobody
            await asyncio.sleep(0.01)


class Unsteady:
    """A vault that fails when it is told to, then keeps in memory."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.kept: list[str] = []

    def keep(self, entries: list[Entry], _now_us: int) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.kept += [entry.record for entry in entries]


def test_what_is_acknowledged_is_in_the_vault_and_a_burst_arrives_whole(tmp_path):
    async def run() -> None:
        with VaultStore.open(tmp_path / "data", MasterKey(b"m" * 32)) as vault:
            async with keeping(vault, tmp_path / "s"):
                line = Line("n1.w0", 1, tmp_path / "s")
                line.open()
                for number in range(1000):
                    line.offer(item(f"r{number}"))
                await until(lambda: line.acked_through == 999)
                assert {vault.read(f"r{number}", 5).state for number in (0, 500, 999)} == {"kept"}
                assert await line.close(deadline_s=1) == 0

    asyncio.run(run())


def test_entries_are_held_while_no_keeper_answers_and_sent_again_to_the_next(tmp_path):
    async def run() -> None:
        line = Line("n1.w0", 1, tmp_path / "s")
        line.open()
        line.offer(item("before"))
        vault = Unsteady(StoreFull("no space"), StoreBroken("a write failed"))
        async with keeping(vault, tmp_path / "s") as first:
            await until(first.done)  # refused once and tried again, then broken
            assert first.result() == EXIT_IO
        assert (line.acked_through, line.unacked_count) == (-1, 1)
        async with keeping(vault, tmp_path / "s"):
            line.offer(item("after"))
            await until(lambda: line.acked_through == 1)
        assert vault.kept == ["before", "after"]
        await line.close(deadline_s=1)

    asyncio.run(run())


def test_a_defect_ends_the_keeper_loudly_and_what_was_sent_is_held(tmp_path):
    async def run() -> None:
        line = Line("n1.w0", 1, tmp_path / "s")
        line.open()
        line.offer(item("r"))
        with pytest.raises(ZeroDivisionError):
            async with keeping(Unsteady(ZeroDivisionError()), tmp_path / "s") as task:
                await until(task.done)
        assert (line.acked_through, line.unacked_count) == (-1, 1)
        await line.close(deadline_s=0)

    asyncio.run(run())


def test_a_stopped_keeper_ends_well_and_a_stranger_who_sends_garbage_holds_up_nobody(tmp_path):
    async def run() -> None:
        vault = Unsteady()
        async with keeping(vault, tmp_path / "s") as task:
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            writer.write(b"\xff" * 100)
            assert await reader.read() == b""
            writer.close()
            line = Line("n1.w0", 1, tmp_path / "s")
            line.open()
            line.offer(item("r"))
            await until(lambda: line.acked_through == 0)
            await line.close(deadline_s=1)
        assert task.result() == EXIT_OK

    asyncio.run(run())


def test_the_line_is_bounded_and_says_how_many_entries_it_takes_to_its_end(tmp_path):
    async def run() -> None:
        line = Line("n1.w0", 1, tmp_path / "nobody")
        for _ in range(MOST_ENTRIES):
            assert line.offer(b"x") is not None
        assert line.offer(b"x") is None
        assert line.offer(b"x" * 70_000) is None
        with suppress(TimeoutError):
            assert await line.close(deadline_s=0.01) == MOST_ENTRIES

    asyncio.run(run())
