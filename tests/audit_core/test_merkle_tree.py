"""The Merkle tree of RFC 6962: published vectors, every proof verifies, nothing else does."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    ProofError,
    Tree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

# The test vectors of the Certificate Transparency reference code.
LEAVES = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
HASHES = [leaf_hash(str(number).encode()) for number in range(3000)]
BIG = Tree(HASHES)


def _naive_root(hashes):
    """MTH as RFC 6962 section 2.1 writes it, on leaf hashes."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return node_hash(_naive_root(hashes[:k]), _naive_root(hashes[k:]))


def test_roots_equal_the_published_ones():
    hashes = [leaf_hash(leaf) for leaf in LEAVES]
    assert root([]) == EMPTY_ROOT == hashlib.sha256(b"").digest()
    assert [root(hashes[: size + 1]).hex() for size in range(8)] == ROOTS


def test_published_inclusion_and_consistency_proofs_come_out():
    tree = Tree([leaf_hash(leaf) for leaf in LEAVES])
    assert [step.hex()[:8] for step in inclusion_proof(0, 8, tree.hash_at)] == ["96a296d2", "5f083f0a", "6b47aaf2"]
    assert [step.hex()[:8] for step in inclusion_proof(5, 8, tree.hash_at)] == ["bc1a0643", "ca854ea1", "d37ee418"]
    assert [step.hex()[:8] for step in inclusion_proof(2, 3, tree.hash_at)] == ["fac54203"]
    assert [step.hex()[:8] for step in consistency_proof(6, 8, tree.hash_at)] == ["0ebc5d34", "ca854ea1", "d37ee418"]
    assert [step.hex()[:8] for step in consistency_proof(2, 5, tree.hash_at)] == ["5f083f0a", "bc1a0643"]


@given(st.lists(st.integers(0, 40), max_size=12))
def test_growing_in_any_batches_gives_the_same_root(batches):
    frontier, tree, size = Frontier(), Tree(), 0
    for batch in batches:
        frontier = frontier.extend(HASHES[size : size + batch])
        tree.extend(HASHES[size : size + batch])
        size += batch
        assert frontier.size == len(tree) == size
        assert frontier.root() == tree.root() == _naive_root(HASHES[:size])


def test_a_tree_gives_the_root_of_every_earlier_size():
    assert [BIG.root(size) for size in range(300)] == [_naive_root(HASHES[:size]) for size in range(300)]


def test_every_inclusion_proof_up_to_70_leaves_verifies_and_no_other_leaf_by_it():
    refused = 0
    for size in range(1, 71):
        for index in range(size):
            proof = inclusion_proof(index, size, BIG.hash_at)
            verify_inclusion(index, size, HASHES[index], proof, BIG.root(size))
            with pytest.raises(ProofError):
                verify_inclusion(index, size, HASHES[index + 1], proof, BIG.root(size))
            refused += 1
    assert refused == 70 * 71 // 2


def test_every_consistency_proof_up_to_70_leaves_verifies_and_only_with_its_own_roots():
    roots = [BIG.root(size) for size in range(71)]
    for larger in range(71):
        for smaller in range(larger + 1):
            proof = consistency_proof(smaller, larger, BIG.hash_at)
            verify_consistency(smaller, larger, roots[smaller], roots[larger], proof)
            if 0 < smaller < larger:
                for wrong1, wrong2 in ((roots[smaller - 1], roots[larger]), (roots[smaller], roots[larger - 1])):
                    with pytest.raises(ProofError):
                        verify_consistency(smaller, larger, wrong1, wrong2, proof)


