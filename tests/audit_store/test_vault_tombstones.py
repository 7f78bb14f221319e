"""What was erased is remembered outside the data directory, and destroyed again wherever it comes back."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path

import pytest

from audit.backup import back_up
from audit.store import layout
from audit.store.control import ControlStore
from audit.store.errors import StoreBroken, StoreDamaged
from audit.vault.crypto import MasterKey
from audit.vault.entry import Entry, encode_content
from audit.vault.store import VaultStore
from audit.vault.tombstones import FILE_NAME, Erasure, Tombstones, destroy_again

MASTER = MasterKey(b"m" * 32)
NOW_US = 1_800_000_000_000_000


def keep(vault: VaultStore, unit: str, record: str) -> None:
    content = encode_content(os.urandom(32), {})
    vault.keep([Entry(record, "acme", f"pseudonym of {unit}", unit, NOW_US, NOW_US * 2, content)], NOW_US)


def erasure(name: str, *keys: bytes) -> Erasure:
    return Erasure(name, NOW_US + 1, tuple(key.hex() for key in keys), {"entries": 1})


def test_what_is_remembered_is_there_after_a_restart_until_it_is_told(tmp_path):
    stones = Tombstones.open(tmp_path)
    stones.begin(erasure("e1", b"a" * 16), erasure("e2", b"b" * 16))
    stones.told("e1")
    again = Tombstones.open(tmp_path)
    assert [each.erasure for each in again.all()] == ["e1", "e2"]
    assert [each.erasure for each in again.pending()] == ["e2"]
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_line_that_was_cut_off_never_began_and_the_next_one_is_whole(tmp_path, cut):
    stones = Tombstones.open(tmp_path)
    stones.begin(erasure("e1", b"a" * 16))
    whole = (tmp_path / FILE_NAME).read_bytes()
    stones.begin(erasure("e2", b"b" * 16))
    (tmp_path / FILE_NAME).write_bytes((tmp_path / FILE_NAME).read_bytes()[:-cut])
    again = Tombstones.open(tmp_path)
    assert [each.erasure for each in again.all()] == ["e1"]
    assert (tmp_path / FILE_NAME).read_bytes() == whole
    again.begin(erasure("e3"))
    assert [each.erasure for each in Tombstones.open(tmp_path).all()] == ["e1", "e3"]


def test_a_line_that_a_full_disk_cut_short_does_not_spoil_the_next_one(tmp_path):
    stones = Tombstones.open(tmp_path)
    stones.begin(erasure("e1", b"a" * 16))
    bound = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / FILE_NAME).stat().st_size + 20, bound[1]))
    try:
        with pytest.raises(StoreBroken):
            stones.begin(erasure("e2", b"b" * 16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bound)
        signal.signal(signal.SIGXFSZ, before)
    assert [each.erasure for each in stones.all()] == ["e1"]
    stones.begin(erasure("e2", b"b" * 16))
    assert [each.erasure for each in Tombstones.open(tmp_path).all()] == ["e1", "e2"]


def test_a_line_that_is_no_tombstone_opens_nothing(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b'{"erasure": 7}\n')
    with pytest.raises(StoreDamaged, match="line 1"):
        Tombstones.open(tmp_path)


def test_a_restored_vault_is_erased_again_and_what_came_since_the_copy_is_left_alone(tmp_path):
    data, marks = tmp_path / "data", tmp_path / "marks"
    stones = Tombstones.open(marks)
    with VaultStore.open(data, MASTER) as vault:
        keep(vault, "ann", "r1")
        keep(vault, "bob", "r2")
    shutil.copytree(data / "vault", tmp_path / "copy")
    with VaultStore.open(data, MASTER) as vault:
        keys = vault.keys_of("acme", "ann", ())
        stones.begin(erasure("e1", *keys))
        vault.destroy(keys, "e1", NOW_US + 1)
    shutil.rmtree(data / "vault")
    shutil.copytree(tmp_path / "copy", data / "vault")
    with VaultStore.open(data, MASTER) as vault:
        assert vault.read("r1", NOW_US).state == "kept", "the copy has it"
        assert destroy_again(vault, Tombstones.open(marks)) == 1
        assert (vault.read("r1", NOW_US).state, vault.read("r2", NOW_US).state) == ("erased", "kept")
        assert destroy_again(vault, Tombstones.open(marks)) == 0


def test_an_erasure_of_another_gateway_on_the_same_database_is_noted_from_the_store(data_dir, tmp_path):
    with VaultStore.open(data_dir, MASTER) as vault:
        keep(vault, "ann", "r1")
        keys = vault.keys_of("acme", "ann", ())
        vault.destroy(keys, "e1", NOW_US + 1)
        stones = Tombstones.open(tmp_path / "other marks")
        destroy_again(vault, stones)
    assert [(each.erasure, each.keys, each.told) for each in Tombstones.open(tmp_path / "other marks").all()] == [("e1", (keys[0].hex(),), True)]


def test_a_backup_has_the_vault_only_when_asked_and_then_as_of_one_moment(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    ControlStore.open(data).close()
    with VaultStore.open(data, MASTER) as vault:
        keep(vault, "ann", "r1")  # lies in the write-ahead log still
        back_up(data, tmp_path / "without")
        back_up(data, tmp_path / "with", with_vault=True)
    assert not (tmp_path / "without" / "vault").exists()
    copy = tmp_path / "with"
    assert [path.name for path in sorted((copy / "vault").iterdir())] == ["vault.sqlite"]
    assert layout.vault_path(copy).stat().st_mode & 0o077 == 0
    with VaultStore.open(copy, MASTER) as vault:
        assert vault.read("r1", NOW_US).state == "kept"


def test_the_folder_is_made_if_it_is_not_there(tmp_path: Path):
    Tombstones.open(tmp_path / "a" / "marks")
    assert (tmp_path / "a" / "marks" / FILE_NAME).exists()
