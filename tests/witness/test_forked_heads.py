"""Two heads of one size that one key signed: the proof of misbehaviour that a kept head gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "audit_core"))  # its log maker, which writes every file of a log

from log_maker import LOG_KEY, WITNESS_KEY, leaves, log_files, write_files

from gateway.cli.audit import app

SHOWN, HIDDEN = leaves(300), [*leaves(299), b"another last entry"]


@pytest.fixture
def shown(tmp_path):
    """The log as it is shown, cosigned by a witness that never saw the other one."""
    return write_files(tmp_path / "shown", log_files(SHOWN, witnesses=[WITNESS_KEY]))


@pytest.fixture
def kept(tmp_path):
    """A head of the same size and another root, that somebody was shown and kept."""
    path = tmp_path / "kept.checkpoint"
    path.write_bytes(log_files(HIDDEN)["checkpoint"])
    return path


def verify(log, *options: object):
    words = ["verify", str(log), "--vkey", str(LOG_KEY.verifier), *map(str, options)]
    return CliRunner().invoke(app, words)


def test_verify_prints_that_the_log_is_forked_and_that_both_notes_prove_it(shown, kept):
    told = verify(shown, "--known", kept)
    assert told.exit_code == 1
    printed = " ".join(told.output.split())
    assert "the log is forked: two roots are signed for size `300`; both notes together prove it" in printed


def test_a_witness_does_not_make_a_fork_right(shown, kept):
    told = verify(shown, "--known", kept, "--witness", WITNESS_KEY.verifier, "--json")
    assert told.exit_code == 1
    (independence,) = [check for check in json.loads(told.stdout)["checks"] if check["name"] == "independence"]
    assert independence["grade"] == "failed"
    assert verify(shown, "--witness", WITNESS_KEY.verifier).exit_code == 0, "without the kept head nothing shows it"
