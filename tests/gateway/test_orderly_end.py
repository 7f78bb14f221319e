"""What a verifier learns from the end of a log: whether the gateway was stopped, or died."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment
from upstreams import Model


@pytest.fixture
def serving(tmp_path: Path, one: Model) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path / "d", workers=2)
    deployment.write_model("plain", {"1": one.url})
    deployment.approve("plain", "1", url=one.url)
    try:
        deployment.start()
        deployment.record(deployment.infer("plain").headers["assay-decision"])
        yield deployment
    finally:
        deployment.close()


def open_writers(deployment: Deployment) -> list[str]:
    return [note for note in deployment.verify().completeness.notes if "writers are open at this head" in note]


def test_the_log_of_a_stopped_gateway_has_no_open_writer(serving: Deployment):
    serving.wait_signed(len(serving.log.refresh()) - 1)
    assert open_writers(serving) != [], "while it runs they are open"
    assert serving.stop() == 0
    verdict = serving.verify()
    assert (verdict.size, verdict.completeness.grade) == (len(serving.log.refresh()), "ok"), "the head covers every record"
    assert verdict.completeness.notes == []
    assert serving.log.records[-1]["writer"]["node"] == "t.recorder"
    assert not (serving.data / "run" / "parting").exists()


def everyone_closed(deployment: Deployment) -> bool:
    opened, closed = ({record["writer"]["node"] for record in deployment.log.of_type(kind)} for kind in ("writer.open", "writer.close"))
    return opened == closed and not deployment.log.of_type("log.lost")


def test_ctrl_c_is_for_the_parent_alone_which_ends_the_others_in_order(serving: Deployment):
    assert serving.process is not None
    os.killpg(serving.process.pid, signal.SIGINT)
    assert serving.process.wait(40) == 0
    assert everyone_closed(serving)
    assert (serving.verify().completeness.grade, open_writers(serving)) == ("ok", [])
    assert "Traceback" not in serving.output()


def test_told_to_end_all_at_once_the_recorder_waits_for_its_writers(serving: Deployment):
    for name in serving.pids():
        serving.signal(name, signal.SIGTERM)
    assert serving.process is not None
    assert serving.process.wait(40) == 0
    assert everyone_closed(serving)
    assert "Traceback" not in serving.output()


@pytest.mark.slow
def test_the_log_of_a_killed_gateway_says_that_writers_are_open(serving: Deployment):
    serving.wait_signed(len(serving.log.refresh()) - 1)
    serving.kill_everything()
    assert open_writers(serving) != []
