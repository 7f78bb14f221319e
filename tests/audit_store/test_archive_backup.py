"""Retention: databases of old ranges go, the archive verifies alone; a backup is whole, and no copy becomes a second history."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from audit import backup
from audit.archive import ArchiveRefused, archive, check_parquet, parquet_path
from audit.backup import BackupRefused, back_up
from audit.follow import follow, search
from audit.keys import SigningKey
from audit.leaf import render
from audit.merkle import leaf_hash
from audit.publisher import Publisher
from audit.source import open_directory
from audit.statements import Clock, machine_boot_id, statement
from audit.store import layout
from audit.store.control import ControlStore
from audit.store.copies import SignedMark, backup_of
from audit.store.errors import StoreBehind, StoreDamaged
from audit.store.layout import RANGE_LEAVES
from audit.store.leaves import LeafStore
from audit.store.sqlite import open_reader
from audit.tiles import TileError
from audit.verify import verify_log

KEY = SigningKey.generate("log.example/kept", seed=b"r" * 32)
KEYS = [KEY.verifier]
A = ("n1.w0", 10)


class Log:
    """A log that grows when told to. Owned by its test."""

    def __init__(self, folder: Path, mark: SignedMark | None = None) -> None:
        self.folder = folder
        self.store, self.control = LeafStore.open(folder), ControlStore.open(folder)
        self.control.lead("c", 0)
        self.publisher = Publisher.open(folder, self.control, [KEY], mark=mark)
        self.clock = Clock(machine_boot_id(), wall_ns=lambda: 1_800_000_000 * 10**9, mono_ns=lambda: 1)  # no silence, however slow the machine

    def grow(self, count: int) -> None:
        first = self.store.position(A).last_seq + 1
        record = statement("call", self.clock.moment(), actor_id="t")
        for at in range(first, first + count, 8192):
            leaves = []
            for seq in range(at, min(at + 8192, first + count)):
                record["type"] = "call" if seq else "writer.open"
                record["writer"] = {"node": A[0], "epoch": A[1], "seq": seq}
                leaves.append(render(record))
            self.store.stage(A, at, leaves)
            self.store.commit()
        self.store.housekeep(idle=True)
        while self.publisher.publish_once():
            pass

    def seal(self) -> None:
        while self.publisher.seal_some():
            pass

    def close(self) -> None:
        for closable in (self.publisher, self.control, self.store):
            closable.close()


@pytest.fixture(scope="module")
def archived(grown, tmp_path_factory) -> Path:
    """The archive of that log, with Parquet."""
    target = tmp_path_factory.mktemp("archived") / "archive"
    done = archive(grown, target, KEYS, parquet=True)
    assert (done.size, done.parquet_ranges) == (RANGE_LEAVES + 500, 1)
    return target


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    """A closed log of one full, sealed range and some more, nothing pruned."""
    log = Log(tmp_path_factory.mktemp("grown"))
    log.grow(RANGE_LEAVES + 500)
    log.seal()
    log.close()
    return log.folder


def verified(folder: Path, known: bytes | None = None) -> int:
    """Return the size of a log in which nothing is wrong."""
    verdict = verify_log(open_directory(folder), KEYS, known)
    grades = [str(check.grade) for check in (verdict.chain, verdict.tamper, verdict.completeness)]
    assert grades == ["ok"] * 3, verdict.document()
    return verdict.size


# -- databases of old ranges ---------------------------------------------------------------------------------------------------------------


def test_databases_of_old_ranges_go_and_the_log_is_what_it_was(grown, tmp_path):
    folder = tmp_path / "log"
    shutil.copytree(grown, folder)
    before = list(follow(folder, 0))
    shutil.rmtree(folder / "log" / "tile" / "entries")
    log = Log(folder)
    assert log.publisher.seal_some(hot=1) == log.publisher.remove_old_databases(keep=0) == 0, "a hot range lies on disk once, in its database"
    assert not (folder / "log" / "tile" / "entries").exists()
    log.seal()
    assert log.publisher.remove_old_databases(keep=0) == 1
    assert log.publisher.remove_old_databases(keep=0) == 0
    assert layout.range_numbers(folder) == [1]
    log.grow(10)
    log.close()
    assert list(follow(folder, 0))[: len(before)] == before
    assert verified(folder) == RANGE_LEAVES + 510
    reopened = Log(folder)
    reopened.grow(5)
    reopened.close()


def test_a_search_finds_the_same_leaves_in_databases_and_in_entry_files_and_takes_no_cut_file_for_an_empty_one(grown, tmp_path):
    folder = tmp_path / "log"
    shutil.copytree(grown, folder)
    wanted = re.compile(rb'"seq":(?:0|300|65535|65536|65900)}')
    expected = [row for row in follow(folder, 0) if wanted.search(row[1])]
    assert [index for index, _ in expected] == [0, 300, 65535, 65536, 65900]
    assert list(search(folder, wanted)) == expected
    log = Log(folder)
    log.seal()
    assert log.publisher.remove_old_databases(keep=0) == 1
    log.close()
    assert list(search(folder, wanted)) == expected
    bundle = folder / "log" / "tile" / "entries" / "000"
    bundle.write_bytes(bundle.read_bytes()[:-1])
    with pytest.raises(TileError, match="entries/000"):
        list(search(folder, re.compile(b"in none of them")))


def test_a_database_whose_entry_files_do_not_verify_stays(grown, tmp_path):
    folder = tmp_path / "log"
    shutil.copytree(grown, folder)
    log = Log(folder)
    log.seal()
    bundle = folder / "log" / "tile" / "entries" / "000"
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"!")
    with pytest.raises(StoreDamaged):
        log.publisher.remove_old_databases(keep=0)
    assert layout.range_numbers(folder) == [0, 1]
    log.close()


# -- the archive ---------------------------------------------------------------------------------------------------------------------------


def test_an_archive_verifies_alone_and_follows_the_log(grown, archived, tmp_path):
    folder, target = tmp_path / "log", tmp_path / "archive"
    shutil.copytree(grown, folder)
    shutil.copytree(archived, target)
    kept = (target / "checkpoint").read_bytes()
    log = Log(folder)
    log.seal()
    log.publisher.remove_old_databases(keep=0)
    log.grow(300)
    log.close()
    second = archive(folder, target, KEYS)
    assert 0 < second.files_added < 20, "only what is new is copied"
    assert verified(target, kept) == RANGE_LEAVES + 800
    assert archive(folder, target, KEYS).files_added == 0


def test_parquet_files_hold_every_leaf_with_its_hash_and_are_checked_against_the_tree(grown, archived, tmp_path):
    target = tmp_path / "archive"
    shutil.copytree(archived, target)
    check_parquet(target, 0)
    table = pq.read_table(parquet_path(target, 0))
    assert table.num_rows == RANGE_LEAVES
    row = table.slice(7, 1).to_pylist()[0]
    (_, leaf) = next(iter(follow(grown, 7)))
    assert (row["index"], row["leaf"], row["leaf_hash"], row["type"]) == (7, leaf, leaf_hash(leaf), "call")
    listed = json.loads((target / "manifest.json").read_bytes())["sha256"]
    assert len([name for name in listed if name.startswith("parquet/")]) == 1
    pq.write_table(table.take([1, 0, *range(2, RANGE_LEAVES)]), parquet_path(target, 0))
    with pytest.raises(StoreDamaged):
        check_parquet(target, 0)


def test_what_does_not_verify_is_not_archived_and_the_former_archive_stays(grown, archived, tmp_path):
    folder, target = tmp_path / "log", tmp_path / "archive"
    shutil.copytree(grown, folder)
    shutil.copytree(archived, target)
    kept = (target / "checkpoint").read_bytes()
    log = Log(folder)
    log.grow(300)
    log.close()
    entries = target / "tile" / "entries" / "001"
    entries.write_bytes(entries.read_bytes().replace(b'"call"', b'"cull"'))
    with pytest.raises(ArchiveRefused, match="would not verify"):
        archive(folder, target, KEYS)
    assert (target / "checkpoint").read_bytes() == kept


def test_a_log_that_was_rolled_back_or_is_another_is_not_archived_over_a_longer_one(grown, archived, tmp_path):
    target = tmp_path / "archive"
    shutil.copytree(archived, target)
    short = Log(tmp_path / "short")
    short.grow(10)
    short.close()
    with pytest.raises(ArchiveRefused, match="rolled back"):
        archive(tmp_path / "short", target, KEYS)
    with pytest.raises(ArchiveRefused):
        archive(grown, tmp_path / "other", [SigningKey.generate("log.example/kept", seed=b"x" * 32).verifier])
    with pytest.raises(ArchiveRefused, match="no checkpoint"):
        archive(tmp_path, tmp_path / "none", KEYS)


# -- backups -------------------------------------------------------------------------------------------------------------------------------


def test_a_backup_taken_while_the_log_grows_is_whole_and_verifies(tmp_path):
    log = Log(tmp_path / "log")
    log.grow(400)
    stop = threading.Event()
    made = {}

    def copy() -> None:
        for folder in [tmp_path / f"copy-{number}" for number in range(3)]:
            made[folder] = back_up(log.folder, folder)
        stop.set()

    copier = threading.Thread(target=copy)
    copier.start()
    while not stop.is_set():
        log.grow(37)
    copier.join()
    log.close()
    whole = [leaf for _, leaf in follow(log.folder, 0)]
    for folder, said in made.items():
        assert [leaf for _, leaf in follow(folder, 0)] == whole[: said.leaves]
        assert verified(folder) == said.signed_size <= said.leaves
        assert backup_of(folder) == said
        assert said.finished


def test_a_database_that_is_written_all_the_time_is_copied_as_of_one_moment(tmp_path, monkeypatch):
    """SQLite begins a copy made in steps anew whenever somebody commits between two of them."""
    steps = []
    with closing(sqlite3.connect(tmp_path / "busy.sqlite", isolation_level=None)) as busy:
        busy.execute("PRAGMA page_size=512")
        busy.execute("PRAGMA journal_mode=WAL")
        busy.execute("CREATE TABLE kept (box)")
        busy.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) INSERT INTO kept SELECT zeroblob(500) FROM n")

        class Observed:
            def __init__(self, path: Path) -> None:
                self.reader = open_reader(path)
                self.close = self.reader.close

            def backup(self, target: sqlite3.Connection, **how: int) -> None:
                def commit(_status: int, left: int, _total: int) -> None:
                    steps.append(left)
                    assert len(steps) < 50, "it begins anew each time"
                    busy.execute("INSERT INTO kept VALUES (zeroblob(500))")

                self.reader.backup(target, progress=commit, **how)

        monkeypatch.setattr(backup, "open_reader", Observed)
        backup._copy_database(tmp_path / "busy.sqlite", tmp_path / "copy.sqlite")
    with closing(sqlite3.connect(tmp_path / "copy.sqlite")) as copy:
        assert copy.execute("SELECT count(*) FROM kept").fetchone() == (9000,)
    assert steps == [0]


@pytest.mark.parametrize("moment", ["_copy_tree", "_copy_database"])
def test_a_range_whose_database_goes_while_the_backup_runs_is_in_it_all_the_same(grown, tmp_path, monkeypatch, moment):
    """It is sealed after the log's files were copied, or after the databases were listed; then its entry files are what is left of it."""
    shutil.copytree(grown, tmp_path / "log")
    shutil.rmtree(tmp_path / "log" / "log" / "tile" / "entries")
    log = Log(tmp_path / "log")
    done, proper = [], getattr(backup, moment)

    def then_the_range_goes(source: Path, *others: object, **more: object) -> object:
        if moment == "_copy_database" and "ranges" in source.parts and not done:
            log.seal()
            done.append(log.publisher.remove_old_databases(keep=0))
        found = proper(source, *others, **more)
        if moment == "_copy_tree" and not done:
            log.seal()
            done.append(log.publisher.remove_old_databases(keep=0))
        return found

    monkeypatch.setattr(backup, moment, then_the_range_goes)
    made = back_up(log.folder, tmp_path / "copy")
    log.close()
    assert done == [1]
    assert (made.leaves, verified(tmp_path / "copy")) == (RANGE_LEAVES + 500, RANGE_LEAVES + 500)
    assert sum(1 for _ in follow(tmp_path / "copy", 0)) == made.leaves


