"""Excerpts: what one searches the log for, taken out of each full range once and signed, so that a start need not read the whole log.

An excerpt holds every leaf of one range of 65,536 in which a pattern is found. It is derived, and may be lost at any time; but what is in force is
folded from it, so that an excerpt which lacks a leaf could hide a revocation. Hence:

- It is made from leaves that together give the range's node of the signed tree, by whoever may sign the log, and signed with the log's key: whoever
  can change files but has not the key cannot make one.
- It names the range, its node, and the pattern. It is believed only where the tree under the last signed head, whose signature is checked too, has
  the same node in its place, and the pattern is the one asked for: an excerpt of another log, of another range, or of a release that searched for
  less is not believed.
- What is not believed is told and read from the log instead, as is everything after the last full and signed range; then it is made anew.
- It is signed as a note in a checkpoint's form under an origin of its own, `<origin>/excerpt`, so that it can never pass for a head of the log.

An attacker who takes excerpts away, all or some, has the log searched: as if there were none, and nothing worse.

Example:
    excerpts = Excerpts(data_dir, CONCERNING, [signer.verifier])
    for index, leaf in excerpts.search(size): ...
    maker = Excerpting(data_dir, CONCERNING, signer, done=excerpts.believed)
    while maker.step(publisher): pass
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from audit import note, tiles
from audit.follow import Follower, search
from audit.keys import VerifierKey
from audit.merkle import Frontier, leaf_hashes
from audit.merkle import root as root_of
from audit.signer import Signer, SignerUnavailable
from audit.store import layout
from audit.store.control import latest_head
from audit.store.durable import read_or_none, write_files
from audit.store.errors import StoreDamaged
from audit.store.layout import RANGE_LEAVES

if TYPE_CHECKING:
    from audit.publisher import Publisher

RANGE_LEVEL: Final = RANGE_LEAVES.bit_length() - 1
"""Level of a range's node in the tree."""
LEAVES_PER_STEP: Final = 1 << 15
_log = logging.getLogger(__name__)


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed: the range, its node in the tree, what was searched for, and what was found, as (index, leaf) in order."""

    number: int
    node: bytes
    searched: bytes
    leaves: tuple[tuple[int, bytes], ...]


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An excerpt's file: encoded `Content` and the note over it."""

    note: bytes
    content: bytes


class NotBelieved(Exception):  # noqa: N818 - reads as the state it is
    """The excerpt is not used; the text says why."""


def excerpt_path(data_dir: Path, number: int) -> Path:
    """Return the file of range `number`'s excerpt."""
    return data_dir / "excerpts" / f"{number:08d}"


def pattern_digest(pattern: re.Pattern[bytes]) -> bytes:
    """Return what names a pattern in an excerpt."""
    return hashlib.sha256(b"%d %s" % (pattern.flags, pattern.pattern)).digest()


def seal(content: Content, signer: Signer) -> bytes:
    """Return the file of an excerpt.

    Raises:
        SignerUnavailable: the signer does not sign now.
    """
    data = msgspec.msgpack.encode(content)
    return msgspec.msgpack.encode(Sealed(note.sign(_statement(signer.name, content.number, data).text(), [signer]), data))


def unseal(data: bytes, *, number: int, node: bytes, searched: bytes, keys: Sequence[VerifierKey]) -> tuple[tuple[int, bytes], ...]:
    """Return what an excerpt holds, if it is to be believed: the pure core of every check.

    Args:
        data: the file.
        number: the range it must be of.
        node: the range's node in the signed tree.
        searched: digest of the pattern asked for.
        keys: the log's keys, one of which must have signed.

    Raises:
        NotBelieved: it is damaged, unsigned, or of something else.
    """
    try:
        sealed = msgspec.msgpack.decode(data, type=Sealed)
        parsed = note.parse(sealed.note)
        signed = note.verify(parsed, keys)
        if parsed.text != _statement(signed[0].key.name, number, sealed.content).text():
            raise NotBelieved("what was signed is something else")
        content = msgspec.msgpack.decode(sealed.content, type=Content)
    except (msgspec.MsgspecError, note.NoteError, ValueError) as fault:
        raise NotBelieved(str(fault)) from fault
    if (content.number, content.node) != (number, node):
        raise NotBelieved("it is of another range, or of another log")
    if content.searched != searched:
        raise NotBelieved("it was made by a release that searched for something else")
    return content.leaves


def _statement(origin: str, number: int, content: bytes) -> note.Checkpoint:
    return note.Checkpoint(f"{origin}/excerpt", (number + 1) * RANGE_LEAVES, hashlib.sha256(content).digest())


def signed_nodes(data_dir: Path, keys: Sequence[VerifierKey]) -> list[bytes]:
    """Return the tree's nodes of the full ranges below the last signed head; none where head or tiles cannot be believed.

    What cannot be believed here is not this function's to complain of: the publisher refuses it with its reason (`audit/publisher.py`).
    """
    head = latest_head(data_dir)
    if head is None:
        return []
    folder = layout.log_dir(data_dir)

    def read(path: str) -> bytes | None:
        return read_or_none(folder / path)

    try:
        signed = note.open_checkpoint(head.note, keys).checkpoint
        peaks = tiles.HashTiles.recover(read, signed.size, signed.root).frontier().peaks
        hash_at, count = tiles.TileReader(read, signed.size).hash_at, signed.size >> RANGE_LEVEL
        nodes = [hash_at(RANGE_LEVEL, number) for number in range(count)]
    except (note.NoteError, tiles.TileError):
        return []
    # Nodes left of the edge were read from tiles that nothing has checked yet: they must give the peaks that the head signs.
    return nodes if Frontier().extend(nodes).peaks == peaks[: count.bit_count()] else []


