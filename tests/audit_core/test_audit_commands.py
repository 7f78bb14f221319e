"""`assay audit` verify, prove, verify-proof, checkpoint, keys: exit codes, JSON, and where the key came from."""

from __future__ import annotations

import contextlib
import http.server
import json
import stat
import threading
import time

import pytest
from log_maker import LOG_KEY, ORIGIN, WITNESS_KEY, bundles, leaves, log_files, record, write_files
from typer.testing import CliRunner

from audit.keys import COSIGNATURE_V1, SigningKey, VerifierKey
from audit.leaf import render
from audit.note import open_checkpoint
from gateway.cli.audit import app

VKEY, WITNESS = str(LOG_KEY.verifier), str(WITNESS_KEY.verifier)
ENTRIES = leaves(600)


def run(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture
def log(tmp_path):
    return write_files(tmp_path / "public", log_files(ENTRIES, witnesses=[WITNESS_KEY]))


@pytest.fixture
def data(tmp_path):
    """An Assay data directory that carries its own keys."""
    write_files(tmp_path / "data" / "log", log_files(ENTRIES, witnesses=[WITNESS_KEY]))
    (tmp_path / "data" / "log" / "vkey").write_text(VKEY + "\n")
    (tmp_path / "data" / "log" / "witnesses").write_text(WITNESS + "\n")
    return tmp_path / "data"


def test_a_witnessed_log_verifies_with_exit_0_and_a_table(log):
    done = run("verify", log, "--vkey", VKEY, "--witness", WITNESS)
    assert done.exit_code == 0, done.output
    for word in ("chain", "tamper", "completeness", "independence", ORIGIN, "size 600"):
        assert word in done.stdout


def test_without_witness_or_kept_head_the_exit_code_is_3(log):
    done = run("verify", log, "--vkey", VKEY)
    assert done.exit_code == 3
    assert "freshness is unproven" in done.stdout


def test_a_kept_checkpoint_makes_it_0_and_comes_from_the_checkpoint_command(log, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text(run("checkpoint", log, "--vkey", VKEY).stdout)
    assert kept.read_bytes() == (log / "checkpoint").read_bytes()
    assert run("verify", log, "--vkey", VKEY, "--known", kept).exit_code == 0


def test_tampering_is_exit_1_and_names_leaf_and_file(log):
    changed = [*ENTRIES[:300], render(record(300, tenant="mallory")), *ENTRIES[301:]]
    write_files(log, bundles(changed))
    done = run("verify", log, "--vkey", VKEY, "--json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["exit_code"], document["first_bad_index"]) == (1, 1, 300)
    assert document["checks"][0]["faults"][0]["path"] == "tile/entries/001"
    text = run("verify", log, "--vkey", VKEY).stdout
    assert "leaf 300: entry was changed" in text
    assert "tile/entries/001" in text


def test_keys_from_the_logs_own_directory_prove_that_it_is_whole_and_not_whose_it_is(data):
    done = run("verify", data)
    assert done.exit_code == 3, done.output
    assert "came from the log's own directory" in " ".join(done.stdout.split())
    assert json.loads(run("verify", data, "--json").stdout)["key_from_log_directory"] is True
    assert "own directory" not in run("verify", data, "--vkey", VKEY, "--witness", WITNESS).output


def test_a_key_may_be_a_file(log, tmp_path):
    (tmp_path / "log.vkey").write_text(VKEY + "\n")
    assert run("verify", log, "--vkey", tmp_path / "log.vkey", "--witness", WITNESS).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "LOG"], "no verification key"),
        (["verify", "/nowhere", "--vkey", VKEY], "neither a directory"),
        (["verify", "LOG", "--vkey", VKEY[:-1]], "base64"),
        (["verify", "LOG", "--vkey", VKEY, "--known", "/nowhere"], "cannot read"),
        (["keys"], "name a data directory"),
        (["keys", "--generate", "/tmp/never"], "needs `--name`"),
    ],
)
def test_wrong_usage_is_exit_2_with_what_to_do(log, arguments, message):
    done = run(*[log if one == "LOG" else one for one in arguments])
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_leaf_is_proven_and_the_proof_checked(log, tmp_path):
    proof, leaf = tmp_path / "41.tlog-proof", tmp_path / "41.json"
    assert run("prove", log, 41, "--vkey", VKEY, "-o", proof, "--leaf", leaf).exit_code == 0
    assert leaf.read_bytes() == ENTRIES[41]
    done = run("verify-proof", proof, "--leaf", leaf, "--vkey", VKEY, "--witness", WITNESS)
    assert done.exit_code == 0, done.output
    assert "leaf 41 is in" in done.stdout
    leaf.write_bytes(ENTRIES[42])
    assert run("verify-proof", proof, "--leaf", leaf, "--vkey", VKEY).exit_code == 1
    proof.write_bytes(b"nonsense")
    assert run("verify-proof", proof, "--leaf", leaf, "--vkey", VKEY).exit_code == 1