def test_a_backup_is_not_gone_on_with_until_somebody_takes_that_upon_themselves(tmp_path):
    log = Log(tmp_path / "log")
    log.grow(10)
    back_up(log.folder, tmp_path / "copy")
    log.close()
    with pytest.raises(StoreDamaged, match=r"new `audit\.origin`"):
        LeafStore.open(tmp_path / "copy")
    control = ControlStore.open(tmp_path / "copy")
    control.lead("c", 0)
    with pytest.raises(StoreDamaged, match="is a backup"):
        Publisher.open(tmp_path / "copy", control, [KEY])
    control.close()
    layout.backup_path(tmp_path / "copy").unlink()
    gone_on = Log(tmp_path / "copy")
    gone_on.grow(1)
    assert verified(tmp_path / "copy") == 11
    gone_on.close()


def test_a_backup_that_was_cut_off_says_so_and_is_not_opened(tmp_path, monkeypatch):
    log = Log(tmp_path / "log")
    log.grow(10)
    log.close()

    def fails(_source: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("audit.backup._copy_file", fails)
    with pytest.raises(Exception, match="No space left"):
        back_up(log.folder, tmp_path / "copy")
    found = backup_of(tmp_path / "copy")
    assert found is not None
    assert not found.finished
    with pytest.raises(StoreDamaged):
        LeafStore.open(tmp_path / "copy")


def test_a_backup_goes_nowhere_but_into_a_folder_of_its_own(tmp_path):
    log = Log(tmp_path / "log")
    log.close()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(BackupRefused, match="not empty"):
        back_up(log.folder, tmp_path / "used")
    with pytest.raises(BackupRefused, match="not a data directory"):
        back_up(tmp_path / "used", tmp_path / "copy")


def test_pseudonym_keys_are_copied_only_when_asked_for(tmp_path):
    log = Log(tmp_path / "log")
    log.close()
    (log.folder / "vault").mkdir()
    (log.folder / "vault" / "epochs.json").write_text("{}")
    back_up(log.folder, tmp_path / "without")
    back_up(log.folder, tmp_path / "with", with_vault=True)
    assert not (tmp_path / "without" / "vault").exists()
    assert (tmp_path / "with" / "vault" / "epochs.json").exists()


def test_an_older_copy_by_any_means_is_refused_by_the_keys_mark(tmp_path):
    """A snapshot of the file system: everything in it agrees with itself, and the key has signed more since."""
    mark_path = tmp_path / "marks" / "key.signed"
    mark_path.parent.mkdir()
    log = Log(tmp_path / "log", SignedMark(mark_path))
    log.grow(10)
    log.close()
    shutil.copytree(log.folder, tmp_path / "snapshot")
    log = Log(log.folder, SignedMark(mark_path))
    log.grow(5)
    log.close()
    assert SignedMark(mark_path).size == 15
    with pytest.raises(StoreBehind, match="15"):
        Log(tmp_path / "snapshot", SignedMark(mark_path))
    same = Log(log.folder, SignedMark(mark_path))
    same.grow(1)
    same.close()


def test_a_mark_that_holds_something_else_stops_the_signer(tmp_path):
    (tmp_path / "key.signed").write_text("many")
    with pytest.raises(StoreDamaged, match="does not hold a size"):
        SignedMark(tmp_path / "key.signed")