def _flip(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


@st.composite
def index_and_size(draw):
    size = draw(st.integers(1, 3000))
    return draw(st.integers(0, size - 1)), size


@given(index_and_size(), st.integers(0, 255), st.data())
def test_an_inclusion_proof_verifies_and_any_flipped_bit_makes_it_fail(where, bit, data):
    index, size = where
    proof, head = inclusion_proof(index, size, BIG.hash_at), BIG.root(size)
    verify_inclusion(index, size, HASHES[index], proof, head)
    assert len(proof) <= size.bit_length()
    part = data.draw(st.integers(-2, len(proof) - 1))
    leaf = _flip(HASHES[index], bit) if part == -2 else HASHES[index]
    other_root = _flip(head, bit) if part == -1 else head
    other_proof = [_flip(step, bit) if number == part else step for number, step in enumerate(proof)]
    with pytest.raises(ProofError):
        verify_inclusion(index, size, leaf, other_proof, other_root)


@given(index_and_size(), st.data())
def test_an_inclusion_proof_is_good_for_its_index_alone(where, data):
    index, size = where
    other = data.draw(st.integers(0, size + 5).filter(lambda number: number != index))
    with pytest.raises(ProofError):
        verify_inclusion(other, size, HASHES[index], inclusion_proof(index, size, BIG.hash_at), BIG.root(size))


@given(index_and_size())
def test_a_proof_of_another_length_fails(where):
    index, size = where
    proof, head = inclusion_proof(index, size, BIG.hash_at), BIG.root(size)
    with pytest.raises(ProofError):
        verify_inclusion(index, size, HASHES[index], [*proof, bytes(32)], head)
    if proof:
        with pytest.raises(ProofError):
            verify_inclusion(index, size, HASHES[index], proof[:-1], head)


@st.composite
def two_sizes(draw):
    larger = draw(st.integers(2, 3000))
    return draw(st.integers(1, larger - 1)), larger


@given(two_sizes(), st.integers(0, 255), st.data())
def test_a_consistency_proof_verifies_and_any_flipped_bit_makes_it_fail(sizes, bit, data):
    smaller, larger = sizes
    proof = consistency_proof(smaller, larger, BIG.hash_at)
    roots = [BIG.root(smaller), BIG.root(larger)]
    verify_consistency(smaller, larger, *roots, proof)
    part = data.draw(st.integers(-2, len(proof) - 1))
    if part < 0:
        roots[part + 2] = _flip(roots[part + 2], bit)
    changed = [_flip(step, bit) if number == part else step for number, step in enumerate(proof)]
    with pytest.raises(ProofError):
        verify_consistency(smaller, larger, *roots, changed)


@given(two_sizes())
def test_a_consistency_proof_of_another_length_fails(sizes):
    smaller, larger = sizes
    proof, roots = consistency_proof(smaller, larger, BIG.hash_at), (BIG.root(smaller), BIG.root(larger))
    with pytest.raises(ProofError):
        verify_consistency(smaller, larger, *roots, [*proof, bytes(32)])
    with pytest.raises(ProofError):
        verify_consistency(smaller, larger, *roots, proof[:-1])


@settings(max_examples=50)
@given(two_sizes(), st.integers(0, 2999))
def test_a_log_that_changed_one_old_leaf_has_no_consistency_proof(sizes, victim):
    smaller, larger = sizes
    victim %= smaller
    forged = Tree([*HASHES[:victim], bytes(32), *HASHES[victim + 1 : larger]])
    with pytest.raises(ProofError):
        verify_consistency(smaller, larger, BIG.root(smaller), forged.root(), consistency_proof(smaller, larger, forged.hash_at))


@pytest.mark.parametrize(
    ("smaller", "larger", "root1", "root2", "proof"),
    [
        (0, 5, b"\x01" * 32, BIG.root(5), []),
        (0, 5, EMPTY_ROOT, BIG.root(5), [bytes(32)]),
        (5, 5, BIG.root(5), BIG.root(4), []),
        (5, 5, BIG.root(5), BIG.root(5), [bytes(32)]),
        (6, 5, BIG.root(6), BIG.root(5), []),
        (-1, 5, BIG.root(5), BIG.root(5), []),
        (1, 2**63, BIG.root(1), BIG.root(5), [bytes(32)] * 63),
        (3, 5, BIG.root(3), BIG.root(5), []),
        (3, 5, b"short", BIG.root(5), consistency_proof(3, 5, BIG.hash_at)),
    ],
)
def test_degenerate_consistency_proofs_are_refused(smaller, larger, root1, root2, proof):
    with pytest.raises(ProofError):
        verify_consistency(smaller, larger, root1, root2, proof)


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0), (0, 2**63), (2**70, 2**71)])
def test_an_index_outside_the_tree_is_refused(index, size):
    with pytest.raises(ProofError):
        inclusion_proof(index, size, BIG.hash_at)
    with pytest.raises(ProofError):
        verify_inclusion(index, size, bytes(32), [], bytes(32))


def test_a_frontier_with_the_wrong_number_of_peaks_is_refused():
    with pytest.raises(ValueError, match="2 peaks"):
        Frontier(3, (bytes(32),))


def test_a_proof_for_a_smaller_tree_is_none_for_a_larger_one_of_the_same_root():
    """The hashes fit, the claimed size does not: whoever checks the length alone would believe a wrong size."""
    proof, head = inclusion_proof(0, 4, BIG.hash_at), BIG.root(4)
    verify_inclusion(0, 4, HASHES[0], proof, head)
    for size in (8, 9, 1024):
        with pytest.raises(ProofError, match="too short"):
            verify_inclusion(0, size, HASHES[0], proof, head)
    proof = consistency_proof(2, 4, BIG.hash_at)
    verify_consistency(2, 4, BIG.root(2), head, proof)
    with pytest.raises(ProofError, match="too short"):
        verify_consistency(2, 8, BIG.root(2), head, proof)
