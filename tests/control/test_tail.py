"""The tail: evidence is read once from where it begins, again where it has to be, and nothing is judged before it has been read."""

from __future__ import annotations

import json
import sqlite3

import pytest

from audit.index import GapError
from audit.store.errors import StoreDamaged
from gateway.control import tail as tail_module
from gateway.control.tail import ROWS_PER_STEP, Tail


class FakeIndexer:
    """Takes rows in as the indexer does."""

    def __init__(self) -> None:
        self.next_index = 0

    def add(self, rows) -> None:
        self.next_index = rows[-1][0] + 1


class FakeRollouts:
    """Keeps what it was fed."""

    def __init__(self) -> None:
        self.fed: list[int] = []
        self.unread: int | None = None

    @property
    def has_unread(self) -> bool:
        return self.unread is not None

    def take_unread(self) -> int | None:
        found, self.unread = self.unread, None
        return found

    def feed(self, record) -> None:
        self.fed.append(record["n"])


class Desk:
    def __init__(self, monkeypatch, tmp_path, count: int) -> None:
        self.leaves = [json.dumps({"n": n, "type": "label"}, separators=(",", ":")).encode() for n in range(count)]
        self.is_damaged = False
        desk = self

        class FakeFollower:
            def __init__(self, data_dir) -> None:
                del data_dir

            def read(self, from_index, limit):
                if desk.is_damaged:
                    raise StoreDamaged("gone")
                return list(enumerate(desk.leaves[from_index : from_index + limit], from_index))

            def close(self) -> None:
                return None

        monkeypatch.setattr(tail_module, "Follower", FakeFollower)
        self.rollouts, self.indexer = FakeRollouts(), FakeIndexer()
        self.tail = Tail(tmp_path, self.indexer, self.rollouts)

    def read_all(self) -> None:
        while self.tail.step():
            pass


@pytest.fixture
def desk(monkeypatch, tmp_path) -> Desk:
    return Desk(monkeypatch, tmp_path, 2 * ROWS_PER_STEP + 5)


def test_evidence_is_read_once_from_where_it_begins_and_the_index_from_the_start(desk: Desk):
    desk.tail.read_evidence_from(3)
    desk.tail.read_evidence_from(1)
    assert desk.tail.is_behind
    desk.read_all()
    assert desk.rollouts.fed == list(range(3, len(desk.leaves)))
    assert desk.indexer.next_index == len(desk.leaves)
    assert not desk.tail.is_behind


def test_nothing_is_judged_while_committed_evidence_has_not_been_read(desk: Desk):
    desk.tail.read_evidence_from(0)
    desk.tail.step()
    assert desk.tail.is_behind


def test_an_epoch_that_goes_on_under_a_new_document_has_its_evidence_read_again(desk: Desk):
    desk.tail.read_evidence_from(0)
    desk.read_all()
    desk.rollouts.fed.clear()
    desk.rollouts.unread = len(desk.leaves) - 2
    assert desk.tail.is_behind, "from the moment it has to be read again"
    desk.read_all()
    assert desk.rollouts.fed == [len(desk.leaves) - 2, len(desk.leaves) - 1]
    assert not desk.tail.is_behind


def test_without_an_experiment_there_is_nothing_to_be_behind_of(desk: Desk):
    desk.read_all()
    assert desk.rollouts.fed == []
    assert not desk.tail.is_behind


def test_a_log_that_cannot_be_read_stops_judging_and_nothing_else(desk: Desk):
    desk.tail.read_evidence_from(0)
    desk.read_all()
    desk.is_damaged = True
    assert desk.tail.step() == 0
    assert desk.tail.is_behind
    desk.is_damaged = False
    desk.read_all()
    assert not desk.tail.is_behind


@pytest.mark.parametrize("fault", [FileNotFoundError("index.sqlite"), sqlite3.DatabaseError("malformed"), GapError("leaves 5 to 9 offered")])
def test_an_index_that_is_lost_is_opened_anew_and_holds_up_no_evidence(desk: Desk, monkeypatch, tmp_path, fault):
    """The file was deleted, or another process made it anew at the same moment."""
    fresh = FakeIndexer()
    desk.tail = Tail(tmp_path, desk.indexer, desk.rollouts, lambda: fresh)
    desk.tail.read_evidence_from(0)

    def add(_rows):
        raise fault

    monkeypatch.setattr(desk.indexer, "add", add)
    assert desk.tail.step() == ROWS_PER_STEP
    desk.read_all()
    assert desk.rollouts.fed == list(range(len(desk.leaves))), "each leaf once, in order"
    assert fresh.next_index == len(desk.leaves)


def test_an_index_that_takes_long_to_open_may_be_opened_before_the_first_step_and_is_needed_by_no_evidence(desk: Desk, tmp_path):
    opened = []

    def opening():
        opened.append(FakeIndexer())
        if len(opened) < 3:
            raise sqlite3.DatabaseError("malformed")
        return opened[-1]

    desk.tail = Tail(tmp_path, None, desk.rollouts, opening)
    desk.tail.read_evidence_from(0)
    desk.tail.open_index()
    assert desk.tail.step() == ROWS_PER_STEP, "the index cannot be opened yet; the evidence goes on"
    desk.read_all()
    assert desk.rollouts.fed == list(range(len(desk.leaves))), "each leaf once, in order"
    assert opened[-1].next_index == len(desk.leaves)
    assert len(opened) == 3
