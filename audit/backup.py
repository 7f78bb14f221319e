"""A copy of a data directory that is whole, taken while the gateway runs; and what keeps an old copy from becoming a second history.

The order of a backup is the argument for it. What claims is copied before what is claimed:
1. `control.sqlite` (SQLite's own online backup): the largest signed size, H.
2. `log/`: its tiles are those of H or later; the checkpoint that is written is H's own.
3. `ranges/`: at least H leaves, because they were committed before H was signed.
4. The entry files in `log/` once more: a range whose database went meanwhile has them, because they were whole before it went.
5. `control/`, `instance` and the rest that records refer to; `vault/` only when asked for: what is in it is destroyed on schedule or on request, and
   a copy undoes that but for what `marks/` remembers, which lies outside the data directory and is never restored from a copy.
6. `backup.json`, which says what this is. It was written first as unfinished: a copy that was cut off is never taken for a whole one.

A directory with `backup.json` in it is not opened for writing: the log has gone on since, and signing from here would be a second history under one
key. It can be read, verified and kept. A copy taken by other means is caught by the key's mark (`audit/store/copies.py`), or by a witness.

Example:
    made = back_up(Path("data"), Path("/backup/2026-11-21"))
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import msgspec

from audit.follow import Follower
from audit.store import layout
from audit.store.control import latest_head
from audit.store.copies import Backup
from audit.store.durable import replace_file
from audit.store.errors import StoreBehind, StoreBroken, StoreError
from audit.store.place import postgres_place
from audit.store.sqlite import open_reader, sync_directory, translated

_PLAIN = ("instance", "control/objects", "control/live", "control/current.json")


class BackupRefused(StoreError):  # noqa: N818 - reads as the state it is
    """No backup can be made like this; nothing was written, or what was written says that it is unfinished."""


def back_up(data_dir: Path, target: Path, *, with_vault: bool = False) -> Backup:
    """Copy `data_dir` to the new folder `target`.

    Args:
        data_dir: a data directory, of a running gateway or of none.
        target: where to; must not exist or be empty.
        with_vault: copy the pseudonym keys and the vault too.

    Raises:
        BackupRefused: the target is in use, or the log lies in PostgreSQL.
        StoreError: as reading and writing files raise.
    """
    if postgres_place(data_dir) is not None:
        raise BackupRefused("the log is in PostgreSQL\nhint: `pg_dump` the database, or take a base backup of its server (docs/postgres.md)")
    if target.exists() and any(target.iterdir()):
        raise BackupRefused(f"`{target}` is not empty\nhint: a backup gets a folder of its own")
    if not layout.control_path(data_dir).exists():
        raise BackupRefused(f"`{data_dir}` is not a data directory: it has no `control.sqlite`")
    target.mkdir(mode=0o750, parents=True, exist_ok=True)
    _say(target, Backup(finished=False, leaves=0, signed_size=0))
    with translated(target):
        _copy_database(layout.control_path(data_dir), layout.control_path(target))
        head = latest_head(target)
        _copy_tree(layout.log_dir(data_dir), layout.log_dir(target), skip="checkpoint")
        layout.ranges_dir(target).mkdir()
        for number in layout.range_numbers(data_dir):
            _copy_range(layout.range_path(data_dir, number), layout.range_path(target, number))
        _copy_tree(layout.entries_dir(data_dir), layout.entries_dir(target))
        _copy_plain(data_dir, target)
        if with_vault:
            _copy_vault(data_dir, target)
    if head is not None:
        replace_file(layout.checkpoint_path(target), head.note)
    with Follower(target) as follower:
        made = Backup(finished=True, leaves=follower.end(), signed_size=head.size if head else 0)
    if made.leaves < made.signed_size:
        raise StoreBehind(str(layout.control_path(target)), made.leaves, made.signed_size)
    _say(target, made)
    return made


def _say(target: Path, made: Backup) -> None:
    replace_file(layout.backup_path(target), msgspec.json.encode(made))


def _copy_database(source: Path, target: Path) -> None:
    """Copy a database as of one moment, while others write it: in one step, for SQLite begins anew after each commit between two.

    Nobody waits for it. What is committed meanwhile stays in the write-ahead log until the copy is done.
    """
    with contextlib.closing(open_reader(source)) as reader, contextlib.closing(sqlite3.connect(target)) as writer:
        reader.backup(writer, pages=-1)
    _flush(target)


def _copy_range(source: Path, target: Path) -> None:
    """Copy a range's database unless it goes meanwhile: its leaves are entry files then."""
    try:
        _copy_database(source, target)
    except (FileNotFoundError, StoreBroken):
        if source.exists():
            raise
    if not source.exists():
        target.unlink(missing_ok=True)


def _copy_plain(data_dir: Path, target: Path) -> None:
    for name in _PLAIN:
        source = data_dir / name
        if source.is_dir():
            _copy_tree(source, target / name)
        elif source.exists():
            _copy_file(source, target / name)


def _copy_vault(data_dir: Path, target: Path) -> None:
    """Copy pseudonym keys and captured entries; the vault's own database as of one moment."""
    source, copy = layout.vault_path(data_dir), layout.vault_path(target)
    if source.parent.is_dir():
        _copy_tree(source.parent, copy.parent, skip=source.name)
    if source.exists():
        copy.touch(mode=0o600)
        _copy_database(source, copy)


def _copy_tree(source: Path, target: Path, skip: str = "") -> None:
    """Copy a folder whose files only come and are replaced by others; but for those whose names begin with `skip` in the folder itself.

    A partial tile may go between the listing and its copy; the full one that replaced it is in the next listing.
    """
    while _copy_missing(source, target, skip):
        pass


def _copy_missing(source: Path, target: Path, skip: str) -> bool:
    """Copy what is not there yet; return whether something that was listed had gone."""
    target.mkdir(parents=True, exist_ok=True)
    found, has_gone = _listed(source)
    for path in found:
        if path.is_symlink() or path.name.startswith(".") or path.name.endswith(".tmp"):
            continue
        if skip and path.parent == source and path.name.startswith(skip):
            continue
        inner = target / path.relative_to(source)
        if path.is_dir():
            inner.mkdir(exist_ok=True)
        elif not inner.exists():
            try:
                _copy_file(path, inner)
            except FileNotFoundError:
                has_gone = True
    return has_gone


def _listed(folder: Path) -> tuple[list[Path], bool]:
    """Return what is below a folder, and whether a part of it went while it was listed."""
    faults: list[OSError] = []
    found = [Path(inner, name) for inner, folders, files in os.walk(folder, onerror=faults.append) for name in (*folders, *files)]
    for fault in faults:
        if not isinstance(fault, FileNotFoundError):
            raise fault
    return found, any(Path(fault.filename) != folder for fault in faults)  # a folder that never was has nothing to copy


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    shutil.copymode(source, target)
    _flush(target)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_directory(path.parent)
