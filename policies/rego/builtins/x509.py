"""crypto.x509.*, crypto.parse_private_keys, with the `cryptography` library, in the shape of Go's `crypto/x509.Certificate`.

Verification is against the root in the list and the time the caller gives as `now_ns`, with the key usages Go's default asks for
(server authentication). Fields that Go's structure has and `cryptography` does not expose are absent, see `docs/rego.md`.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from policies.rego.builtins.registry import builtin, want_object, want_string
from policies.rego.errors import BuiltinError
from policies.rego.values import NUMBERS

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]++)-----")
_MOST_BLOCKS = 1_000
_NAMES: Final = {
    "Country": NameOID.COUNTRY_NAME, "Organization": NameOID.ORGANIZATION_NAME, "OrganizationalUnit": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "Locality": NameOID.LOCALITY_NAME, "Province": NameOID.STATE_OR_PROVINCE_NAME, "StreetAddress": NameOID.STREET_ADDRESS,
    "PostalCode": NameOID.POSTAL_CODE,
}  # fmt: skip
_USAGES: Final[dict[str, Any]] = {
    "KeyUsageAny": 0, "KeyUsageServerAuth": ExtendedKeyUsageOID.SERVER_AUTH, "KeyUsageClientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "KeyUsageCodeSigning": ExtendedKeyUsageOID.CODE_SIGNING, "KeyUsageEmailProtection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "KeyUsageTimeStamping": ExtendedKeyUsageOID.TIME_STAMPING, "KeyUsageOCSPSigning": ExtendedKeyUsageOID.OCSP_SIGNING,
}  # fmt: skip


def _bytes(text: str) -> bytes:
    """Read PEM, or base64 of PEM or DER."""
    if "-----BEGIN" in text:
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BuiltinError("neither PEM nor base64") from error


def _blocks(raw: bytes) -> list[tuple[str, bytes]]:
    """Return label and text of each PEM block. Raises BuiltinError for more than anyone has: each beginning looks for its end."""
    found: list[tuple[str, bytes]] = []
    position = 0
    for _ in range(_MOST_BLOCKS):
        begin = _BEGIN.search(raw, position)
        if begin is None:
            return found
        mark = b"-----END " + begin[1] + b"-----"
        end = raw.find(mark, begin.end())
        position = begin.end() if end < 0 else end + len(mark)
        if end >= 0:
            found.append((begin[1].decode(), raw[begin.start() : position] + b"\n"))
    raise BuiltinError(f"more than {_MOST_BLOCKS} PEM blocks")


def certificates(text: str) -> list[x509.Certificate]:
    """Read certificates.

    Raises:
        BuiltinError: none there, or malformed.
    """
    raw = _bytes(text)
    try:
        if raw.startswith(b"-----BEGIN"):
            found = [x509.load_pem_x509_certificate(block) for kind, block in _blocks(raw) if kind == "CERTIFICATE"]
        else:
            found = _der_chain(raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BuiltinError(f"malformed certificate: {error}") from error
    if not found:
        raise BuiltinError("no certificate")
    return found


def _der_chain(raw: bytes) -> list[x509.Certificate]:
    """Split certificates written one after the other: each begins with a SEQUENCE and a long length (X.690 8.1.3.5)."""
    found, position = [], 0
    while position < len(raw):
        if raw[position] != 0x30 or len(raw) < position + 4 or not 0x81 <= raw[position + 1] <= 0x84:
            raise BuiltinError("malformed certificate")
        width = raw[position + 1] - 0x80
        size = 2 + width + int.from_bytes(raw[position + 2 : position + 2 + width], "big")
        found.append(x509.load_der_x509_certificate(raw[position : position + size]))
        position += size
    return found


def _name(name: x509.Name) -> dict[str, Any]:
    shown: dict[str, Any] = {field: ([str(entry.value) for entry in name.get_attributes_for_oid(oid)] or None) for field, oid in _NAMES.items()}
    for field, oid in (("CommonName", NameOID.COMMON_NAME), ("SerialNumber", NameOID.SERIAL_NUMBER)):
        values = name.get_attributes_for_oid(oid)
        shown[field] = str(values[-1].value) if values else ""
    return shown


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _alternatives(holder: Any) -> dict[str, Any]:
    try:
        names = holder.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return dict.fromkeys(("DNSNames", "EmailAddresses", "IPAddresses", "URIs", "URIStrings"))
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return {
        "DNSNames": names.get_values_for_type(x509.DNSName) or None,
        "EmailAddresses": names.get_values_for_type(x509.RFC822Name) or None,
        "IPAddresses": [str(address) for address in names.get_values_for_type(x509.IPAddress)] or None,
        "URIStrings": uris or None,
    }


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _certificate(certificate: x509.Certificate) -> dict[str, Any]:
    try:
        authority = bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        authority = False
    return {
        "Version": certificate.version.value + 1,
        "SerialNumber": certificate.serial_number,
        "Subject": _name(certificate.subject),
        "Issuer": _name(certificate.issuer),
        "NotBefore": _moment(certificate.not_valid_before_utc),
        "NotAfter": _moment(certificate.not_valid_after_utc),
        "IsCA": authority,
        "Raw": _base64(certificate.public_bytes(serialization.Encoding.DER)),
        "Signature": _base64(certificate.signature),
        **_alternatives(certificate),
    }


@builtin("crypto.x509.parse_certificates", 1)
def parse_certificates(text: Any) -> list[Any]:
    """The certificates of a PEM, DER or base64 text."""
    return [_certificate(certificate) for certificate in certificates(want_string(text))]


@builtin("crypto.x509.parse_certificate_request", 1)
def parse_request(text: Any) -> dict[str, Any]:
    """A certificate signing request."""
    raw = _bytes(want_string(text))
    try:
        is_pem = raw.startswith(b"-----BEGIN")
        request = x509.load_pem_x509_csr(raw) if is_pem else x509.load_der_x509_csr(raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BuiltinError(f"malformed certificate request: {error}") from error
    return {
        "Version": 0,
        "Subject": _name(request.subject),
        "Raw": _base64(request.public_bytes(serialization.Encoding.DER)),
        "Signature": _base64(request.signature),
        **_alternatives(request),
    }


# --- verification --------------------------------------------------------------------------------------------------------


def _verified(text: str, when: datetime, dns_name: str | None, usages: list[Any]) -> list[Any]:
    """The first certificate is the root, the last the leaf, those between are intermediates."""
    try:
        chain = certificates(text)
        if len(chain) < 2:
            return [False, []]
        root, *middle, leaf = chain
        ordered = _chain(leaf, middle, root, when)
    except (BuiltinError, ValueError, UnsupportedAlgorithm):
        return [False, []]
    if not ordered or not _usable(leaf, dns_name, usages):
        return [False, []]
    return [True, [_certificate(certificate) for certificate in ordered]]


def _chain(leaf: x509.Certificate, middle: list[x509.Certificate], root: x509.Certificate, when: datetime) -> list[x509.Certificate]:
    """Follow issuers from the leaf to the root; every link is valid at `when`, signed, and a CA above the leaf."""
    found, current = [leaf], leaf
    while True:
        if not current.not_valid_before_utc <= when <= current.not_valid_after_utc:
            return []
        if current is not leaf and not _certificate(current)["IsCA"]:
            return []
        if current.fingerprint(hashes.SHA256()) == root.fingerprint(hashes.SHA256()):
            return found
        candidates = [root, *middle]
        issuer = next((entry for entry in candidates if entry not in found and _issued(entry, current)), None)
        if issuer is None or len(found) > 20:
            return []
        found.append(issuer)
        current = issuer


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 - ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm: all mean "not by this one"
        return False
    return True


def _usable(leaf: x509.Certificate, dns_name: str | None, usages: list[Any]) -> bool:
    try:
        allowed = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        allowed = set(usages)
    if 0 not in usages and not allowed & set(usages):
        return False
    if dns_name is None:
        return True
    names = _alternatives(leaf)["DNSNames"] or []
    wanted = dns_name.lower().rstrip(".")
    parent = "*." + wanted.partition(".")[2]
    return any(name.lower() in {wanted, parent} for name in names)


def _now(context: Any) -> datetime:
    return datetime.fromtimestamp(context.now_ns / 1e9, UTC)


@builtin("crypto.x509.parse_and_verify_certificates", 1, context=True)
def verify(context: Any, text: Any) -> list[Any]:
    """[whether the chain holds at the caller's now, the chain from leaf to root]."""
    return _verified(want_string(text), _now(context), None, [ExtendedKeyUsageOID.SERVER_AUTH])


@builtin("crypto.x509.parse_and_verify_certificates_with_options", 2, context=True)
def verify_with(context: Any, text: Any, options: Any) -> list[Any]:
    """As above with `CurrentTime` (ns), `DNSName`, `KeyUsages`, `MaxConstraintComparisons`."""
    given = want_object(options, 2)
    when, dns_name, usages = _now(context), None, [ExtendedKeyUsageOID.SERVER_AUTH]
    for key, value in given.items():
        if key == "CurrentTime" and type(value) in NUMBERS:
            when = datetime.fromtimestamp(value / 1e9, UTC)
        elif key == "DNSName" and type(value) is str:
            dns_name = value
        elif key == "KeyUsages" and all(usage in _USAGES for usage in value):
            usages = [_USAGES[usage] for usage in value]
        elif key != "MaxConstraintComparisons":
            raise BuiltinError(f"invalid key option `{key}`")
    return _verified(want_string(text), when, dns_name, usages)


# --- keys ----------------------------------------------------------------------------------------------------------------


def _unsigned(number: int, width: int = 0) -> str:
    raw = number.to_bytes(width or (number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _private_jwk(key: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        public = numbers.public_numbers
        return {
            "kty": "RSA", "n": _unsigned(public.n), "e": _unsigned(public.e), "d": _unsigned(numbers.d), "p": _unsigned(numbers.p),
            "q": _unsigned(numbers.q), "dp": _unsigned(numbers.dmp1), "dq": _unsigned(numbers.dmq1), "qi": _unsigned(numbers.iqmp),
        }  # fmt: skip
    if isinstance(key, ec.EllipticCurvePrivateKey):
        width = (key.key_size + 7) // 8
        point = key.private_numbers().public_numbers
        secret = key.private_numbers().private_value
        names = {256: "P-256", 384: "P-384", 521: "P-521"}
        return {
            "kty": "EC", "crv": names.get(key.key_size, ""), "x": _unsigned(point.x, width), "y": _unsigned(point.y, width),
            "d": _unsigned(secret, width),
        }  # fmt: skip
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {
            "kty": "OKP", "crv": "Ed25519", "d": _unsigned(int.from_bytes(key.private_bytes_raw(), "big"), 32),
            "x": _unsigned(int.from_bytes(key.public_key().public_bytes_raw(), "big"), 32),
        }  # fmt: skip
    raise BuiltinError("unsupported key type")


def _private_keys(raw: bytes) -> list[Any]:
    try:
        return [serialization.load_pem_private_key(block, password=None) for kind, block in _blocks(raw) if kind.endswith("PRIVATE KEY")]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BuiltinError(f"malformed private key: {error}") from error


@builtin("crypto.x509.parse_rsa_private_key", 1)
def parse_rsa_private_key(text: Any) -> dict[str, Any]:
    """An RSA private key as JSON Web Key."""
    keys = [key for key in _private_keys(_bytes(want_string(text))) if isinstance(key, rsa.RSAPrivateKey)]
    if not keys:
        raise BuiltinError("no RSA private key")
    return _private_jwk(keys[0])


@builtin("crypto.parse_private_keys", 1)
def parse_private_keys(text: Any) -> list[Any] | None:
    """Private keys as JSON Web Keys; null for an empty text."""
    if not want_string(text):
        return None
    raw = text.encode() if "-----BEGIN" in text else _bytes_or_nothing(text)
    return [_private_jwk(key) for key in _private_keys(raw)]


def _bytes_or_nothing(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


@builtin("crypto.x509.parse_keypair", 2)
def parse_keypair(certificate: Any, key: Any) -> dict[str, Any]:
    """A certificate chain with its private key; they must belong together."""
    chain = certificates(want_string(certificate))
    keys = _private_keys(_bytes(want_string(key, 2)))
    if not keys:
        raise BuiltinError("no private key")
    if keys[0].public_key() != chain[0].public_key():
        raise BuiltinError("private key does not match public key")
    return {
        "Certificate": [_base64(entry.public_bytes(serialization.Encoding.DER)) for entry in chain],
        "Leaf": _certificate(chain[0]),
        "PrivateKey": _private_jwk(keys[0]),
    }
