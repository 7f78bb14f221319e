"""kill -9 under load: what was acknowledged is there once, at its index; what was lost is stated, exactly."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest
from recorder_process import RecorderProcess, start_writer, wait_until

from audit import note, tiles
from audit.follow import follow
from audit.keys import SigningKey
from audit.merkle import leaf_hashes, root
from audit.publisher import Publisher
from audit.store import layout
from audit.store.control import ControlStore

KEY = SigningKey.generate("log.example/kill", seed=b"k" * 32)
CYCLES = int(os.environ.get("ASSAY_KILL_CYCLES", "10"))
SLOW_CYCLES = int(os.environ.get("ASSAY_KILL_CYCLES_SLOW", "500"))


class Writer:
    """One life of a writer process, and what the judge knows of it."""

    def __init__(self, data_dir: Path, node: str, serial: int) -> None:
        self.node = node
        self.judge_path = data_dir.parent / f"judge-{node}-{serial}.acks"
        self.process: subprocess.Popen[bytes] = start_writer(data_dir, node, self.judge_path)
        self.was_killed = False

    def lines(self) -> list[list[str]]:
        text = self.judge_path.read_text() if self.judge_path.exists() else ""
        return [line.split() for line in text.split("\n")[:-1]]

    @property
    def epoch(self) -> int | None:
        """None if it was killed before it wrote its first line; its mark then tells."""
        mark = self.mark()
        return None if mark is None else mark[1]

    def mark(self) -> tuple[int, int] | None:
        """(last assigned, epoch) of the high-water mark, through the judge's own link to it."""
        path = self.judge_path.with_suffix(".hwm")
        if not path.exists():
            return None
        _, assigned, _, epoch = struct.unpack_from("=8sqqq", path.read_bytes())
        return assigned, epoch

    def acked_runs(self) -> list[tuple[int, int, int]]:
        return [(int(a), int(b), int(c)) for a, b, c in self.lines() if a.isdigit()]

    def is_acked(self) -> bool:
        return bool(self.acked_runs())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.was_killed = True


