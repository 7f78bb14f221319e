"""The index answers as the log does, and what is derived can be lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records_strategy import Log, leaf_bytes, logs

from audit.index import GapError, Indexer, IndexUnavailable
from audit.query import Page, Query, QueryError, Row, full_scan, normal_time

Leaves = list[tuple[int, bytes]]


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
@given(log=logs(), query=queries, limit=st.integers(1, 7), garbage=st.sampled_from([b"", b"\xff not a record"]))
def test_index_and_full_scan_give_the_same_rows_page_by_page(log: Log, query: Query, limit: int, garbage: bytes):
    leaves = log.leaves()
    if garbage:
        leaves.append((len(leaves), garbage))
    with TemporaryDirectory() as folder, Indexer(Path(folder), following(leaves)) as indexer:
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
