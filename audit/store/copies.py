"""What keeps a copy of a log from becoming a second history under one key.

- `backup.json` in a directory says that it is a backup: nothing is appended to it, nothing signed.
- The *mark* is the largest size that was signed under an origin, in a file outside the data directory. Whoever restores an older copy of that, by
  whatever means, does not bring it back: a log shorter than its mark is refused.

Where mark and data are restored together, only a witness knows better.

Example:
    require_no_backup(data_dir)
    mark = SignedMark(Path("marks/8f3a01c2.signed"))
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from audit.store import layout
from audit.store.durable import read_or_none, replace_file
from audit.store.errors import StoreDamaged


class Backup(msgspec.Struct, frozen=True):
    """What a backup holds: leaves, and the signed head they are at least as long as."""

    finished: bool
    leaves: int
    signed_size: int


def backup_of(data_dir: Path) -> Backup | None:
    """Return what `backup.json` says, None for a directory that is no backup.

    Raises:
        StoreDamaged: the file is not one.
    """
    data = read_or_none(layout.backup_path(data_dir))
    try:
        return None if data is None else msgspec.json.decode(data, type=Backup)
    except msgspec.DecodeError as error:
        raise StoreDamaged(f"`{layout.backup_path(data_dir)}` is not what a backup says of itself: {error}") from error


def require_no_backup(data_dir: Path) -> None:
    """Check that a directory is the log itself and not a copy of it.

    Raises:
        StoreDamaged: it is a backup.
    """
    found = backup_of(data_dir)
    if found is not None:
        raise StoreDamaged(
            f"`{data_dir}` is a backup of `{found.leaves}` leaves, signed up to `{found.signed_size}`: the log has gone on since it was taken\n"
            "hint: read and verify it as it is. To go on, begin a log under a new `audit.origin` with an empty data directory and keep this one. "
            "Only if it is certain that nothing was recorded after the backup, remove its `backup.json`"
        )


class SignedMark:
    """The largest size that was signed under an origin, in a file outside the data directory. Owned by the publisher's thread."""

    def __init__(self, path: Path) -> None:
        """Keep the mark at `path`."""
        self.path = path
        self._size = self._read()

    @property
    def size(self) -> int:
        """The largest signed size known here, 0 before the first."""
        return self._size

    def raise_to(self, size: int) -> None:
        """Remember that `size` has been signed; durable on return.

        Raises:
            StoreFull, StoreBroken: it is not remembered.
        """
        if size > self._size:
            replace_file(self.path, b"%d\n" % size)
            self._size = size

    def _read(self) -> int:
        data = read_or_none(self.path)
        if data is None:
            return 0
        text = data.strip()
        if not text.isdigit() or len(text) > 19:
            raise StoreDamaged(f"`{self.path}` does not hold a size\nhint: it is the largest size this key has signed; put back what it held")
        return int(text)
