"""A node's own copy of a shared log's tree: tiles and checkpoint, kept by a node that does not sign, from the leaves it reads itself.

For each head that the signing node shows, in this order:
1. it has to be signed by a key of the log;
2. tiles are written from the leaves up to its size;
3. their root has to be the signed one. If it is another, nobody is shown anything: the leader signed other leaves than are here;
4. `log/checkpoint` is replaced by the head as it was shown, cosignatures and all.

So every node can prove and answer, and whichever leads next finds its tiles there.

Example:
    mirror = Mirror.open(data_dir, keys, mark=None)
    mirror.follow(shown)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audit import note, tiles
from audit.edge import extend, prune_partial, recover, require_root
from audit.keyring import LogKey
from audit.store import layout
from audit.store.control import Head
from audit.store.copies import SignedMark, require_no_backup
from audit.store.durable import read_or_none, replace_file
from audit.store.errors import StoreDamaged


class Mirror:
    """Owned by one thread at a time; `_edge` and `_shown` are changed by `follow` alone."""

    def __init__(self, data_dir: Path, keys: Sequence[LogKey], origin: str, mark: SignedMark | None) -> None:
        """Mirror nothing yet; use `open`."""
        self._data_dir = data_dir
        self._keys = tuple(keys)
        self._origin = origin
        self._mark = mark
        self._edge = tiles.HashTiles()
        self._shown = b""  # what `log/checkpoint` holds

    @classmethod
    def open(cls, data_dir: Path, keys: Sequence[LogKey], *, origin: str, mark: SignedMark | None) -> Mirror:
        """Go on from the checkpoint that lies in a data directory, if there is one.

        Args:
            data_dir: The data directory of a node of a shared log.
            keys: Who may have signed heads.
            origin: Of the log.
            mark: The largest size known to be signed, kept outside the data directory.

        Raises:
            StoreError: The directory is a backup, its checkpoint is not this log's, or the leaves do not give its root.
        """
        require_no_backup(data_dir)
        mirror = cls(data_dir, keys, origin, mark)
        published = read_or_none(layout.checkpoint_path(data_dir))
        if published is not None:
            head = mirror._read(published)
            mirror._edge, mirror._shown = recover(data_dir, head), published
        return mirror

    @property
    def size(self) -> int:
        """Leaves covered by the checkpoint here."""
        return self._edge.size

    def follow(self, shown: bytes) -> bool:
        """Take a head that is shown elsewhere; return whether the checkpoint here is another one than before.

        An older one than is here already is passed over: this node has led itself.

        Raises:
            StoreDamaged: It is not signed by a key of the log, or the leaves do not give its root. Nothing may be served from here then.
            StoreBehind: The database has fewer leaves than were signed.
            StoreFull, StoreBroken: It cannot be followed just now; the same may be done again.
        """
        if shown == self._shown:
            return False
        head = self._read(shown)
        if head.size < self._edge.size:
            return False
        before = self._edge.size
        edge = extend(self._data_dir, self._edge, head.size)
        require_root(edge, head)
        replace_file(layout.checkpoint_path(self._data_dir), shown)
        self._edge, self._shown = edge, shown
        prune_partial(layout.log_dir(self._data_dir), before, edge.size)
        if self._mark is not None:
            self._mark.raise_to(edge.size)
        return True

    def _read(self, data: bytes) -> Head:
        try:
            signed = note.open_checkpoint(data, self._keys).checkpoint
        except note.NoteError as error:
            raise StoreDamaged(f"the head that is shown is not signed by a key of this log: {error}\nhint: every node needs the same key") from error
        if signed.origin != self._origin:
            raise StoreDamaged(f"the head that is shown is of log `{signed.origin}`, this one is `{self._origin}`")
        return Head(signed.size, signed.root, data, 0)
