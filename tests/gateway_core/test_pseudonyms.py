"""Pseudonyms: linkable within a tenant and an epoch, nowhere else, and gone with the key."""

from __future__ import annotations

import hashlib
import stat

from hypothesis import given
from hypothesis import strategies as st

from gateway.pseudonyms import EPOCH_DAYS, EpochKey, TenantPseudonyms, commitment, load, renewed_us, rotate, save

DAY_US = 86_400_000_000
secrets = st.binary(min_size=32, max_size=32)
units = st.text(max_size=40)


def of(secret: bytes, unit: str, epoch: int = 1) -> str:
    return TenantPseudonyms(EpochKey(epoch, secret, 0, DAY_US)).of(unit)


@given(secrets, units, units)
def test_the_same_unit_has_the_same_pseudonym_and_two_units_have_two(secret, one, other):
    assert of(secret, one) == of(secret, one)
    assert (of(secret, one) == of(secret, other)) is (one == other)
    assert len(of(secret, one)) == 32


@given(secrets, secrets, units)
def test_another_key_gives_another_pseudonym(one, other, unit):
    assert (of(one, unit) == of(other, unit)) is (one == other)


@given(secrets, units, st.binary(max_size=20))
def test_a_commitment_binds_record_direction_and_bytes_and_is_no_plain_hash(secret, unit, payload):
    made = TenantPseudonyms(EpochKey(1, secret, 0, DAY_US))
    going_in, coming_out = made.salts("id")
    commitments = {
        commitment(going_in, payload),
        commitment(coming_out, payload),
        commitment(made.salts("other")[0], payload),
        commitment(going_in, payload + b"x"),
        hashlib.sha256(payload).hexdigest(),
        of(secret, unit),
    }
    assert len(commitments) == 6
    assert made.salts("id") == (going_in, coming_out)
    assert len(going_in) == len(coming_out) == 32


@given(st.sets(st.sampled_from(["a", "b", "c"])), st.lists(st.integers(0, 400), max_size=6))
def test_at_every_moment_each_tenant_has_a_current_key_no_ended_one_is_kept_and_epochs_only_grow(tenants, days):
    keys: dict[str, list[EpochKey]] = {}
    latest: dict[str, int] = {}
    for day in sorted(days):
        now_us = day * DAY_US
        keys = rotate(keys, tenants, now_us)
        assert set(keys) == tenants
        for tenant, held in keys.items():
            assert all(key.begins_us <= now_us < key.ends_us for key in held)
            epoch = max(key.epoch for key in held)
            assert epoch >= latest.get(tenant, 1)
            latest[tenant] = epoch
        assert rotate(keys, tenants, now_us) == keys


def test_a_new_epoch_has_another_key_so_that_nothing_links_across_it():
    first = rotate({}, {"a"}, 0)
    second = rotate(first, {"a"}, EPOCH_DAYS * DAY_US)
    assert rotate(first, {"a"}, EPOCH_DAYS * DAY_US - 1) == first
    assert [key.epoch for key in second["a"]] == [2]
    assert second["a"][0].secret != first["a"][0].secret
    assert first["a"][0] not in second["a"]


def test_tenants_do_not_share_a_key():
    made = rotate({}, {"a", "b"}, 0)
    assert made["a"][0].secret != made["b"][0].secret


def test_the_file_is_readable_by_its_owner_alone_even_where_an_earlier_attempt_left_another_mode(tmp_path):
    path = tmp_path / "vault" / "epochs.json"
    path.parent.mkdir()
    left = path.with_suffix(".new")
    left.write_bytes(b"x")
    left.chmod(0o644)
    keys = rotate({}, {"a"}, 0)
    save(path, keys)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(path) == keys
    assert not left.exists()


def test_a_link_left_in_the_place_of_the_new_file_is_not_followed(tmp_path):
    path, elsewhere = tmp_path / "epochs.json", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    path.with_suffix(".new").symlink_to(elsewhere)
    save(path, rotate({}, {"a"}, 0))
    assert elsewhere.read_bytes() == b"mine"


def test_a_destroyed_key_is_not_in_the_file_any_more(tmp_path):
    path = tmp_path / "epochs.json"
    first = rotate({}, {"a"}, 0)
    save(path, first)
    before = path.read_bytes()
    save(path, rotate(first, {"a"}, EPOCH_DAYS * DAY_US))
    secret = before.split(b'"secret":"')[1].split(b'"')[0]
    assert secret not in path.read_bytes()


def test_without_a_file_there_are_no_keys(tmp_path):
    assert load(tmp_path / "none.json") == {}


def test_all_tenants_get_new_pseudonyms_at_one_moment_and_it_is_known_when():
    keys = rotate({}, {"a"}, 0)
    keys = rotate(keys, {"a", "b"}, 5 * DAY_US)
    assert {key.ends_us for held in keys.values() for key in held} == {EPOCH_DAYS * DAY_US}
    assert renewed_us(keys) == 0
    keys = rotate(keys, {"a", "b"}, EPOCH_DAYS * DAY_US)
    assert renewed_us(keys) == EPOCH_DAYS * DAY_US
    assert {key.epoch for held in keys.values() for key in held} == {2}
