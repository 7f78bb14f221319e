"""What excerpts hold is what a search of the log finds, and nothing makes them hide a leaf."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import note, tiles
from audit.excerpts import (
    Content,
    Excerpting,
    Excerpts,
    NotBelieved,
    Sealed,
    excerpt_path,
    pattern_digest,
    seal,
    signed_nodes,
    unseal,
)
from audit.follow import search
from audit.keys import SigningKey
from audit.merkle import leaf_hashes
from audit.publisher import Publisher
from audit.signer import SignerUnavailable
from audit.store import layout
from audit.store.control import ControlStore
from audit.store.layout import RANGE_LEAVES
from audit.store.leaves import LeafStore

KEY = SigningKey.generate("log.example/excerpts", seed=b"e" * 32)
OTHER_KEY = SigningKey.generate("log.example/excerpts", seed=b"o" * 32)
KEYS = [KEY.verifier]
WANTED = re.compile(rb"revoked")
SIZE = 2 * RANGE_LEAVES + 300
REVOKED = (0, 77, RANGE_LEAVES - 1, RANGE_LEAVES, RANGE_LEAVES + 5, 2 * RANGE_LEAVES + 7)
A = ("n1.w0", 1)


def leaf_at(index: int, mark: str = "") -> bytes:
    return b"%s %d%s" % (b"revoked" if index in REVOKED else b"called", index, mark.encode())


EXPECTED = [(index, leaf_at(index)) for index in REVOKED]


class Log:
    """A log of two full ranges and some more, its publisher open. Owned by its test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = ControlStore.open(folder)
        self.control.lead("c", 0)
        self.publisher = Publisher.open(folder, self.control, [KEY])

    def make_excerpts(self, key: SigningKey = KEY, pattern: re.Pattern[bytes] = WANTED, done: set[int] | None = None) -> None:
        maker = Excerpting(self.folder, pattern, key, done=done or set())
        while maker.step(self.publisher):
            pass

    def close(self) -> None:
        self.publisher.close()
        self.control.close()


def new_log(folder: Path, mark: str = "") -> None:
    store = LeafStore.open(folder)
    for at in range(0, SIZE, 8192):
        store.stage(A, at, [leaf_at(index, mark) for index in range(at, min(at + 8192, SIZE))])
        store.commit()
    store.housekeep(idle=True)
    store.close()
    log = Log(folder)
    while log.publisher.publish_once():
        pass
    log.make_excerpts()
    log.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A closed log with its excerpts."""
    folder = tmp_path_factory.mktemp("made")
    new_log(folder)
    assert sorted(path.name for path in (folder / "excerpts").iterdir()) == ["00000000", "00000001"]
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy that a test may harm."""
    copy = tmp_path / "log"
    shutil.copytree(made, copy)
    yield copy
    shutil.rmtree(copy)


def searched(folder: Path, keys=KEYS, pattern=WANTED) -> tuple[list[tuple[int, bytes]], set[int]]:
    excerpts = Excerpts(folder, pattern, keys)
    return list(excerpts.search(SIZE)), excerpts.believed


def test_with_excerpts_the_same_leaves_are_found_and_full_ranges_are_not_read(folder: Path):
    assert searched(folder) == (EXPECTED, {0, 1})
    assert list(search(folder, WANTED)) == EXPECTED
    layout.range_path(folder, 0).write_bytes(b"")  # it would be missed if it were read
    assert searched(folder) == (EXPECTED, {0, 1})


@pytest.mark.parametrize("lost", [{0}, {1}, {0, 1}], ids=["first", "second", "both"])
def test_without_an_excerpt_its_range_is_read(folder: Path, lost: set[int]):
    for number in lost:
        excerpt_path(folder, number).unlink()
    assert searched(folder) == (EXPECTED, {0, 1} - lost)


def forged(folder: Path, of: int, key: SigningKey, **changed: object) -> bytes:
    """Return an excerpt without its leaves, or otherwise another than was made."""
    given = {"number": of, "node": signed_nodes(folder, KEYS)[of], "searched": pattern_digest(WANTED), "leaves": ()}
    return seal(Content(**{**given, **changed}), key)


def resealed(folder: Path) -> bytes:
    """Return the sound note over content that lacks its revocations."""
    sound = msgspec.msgpack.decode(excerpt_path(folder, 0).read_bytes(), type=Sealed)
    content = msgspec.msgpack.decode(sound.content, type=Content)
    return msgspec.msgpack.encode(Sealed(sound.note, msgspec.msgpack.encode(Content(0, content.node, content.searched, ()))))


def head_for_excerpt(folder: Path) -> bytes:
    """Return an excerpt whose note is a true signature of the log's key, over a head."""
    content = Content(0, signed_nodes(folder, KEYS)[0], pattern_digest(WANTED), ())
    return msgspec.msgpack.encode(Sealed((folder / "log" / "checkpoint").read_bytes(), msgspec.msgpack.encode(content)))