def test_a_leaf_that_is_not_there_has_no_proof(log):
    assert run("prove", log, 600, "--vkey", VKEY).exit_code == 1


def test_a_head_that_the_key_did_not_sign_is_not_printed(log):
    done = run("checkpoint", log, "--vkey", str(SigningKey.generate(ORIGIN).verifier))
    assert (done.exit_code, done.stdout) == (1, "")


def test_the_head_as_json(log):
    document = json.loads(run("checkpoint", log, "--vkey", VKEY, "--witness", WITNESS, "--json").stdout)
    assert document["size"] == 600
    assert abs(document["cosignatures"][0]["time_s"] - time.time()) < 60


def test_a_key_is_made_with_mode_0600_and_its_vkey_printed(tmp_path):
    done = run("keys", "--generate", tmp_path / "k" / "log.key", "--name", "assay.example/prod")
    assert done.exit_code == 0, done.output
    assert VerifierKey.parse(done.stdout.split()[1]).name == "assay.example/prod"
    assert stat.S_IMODE((tmp_path / "k" / "log.key").stat().st_mode) == 0o600
    assert "PRIVATE" not in done.output
    again = run("keys", "--generate", tmp_path / "k" / "log.key", "--name", "assay.example/prod")
    assert again.exit_code == 2
    made = run("keys", "--generate", tmp_path / "w.key", "--name", "witness.example", "--for-witness", "--json")
    assert VerifierKey.parse(json.loads(made.stdout)["keys"][0]["vkey"]).kind == COSIGNATURE_V1


def test_the_keys_of_a_log_are_listed(data):
    document = json.loads(run("keys", data, "--json").stdout)
    assert [(one["role"], one["vkey"]) for one in document["keys"]] == [("log", VKEY), ("witness", WITNESS)]
    assert VKEY in run("keys", VKEY).stdout


