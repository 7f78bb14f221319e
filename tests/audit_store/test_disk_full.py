"""A full disk: records wait, nothing half-written, everything goes in once there is space again. On a small tmpfs of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess

import pytest
from recorder_process import RecorderProcess, new_journal, wait_until

from audit.follow import follow
from audit.highwater import HighWaterError
from audit.journal import JournalFull, Limits


@pytest.fixture
def small_disk(tmp_path):
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", mount_point], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a small tmpfs is not permitted here: {mounted.stderr.decode().strip()}; run as root to cover the full disk")
    yield mount_point
    subprocess.run(["umount", "-l", mount_point], check=True)


def test_a_full_disk_holds_records_back_and_resumes_by_itself_with_each_record_once(small_disk):
    recorder = RecorderProcess(small_disk / "data")
    recorder.start()
    ballast = small_disk / "ballast"

    async def run():
        journal = new_journal(small_disk / "data", limits=Limits(records=400))
        await journal.open(deadline_s=20)
        before = [journal.append({"v": 1, "type": "test", "note": "x" * 500}) for _ in range(50)]
        await journal.committed(before[-1])
        fill(ballast)
        held, refused = [], 0
        for _ in range(20_000):
            try:
                held.append(journal.append({"v": 1, "type": "test", "note": "x" * 500}))
            except JournalFull:
                refused += 1
                if journal.oldest_unacked_age_s(journal._mono_ns()) > 0.5:
                    break
            await asyncio.sleep(0.001)
        assert refused, "with a full disk the bounded queue fills"
        assert journal.failure is None
        assert recorder.is_running(), "the recorder waits, it does not end"
        acked_while_full = journal.acked_through
        assert len(list(follow(small_disk / "data", 0))) == acked_while_full + 2, "committed is what was acknowledged, and the recorder's own"
        ballast.unlink()
        indices = [await asyncio.wait_for(journal.committed(seq), 20) for seq in held if seq > acked_while_full]
        assert indices
        await journal.close(deadline_s=20)
        return before + held

    try:
        seqs = asyncio.run(run())
        wait_until(lambda: not list((small_disk / "data" / "run").glob("hwm-*")))
        assert recorder.terminate() == (0, "")
    finally:
        recorder.close()
    records = [json.loads(leaf) for _, leaf in follow(small_disk / "data", 0)]
    assert [record["writer"]["seq"] for record in records if record["type"] == "test"] == seqs
    assert not [record for record in records if record["type"] == "log.lost"]


def fill(path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            while True:
                try:
                    file.write(os.urandom(size))
                except OSError:
                    break


def test_a_recorder_that_starts_on_a_full_disk_serves_as_soon_as_there_is_space(small_disk):
    recorder = RecorderProcess(small_disk / "data")
    recorder.start()
    wait_until(lambda: bool(list(follow(small_disk / "data", 0))))
    recorder.kill()

    async def run():
        journal = new_journal(small_disk / "data")
        fill(small_disk / "ballast")
        with pytest.raises(HighWaterError, match="hint: free space"):
            new_journal(small_disk / "data", "n1.w1")
        recorder.start()
        opening = asyncio.get_running_loop().create_task(journal.open(deadline_s=30))
        await asyncio.sleep(1)
        (small_disk / "ballast").unlink()
        while not recorder.is_running() and not opening.done():
            recorder.end()
            recorder.start()
            await asyncio.sleep(0.2)
        await opening
        await journal.close(deadline_s=10)

    try:
        asyncio.run(run())
    finally:
        recorder.close()
    assert [json.loads(leaf)["type"] for _, leaf in follow(small_disk / "data", 0)].count("writer.close") == 1