class Excerpts:
    """Searches a log, with the help of excerpts. Owned by one thread."""

    def __init__(self, data_dir: Path, pattern: re.Pattern[bytes], keys: Sequence[VerifierKey]) -> None:
        """Prepare; nothing is read before `search`.

        Args:
            data_dir: the data directory.
            pattern: what is searched for; as for `audit.follow.search`.
            keys: keys of the log whose signature on an excerpt is believed.
        """
        self._data_dir = data_dir
        self._pattern = pattern
        self._keys = keys
        self.believed: set[int] = set()  # ranges whose excerpts were used; changed by `search`

    def search(self, until: int) -> Iterator[tuple[int, bytes]]:
        """Yield (index, leaf) of every leaf before `until` in which the pattern is found, in order; so many leaves are committed.

        Raises:
            StoreDamaged, StoreBroken, TileError: as `audit.follow.search`.
        """
        searched, at = pattern_digest(self._pattern), 0
        for number, node in enumerate(signed_nodes(self._data_dir, self._keys)):
            first, end = number * RANGE_LEAVES, (number + 1) * RANGE_LEAVES
            leaves = self._leaves(number, node, searched) if end <= until else None
            if leaves is None:
                continue
            if at < first:
                yield from search(self._data_dir, self._pattern, first, from_index=at)
            yield from leaves
            self.believed.add(number)
            at = end
        yield from search(self._data_dir, self._pattern, until, from_index=at)

    def _leaves(self, number: int, node: bytes, searched: bytes) -> tuple[tuple[int, bytes], ...] | None:
        path = excerpt_path(self._data_dir, number)
        try:
            data = read_or_none(path)
            return None if data is None else unseal(data, number=number, node=node, searched=searched, keys=self._keys)
        except (NotBelieved, OSError) as fault:
            _log.warning("an excerpt is not believed; its range is read instead, and it is made anew", extra={"file": str(path), "why": str(fault)})
            return None


class Excerpting:
    """Makes what excerpts are missing, a bounded number of leaves at a time. Owned by the thread that publishes."""

    def __init__(self, data_dir: Path, pattern: re.Pattern[bytes], signer: Signer, *, done: set[int]) -> None:
        """Prepare.

        Args:
            data_dir: the data directory.
            pattern: what is searched for.
            signer: the key of the log that signs excerpts.
            done: ranges whose excerpts were believed; all others are made.
        """
        self._data_dir = data_dir
        self._pattern = pattern
        self._signer = signer
        self._done = set(done)  # also ranges that could not be taken out, until the next start; changed by `step`
        self._number = 0  # of the range that is being read; this and what follows are changed by `step` and `_begin`
        self._hashes: list[bytes] = []
        self._found: list[tuple[int, bytes]] = []

    def step(self, publisher: Publisher) -> bool:
        """Read some more of the first full and signed range that has no excerpt; write the excerpt at its end. False when there is none.

        A range that does not give its node of the tree is told and left alone: at the next start it is searched as it lies there.

        Raises:
            StoreFull, StoreBroken: as `audit.store.durable.write_files`.
        """
        while self._number in self._done:
            self._begin(self._number + 1)
        if (self._number + 1) * RANGE_LEAVES > publisher.size:
            return False
        try:
            self._read()
            if len(self._hashes) == RANGE_LEAVES:
                self._write(publisher)
        except (StoreDamaged, tiles.TileError) as fault:
            _log.exception("a range cannot be taken into an excerpt; a start goes on searching it", extra={"range": self._number, "why": str(fault)})
            self._done.add(self._number)
        except SignerUnavailable as fault:
            _log.warning("an excerpt cannot be signed now", extra={"why": str(fault)})
            return False
        return True

    def _begin(self, number: int) -> None:
        self._number, self._hashes, self._found = number, [], []

    def _read(self) -> None:
        first = self._number * RANGE_LEAVES
        until = min(RANGE_LEAVES, len(self._hashes) + LEAVES_PER_STEP)
        with Follower(self._data_dir) as follower:
            while len(self._hashes) < until:
                rows = follower.read(first + len(self._hashes), until - len(self._hashes))
                if not rows:
                    raise StoreDamaged(f"leaf `{first + len(self._hashes)}` is signed but not there")
                self._hashes += leaf_hashes([leaf for _, leaf in rows])
                self._found += [row for row in rows if self._pattern.search(row[1])]

    def _write(self, publisher: Publisher) -> None:
        node = root_of(self._hashes)
        publisher.require_range(self._number, node)
        content = Content(self._number, node, pattern_digest(self._pattern), tuple(self._found))
        path = excerpt_path(self._data_dir, self._number)
        write_files(path.parent, {path.name: seal(content, self._signer)})
        self._done.add(self._number)
