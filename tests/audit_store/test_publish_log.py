"""Publication: every crash between durable steps is repaired at the next start, and nothing is signed that the store cannot show."""

from __future__ import annotations

import shutil
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import note, tiles
from audit.follow import follow
from audit.keys import COSIGNATURE_V1, SigningKey
from audit.merkle import EMPTY_ROOT, leaf_hashes, root, verify_consistency
from audit.publisher import Publisher
from audit.store import layout
from audit.store.control import ControlStore
from audit.store.errors import StoreBehind, StoreBroken, StoreDamaged, StoreFull, TermLost
from audit.store.layout import RANGE_LEAVES
from audit.store.leaves import LeafStore

KEY = SigningKey.generate("log.example/test", seed=b"p" * 32)
WITNESS = SigningKey.generate("witness.example", kind=COSIGNATURE_V1, seed=b"w" * 32)
WRITER = ("n1.w0", 1)


class Log:
    """A data directory with its store, control file and publisher."""

    def __init__(self, data_dir, **options: object) -> None:
        self.data_dir = data_dir
        self.store = LeafStore.open(data_dir)
        self.control = ControlStore.open(data_dir)
        self.control.lead("n1.controller", 0)
        self.publisher = Publisher.open(data_dir, self.control, [KEY], **options)

    def add(self, count: int) -> None:
        for _ in range(0, count, 16384):
            first = self.store.position(WRITER).last_seq + 1
            batch = min(16384, count)
            self.store.stage(WRITER, first, [b"leaf-%d" % seq for seq in range(first, first + batch)])
            self.store.commit()
            count -= batch

    def close(self) -> None:
        self.publisher.close()
        self.control.close()
        self.store.close()

    def reopen(self, **options: object) -> Log:
        self.close()
        return Log(self.data_dir, **options)

    def read(self, path: str) -> bytes | None:
        file = layout.log_dir(self.data_dir) / path
        return file.read_bytes() if file.exists() else None

    def shown(self) -> note.Checkpoint:
        return note.open_checkpoint(self.read("checkpoint"), [KEY.verifier], [WITNESS.verifier]).checkpoint

    def check(self) -> None:
        """The published tree is the tree of the committed rows, from the tiles alone and from the leaves alone."""
        shown = self.shown()
        leaves = [leaf for _, leaf in follow(self.data_dir, 0, until=shown.size)]
        assert len(leaves) == shown.size
        assert root(leaf_hashes(leaves)) == shown.root
        assert tiles.TileReader(self.read, shown.size).root() == shown.root


@pytest.fixture
def log(tmp_path):
    opened = Log(tmp_path)
    yield opened
    opened.close()


def test_new_leaves_are_published_and_nothing_new_publishes_nothing(log):
    assert log.publisher.publish_once() is None
    log.add(5)
    assert log.publisher.pending() == 5
    publication = log.publisher.publish_once()
    assert (publication.old_size, publication.size, log.publisher.pending()) == (0, 5, 0)
    assert log.publisher.publish_once() is None
    log.check()


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(1, 700), st.booleans()), min_size=1, max_size=8))
def test_any_growth_with_restarts_gives_the_tree_of_the_rows_and_consistent_heads(tmp_path_factory, steps):
    log = Log(tmp_path_factory.mktemp("log"))
    heads = [(0, EMPTY_ROOT)]
    for count, restarts in steps:
        log.add(count)
        publication = log.publisher.publish_once()
        heads.append((publication.size, publication.root))
        if restarts:
            log.close()
            log = Log(log.data_dir)
    log.check()
    from audit.merkle import consistency_proof

    reader = tiles.TileReader(log.read, heads[-1][0]).hash_at
    for size, head_root in heads[1:]:
        verify_consistency(size, heads[-1][0], head_root, heads[-1][1], consistency_proof(size, heads[-1][0], reader))
    log.close()


def test_partial_tiles_go_once_the_full_tile_is_there(log):
    for count in (100, 100, 100):
        log.add(count)
        log.publisher.publish_once()
    files = sorted(str(path.relative_to(layout.log_dir(log.data_dir))) for path in layout.log_dir(log.data_dir).rglob("*") if path.is_file())
    assert files == ["checkpoint", "tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"]


