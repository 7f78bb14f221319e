"""Signing by a command: only what verifies is used; and checkpoints that are pushed elsewhere."""

from __future__ import annotations

import os
import sys

import pytest
from log_maker import LOG_KEY, ORIGIN, leaves, log_files

from audit.keys import InvalidKey, SigningKey
from audit.note import Checkpoint, open_checkpoint, sign
from audit.outlet import Outlet
from audit.signer import SignerUnavailable, load_signer

HEAD = Checkpoint(ORIGIN, 5, bytes(range(32)))
PROGRAM = """\
import base64, sys
from audit.keys import SigningKey
key = SigningKey.parse(open(sys.argv[1]).read())
sys.stdout.write(base64.b64encode(key.sign(sys.stdin.buffer.read())).decode() + "\\n")
"""


@pytest.fixture
def signer(tmp_path):
    """Return a function: (program, key) -> a signer whose command runs the program."""
    (tmp_path / "held").write_text(LOG_KEY.secret_text())

    def make(program=PROGRAM, vkey=LOG_KEY.verifier, **changes: object):
        (tmp_path / "sign.py").write_text(program)
        (tmp_path / "log.signer").write_text(f"# a device\n{vkey}\n{sys.executable} sign.py held\n")
        (tmp_path / "log.signer").chmod(0o600)
        made = load_signer("command:log.signer", base=tmp_path, environ=os.environ)
        for name, value in changes.items():
            object.__setattr__(made, name, value)
        return made

    return make


def test_a_command_signs_as_the_key_would(signer):
    assert sign(HEAD.text(), [signer()]) == sign(HEAD.text(), [LOG_KEY])


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("print('hello')", "gave no signature"),
        ("print('AAAA')", "gave no signature"),
        ("print('x' * 10**6)", "gave no signature"),
        ("raise SystemExit('the device is locked')", "the device is locked"),
        (PROGRAM.replace("sys.stdin.buffer.read()", "b'another text'"), "gave no signature"),
    ],
)
def test_what_is_no_signature_of_the_text_is_not_used(signer, program, why):
    with pytest.raises(SignerUnavailable, match=why):
        sign(HEAD.text(), [signer(program)])


def test_a_command_with_another_key_signs_nothing(signer):
    with pytest.raises(SignerUnavailable, match="gave no signature"):
        sign(HEAD.text(), [signer(vkey=SigningKey.generate(ORIGIN).verifier)])


def test_a_command_that_hangs_is_given_up(signer):
    with pytest.raises(SignerUnavailable, match="timed out"):
        sign(HEAD.text(), [signer("import time; time.sleep(30)", timeout_s=0.3)])


def test_a_command_that_is_not_there_signs_nothing(signer):
    with pytest.raises(SignerUnavailable):
        sign(HEAD.text(), [signer(command=("/no/such/program",))])


@pytest.mark.parametrize("text", ["", "x\n", f"{LOG_KEY.verifier}\n", f"{LOG_KEY.verifier}\na b\nc\n", f"{LOG_KEY.verifier}\n'unclosed\n"])
def test_a_file_that_names_no_command_is_refused(tmp_path, text):
    (tmp_path / "log.signer").write_text(text)
    (tmp_path / "log.signer").chmod(0o600)
    with pytest.raises(InvalidKey):
        load_signer("command:log.signer", base=tmp_path, environ={})


@pytest.mark.parametrize(
    "reference", ["config/x.signer", "./config/x.signer", "keys/../config/x.signer", "link/x.signer", "{base}/config/deep/../x.signer"]
)
def test_whoever_may_write_the_configuration_cannot_name_a_program(tmp_path, reference):
    for folder in ("config/deep", "keys"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "config")
    (tmp_path / "config" / "x.signer").write_text(f"{LOG_KEY.verifier}\ntrue\n")
    (tmp_path / "config" / "x.signer").chmod(0o600)
    with pytest.raises(InvalidKey, match="no program may be named"):
        load_signer("command:" + reference.format(base=tmp_path), base=tmp_path, environ={})


def test_a_file_that_others_can_change_is_refused(tmp_path):
    (tmp_path / "log.signer").write_text(f"{LOG_KEY.verifier}\ntrue\n")
    (tmp_path / "log.signer").chmod(0o622)
    with pytest.raises(InvalidKey, match="mode"):
        load_signer("command:log.signer", base=tmp_path, environ={})


# ---- pushed elsewhere -------------------------------------------------------------------------------------------------------------

ENTRIES = leaves(9)


def head(size, entries=ENTRIES):
    return log_files(entries[:size])["checkpoint"]


def test_each_head_is_there_and_kept_under_its_size(tmp_path):
    outlet = Outlet(tmp_path / "a" / "b", keep=True)
    for size in (3, 5, 9):
        assert outlet.push(head(size)) is None
    assert (outlet.folder / "checkpoint").read_bytes() == head(9)
    kept = sorted(path.name for path in outlet.folder.iterdir() if path.name.isdigit())
    assert kept == [f"{size:020d}" for size in (3, 5, 9)]
    assert open_checkpoint((outlet.folder / kept[0]).read_bytes(), [LOG_KEY.verifier]).checkpoint.size == 3


def test_a_kept_head_is_never_written_over_so_that_a_fork_leaves_both(tmp_path):
    outlet = Outlet(tmp_path, keep=True)
    outlet.push(head(9))
    other = head(9, [*ENTRIES[:8], b"another"])
    assert "forked" in outlet.push(other)
    assert (tmp_path / f"{9:020d}").read_bytes() == (tmp_path / "checkpoint").read_bytes() == head(9)
    assert (tmp_path / f"{9:020d}.other").read_bytes() == other


def test_a_head_whose_keeping_was_cut_short_is_kept_at_the_next_push(tmp_path):
    (tmp_path / f"{9:020d}.new").write_bytes(b"half")
    (tmp_path / f"{9:020d}.new").chmod(0o444)
    assert Outlet(tmp_path, keep=True).push(head(9)) is None
    assert (tmp_path / f"{9:020d}").read_bytes() == head(9)


def test_a_log_that_was_rolled_back_does_not_take_back_what_is_there(tmp_path):
    outlet = Outlet(tmp_path)
    outlet.push(head(9))
    assert "rolled back" in outlet.push(head(5))
    assert (tmp_path / "checkpoint").read_bytes() == head(9)


def test_a_place_that_cannot_be_written_is_told_in_words(tmp_path):
    (tmp_path / "file").write_text("x")
    assert str(tmp_path / "file") in Outlet(tmp_path / "file").push(head(3))


def test_what_lies_there_and_is_no_head_is_replaced(tmp_path):
    (tmp_path / "checkpoint").write_bytes(b"nothing")
    assert Outlet(tmp_path).push(head(3)) is None
    assert (tmp_path / "checkpoint").read_bytes() == head(3)
