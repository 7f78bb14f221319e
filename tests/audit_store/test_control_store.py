"""The control file: a leader that comes back late, and reads through the tables. What every control store does: `test_store_conformance.py`."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine
from sqlmodel import Session, select

from audit.store import layout
from audit.store.control import ControlStore
from audit.store.errors import TermLost
from audit.store.tables import CheckpointRow

ROOT = bytes(32)


@pytest.fixture
def control(tmp_path):
    store = ControlStore.open(tmp_path)
    store.lead("n1.controller", 1)
    yield store
    store.close()


def test_a_leader_that_comes_back_late_cannot_sign(control):
    control.add_checkpoint(1, ROOT, b"a")
    control._connection.execute("INSERT INTO term (term, node, started_us) VALUES (?, 'n2.controller', 2)", (control.term + 1,))
    with pytest.raises(TermLost):
        control.add_checkpoint(2, ROOT, b"b")
    with pytest.raises(TermLost):
        control.install_bundle("sha256:x", 3)
    assert control.head().size == 1


def test_admin_reads_go_through_the_sqlmodel_tables(control, tmp_path):
    control.add_checkpoint(5, ROOT, b"note")
    engine = create_engine(f"sqlite:///{layout.control_path(tmp_path)}")
    with Session(engine) as session:
        row = session.exec(select(CheckpointRow)).one()
    engine.dispose()
    assert (row.size, row.root, row.note, row.term) == (5, ROOT, b"note", control.term)
