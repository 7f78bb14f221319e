"""The leaf store: indices without gaps, records known by their number, commits across range files, refusal to go on behind a signed size."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.follow import Follower, follow
from audit.store import layout
from audit.store.control import ControlStore
from audit.store.errors import RetryMismatch, SequenceGap, StoreBehind, StoreBroken, StoreDamaged, StoreFull, StoreInUse, WriterEnded
from audit.store.layout import RANGE_LEAVES
from audit.store.leaves import LeafStore
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


def test_records_get_indices_in_order_of_staging(store, tmp_path):
    assert store.stage(A, 0, leaves(0, 3)) == [Run(0, 3, 0)]
    assert store.stage(B, 0, leaves(0, 2, "b")) == [Run(0, 2, 3)]
    assert store.stage(A, 3, leaves(3, 1)) == [Run(3, 1, 5)]
    store.commit()
    assert list(follow(tmp_path, 0)) == list(enumerate([b"a-0", b"a-1", b"a-2", b"b-0", b"b-1", b"a-3"]))


def test_a_retry_keeps_its_index_whether_staged_or_committed(store):
    store.stage(A, 0, leaves(0, 2))
    store.stage(B, 0, leaves(0, 1, "b"))
    assert store.stage(A, 0, leaves(0, 3)) == [Run(0, 2, 0), Run(2, 1, 3)]
    store.commit()
    assert store.stage(A, 1, leaves(1, 3)) == [Run(1, 1, 1), Run(2, 1, 3), Run(3, 1, 4)]
    store.commit()
    assert store.next_index == 5


def test_a_retry_with_other_bytes_is_refused(store):
    store.stage(A, 0, leaves(0, 2))
    store.commit()
    with pytest.raises(RetryMismatch):
        store.stage(A, 0, [b"other"])


def test_a_gap_is_refused_and_nothing_is_staged(store):
    with pytest.raises(SequenceGap):
        store.stage(A, 1, leaves(1, 1))
    assert store.staged_count == 0


def test_an_ended_epoch_and_one_older_than_the_newest_are_refused(store):
    store.stage(A, 0, leaves(0, 1))
    store.stage(("n1.recorder", 1), 0, [b"lost"], ends=A)
    store.commit()
    with pytest.raises(WriterEnded):
        store.stage(A, 1, leaves(1, 1))
    with pytest.raises(WriterEnded):
        store.admit((A[0], 9))
    store.admit((A[0], 11))


def test_what_writers_sent_and_how_they_ended_is_known_after_reopening(tmp_path):
    store = LeafStore.open(tmp_path)
    store.stage(A, 0, leaves(0, 3))
    store.stage(B, 0, leaves(0, 2, "b"))
    store.stage(B, 2, [b"end"], ends=A)
    store.commit()
    before = store.writers()
    store.close()
    store = LeafStore.open(tmp_path)
    assert store.writers() == before
    assert (store.position(A).ended, store.position(B).ended, store.next_index) == (True, False, 6)
    store.close()


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


@pytest.mark.usefixtures("store")
def test_a_second_recorder_fails_to_lock(tmp_path):
    with pytest.raises(StoreInUse):
        LeafStore.open(tmp_path)


def signed(data_dir, size: int) -> None:
    control = ControlStore.open(data_dir)
    control.lead("c", 0)
    control.add_checkpoint(size, bytes(32), b"note")
    control.close()


def test_a_store_behind_the_signed_size_is_not_opened(tmp_path):
    store = LeafStore.open(tmp_path)
    fill(store, A, 0, 10)
    store.close()
    signed(tmp_path, 10)
    LeafStore.open(tmp_path).close()
    signed(tmp_path, 11)
    with pytest.raises(StoreBehind, match="new origin"):
        LeafStore.open(tmp_path)


def test_a_store_behind_the_published_checkpoint_is_not_opened(tmp_path):
    LeafStore.open(tmp_path).close()
    layout.log_dir(tmp_path).mkdir()
    layout.checkpoint_path(tmp_path).write_bytes(b"origin\n3\nroot\n\nsig\n")
    with pytest.raises(StoreBehind):
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


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 6), st.integers(1, 5), st.booleans()), max_size=20))
def test_any_order_of_sends_and_retries_commits_each_record_once(tmp_path_factory, steps):
    """A retry goes back up to six records and may repeat any of them; the log holds each number once, at the index first told."""
    data_dir = tmp_path_factory.mktemp("log")
    store = LeafStore.open(data_dir)
    sent = {A: 0, B: 0}
    index_of: dict[tuple, int] = {}
    for key, back, count, commits in steps:
        first = max(0, sent[key] - back)
        for run in store.stage(key, first, leaves(first, count, key[0])):
            for offset in range(run.count):
                assert index_of.setdefault((key, run.first_seq + offset), run.first_index + offset) == run.first_index + offset
        sent[key] = max(sent[key], first + count)
        if commits:
            store.commit()
    store.commit()
    rows = list(follow(data_dir, 0))
    store.close()
    assert len(rows) == sum(sent.values())
    for (key, seq), index in index_of.items():
        assert rows[index] == (index, leaves(seq, 1, key[0])[0])
