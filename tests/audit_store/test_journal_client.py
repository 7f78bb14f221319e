"""The journal: numbers without gaps, bounded, sent again after a reconnect, honest about what is committed."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from recorder_process import RecorderProcess, new_journal, wait_until

from audit import wire
from audit.follow import follow
from audit.highwater import read_if_abandoned
from audit.journal import IndexForgotten, JournalFailed, JournalFull, JournalUnavailable, Limits
from audit.leaf import LeafError

pytestmark = pytest.mark.filterwarnings("error")


def record(**more: object) -> dict:
    return {"v": 1, "type": "test", **more}


@pytest.fixture
def recorder(tmp_path):
    process = RecorderProcess(tmp_path / "data")
    process.start()
    yield process
    process.close()


def rows(recorder: RecorderProcess) -> list[dict]:
    return [json.loads(leaf) for _, leaf in follow(recorder.data_dir, 0)]


def test_a_record_is_committed_at_the_index_that_is_told(recorder):
    async def run():
        journal = new_journal(recorder.data_dir)
        acks = []
        journal.on_ack.append(lambda *run: acks.append(run))
        await journal.open(deadline_s=20)
        seqs = [journal.append(record(n=n)) for n in range(600)]
        indices = [await journal.committed(seq) for seq in seqs]
        assert journal.acked_through == seqs[-1]
        assert (journal.unacked_count, journal.unacked_bytes) == (0, 0)
        assert await journal.committed(seqs[3]) == indices[3], "asked again after the fact"
        await journal.close(deadline_s=10)
        return seqs, indices, acks

    seqs, indices, acks = asyncio.run(run())
    assert seqs == list(range(1, 601))
    found = rows(recorder)
    assert [found[index]["n"] for index in indices] == list(range(600))
    assert sum(count for _, count, _ in acks) == 602
    assert [record["type"] for record in found][-1] == "writer.close"
    assert found[-1]["last_seq"] == found[-1]["writer"]["seq"] == 601


def test_a_waiter_needs_no_task(recorder):
    async def run():
        journal = new_journal(recorder.data_dir)
        await journal.open(deadline_s=20)
        done = asyncio.Event()
        future = journal.add_waiter(journal.append(record()))
        future.add_done_callback(lambda _: done.set())
        await asyncio.wait_for(done.wait(), 10)
        assert len(asyncio.all_tasks()) == 2, "the test's own and the connector"
        await journal.close(deadline_s=10)
        assert len(asyncio.all_tasks()) == 1
        return future.result()

    assert asyncio.run(run()) > 0


def test_callers_that_wait_at_one_moment_share_a_batch(recorder):
    async def run():
        journal = new_journal(recorder.data_dir)
        await journal.open(deadline_s=20)
        seqs = []
        for _ in range(20):
            seqs.append(journal.append(record()))
            journal.flush_soon()
        assert len(journal._closed) == 0, "nothing has left yet"
        await asyncio.sleep(0)
        assert len(journal._closed) <= 1, "one batch for all of them"
        start = asyncio.get_running_loop().time()
        indexes = [await journal.committed(seq) for seq in seqs]
        waited = asyncio.get_running_loop().time() - start
        await journal.close(deadline_s=10)
        return indexes, waited

    indexes, waited = asyncio.run(run())
    assert indexes == list(range(indexes[0], indexes[0] + 20))
    assert waited < 5


def test_a_lone_record_leaves_within_the_flush_time(recorder):
    async def run():
        journal = new_journal(recorder.data_dir)
        await journal.open(deadline_s=20)
        loop = asyncio.get_running_loop()
        waits = []
        for _ in range(20):
            start = loop.time()
            await journal.committed(journal.append(record()))
            waits.append(loop.time() - start)
        await journal.close(deadline_s=10)
        return sorted(waits)

    assert asyncio.run(run())[5] < 0.1


def test_records_written_while_the_recorder_is_down_arrive_once_when_it_is_back(recorder):
    async def run():
        journal = new_journal(recorder.data_dir)
        await journal.open(deadline_s=20)
        first = [journal.append(record()) for _ in range(300)]
        journal.flush()
        recorder.kill()
        later = [journal.append(record()) for _ in range(700)]
        await asyncio.sleep(0.1)
        assert journal.oldest_unacked_age_s(journal._mono_ns()) > 0.05
        recorder.start()
        indices = [await asyncio.wait_for(journal.committed(seq), 20) for seq in (*first, *later)]
        assert journal.oldest_unacked_age_s(journal._mono_ns()) == 0
        await journal.close(deadline_s=10)
        return indices

    indices = asyncio.run(run())
    mine = [(index, row["writer"]["seq"]) for index, row in enumerate(rows(recorder)) if row["writer"]["node"] == "n1.w0" and row["type"] == "test"]
    assert mine == list(zip(indices, range(1, 1001), strict=True))


def test_the_queue_is_bounded_in_records_and_in_bytes_and_a_refused_append_uses_no_number(tmp_path):
    async def run():
        for limits in (Limits(records=3, leaf_bytes=1 << 20), Limits(records=100, leaf_bytes=300)):
            journal = new_journal(tmp_path, limits=limits)
            for seq in range(3):
                assert journal.append(record(note="x" * 40)) == seq
            with pytest.raises(JournalFull):
                journal.append(record())
            assert journal._highwater.assigned == 2
            await journal._shut()

    asyncio.run(run())


def test_what_is_no_leaf_uses_no_number(tmp_path):
    async def run():
        journal = new_journal(tmp_path)
        with pytest.raises(LeafError):
            journal.append(record(ratio=0.5))
        assert (journal.append(record()), journal._highwater.assigned) == (0, 0)
        await journal._shut()

    asyncio.run(run())


def test_batches_keep_within_the_frame_limits(tmp_path):
    async def run():
        journal = new_journal(tmp_path)
        for size in (59_000,) * 40 + (10,) * 600:
            journal.append(record(note="x" * size))
        journal.flush()
        batches = [(batch.first_seq, len(batch.leaves), sum(map(len, batch.leaves))) for batch in journal._closed]
        await journal._shut()
        return batches

    batches = asyncio.run(run())
    assert all(count <= wire.BATCH_RECORDS and size <= wire.BATCH_BYTES for _, count, size in batches)
    assert [first for first, _, _ in batches] == [sum(count for _, count, _ in batches[:at]) for at in range(len(batches))]


def test_without_a_recorder_opening_fails_in_time_and_leaves_the_count_of_what_was_numbered(tmp_path):
    async def run():
        journal = new_journal(tmp_path)
        with pytest.raises(JournalUnavailable, match="hint"):
            await journal.open(deadline_s=0.1)
        with pytest.raises(JournalFailed):
            journal.append(record())
        assert len(asyncio.all_tasks()) == 1
        return journal._highwater.path

    mark = read_if_abandoned(asyncio.run(run()))
    assert (mark.assigned, mark.acked) == (0, -1)


async def scripted(data_dir, answers: list[bytes], use) -> None:
    """Serve one connection that reads the first batch, then says what the test wants."""

    async def serve(reader, writer):
        await reader.read(100)
        for answer in answers:
            writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await reader.read(1 << 20)
        writer.close()

    (data_dir / "run").mkdir()
    server = await asyncio.start_unix_server(serve, str(data_dir / "run" / "recorder.sock"))
    async with server:
        await use(new_journal(data_dir))


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (wire.encode_refusal("sequence.gap", "text"), "sequence.gap"),
        (wire.encode_ack(5, 1, 0), "recorder.frame"),
        (wire.encode_ack(0, 9, 0), "recorder.frame"),
        (b"\0\0\0\0\0", "recorder.frame"),
    ],
)
def test_a_final_refusal_or_a_false_answer_fails_the_journal_and_tells_every_waiter(tmp_path, answer, code):
    async def use(journal):
        with pytest.raises(JournalFailed) as failed:
            await journal.open(deadline_s=10)
        assert failed.value.code == code
        with pytest.raises(JournalFailed):
            journal.append(record())

    asyncio.run(scripted(tmp_path, [answer], use))


def test_an_index_asked_for_long_after_is_not_guessed(tmp_path):
    async def run():
        journal = new_journal(tmp_path)
        journal.append(record())
        journal.acked_through = 0
        with pytest.raises(IndexForgotten):
            await journal.committed(0)
        with pytest.raises(ValueError, match="not given out"):
            journal.add_waiter(1)
        await journal._shut()

    asyncio.run(run())


def test_a_cleanly_closed_writer_leaves_no_mark_and_no_statement_of_loss(recorder):
    async def run():
        journal = new_journal(recorder.data_dir)
        await journal.open(deadline_s=20)
        await journal.close(deadline_s=10)
        await journal.close(deadline_s=10)

    asyncio.run(run())
    wait_until(lambda: not list((recorder.data_dir / "run").glob("hwm-*")))
    assert [row["type"] for row in rows(recorder)] == ["writer.open", "writer.open", "writer.close"]


BREAK_THE_FOURTH_APPEND = """
from audit.store.errors import StoreBroken
from audit.store.ranges import RangeFile
real, calls = RangeFile.append, []
def append(self, *values):
    calls.append(1)
    if len(calls) == 4:
        {stored}
        raise StoreBroken("injected: flush failed")
    real(self, *values)
RangeFile.append = append
"""


@pytest.mark.parametrize("stored", ["pass", "real(self, *values)"], ids=["nothing stored", "all stored"])
def test_after_a_failed_flush_the_recorder_ends_and_the_next_one_settles_what_was_in_doubt(tmp_path, stored):
    recorder = RecorderProcess(tmp_path / "data")
    recorder.start(faults=BREAK_THE_FOURTH_APPEND.format(stored=stored))

    async def run():
        journal = new_journal(recorder.data_dir)
        await journal.open(deadline_s=20)
        await journal.committed(journal.append(record(n=0)))
        doubtful = journal.append(record(n=1))
        waiter = journal.add_waiter(doubtful)
        code, stderr = await asyncio.to_thread(recorder.end)
        assert code == 74
        assert "flush failed" in stderr
        assert not waiter.done(), "neither told as committed nor as lost"
        recorder.start()
        index = await asyncio.wait_for(waiter, 20)
        await journal.close(deadline_s=10)
        return index

    try:
        index = asyncio.run(run())
    finally:
        recorder.close()
    found = rows(recorder)
    assert found[index]["n"] == 1
    assert [row["n"] for row in found if row["type"] == "test"] == [0, 1]
