"""Publishes the log: tiles, signed checkpoints, sealed ranges. Run by the leading controller.

The durable steps of one publication, and what a crash after each leaves behind:
1. Hash tiles are written and flushed. Left: tiles beyond the signed size, which the next publication writes again with the same bytes.
2. The signed checkpoint is inserted as a row, only if it grows and the term is current. From here on this size is signed for good. Left: a row newer
   than the published file, which `Publisher.open` publishes.
3. `log/checkpoint` is replaced. Left: partial tiles of superseded widths, which the next publication removes.

Witnesses are asked between 2 and 3: a log must not show a checkpoint to anyone before it has bound itself to it.

Rules:
- At start the right edge of the tree is read from the tiles and must give the last signed root; if not, nothing is signed. Where the log is shared
  and another node has signed on, the tiles are made here from the leaves, and must give the same root.
- A store with fewer leaves than were signed is refused (`StoreBehind`): it would sign a second history.
- Where the mark of the key says that it has signed more, nothing is signed: this directory is an older copy (`audit/store/copies.py`).
- Entry bundles are verified, as read back from disk, against the hash tiles; only then may a range's database go, and only when asked.

Example:
    publisher = Publisher.open(data_dir, control, signing_key)
    publication = publisher.publish_once()
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from audit import note, tiles
from audit.edge import LEAVES_AT_ONCE, check_head, prune_partial, reader_of, recover
from audit.follow import Follower
from audit.merkle import HashReader, consistency_proof, leaf_hashes, node_hash, root
from audit.signer import Signer
from audit.store import layout
from audit.store.control import ControlStore, Head, signed_size
from audit.store.copies import SignedMark, require_no_backup
from audit.store.durable import read_or_none, replace_file, write_files
from audit.store.errors import StoreBehind, StoreDamaged
from audit.store.layout import RANGE_LEAVES

LEAVES_PER_PUBLICATION = LEAVES_AT_ONCE
"""A larger backlog is published in several checkpoints, so that memory stays bounded and something is signed every few seconds."""
_BUNDLES = RANGE_LEAVES // tiles.WIDTH


class Publication(msgspec.Struct, frozen=True, gc=False):
    """One published checkpoint: the tree grew from `old_size` to `size`; `note` is the file's content."""

    old_size: int
    size: int
    root: bytes
    note: bytes


class CosignRequest(msgspec.Struct, frozen=True):
    """What a witness is asked: to cosign `note`, which extends its size `old_size` as `proof` shows."""

    note: bytes
    old_size: int
    proof: list[bytes]


Cosign = Callable[[CosignRequest], Sequence[note.Signature]]
"""Asks witnesses; returns the signatures they gave, none if they could not be reached. Must not raise for a witness's failure."""


def grow(edge: tiles.HashTiles, leaves: Sequence[bytes], origin: str) -> tuple[tiles.HashTiles, dict[str, bytes], note.Checkpoint]:
    """Pure core: return the new right edge, the tile files to write, and the checkpoint to sign after appending `leaves`."""
    grown, files = edge.append(leaf_hashes(leaves))
    return grown, files, note.Checkpoint(origin, grown.size, grown.root())