def test_a_crash_before_the_file_was_replaced_is_repaired_at_the_next_start(log, tmp_path, monkeypatch):
    log.add(3)
    log.publisher.publish_once()
    log.add(3)
    monkeypatch.setattr("audit.publisher.replace_file", raise_broken)
    with pytest.raises(StoreBroken):
        log.publisher.publish_once()
    assert log.shown().size == 3
    monkeypatch.undo()
    log.publisher.close()
    log.publisher = Publisher.open(tmp_path, log.control, [KEY])
    assert log.shown().size == 6
    log.check()


def test_a_crash_between_tiles_and_row_signs_nothing_and_goes_on(log, tmp_path, monkeypatch):
    log.add(3)
    log.publisher.publish_once()
    log.add(300)
    monkeypatch.setattr(log.control, "add_checkpoint", raise_broken)
    with pytest.raises(StoreBroken):
        log.publisher.publish_once()
    monkeypatch.undo()
    log.publisher.close()
    log.publisher = Publisher.open(tmp_path, log.control, [KEY])
    assert (log.publisher.size, log.shown().size) == (3, 3)
    log.add(1)
    assert log.publisher.publish_once().size == 304
    log.check()


def test_a_full_disk_at_the_last_step_is_made_good_at_the_next_call(log, monkeypatch):
    log.add(3)
    monkeypatch.setattr("audit.publisher.replace_file", raise_full)
    with pytest.raises(StoreFull):
        log.publisher.publish_once()
    monkeypatch.undo()
    assert log.publisher.publish_once() is None
    assert log.shown().size == 3


def raise_broken(*_: object):
    raise StoreBroken("injected")


def raise_full(*_: object):
    raise StoreFull("injected")


def test_a_publisher_whose_term_is_over_signs_nothing(log):
    log.add(3)
    log.control._connection.execute("INSERT INTO term (term, node, started_us) VALUES (99, 'other', 1)")
    with pytest.raises(TermLost):
        log.publisher.publish_once()
    assert log.read("checkpoint") is None


def test_a_store_behind_the_signed_size_stops_the_publisher(log, tmp_path):
    log.add(10)
    log.publisher.publish_once()
    log.close()
    connection = sqlite3.connect(layout.range_path(tmp_path, 0))
    connection.execute("DELETE FROM leaf WHERE idx > 4")
    connection.commit()
    connection.close()
    control = ControlStore.open(tmp_path)
    control.lead("c", 0)
    with pytest.raises(StoreBehind, match="new origin"):
        Publisher.open(tmp_path, control, [KEY])
    control.close()
    (tmp_path / "emptied").mkdir()
    log.store, log.control = LeafStore.open(tmp_path / "emptied"), ControlStore.open(tmp_path / "emptied")


def refuses_to_open(log, tmp_path, match: str, keys=(KEY,)) -> None:
    log.publisher.close()
    with pytest.raises(StoreDamaged, match=match):
        Publisher.open(tmp_path, log.control, list(keys))


def test_a_changed_tile_stops_the_publisher(log, tmp_path):
    log.add(300)
    log.publisher.publish_once()
    path = layout.log_dir(tmp_path) / "tile/0/001.p/44"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    refuses_to_open(log, tmp_path, "do not give the signed root")


def test_a_missing_tile_stops_the_publisher(log, tmp_path):
    log.add(300)
    log.publisher.publish_once()
    shutil.rmtree(layout.log_dir(tmp_path) / "tile/1")
    refuses_to_open(log, tmp_path, "tile is missing")


def test_another_key_stops_the_publisher(log, tmp_path):
    log.add(3)
    log.publisher.publish_once()
    refuses_to_open(log, tmp_path, "does not fit the log", [SigningKey.generate("log.example/test", seed=b"q" * 32)])


