"""The archive: the whole log as static files that verify alone, and sealed ranges as Parquet for analysis.

An archive is a folder that is a log itself (C2SP tlog-tiles): checkpoint, hash tiles, entry bundles up to the checkpoint's size. `assay audit verify`
reads it like any other, on a machine that has nothing else. Beside it lie `parquet/NNNNNNNN.parquet`, one for each sealed range of 65,536 leaves,
with the exact leaf bytes and their hashes, and `manifest.json` with the SHA-256 of every file.

Rules:
- Files are added, never changed: a run copies what is new.
- Everything is verified as read back from the archive, against the signed root, before the checkpoint is put in place: a run that is cut off leaves
  the former archive.
- A Parquet file is a copy for analysis, never evidence; `check_parquet` compares one with the tree.

Example:
    done = archive(Path("data"), Path("/archive/assay"), keys=[vkey], parquet=True)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from audit.entry import read_entry
from audit.keyring import LogKey
from audit.merkle import leaf_hash
from audit.note import NoteError, open_checkpoint
from audit.source import CHECKPOINT, LogSource, SourceError, open_directory
from audit.store.durable import read_or_none, replace_file, write_files
from audit.store.errors import StoreDamaged, StoreError
from audit.store.layout import RANGE_LEAVES
from audit.tiles import WIDTH, TileError, encode_bundle, entries_path, read_tile, tile_path
from audit.verify import verify_log

MANIFEST: Final = "manifest.json"
_FILES_AT_ONCE: Final = 256


class ArchiveRefused(StoreError):  # noqa: N818 - reads as the state it is
    """The log, or what the archive already holds, does not verify; the archive is as it was."""


class Archived(msgspec.Struct, frozen=True):
    """What a run did: the size the archive now verifies up to, files added, sealed ranges in Parquet."""

    size: int
    files_added: int
    parquet_ranges: int


def archive(
    data_dir: Path, target: Path, keys: Sequence[LogKey], *, parquet: bool = False, progress: Callable[[int, int], None] | None = None
) -> Archived:
    """Bring the archive in `target` up to the newest checkpoint of `data_dir`.

    Args:
        data_dir: a data directory, of a running gateway or of none, or any log folder.
        target: the archive; made if absent.
        keys: keys of the log.
        parquet: also write a Parquet file for every sealed range; needs the extra `parquet`.
        progress: called with (entries done, entries in all).

    Raises:
        ArchiveRefused: something does not verify, or is missing.
        StoreError: as writing files raises.
    """
    source = open_directory(data_dir)
    try:
        note = source.read(CHECKPOINT)
        if note is None:
            raise ArchiveRefused(f"`{data_dir}` has no checkpoint\nhint: name the data directory of a log that has signed something")
        size = open_checkpoint(note, keys).checkpoint.size
        _require_growth(target, keys, size)
        added = _copy(source, target, size, progress)
    except (NoteError, SourceError, TileError) as error:
        raise ArchiveRefused(f"`{data_dir}` cannot be archived: {error}") from error
    known = read_or_none(target / CHECKPOINT)
    (target / "checkpoint.new").write_bytes(note)
    _verify(target, note, known, keys)
    ranges = _write_parquet(target, size) if parquet else len(list((target / "parquet").glob("*.parquet")))
    _write_manifest(target)
    replace_file(target / CHECKPOINT, note)
    (target / "checkpoint.new").unlink()
    return Archived(size, added, ranges)


def _require_growth(target: Path, keys: Sequence[LogKey], size: int) -> None:
    held = read_or_none(target / CHECKPOINT)
    if held is not None and open_checkpoint(held, keys).checkpoint.size > size:
        raise ArchiveRefused(
            f"`{target}` holds a later checkpoint than the log\nhint: the log was rolled back, or it is another log's archive; keep both as evidence"
        )


def _copy(source: LogSource, target: Path, size: int, progress: Callable[[int, int], None] | None) -> int:
    """Copy the tiles and entries of `size` leaves that the archive lacks; return how many files that were."""
    added, fresh = 0, {}
    for level, index, width in _shape(size):
        path = entries_path(index, width) if level is None else tile_path(level, index, width)
        if (target / path).exists():
            continue
        fresh[path] = _bundle(source, index, width) if level is None else read_tile(source.read, level, index, width)
        added += 1
        if len(fresh) >= _FILES_AT_ONCE:
            write_files(target, fresh)
            fresh = {}
            if progress is not None and level is None:
                progress(index * WIDTH, size)
    write_files(target, fresh)
    return added


def _shape(size: int) -> Iterator[tuple[int | None, int, int]]:
    """Give (level, index, width) of every file of a log of `size` leaves: hash tiles, then entry bundles, whose level is None."""
    level, count = 0, size
    while count:
        yield from ((level, index, min(WIDTH, count - index * WIDTH)) for index in range(-(-count // WIDTH)))
        count, level = count // WIDTH, level + 1
    yield from ((None, index, min(WIDTH, size - index * WIDTH)) for index in range(-(-size // WIDTH)))


def _bundle(source: LogSource, index: int, width: int) -> bytes:
    entries = source.bundle(index, width)
    if entries is None:
        raise ArchiveRefused(f"entries from `{index * WIDTH}` on are missing, in files and in rows\nhint: `assay audit verify` names what is wrong")
    return encode_bundle(entries)


class _Pending:
    """The archive as it will be: its files, with the checkpoint that is not in place yet."""

    def __init__(self, target: Path, note: bytes) -> None:
        self._files = open_directory(target).files
        self._note = note

    def read(self, path: str) -> bytes | None:
        return self._note if path == CHECKPOINT else self._files.read(path)


def _verify(target: Path, note: bytes, known: bytes | None, keys: Sequence[LogKey]) -> None:
    verdict = verify_log(LogSource(_Pending(target, note)), keys, known)
    wrong = [*verdict.chain.faults, *verdict.tamper.faults, *(verdict.independence.faults if known is not None else [])]
    if wrong:
        raise ArchiveRefused(
            f"the archive `{target}` would not verify: {wrong[0].message}\nhint: its former checkpoint stays in force; `assay audit verify`"
        )


def _write_manifest(target: Path) -> None:
    """List every file with its SHA-256, reusing what the last run found for files that are never changed."""
    held = read_or_none(target / MANIFEST)
    before: dict[str, str] = {} if held is None else msgspec.json.decode(held, type=dict[str, dict[str, str]]).get("sha256", {})
    listed = {}
    for path in sorted(path for folder in ("tile", "parquet") for path in (target / folder).rglob("*") if path.is_file()):
        name = str(path.relative_to(target))
        listed[name] = before.get(name) or hashlib.sha256(path.read_bytes()).hexdigest()
    replace_file(target / MANIFEST, msgspec.json.format(msgspec.json.encode({"sha256": listed}, order="sorted"), indent=1))


# -- Parquet --------------------------------------------------------------------------------------------------------------------------------


def _write_parquet(target: Path, size: int) -> int:
    """Write the file of every sealed range that has none; return how many there are."""
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise ArchiveRefused("Parquet needs the extra `parquet`\nhint: `pip install 'assay-gateway[parquet]'`") from error
    (target / "parquet").mkdir(exist_ok=True)
    ranges = size // RANGE_LEAVES
    for number in range(ranges):
        path = parquet_path(target, number)
        if not path.exists():
            _write_range(target, number, path)
    return ranges


def parquet_path(target: Path, number: int) -> Path:
    """Return the Parquet file of range `number` of an archive."""
    return target / "parquet" / f"{number:08d}.parquet"


def _write_range(target: Path, number: int, path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415 - an extra
    import pyarrow.parquet as pq  # noqa: PLC0415 - an extra

    aside = path.with_suffix(".new")
    schema = pa.schema(
        [
            ("index", pa.int64()),
            ("leaf_hash", pa.binary(32)),
            *((name, pa.string()) for name in _COLUMNS),
            ("leaf", pa.binary()),
        ]
    )
    source = open_directory(target)
    with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for bundle in range(number * RANGE_LEAVES // WIDTH, (number + 1) * RANGE_LEAVES // WIDTH, 32):
            rows = [row for at in range(bundle, bundle + 32) for row in _rows(at, source.bundle(at, WIDTH) or [])]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    replace_file(path, aside.read_bytes())
    aside.unlink()


_COLUMNS: Final = ("time", "type", "id", "tenant", "actor", "model", "version", "subject")


def _rows(bundle: int, leaves: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    for index, leaf in enumerate(leaves, bundle * WIDTH):
        entry = read_entry(leaf)
        row: dict[str, Any] = {"index": index, "leaf_hash": leaf_hash(leaf), "leaf": leaf, **dict.fromkeys(_COLUMNS)}
        if entry is not None:
            row |= {"time": entry.time, "type": entry.type, "id": entry.id, "tenant": entry.tenant, "actor": f"{entry.actor.kind}:{entry.actor.id}"}
            row |= {"model": entry.model_name, "version": entry.model_version, "subject": entry.subject}
        yield row


def check_parquet(target: Path, number: int) -> None:
    """Compare a Parquet file of an archive with the tree: every leaf, every hash, in order.

    Raises:
        StoreDamaged: it differs.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - an extra

    path = parquet_path(target, number)
    table = pq.read_table(path, columns=["index", "leaf_hash", "leaf"])
    hashes = [leaf_hash(leaf) for leaf in table.column("leaf").to_pylist()]
    first = number * RANGE_LEAVES
    read = open_directory(target).read
    tiles = b"".join(read_tile(read, 0, first // WIDTH + at, WIDTH) for at in range(RANGE_LEAVES // WIDTH))
    wrong = table.column("index").to_pylist() != list(range(first, first + RANGE_LEAVES))
    if wrong or b"".join(hashes) != tiles or b"".join(table.column("leaf_hash").to_pylist()) != tiles:
        raise StoreDamaged(f"`{path}` is not what the tree holds\nhint: remove it and archive again")