class Publisher:
    """The log's right edge and its keys. Owned by the controller's thread; every attribute changes in `publish_once` and `seal_some` alone."""

    def __init__(
        self, data_dir: Path, control: ControlStore, keys: Sequence[Signer], edge: tiles.HashTiles, cosign: Cosign | None, mark: SignedMark | None
    ) -> None:
        """Take over a recovered edge; use `open`."""
        self._mark = mark
        self._data_dir = data_dir
        self._log_dir = layout.log_dir(data_dir)
        self._control = control
        self._keys = keys
        self._origin = keys[0].name
        self._edge = edge
        self._cosign = cosign
        self._follower = Follower(data_dir)
        self._unpublished: bytes | None = None  # signed and stored, but the file could not be replaced yet
        self._sealed_bundles = 0  # bundles known to be on disk and verified; found again by `seal_some` after a restart

    @classmethod
    def open(
        cls, data_dir: Path, control: ControlStore, keys: Sequence[Signer], *, cosign: Cosign | None = None, mark: SignedMark | None = None
    ) -> Publisher:
        """Recover the tree from its tiles, check it against the last signed head, publish that head if a crash had kept it back.

        Args:
            data_dir: The data directory.
            control: Open, and leading (`ControlStore.lead`).
            keys: Who signs checkpoints, several during a change of keys; the name of the first is the log's origin. One of them signed the last head.
            cosign: Asks witnesses for cosignatures.
            mark: What the first key has signed, kept outside the data directory.

        Raises:
            StoreBehind: Fewer leaves are stored than were signed, here or according to the mark.
            StoreDamaged: The directory is a backup, or tiles, leaves or checkpoint do not fit the signed head or the key.
        """
        if not keys:
            raise ValueError("a log needs at least one signing key")
        head = control.head()
        require_no_backup(data_dir)
        if mark is not None and mark.size > (head.size if head else 0):
            raise StoreBehind(str(mark.path), head.size if head else 0, mark.size)
        _check_store(data_dir, head)
        if head:
            check_head(head, keys)
        edge = recover(data_dir, head) if head else tiles.HashTiles()
        publisher = cls(data_dir, control, keys, edge, cosign, mark)
        if head is not None:
            publisher._publish_again(head)
        return publisher

    @property
    def size(self) -> int:
        """Leaves covered by the last signed checkpoint."""
        return self._edge.size

    @property
    def root(self) -> bytes:
        """Root of the last signed checkpoint."""
        return self._edge.root()

    def pending(self) -> int:
        """Return how many committed leaves are not covered by a checkpoint yet."""
        return self._follower.end() - self._edge.size

    def publish_once(self) -> Publication | None:
        """Publish what was committed since; None when nothing is new.

        Raises:
            TermLost: Another controller leads; this one must end.
            StoreFull: Nothing was signed; can be called again.
            StoreBehind, StoreDamaged, StoreBroken: Nothing is signed until an operator has looked.
        """
        self._put_checkpoint()
        leaves = self._new_leaves()
        if not leaves:
            return None
        old = self._edge
        grown, files, checkpoint = grow(old, leaves, self._origin)
        write_files(self._log_dir, files)  # 1.
        signed = note.sign(checkpoint.text(), self._keys)
        self._control.add_checkpoint(checkpoint.size, checkpoint.root, signed)  # 2.
        self._edge, self._unpublished = grown, signed
        if self._mark is not None:
            self._mark.raise_to(checkpoint.size)
        self._unpublished = cosigned = self._with_cosignatures(signed, old.size)
        self._put_checkpoint()  # 3.
        prune_partial(self._log_dir, old.size, grown.size)
        self._control.flush_wal()
        return Publication(old.size, checkpoint.size, checkpoint.root, cosigned)

    def close(self) -> None:
        """Close what is open for reading; the control store is the caller's."""
        self._follower.close()

    # -- sealing ----------------------------------------------------------------------------------------------------------------

    def seal_some(self, bundle_limit: int = 64, *, hot: int = 0) -> int:
        """Write entry bundles of full, signed ranges; return how many were dealt with, 0 when all such ranges are sealed.

        Bundles already there are read back and verified, not written again.

        Args:
            bundle_limit: Most bundles of one call.
            hot: Newest full ranges that are left in their databases alone: there they are found by writer and number, and lie on disk once.

        Raises:
            StoreDamaged: Leaves and hash tiles disagree.
            StoreFull, StoreBroken: As in `audit.store.sqlite`.
        """
        target = max(0, self._edge.size // RANGE_LEAVES - hot) * _BUNDLES
        first = self._sealed_bundles
        last = max(first, min(target, first + bundle_limit))
        missing = {}
        for bundle in range(first, last):
            path = tiles.entries_path(bundle)
            if not (self._log_dir / path).exists():
                rows = self._follower.read(bundle * tiles.WIDTH, tiles.WIDTH)
                missing[path] = tiles.encode_bundle([leaf for _, leaf in rows])
        write_files(self._log_dir, missing)
        for bundle in range(first, last):
            verify_bundle(self._log_dir, bundle)
        self._sealed_bundles = last
        return last - first

    def is_sealed(self, number: int) -> bool:
        """Tell whether every entry bundle of range `number` is a file."""
        return all((self._log_dir / tiles.entries_path(number * _BUNDLES + at)).exists() for at in range(_BUNDLES))

    def remove_old_databases(self, keep: int) -> int:
        """Remove the databases of sealed ranges but for the newest `keep`, oldest first; return how many.

        Raises:
            StoreDamaged: As `remove_range_database`.
        """
        numbers = [number for number in layout.range_numbers(self._data_dir) if (number + 1) * _BUNDLES <= self._sealed_bundles]
        old = numbers[: max(0, len(numbers) - keep)]
        for number in old:
            self.remove_range_database(number)
        return len(old)

    def remove_range_database(self, number: int) -> None:
        """Remove the database of a sealed range after verifying every one of its bundles once more.

        Raises:
            StoreDamaged: It is not full, not covered by a checkpoint, not sealed, or a bundle does not verify. Nothing is removed then.
        """
        if (number + 1) * RANGE_LEAVES > self._edge.size:
            raise StoreDamaged(f"range `{number}` is not covered by the signed size `{self._edge.size}`; its database stays")
        if max(layout.range_numbers(self._data_dir), default=-1) <= number or self._follower.end() <= (number + 1) * RANGE_LEAVES:
            raise StoreDamaged(f"range `{number}` is the last with leaves; its database stays, because it knows the writers")
        hashes: list[bytes] = []
        for at in range(_BUNDLES):
            hashes += verify_bundle(self._log_dir, number * _BUNDLES + at)
        self.require_range(number, root(hashes))
        self._follower.close()
        path = layout.range_path(self._data_dir, number)
        for suffix in ("-wal", "-shm", ""):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    def require_range(self, number: int, node: bytes) -> None:
        """Check the root over a full range's leaves against the peaks of the signed tree, climbing with siblings read from the tiles.

        Raises:
            StoreDamaged: It is another.
        """
        hashes, size = self._hashreader_of(), self._edge.size
        level, index = RANGE_LEAVES.bit_length() - 1, number
        while ((index | 1) + 1) << level <= size:
            sibling = hashes(level, index ^ 1)
            node = node_hash(sibling, node) if index & 1 else node_hash(node, sibling)
            level, index = level + 1, index >> 1
        peaks = dict(zip([at for at in reversed(range(size.bit_length())) if size >> at & 1], self._edge.frontier().peaks, strict=True))
        if peaks[level] != node:
            raise StoreDamaged(f"the leaves of range `{number}` do not give the signed tree\nhint: its database stays; restore the log's files")

    # -- steps ------------------------------------------------------------------------------------------------------------------

    def _new_leaves(self) -> list[bytes]:
        leaves: list[bytes] = []
        while len(leaves) < LEAVES_PER_PUBLICATION:
            rows = self._follower.read(self._edge.size + len(leaves))
            if not rows:
                break
            leaves += [leaf for _, leaf in rows]
        return leaves

    def _with_cosignatures(self, signed: bytes, old_size: int) -> bytes:
        if self._cosign is None:
            return signed
        hashes = self._hashreader_of()
        proof = consistency_proof(old_size, self._edge.size, hashes) if old_size else []
        cosignatures = self._cosign(CosignRequest(signed, old_size, proof))
        parsed = note.parse(signed)
        return note.Note(parsed.text, (*parsed.signatures, *cosignatures)).encode()

    def _hashreader_of(self) -> HashReader:
        return tiles.TileReader(reader_of(self._log_dir), self._edge.size).hash_at

    def _put_checkpoint(self) -> None:
        if self._unpublished is not None:
            replace_file(layout.checkpoint_path(self._data_dir), self._unpublished)
            self._unpublished = None

    def _publish_again(self, head: Head) -> None:
        """Put the signed head in place if the published file is older or missing; the same head keeps its cosignatures."""
        path = layout.checkpoint_path(self._data_dir)
        published = read_or_none(path)
        if published is not None:
            with contextlib.suppress(note.NoteError):
                shown = note.parse(published).text
                if shown == note.parse(head.note).text:
                    return
                if note.Checkpoint.parse(shown).size == head.size:
                    raise StoreDamaged(
                        f"`{path}` shows another tree of size `{head.size}` than the one stored as signed\n"
                        "hint: keep both as evidence; one key has signed two histories, or the file was altered"
                    )
        replace_file(path, head.note)


def verify_bundle(log_dir: Path, bundle: int) -> list[bytes]:
    """Check one full entry bundle on disk against the hash tile on disk; return its leaf hashes.

    Raises:
        StoreDamaged: One is missing, or they disagree.
    """
    read = reader_of(log_dir)
    path = tiles.entries_path(bundle)
    try:
        data = read(path)
        if data is None:
            raise StoreDamaged(f"entry bundle `{log_dir / path}` is missing\nhint: seal the range first")
        hashes = leaf_hashes(tiles.decode_bundle(data, tiles.WIDTH, path))
        if b"".join(hashes) != tiles.read_tile(read, 0, bundle, tiles.WIDTH):
            raise StoreDamaged(
                f"entry bundle `{log_dir / path}` does not give the hashes of its tile\n"
                "hint: remove the bundle and seal again if the range's database is there; otherwise restore it from a copy"
            )
    except tiles.TileError as error:
        raise StoreDamaged(f"entry bundle `{log_dir / path}` cannot be verified: {error}") from error
    return hashes


def _check_store(data_dir: Path, head: Head | None) -> None:
    signed, where = signed_size(data_dir)
    with Follower(data_dir) as follower:
        leaves = follower.end()
    if leaves < signed:
        raise StoreBehind(where, leaves, signed)
    if signed > (head.size if head else 0):
        raise StoreDamaged(
            f"`{where}` has size `{signed}`, but the largest stored is `{head.size if head else 0}`: an older `control.sqlite` was restored\n"
            "hint: put back the newest copy of `control.sqlite`; nothing is signed until then"
        )
