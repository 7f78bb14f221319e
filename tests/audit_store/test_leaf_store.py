"""Range files: their boundary, files prepared ahead, cut or missing ones, failed flushes. What every store does: `test_store_conformance.py`."""

from __future__ import annotations

import contextlib
import os
import sqlite3

import pytest

from audit.follow import Follower, follow
from audit.source import open_directory
from audit.store import layout
from audit.store.errors import StoreBroken, StoreDamaged, StoreFull, StoreInUse
from audit.store.layout import RANGE_LEAVES
from audit.store.leaves import LeafStore
from audit.store.ranges import PAGE_BYTES, ROWS_PER_STATEMENT
from audit.store.staging import Run

A, B = ("n1.w0", 10), ("n1.w1", 10)


def leaves(first: int, count: int, tag: str = "a") -> list[bytes]:
    return [b"%s-%d" % (tag.encode(), seq) for seq in range(first, first + count)]


def fill(store: LeafStore, key, first_seq: int, count: int) -> None:
    for at in range(first_seq, first_seq + count, 8192):
        store.stage(key, at, leaves(at, min(8192, first_seq + count - at)))
        store.commit()


@pytest.fixture
def store(tmp_path):
    opened = LeafStore.open(tmp_path)
    yield opened
    opened.close()


def test_a_reader_who_may_write_nothing_sees_what_is_committed_and_not_moved_yet(store, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    store.stage(A, 0, leaves(0, 3))
    store.commit()
    with Follower(tmp_path) as follower:
        assert follower.read(0) == list(enumerate(leaves(0, 3)))
    assert open_directory(tmp_path).bundle(0, 3) is None  # without `log/` it is no data directory
    layout.log_dir(tmp_path).mkdir()
    assert open_directory(tmp_path).bundle(0, 3) == leaves(0, 3)


def test_a_commit_across_a_range_boundary_fills_one_file_and_opens_the_next(tmp_path):
    store = LeafStore.open(tmp_path)
    fill(store, A, 0, RANGE_LEAVES - 5)
    store.housekeep(idle=False)
    store.stage(B, 0, leaves(0, 3, "b"))
    store.stage(A, RANGE_LEAVES - 5, leaves(RANGE_LEAVES - 5, 10))
    store.commit()
    store.housekeep(idle=True)
    assert store.next_index == RANGE_LEAVES + 8
    with sqlite3.connect(layout.range_path(tmp_path, 1)) as connection:
        assert dict(connection.execute("SELECT node, last_seq FROM writer").fetchall()) == {A[0]: RANGE_LEAVES - 4, B[0]: 2}
    connection.close()
    # A retry from before the boundary, across it, and beyond it.
    n = RANGE_LEAVES
    assert store.stage(A, n - 7, leaves(n - 7, 13)) == [Run(n - 7, 2, n - 7), Run(n - 5, 10, n - 2), Run(n + 5, 1, n + 8)]
    store.commit()
    store.close()
    store = LeafStore.open(tmp_path)
    assert store.stage(B, 0, leaves(0, 3, "b")) == [Run(0, 3, RANGE_LEAVES - 5)], "found in the earlier file after reopening"
    store.close()
    with Follower(tmp_path) as follower:
        assert [index for index, _ in follower.read(RANGE_LEAVES - 2)] == [RANGE_LEAVES - 2, RANGE_LEAVES - 1]
        assert follower.end() == RANGE_LEAVES + 9


def test_a_file_prepared_ahead_is_not_mistaken_for_the_end(tmp_path):
    store = LeafStore.open(tmp_path)
    fill(store, A, 0, RANGE_LEAVES - 100)
    store.housekeep(idle=True)
    assert layout.range_numbers(tmp_path) == [0, 1]
    store.close()
    store = LeafStore.open(tmp_path)
    assert store.next_index == RANGE_LEAVES - 100
    fill(store, A, RANGE_LEAVES - 100, 200)
    assert store.next_index == RANGE_LEAVES + 100
    store.close()


@pytest.mark.parametrize("count", [1, ROWS_PER_STATEMENT - 1, ROWS_PER_STATEMENT, ROWS_PER_STATEMENT + 1, 3 * ROWS_PER_STATEMENT + 5])
def test_a_commit_of_any_size_stores_every_record_once_in_order(store, tmp_path, count):
    store.stage(A, 0, leaves(0, count))
    store.commit()
    assert list(follow(tmp_path, 0)) == list(enumerate(leaves(0, count)))


def test_the_first_file_and_those_made_after_it_have_our_pages(tmp_path):
    store = LeafStore.open(tmp_path)
    fill(store, A, 0, RANGE_LEAVES - 5)
    store.housekeep(idle=False)
    store.close()
    for number in (0, 1):
        with contextlib.closing(sqlite3.connect(layout.range_path(tmp_path, number))) as connection:
            assert connection.execute("PRAGMA page_size").fetchone() == (PAGE_BYTES,)


@pytest.mark.usefixtures("store")
def test_a_second_recorder_fails_to_lock(tmp_path):
    with pytest.raises(StoreInUse):
        LeafStore.open(tmp_path)


def test_a_range_with_a_leaf_cut_out_is_not_opened(tmp_path):
    store = LeafStore.open(tmp_path)
    fill(store, A, 0, 10)
    store.close()
    connection = sqlite3.connect(layout.range_path(tmp_path, 0))
    connection.execute("DELETE FROM leaf WHERE idx = 4")
    connection.commit()
    connection.close()
    with pytest.raises(StoreDamaged):
        LeafStore.open(tmp_path)


def test_a_writer_that_is_none_of_ours_is_said_in_words(tmp_path):
    """A damaged schema shows one table's rows as another's."""
    store = LeafStore.open(tmp_path)
    fill(store, A, 0, 10)
    store.close()
    with contextlib.closing(sqlite3.connect(layout.range_path(tmp_path, 0))) as connection:
        connection.execute("INSERT INTO writer (node, epoch, last_seq, ended) VALUES ('r0001', x'00', -1, 0)")
        connection.commit()
    with pytest.raises(StoreDamaged, match="r0001"):
        LeafStore.open(tmp_path)


def test_a_missing_earlier_range_that_was_not_sealed_is_not_passed_over(tmp_path):
    store = LeafStore.open(tmp_path)
    fill(store, A, 0, RANGE_LEAVES + 1)
    store.close()
    layout.range_path(tmp_path, 0).rename(tmp_path / "elsewhere")
    with pytest.raises(StoreDamaged, match="not sealed"):
        LeafStore.open(tmp_path)
    with pytest.raises(StoreDamaged):
        list(follow(tmp_path, 0))


class Failing:
    """A connection whose COMMIT fails once, as SQLite reports it."""

    def __init__(self, real: sqlite3.Connection, code: int, *, before: bool) -> None:
        self.real, self.code, self.before = real, code, before

    def __getattr__(self, name) -> object:
        return getattr(self.real, name)

    def execute(self, sql, *values: object):
        if sql == "COMMIT" and self.code:
            code, self.code = self.code, 0
            if not self.before:
                self.real.execute("COMMIT")
            error = sqlite3.OperationalError("injected")
            error.sqlite_errorcode = code
            error.sqlite_errorname = "injected"
            raise error
        return self.real.execute(sql, *values)


def test_a_full_disk_stores_nothing_and_the_same_records_go_in_later(store, tmp_path):
    fill(store, A, 0, 3)
    store._current._connection = Failing(store._current._connection, sqlite3.SQLITE_FULL, before=True)
    store.stage(A, 3, leaves(3, 2))
    with pytest.raises(StoreFull):
        store.commit()
    assert (store.next_index, store.staged_count, len(list(follow(tmp_path, 0)))) == (3, 0, 3)
    assert store.stage(A, 3, leaves(3, 2)) == [Run(3, 2, 3)]
    store.commit()
    assert len(list(follow(tmp_path, 0))) == 5


@pytest.mark.parametrize("before", [True, False])
def test_after_a_failed_flush_the_next_process_reads_what_is_there(tmp_path, before):
    store = LeafStore.open(tmp_path)
    fill(store, A, 0, 3)
    store._current._connection = Failing(store._current._connection, sqlite3.SQLITE_IOERR, before=before)
    store.stage(A, 3, leaves(3, 2))
    with pytest.raises(StoreBroken):
        store.commit()
    store.close()
    store = LeafStore.open(tmp_path)
    assert store.next_index == (3 if before else 5)
    assert store.stage(A, 3, leaves(3, 2)) == [Run(3, 2, 3)], "the retry lands at the same index either way"
    store.commit()
    assert [leaf for _, leaf in follow(tmp_path, 0)] == leaves(0, 5)
    store.close()
