"""Files that must survive a power cut: written aside, flushed, renamed, and the folder flushed.

Rules:
- A reader sees the old file or the new one, never half of it.
- On return both content and name are durable. A flush that fails is not tried again: the error goes to the caller.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from audit.store.sqlite import sync_directory, translated


def read_or_none(path: Path) -> bytes | None:
    """Return a file's content, None if there is no such file."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step.

    Raises:
        StoreFull, StoreBroken: As in `audit.store.sqlite.translated`; the old file is still there.
    """
    write_files(path.parent, {path.name: data})


def write_files(root: Path, files: Mapping[str, bytes]) -> None:
    """Put every file of {path below `root`: content} in place, each in one step; all are durable on return.

    First all are written, then all flushed, then all renamed, so that the file system can gather the flushes.

    Raises:
        StoreFull, StoreBroken: As in `audit.store.sqlite.translated`; each path holds its old or its new content.
    """
    with translated(root):
        folders = _make_folders(root, files)
        for name, data in files.items():
            _aside(root / name).write_bytes(data)
        for name in files:
            _sync_file(_aside(root / name))
        for name in files:
            _aside(root / name).rename(root / name)
        for folder in folders:
            sync_directory(folder)


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _make_folders(root: Path, files: Mapping[str, bytes]) -> set[Path]:
    """Create what is missing; return every folder whose names change, new parents included."""
    changed = set()
    for folder in {(root / name).parent for name in files}:
        changed.add(folder)
        missing = folder
        while not missing.exists():
            missing = missing.parent
            changed.add(missing)
        folder.mkdir(parents=True, exist_ok=True)
    return changed


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
