"""The keys file as the controller follows it: what could not be read is read again, and the old table stays in force meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway import apikeys, pseudonyms
from gateway.config.layout import write_durably
from gateway.control.keysfile import KeysFile

NOW_US = 1_800_000_000_000_000


class Desk:
    def __init__(self, folder: Path) -> None:
        self.path, self.vault = folder / "api-keys.json", folder / "vault" / "epochs.json"
        self.held = apikeys.new_file(os.urandom)
        self.add("acme")
        self.keys = KeysFile(self.path, self.vault)

    def add(self, tenant: str) -> None:
        _, self.held = apikeys.create(self.held, tenant=tenant, scopes=("infer",), models=(), expires_us=None, random=os.urandom, now_us=NOW_US)
        write_durably(self.path, apikeys.encode(self.held), mode=0o600, replace=True)

    def tenants(self) -> set[str]:
        return set(self.keys.authenticator.tenants)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "vault").mkdir()
    return Desk(tmp_path)


def test_a_changed_file_is_taken_in_with_a_pseudonym_key_for_every_tenant(desk: Desk):
    desk.keys.read(NOW_US)
    desk.add("globex")
    desk.keys.read(NOW_US)
    assert desk.tenants() == {"acme", "globex"} == set(pseudonyms.load(desk.vault))


def test_a_tenant_whose_keys_are_gone_is_still_one_whose_records_are_here(desk: Desk):
    desk.add("globex")
    desk.keys.read(NOW_US)
    desk.held = apikeys.new_file(os.urandom)
    desk.add("acme")
    desk.keys.read(NOW_US)
    assert desk.tenants() == {"acme"}
    assert desk.keys.tenants_ever == {"acme", "globex"}
    again = KeysFile(desk.path, desk.vault)
    again.read(NOW_US)
    assert again.tenants_ever == {"acme", "globex"}


def test_a_file_that_could_not_be_read_once_is_read_again_unchanged(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """The stamp must not move before the reading has worked: the file is whole and no further change of it will come."""
    desk.keys.read(NOW_US)
    desk.add("globex")
    real = apikeys.load

    def fails(path: Path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(apikeys, "load", fails)
    desk.keys.read(NOW_US)
    assert desk.tenants() == {"acme"}
    monkeypatch.setattr(apikeys, "load", real)
    desk.keys.read(NOW_US)
    assert desk.tenants() == {"acme", "globex"}


def test_a_vault_that_could_not_be_written_is_written_at_the_next_look(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    desk.keys.read(NOW_US)
    desk.add("globex")
    real = pseudonyms.save

    def full(path: Path, _held) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(pseudonyms, "save", full)
    desk.keys.read(NOW_US)
    assert set(pseudonyms.load(desk.vault)) == {"acme"}
    monkeypatch.setattr(pseudonyms, "save", real)
    desk.keys.read(NOW_US)
    assert set(pseudonyms.load(desk.vault)) == {"acme", "globex"}


def test_a_broken_file_is_told_once_and_the_old_keys_stay(desk: Desk, caplog: pytest.LogCaptureFixture):
    desk.keys.read(NOW_US)
    desk.path.write_text("{")
    for _ in range(3):
        desk.keys.read(NOW_US)
    assert desk.tenants() == {"acme"}
    assert sum("cannot be used" in record.message for record in caplog.records) == 1


def test_without_a_file_there_is_no_start(tmp_path: Path):
    with pytest.raises(apikeys.InvalidKeyFile):
        KeysFile(tmp_path / "none", tmp_path / "epochs.json").read(NOW_US)
