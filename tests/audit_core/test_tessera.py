"""Tessera, the library most tiled logs of the world are written with: its `fsck` accepts our logs, and `assay audit verify` accepts its logs."""

from __future__ import annotations

import base64
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import uvicorn
from log_maker import EDGES, LOG_KEY, ORIGIN, WITNESS_KEY, leaves, log_files, write_files
from typer.testing import CliRunner

from audit import note
from audit.keys import SigningKey
from audit.witness import StateFile, Witness, application
from gateway.cli.audit import app

SOURCE = Path(__file__).parent / "go_tessera"
HINT = "needs Go 1.24 or newer (https://go.dev/dl/, or `apt-get install golang`) and its module proxy once"

pytestmark = [
    pytest.mark.component("go"),
    pytest.mark.skipif(shutil.which("go") is None, reason=HINT),
    pytest.mark.timeout(400),
]


def _build(binary: Path, package: str) -> Path:
    environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    built = subprocess.run(
        ["go", "build", "-o", binary, package], cwd=SOURCE, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert built.returncode == 0, built.stderr
    return binary


# ---- their reader, our log --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fsck(tmp_path_factory):
    """Build Tessera's `fsck`; return a function that runs it on a log directory."""
    folder = tmp_path_factory.mktemp("fsck")
    binary = _build(folder / "fsck", "github.com/transparency-dev/tessera/cmd/fsck")

    def run(directory, vkey=LOG_KEY.verifier):
        (folder / "vkey").write_text(str(vkey))
        words = [binary, "--storage_url", f"file://{directory}/", "--public_key", folder / "vkey", "--ui=false"]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)

    return run


@pytest.mark.parametrize("count", [1, *EDGES, 70_000])
def test_tesseras_fsck_accepts_our_log_at_every_size_where_tiles_change_shape(fsck, tmp_path, count):
    done = fsck(write_files(tmp_path, log_files([b'{"n":%d}' % number for number in range(count)], witnesses=[WITNESS_KEY], batch=1777)))
    assert done.returncode == 0, done.stderr
    assert f"Successfully fsck'd log with size {count}" in done.stderr


@pytest.mark.parametrize("path", ["checkpoint", "tile/entries/000.p/9", "tile/0/000.p/9"])
def test_tesseras_fsck_refuses_what_was_changed(fsck, tmp_path, path):
    file = write_files(tmp_path, log_files(leaves(9))) / path
    changed = bytearray(file.read_bytes())
    changed[20] ^= 1
    file.write_bytes(changed)
    done = fsck(tmp_path)  # which exits with 0 whatever it finds
    assert "fsck failed" in done.stderr
    assert "Successfully" not in done.stderr


# ---- our reader, their log --------------------------------------------------------------------------------------------------------

