"""Every write of a real recorder fails, or is its last: nothing is acknowledged that is not there, and the next recorder goes on."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from recorder_process import RecorderProcess, new_journal

from audit.follow import follow
from audit.journal import Journal, JournalUnavailable

pytestmark = pytest.mark.component("strace")
EVERY = int(os.environ.get("ASSAY_FAULT_EVERY", "5"))
ROUNDS = 12


def record(number: int) -> dict[str, object]:
    return {"v": 1, "type": "test", "note": f"{number} " + "x" * 900}


async def write_through(recorder: RecorderProcess, inject: str) -> tuple[list[tuple[int, int]], int]:
    """Write records one by one while a fault strikes; start the recorder again when it ends. Return (seq, index) acknowledged, and deaths."""
    recorder.start(inject=[inject])
    journal = new_journal(recorder.data_dir)
    acked: list[tuple[int, int]] = []
    deaths = 0

    async def keep_alive() -> None:
        nonlocal deaths
        while True:
            if not recorder.is_running():
                status, words = recorder.end()
                assert status in {74, -9, 137}, (status, words)
                deaths += 1
                recorder.start()
            await asyncio.sleep(0.01)

    keeper = asyncio.create_task(keep_alive())
    await journal.open(deadline_s=30)
    for number in range(ROUNDS):
        seq = journal.append(record(number))
        journal.flush()
        acked.append((seq, await asyncio.wait_for(journal.committed(seq), 30)))
        assert keeper.done() is False
    await journal.close(deadline_s=30)
    keeper.cancel()
    assert recorder.is_running()
    status, words = recorder.terminate()
    if status in {74, -9, 137}:  # the fault struck in its very last flush: the next one reads what is there, as after any other
        deaths += 1
        recorder.start()
        after = new_journal(recorder.data_dir, "n1.w1")
        await after.open(deadline_s=30)
        await after.close(deadline_s=30)
        status, words = recorder.terminate()
    assert (status, words) == (0, "")
    return acked, deaths


def judge(data_dir: Path, acked: list[tuple[int, int]], node: str = "n1.w0") -> None:
    rows = list(follow(data_dir, 0))
    assert [index for index, _ in rows] == list(range(len(rows)))
    own = [(index, json.loads(leaf)["writer"]["seq"]) for index, leaf in rows if json.loads(leaf)["writer"]["node"] == node]
    assert [seq for _, seq in own] == list(range(len(own))), "no number missing, none twice"
    at = {seq: index for index, seq in own}
    assert all(at[seq] == index for seq, index in acked), "acknowledged at its index"


def strike(tmp_path: Path, fault: str, whens: range) -> int:
    """Run once for each occurrence of the call at which the fault strikes; return how many struck."""
    struck = 0
    for when in whens:
        recorder = RecorderProcess(tmp_path / str(when))
        try:
            acked, deaths = asyncio.run(write_through(recorder, f"{fault}:when={when}"))
            judge(recorder.data_dir, acked)
            struck += bool(deaths)
        except BaseException as error:
            error.add_note(f"fault `{fault}` at occurrence {when}")
            raise
        finally:
            recorder.close()
    return struck


@pytest.mark.parametrize("fault", ["fdatasync:error=EIO", "pwrite64:error=EIO"])
def test_an_io_error_ends_the_recorder_and_the_next_one_reads_what_is_there(tmp_path, fault):
    assert strike(tmp_path, fault, range(3, 3 + 4 * EVERY, EVERY)) >= 2


@pytest.mark.parametrize("fault", ["fdatasync:signal=KILL", "pwrite64:signal=KILL"])
def test_a_kill_at_a_write_or_a_flush_loses_nothing_acknowledged(tmp_path, fault):
    assert strike(tmp_path, fault, range(4, 4 + 4 * EVERY, EVERY)) >= 2


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    "fault", ["fdatasync:error=EIO", "pwrite64:error=EIO", "fdatasync:signal=KILL", "pwrite64:signal=KILL", "sendto:signal=KILL"]
)
def test_a_fault_at_every_single_call_loses_nothing_acknowledged(tmp_path, fault):
    assert strike(tmp_path, fault, range(1, 40)) >= 10


def test_a_full_disk_reported_at_any_write_is_waited_out_without_a_restart(tmp_path):
    """ENOSPC from the system, twice in a row, then space again. At a start it is the parent that tries again (exit code 74)."""
    for when in (40, 44, 49):
        recorder = RecorderProcess(tmp_path / str(when))
        try:
            acked, deaths = asyncio.run(write_through(recorder, f"pwrite64:error=ENOSPC:when={when}..{when + 1}"))
            judge(recorder.data_dir, acked)
            assert deaths == 0
            assert "(INJECTED)" in recorder.trace_path.read_text(), "the fault struck"
        finally:
            recorder.close()


def test_nothing_is_acknowledged_while_its_flush_runs_and_a_kill_in_it_leaves_no_promise(tmp_path):
    """A disk whose flush takes 2 s. A recorder that acknowledged before its commit would answer at once, and lose the record to the kill."""
    recorder = RecorderProcess(tmp_path / "data")

    async def run() -> None:
        recorder.start()
        journal = new_journal(recorder.data_dir)
        await journal.open(deadline_s=20)
        recorder.kill()
        recorder.start(inject=["fdatasync:delay_enter=2000000"])
        seq = journal.append(record(0))
        journal.flush()
        acked = journal.add_waiter(seq)
        wait_s = time.monotonic() + 1.5
        while time.monotonic() < wait_s:
            await asyncio.sleep(0.01)
            assert not acked.done(), "acknowledged while the flush runs"
        recorder.kill()
        assert [json.loads(leaf)["writer"]["seq"] for _, leaf in follow(recorder.data_dir, 0) if b'"note"' in leaf] in ([], [seq])
        recorder.start()
        index = await asyncio.wait_for(acked, 20)
        await journal.close(deadline_s=20)
        judge(recorder.data_dir, [(seq, index)])

    try:
        asyncio.run(run())
    finally:
        recorder.close()


def test_a_slow_disk_bounds_the_queue_and_loses_nothing(tmp_path):
    """Flushes of 300 ms: 4 callers at once, one commit for all of them, memory bounded by the journal's limits, every record there once."""
    recorder = RecorderProcess(tmp_path / "data")

    async def run() -> tuple[list[tuple[int, int]], float]:
        recorder.start(inject=["fdatasync:delay_enter=300000"])
        journal = new_journal(recorder.data_dir)
        await journal.open(deadline_s=30)
        start_s = time.monotonic()

        async def call(number: int) -> list[tuple[int, int]]:
            return [(seq, await journal.committed(seq)) for seq in [journal.append(record(number))] for _ in [journal.flush()]]

        acked = [pair for each in [await asyncio.gather(*[call(n) for n in range(16)]) for _ in range(3)] for pairs in each for pair in pairs]
        took_s = time.monotonic() - start_s
        await journal.close(deadline_s=30)
        return acked, took_s

    try:
        acked, took_s = asyncio.run(run())
        assert len(acked) == 48
        assert took_s < 16 * 0.3, "callers that wait at once share a flush"
        judge(recorder.data_dir, acked)
    finally:
        recorder.close()


