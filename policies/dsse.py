"""DSSE envelopes: bytes of a declared type with one signature over both (https://github.com/secure-systems-lab/dsse, protocol v1).

The signature covers PAE(type, payload), so that bytes signed as one thing can never be passed off as another.

Rules, stricter than the standard because an envelope here is evidence:
- exactly one signature; `keyid` is required and names the key;
- one spelling: the bytes are canonical JSON (RFC 8785) of the envelope, base64 is the standard alphabet in its canonical form. Any other byte,
  white space included, is refused: flipping any bit of an envelope makes it invalid;
- bounded: `MOST_BYTES`.

Example:
    >>> envelope = Envelope("text/plain", b"hello", "k1", bytes(64))
    >>> Envelope.parse(envelope.encode()) == envelope
    True
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from audit import canonical
from audit.keys import decode_base64

MOST_BYTES: Final = 256 * 1024
SIGNATURE_BYTES: Final = 64


class InvalidEnvelope(ValueError):  # noqa: N818 - reads as the statement it is
    """The bytes are not an envelope in the one spelling that is accepted."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with its type and one Ed25519 signature. Parsing does not verify: `signed_bytes` is what the signature is over."""

    payload_type: str
    payload: bytes
    key_id: str
    signature: bytes

    @property
    def signed_bytes(self) -> bytes:
        """Return what the signature covers."""
        return pae(self.payload_type, self.payload)

    def encode(self) -> bytes:
        """Return the one spelling of this envelope."""
        return canonical.encode(
            {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": self.payload_type,
                "signatures": [{"keyid": self.key_id, "sig": base64.b64encode(self.signature).decode()}],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Envelope:
        """Read an envelope.

        Raises:
            InvalidEnvelope: too long, not JSON, other keys than the standard's, not exactly one signature, or not the one spelling.
        """
        if len(data) > MOST_BYTES:
            raise InvalidEnvelope(f"envelope has {len(data)} bytes, more than {MOST_BYTES}")
        document = strict_json(data, InvalidEnvelope, "envelope")
        envelope = cls._of(document)
        if envelope.encode() != data:
            raise InvalidEnvelope("envelope is not in canonical form; hint: store the file byte for byte as `assay` wrote it")
        return envelope

    @classmethod
    def _of(cls, document: Any) -> Envelope:
        if not isinstance(document, dict) or set(document) != {"payload", "payloadType", "signatures"}:
            raise InvalidEnvelope("an envelope has exactly the keys `payload`, `payloadType`, `signatures`")
        signatures = document["signatures"]
        if not isinstance(signatures, list) or len(signatures) != 1:
            raise InvalidEnvelope("an envelope here has exactly one signature: one person, one envelope")
        (signature,) = signatures
        if not isinstance(signature, dict) or set(signature) != {"keyid", "sig"}:
            raise InvalidEnvelope("a signature has exactly the keys `keyid` and `sig`")
        texts = (document["payloadType"], document["payload"], signature["keyid"], signature["sig"])
        if not all(isinstance(text, str) for text in texts):
            raise InvalidEnvelope("`payload`, `payloadType`, `keyid` and `sig` must be text")
        try:
            payload, sig = decode_base64(texts[1]), decode_base64(texts[3])
        except ValueError as error:
            raise InvalidEnvelope(f"envelope: {error}") from error
        if len(sig) != SIGNATURE_BYTES:
            raise InvalidEnvelope(f"an Ed25519 signature has {SIGNATURE_BYTES} bytes, got `{len(sig)}`")
        return cls(texts[0], payload, texts[2], sig)


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding, DSSE protocol v1.

    PAE(type, body) = "DSSEv1" + SP + LEN(type) + SP + type + SP + LEN(body) + SP + body
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload_type: str, payload: bytes, key_id: str, sign: Callable[[bytes], bytes]) -> Envelope:
    """Return the envelope of a payload; `sign` makes the bare Ed25519 signature of the bytes it is given."""
    return Envelope(payload_type, payload, key_id, sign(pae(payload_type, payload)))


def strict_json(data: bytes, error: type[ValueError], what: str) -> Any:
    """Return parsed JSON in which no key is given twice and no number is a float.

    Raises:
        ValueError: of the type `error`, when it is anything else.
    """

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) != len(pairs):
            raise error(f"{what} gives a key twice")
        return keys

    def no_float(text: str) -> Any:
        raise error(f"{what} holds `{text[:40]}`; numbers are whole")

    try:
        return json.loads(data.decode(), object_pairs_hook=no_duplicates, parse_float=no_float, parse_constant=no_float)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as cause:
        raise error(f"{what} is not JSON: {cause}") from cause
    except ValueError as cause:
        if isinstance(cause, error):
            raise
        raise error(f"{what} is not JSON: {cause}") from cause  # a number with thousands of digits