@contextlib.contextmanager
def served(directory, token=None):
    """Serve a directory on the loopback; entries only to who has the token."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(directory))

        def do_GET(self):
            if token and "entries" in self.path and self.headers.get("authorization") != f"Bearer {token}":
                self.send_error(403)
            else:
                super().do_GET()

        def log_message(self, *_: object):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_a_log_behind_http_is_verified(log):
    with served(log) as url:
        done = run("verify", url, "--vkey", VKEY, "--witness", WITNESS)
    assert done.exit_code == 0, done.output


def test_entries_behind_a_role_need_the_token(log, monkeypatch):
    monkeypatch.setenv("AUDITOR", "s3cret")
    with served(log, token="s3cret") as url:
        assert run("verify", url, "--vkey", VKEY, "--witness", WITNESS).exit_code == 3
        done = run("verify", url, "--vkey", VKEY, "--witness", WITNESS, "--token", "env:AUDITOR")
        assert done.exit_code == 0, done.output
        assert run("verify", url, "--vkey", VKEY, "--token", "s3cret").exit_code == 2


def test_a_server_that_is_down_is_exit_3():
    assert run("verify", "http://127.0.0.1:9/", "--vkey", VKEY).exit_code == 3


# ---- freshness, forks, key policies -----------------------------------------------------------------------------------------------


def test_a_head_that_was_cosigned_long_ago_is_unproven_until_its_age_is_allowed(tmp_path):
    old = write_files(tmp_path / "old", log_files(ENTRIES, witnesses=[WITNESS_KEY], time_s=int(time.time()) - 3 * 86_400))
    words = ("verify", old, "--vkey", VKEY, "--witness", WITNESS)
    done = run(*words)
    assert done.exit_code == 3, done.output
    assert "saw this head 3 days ago" in " ".join(done.stdout.split())
    assert run(*words, "--max-age", "4d").exit_code == 0
    assert run(*words, "--max-age", "4").exit_code == 2


def test_two_heads_of_one_size_are_printed_as_proof_that_verifies_again(log, tmp_path):
    mine, yours = tmp_path / "mine", tmp_path / "yours"
    mine.write_bytes((log / "checkpoint").read_bytes())
    yours.write_bytes(log_files([*ENTRIES[:-1], b"another end"])["checkpoint"])
    for done in (run("verify", log, "--vkey", VKEY, "--known", yours), run("diff-heads", mine, yours, "--vkey", VKEY)):
        assert done.exit_code == 1
        assert "PROOF OF MISBEHAVIOUR" in done.stdout
        printed = done.stdout.partition("----- one -----\n")[2].partition("----- end -----")[0].split("----- the other -----\n")
        heads = [open_checkpoint(note.encode(), [LOG_KEY.verifier]).checkpoint for note in printed]
        assert heads[0].size == heads[1].size
        assert heads[0].root != heads[1].root
    document = json.loads(run("diff-heads", mine, yours, "--vkey", VKEY, "--json").stdout)
    assert document["misbehaviour"]["size"] == 600


def test_heads_of_different_sizes_are_proven_from_the_log_or_unproven(log, tmp_path):
    early, forged = tmp_path / "early", tmp_path / "forged"
    early.write_bytes(log_files(ENTRIES[:300])["checkpoint"])
    forged.write_bytes(log_files([*ENTRIES[:299], b"never there"])["checkpoint"])
    words = ("diff-heads", log / "checkpoint", early, "--vkey", VKEY)
    assert run(*words).exit_code == 3
    assert run(*words, "--log", log).exit_code == 0
    assert run("diff-heads", log / "checkpoint", forged, "--vkey", VKEY, "--log", log).exit_code == 1


@pytest.mark.parametrize(("bounds", "exit_code"), [("", 3), ("until 600", 3), ("from 600", 3), ("until 599", 1), ("from 601", 1)])
def test_a_key_signs_within_its_bounds_alone(log, tmp_path, bounds, exit_code):
    policy = tmp_path / "log.keys"
    policy.write_text(f"# of the log\nlog {VKEY} {bounds}\n")
    done = run("verify", log, "--vkey", policy)
    assert done.exit_code == exit_code, done.output
    assert ("it may sign sizes" in " ".join(done.stdout.split())) == (exit_code == 1)
    assert run("prove", log, 5, "--vkey", policy).exit_code == (1 if exit_code == 1 else 0)


def test_a_key_policy_brings_its_witnesses(log, tmp_path):
    policy = tmp_path / "log.keys"
    policy.write_text(f"log {VKEY}\nwitness {WITNESS}\n")
    assert run("verify", log, "--vkey", policy).exit_code == 0


def test_a_policy_that_is_not_understood_is_refused_with_its_line(log, tmp_path):
    policy = tmp_path / "log.keys"
    policy.write_text(f"log {VKEY}\nlog {VKEY} untill 5\n")
    done = run("verify", log, "--vkey", policy)
    assert done.exit_code == 2
    assert "line 2" in done.output
