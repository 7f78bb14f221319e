"""High-water marks: they outlive kill -9, tell the living from the dead, and epochs only grow."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from recorder_process import ROOT, child_environment

from audit.highwater import HighWater, HighWaterError, marks, read_if_abandoned


def test_the_mark_of_a_living_writer_is_not_abandoned_and_its_name_is_taken(tmp_path):
    mark = HighWater.claim(tmp_path, "n1.w0", 1000, "boot")
    assert read_if_abandoned(mark.path) is None
    with pytest.raises(HighWaterError, match="held by another"):
        HighWater.claim(tmp_path, "n1.w0", 1001, "boot")
    mark.close()
    assert read_if_abandoned(mark.path) is not None


def test_a_killed_writers_mark_tells_its_last_numbers(tmp_path):
    script = (
        "import os, sys, signal; from pathlib import Path; from audit.highwater import HighWater\n"
        "m = HighWater.claim(Path(sys.argv[1]), 'n1.w0', 1000, 'boot'); m.assigned = 0; m.words[1] = 41; m.acked = 7\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, env=child_environment(), check=False)
    (path,) = marks(tmp_path)
    mark = read_if_abandoned(path)
    assert mark is not None
    assert (mark.node, mark.epoch, mark.boot_id, mark.assigned, mark.acked) == ("n1.w0", 1000, "boot", 41, 7)


def test_epochs_grow_even_when_the_clock_steps_back(tmp_path):
    epochs = []
    for now_ms in (5000, 4000, 4000, 9000):
        mark = HighWater.claim(tmp_path, "n1.w0", now_ms, "boot")
        epochs.append(mark.epoch)
        mark.close()
    assert epochs == [5000, 5001, 5002, 9000]


def test_a_file_that_is_no_mark_is_refused_by_name(tmp_path):
    path = tmp_path / "hwm-n1.w0-5"
    path.write_bytes(os.urandom(256))
    with pytest.raises(HighWaterError, match=r"hwm-n1\.w0-5"):
        read_if_abandoned(path)


def test_a_mark_under_another_name_is_refused(tmp_path):
    mark = HighWater.claim(tmp_path, "n1.w0", 5, "boot")
    mark.close()
    other = mark.path.rename(tmp_path / "hwm-n1.w1-5")
    with pytest.raises(HighWaterError):
        read_if_abandoned(other)


@pytest.mark.parametrize("name", ["", "a-b", "../x", "a/b", "ä", "a" * 65])
def test_names_that_cannot_be_file_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="writer name"):
        HighWater.claim(tmp_path, name, 1, "boot")