def test_a_writer_refuses_new_records_rather_than_grow_while_the_disk_hangs(tmp_path):
    recorder = RecorderProcess(tmp_path / "data")

    async def run() -> None:
        recorder.start(inject=["fdatasync:delay_enter=5000000:when=4+"])
        journal: Journal = new_journal(recorder.data_dir)
        with pytest.raises(JournalUnavailable):
            await journal.open(deadline_s=1.0)

    try:
        asyncio.run(run())
    finally:
        recorder.close()


def test_the_first_bytes_a_writer_gets_are_an_acknowledgement_of_what_is_committed(tmp_path):
    """Seen from outside at every acknowledgement: the row is already there for any reader."""
    recorder = RecorderProcess(tmp_path / "data")

    async def run() -> int:
        recorder.start()
        journal = new_journal(recorder.data_dir)
        seen: list[int] = []

        def on_ack(first: int, count: int, index: int) -> None:
            rows = list(follow(recorder.data_dir, index, until=index + count))
            assert [json.loads(leaf)["writer"]["seq"] for _, leaf in rows] == list(range(first, first + count))
            seen.append(count)

        journal.on_ack.append(on_ack)
        await journal.open(deadline_s=20)
        for number in range(20):
            await journal.committed(journal.append(record(number)))
        await journal.close(deadline_s=20)
        return sum(seen)

    try:
        assert asyncio.run(run()) == 22
    finally:
        recorder.close()
