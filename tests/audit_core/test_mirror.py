"""A node's own copy of a tree it does not sign: made from its own leaves, shown only where they give the signed root."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from audit import tiles
from audit.keys import SigningKey
from audit.mirror import Mirror
from audit.note import Checkpoint, sign
from audit.publisher import Publisher
from audit.store import layout
from audit.store.control import ControlStore
from audit.store.copies import SignedMark
from audit.store.errors import StoreBehind, StoreDamaged
from audit.store.leaves import LeafStore

KEY = SigningKey.generate("log.example/mirrored", seed=b"p" * 32)
WRITER = ("n1.w0", 1)


class Pair:
    """A log that is published, and a directory with the same leaves and no tree."""

    def __init__(self, folder: Path) -> None:
        self.leader, self.node = folder / "leader", folder / "node"
        self.leader.mkdir()
        self.store = LeafStore.open(self.leader)
        self.control = ControlStore.open(self.leader)
        self.control.lead("n1.controller", 0)
        self.publisher = Publisher.open(self.leader, self.control, [KEY])

    def add(self, count: int) -> bytes:
        """Commit and publish leaves; return the head that is shown."""
        first = self.store.position(WRITER).last_seq + 1
        self.store.stage(WRITER, first, [b"leaf-%d" % seq for seq in range(first, first + count)])
        self.store.commit()
        publication = self.publisher.publish_once()
        assert publication is not None
        shutil.rmtree(self.node / "ranges", ignore_errors=True)
        shutil.copytree(self.leader / "ranges", self.node / "ranges")
        return publication.note

    def mirror(self, mark: SignedMark | None = None) -> Mirror:
        return Mirror.open(self.node, [KEY.verifier], origin=KEY.name, mark=mark)

    def close(self) -> None:
        self.publisher.close()
        self.control.close()
        self.store.close()


@pytest.fixture
def pair(tmp_path: Path):
    made = Pair(tmp_path)
    yield made
    made.close()


def files(data_dir: Path) -> dict[str, bytes]:
    log = layout.log_dir(data_dir)
    return {str(path.relative_to(log)): path.read_bytes() for path in log.rglob("*") if path.is_file()}


def test_heads_are_followed_and_the_copy_is_the_leaders_file_for_file(pair: Pair, tmp_path: Path):
    mark = SignedMark(tmp_path / "node.signed")
    shown = pair.add(300)
    mirror = pair.mirror(mark)
    assert mirror.follow(shown) is True
    assert mirror.follow(shown) is False
    assert mirror.follow(pair.add(700)) is True
    assert mirror.size == mark.size == 1000
    assert files(pair.node) == files(pair.leader)
    assert pair.mirror().size == 1000, "it goes on from there"
    assert mirror.follow(shown) is False, "an older head takes nothing back"


def test_leaves_that_do_not_give_the_signed_root_are_shown_to_nobody(pair: Pair):
    mirror = pair.mirror()
    mirror.follow(pair.add(10))
    before = layout.checkpoint_path(pair.node).read_bytes()
    shown = pair.add(10)
    with sqlite3.connect(layout.range_path(pair.node, 0)) as connection:
        connection.execute("UPDATE leaf SET bytes = x'00' WHERE idx = 15")
    with pytest.raises(StoreDamaged, match="do not give the root"):
        mirror.follow(shown)
    assert layout.checkpoint_path(pair.node).read_bytes() == before


def test_a_head_of_another_key_or_log_or_past_the_leaves_is_refused(pair: Pair):
    mirror = pair.mirror()
    mirror.follow(pair.add(10))
    stranger = SigningKey.generate(KEY.name, seed=b"s" * 32)
    for signer, size, fault in ((stranger, 20, StoreDamaged), (KEY, 20, StoreBehind)):
        shown = sign(Checkpoint(signer.name, size, bytes(32)).text(), [signer])
        with pytest.raises(fault):
            mirror.follow(shown)
    with pytest.raises(StoreDamaged, match="is of log"):
        Mirror.open(pair.node, [KEY.verifier], origin="log.example/other", mark=None)


def test_tiles_that_were_altered_here_are_not_gone_on_with(pair: Pair):
    pair.mirror().follow(pair.add(10))
    path = layout.log_dir(pair.node) / tiles.tile_path(0, 0, 10)
    path.write_bytes(bytes(len(path.read_bytes())))
    with pytest.raises(StoreDamaged):
        pair.mirror()
