"""What every leaf store and every control store does, on SQLite and on PostgreSQL: one suite, each rule once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres_server import new_log

from audit.follow import Follower, follow
from audit.store import layout
from audit.store.control import ControlStore, latest_head, signed_size
from audit.store.errors import CheckpointRefused, RetryMismatch, SequenceGap, StoreBehind, StoreDamaged, StoreInUse, TermLost, WriterEnded
from audit.store.opening import open_leaves
from audit.store.place import settle_place
from audit.store.staging import Run, Staging

A, B = ("n1.w0", 10), ("n1.w1", 10)
ROOT = bytes(32)


def leaves(first: int, count: int, tag: str = "a") -> list[bytes]:
    return [b"%s-%d" % (tag.encode(), seq) for seq in range(first, first + count)]


def put(store: Staging, *sent: tuple) -> list[Run]:
    """Stage (key, first_seq, leaves) each, commit once, return what may be acknowledged."""
    runs = [run for key, first_seq, records in sent for run in store.stage(key, first_seq, records)]
    store.commit()
    return store.settled(runs)


@pytest.fixture
def store(data_dir):
    opened = open_leaves(data_dir)
    yield opened
    opened.close()


def test_records_get_indices_in_order_of_staging(store, data_dir):
    settled = put(store, (A, 0, leaves(0, 3)), (B, 0, leaves(0, 2, "b")), (A, 3, leaves(3, 1)))
    assert settled == [Run(0, 3, 0), Run(0, 2, 3), Run(3, 1, 5)]
    assert list(follow(data_dir, 0)) == list(enumerate([b"a-0", b"a-1", b"a-2", b"b-0", b"b-1", b"a-3"]))
    assert put(store, (A, 4, leaves(4, 1))) == [Run(4, 1, 6)]
    assert (store.next_index, store.committed_count) == (7, 7)


def test_a_reader_sees_committed_leaves_alone_from_any_index_on(store, data_dir):
    put(store, (A, 0, leaves(0, 5)))
    store.stage(A, 5, leaves(5, 2))
    with Follower(data_dir) as follower:
        assert follower.end() == 5
        assert follower.read(3) == [(3, b"a-3"), (4, b"a-4")]
        assert follower.read(0, 2) == [(0, b"a-0"), (1, b"a-1")]
        assert follower.read(5) == []
        store.commit()
        assert follower.read(5) == [(5, b"a-5"), (6, b"a-6")]


def test_a_retry_keeps_its_index_whether_staged_or_committed(store):
    assert put(store, (A, 0, leaves(0, 2)), (B, 0, leaves(0, 1, "b")), (A, 0, leaves(0, 3))) == [
        Run(0, 2, 0),
        Run(0, 1, 2),
        Run(0, 2, 0),
        Run(2, 1, 3),
    ]
    assert put(store, (A, 1, leaves(1, 3))) == [Run(1, 1, 1), Run(2, 1, 3), Run(3, 1, 4)]
    assert store.next_index == 5


def test_a_retry_with_other_bytes_is_refused(store):
    put(store, (A, 0, leaves(0, 2)))
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


def test_what_writers_sent_and_how_they_ended_is_known_after_reopening(data_dir):
    store = open_leaves(data_dir)
    put(store, (A, 0, leaves(0, 3)))
    store.stage(B, 0, leaves(0, 2, "b"))
    store.stage(B, 2, [b"end"], ends=A)
    store.commit()
    other = ("n1.w2", 4)
    put(store, (other, 0, leaves(0, 1, "c")))
    store.end_writer(other)
    before = store.writers()
    store.close()
    store = open_leaves(data_dir)
    assert store.writers() == before
    assert (store.position(A).ended, store.position(B).ended, store.position(other).ended, store.next_index) == (True, False, True, 7)
    assert store.last_leaf(B) == b"end"
    assert store.last_leaf(("n1.w9", 1)) is None
    store.close()


def test_a_writer_that_ended_without_a_record_of_its_own_stays_ended(data_dir):
    store = open_leaves(data_dir)
    store.stage(B, 0, [b"end"], ends=A)
    store.commit()
    store.close()
    store = open_leaves(data_dir)
    with pytest.raises(WriterEnded):
        store.admit(A)
    store.close()


@pytest.mark.usefixtures("store")
def test_a_second_recorder_of_the_directory_fails_to_lock(data_dir):
    with pytest.raises(StoreInUse):
        open_leaves(data_dir)


def signed(data_dir: Path, size: int) -> None:
    control = ControlStore.open(data_dir)
    control.lead("c", 0)
    control.add_checkpoint(size, ROOT, b"note")
    control.close()


def test_a_store_behind_the_signed_size_is_not_opened(data_dir):
    store = open_leaves(data_dir)
    put(store, (A, 0, leaves(0, 10)))
    store.close()
    signed(data_dir, 10)
    open_leaves(data_dir).close()
    signed(data_dir, 11)
    with pytest.raises(StoreBehind, match="new origin"):
        open_leaves(data_dir)


def test_a_store_behind_the_published_checkpoint_is_not_opened(data_dir):
    open_leaves(data_dir).close()
    layout.log_dir(data_dir).mkdir()
    layout.checkpoint_path(data_dir).write_bytes(b"origin\n3\nroot\n\nsig\n")
    with pytest.raises(StoreBehind):
        open_leaves(data_dir)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.component("postgresql"))], scope="module")
def make_dir(request, tmp_path_factory):
    """Make a fresh data directory each time it is called."""

    def make() -> Path:
        folder = tmp_path_factory.mktemp("log")
        if request.param == "postgresql":
            settle_place(folder, new_log(request.getfixturevalue("postgres_server")))
        return folder

    return make


STEPS = st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 6), st.integers(1, 5), st.booleans()), max_size=20)


@settings(max_examples=12, deadline=None)
@given(steps=STEPS)
def test_any_order_of_sends_and_retries_commits_each_record_once(make_dir, steps):
    """A retry goes back up to six records and may repeat any of them; the log holds each number once, at the index first told."""
    data_dir = make_dir()
    store = open_leaves(data_dir)
    sent = {A: 0, B: 0}
    index_of: dict[tuple, int] = {}
    waiting: list[tuple] = []
    for number, (key, back, count, commits) in enumerate(steps):
        first = max(0, sent[key] - back)
        waiting += [(key, run) for run in store.stage(key, first, leaves(first, count, key[0]))]
        sent[key] = max(sent[key], first + count)
        if commits or number == len(steps) - 1:
            store.commit()
            for (owner, _), run in zip(waiting, store.settled([run for _, run in waiting]), strict=True):
                for offset in range(run.count):
                    assert index_of.setdefault((owner, run.first_seq + offset), run.first_index + offset) == run.first_index + offset
            waiting.clear()
    rows = list(follow(data_dir, 0))
    store.close()
    assert len(rows) == sum(sent.values())
    for (key, seq), index in index_of.items():
        assert rows[index] == (index, leaves(seq, 1, key[0])[0])


# -- the control store ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def control(data_dir):
    opened = ControlStore.open(data_dir)
    opened.lead("n1.controller", 1)
    yield opened
    opened.close()


@pytest.mark.usefixtures("control")
def test_only_one_controller_leads(data_dir):
    other = ControlStore.open(data_dir)
    with pytest.raises(StoreInUse):
        other.lead("n1.other", 2)
    other.close()


def test_a_store_that_never_led_cannot_sign_nor_put_a_configuration_in_force(data_dir):
    control = ControlStore.open(data_dir)
    signed(data_dir, 1)
    with pytest.raises(TermLost):
        control.add_checkpoint(2, ROOT, b"a")
    with pytest.raises(TermLost):
        control.install_bundle("sha256:x", 3)
    control.close()


@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.integers(0, 30), max_size=15))
def test_heads_grow_strictly_whatever_is_asked(make_dir, sizes):
    data_dir = make_dir()
    control = ControlStore.open(data_dir)
    control.lead("c", 0)
    largest = -1
    for size in sizes:
        if size > largest:
            control.add_checkpoint(size, ROOT, b"n")
            largest = size
        else:
            with pytest.raises(CheckpointRefused):
                control.add_checkpoint(size, ROOT, b"n")
    control.close()
    head = latest_head(data_dir)
    assert (head.size if head else -1) == largest


def test_terms_grow_with_each_leader(data_dir):
    terms = []
    for _ in range(3):
        store = ControlStore.open(data_dir)
        terms.append(store.lead("c", 0))
        store.renew()
        store.close()
    assert terms == [1, 2, 3]


def test_the_newest_bundle_is_the_current_one(control):
    assert control.current_bundle() is None
    for digest in ("sha256:a", "sha256:b", "sha256:a"):
        control.install_bundle(digest, 5)
    assert control.current_bundle() == "sha256:a"


def test_the_signed_size_is_the_larger_of_row_and_published_file(control, data_dir):
    assert signed_size(data_dir)[0] == 0
    control.add_checkpoint(5, ROOT, b"n")
    assert signed_size(data_dir)[0] == 5
    layout.log_dir(data_dir).mkdir()
    layout.checkpoint_path(data_dir).write_bytes(b"origin\n9\nroot\n\nsig\n")
    assert signed_size(data_dir) == (9, str(layout.checkpoint_path(data_dir)))
    layout.checkpoint_path(data_dir).write_bytes(b"nonsense")
    with pytest.raises(StoreDamaged):
        signed_size(data_dir)
