"""Go's own transparency-log code accepts what we write, across tile levels, and refuses what was changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from log_maker import LOG_KEY, WITNESS_KEY, leaves, log_files, write_files

SOURCE = Path(__file__).parent / "go_verify"
HINT = "needs Go 1.23 or newer (https://go.dev/dl/, or `apt-get install golang`) and its module proxy once"

pytestmark = [
    pytest.mark.component("go"),
    pytest.mark.skipif(shutil.which("go") is None, reason=HINT),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def go_verify(tmp_path_factory):
    """Build the verifier; return a function that runs it on a log directory."""
    binary = tmp_path_factory.mktemp("go") / "go_verify"
    environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    built = subprocess.run(["go", "build", "-o", binary, "."], cwd=SOURCE, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert built.returncode == 0, built.stderr

    def run(directory, vkey=None):
        return subprocess.run([binary, directory, vkey or str(LOG_KEY.verifier)], capture_output=True, text=True, check=False, timeout=60)

    return run


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """70,000 small leaves, appended in uneven batches, so that every kind of tile was grown and not written at once."""
    entries = [b"%d" % number for number in range(70_000)]
    return write_files(tmp_path_factory.mktemp("big"), log_files(entries, witnesses=[WITNESS_KEY], batch=1777))


def test_go_accepts_a_log_of_70000_leaves_across_three_tile_levels(go_verify, big):
    done = go_verify(big)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"size": 70_000, "proofs": 19}


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537])
def test_go_accepts_every_size_where_tiles_change_shape(go_verify, tmp_path, count):
    entries = [b"%d" % number for number in range(count)] if count > 1000 else leaves(count)
    done = go_verify(write_files(tmp_path, log_files(entries)))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["size"] == count


@pytest.mark.parametrize("path", ["checkpoint", "tile/entries/100", "tile/0/256", "tile/1/000", "tile/2/000.p/1"])
def test_go_refuses_what_was_changed(go_verify, big, path):
    file = big / path
    original = file.read_bytes()
    changed = bytearray(original)
    changed[20] ^= 1
    file.write_bytes(changed)
    try:
        assert go_verify(big).returncode != 0
    finally:
        file.write_bytes(original)


def test_go_refuses_another_key(go_verify, big):
    assert go_verify(big, str(WITNESS_KEY.verifier)).returncode != 0
