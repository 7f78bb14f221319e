"""Power cut after every single write of the store and the publisher: what is left opens, verifies, and holds all that had been promised."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from write_trace import Disk, Operation, record

from audit import note
from audit.follow import follow
from audit.keys import SigningKey
from audit.merkle import leaf_hashes, root
from audit.publisher import Publisher
from audit.source import open_directory
from audit.store import layout
from audit.store.control import ControlStore
from audit.store.leaves import LeafStore
from audit.verify import verify_log

pytestmark = pytest.mark.component("strace")
KEY = SigningKey.generate("log.example/power", seed=b"w" * 32)
SEED = 20261121
PROGRAM = """
import os, random, sys
from pathlib import Path
from audit.keys import SigningKey
from audit.publisher import Publisher
from audit.store.control import ControlStore
from audit.store.leaves import LeafStore

data, notes = Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
rounds, first, lives = (int(text) for text in sys.argv[3:])
key = SigningKey.generate("log.example/power", seed=b"w" * 32)
draw = random.Random(first)
seq = 0
for life in range(lives):
    writer = ("n1.w0", 10 + life)
    store, control = LeafStore.open(data), ControlStore.open(data)
    control.lead("n1.controller", 0)
    publisher = Publisher.open(data, control, [key])
    seq = 0
    for _ in range(rounds):
        count = draw.choice([1, 3, 40])
        store.stage(writer, seq, [b"%d.%d " % (life, n) + b"x" * draw.choice([10, 600, 5000]) for n in range(seq, seq + count)])
        store.commit()
        os.write(notes, b"acknowledged %d\\n" % store.next_index)
        seq += count
        if draw.random() < 0.4:
            publisher.publish_once()
            os.write(notes, b"signed %d\\n" % publisher.size)
        store.housekeep(idle=draw.random() < 0.3)
    publisher.close()
    control.close()
    store.close()
"""


def trace(tmp_path: Path, rounds: int, lives: int) -> list[Operation]:
    (tmp_path / "data").mkdir()
    arguments = [str(tmp_path / "data"), str(tmp_path / "notes"), str(rounds), str(SEED), str(lives)]
    return record(PROGRAM, arguments, tmp_path / "data", tmp_path / "notes")


def promised(disk: Disk, kind: str) -> int:
    return max([int(line.split()[1]) for line in disk.notes if line.startswith(kind)], default=0)


def judge(data: Path, disk: Disk, leaves: list[bytes]) -> None:
    """Open what is left as the next recorder and controller do; then add to it, sign it, and verify it as a stranger does."""
    store = LeafStore.open(data)
    kept = [leaf for _, leaf in follow(data, 0)]
    assert kept == leaves[: len(kept)], "what is kept is a prefix of what was written"
    assert promised(disk, "acknowledged") <= len(kept), "what was acknowledged is there"
    store.stage(("n2.w0", 99), 0, [b"after the cut"])
    store.commit()
    control = ControlStore.open(data)
    control.lead("n1.controller", 1)
    head = control.head()
    assert promised(disk, "signed") <= (head.size if head else 0) <= len(kept), "what was signed is known, and is there"
    publisher = Publisher.open(data, control, [KEY])
    while publisher.publish_once():
        pass
    for closable in (publisher, control, store):
        closable.close()
    signed = note.open_checkpoint(layout.checkpoint_path(data).read_bytes(), [KEY.verifier]).checkpoint
    assert (signed.size, signed.root) == (len(kept) + 1, root(leaf_hashes([*kept, b"after the cut"])))
    verdict = verify_log(open_directory(data), [KEY.verifier])
    assert (str(verdict.chain.grade), str(verdict.tamper.grade)) == ("ok", "ok"), verdict.document()


def cut_everywhere(tmp_path: Path, operations: list[Operation], every: int) -> int:
    leaves = [leaf for _, leaf in follow(tmp_path / "data", 0)]
    disk = Disk(tmp_path / "data")
    draw = random.Random(SEED)  # noqa: S311 - which writes survive, to be repeatable
    cuts = 0
    fast = Path("/dev/shm")  # what is left is judged in memory: hundreds of starts would wait for the disk
    left = Path(tempfile.mkdtemp(prefix="assay-cut-", dir=fast if fast.is_dir() else tmp_path))
    for at, one in enumerate(operations):
        disk.apply(one)
        if at % every and one.kind not in {"sync", "note"}:
            continue
        for how in ("all", "synced", "some"):
            shutil.rmtree(left, ignore_errors=True)
            left.mkdir()
            disk.leave(left, how, draw)
            try:
                judge(left, disk, leaves)
            except BaseException as error:
                error.add_note(f"power cut after call {at} of {len(operations)} ({one.kind} {one.path}), `{how}` of it kept, notes {disk.notes[-3:]}")
                raise
            cuts += 1
    shutil.rmtree(left)
    return cuts


def test_a_power_cut_after_any_write_keeps_what_was_promised(tmp_path):
    operations = trace(tmp_path, rounds=6, lives=2)
    cuts = cut_everywhere(tmp_path, operations, every=int(os.environ.get("ASSAY_POWER_EVERY", "8")))
    assert cuts > 60
    print(f"{len(operations)} calls that changed the disk, {cuts} power cuts")  # noqa: T201 - shown by `pytest -s`


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_power_cut_after_every_single_write_of_a_longer_life_keeps_what_was_promised(tmp_path):
    operations = trace(tmp_path, rounds=25, lives=3)
    cuts = cut_everywhere(tmp_path, operations, every=1)
    assert cuts == 3 * len(operations), "three ways to lose after every single call"
    print(f"{len(operations)} calls that changed the disk, {cuts} power cuts")  # noqa: T201 - as above


def test_the_replay_sees_a_promise_that_was_not_flushed(tmp_path):
    """The test of the test: the same program with flushes left out is caught."""
    operations = [one for one in trace(tmp_path, rounds=6, lives=1) if one.kind not in {"sync", "sync folder"}]
    leaves = [leaf for _, leaf in follow(tmp_path / "data", 0)]
    disk = Disk(tmp_path / "data")
    for one in operations:
        disk.apply(one)
    (tmp_path / "left").mkdir()
    disk.leave(tmp_path / "left", "synced", random.Random(1))  # noqa: S311 - as above
    with pytest.raises(AssertionError, match="acknowledged"):
        judge(tmp_path / "left", disk, leaves)
