"""Puts each signed checkpoint where the gateway's own machine is not the only one to have it: a folder that something else copies, mounts or locks.

A head that is kept elsewhere is what shows a log that was cut, rolled back or rewritten (`assay audit verify --known`). Point the folder at a network
mount, a write-once (object lock) mount, or a directory that a job ships.

Rules:

- `checkpoint` is replaced atomically; with `keep`, every head is kept as `NNNNNNNNNNNNNNNNNNNN` (its size, 20 digits), written once, never over.
- A head is never put in the place of a larger one of the same log: what a rolled-back gateway pushes is refused and told.
- A fault is never the log's: it is returned as words, and the next head is tried again.

Example:
    outlet = Outlet(Path("/mnt/worm/assay"), keep=True)
    fault = outlet.push(note)
"""

from __future__ import annotations

import contextlib
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
            head = note.Checkpoint.parse(note.parse(signed).text)
            size, root = head.size, head.root
            shown = self._shown()
            if shown is not None and shown[0] == size and shown[1] != root:
                other = self._written(f"{size:020d}.other", signed)
                return f"`{self.folder / 'checkpoint'}` has another head of size `{size}` than `{other}`: both prove that the log was forked"
            if shown is not None and shown[0] > size:
                return f"`{self.folder / 'checkpoint'}` has a head of size `{shown[0]}`, this log is at `{size}`: it was rolled back"
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.keep:
                self._keep(signed, size)
            self._replace(signed)
        except (OSError, note.NoteError) as error:
            return f"`{self.folder}`: {error}"
        return None

    def _shown(self) -> tuple[int, bytes] | None:
        """Return size and root of the head that is there; a file that is none counts as nothing."""
        try:
            with (self.folder / "checkpoint").open("rb") as file:
                head = note.Checkpoint.parse(note.parse(file.read(CHECKPOINT_LIMIT_BYTES + 1)).text)
                return head.size, head.root
        except (FileNotFoundError, note.NoteError):
            return None

    def _keep(self, signed: bytes, size: int) -> None:
        """Keep a head under its size, whole or not at all; one that is kept is never written over."""
        path = self.folder / f"{size:020d}"
        if path.exists():
            return
        beside = self._written(f"{path.name}.new", signed)
        beside.chmod(0o444)
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
        beside.unlink()

    def _replace(self, signed: bytes) -> None:
        self._written("checkpoint.new", signed).replace(self.folder / "checkpoint")

    def _written(self, name: str, signed: bytes) -> Path:
        """Write a file of the folder durably and return its path."""
        path = self.folder / name
        path.unlink(missing_ok=True)  # left over from a crash, and perhaps read-only
        with path.open("wb") as file:
            file.write(signed)
            file.flush()
            os.fsync(file.fileno())
        return path
