"""Go's own transparency-log code accepts what we write, across tile levels, and refuses what was changed."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from log_maker import EDGES, LOG_KEY, WITNESS_KEY, leaves, log_files, random_proofs, write_files

SOURCE = Path(__file__).parent / "go_verify"
HINT = "needs Go 1.23 or newer (https://go.dev/dl/, or `apt-get install golang`) and its module proxy once"

pytestmark = [
    pytest.mark.component("go"),
    pytest.mark.skipif(shutil.which("go") is None, reason=HINT),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def go_verify(tmp_path_factory):
    """Build the verifier; return a function that runs it."""
    binary = tmp_path_factory.mktemp("go") / "go_verify"
    environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    built = subprocess.run(["go", "build", "-o", binary, "."], cwd=SOURCE, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert built.returncode == 0, built.stderr

    def run(*arguments: object):
        return subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)

    return run


VKEY = str(LOG_KEY.verifier)


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """70,000 small leaves, appended in uneven batches, so that every kind of tile was grown and not written at once."""
    entries = [b"%d" % number for number in range(70_000)]
    return write_files(tmp_path_factory.mktemp("big"), log_files(entries, witnesses=[WITNESS_KEY], batch=1777))


def test_go_accepts_a_log_of_70000_leaves_across_three_tile_levels_and_1000_random_proofs_of_each_kind(go_verify, big):
    done = go_verify(big, VKEY, 1000)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"size": 70_000, "proofs": 19 + 2000}


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537])
def test_go_accepts_every_size_where_tiles_change_shape(go_verify, tmp_path, count):
    entries = [b"%d" % number for number in range(count)] if count > 1000 else leaves(count)
    done = go_verify(write_files(tmp_path, log_files(entries)), VKEY)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["size"] == count


def _line(**members: Any) -> str:
    encoded = {key: base64.b64encode(value).decode() if isinstance(value, bytes) else value for key, value in members.items()}
    return json.dumps({**encoded, "hashes": [base64.b64encode(one).decode() for one in members["hashes"]]})


@pytest.fixture(scope="module")
def proofs(big):
    """1,000 inclusion and 1,000 consistency proofs that our code made, in trees of the sizes where tiles change shape and of random sizes."""
    return random_proofs(big, 1000, [*EDGES, 70_000], random.Random(7))  # noqa: S311 - a test that runs alike each time


def test_go_accepts_1000_random_inclusion_and_consistency_proofs_that_we_made(go_verify, proofs, tmp_path):
    lines = [_line(index=one.index, size=one.size, leaf=one.leaf_hash, root=one.root, hashes=one.inclusion) for one in proofs]
    lines += [_line(old=one.old_size, old_root=one.old_root, size=one.size, root=one.root, hashes=one.consistency) for one in proofs]
    (tmp_path / "proofs").write_text("\n".join(lines) + "\n")
    done = go_verify("-proofs", tmp_path / "proofs")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"inclusion": 1000, "consistency": 1000}


@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_go_refuses_a_proof_with_one_flipped_bit(go_verify, proofs, tmp_path, kind):
    one = next(one for one in proofs if one.inclusion and one.consistency)
    path = [*getattr(one, kind)]
    path[-1] = bytes([path[-1][0] ^ 1]) + path[-1][1:]
    given = (
        _line(index=one.index, size=one.size, leaf=one.leaf_hash, root=one.root, hashes=path)
        if kind == "inclusion"
        else _line(old=one.old_size, old_root=one.old_root, size=one.size, root=one.root, hashes=path)
    )
    (tmp_path / "proofs").write_text(given + "\n")
    assert go_verify("-proofs", tmp_path / "proofs").returncode != 0


@pytest.mark.parametrize("path", ["checkpoint", "tile/entries/100", "tile/0/256", "tile/1/000", "tile/2/000.p/1"])
def test_go_refuses_what_was_changed(go_verify, big, path):
    file = big / path
    original = file.read_bytes()
    changed = bytearray(original)
    changed[20] ^= 1
    file.write_bytes(changed)
    try:
        assert go_verify(big, VKEY).returncode != 0
    finally:
        file.write_bytes(original)


def test_go_refuses_another_key(go_verify, big):
    assert go_verify(big, str(WITNESS_KEY.verifier)).returncode != 0
