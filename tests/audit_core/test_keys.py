"""Keys: public vectors, one spelling, careful keeping."""

from __future__ import annotations

import contextlib
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.keyring import is_policy, parse_policy
from audit.keys import (
    COSIGNATURE_V1,
    ED25519,
    InvalidKey,
    SignatureInvalid,
    SigningKey,
    VerifierKey,
    decode_base64,
    load_signing_key,
    read_secret,
    save_signing_key,
)

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SUMDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
RFC_8032_SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_8032_PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


@pytest.mark.parametrize("text", [PETER, SUMDB])
def test_published_verification_keys_read_and_print_alike(text):
    assert str(VerifierKey.parse(text)) == text


def test_rfc_8032_seed_gives_its_public_key_and_signature():
    key = SigningKey.generate("k", seed=RFC_8032_SEED)
    assert key.verifier.public_key == RFC_8032_PUBLIC
    assert key.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a")


@given(st.binary(min_size=32, max_size=32), st.sampled_from([ED25519, COSIGNATURE_V1]))
def test_both_texts_read_back(seed, kind):
    key = SigningKey.generate("example.com/log", kind=kind, seed=seed)
    assert SigningKey.parse(key.secret_text()) == key
    assert VerifierKey.parse(str(key.verifier)) == key.verifier


def test_the_type_byte_changes_the_key_id():
    seed = bytes(32)
    assert SigningKey.generate("n", seed=seed).verifier.id != SigningKey.generate("n", kind=COSIGNATURE_V1, seed=seed).verifier.id


def test_two_generated_keys_differ():
    assert SigningKey.generate("n") != SigningKey.generate("n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must read"),
        ("PeterNeumann+c74f20a3", "must read"),
        (PETER.replace("c74f20a3", "c74f20a4"), "claims id"),
        (PETER.replace("c74f20a3", "C74F20A3"), "lowercase"),
        (PETER.replace("Peter", "Petra"), "claims id"),
        (PETER.replace("PeterNeumann", ""), "1 to 255"),
        (PETER.replace("PeterNeumann", "Peter Neumann"), "space"),
        (PETER.replace("PeterNeumann", "Peter\u00a0Neumann"), "space"),
        (PETER + "=", "base64"),
        (PETER[:-4], "bytes"),
        (PETER.replace("ARpc", "ERpc"), "unknown signature type `0x11`"),
        ("x" * 5000, "longer"),
        ("k+00000000+", "empty"),
    ],
)
def test_a_malformed_verification_key_is_refused(text, why):
    with pytest.raises(InvalidKey, match=why):
        VerifierKey.parse(text)


@given(st.binary(max_size=40), st.data())
def test_base64_has_one_spelling(data, draw):
    import base64

    text = base64.b64encode(data).decode()
    assert decode_base64(text) == data
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
    position = draw.draw(st.integers(0, max(len(text) - 1, 0)))
    other = text[:position] + draw.draw(st.sampled_from(alphabet)) + text[position + 1 :]
    if other != text:
        with contextlib.suppress(ValueError):
            assert decode_base64(other) != data


def test_the_secret_is_in_no_message_and_no_repr():
    key = SigningKey.generate("n", seed=b"s3cret-s3cret-s3cret-s3cret-s3cr")
    assert "s3cret" not in repr(key)
    broken = key.secret_text()[:-2]
    with pytest.raises(InvalidKey) as caught:
        SigningKey.parse(broken)
    assert broken[-20:] not in str(caught.value)


@given(st.integers(0, 64 * 8 - 1))
def test_any_flipped_bit_of_a_signature_is_found(bit):
    key = SigningKey.generate("n", seed=bytes(32))
    signature = bytearray(key.sign(b"message"))
    signature[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(SignatureInvalid):
        key.verifier.verify(b"message", bytes(signature))


def test_a_saved_key_has_mode_0600_and_loads(tmp_path):
    key = SigningKey.generate("n")
    previous = os.umask(0)
    try:
        save_signing_key(key, tmp_path / "keys" / "log.key")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "keys" / "log.key").stat().st_mode) == 0o600
    assert load_signing_key("file:keys/log.key", base=tmp_path, environ={}) == key


def test_a_key_file_is_never_overwritten(tmp_path):
    save_signing_key(SigningKey.generate("n"), tmp_path / "k")
    with pytest.raises(InvalidKey, match="not overwritten"):
        save_signing_key(SigningKey.generate("n"), tmp_path / "k")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o666])
def test_a_key_that_others_can_touch_is_refused(tmp_path, mode):
    save_signing_key(SigningKey.generate("n"), tmp_path / "k")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(InvalidKey, match="hint: chmod 600"):
        load_signing_key("file:k", base=tmp_path, environ={})


def test_a_key_comes_from_the_environment_by_name():
    key = SigningKey.generate("n")
    assert load_signing_key("env:LOG_KEY", base=None, environ={"LOG_KEY": key.secret_text()}) == key


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("env:ABSENT", "not set"),
        ("file:absent", "cannot read"),
        ("file:", "named"),
        ("PRIVATE+KEY+x", "never write the secret"),
        ("file:dir", "regular"),
    ],
)
def test_a_reference_to_nothing_is_refused(tmp_path, reference, why):
    (tmp_path / "dir").mkdir()
    with pytest.raises(InvalidKey, match=why):
        read_secret(reference, base=tmp_path, environ={})


def test_a_huge_or_binary_secret_file_is_refused(tmp_path):
    for name, data in (("huge", b"x" * 5000), ("binary", b"\xff\xfe")):
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
        with pytest.raises(InvalidKey, match=r"larger|UTF-8"):
            read_secret(f"file:{name}", base=tmp_path, environ={})


@pytest.mark.parametrize("hidden", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85", "\r"])
def test_a_key_policy_has_no_line_that_a_person_reads_as_part_of_a_comment(hidden):
    own, other = (str(SigningKey.generate("log.example", seed=bytes([number]) * 32).verifier) for number in (1, 2))
    policy = parse_policy(f"# Keys of log.example{hidden}log {other}\r\nlog {own} from 5\r\n")
    assert [(str(one.key), one.first_size) for one in policy.log_keys] == [(own, 5)]
    assert not is_policy(f"# a vkey{hidden}log {other}\n")
