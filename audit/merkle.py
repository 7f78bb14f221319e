"""The Merkle tree of RFC 6962 section 2.1 (the same as RFC 9162 section 2.1): roots, proofs and their verification.

Rules:

- A leaf hashes to SHA-256(0x00 || bytes), a node to SHA-256(0x01 || left || right), the empty tree to SHA-256("").
- A proof is a list of 32-byte hashes, lowest first, exactly as the RFC lists them.
- Proof makers read the tree through `HashReader`: (level, index) names the perfect subtree over leaves [index * 2**level, (index + 1) * 2**level).
- Verifiers return nothing and raise `ProofError`; there is no boolean to forget.

Example:
    >>> tree = Tree([leaf_hash(b"a"), leaf_hash(b"b"), leaf_hash(b"c")])
    >>> proof = inclusion_proof(1, 3, tree.hash_at)
    >>> verify_inclusion(1, 3, leaf_hash(b"b"), proof, tree.root())
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()
SIZE_LIMIT: Final = 2**63
"""Tree sizes are below this; C2SP checkpoints carry them as text and other implementations hold them in a signed 64-bit integer."""

HashReader = Callable[[int, int], bytes]
"""(level, index) -> hash of the perfect subtree of height `level` at `index`."""


class ProofError(ValueError):
    """A proof does not prove what it is said to prove."""


def leaf_hash(data: bytes) -> bytes:
    """Return SHA-256(0x00 || data) (RFC 6962 section 2.1)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right) (RFC 6962 section 2.1)."""
    return sha256(b"\x01" + left + right).digest()


def leaf_hashes(leaves: Iterable[bytes]) -> list[bytes]:
    """Hash many leaves; about 0.8 microseconds each."""
    return [sha256(b"\x00" + data).digest() for data in leaves]


def _pair_up(hashes: Sequence[bytes]) -> list[bytes]:
    """Hash neighbours; an odd last one is left out."""
    pairs = iter(hashes)
    return [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]


def fold(peaks: Sequence[bytes]) -> bytes:
    """Return the root over perfect subtrees given from the largest (leftmost) to the smallest."""
    if not peaks:
        return EMPTY_ROOT
    result = peaks[-1]
    for peak in reversed(peaks[:-1]):
        result = sha256(b"\x01" + peak + result).digest()
    return result


def root(hashes: Sequence[bytes]) -> bytes:
    """Return the root of the tree over these leaf hashes. Linear in their number."""
    return Frontier().extend(hashes).root()


@dataclass(frozen=True, slots=True)
class Frontier:
    """The right edge of a tree: one hash per set bit of `size`, largest subtree first. Immutable; growing gives a new one."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size < SIZE_LIMIT:
            raise ValueError(f"tree size `{self.size}` is out of range")
        if len(self.peaks) != self.size.bit_count():
            raise ValueError(f"a tree of size `{self.size}` has {self.size.bit_count()} peaks, got `{len(self.peaks)}`")

    def extend(self, hashes: Sequence[bytes]) -> Frontier:
        """Return the frontier after appending these leaf hashes; one node hash per leaf, level by level."""
        remaining = list(self.peaks)
        position, level = self.size, list(hashes)
        lowest_first: list[bytes] = []
        while level or remaining:
            if position & 1:
                level.insert(0, remaining.pop())
            parents = _pair_up(level)
            if len(level) & 1:
                lowest_first.append(level[-1])
            position, level = position >> 1, parents
        return Frontier(self.size + len(hashes), tuple(reversed(lowest_first)))

    def root(self) -> bytes:
        """Return the root hash of the tree of this size."""
        return fold(self.peaks)


