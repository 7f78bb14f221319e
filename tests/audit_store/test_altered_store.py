"""A store somebody has altered: bits flipped, every kind of row edited. Verify finds what changes the log; recorder and signer do not go on."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from audit.follow import follow
from audit.keys import SigningKey
from audit.leaf import render
from audit.publisher import Publisher
from audit.source import open_directory
from audit.statements import Clock, machine_boot_id, statement
from audit.store import layout
from audit.store.control import ControlStore
from audit.store.errors import StoreError
from audit.store.leaves import LeafStore
from audit.verdict import Grade
from audit.verify import verify_log

KEY = SigningKey.generate("log.example/altered", seed=b"a" * 32)
A, B = ("n1.w0", 10), ("n1.w1", 10)
COUNT = 6
EVERY_BYTE = int(os.environ.get("ASSAY_FLIP_EVERY", "67"))


def leaf(key, seq: int, count: int) -> bytes:
    kind = "writer.open" if seq == 0 else "writer.close" if seq == count - 1 else "call"
    more = {"last_seq": seq} if kind == "writer.close" else {}
    record = statement(kind, Clock(machine_boot_id()).moment(), actor_id=key[0], **more)
    record["writer"] = {"node": key[0], "epoch": key[1], "seq": seq}
    return render(record)


def make(folder: Path) -> Path:
    """Make a small signed log whose leaves are rows."""
    store, control = LeafStore.open(folder), ControlStore.open(folder)
    control.lead("c", 0)
    for key in (A, B):
        store.stage(key, 0, [leaf(key, seq, COUNT // 2) for seq in range(COUNT // 2)])
    store.commit()
    publisher = Publisher.open(folder, control, [KEY])
    publisher.publish_once()
    for closable in (publisher, control, store):
        closable.close()
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = make(tmp_path_factory.mktemp("whole"))
    verdict = verify_log(open_directory(folder), [KEY.verifier], layout.checkpoint_path(folder).read_bytes())
    assert verdict.exit_code == 0, verdict.document()
    return folder


def seen(folder: Path) -> list[bytes] | None:
    """Return the leaves a stranger is shown as verified, None where verify finds the log wrong or incomplete."""
    source = open_directory(folder)
    known = layout.checkpoint_path(folder)
    verdict = verify_log(source, [KEY.verifier], known.read_bytes() if known.exists() else None)
    if verdict.chain.grade != Grade.OK or verdict.tamper.grade != Grade.OK:
        return None
    return [entry for _, entries in source.bundles(verdict.size) for entry in entries or []]


def outcome_of_flip(whole: Path, left: Path, name: str, at: int, bit: int) -> str:
    """Flip one bit of a store file; return `found`, `harmless` or what went wrong."""
    data = bytearray((whole / name).read_bytes())
    data[at] ^= 1 << bit
    (left / name).write_bytes(data)
    for suffix in ("-wal", "-shm"):
        (left / (name + suffix)).unlink(missing_ok=True)
    expected = [row for _, row in follow(whole, 0)]
    found = False
    shown = seen(left)
    if shown is None:
        found = True
    elif shown != expected:
        return "another leaf was verified"
    try:
        store = LeafStore.open(left)
        try:
            rows = [row for _, row in follow(left, 0)]
            control = ControlStore.open(left)
            control.lead("c", 0)
            publisher = Publisher.open(left, control, [KEY])
            if rows[:COUNT] != expected and not found:
                return "the recorder went on with other leaves"
            publisher.close()
            control.close()
        finally:
            store.close()
    except (StoreError, sqlite3.Error):
        found = True
    return "found" if found else "harmless"


def flip(whole: Path, tmp_path: Path, name: str, every: int) -> dict[str, int]:
    draw = random.Random(name)  # noqa: S311 - which bit of a byte, to be repeatable
    outcomes: dict[str, int] = {}
    left = tmp_path / "left"
    data = (whole / name).read_bytes()
    # Most of a small SQLite file is empty pages: every so many bytes of what is not zero, and a few of the rest.
    used = [at for at, byte in enumerate(data) if byte]
    for at in sorted({*used[::every], *range(0, len(data), 40 * every)}):
        bit = draw.randrange(8)
        shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(whole, left)
        outcome = outcome_of_flip(whole, left, name, at, bit)
        assert outcome in {"found", "harmless"}, f"{name}: byte {at} bit {bit}: {outcome}"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


@pytest.mark.parametrize("name", ["ranges/00000000.sqlite", "control.sqlite"])
def test_a_flipped_bit_of_a_store_file_is_found_or_changes_nothing(whole, tmp_path, name):
    """Unused pages and spare bytes of SQLite hold nothing; everything else is content, and content is checked."""
    outcomes = flip(whole, tmp_path, name, EVERY_BYTE)
    assert outcomes["found"] > 10, outcomes


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["ranges/00000000.sqlite", "control.sqlite"])
def test_every_flipped_byte_of_a_store_file_is_found_or_changes_nothing(whole, tmp_path, name):
    print(name, flip(whole, tmp_path, name, 1))  # noqa: T201 - shown by `pytest -s`


def test_every_flipped_bit_of_what_is_published_is_found(whole, tmp_path):
    """Checkpoint and tiles as they lie in a data directory: the kept head is the one from before."""
    known = layout.checkpoint_path(whole).read_bytes()
    left = tmp_path / "left"
    shutil.copytree(whole, left)
    flipped = 0
    for path in sorted(path for path in (whole / "log").rglob("*") if path.is_file()):
        target = left / path.relative_to(whole)
        data = path.read_bytes()
        for at in range(len(data)):
            for bit in range(8):
                target.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
                verdict = verify_log(open_directory(left), [KEY.verifier], known)
                assert verdict.exit_code != 0, (path, at, bit)
                flipped += 1
        target.write_bytes(data)
    assert flipped > 2000


ROWS = {
    "edited": "UPDATE leaf SET bytes = replace(bytes, 'call', 'cull') WHERE idx = 1",
    "inserted at the end": "INSERT INTO leaf SELECT 6, node, epoch, 99, bytes FROM leaf WHERE idx = 1",
    "deleted": "DELETE FROM leaf WHERE idx = 2",
    "the last deleted": "DELETE FROM leaf WHERE idx = 5",
    "all deleted": "DELETE FROM leaf",
    "swapped": "UPDATE leaf SET bytes = (SELECT other.bytes FROM leaf AS other WHERE other.idx = 3 - leaf.idx) WHERE idx IN (1, 2)",
    "duplicated over another": "UPDATE leaf SET bytes = (SELECT bytes FROM leaf AS other WHERE other.idx = 1) WHERE idx = 4",
    "cut short": "UPDATE leaf SET bytes = substr(bytes, 1, 40) WHERE idx = 4",
    "another type": "UPDATE leaf SET bytes = 7 WHERE idx = 4",
}


@pytest.mark.parametrize("what", ROWS)
def test_an_altered_row_is_found_and_nothing_is_signed_over_it(whole, tmp_path, what):
    left = tmp_path / "left"
    shutil.copytree(whole, left)
    with sqlite3.connect(layout.range_path(left, 0)) as connection:
        connection.execute(ROWS[what])
    connection.close()
    if what == "inserted at the end":
        # Past the signed size: as good as any record that waits to be signed. What it claims to be gives it away once it is.
        assert seen(left) == [row for _, row in follow(whole, 0)]
        control = ControlStore.open(left)
        control.lead("c", 0)
        publisher = Publisher.open(left, control, [KEY])
        publisher.publish_once()
        publisher.close()
        control.close()
        verdict = verify_log(open_directory(left), [KEY.verifier], layout.checkpoint_path(whole).read_bytes())
        assert str(verdict.completeness.grade) == "failed", "a number used twice"
        return
    assert seen(left) is None


KEYS = {
    "a checkpoint row of a larger size": "INSERT INTO checkpoint SELECT size + 5, root, note, term FROM checkpoint",
    "another root": "UPDATE checkpoint SET root = zeroblob(32)",
    "another note": "UPDATE checkpoint SET note = replace(note, 'altered', 'replaced')",
    "no signed row": "DELETE FROM checkpoint",
}


@pytest.mark.parametrize("what", KEYS)
def test_altered_rows_of_what_was_signed_stop_the_signer(whole, tmp_path, what):
    left = tmp_path / "left"
    shutil.copytree(whole, left)
    with sqlite3.connect(layout.control_path(left)) as connection:
        connection.execute(KEYS[what])
    connection.close()
    control = ControlStore.open(left)
    control.lead("c", 0)
    with pytest.raises(StoreError):
        Publisher.open(left, control, [KEY])
    control.close()
    assert seen(left) is not None, "what is published is still what it was"


def test_another_signing_key_does_not_go_on_with_the_log(whole, tmp_path):
    left = tmp_path / "left"
    shutil.copytree(whole, left)
    control = ControlStore.open(left)
    control.lead("c", 0)
    for other in (SigningKey.generate("log.example/altered", seed=b"o" * 32), SigningKey.generate("log.example/other", seed=b"a" * 32)):
        with pytest.raises(StoreError):
            Publisher.open(left, control, [other])
    control.close()


def test_a_clock_that_jumps_back_or_ahead_changes_neither_order_nor_verdict(tmp_path):
    """One hour back, one day ahead: the order is by index, and verify notes the steps."""
    store, control = LeafStore.open(tmp_path), ControlStore.open(tmp_path)
    control.lead("c", 0)
    wall_ns = [1_800_000_000 * 10**9]
    clock = Clock("boot", wall_ns=lambda: wall_ns[0], mono_ns=lambda: 5)
    for seq, jump_s in enumerate((0, -3600, 1, 86_400, -1)):
        wall_ns[0] += jump_s * 10**9
        record = statement("writer.open" if seq == 0 else "call", clock.moment(), actor_id="t")
        record["writer"] = {"node": A[0], "epoch": A[1], "seq": seq}
        store.stage(A, seq, [render(record)])
        store.commit()
    publisher = Publisher.open(tmp_path, control, [KEY])
    publisher.publish_once()
    for closable in (publisher, control, store):
        closable.close()
    verdict = verify_log(open_directory(tmp_path), [KEY.verifier])
    assert (str(verdict.chain.grade), str(verdict.tamper.grade), str(verdict.completeness.grade)) == ("ok", "ok", "ok"), verdict.document()
    assert any("clock went back" in note for note in verdict.completeness.notes)
