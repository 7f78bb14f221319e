"""The index answers as the log does, and what is derived can be lost."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records_strategy import Log, leaf_bytes, logs

from audit.index import GapError, Indexer, IndexUnavailable
from audit.postings import Sizes, id_term
from audit.query import Page, Query, QueryError, Row, full_scan, normal_time

Leaves = list[tuple[int, bytes]]
SMALL = Sizes(block=2, run=6)
ALL_SIZES = [Sizes(), Sizes(block=3, run=3), SMALL, Sizes(block=1, run=4)]
"""Of a small log: nothing in full blocks, all in full runs, and everything between."""


def following(leaves: Leaves):
    def follow(_data_dir: Path, from_index: int) -> Iterator[tuple[int, bytes]]:
        yield from leaves[from_index:]

    return follow


def small_log() -> Leaves:
    log = Log()
    for place in range(10):
        log.call(version="34"[place % 2])
    log.label(log.records[2]["id"], "1")
    return log.leaves()


VALUES = {
    "type": ["call", "label", "decision", "unreadable"],
    "tenant": ["acme", "globex"],
    "actor": ["key:k_1"],
    "model": ["credit-risk", "churn"],
    "version": ["3", "4"],
    "policy": ["allow", "deny"],
    "rule": ["approvals.missing", "x"],
    "experiment": ["credit-v4"],
    "arm": ["champion", "challenger"],
    "code": ["policy_denied"],
    "subject": ["0" * 32, f"{3:032x}"],
    "decision": ["019a0000-0000-7000-8000-000000000001"],
    "since": [Log.clock(10_000_000)],
    "until": [Log.clock(20_000_000)],
}
queries = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()}).flatmap(
    lambda given_values: st.booleans().map(lambda oldest: Query(oldest_first=oldest, **given_values))
)


def walk(ask, limit: int) -> list[Row]:
    rows: list[Row] = []
    cursor = None
    while True:
        page: Page = ask(cursor, limit)
        rows += page.rows
        assert len(page.rows) <= limit
        cursor = page.cursor
        if cursor is None:
            return rows


@settings(max_examples=60, deadline=None)
@given(log=logs(), query=queries, limit=st.integers(1, 7), garbage=st.sampled_from([b"", b"\xff not a record"]), sizes=st.sampled_from(ALL_SIZES))
def test_index_and_full_scan_give_the_same_rows_page_by_page(log: Log, query: Query, limit: int, garbage: bytes, sizes: Sizes):
    leaves = log.leaves()
    if garbage:
        leaves.append((len(leaves), garbage))
    with TemporaryDirectory() as folder, Indexer(Path(folder), following(leaves), sizes) as indexer:
        indexer.catch_up()
        by_index = walk(lambda cursor, limit: indexer.page(query, limit=limit, cursor=cursor), limit)
        by_scan = walk(lambda cursor, limit: full_scan(leaves, query, size=len(leaves), limit=limit, cursor=cursor), limit)
        assert by_index == by_scan
        assert [row.idx for row in by_scan] == sorted((row.idx for row in by_scan), reverse=not query.oldest_first)
        assert indexer.damage(deep=True) is None


def test_a_walk_stays_at_its_tree_size_while_the_log_grows(tmp_path: Path):
    leaves = small_log()
    with Indexer(tmp_path, following(leaves)) as indexer:
        indexer.add(leaves[:6])
        first = indexer.page(Query(oldest_first=True), limit=4)
        indexer.add(leaves[6:])
        second = indexer.page(Query(oldest_first=True), limit=4, cursor=first.cursor)
    assert [row.idx for row in first.rows + second.rows] == [0, 1, 2, 3, 4, 5]
    assert second.size == 6
    assert second.cursor is None


def test_a_cursor_of_another_question_or_a_longer_log_is_refused(tmp_path: Path):
    leaves = small_log()
    with Indexer(tmp_path, following(leaves)) as indexer:
        indexer.catch_up()
        cursor = indexer.page(Query(), limit=2).cursor
        with pytest.raises(QueryError, match="another question"):
            indexer.page(Query(model="credit-risk"), limit=2, cursor=cursor)
        with pytest.raises(QueryError, match="damaged"):
            indexer.page(Query(), limit=2, cursor="!!")
    with pytest.raises(QueryError, match="pinned to size"):
        full_scan(leaves[:5], Query(), size=5, limit=2, cursor=cursor)


def test_a_batch_sent_twice_changes_nothing_and_a_gap_is_refused(tmp_path: Path):
    leaves = small_log()
    with Indexer(tmp_path, following(leaves)) as indexer:
        assert indexer.add(leaves[:4]) == 4
        assert indexer.add(leaves[:4]) == 4
        assert indexer.add(leaves[2:6]) == 6
        with pytest.raises(GapError, match="`6` is next"):
            indexer.add(leaves[8:])
        assert indexer.next_index == 6


def test_indexing_resumes_at_its_own_high_index(tmp_path: Path):
    leaves = small_log()
    with Indexer(tmp_path, following(leaves)) as indexer:
        indexer.add(leaves[:4])
    asked: list[int] = []

    def follow(_data_dir: Path, from_index: int) -> Iterator[tuple[int, bytes]]:
        asked.append(from_index)
        yield from leaves[from_index:]

    with Indexer(tmp_path, follow) as indexer:
        assert indexer.catch_up() == len(leaves)
    assert 0 not in asked


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(b"not a database at all" * 100),
        lambda path: _sql(path, "DELETE FROM leaf_index WHERE idx = 3"),
        lambda path: _sql(path, "UPDATE progress SET layout = 99"),
        lambda path: _sql(path, "DROP TABLE leaf_index"),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.unlink(),
    ],
    ids=["overwritten", "row-missing", "layout", "table-missing", "truncated", "deleted"],
)
def test_a_damaged_or_deleted_index_is_rebuilt(tmp_path: Path, harm):
    leaves = small_log()
    with Indexer(tmp_path, following(leaves)) as indexer:
        indexer.catch_up()
    harm(tmp_path / "index.sqlite")
    with Indexer(tmp_path, following(leaves)) as indexer:
        assert indexer.next_index == 0
        assert indexer.catch_up() == len(leaves)
        assert len(indexer.page(Query(), limit=100).rows) == len(leaves)


def test_deletion_under_a_running_indexer_is_noticed_at_the_next_batch(tmp_path: Path):
    leaves = small_log()
    with Indexer(tmp_path, following(leaves)) as indexer:
        indexer.add(leaves[:4])
        (tmp_path / "index.sqlite").unlink()
        assert indexer.add(leaves[4:]) == 0
        assert indexer.catch_up() == len(leaves)


def test_a_locked_index_is_unavailable_and_not_thrown_away(tmp_path: Path):
    leaves = small_log()
    with Indexer(tmp_path, following(leaves)) as indexer:
        indexer.add(leaves[:4])
        other = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexUnavailable, match="locked"):
            indexer.add(leaves[4:])
        other.execute("ROLLBACK")
        other.close()
        assert indexer.add(leaves[4:]) == len(leaves)


def test_the_index_of_another_log_is_rebuilt(tmp_path: Path):
    leaves = small_log()
    with Indexer(tmp_path, following(leaves)) as indexer:
        indexer.catch_up()
    other = [(idx, leaf_bytes({"id": str(idx), "type": "log.heartbeat", "time": "t"})) for idx in range(len(leaves))]
    with Indexer(tmp_path, following(other)) as indexer:
        assert indexer.next_index == 0


def test_a_row_edited_in_place_is_found_by_the_deep_check(tmp_path: Path):
    leaves = small_log()
    with Indexer(tmp_path, following(leaves)) as indexer:
        indexer.catch_up()
        _sql(tmp_path / "index.sqlite", "UPDATE leaf_index SET subject = '9' WHERE idx = 2")
        assert indexer.damage() is None
        assert indexer.damage(deep=True) == "row `2` differs from its leaf"


DERIVED_HARM = {
    "time-of-a-block": ("UPDATE block SET low_time = 'x' WHERE number = 1", "times of block `1`"),
    "a-shape-without-its-rows": ("UPDATE shape_block SET places = x'0100' WHERE block = 0 AND places = x'0000'", "shapes of block `0`"),
    "postings-of-a-block": ("UPDATE block_postings SET entries = zeroblob(length(entries)) WHERE block = 3", "postings of block `3`"),
    "postings-of-a-run": ("UPDATE run_postings SET entries = zeroblob(length(entries))", "postings of run `0`"),
}


@pytest.mark.parametrize(("harm", "told"), DERIVED_HARM.values(), ids=DERIVED_HARM)
def test_what_is_derived_from_rows_and_was_edited_is_found_by_the_deep_check(tmp_path: Path, harm: str, told: str):
    leaves = small_log()
    with Indexer(tmp_path, following(leaves), SMALL) as indexer:
        indexer.catch_up()
        assert indexer.damage(deep=True) is None
        _sql(tmp_path / "index.sqlite", harm)
        assert indexer.damage() is None
        assert told in str(indexer.damage(deep=True))


COUNTED = ("block", "shape_block", "block_postings", "run_postings")


@pytest.mark.parametrize("table", COUNTED)
def test_a_row_missing_from_what_is_derived_is_noticed_when_the_index_is_opened(tmp_path: Path, table: str):
    leaves = small_log()
    with Indexer(tmp_path, following(leaves), SMALL) as indexer:
        indexer.catch_up()
    _sql(tmp_path / "index.sqlite", f"DELETE FROM {table} WHERE rowid = (SELECT min(rowid) FROM {table})")  # noqa: S608 - a name of ours
    with Indexer(tmp_path, following(leaves), SMALL) as indexer:
        assert indexer.next_index == 0


MISSED = {
    "a-row-asked-by-id": ("DELETE FROM leaf_index WHERE idx = 2", "id"),
    "a-row-asked-by-shape": ("DELETE FROM leaf_index WHERE idx = 2", "model"),
    "a-row-walked-over": ("DELETE FROM leaf_index WHERE idx = 2", None),
    "postings-of-a-run": ("DELETE FROM run_postings", "id"),
    "postings-of-a-block": ("DELETE FROM block_postings WHERE block = 3", "id"),
    "a-shape": ("DELETE FROM shape", None),
}


@pytest.mark.parametrize(("harm", "by"), MISSED.values(), ids=MISSED)
def test_where_an_index_is_too_large_to_be_counted_what_is_missing_is_noticed_by_who_asks(monkeypatch, tmp_path: Path, harm: str, by: str | None):
    monkeypatch.setattr("audit.index.CHECKED_BYTES", 0)
    leaves = small_log()
    with Indexer(tmp_path, following(leaves), SMALL) as indexer:
        indexer.catch_up()
        row = next(row for row in indexer.page(Query(), limit=100).rows if row.idx == 2)
        _sql(tmp_path / "index.sqlite", harm)
    with Indexer(tmp_path, following(leaves), SMALL) as indexer:
        assert indexer.next_index == len(leaves), "not seen when it was opened"
        with pytest.raises(IndexUnavailable, match="made anew"):
            indexer.page(Query(**({} if by is None else {by: getattr(row, by)})), limit=100)
        assert indexer.next_index == 0
        assert indexer.catch_up() == len(leaves)
        assert len(indexer.page(Query(), limit=100).rows) == len(leaves)


def test_an_index_of_the_layout_before_is_noticed_and_rebuilt(tmp_path: Path):
    leaves = small_log()
    assert len(leaves) == 11
    _sql(tmp_path / "index.sqlite", "CREATE TABLE progress (id INTEGER PRIMARY KEY, layout INTEGER, next_index INTEGER, tail_sha256 VARCHAR)")
    _sql(tmp_path / "index.sqlite", "INSERT INTO progress VALUES (1, 3, 11, '')")
    with Indexer(tmp_path, following(leaves)) as indexer:
        assert indexer.next_index == 0
        assert indexer.catch_up() == len(leaves)


def test_two_processes_that_index_the_same_log_in_turns_agree(tmp_path: Path):
    """What one remembers of the last block is forgotten when the other has gone on."""
    leaves = small_log()
    with Indexer(tmp_path, following(leaves), SMALL) as one, Indexer(tmp_path, following(leaves), SMALL) as other:
        for at in range(len(leaves)):
            (one, other)[at % 3 == 1].add(leaves[at : at + 1])
        assert one.damage(deep=True) is None
        assert [row.idx for row in other.page(Query(oldest_first=True), limit=100).rows] == list(range(len(leaves)))


def test_a_posting_that_names_another_record_by_chance_is_no_answer(tmp_path: Path):
    """Terms have 22 bits: two ids of one term are looked at, one answers."""
    seen: dict[int, str] = {}
    first = second = ""
    for number in range(100_000):
        second = hashlib.sha256(str(number).encode()).hexdigest()
        first = seen.setdefault(id_term(second), second)
        if first != second:
            break
    assert first != second
    leaves = [(place, leaf_bytes({"id": name, "type": "log.heartbeat", "time": "t"})) for place, name in enumerate((first, second))]
    with Indexer(tmp_path, following(leaves), Sizes(block=1, run=1)) as indexer:
        indexer.catch_up()
        assert [row.id for row in indexer.page(Query(id=first), limit=5).rows] == [first]
        assert [row.id for row in indexer.page(Query(id=second), limit=5).rows] == [second]


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("sizes", ALL_SIZES)
def test_many_records_of_one_subject_come_in_walking_order_over_blocks_and_runs(tmp_path: Path, sizes: Sizes, *, oldest_first: bool):
    leaves = [(place, leaf_bytes({"id": str(place), "type": "log.heartbeat", "time": "t", "subject": "ab"[place % 3 == 0]})) for place in range(23)]
    question = Query(subject="a", oldest_first=oldest_first)
    with Indexer(tmp_path, following(leaves), sizes) as indexer:
        indexer.catch_up()
        found = walk(lambda cursor, limit: indexer.page(question, limit=limit, cursor=cursor), 4)
        assert found == walk(lambda cursor, limit: full_scan(leaves, question, size=len(leaves), limit=limit, cursor=cursor), 4)
    assert len(found) == 15


def test_times_that_go_back_are_found_all_the_same(tmp_path: Path):
    """Blocks are left out by their earliest and latest time, not by their place."""
    clock = [5, 6, 1, 9, 2, 7, 3, 8]
    leaves = [(place, leaf_bytes({"id": str(place), "type": "log.heartbeat", "time": str(second)})) for place, second in enumerate(clock)]
    with Indexer(tmp_path, following(leaves), Sizes(block=2, run=4)) as indexer:
        indexer.catch_up()
        for since in range(11):
            for until in range(11):
                found = indexer.page(Query(since=str(since), until=str(until), oldest_first=True), limit=100).rows
                expected = full_scan(leaves, Query(since=str(since), until=str(until), oldest_first=True), size=len(leaves), limit=100).rows
                assert found == expected


def test_related_gives_the_decision_its_outcome_and_its_labels(tmp_path: Path):
    log = Log()
    decision = log.call(kind="decision")
    log.call()
    log.outcome(decision)
    log.label(decision["id"], "1")
    with Indexer(tmp_path, following(log.leaves())) as indexer:
        indexer.catch_up()
        assert [row.type for row in indexer.related(decision["id"])] == ["decision", "outcome", "label"]


def test_times_are_read_with_a_zone_or_as_a_date():
    assert normal_time("2026-11-20") == "2026-11-20T00:00:00.000000Z"
    assert normal_time("2026-11-20T10:00:00+02:00") == "2026-11-20T08:00:00.000000Z"
    with pytest.raises(QueryError, match="not a time with a zone"):
        normal_time("2026-11-20T10:00:00")


def _sql(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
