"""Sigstore's Python client, which verifies Rekor for the world, accepts our checkpoints and inclusion proofs, and refuses what was changed.

Its note, checkpoint and Merkle code is fed as it feeds itself: with a transparency log entry that holds body, proof and checkpoint.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from log_maker import EDGES, LOG_KEY, WITNESS_KEY, log_files, random_proofs, write_files

from audit.keys import ED25519, SigningKey, VerifierKey
from audit.note import Checkpoint, sign

if importlib.util.find_spec("sigstore") is None and os.environ.get("ASSAY_REQUIRE_COMPONENTS") != "1":
    pytest.skip("needs `sigstore`: install the extra `test`", allow_module_level=True)

from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import verify_checkpoint
from sigstore._internal.trust import Keyring, RekorKeyring
from sigstore.errors import VerificationError
from sigstore.models import TransparencyLogEntry
from sigstore_models.common.v1 import PublicKey, PublicKeyDetails
from sigstore_models.rekor.v1 import TransparencyLogEntry as Fields

ENTRIES = [b'{"n":%d}' % number for number in range(70_000)]


@pytest.fixture(scope="module")
def proofs(tmp_path_factory):
    """1,000 proofs in trees of the sizes where tiles change shape, and of random sizes."""
    log = write_files(tmp_path_factory.mktemp("log"), log_files(ENTRIES, batch=1777))
    return random_proofs(log, 1000, [*EDGES, 70_000], random.Random(11))  # noqa: S311 - a test that runs alike each time


def keyring(key: VerifierKey = LOG_KEY.verifier) -> RekorKeyring:
    der = Ed25519PublicKey.from_public_bytes(key.public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return RekorKeyring(Keyring([PublicKey(raw_bytes=base64.b64encode(der), key_details=PublicKeyDetails.PKIX_ED25519)]))


def entry(one, *, body=None, path=None, key=LOG_KEY, root=None):
    """One leaf, its proof and the checkpoint of its tree, as Sigstore's client holds them."""
    head = Checkpoint(key.name, one.size, root or one.root)
    fields = {
        "logIndex": str(one.index),
        "logId": {"keyId": base64.b64encode(LOG_KEY.verifier.id)},
        "kindVersion": {"kind": "assay", "version": "1"},
        "canonicalizedBody": base64.b64encode(ENTRIES[one.index] if body is None else body),
        "inclusionProof": {
            "logIndex": str(one.index),
            "treeSize": str(one.size),
            "rootHash": base64.b64encode(one.root),
            "hashes": [base64.b64encode(each) for each in (one.inclusion if path is None else path)],
            "checkpoint": {"envelope": sign(head.text(), [key, WITNESS_KEY], time_s=1).decode()},
        },
    }
    return TransparencyLogEntry(Fields.model_validate(fields))


def test_sigstore_accepts_1000_random_proofs_and_their_checkpoints(proofs):
    keys = keyring()
    for one in proofs:
        found = entry(one)
        verify_merkle_inclusion(found)
        verify_checkpoint(keys, found)
    assert len({one.index for one in proofs}) > 100, "both raise on a fault; this many leaves were shown"


def test_sigstore_refuses_a_changed_leaf_a_changed_proof_and_a_proof_of_another_length(proofs):
    one = next(one for one in proofs if len(one.inclusion) > 3)
    changed = [bytes([one.inclusion[0][0] ^ 1]) + one.inclusion[0][1:], *one.inclusion[1:]]
    for bad in (entry(one, body=b"another"), entry(one, path=changed), entry(one, path=one.inclusion[1:])):
        with pytest.raises(VerificationError):
            verify_merkle_inclusion(bad)


def test_sigstore_refuses_another_key_and_a_checkpoint_of_another_root(proofs):
    another = SigningKey.generate(LOG_KEY.name, kind=ED25519)
    with pytest.raises(VerificationError):
        verify_checkpoint(keyring(another.verifier), entry(proofs[0]))
    with pytest.raises(VerificationError):
        verify_checkpoint(keyring(), entry(proofs[0], key=another))
    with pytest.raises(VerificationError):
        verify_checkpoint(keyring(), entry(proofs[0], root=bytes(32)))
