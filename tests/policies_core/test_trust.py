"""The trust root: people count, and only a threshold of them changes who people are."""

import base64
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from policies.trust import DEFAULT_THRESHOLDS, InvalidTrust, Key, Person, PersonKey, TrustRoot, ceremony, read_public_key

KEYS = {name: PersonKey.from_seed(bytes([index]) * 32) for index, name in enumerate(["alice", "bob", "carol", "alice2", "mallory"])}
THRESHOLDS = {**DEFAULT_THRESHOLDS, "root": 2}


def person(name, *keys: PersonKey, roles=("approver", "root")):
    return Person(name, tuple(key.public for key in keys), roles)


ROOT = ceremony({name: KEYS[name] for name in ("alice", "bob", "carol")}, thresholds=THRESHOLDS)


def test_a_root_survives_writing_and_reading():
    assert TrustRoot.parse(ROOT.encode()) == ROOT
    assert TrustRoot.parse(ROOT.encode()).digest == ROOT.digest


def test_more_signatures_do_not_change_the_digest_that_is_pinned():
    assert replace(ROOT, signatures=()).digest == ROOT.digest


def test_two_keys_of_one_person_are_one_voice():
    root = TrustRoot(1, (person("alice", KEYS["alice"], KEYS["alice2"]), person("bob", KEYS["bob"])), THRESHOLDS)
    one_person = root.signed(KEYS["alice"]).signed(KEYS["alice2"])
    with pytest.raises(InvalidTrust, match="signed by 1 of 2"):
        one_person.require_signatures(root)
    one_person.signed(KEYS["bob"]).require_signatures(root)


def test_a_signature_by_someone_without_the_role_does_not_count():
    root = TrustRoot(1, (person("alice", KEYS["alice"]), person("bob", KEYS["bob"]), person("carol", KEYS["carol"], roles=("approver",))), THRESHOLDS)
    with pytest.raises(InvalidTrust, match="1 of 2"):
        root.signed(KEYS["alice"]).signed(KEYS["carol"]).require_signatures(root)


def test_a_successor_needs_the_old_roots_threshold_and_its_own():
    people = (person("alice", KEYS["alice"]), person("mallory", KEYS["mallory"]), person("carol", KEYS["carol"]))
    after = ROOT.next(people=people)
    old_only = after.signed(KEYS["alice"]).signed(KEYS["bob"])
    new_only = after.signed(KEYS["mallory"]).signed(KEYS["alice"])
    for refused in (old_only, new_only):
        with pytest.raises(InvalidTrust):
            refused.require_successor_of(ROOT)
    after.signed(KEYS["alice"]).signed(KEYS["carol"]).require_successor_of(ROOT)


@pytest.mark.parametrize("version", [1, 3, 7])
def test_a_successor_has_the_next_version(version):
    after = replace(ROOT.next(people=ROOT.people), version=version).signed(KEYS["alice"]).signed(KEYS["bob"])
    with pytest.raises(InvalidTrust, match="expected trust root version 2"):
        after.require_successor_of(ROOT)


@given(st.data())
def test_a_root_changed_anywhere_is_refused_or_says_the_same(data):
    """Signatures cover what the root says; a flip that leaves it saying the same (white space) changes nothing."""
    raw = bytearray(ROOT.encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        changed = TrustRoot.parse(bytes(raw))
    except InvalidTrust:
        return
    assert changed.digest == ROOT.digest
    assert len(changed.signers(ROOT)) >= 2


@pytest.mark.parametrize(
    ("people", "thresholds", "message"),
    [
        ((person("alice", KEYS["alice"]), person("bob", KEYS["alice"])), {}, "one owner"),
        ((person("alice", KEYS["alice"], KEYS["alice"]),), {}, "one owner"),
        ((person("alice", KEYS["alice"]), person("alice", KEYS["bob"])), {}, "twice"),
        ((person("alice", KEYS["alice"], roles=("king",)), person("bob", KEYS["bob"])), {}, "unknown role"),
        ((person("alice", KEYS["alice"]),), {}, "must be 1 to 1"),
        ((person("alice", KEYS["alice"]), person("bob", KEYS["bob"])), {"approve.low": 0}, "must be 1 to 2"),
        ((Person("alice", (Key("0" * 16, "ed25519", KEYS["alice"].public.public),), ("root", "approver")),), {}, "says id"),
        ((Person("alice", (Key("0" * 16, "rsa", "x"),), ("root", "approver")),), {}, "key type"),
        ((person("al ice", KEYS["alice"]),), {}, "name"),
    ],
)
def test_a_root_that_cannot_hold_is_refused(people, thresholds, message):
    with pytest.raises(InvalidTrust, match=message):
        TrustRoot(1, people, {**DEFAULT_THRESHOLDS, **thresholds})


@pytest.mark.parametrize("key", ["approve.low", "root"])
def test_every_threshold_is_named(key):
    thresholds = {name: needed for name, needed in DEFAULT_THRESHOLDS.items() if name != key}
    with pytest.raises(InvalidTrust, match="exactly"):
        TrustRoot(1, ROOT.people, thresholds)


@pytest.mark.parametrize("change", [{"extra": 1}, {"version": "1"}, {"people": {}}, {"signatures": [{"key": "x"}]}, {"version": 1.5}])
def test_a_file_of_another_shape_is_refused(change):
    with pytest.raises(InvalidTrust):
        TrustRoot.parse(json.dumps({**json.loads(ROOT.encode()), **change}).encode())


def test_an_ssh_key_signs_and_is_recognised():
    private = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
    text = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    key = PersonKey.load(text)
    assert key.public.type == "ssh-ed25519"
    root = TrustRoot(
        1, (Person("ssh", (read_public_key(key.public.public + " me@laptop"),), ("approver", "root")),), {**DEFAULT_THRESHOLDS, "approve.high": 1}
    )
    root.signed(key).require_signatures(root)
    assert root.verify(key.id, b"m", key.sign(b"m")).name == "ssh"
    assert root.verify(key.id, b"n", key.sign(b"m")) is None


def test_a_key_with_a_passphrase_needs_it():
    private = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
    text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame")).decode()
    assert PersonKey.load(text, b"open sesame").id == PersonKey.from_seed(b"s" * 32).id
    for wrong in (None, b"sesame"):
        with pytest.raises(InvalidTrust):
            PersonKey.load(text, wrong)


def test_a_key_that_is_not_ed25519_is_refused():
    text = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(InvalidTrust, match="not Ed25519"):
        PersonKey.load(text)
    with pytest.raises(InvalidTrust):
        PersonKey.load("hello")


def test_a_private_key_never_shows_itself():
    assert base64.b64encode(bytes(32)).decode() not in repr(PersonKey.from_seed(bytes(32)))
    assert "0x" not in repr(PersonKey.from_seed(bytes(32)))
