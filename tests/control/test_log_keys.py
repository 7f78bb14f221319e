"""Which keys of the log begin and end, when, and that none signs past its end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.keyring import BoundedKey, parse_policy
from audit.keys import SigningKey
from gateway.control.logkeys import OPEN, KeyHasEnded, LogKeys, due

A, B, C = (str(SigningKey.generate("log.example", seed=bytes([number]) * 32).verifier) for number in (1, 2, 3))


def started(known, signing, size, revoked=None):
    """Start a gateway: what is due is committed."""
    records = due(known, signing, revoked or {}, size)
    for kind, carries in records:
        known.fold({"type": kind, **carries})
    return records


def test_the_first_key_of_a_log_has_signed_it_from_the_beginning():
    known = LogKeys()
    assert started(known, [A], 500) == [("key.began", {"vkey": A, "first_size": 0})]
    assert started(known, [A], 900) == [], "and nothing is due at the next start"


def test_a_change_of_keys_overlaps_and_ends_the_former_where_it_signed_last():
    known = LogKeys()
    started(known, [A], 0)
    assert started(known, [B, A], 100) == [("key.began", {"vkey": B, "first_size": 101})]
    assert started(known, [B], 180) == [("key.ended", {"vkey": A, "last_size": 180, "reason": "rotated"})]
    policy = parse_policy(known.policy().text())
    assert [(str(one.key), one.first_size, one.allows(180), one.allows(181)) for one in policy.log_keys] == [
        (A, 0, True, False),
        (B, 101, True, True),
    ]
    assert not policy.log_keys[1].allows(100)


def test_a_key_that_has_ended_never_signs_again():
    known = LogKeys()
    for signing, size in (([A], 0), ([B, A], 10), ([B], 20)):
        started(known, signing, size)
    for signing in ([A], [B, A], [A, B]):
        with pytest.raises(KeyHasEnded):
            due(known, signing, {}, 30)


def test_a_stolen_key_is_believed_up_to_the_size_that_is_named_and_no_further():
    known = LogKeys()
    for signing, size in (([A], 0), ([B, A], 100)):
        started(known, signing, size)
    assert started(known, [B], 180, {A: 60}) == [("key.ended", {"vkey": A, "last_size": 60, "reason": "revoked"})]
    assert started(known, [B], 190, {A: 60}) == []
    assert known.bounds == {A: (0, 60), B: (101, OPEN)}
    with pytest.raises(KeyHasEnded):
        due(known, [A], {A: 60}, 190)


def test_a_key_that_ended_by_rotation_can_be_revoked_further_back_but_not_forward():
    known = LogKeys()
    for signing, size in (([A], 0), ([B, A], 100), ([B], 200)):
        started(known, signing, size)
    assert started(known, [B], 300, {A: 250}) == []
    started(known, [B], 300, {A: 50})
    assert known.bounds[A] == (0, 50)


def test_a_key_revoked_to_before_it_began_is_believed_for_nothing_and_is_told_once():
    known = LogKeys()
    for signing, size in (([A], 0), ([B, A], 100), ([C, B], 200)):
        started(known, signing, size)
    started(known, [C], 300, {B: 60})
    assert [str(one.key) for one in known.policy().log_keys] == [A, C]
    assert started(known, [C], 310, {B: 60}) == []


@given(st.lists(st.tuples(st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=2, unique=True), st.integers(1, 50)), max_size=12))
def test_at_every_size_some_key_may_sign_and_what_is_due_is_due_once(starts):
    known, size = LogKeys(), 0
    for signing, grown in starts:
        try:
            started(known, signing, size)
        except KeyHasEnded:
            continue
        assert started(known, signing, size) == []
        size += grown
        keys = [BoundedKey(one.key, one.first_size, one.last_size) for one in known.policy().log_keys]
        assert all(any(str(key.key) == vkey and key.allows(size) for key in keys) for vkey in signing)