SECOND = SigningKey.generate(ORIGIN, seed=b"2" * 32)
STRANGER = SigningKey.generate("stranger.example/key", seed=b"3" * 32)
ENTRIES = [b"", b"\x00\xff\xfe", b"not JSON", b'{"v":1}', b"x" * 65_535, *(b"entry %d" % number for number in range(600))]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Build the writer; return a function that appends entries to a log in a directory, and gives the directory."""
    binary = _build(tmp_path_factory.mktemp("tessera") / "go_tessera", ".")

    def write(directory, entries, *keys: SigningKey, policy=None):
        lines = "\n".join(base64.b64encode(entry).decode() for entry in entries) + "\n"
        environment = os.environ if policy is None else {**os.environ, "WITNESS_POLICY": str(policy)}
        words = [binary, directory, *(key.secret_text() for key in keys)]
        done = subprocess.run(words, input=lines, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return directory

    return write


@pytest.fixture(scope="module")
def foreign(written, tmp_path_factory):
    """A log that Tessera wrote: entries that are no records, two signatures on its checkpoint."""
    return written(tmp_path_factory.mktemp("foreign") / "log", ENTRIES, LOG_KEY, SECOND)


def verify(log, *options: object):
    return CliRunner().invoke(app, ["verify", str(log), *map(str, options), "--json"])


def test_a_log_that_tessera_wrote_verifies_as_bytes(foreign, tmp_path):
    kept = tmp_path / "kept"
    kept.write_bytes((foreign / "checkpoint").read_bytes())
    done = verify(foreign, "--vkey", LOG_KEY.verifier, "--known", kept)
    document = json.loads(done.stdout)
    assert done.exit_code == 0, document
    assert (document["size"], document["opaque"], document["records"]) == (len(ENTRIES), len(ENTRIES), 0)


def test_either_signature_of_a_foreign_log_is_enough(foreign):
    for key in (LOG_KEY, SECOND):
        done = verify(foreign, "--vkey", key.verifier)
        assert done.exit_code == 3, done.stdout  # nothing kept, nobody witnessed
        assert [check["grade"] for check in json.loads(done.stdout)["checks"]] == ["ok", "ok", "ok", "unproven"]


def test_signature_lines_of_unknown_keys_and_types_are_passed_over_and_a_foreign_origin_must_be_named(foreign, tmp_path):
    log = tmp_path / "log"
    shutil.copytree(foreign, log)
    text = note.parse((log / "checkpoint").read_bytes()).text
    unknown = f"— later.example {base64.b64encode(b'abcd' + bytes(2420)).decode()}\n"  # as long as an ML-DSA-44 signature
    (log / "checkpoint").write_bytes(note.sign(text, [LOG_KEY, STRANGER]) + unknown.encode())
    assert verify(log, "--vkey", LOG_KEY.verifier).exit_code == 3
    assert verify(log, "--vkey", STRANGER.verifier).exit_code == 1, "a key may not vouch for another origin unasked"
    assert verify(log, "--vkey", STRANGER.verifier, "--origin", ORIGIN).exit_code == 3


# ---- our witness, their log -------------------------------------------------------------------------------------------------------


@pytest.fixture
def witness(tmp_path):
    """Our witness over real HTTP; gives it and the policy file that names it."""
    ours = Witness(WITNESS_KEY, {ORIGIN: [LOG_KEY.verifier]}, StateFile(tmp_path / "state.json"), now_s=lambda: int(time.time()))
    server = uvicorn.Server(uvicorn.Config(application(ours), host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    policy = tmp_path / "policy"
    policy.write_text(f"witness w {WITNESS_KEY.verifier} http://127.0.0.1:{port}/\nquorum w\n")
    yield ours, policy
    server.should_exit = True
    thread.join(10)


def test_tessera_publishes_what_our_witness_cosigned_as_its_log_grows(written, witness, tmp_path):
    ours, policy = witness
    for entries in (ENTRIES[:1], ENTRIES[1:300], ENTRIES[300:]):
        log = written(tmp_path / "log", entries, LOG_KEY, policy=policy)
        head = note.open_checkpoint((log / "checkpoint").read_bytes(), [LOG_KEY.verifier], [WITNESS_KEY.verifier])
        assert [one.key for one in head.cosignatures] == [WITNESS_KEY.verifier]
        assert ours.known(ORIGIN).root == head.checkpoint.root
    assert ours.known(ORIGIN).size == len(ENTRIES)
    done = verify(log, "--vkey", LOG_KEY.verifier, "--witness", WITNESS_KEY.verifier)
    assert done.exit_code == 0, done.stdout


def test_a_foreign_log_behind_a_url_verifies_too(foreign):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(foreign))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = verify(f"http://127.0.0.1:{server.server_port}/", "--vkey", LOG_KEY.verifier)
        server.shutdown()
    assert done.exit_code == 3, done.stdout
    assert json.loads(done.stdout)["leaves_checked"] == len(ENTRIES)


def test_one_changed_byte_of_a_foreign_log_is_found_and_named(foreign, tmp_path):
    log = tmp_path / "log"
    shutil.copytree(foreign, log)
    file = log / "tile" / "entries" / "001"
    changed = bytearray(file.read_bytes())
    changed[10] ^= 1
    file.write_bytes(changed)
    done = verify(log, "--vkey", LOG_KEY.verifier)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["first_bad_index"] == 256
