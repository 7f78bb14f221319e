"""A log under real witnesses: what they cosign, what they refuse, and what a verifier says of both."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from contextlib import contextmanager

import pytest
from deployment import CHECKOUT, COMMAND, Deployment, free_port, wait_until
from witness_process import WitnessProcess, name_witnesses

from audit.keys import COSIGNATURE_V1, SigningKey
from audit.note import open_checkpoint


@pytest.fixture
def deployment(tmp_path):
    made = Deployment(tmp_path / "d")
    made.write_model("m", {"1": f"http://127.0.0.1:{free_port()}"})
    yield made
    made.close()


@pytest.fixture
def witness(deployment, tmp_path):
    started = WitnessProcess(deployment, tmp_path / "witness")
    yield started
    if started.process.poll() is None:
        started.stop()


@contextmanager
def running(deployment):
    deployment.start()
    try:
        wait_until((deployment.data / "log" / "checkpoint").exists, "a first head")
        yield
    finally:
        assert deployment.stop() == 0


def head(deployment, *witnesses: WitnessProcess):
    return open_checkpoint(deployment.checkpoint(), [deployment.vkey], [one.key for one in witnesses])


def grows(deployment, than):
    """Make something new to publish, and wait until a larger head is shown."""
    deployment.infer("m")
    wait_until(lambda: head(deployment).checkpoint.size > than, f"a head larger than {than}")


def verify(deployment, *options: str):
    """Run `assay audit verify` as a person would; return exit code, and the checks by name."""
    words = [*COMMAND, "audit", "verify", str(deployment.data), "--vkey", str(deployment.vkey), *options]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=False, cwd=CHECKOUT)
    document = json.loads(done.stdout)
    return done.returncode, {check["name"]: check for check in document["checks"]}


def test_every_published_head_is_cosigned_and_verify_is_green(deployment, witness):
    name_witnesses(deployment, (witness.url, witness.key))
    with running(deployment):
        before = wait_until(lambda: (one := head(deployment, witness)).cosignatures and one, "a cosigned head")
        assert [one.key for one in before.cosignatures] == [witness.key]
        grows(deployment, before.checkpoint.size)
        wait_until(lambda: deployment.api("/api/status")["log"]["cosigned"] == ["witness.example/w1"], "a cosigned head in the admin API")
        metrics = deployment.client.get(f"{deployment.admin}/metrics", headers=deployment.bearer("console")).text
        assert 'assay_log_cosigned{witness="witness.example/w1"} 1.0' in metrics
    last = head(deployment, witness)
    assert [one.key for one in last.cosignatures] == [witness.key], "the last head, made while the gateway ended, too"
    assert witness.known_size() == last.checkpoint.size
    assert (deployment.data / "log" / "witnesses").read_text() == f"{witness.key}\n"
    code, checks = verify(deployment, "--witness", str(witness.key))
    assert (code, checks["independence"]["grade"]) == (0, "ok")
    assert "witness `witness.example/w1` saw this head" in checks["independence"]["summary"]
    code, checks = verify(deployment)
    assert (code, checks["independence"]["grade"]) == (3, "unproven"), "a cosignature nobody asked about proves nothing"


def test_a_witness_that_was_away_is_caught_up_and_one_that_came_back_remembers(deployment, witness):
    name_witnesses(deployment, (witness.url, witness.key))
    with running(deployment):
        wait_until(lambda: head(deployment, witness).cosignatures, "a cosignature")
        witness.stop(signal.SIGKILL)
        known = witness.known_size()
        grows(deployment, head(deployment).checkpoint.size)
        assert head(deployment, witness).cosignatures == (), "published without it"
        size = head(deployment).checkpoint.size
        witness.start(witness.url.removeprefix("http://"))

        def is_back():
            deployment.infer("m")
            return head(deployment, witness).cosignatures

        wait_until(is_back, "the witness to cosign again", pause_s=0.3)
        assert witness.known_size() > size > known
    assert verify(deployment, "--witness", str(witness.key))[0] == 0


def test_a_dead_witness_stops_no_checkpoint_and_verify_says_what_is_missing(deployment):
    dead = SigningKey.generate("witness.example/dead", kind=COSIGNATURE_V1).verifier
    name_witnesses(deployment, (f"http://127.0.0.1:{free_port()}", dead))
    with running(deployment):
        for _ in range(3):
            grows(deployment, head(deployment).checkpoint.size)
        assert deployment.api("/api/status")["log"]["cosigned"] == []
        page = deployment.client.get(f"{deployment.admin}/metrics", headers=deployment.bearer("console")).text
        assert 'assay_log_cosigned{witness="witness.example/dead"} 0.0' in page
    code, checks = verify(deployment, "--witness", str(dead))
    assert (code, checks["independence"]["grade"]) == (3, "unproven")
    assert "1 of the given witnesses did not cosign this head" in checks["independence"]["notes"]
    assert all(checks[name]["grade"] == "ok" for name in ("chain", "tamper", "completeness"))


def test_a_log_that_was_rolled_back_is_refused_by_the_witness_and_verify_says_so(deployment, witness, tmp_path):
    name_witnesses(deployment, (witness.url, witness.key))
    with running(deployment):
        wait_until(lambda: head(deployment, witness).cosignatures, "a cosignature")
    shutil.copytree(deployment.data, tmp_path / "backup")
    restored = head(deployment).checkpoint.size
    with running(deployment):
        grows(deployment, head(deployment).checkpoint.size)
        for _ in range(30):
            deployment.infer("m")
    later = deployment.checkpoint()
    kept = tmp_path / "kept.checkpoint"
    kept.write_bytes(later)
    size = head(deployment).checkpoint.size
    shutil.rmtree(deployment.data)
    shutil.copytree(tmp_path / "backup", deployment.data)
    assert "an older copy was restored" in deployment.serve_expecting_refusal()
    shutil.rmtree(deployment.directory / "marks")  # an operator who wants another history takes back this machine's memory too
    with running(deployment):
        wait_until(lambda: "the witness refuses this log's history" in deployment.output(), "the witness to refuse")
        wait_until(lambda: head(deployment).checkpoint.size > restored, "the first head of the other history")
        assert head(deployment).checkpoint.size < size
        assert head(deployment, witness).cosignatures == ()
        # Past the size that was lost, the other history is refused for its proof.
        while head(deployment).checkpoint.size <= size:
            for _ in range(10):
                deployment.infer("m")
        wait_until(lambda: "answered 422" in deployment.output() or (deployment.infer("m") and False), "a refusal of the proof", pause_s=0.3)
        assert head(deployment, witness).cosignatures == ()
    assert witness.known_size() == size
    code, checks = verify(deployment, "--witness", str(witness.key))
    assert (code, checks["independence"]["grade"]) == (3, "unproven")
    code, checks = verify(deployment, "--witness", str(witness.key), "--known", str(kept))
    assert (code, checks["independence"]["grade"]) == (1, "failed")
    assert "both notes together prove it" in checks["independence"]["faults"][0]["message"]


def test_two_witnesses_of_one_folder_are_refused(deployment, witness):
    words = ("--dir", str(witness.folder), "--origin", deployment.vkey.name, "--vkey", str(deployment.vkey), "--bind", "127.0.0.1:0")
    second = subprocess.run([*COMMAND, "audit", "witness", *words], capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=30)
    assert second.returncode == 2
    assert "another witness works in" in second.stderr
    assert (witness.folder / "witness.key").stat().st_mode & 0o777 == 0o600
