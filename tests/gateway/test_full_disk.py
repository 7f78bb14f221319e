"""A full disk under the data directory, a small tmpfs: calls are refused, nothing dies for good, and it goes on once there is space."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment, wait_until
from gateway_load import Load
from upstreams import Model


@pytest.fixture
def cramped(tmp_path: Path, one: Model) -> Iterator[Deployment]:
    """A gateway whose data directory is a file system of 24 MB."""
    deployment = Deployment(tmp_path / "d", workers=2)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", deployment.data], capture_output=True, check=False)
    if mounted.returncode:
        deployment.close()
        pytest.skip(f"mounting a small tmpfs is not permitted here: {mounted.stderr.decode().strip()}; run as root to cover the full disk")
    deployment.write_model("batch", {"1": one.url}, deadline="3s")
    deployment.write_model("sync", {"1": one.url}, audit="sync", deadline="3s")
    for model in ("batch", "sync"):
        deployment.approve(model, "1", url=one.url)
    try:
        with deployment.running():
            yield deployment
    finally:
        subprocess.run(["umount", "-l", deployment.data], check=True)


def fill(path: Path) -> None:
    """Write until there is no space, to the last block."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            while True:
                try:
                    file.write(os.urandom(size))
                except OSError:
                    break


@pytest.mark.timeout(180)
def test_on_a_full_disk_calls_are_refused_and_go_on_when_there_is_space(cramped: Deployment):
    ballast = cramped.data / "ballast"
    with Load(cramped, {"batch": 3, "sync": 2}) as load:
        load.wait_for(50)
        kept = cramped.checkpoint()
        ends_s = time.monotonic() + 30
        while not any(answer.status == 503 for answer in load.answers[-50:]):
            fill(ballast)  # again and again: whoever frees a block must not save the day
            assert time.monotonic() < ends_s, "a full disk is noticed"
            time.sleep(0.1)
        fill(ballast)
        load.wait_for(50, status=503)
        refused = [answer for answer in load.answers if answer.status == 503]
        assert {answer.trouble for answer in refused} <= {"audit_unavailable", "state_stale", "not_ready"}
        time.sleep(3)  # long enough for the status files, a checkpoint and the controller's tick to meet it too
        fill(ballast)
        assert cramped.process is not None
        assert cramped.process.poll() is None
        ballast.unlink()
        load.wait_for(100, timeout_s=60)
    cramped.wait_ready()
    cramped.wait_idle(30)
    assert {answer.trouble for answer in load.failed} <= {"audit_unavailable", "state_stale", "not_ready", "broken"}
    cramped.log.refresh()
    lost = [answer for answer in load.acknowledged if answer.decision not in cramped.log.by_id]
    assert lost == [], "nothing that was acknowledged is lost: no process died with it"
    wait_until(lambda: cramped.checkpoint() != kept, "a newer checkpoint")
    verdict = cramped.verify(kept)
    assert (verdict.exit_code, verdict.document()["checks"]) == (0, verdict.document()["checks"])
