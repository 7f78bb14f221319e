"""DSSE envelopes: one spelling, one signature."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.dsse import Envelope, InvalidEnvelope, pae, seal
from policies.trust import PersonKey

KEY = PersonKey.from_seed(bytes(range(32)))


def test_pae_is_the_published_example():
    """The vector of the DSSE protocol document."""
    assert pae("http://example.com/HelloWorld", b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@given(st.text(max_size=40).filter(lambda text: text.isprintable()), st.binary(max_size=200))
def test_an_envelope_survives_writing_and_reading(kind, payload):
    envelope = seal(kind, payload, KEY.id, KEY.sign)
    assert Envelope.parse(envelope.encode()) == envelope


@given(st.binary(max_size=30), st.binary(max_size=30), st.text("ab 1", max_size=5), st.text("ab 1", max_size=5))
def test_no_two_contents_have_the_same_signed_bytes(one, two, kind_one, kind_two):
    assert ((kind_one, one) == (kind_two, two)) == (pae(kind_one, one) == pae(kind_two, two))


ENVELOPE = json.loads(seal("t", b"hello!", KEY.id, KEY.sign).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"signatures": []},
        {"signatures": ENVELOPE["signatures"] * 2},
        {"signatures": [{**ENVELOPE["signatures"][0], "cert": ""}]},
        {"signatures": [{"keyid": 1, "sig": ENVELOPE["signatures"][0]["sig"]}]},
        {"signatures": [{"keyid": KEY.id, "sig": base64.b64encode(bytes(63)).decode()}]},
        {"payload": "aGVsbG8"},
        {"payload": "aGVsbG8-"},
        {"payload": "aGVsbB=="},
        {"payloadType": None},
    ],
)
def test_anything_but_the_one_form_is_refused(change):
    data = json.dumps({**ENVELOPE, **change}, separators=(",", ":"), sort_keys=True).encode()
    with pytest.raises(InvalidEnvelope):
        Envelope.parse(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'{"payload":1e3}', b'{"a":1,"a":1}', b"\xff", b"[" * 100_000, b"9" * 10_000, bytes(300_000)])
def test_what_is_not_an_envelope_is_refused(data):
    with pytest.raises(InvalidEnvelope):
        Envelope.parse(data)


def test_white_space_is_refused():
    with pytest.raises(InvalidEnvelope, match="canonical"):
        Envelope.parse(json.dumps(ENVELOPE).encode())
