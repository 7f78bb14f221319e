"""The control file: checkpoints only grow, and only under the current term."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlmodel import Session, select

from audit.store import layout
from audit.store.control import ControlStore, latest_head, signed_size
from audit.store.errors import CheckpointRefused, StoreDamaged, StoreInUse, TermLost
from audit.store.tables import CheckpointRow

ROOT = bytes(32)


@pytest.fixture
def control(tmp_path):
    store = ControlStore.open(tmp_path)
    store.lead("n1.controller", 1)
    yield store
    store.close()


@pytest.mark.usefixtures("control")
def test_only_one_controller_leads(tmp_path):
    other = ControlStore.open(tmp_path)
    with pytest.raises(StoreInUse):
        other.lead("n1.other", 2)
    other.close()


def test_a_leader_that_comes_back_late_cannot_sign(control):
    control.add_checkpoint(1, ROOT, b"a")
    control._connection.execute("INSERT INTO term (term, node, started_us) VALUES (?, 'n2.controller', 2)", (control.term + 1,))
    with pytest.raises(TermLost):
        control.add_checkpoint(2, ROOT, b"b")
    with pytest.raises(TermLost):
        control.install_bundle("sha256:x", 3)
    assert control.head().size == 1


def test_a_store_that_never_led_cannot_sign(tmp_path):
    store = ControlStore.open(tmp_path)
    with pytest.raises(TermLost):
        store.add_checkpoint(1, ROOT, b"a")
    store.close()


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 30), max_size=15))
def test_heads_grow_strictly_whatever_is_asked(tmp_path_factory, sizes):
    data_dir = tmp_path_factory.mktemp("control")
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


def test_terms_grow_with_each_leader(tmp_path):
    terms = []
    for _ in range(3):
        store = ControlStore.open(tmp_path)
        terms.append(store.lead("c", 0))
        store.close()
    assert terms == [1, 2, 3]


def test_the_newest_bundle_is_the_current_one(control):
    assert control.current_bundle() is None
    for digest in ("sha256:a", "sha256:b", "sha256:a"):
        control.install_bundle(digest, 5)
    assert control.current_bundle() == "sha256:a"


def test_the_signed_size_is_the_larger_of_row_and_published_file(control, tmp_path):
    control.add_checkpoint(5, ROOT, b"n")
    assert signed_size(tmp_path)[0] == 5
    layout.log_dir(tmp_path).mkdir()
    layout.checkpoint_path(tmp_path).write_bytes(b"origin\n9\nroot\n\nsig\n")
    assert signed_size(tmp_path) == (9, str(layout.checkpoint_path(tmp_path)))
    layout.checkpoint_path(tmp_path).write_bytes(b"nonsense")
    with pytest.raises(StoreDamaged):
        signed_size(tmp_path)


def test_admin_reads_go_through_the_sqlmodel_tables(control, tmp_path):
    control.add_checkpoint(5, ROOT, b"note")
    engine = create_engine(f"sqlite:///{layout.control_path(tmp_path)}")
    with Session(engine) as session:
        row = session.exec(select(CheckpointRow)).one()
    engine.dispose()
    assert (row.size, row.root, row.note, row.term) == (5, ROOT, b"note", control.term)
