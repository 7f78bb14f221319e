"""io.jwt.*: decode, verify, encode (RFC 7515, 7518, 7519), with the `cryptography` library.

`time` in constraints is nanoseconds; without it `exp` and `nbf` are held against the caller's `now_ns`, never the host's clock.
Signatures are made deterministic where the algorithm is; ECDSA and PSS are random by nature, so encoding with them is refused: a
decision must not depend on chance.
"""

from __future__ import annotations

import base64
import hmac
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from policies.rego.builtins.encoding import decode_base64, parse_json
from policies.rego.builtins.registry import builtin, want_object, want_string
from policies.rego.errors import BuiltinError
from policies.rego.render import json_text
from policies.rego.values import NUMBERS, compare

_HASHES: Final[dict[str, Any]] = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}
_CURVES: Final[dict[str, tuple[Any, int]]] = {"P-256": (ec.SECP256R1, 32), "P-384": (ec.SECP384R1, 48), "P-521": (ec.SECP521R1, 66)}
_EC_ALGORITHMS: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
ALGORITHMS: Final = frozenset({f"{family}{size}" for family in ("HS", "RS", "PS", "ES") for size in ("256", "384", "512")} | {"EdDSA"})


def _decode(text: str) -> bytes:
    return decode_base64(text, url=True)


def _split(token: Any) -> tuple[dict[Any, Any], Any, bytes, bytes]:
    """Return header, payload, signature and the signed bytes."""
    text = want_string(token)
    parts = text.split(".")
    if len(parts) != 3:
        raise BuiltinError("encoded JWT must have 3 sections, found " + str(len(parts)))
    header = parse_json(_decode(parts[0]).decode("utf-8", "replace"))
    if type(header) is not dict:
        raise BuiltinError("JWT header is not an object")
    if "zip" in header:
        raise BuiltinError("JWT with compressed payload is not supported")
    body = _decode(parts[1])
    if str(header.get("cty", "")).upper() == "JWT":
        return _split(body.decode("utf-8", "replace").strip('"'))
    return header, body, _decode(parts[2]), text.rpartition(".")[0].encode()


def _payload(body: bytes) -> Any:
    claims = parse_json(body.decode("utf-8", "replace"))
    if type(claims) is not dict:
        raise BuiltinError("JWT payload is not an object")
    return claims


@builtin("io.jwt.decode", 1)
def decode(token: Any) -> list[Any]:
    """[header, payload, hexadecimal signature], nothing verified."""
    header, body, signature, _ = _split(token)
    if "enc" in header:
        raise BuiltinError("JWT is a JWE object, which is not supported")
    return [header, _payload(body), signature.hex()]


# --- keys --------------------------------------------------------------------------------------------------------------


def _number(text: Any) -> int:
    return int.from_bytes(_decode(want_string(text)), "big")


def _jwk(key: dict[Any, Any]) -> Any:
    kind = key.get("kty")
    try:
        if kind == "RSA":
            return rsa.RSAPublicNumbers(_number(key["e"]), _number(key["n"])).public_key()
        if kind == "EC":
            curve, _ = _CURVES[key["crv"]]
            return ec.EllipticCurvePublicNumbers(_number(key["x"]), _number(key["y"]), curve()).public_key()
        if kind == "OKP":
            return ed25519.Ed25519PublicKey.from_public_bytes(_decode(key["x"]))
        if kind == "oct":
            return _decode(key["k"])
    except (KeyError, ValueError, UnsupportedAlgorithm) as error:
        raise BuiltinError(f"invalid JWK: {error}") from error
    raise BuiltinError(f"unsupported key type `{kind}`")


def _public_keys(text: str) -> list[tuple[Any, str | None, str | None]]:
    """Read PEM (certificate or public key) or JWK(S): (key, algorithm, key id)."""
    if "-----BEGIN" in text:
        raw = text.encode()
        if not text.rstrip().endswith("-----"):
            raise BuiltinError("extra data after a PEM block")
        try:
            if "CERTIFICATE" in text:
                return [(x509.load_pem_x509_certificate(raw).public_key(), None, None)]
            return [(serialization.load_pem_public_key(raw), None, None)]
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BuiltinError(f"failed to parse a PEM key: {error}") from error
    document = parse_json(text)
    if type(document) is not dict:
        raise BuiltinError("key is no JSON Web Key")
    members = document["keys"] if type(document.get("keys")) is list else [document]
    known = [member for member in members if type(member) is dict and member.get("kty") in {"RSA", "EC", "OKP", "oct"}]
    found = [(_jwk(member), member.get("alg"), member.get("kid")) for member in known]
    if not found:
        raise BuiltinError("no usable key")
    return found


