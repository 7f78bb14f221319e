"""The vault's store, in SQLite and in PostgreSQL: what it keeps, what it destroys, and that nothing brings it back."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from audit.store import layout
from audit.store.errors import StoreBroken
from audit.store.sqlite import BUSY_TIMEOUT_MS
from audit.vault.crypto import MasterKey
from audit.vault.entry import Entry, committed, decode_content, encode_content
from audit.vault.store import UNDER_WAY_US, Found, VaultStore, WrongMasterKey

MASTER = MasterKey(bytes(range(32)))
HOUR_US = 3_600_000_000
NOW_US = 1_800_000_000_000_000
PLAIN = b"a-sentence-that-stands-nowhere-else"
_number = count()


def entry(unit: str = "ann", *, subject: str = "", tenant: str = "acme", kept_us: int = NOW_US, record: str = "", hours: int = 24) -> Entry:
    content = encode_content(os.urandom(32), {"request": {"/text": PLAIN.decode()}})
    return Entry(record or f"r{next(_number)}", tenant, subject or f"pseudonym of {unit}", unit, kept_us, kept_us + hours * HOUR_US, content)


@pytest.fixture
def vault(data_dir: Path):
    with VaultStore.open(data_dir, MASTER) as store:
        yield store


def erase(vault: VaultStore, unit: str, *, now_us: int = NOW_US + 1, erasure: str = "e1", tenant: str = "acme"):
    subjects = [f"pseudonym of {unit}"]
    return vault.destroy(vault.keys_of(tenant, unit, subjects), erasure, now_us, tenant=tenant, subjects=subjects)


def test_what_was_kept_is_read_again_and_matches_its_commitment(vault):
    kept = entry()
    vault.keep([kept, entry("bob")], NOW_US)
    found = vault.read(kept.record, NOW_US)
    assert (found.state, found.content, found.until_us) == ("kept", kept.content, kept.expires_us)
    assert committed(found.content) == committed(kept.content)
    assert decode_content(found.content)[1] == {"fields": {"request": {"/text": PLAIN.decode()}}}


def test_an_entry_that_comes_twice_is_kept_once_and_as_it_came_first(vault):
    first = entry()
    vault.keep([first], NOW_US)
    vault.keep([entry(record=first.record), entry()], NOW_US)
    assert vault.read(first.record, NOW_US).content == first.content
    assert vault.entries_under(vault.keys_of("acme", "ann", ())) == 2


def test_one_subject_of_one_tenant_has_one_key_and_others_have_others(vault):
    vault.keep([entry(), entry(), entry("bob"), entry(tenant="beta")], NOW_US)
    mine = vault.keys_of("acme", "ann", ())
    assert len(mine) == 1
    assert not set(mine) & set(vault.keys_of("acme", "bob", ()) + vault.keys_of("beta", "ann", ()))


def test_an_erased_subject_is_gone_and_everybody_else_is_there(vault):
    ann, bob, other = entry(), entry("bob"), entry(tenant="beta")
    vault.keep([ann, bob, other], NOW_US)
    done = erase(vault, "ann")
    assert (done.keys, done.entries) == (1, 1)
    assert vault.read(ann.record, NOW_US) == Found("erased", erasure="e1")
    assert vault.read(bob.record, NOW_US).state == vault.read(other.record, NOW_US).state == "kept"
    assert vault.keys_of("acme", "ann", ["pseudonym of ann"]) == []


def test_a_subject_is_found_by_its_handle_when_its_pseudonym_is_of_an_epoch_whose_key_is_gone(vault):
    old, new = entry(subject="an older pseudonym"), entry()
    vault.keep([old, new], NOW_US)
    assert erase(vault, "ann").entries == 2
    assert vault.read(old.record, NOW_US).state == "erased"


def test_an_entry_under_way_while_its_subject_was_erased_is_refused_and_a_later_call_is_kept(vault):
    erase(vault, "ann", now_us=NOW_US + 10)
    late, later = entry(kept_us=NOW_US + 10), entry(kept_us=NOW_US + 11)
    vault.keep([late, later], NOW_US + 20)
    assert (vault.read(late.record, NOW_US).state, vault.read(later.record, NOW_US).state) == ("absent", "kept")


def test_erasing_again_takes_what_came_since_and_is_no_error_when_nothing_did(vault):
    vault.keep([entry()], NOW_US)
    erase(vault, "ann")
    assert erase(vault, "ann", erasure="e2").keys == 0
    vault.keep([entry(kept_us=NOW_US + 5)], NOW_US + 5)
    assert erase(vault, "ann", erasure="e3", now_us=NOW_US + 9).entries == 1


def test_tombstones_are_kept_for_keys_that_were_never_here(vault):
    vault.destroy([b"k" * 16], "e7", NOW_US)
    assert vault.tombstones() == {"e7": [b"k" * 16]}


def test_the_end_of_a_retention_deletes_the_entry_and_then_the_key_that_seals_nothing(vault):
    short, long = entry(hours=1), entry("bob", hours=2)
    vault.keep([short, long], NOW_US)
    at_us = NOW_US + HOUR_US
    assert vault.read(short.record, at_us).state == "expired", "not shown, even before it is deleted"
    done = vault.expire(at_us)
    assert (done.entries, done.keys) == (1, 1)
    assert (vault.read(short.record, at_us).state, vault.read(long.record, at_us).state) == ("absent", "kept")
    assert vault.expire(at_us).entries == 0


def test_who_was_erased_is_forgotten_once_nothing_can_be_under_way(vault):
    vault.keep([entry()], NOW_US)
    erase(vault, "ann", now_us=NOW_US + 10)
    vault.expire(NOW_US + 10 + UNDER_WAY_US)
    vault.keep([entry(kept_us=NOW_US)], NOW_US)
    assert vault.entries_under(vault.keys_of("acme", "ann", ())) == 1
    assert sum(map(len, vault.tombstones().values())) >= 1, "the keys stay destroyed"


def test_another_master_key_opens_nothing_and_is_told_until_the_old_one_is_named(vault, data_dir):
    kept = entry()
    vault.keep([kept], NOW_US)
    fresh = MasterKey(os.urandom(32))
    with VaultStore.open(data_dir, fresh) as renewed:
        assert renewed.read(kept.record, NOW_US).state == "sealed"
        with pytest.raises(WrongMasterKey, match=r"vault\.previous"):
            renewed.take_over_keys(None)
        assert renewed.take_over_keys(MASTER) == 1
        assert renewed.read(kept.record, NOW_US).content == kept.content
    assert vault.read(kept.record, NOW_US).state == "sealed", "the old key opens nothing any more"


def test_a_key_that_was_damaged_under_the_old_master_key_is_told_and_nothing_is_wrapped_anew(folder):
    fresh = MasterKey(os.urandom(32))
    with VaultStore.open(folder, MASTER) as vault:
        vault.keep([entry("ann"), entry("bob")], NOW_US)
    with sqlite3.connect(layout.vault_path(folder)) as connection:
        connection.execute("UPDATE vault_key SET wrapped = zeroblob(60) WHERE rowid = (SELECT max(rowid) FROM vault_key)")
    connection.close()
    with VaultStore.open(folder, fresh) as vault:
        with pytest.raises(WrongMasterKey, match="damaged"):
            vault.take_over_keys(MASTER)
        with pytest.raises(WrongMasterKey, match=r"vault\.previous"):
            vault.take_over_keys(None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "plain"


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(layout.vault_path(folder).parent.iterdir()))


def test_an_entry_moved_to_another_record_or_another_key_does_not_open(folder):
    vault = VaultStore.open(folder, MASTER)
    ann, bob = entry(), entry("bob")
    vault.keep([ann, bob], NOW_US)
    connection = sqlite3.connect(layout.vault_path(folder))
    connection.execute("UPDATE vault_entry SET record = 'another' WHERE record = ?", (ann.record,))
    connection.execute("UPDATE vault_entry SET key_id = (SELECT id FROM vault_key WHERE id != vault_entry.key_id) WHERE record = ?", (bob.record,))
    connection.commit()
    connection.close()
    assert vault.read("another", NOW_US).state == vault.read(bob.record, NOW_US).state == "sealed"
    vault.close()


def test_nothing_kept_stands_in_the_files_in_clear_and_they_are_nobody_elses_to_read(folder):
    with VaultStore.open(folder, MASTER) as vault:
        vault.keep([entry("unit-in-clear") for _ in range(200)], NOW_US)
        held = files(folder)
        assert PLAIN not in held
        assert b"unit-in-clear" not in held.replace(b"pseudonym of unit-in-clear", b"")
        assert {path.stat().st_mode & 0o077 for path in layout.vault_path(folder).parent.iterdir()} == {0}


def test_after_an_erasure_neither_the_wrapped_key_nor_a_box_is_left_in_any_file(folder):
    kept = [entry(record=f"record-{number}") for number in range(300)]
    with VaultStore.open(folder, MASTER) as vault:
        vault.keep(kept, NOW_US)
        with sqlite3.connect(layout.vault_path(folder)) as connection:
            (wrapped,) = connection.execute("SELECT wrapped FROM vault_key").fetchone()
            boxes = [box for (box,) in connection.execute("SELECT box FROM vault_entry")]
        connection.close()
        before = files(folder)
        assert wrapped in before
        assert all(box[:24] in before for box in boxes)
        erase(vault, "ann")
        after = files(folder)
        assert wrapped not in after
        assert not any(box[:24] in after for box in boxes)


def test_an_erasure_is_not_called_done_while_a_reader_holds_the_old_pages(folder, monkeypatch):
    monkeypatch.setattr("audit.vault.store._SCRUB_TRIES", 1)
    with VaultStore.open(folder, MASTER) as vault:
        vault.keep([entry()], NOW_US)
        reader = sqlite3.connect(layout.vault_path(folder), isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM vault_entry").fetchone()
        with pytest.raises(Exception, match="what was deleted may still be read"):
            erase(vault, "ann")
        reader.execute("COMMIT")
        reader.close()
        assert erase(vault, "ann").keys == 0


def test_while_an_erasure_waits_for_a_reader_of_the_old_pages_everybody_else_goes_on(folder, monkeypatch):
    waits = []
    monkeypatch.setattr("audit.vault.store._SCRUB_TRIES", 3)
    with VaultStore.open(folder, MASTER) as vault, VaultStore.open(folder, MASTER) as keeper:
        vault.keep([entry()], NOW_US)

        def meanwhile(_seconds: float) -> None:
            waits.append(busy_timeout_ms(vault))
            keeper.keep([entry("bob")], NOW_US)

        monkeypatch.setattr("audit.vault.store.time.sleep", meanwhile)
        with closing(sqlite3.connect(layout.vault_path(folder), isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM vault_entry").fetchone()
            with pytest.raises(StoreBroken, match="what was deleted may still be read"):
                erase(vault, "ann")
        assert waits == [0, 0, 0], "a wait in SQLite itself would keep the write lock"
        assert busy_timeout_ms(vault) == BUSY_TIMEOUT_MS
        assert keeper.holds().entries == 3


def busy_timeout_ms(vault: VaultStore) -> int:
    return vault._sqlite().execute("PRAGMA busy_timeout").fetchone()[0]


def test_what_is_held_is_counted_and_the_first_end_told_without_those_who_were_erased(vault):
    assert (vault.holds().entries, vault.holds().subjects, vault.holds().next_end_us) == (0, 0, None)
    kept = [entry(hours=1), entry(hours=5), entry("bob", hours=3), entry(tenant="beta", hours=9)]
    vault.keep(kept, NOW_US)
    assert (vault.holds().entries, vault.holds().subjects, vault.holds().next_end_us) == (4, 3, NOW_US + HOUR_US)
    erase(vault, "ann")
    assert (vault.holds().entries, vault.holds().subjects, vault.holds().next_end_us) == (2, 2, NOW_US + 3 * HOUR_US)
