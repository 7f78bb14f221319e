"""Logs for tests, written with our own code: entries -> tiles, bundles, checkpoint, as files or as a dict of files."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from audit.keys import COSIGNATURE_V1, SigningKey
from audit.leaf import render
from audit.merkle import consistency_proof, inclusion_proof, leaf_hashes, subtree_root
from audit.note import Checkpoint, sign
from audit.source import open_directory
from audit.tiles import WIDTH, HashTiles, TileReader, encode_bundle, entries_path

ORIGIN = "log.example/test"
LOG_KEY = SigningKey.generate(ORIGIN, seed=b"L" * 32)
WITNESS_KEY = SigningKey.generate("witness.example/w", kind=COSIGNATURE_V1, seed=b"W" * 32)


def bundles(entries: Sequence[bytes]) -> dict[str, bytes]:
    """Return the entry bundles over all entries."""
    return {entries_path(at // WIDTH, len(entries[at : at + WIDTH])): encode_bundle(entries[at : at + WIDTH]) for at in range(0, len(entries), WIDTH)}


def log_files(
    entries: Sequence[bytes], *, key: SigningKey = LOG_KEY, witnesses: Sequence[SigningKey] = (), batch: int = 10**9, time_s: int | None = None
) -> dict[str, bytes]:
    """Return every file of a log that grew in batches of `batch` leaves, superseded partial tiles included; cosigned now by default."""
    tiles, files = HashTiles(), bundles(entries)
    for at in range(0, len(entries), batch):
        tiles, new = tiles.append(leaf_hashes(entries[at : at + batch]))
        files.update(new)
    head = Checkpoint(key.name, len(entries), tiles.root())
    files["checkpoint"] = sign(head.text(), [key, *witnesses], time_s=int(time.time()) if time_s is None else time_s)
    return files


def write_files(directory: Path, files: dict[str, bytes]) -> Path:
    """Write files below `directory`."""
    for path, data in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)
    return directory


def record(seq: int, *, kind: str = "call", node: str = "n1.w0", epoch: int = 1, **more: object) -> dict[str, object]:
    """Return a small record with the members every record has."""
    return {
        "v": 1,
        "id": f"01930000-0000-7000-8000-{abs(hash((node, epoch))) % 10**4:04d}{seq:08d}",
        "type": kind,
        "time": f"2026-11-20T10:{seq // 60 % 60:02d}:{seq % 60:02d}.000000Z",
        "mono_ns": seq * 10**9,
        "boot_id": "b",
        "writer": {"node": node, "epoch": epoch, "seq": seq},
        "actor": {"kind": "system", "id": "t"},
        "tenant": "acme",
        **more,
    }


def leaves(count: int, **more: object) -> list[bytes]:
    """Return `count` leaves of one writer that opens first and closes last."""
    kinds = ["writer.open", *["call"] * (count - 2), "writer.close"]
    return [render(record(seq, kind=kind, **more)) for seq, kind in enumerate(kinds[:count])]


# ---- proofs for foreign verifiers -------------------------------------------------------------------------------------------------

EDGES = (255, 256, 257, 65_535, 65_536, 65_537)
"""Sizes at which tiles change shape."""


@dataclass(frozen=True, slots=True)
class RandomProof:
    """One leaf proven in a tree of `size`, and that tree proven to extend the one of `old_size`."""

    index: int
    size: int
    old_size: int
    leaf_hash: bytes
    root: bytes
    old_root: bytes
    inclusion: list[bytes]
    consistency: list[bytes]


def random_proofs(directory: Path, count: int, sizes: Sequence[int], source: random.Random) -> list[RandomProof]:
    """Return proofs read from the tiles of a log in `directory`: every second one in a tree of the `sizes` in turn, the others of random size."""
    largest = max(sizes)
    read = open_directory(directory).read
    reader = TileReader(read, largest)
    roots = cache(lambda size: subtree_root(0, size, reader.hash_at))
    proofs = []
    for number in range(count):
        size = sizes[number // 2 % len(sizes)] if number % 2 else source.randint(2, largest)
        index, old = source.randrange(size), source.randint(1, size)
        inclusion, consistency = inclusion_proof(index, size, reader.hash_at), consistency_proof(old, size, reader.hash_at)
        proofs.append(RandomProof(index, size, old, reader.hash_at(0, index), roots(size), roots(old), inclusion, consistency))
    return proofs