def _verifies(algorithm: str, key: Any, signature: bytes, signed: bytes) -> bool:
    family, size = algorithm[:2], algorithm[2:]
    try:
        if algorithm == "EdDSA" and isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, signed)
        elif family == "RS" and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, signed, padding.PKCS1v15(), _HASHES[size]())
        elif family == "PS" and isinstance(key, rsa.RSAPublicKey):
            scheme = padding.PSS(padding.MGF1(_HASHES[size]()), padding.PSS.AUTO)
            key.verify(signature, signed, scheme, _HASHES[size]())
        elif family == "ES" and isinstance(key, ec.EllipticCurvePublicKey):
            width = _CURVES[_EC_ALGORITHMS[algorithm]][1]
            if len(signature) != 2 * width:
                return False
            halves = int.from_bytes(signature[:width], "big"), int.from_bytes(signature[width:], "big")
            key.verify(encode_dss_signature(*halves), signed, ec.ECDSA(_HASHES[size]()))
        else:
            return False
    except (InvalidSignature, ValueError):
        return False
    return True


def _any_key(algorithm: str, text: str, key_id: Any, signature: bytes, signed: bytes) -> bool:
    keys = _public_keys(text)
    named = [entry for entry in keys if key_id is not None and entry[2] == key_id]
    usable = [key for key, key_algorithm, _ in named or keys if key_algorithm in {None, algorithm}]
    return any(_verifies(algorithm, key, signature, signed) for key in usable)


def _register_verify(algorithm: str, name: str) -> None:
    def verify(token: Any, key: Any) -> bool:
        """Whether the signature is the key's."""
        text = want_string(key, 2)
        header, _, signature, signed = _split(token)
        return _any_key(algorithm, text, header.get("kid"), signature, signed)

    def verify_mac(token: Any, key: Any) -> bool:
        """Whether the MAC is the secret's."""
        secret = want_string(key, 2).encode()
        _, _, signature, signed = _split(token)
        return hmac.compare_digest(hmac.new(secret, signed, f"sha{algorithm[2:]}").digest(), signature)

    builtin(f"io.jwt.verify_{name}", 2)(verify_mac if algorithm.startswith("HS") else verify)


for _algorithm in sorted(ALGORITHMS):
    _register_verify(_algorithm, _algorithm.lower())


# --- decode and verify ---------------------------------------------------------------------------------------------------

_CONSTRAINTS: Final = {"cert": str, "secret": str, "alg": str, "iss": str, "aud": str, "time": None}


def _constraints(value: Any) -> dict[Any, Any]:
    found = want_object(value, 2)
    for name, item in found.items():
        if name not in _CONSTRAINTS:
            raise BuiltinError(f"unknown token validation constraint: {name}")
        kind = _CONSTRAINTS[name]
        if (kind is str and type(item) is not str) or (kind is None and type(item) not in NUMBERS):
            raise BuiltinError(f"token validation constraint `{name}` has the wrong type")
    if ("cert" in found) == ("secret" in found):
        raise BuiltinError("exactly one of `cert` and `secret` must be given")
    if "time" in found and compare(found["time"], 0) < 0:
        raise BuiltinError("token validation time must be positive")
    return found


@builtin("io.jwt.decode_verify", 2, context=True)
def decode_verify(context: Any, token: Any, constraints: Any) -> list[Any]:
    """[true, header, payload] if everything holds, else [false, {}, {}]."""
    given = _constraints(constraints)
    rejected: list[Any] = [False, {}, {}]
    want_string(token)
    header, body, signature, signed = _split(token)
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS or ("alg" in given and given["alg"] != algorithm):
        return rejected
    if "crit" in header:
        return rejected
    if algorithm.startswith("HS"):
        if "secret" not in given:
            return rejected
        mac = hmac.new(given["secret"].encode(), signed, f"sha{algorithm[2:]}").digest()
        good = hmac.compare_digest(mac, signature)
    else:
        good = "cert" in given and _any_key(algorithm, given["cert"], header.get("kid"), signature, signed)
    if not good:
        return rejected
    claims = _payload(body)
    return [True, header, claims] if _claims_hold(claims, given, context.now_ns) else rejected