FORGERIES = {
    "emptied": lambda _: b"",
    "cut": lambda folder: excerpt_path(folder, 0).read_bytes()[:-1],
    "of-another-range": lambda folder: excerpt_path(folder, 1).read_bytes(),
    "signed-by-another-key": lambda folder: forged(folder, 0, OTHER_KEY),
    "its-leaves-taken-out": resealed,
    "with-the-signature-of-a-head": head_for_excerpt,
    "of-another-log": lambda folder: forged(folder, 0, KEY, node=b"\1" * 32),
    "of-another-search": lambda folder: forged(folder, 0, KEY, searched=pattern_digest(re.compile(b"revoked", re.IGNORECASE))),
    "that-names-another-range": lambda folder: forged(folder, 0, KEY, number=1),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_an_excerpt_that_could_hide_a_revocation_is_told_not_believed_and_made_anew(folder: Path, forge, caplog):
    excerpt_path(folder, 0).write_bytes(forge(folder))
    found, believed = searched(folder)
    assert found == EXPECTED
    assert believed == {1}
    assert "not believed" in caplog.text
    log = Log(folder)
    log.make_excerpts(done=believed)
    log.close()
    assert searched(folder) == (EXPECTED, {0, 1})


@given(st.data())
def test_no_flipped_bit_makes_an_excerpt_say_less(data):
    leaves = ((3, b"revoked 3"), (9, b"revoked 9"))
    sound = seal(Content(0, b"\7" * 32, b"\2" * 32, leaves), KEY)
    at = data.draw(st.integers(0, len(sound) * 8 - 1))
    flipped = bytearray(sound)
    flipped[at // 8] ^= 1 << at % 8
    with contextlib.suppress(NotBelieved):
        assert unseal(bytes(flipped), number=0, node=b"\7" * 32, searched=b"\2" * 32, keys=KEYS) == leaves


def test_excerpts_of_another_log_under_the_same_key_are_not_believed(folder: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    new_log(other, mark=" elsewhere")
    shutil.copytree(other / "excerpts", folder / "excerpts", dirs_exist_ok=True)
    assert searched(folder) == (EXPECTED, set())


def test_a_head_that_no_key_of_ours_signed_makes_nothing_believed(folder: Path):
    assert searched(folder, keys=[OTHER_KEY.verifier]) == (EXPECTED, set())


def test_tiles_that_do_not_give_the_signed_head_make_nothing_believed(folder: Path):
    nodes = signed_nodes(folder, KEYS)
    assert len(nodes) == 2
    tile = next((folder / "log" / "tile" / "2").rglob("*.p/2"))
    tile.write_bytes(nodes[1] + nodes[0])
    assert signed_nodes(folder, KEYS) == []
    assert searched(folder) == (EXPECTED, set())


def test_nodes_left_of_the_edge_must_give_the_peaks_that_the_head_signs(monkeypatch, folder: Path):
    """Where a log has more than 256 full ranges their nodes are in tiles that no recovery of the edge reads."""
    monkeypatch.setattr(tiles.TileReader, "hash_at", lambda *_: b"\1" * 32)
    assert signed_nodes(folder, KEYS) == []


def test_a_leaf_altered_before_the_excerpt_is_made_gets_none(folder: Path, caplog):
    """Its range does not give the signed tree: nothing is signed that would hide for good what was changed for a moment."""
    import sqlite3

    shutil.rmtree(folder / "excerpts")
    with sqlite3.connect(layout.range_path(folder, 0)) as connection:
        connection.execute("UPDATE leaf SET bytes = ? WHERE idx = 77", (b"called 77",))
    connection.close()
    log = Log(folder)
    log.make_excerpts()
    log.close()
    assert [path.name for path in (folder / "excerpts").iterdir()] == ["00000001"]
    assert "do not give the signed tree" in caplog.text


def test_a_signer_that_is_away_leaves_the_excerpt_for_later(folder: Path):
    class Away:
        name, kind, verifier = KEY.name, KEY.kind, KEY.verifier
        is_away = True

        def sign(self, message: bytes) -> bytes:
            if self.is_away:
                raise SignerUnavailable("away")
            return KEY.sign(message)

    shutil.rmtree(folder / "excerpts")
    log, signer = Log(folder), Away()
    maker = Excerpting(folder, WANTED, signer, done={1})
    while maker.step(log.publisher):
        pass
    assert not (folder / "excerpts").exists()
    signer.is_away = False
    assert maker.step(log.publisher)
    log.close()
    assert excerpt_path(folder, 0).exists()


def test_a_key_that_was_replaced_signs_no_excerpt_that_is_believed(folder: Path):
    """After a change of keys, ranges are read once more and taken out again under the new key."""
    excerpt_path(folder, 0).write_bytes(forged(folder, 0, OTHER_KEY))
    assert searched(folder, keys=[*KEYS])[1] == {1}


def test_an_excerpt_is_no_head_of_the_log(folder: Path):
    sealed = msgspec.msgpack.decode(excerpt_path(folder, 0).read_bytes(), type=Sealed)
    with pytest.raises(note.NoteError, match="origin"):
        note.open_checkpoint(sealed.note, KEYS)


def test_the_leaves_of_an_excerpt_are_those_of_the_signed_tree(folder: Path):
    """What is believed is what the tree was made of."""
    node = signed_nodes(folder, KEYS)[0]
    leaves = unseal(excerpt_path(folder, 0).read_bytes(), number=0, node=node, searched=pattern_digest(WANTED), keys=KEYS)
    stored = dict(search(folder, WANTED))
    assert leaf_hashes([leaf for _, leaf in leaves]) == leaf_hashes([stored[index] for index, _ in leaves])
