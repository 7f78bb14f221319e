"""Puts each signed checkpoint where the gateway's own machine is not the only one to have it: a folder that something else copies, mounts or locks.

A head that is kept elsewhere is what shows a log that was cut, rolled back or rewritten (`assay audit verify --known`). Point the folder at a network
mount, a write-once (object lock) mount, or a directory that a job ships.

Rules:

- `checkpoint` is replaced atomically; with `keep`, every head is kept as `NNNNNNNNNNNNNNNNNNNN` (its size, 20 digits), written once, never over.
- A head is never put in the place of a larger one of the same log: what a rolled-back gateway pushes is refused and told.
- A fault is never the log's: it is returned as words, and the next head is tried again.

Example:
    outlet = Outlet(Path("/mnt/worm/assay"), keep=True)
    fault = outlet.push(note, size)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from audit import note
from audit.tiles import CHECKPOINT_LIMIT_BYTES


@dataclass(frozen=True, slots=True)
class Outlet:
    """One folder."""

    folder: Path
    keep: bool = False

    def push(self, signed: bytes) -> str | None:
        """Put a checkpoint there; return what went wrong, None when it is there."""
        try:
            size = note.Checkpoint.parse(note.parse(signed).text).size
            shown = self._shown()
            if shown is not None and shown > size:
                return f"`{self.folder / 'checkpoint'}` has a head of size `{shown}`, this log is at `{size}`: it was rolled back"
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.keep:
                self._keep(signed, size)
            self._replace(signed)
        except (OSError, note.NoteError) as error:
            return f"`{self.folder}`: {error}"
        return None

    def _shown(self) -> int | None:
        """Return the size of the head that is there; a file that is none counts as nothing."""
        try:
            with (self.folder / "checkpoint").open("rb") as file:
                return note.Checkpoint.parse(note.parse(file.read(CHECKPOINT_LIMIT_BYTES + 1)).text).size
        except (FileNotFoundError, note.NoteError):
            return None

    def _keep(self, signed: bytes, size: int) -> None:
        path = self.folder / f"{size:020d}"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        except FileExistsError:
            return
        with os.fdopen(handle, "wb") as file:
            file.write(signed)
            file.flush()
            os.fsync(file.fileno())

    def _replace(self, signed: bytes) -> None:
        beside = self.folder / "checkpoint.new"
        with beside.open("wb") as file:
            file.write(signed)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.folder / "checkpoint")
