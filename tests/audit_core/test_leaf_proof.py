"""A `.tlog-proof`: one leaf, proven offline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_maker import LOG_KEY, WITNESS_KEY, leaves, log_files, write_files

from audit.keys import SigningKey
from audit.merkle import ProofError
from audit.note import NoteError
from audit.proof import make_proof, parse_proof, verify_proof
from audit.source import open_directory

KEYS = [LOG_KEY.verifier]
ENTRIES = leaves(600)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return open_directory(write_files(tmp_path_factory.mktemp("log"), log_files(ENTRIES, witnesses=[WITNESS_KEY])))


@pytest.fixture(scope="module")
def text(log):
    return make_proof(log, 300, KEYS).encode()


@pytest.mark.parametrize("index", [0, 1, 255, 256, 511, 512, 599])
def test_every_leaf_is_proven_to_who_has_the_key(log, index):
    proof = parse_proof(make_proof(log, index, KEYS).encode())
    head = verify_proof(proof, ENTRIES[index], KEYS, [WITNESS_KEY.verifier])
    assert (head.checkpoint.size, len(head.cosignatures)) == (600, 1)


def test_a_proof_is_good_for_its_leaf_and_its_key_alone(text):
    with pytest.raises(ProofError):
        verify_proof(parse_proof(text), ENTRIES[301], KEYS)
    with pytest.raises(NoteError):
        verify_proof(parse_proof(text), ENTRIES[300], [SigningKey.generate(LOG_KEY.name).verifier])


@given(st.data())
def test_any_flipped_bit_of_a_proof_is_found(text, data):
    end = text.index(b"\xe2\x80\x94 " + WITNESS_KEY.name.encode())  # an unknown signer's line is not checked
    bit = data.draw(st.integers(0, end * 8 - 1))
    changed = bytearray(text)
    changed[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises((NoteError, ProofError)):
        verify_proof(parse_proof(bytes(changed)), ENTRIES[300], KEYS)


def test_extra_data_is_skipped(text):
    lines = text.split(b"\n", 1)
    assert parse_proof(lines[0] + b"\nextra AAAA\n" + lines[1]) == parse_proof(text)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:0],
        lambda text: text.replace(b"@v1", b"@v2"),
        lambda text: text.replace(b"index 300", b"index 0300"),
        lambda text: text.replace(b"index 300", b"index -1"),
        lambda text: text.replace(b"index 300\n", b""),
        lambda text: text.replace(b"index 300\n", b"index 300\n" + b"A" * 43 + b"=\n" * 1 + (b"A" * 43 + b"=\n") * 63),
        lambda text: text.split(b"\n\n")[0],
        lambda text: text + b"x" * 3_000_000,
        lambda text: "é".encode() + text,
    ],
)
def test_a_malformed_proof_is_refused(text, spoil):
    with pytest.raises(NoteError):
        parse_proof(spoil(text))


def test_an_index_beyond_the_log_has_no_proof(log):
    with pytest.raises(ProofError):
        make_proof(log, 600, KEYS)