class Tree:
    """A whole tree in memory: every perfect subtree's hash, for proofs over modest sizes and for tests.

    `_levels[l][i]` is the hash of perfect subtree (l, i); changed by `extend` alone.
    """

    def __init__(self, hashes: Sequence[bytes] = ()) -> None:
        """Start from these leaf hashes."""
        self._levels: list[list[bytes]] = [[]]
        self.extend(hashes)

    def __len__(self) -> int:
        """Return the number of leaves."""
        return len(self._levels[0])

    def extend(self, hashes: Sequence[bytes]) -> None:
        """Append leaf hashes."""
        added: Sequence[bytes] = hashes
        level = 0
        while added:
            if level == len(self._levels):
                self._levels.append([])
            known = self._levels[level]
            first_unpaired = len(known) & ~1
            known.extend(added)
            added = _pair_up(known[first_unpaired:])
            level += 1

    def hash_at(self, level: int, index: int) -> bytes:
        """Return the hash of perfect subtree (level, index); `IndexError` when the tree does not hold it."""
        if level < 0 or index < 0:
            raise IndexError(f"no subtree at level `{level}`, index `{index}`")
        return self._levels[level][index]

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first `size` leaves, of all by default."""
        return subtree_root(0, len(self) if size is None else size, self.hash_at)


def peaks_of(start: int, end: int) -> list[tuple[int, int]]:
    """Name the perfect subtrees that cover leaves [start, end), leftmost first, as (level, index).

    `start` must be a multiple of the largest power of two that is not greater than end - start, as it is for every range the RFC forms.
    """
    subtrees = []
    while start < end:
        level = (end - start).bit_length() - 1
        subtrees.append((level, start >> level))
        start += 1 << level
    return subtrees


def subtree_root(start: int, end: int, reader: HashReader) -> bytes:
    """Return MTH(D[start:end]) for a range as RFC 6962 forms them."""
    return fold([reader(level, index) for level, index in peaks_of(start, end)])


def _split_point(count: int) -> int:
    """Return the largest power of two smaller than `count` (RFC 6962: k < n <= 2k)."""
    return 1 << ((count - 1).bit_length() - 1)


def _check_sizes(smaller: int, larger: int) -> None:
    if not 0 <= smaller <= larger < SIZE_LIMIT:
        raise ProofError(f"tree sizes `{smaller}` and `{larger}` are out of order or out of range")


def inclusion_proof(index: int, size: int, reader: HashReader) -> list[bytes]:
    """Return PATH(index, D[0:size]) (RFC 6962 section 2.1.1), lowest hash first.

    Raises:
        ProofError: `index` is not in a tree of `size`.
    """
    if not 0 <= index < size < SIZE_LIMIT:
        raise ProofError(f"index `{index}` is not in a tree of size `{size}`")
    start, end, proof = 0, size, []
    while end - start > 1:
        middle = start + _split_point(end - start)
        if index < middle:
            proof.append(subtree_root(middle, end, reader))
            end = middle
        else:
            proof.append(subtree_root(start, middle, reader))
            start = middle
    return proof[::-1]


def consistency_proof(size1: int, size2: int, reader: HashReader) -> list[bytes]:
    """Return PROOF(size1, D[0:size2]) (RFC 6962 section 2.1.2); empty when size1 is 0 or equals size2.

    Raises:
        ProofError: The sizes are out of order.
    """
    _check_sizes(size1, size2)
    if size1 in (0, size2):
        return []
    start, end, proof = 0, size2, []
    while size1 != end:
        middle = start + _split_point(end - start)
        if size1 <= middle:
            proof.append(subtree_root(middle, end, reader))
            end = middle
        else:
            proof.append(subtree_root(start, middle, reader))
            start = middle
    if start:  # the verifier knows the old root itself, not a part of it
        proof.append(subtree_root(start, end, reader))
    return proof[::-1]


def _check_hashes(*hashes: bytes) -> None:
    for value in hashes:
        if len(value) != HASH_BYTES:
            raise ProofError(f"a hash has 32 bytes, got `{len(value)}`")


def verify_inclusion(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes) -> None:  # noqa: A002, RUF100 - contract names
    """Check that the leaf is at `index` of the tree with this size and root (RFC 9162 section 2.1.3.2).

    Raises:
        ProofError: It is not proven: wrong hash, index, size, or a proof of the wrong length.
    """
    if not 0 <= index < size < SIZE_LIMIT:
        raise ProofError(f"index `{index}` is not in a tree of size `{size}`")
    _check_hashes(leaf_hash, root, *proof)
    position, last, result = index, size - 1, leaf_hash
    for sibling in proof:
        if last == 0:
            raise ProofError(f"inclusion proof for index `{index}` of `{size}` is too long")
        if position & 1 or position == last:
            result = node_hash(sibling, result)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ProofError(f"inclusion proof for index `{index}` of `{size}` is too short")
    if result != root:
        raise ProofError(f"inclusion proof for index `{index}` of `{size}` leads to another root")


def verify_consistency(size1: int, size2: int, root1: bytes, root2: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree (size2, root2) extends the tree (size1, root1) (RFC 9162 section 2.1.4.2).

    Raises:
        ProofError: It is not proven.
    """
    _check_sizes(size1, size2)
    _check_hashes(root1, root2, *proof)
    what = f"consistency proof from `{size1}` to `{size2}`"
    if size1 in (0, size2):
        if proof:
            raise ProofError(f"{what} must be empty")
        if size1 == size2 and root1 != root2:
            raise ProofError(f"two different roots for size `{size1}`: the log shows different trees")
        if size1 == 0 and root1 != EMPTY_ROOT:
            raise ProofError("the root of size `0` is not that of the empty tree")
        return
    old, new = _both_roots(size1, size2, list(proof) if size1 & (size1 - 1) else [root1, *proof], what)
    if old != root1:
        raise ProofError(f"{what} does not lead to the old root: the log was rewritten before `{size1}`")
    if new != root2:
        raise ProofError(f"{what} does not lead to the new root")


def _both_roots(size1: int, size2: int, path: list[bytes], what: str) -> tuple[bytes, bytes]:
    """Return the old and the new root a consistency proof leads to; for a power of two the path begins with the old root itself."""
    if not path:
        raise ProofError(f"{what} is empty")
    position, last = size1 - 1, size2 - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError(f"{what} is too long")
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ProofError(f"{what} is too short")
    return old, new