def test_an_older_control_file_stops_the_publisher(log, tmp_path):
    log.add(3)
    log.publisher.publish_once()
    log.control._connection.execute("DELETE FROM checkpoint")
    refuses_to_open(log, tmp_path, "older `control.sqlite` was restored")


def test_a_published_file_of_another_tree_stops_the_publisher(log, tmp_path):
    log.add(3)
    log.publisher.publish_once()
    layout.checkpoint_path(tmp_path).write_bytes(note.sign(note.Checkpoint(KEY.name, 3, b"x" * 32).text(), [KEY]))
    refuses_to_open(log, tmp_path, "two histories")


def test_witnesses_are_asked_after_the_head_is_bound_and_before_it_is_shown(tmp_path):
    asked = []

    def cosign(request):
        parsed = note.parse(request.note)
        head = note.Checkpoint.parse(parsed.text)
        assert log.control.head().size == head.size, "bound"
        assert (log.read("checkpoint") is None) == (request.old_size == 0), "not shown yet"
        if request.old_size:
            verify_consistency(request.old_size, head.size, asked[-1].root, head.root, request.proof)
        asked.append(head)
        return [note.make_signature(parsed.text, WITNESS, time_s=1000)]

    log = Log(tmp_path, cosign=cosign)
    for count in (3, 300, 7):
        log.add(count)
        log.publisher.publish_once()
        opened = note.open_checkpoint(log.read("checkpoint"), [KEY.verifier], [WITNESS.verifier])
        assert [each.time_s for each in opened.cosignatures] == [1000]
    cosigned = log.read("checkpoint")
    log = log.reopen(cosign=cosign)
    assert log.read("checkpoint") == cosigned, "a restart keeps the cosignatures"
    log.close()


def test_a_full_range_is_sealed_verified_and_only_then_removable(tmp_path):
    log = Log(tmp_path)
    log.add(RANGE_LEAVES + 300)
    log.store.housekeep(idle=True)
    while log.publisher.publish_once():
        pass
    leaves = list(follow(tmp_path, 0))
    with pytest.raises(StoreDamaged, match="is missing"):
        log.publisher.remove_range_database(0)
    assert log.publisher.seal_some(100) == 100
    assert not log.publisher.is_sealed(0)
    log = log.reopen()
    while log.publisher.seal_some(64):
        pass
    assert log.publisher.is_sealed(0)
    bundle = layout.log_dir(tmp_path) / "tile/entries/017"
    sound = bundle.read_bytes()
    bundle.write_bytes(sound[:-1] + b"?")
    with pytest.raises(StoreDamaged, match="does not give the hashes"):
        log.publisher.remove_range_database(0)
    bundle.write_bytes(sound)
    with pytest.raises(StoreDamaged, match="not covered"):
        log.publisher.remove_range_database(1)
    log.publisher.remove_range_database(0)
    assert layout.range_numbers(tmp_path) == [1]
    assert list(follow(tmp_path, 0)) == leaves, "read from the bundles where the database is gone"
    assert list(follow(tmp_path, RANGE_LEAVES - 3, until=RANGE_LEAVES + 2)) == leaves[RANGE_LEAVES - 3 : RANGE_LEAVES + 2]
    log = log.reopen()
    log.add(10)
    log.publisher.publish_once()
    log.check()
    log.close()


def test_a_range_whose_tiles_and_bundles_were_both_changed_is_not_removed(tmp_path):
    """Bundle and its tile agree with each other, but not with the signed tree."""
    log = Log(tmp_path)
    log.add(RANGE_LEAVES + 1)
    while log.publisher.publish_once():
        pass
    while log.publisher.seal_some(256):
        pass
    forged = [b"forged-%d" % n for n in range(256)]
    (layout.log_dir(tmp_path) / "tile/entries/003").write_bytes(tiles.encode_bundle(forged))
    (layout.log_dir(tmp_path) / "tile/0/003").write_bytes(b"".join(leaf_hashes(forged)))
    with pytest.raises(StoreDamaged, match="do not give the signed tree"):
        log.publisher.remove_range_database(0)
    assert layout.range_numbers(tmp_path)[0] == 0
    log.close()