def run_cycles(data_dir: Path, cycles: int, seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311 - times of death, to be repeatable
    recorder = RecorderProcess(data_dir, is_first_start=True)
    recorder.start()
    lives: list[Writer] = []
    writers = {f"n1.w{n}": Writer(data_dir, f"n1.w{n}", 0) for n in range(2)}
    lives += writers.values()
    try:
        for cycle in range(1, cycles + 1):
            kind = ("recorder", "writer", "everything")[cycle % 3]
            wait_until(lambda: all(writer.is_acked() for writer in writers.values()), 20)
            time.sleep(draw.uniform(0.0, 0.25))
            victims = list(writers) if kind == "everything" else [draw.choice(list(writers))] if kind == "writer" else []
            if kind != "writer":
                recorder.kill()
            for node in victims:
                writers[node].kill()
            if kind != "writer":
                recorder.start()
            for node in victims:
                writers[node] = Writer(data_dir, node, cycle)
                lives.append(writers[node])
        wait_until(lambda: all(writer.is_acked() for writer in writers.values()), 20)
        for writer in writers.values():
            writer.process.terminate()
            assert writer.process.wait(60) == 0
        # Every death has been judged once no mark of a dead writer is left.
        wait_until(lambda: not list((data_dir / "run").glob("hwm-*")))
        assert recorder.terminate() == (0, "")
    finally:
        recorder.close()
        for life in lives:
            if life.process.poll() is None:
                life.kill()
    judge(data_dir, lives)


def judge(data_dir: Path, lives: list[Writer]) -> None:
    rows = list(follow(data_dir, 0))
    assert [index for index, _ in rows] == list(range(len(rows)))
    records = [json.loads(leaf) for _, leaf in rows]
    by_writer: dict[tuple[str, int], list[tuple[int, dict]]] = {}
    for index, record in enumerate(records):
        writer = record["writer"]
        by_writer.setdefault((writer["node"], writer["epoch"]), []).append((index, record))
    for numbered in by_writer.values():
        assert [record["writer"]["seq"] for _, record in numbered] == list(range(len(numbered))), "numbers of a writer have no gap, no double"
    ends = {(record["node"], record["epoch"]): record for record in records if record["type"] in {"log.lost", "log.recover"}}
    assert len(ends) == sum(record["type"] in {"log.lost", "log.recover"} for record in records), "an end is stated once"
    lost = 0
    for life in lives:
        lost += judge_life(life, by_writer, ends)
    judge_recorders(by_writer, ends)
    judge_tree(data_dir, [leaf for _, leaf in rows])
    print(f"{len(rows)} records, {len(lives)} writer lives, {lost} stated as lost")  # noqa: T201 - shown by `pytest -s`: how hard the run was


def judge_life(life: Writer, by_writer, ends) -> int:
    mark = life.mark()
    if mark is None:
        return 0  # killed before it had a name
    assigned, epoch = mark
    committed = by_writer.get((life.node, epoch), [])
    for first_seq, count, first_index in life.acked_runs():
        for offset in range(count):
            index, record = committed[first_seq + offset]
            assert index == first_index + offset, "an acknowledged record lies at its index"
            if record["type"] == "test":
                assert record["id"] == f"{life.node}-{epoch}-{first_seq + offset}"
    end = ends.get((life.node, epoch))
    if not life.was_killed:
        assert end is None
        assert committed[-1][1]["type"] == "writer.close"
        return 0
    assert end is not None, "a death is stated"
    if assigned >= len(committed):
        assert (end["type"], end["from"], end["to"]) == ("log.lost", len(committed), assigned)
        return assigned - len(committed) + 1
    assert (end["type"], end["last"]) == ("log.recover", assigned)
    return 0


def judge_recorders(by_writer, ends) -> None:
    epochs = sorted(epoch for node, epoch in by_writer if node == "n1.recorder")
    for epoch in epochs[:-1]:
        assert ends[("n1.recorder", epoch)]["type"] == "log.recover", "a killed recorder's epoch is stated as ended without loss"
    assert by_writer["n1.recorder", epochs[-1]][-1][1]["type"] == "writer.close"


def judge_tree(data_dir: Path, leaves: list[bytes]) -> None:
    control = ControlStore.open(data_dir)
    control.lead("n1.controller", 0)
    publisher = Publisher.open(data_dir, control, [KEY])
    while publisher.publish_once():
        pass
    publisher.close()
    control.close()
    log = layout.log_dir(data_dir)
    signed = note.open_checkpoint((log / "checkpoint").read_bytes(), [KEY.verifier]).checkpoint
    assert (signed.size, signed.root) == (len(leaves), root(leaf_hashes(leaves)))
    assert tiles.TileReader(lambda path: (log / path).read_bytes() if (log / path).exists() else None, signed.size).root() == signed.root


def test_killing_recorder_writer_or_everything_loses_no_acknowledged_record(tmp_path):
    run_cycles(tmp_path / "data", CYCLES, seed=1)


def test_what_a_dead_writer_had_numbered_and_nobody_holds_is_stated_to_the_record(tmp_path):
    """The recorder is stopped and dies with what lies unread in its socket; the writer dies with what it had not sent. A loss without luck."""
    data_dir = tmp_path / "data"
    recorder = RecorderProcess(data_dir, is_first_start=True)
    recorder.start()
    writer = Writer(data_dir, "n1.w0", 0)
    try:
        wait_until(writer.is_acked, 20)
        os.kill(recorder.pid, signal.SIGSTOP)
        before = writer.mark()
        wait_until(lambda: writer.mark()[0] > before[0] + 200)
        writer.kill()
        assigned, epoch = writer.mark()
        recorder.kill()
        recorder.start()
        wait_until(lambda: not list((data_dir / "run").glob("hwm-*")))
        assert recorder.terminate() == (0, "")
    finally:
        recorder.close()
        if writer.process.poll() is None:
            writer.kill()
    records = [json.loads(leaf) for _, leaf in follow(data_dir, 0)]
    committed = [record for record in records if record["writer"] == {**record["writer"], "node": "n1.w0", "epoch": epoch}]
    (lost,) = [record for record in records if record["type"] == "log.lost"]
    assert (lost["node"], lost["epoch"], lost["from"], lost["to"]) == ("n1.w0", epoch, len(committed), assigned)
    assert assigned - len(committed) > 100, "what lay between is gone, and counted"
    judge(data_dir, [writer])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_kills_lose_no_acknowledged_record(tmp_path):
    run_cycles(tmp_path / "data", SLOW_CYCLES, seed=2)
