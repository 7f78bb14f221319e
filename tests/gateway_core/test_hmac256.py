"""HMAC-SHA256 with a prepared key."""

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hmac256 import Hmac256


@given(st.binary(max_size=200), st.binary(max_size=300))
def test_it_is_the_standard_librarys_hmac(key, message):
    mac = Hmac256(key)
    assert mac.digest(message) == hmac.digest(key, message, "sha256")
    assert mac.digest(message) == hmac.digest(key, message, "sha256"), "a second use gives the same"


@pytest.mark.parametrize(
    ("key", "message", "expected"),
    [
        (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (
            b"\xaa" * 131,
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ],
)
def test_vectors_of_rfc_4231(key, message, expected):
    assert Hmac256(key).digest(message).hex() == expected