def _claims_hold(claims: dict[Any, Any], given: dict[Any, Any], now_ns: int) -> bool:  # noqa: C901 - one flat list of cases
    if "iss" in given and claims.get("iss") != given["iss"]:
        return False
    audience = claims.get("aud")
    if "aud" in given:
        if type(audience) is list:
            if given["aud"] not in [item for item in audience if type(item) is str]:
                return False
        elif audience != given["aud"]:
            return False
    elif "aud" in claims:
        return False
    now = given.get("time", now_ns)
    for name, sign in (("exp", 1), ("nbf", -1)):
        if name not in claims:
            continue
        moment = claims[name]
        if type(moment) not in NUMBERS:
            raise BuiltinError(f"claim `{name}` is no number")
        verdict = compare(now, moment * 1_000_000_000)
        if (sign > 0 and verdict >= 0) or (sign < 0 and verdict < 0):
            return False
    return True


# --- encode --------------------------------------------------------------------------------------------------------------


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _private_number(key: dict[Any, Any], name: str) -> int:
    return _number(key[name])


def _signature(algorithm: str, key: dict[Any, Any], signed: bytes) -> bytes:
    kind = key.get("kty")
    try:
        if algorithm.startswith("HS") and kind == "oct":
            return hmac.new(_decode(want_string(key["k"])), signed, f"sha{algorithm[2:]}").digest()
        if algorithm.startswith("RS") and kind == "RSA":
            numbers = rsa.RSAPrivateNumbers(
                p=_private_number(key, "p"),
                q=_private_number(key, "q"),
                d=_private_number(key, "d"),
                dmp1=_private_number(key, "dp"),
                dmq1=_private_number(key, "dq"),
                iqmp=_private_number(key, "qi"),
                public_numbers=rsa.RSAPublicNumbers(_private_number(key, "e"), _private_number(key, "n")),
            )
            return numbers.private_key().sign(signed, padding.PKCS1v15(), _HASHES[algorithm[2:]]())
        if algorithm == "EdDSA" and kind == "OKP":
            return ed25519.Ed25519PrivateKey.from_private_bytes(_decode(want_string(key["d"]))).sign(signed)
        if algorithm.startswith("ES") and kind == "EC":
            return _ecdsa(algorithm, key, signed)
    except (KeyError, ValueError, UnsupportedAlgorithm) as error:
        raise BuiltinError(f"invalid JWK: {error}") from error
    raise BuiltinError(f"algorithm `{algorithm}` with key type `{kind}` is not supported")


def _ecdsa(algorithm: str, key: dict[Any, Any], signed: bytes) -> bytes:
    """Deterministic ECDSA (RFC 6979), so that the same policy and input give the same token."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature  # noqa: PLC0415 - used here alone

    curve, width = _CURVES[_EC_ALGORITHMS[algorithm]]
    private = ec.derive_private_key(_private_number(key, "d"), curve())
    raw = private.sign(signed, ec.ECDSA(_HASHES[algorithm[2:]](), deterministic_signing=True))
    return b"".join(part.to_bytes(width, "big") for part in decode_dss_signature(raw))


def _sign(header: str, payload: str, key: dict[Any, Any]) -> str:
    fields = parse_json(header)
    if type(fields) is not dict or type(fields.get("alg")) is not str:
        raise BuiltinError("missing required header parameter: alg")
    if fields["alg"] not in ALGORITHMS:
        raise BuiltinError(f"unknown JWS algorithm: {fields['alg']}")
    kind = fields.get("typ")
    if (kind is None or kind == "JWT") and not _is_json(payload):
        raise BuiltinError("type is JWT but payload is not JSON")
    signed = _encode(header.encode()) + "." + _encode(payload.encode())
    return signed + "." + _encode(_signature(fields["alg"], key, signed.encode()))


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except BuiltinError:
        return False
    return True


@builtin("io.jwt.encode_sign", 3)
def encode_sign(header: Any, payload: Any, key: Any) -> str:
    """A token from objects."""
    return _sign(json_text(want_object(header)), json_text(want_object(payload, 2)), want_object(key, 3))


@builtin("io.jwt.encode_sign_raw", 3)
def encode_sign_raw(header: Any, payload: Any, key: Any) -> str:
    """A token from JSON texts."""
    jwk = parse_json(want_string(key, 3))
    if type(jwk) is not dict:
        raise BuiltinError("key is no JSON Web Key")
    return _sign(want_string(header), want_string(payload, 2), jwk)
