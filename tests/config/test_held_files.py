"""A file is read again whenever it may have changed, and only then."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.held_files import SETTLED_NS, HeldFiles

HOUR_NS = 3600 * 10**9


def later() -> int:
    """Return a time at which everything written here is long settled."""
    return time.time_ns() + HOUR_NS


def read(held: HeldFiles, path: Path) -> bytes:
    held.begin()
    return held.read(str(path))


def test_a_settled_file_that_did_not_change_is_not_opened_again(tmp_path: Path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    held = HeldFiles(later)
    first = read(held, path)
    monkeypatch.setattr(os, "open", None)
    assert read(held, path) is first
    assert read(held, path) is first, "held over every round"


def test_a_file_written_a_moment_before_it_was_read_is_read_again(tmp_path: Path):
    """It may be written again in the same tick of the file system's clock, with all its times as they were."""
    path = tmp_path / "a"
    path.write_bytes(b"one")
    written_ns = path.stat().st_ctime_ns
    held = HeldFiles(lambda: written_ns + SETTLED_NS)
    assert read(held, path) == b"one"
    assert held._held == {}


def replaced(path: Path) -> None:
    path.with_name("new").write_bytes(b"two")
    path.with_name("new").rename(path)


def written_with_its_old_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def linked_elsewhere(path: Path) -> None:
    path.with_name("other").write_bytes(b"two")
    path.unlink()
    path.symlink_to(path.with_name("other"))


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"two"), replaced, written_with_its_old_time, linked_elsewhere])
def test_a_changed_file_of_the_same_length_is_read_again(tmp_path: Path, change):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    held = HeldFiles(later)
    read(held, path)
    time.sleep(0.02)  # a tick of the file system's clock: within one, a file is not settled and not held
    change(path)
    assert read(held, path) == b"two"


def test_what_a_symbolic_link_leads_to_is_what_counts(tmp_path: Path):
    """A folder that is put in force by switching one link, as Kubernetes does."""
    for name, data in (("v1", b"one"), ("v2", b"two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(data)
    link = tmp_path / "current"
    link.symlink_to("v1")
    held = HeldFiles(later)
    assert read(held, link / "a") == b"one"
    link.unlink()
    link.symlink_to("v2")
    assert read(held, link / "a") == b"two"


def test_a_file_that_is_gone_or_no_file_is_told_though_it_was_held(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    held = HeldFiles(later)
    read(held, path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read(held, path)
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        read(held, path)


@given(steps=st.lists(st.sampled_from([b"one", b"two", b"longer", None]), max_size=8), age_ns=st.sampled_from([0, HOUR_NS]))
def test_what_is_read_is_what_is_there(tmp_path_factory, steps: list[bytes | None], age_ns: int):
    path = tmp_path_factory.mktemp("held") / "a"
    held = HeldFiles(lambda: time.time_ns() - HOUR_NS + age_ns)
    for step in steps:
        if step is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(step)
        if path.exists():
            assert read(held, path) == path.read_bytes()
