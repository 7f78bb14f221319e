"""Tiles: the paths and files of C2SP tlog-tiles, at the sizes where they change shape, and from enemies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.merkle import Tree, consistency_proof, inclusion_proof, leaf_hash, leaf_hashes, root
from audit.tiles import (
    ENTRY_LIMIT_BYTES,
    HashTiles,
    TileError,
    TileReader,
    decode_bundle,
    encode_bundle,
    entries_path,
    limit_bytes,
    parse_path,
    require_whole,
    tile_path,
)

HASHES = leaf_hashes(str(number).encode() for number in range(70_000))
EDGES = [0, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 65_792, 70_000]


@pytest.fixture(scope="module")
def grown():
    """A log that stopped at every size in EDGES on its way to 70,000 leaves: (files, {size: state})."""
    tiles, files, states = HashTiles(), {}, {0: HashTiles()}
    for size in EDGES[1:]:
        tiles, new = tiles.append(HASHES[tiles.size : size])
        files.update(new)
        states[size] = tiles
    return files, states


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (tile_path(0, 0), "tile/0/000"),
        (tile_path(1, 999, 1), "tile/1/999.p/1"),
        (tile_path(63, 1000, 255), "tile/63/x001/000.p/255"),
        (entries_path(1234067), "tile/entries/x001/x234/067"),
        (tile_path(0, 2**55 - 1), "tile/0/x036/x028/x797/x018/x963/967"),
    ],
)
def test_paths_are_those_of_the_specification(path, expected):
    assert path == expected


@given(st.none() | st.integers(0, 63), st.integers(0, 2**63 - 1), st.integers(1, 256))
def test_a_path_reads_back_as_what_it_names(level, index, width):
    path = entries_path(index, width) if level is None else tile_path(level, index, width)
    named = parse_path(path)
    assert (named.level, named.index, named.width) == (level, index, width)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "checkpoint",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/000",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0/../0/000",
        "../tile/0/000",
        "tile/0/000\n",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/" + "x999/" * 6 + "999",
        "tile/0/" + "x999/" * 3000 + "999",
    ],
)
def test_anything_else_is_no_path(path):
    with pytest.raises(TileError):
        parse_path(path)


@pytest.mark.parametrize("arguments", [(-1, 0), (64, 0), (0, -1), (0, 2**63), (0, 0, 0), (0, 0, 257)])
def test_a_tile_that_cannot_be_has_no_path(arguments):
    with pytest.raises(TileError):
        tile_path(*arguments)


def test_a_log_of_70000_has_the_tiles_the_specification_lists(grown):
    files, _ = grown
    assert sum(path.startswith("tile/0/") and ".p/" not in path for path in files) == 273
    assert {"tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"} <= set(files)
    assert all(len(data) == parse_path(path).width * 32 for path, data in files.items())


@pytest.mark.parametrize("size", EDGES)
def test_the_edge_recovers_from_tiles_at_every_size_where_tiles_change_shape(grown, size):
    files, states = grown
    assert states[size].root() == root(HASHES[:size])
    assert HashTiles.recover(files.get, size, root(HASHES[:size])) == states[size]
    assert TileReader(files.get, size).root() == root(HASHES[:size])


@pytest.mark.parametrize("size", EDGES)
def test_full_tiles_serve_where_partial_ones_were_pruned(grown, size):
    files, _ = grown
    kept = {path: data for path, data in files.items() if ".p/" not in path or path in {"tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"}}
    if size == 65_792:  # its partial tile of level 1 has no full successor yet
        with pytest.raises(TileError, match="missing"):
            TileReader(kept.get, size).root()
    else:
        assert TileReader(kept.get, size).root() == root(HASHES[:size])


@settings(max_examples=40)
@given(st.lists(st.integers(0, 700), max_size=12))
def test_growing_in_any_batches_writes_what_is_needed_and_the_same_bytes(batches):
    tiles, files = HashTiles(), {}
    for count in batches:
        tiles, new = tiles.append(HASHES[tiles.size : tiles.size + count])
        assert all(files.get(path, data) == data for path, data in new.items()), "a written tile changed"
        files.update(new)
        assert tiles.root() == root(HASHES[: tiles.size])
        assert HashTiles.recover(files.get, tiles.size, tiles.root()) == tiles
    at_once, _ = HashTiles().append(HASHES[: tiles.size])
    assert at_once == tiles


@settings(max_examples=60)
@given(st.integers(1, 70_000), st.data())
def test_proofs_from_tiles_equal_proofs_from_memory(grown, size, data):
    files, _ = grown
    reader = TileReader(files.get, 70_000)
    index, smaller = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    tree = TREE
    assert inclusion_proof(index, size, reader.hash_at) == inclusion_proof(index, size, tree.hash_at)
    assert consistency_proof(smaller, size, reader.hash_at) == consistency_proof(smaller, size, tree.hash_at)


TREE = Tree(HASHES)


def test_the_reader_has_no_hash_beyond_its_size(grown):
    files, _ = grown
    reader = TileReader(files.get, 257)
    for level, index in ((0, 257), (1, 128), (8, 1), (9, 0), (-1, 0), (0, -1), (62, 0)):
        with pytest.raises(IndexError):
            reader.hash_at(level, index)


def test_a_tile_of_another_length_or_content_is_refused(grown):
    files, _ = grown
    head = root(HASHES)
    for path, data in (("tile/0/273.p/112", b""), ("tile/0/273.p/112", files["tile/0/273.p/112"] + b"x"), ("tile/1/001.p/17", bytes(17 * 32))):
        with pytest.raises(TileError):
            HashTiles.recover({**files, path: data}.get, 70_000, head)
    with pytest.raises(TileError, match=r"tile/0/273\.p/112"):
        HashTiles.recover({path: data for path, data in files.items() if path != "tile/0/273.p/112"}.get, 70_000, head)


def test_a_head_of_absurd_size_costs_a_few_reads():
    reads = []
    with pytest.raises(TileError):
        HashTiles.recover(reads.append, 2**63 - 1, bytes(32))
    assert len(reads) <= 8
    with pytest.raises(TileError):
        TileReader(reads.append, 2**63)


def test_an_edge_that_does_not_fit_its_size_is_refused():
    with pytest.raises(TileError):
        HashTiles(3, (bytes(64),))
    with pytest.raises(TileError):
        HashTiles(256, (b"",))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_a_bundle_reads_back(entries):
    data = encode_bundle(entries)
    assert decode_bundle(data, len(entries)) == entries
    require_whole(data, len(entries))
    for wrong in (data[:-1], data + b"\x00"):
        for read in (decode_bundle, require_whole):
            with pytest.raises(TileError):
                read(wrong, len(entries))


@given(st.binary(max_size=40), st.integers(1, 9))
def test_a_bundle_is_called_whole_exactly_when_it_can_be_taken_apart(data, width):
    def is_refused(read) -> bool:
        try:
            read(data, width)
        except TileError:
            return True
        return False

    assert is_refused(require_whole) is is_refused(decode_bundle)


def test_a_bundle_of_the_wrong_width_is_refused():
    data = encode_bundle([b"a", b"b"])
    for width in (1, 3):
        for read in (decode_bundle, require_whole):
            with pytest.raises(TileError):
                read(data, width)


def test_a_bundle_is_bounded():
    assert decode_bundle(encode_bundle([b"x" * ENTRY_LIMIT_BYTES]), 1) == [b"x" * ENTRY_LIMIT_BYTES]
    for entries in ([], [b""] * 257, [b"x" * (ENTRY_LIMIT_BYTES + 1)]):
        with pytest.raises(TileError):
            encode_bundle(entries)
    assert limit_bytes("tile/0/000.p/3") == 96
    assert limit_bytes("tile/entries/000.p/1") == 65_537


def test_the_bytes_of_a_bundle_are_big_endian_lengths():
    assert encode_bundle([b"", b"ab"]) == b"\x00\x00\x00\x02ab"
    assert leaf_hash(b"") in leaf_hashes([b""])
