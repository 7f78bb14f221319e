"""Approvals: signed statements by which people put a model version in force, or take it out.

An approval is an in-toto Statement (https://in-toto.io/Statement/v1) in a DSSE envelope. It binds the digest of the artifact, the origins (with
their path prefix) that may serve it, the environments, the intended use word for word, the most exposure it may get, when it holds, and digests of
the evidence it rests on.
A revocation names a version and takes back every approval of it that was issued until then.

Rules (semantics.md 2.3, 2.4):
- m-of-n counts people. The person who handed the version in never counts.
- Anyone with the role `approver` may revoke, alone.
- The signature is checked once, when an envelope is loaded against the trust root. What moves is checked at every call: time, revocation, exposure,
  and that the version is the one approved (digest, origins): `policies.in_force`.

Example:
    approval = load(sign_approval(approval, key), root)
    approval.person      # who signed, as the trust root knows the key
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from audit import canonical
from policies.dsse import Envelope, InvalidEnvelope, seal, strict_json
from policies.trust import PersonKey, TrustRoot

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
APPROVAL: Final = "urn:assay:approval:v1"
REVOCATION: Final = "urn:assay:revocation:v1"
LONGEST_US: Final = 366 * 86_400_000_000
"""An approval holds for at most a year: someone has to look again."""
FOREVER_US: Final = 2**53 - 1
WHOLE: Final = 2**32
"""Exposure of everyone; exposures are integers out of it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


class InvalidApproval(ValueError):  # noqa: N818 - reads as the statement it is
    """An envelope is not a valid approval or revocation under this trust root."""


@dataclass(frozen=True, slots=True)
class Approval:
    """What one person approved. Times in Unix microseconds; it holds from `not_before_us` until before `not_after_us`."""

    model: str
    version: str
    digest: str
    """`sha256:<hex>` of the artifact."""
    origins: tuple[str, ...]
    """Sorted `scheme://host:port[/prefix]` that may serve it."""
    environments: tuple[str, ...]
    purpose: str
    """The route's `intended_use`, word for word."""
    max_exposure_ppm: int
    issued_at_us: int
    not_before_us: int
    not_after_us: int
    evidence: tuple[tuple[str, str], ...] = ()
    """Name and digest (`sha256:<hex>`) of each report it rests on."""
    person: str = ""
    """Who signed. Comes from the trust root, not from the statement."""
    id: str = ""
    """First 32 hex digits of the SHA-256 of the envelope."""

    @property
    def max_exposure(self) -> int:
        """Return the most exposure out of 2**32, rounded up so that a step of exactly this share is inside."""
        return min(WHOLE, -(-self.max_exposure_ppm * WHOLE // 1_000_000))

    def holds_at(self, now_us: int) -> bool:
        """Say whether it is valid at a time."""
        return self.not_before_us <= now_us < self.not_after_us


@dataclass(frozen=True, slots=True)
class Revocation:
    """What one person took back: every approval of the version's digest issued until `issued_at_us`."""

    model: str
    version: str
    digest: str
    reason: str
    issued_at_us: int
    person: str = ""
    id: str = ""

    def covers(self, approval: Approval) -> bool:
        """Say whether it takes `approval` back."""
        return (self.model, self.version, self.digest) == (approval.model, approval.version, approval.digest) and (
            approval.issued_at_us <= self.issued_at_us
        )


# --- writing and reading envelopes


def sign_approval(approval: Approval, key: PersonKey) -> bytes:
    """Return the envelope of an approval. Raises InvalidApproval when what it says could never be loaded."""
    predicate: dict[str, Any] = {
        "environments": list(approval.environments),
        "evidence": [{"name": name, "digest": digest} for name, digest in approval.evidence],
        "issued_at": time_text(approval.issued_at_us),
        "max_exposure_ppm": approval.max_exposure_ppm,
        "not_after": time_text(approval.not_after_us),
        "not_before": time_text(approval.not_before_us),
        "origins": list(approval.origins),
        "purpose": approval.purpose,
    }
    statement = _statement(APPROVAL, approval.model, approval.version, approval.digest, predicate)
    _read_approval(msgspec.convert(statement, _Statement))
    return _sealed(statement, key)


def sign_revocation(revocation: Revocation, key: PersonKey) -> bytes:
    """Return the envelope of a revocation."""
    predicate = {"issued_at": time_text(revocation.issued_at_us), "reason": revocation.reason}
    return _sealed(_statement(REVOCATION, revocation.model, revocation.version, revocation.digest, predicate), key)


def load(data: bytes, root: TrustRoot) -> Approval | Revocation:
    """Return what an envelope says, verified against the trust root.

    Steps: 1. the envelope's one spelling; 2. the signature, by a key of the root whose person is an approver; 3. the statement's shape.
    The caller MUST still judge time, revocation and what is bound: see `InForce`.

    Raises:
        InvalidApproval: any step fails.
    """
    try:
        envelope = Envelope.parse(data)  # 1
    except InvalidEnvelope as error:
        raise InvalidApproval(str(error)) from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise InvalidApproval(f"payload type is `{envelope.payload_type}`, not `{PAYLOAD_TYPE}`")
    person = root.verify(envelope.key_id, envelope.signed_bytes, envelope.signature)  # 2
    if person is None:
        raise InvalidApproval(f"key `{envelope.key_id}` is not in trust root version {root.version}, or the signature is not by it")
    if "approver" not in person.roles:
        raise InvalidApproval(f"`{person.name}` does not have the role `approver` in trust root version {root.version}")
    document = strict_json(envelope.payload, InvalidApproval, "statement")  # 3
    try:
        statement = msgspec.convert(document, _Statement)
        found = _read_approval(statement) if statement.predicate_type == APPROVAL else _read_revocation(statement)
    except msgspec.ValidationError as error:
        raise InvalidApproval(f"statement: {error}") from error
    return _with_signer(found, person.name, hashlib.sha256(data).hexdigest()[:32])


def recorded_revocation(data: bytes, person: str) -> Revocation:
    """Return what a revocation in the log takes back, its signature unread: it was verified before it was recorded.

    Whoever signed may have left the trust root since. What they took back stays taken back; only a later approval brings it back.

    Args:
        data: the envelope as recorded.
        person: who signed, as recorded.

    Raises:
        InvalidApproval: it is no revocation.
    """
    try:
        envelope = Envelope.parse(data)
        found = _read_revocation(msgspec.convert(strict_json(envelope.payload, InvalidApproval, "statement"), _Statement))
    except (InvalidEnvelope, msgspec.ValidationError) as error:
        raise InvalidApproval(str(error)) from error
    _with_signer(found, person, hashlib.sha256(data).hexdigest()[:32])
    return found


def _with_signer(found: Approval | Revocation, person: str, name: str) -> Approval | Revocation:
    object.__setattr__(found, "person", person)  # still being built: nobody else has seen it
    object.__setattr__(found, "id", name)
    return found


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what a statement holds."""


class _Subject(_Strict, frozen=True):
    name: str
    digest: dict[str, str]


class _Statement(_Strict, frozen=True):
    type_: str = msgspec.field(name="_type")
    subject: tuple[_Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: dict[str, Any]


class _Evidence(_Strict, frozen=True):
    name: str
    digest: str


class _ApprovalPredicate(_Strict, frozen=True):
    environments: tuple[str, ...]
    evidence: tuple[_Evidence, ...]
    issued_at: str
    max_exposure_ppm: int
    not_after: str
    not_before: str
    origins: tuple[str, ...]
    purpose: str


class _RevocationPredicate(_Strict, frozen=True):
    issued_at: str
    reason: str


def _statement(kind: str, model: str, version: str, digest: str, predicate: dict[str, Any]) -> dict[str, Any]:
    if not _DIGEST.match(digest):
        raise InvalidApproval(f"`{digest}` is not `sha256:` and 64 hex digits")
    subject = {"name": f"{model}/{version}", "digest": {"sha256": digest.removeprefix("sha256:")}}
    return {"_type": STATEMENT, "subject": [subject], "predicateType": kind, "predicate": predicate}


def _sealed(statement: dict[str, Any], key: PersonKey) -> bytes:
    return seal(PAYLOAD_TYPE, canonical.encode(statement), key.id, key.sign).encode()


def _subject(statement: _Statement) -> tuple[str, str, str]:
    if statement.type_ != STATEMENT or len(statement.subject) != 1:
        raise InvalidApproval(f"a statement is of type `{STATEMENT}` and has one subject")
    (subject,) = statement.subject
    model, slash, version = subject.name.partition("/")
    digest = f"sha256:{subject.digest.get('sha256', '')}"
    if not model or not slash or not version or set(subject.digest) != {"sha256"} or not _DIGEST.match(digest):
        raise InvalidApproval("the subject is `MODEL/VERSION` with one digest, `sha256`")
    return model, version, digest


def _read_approval(statement: _Statement) -> Approval:
    model, version, digest = _subject(statement)
    said = msgspec.convert(statement.predicate, _ApprovalPredicate)
    issued, begins, ends = time_us(said.issued_at), time_us(said.not_before), time_us(said.not_after)
    if not begins < ends <= begins + LONGEST_US:
        raise InvalidApproval("an approval ends after it begins and at most 366 days later")
    if issued > begins:
        raise InvalidApproval("an approval cannot begin before it was issued: a revocation could not reach it")
    if not 1 <= said.max_exposure_ppm <= 1_000_000:
        raise InvalidApproval(f"max_exposure_ppm must be 1 to 1000000, got `{said.max_exposure_ppm}`")
    if not said.origins or not said.environments or not said.purpose:
        raise InvalidApproval("an approval names at least one origin and one environment, and the purpose")
    if any(not _DIGEST.match(item.digest) for item in said.evidence):
        raise InvalidApproval("each evidence has a digest `sha256:` and 64 hex digits")
    evidence = tuple((item.name, item.digest) for item in said.evidence)
    return Approval(model, version, digest, said.origins, said.environments, said.purpose, said.max_exposure_ppm, issued, begins, ends, evidence)


def _read_revocation(statement: _Statement) -> Revocation:
    if statement.predicate_type != REVOCATION:
        raise InvalidApproval(f"predicate type `{statement.predicate_type}` is neither `{APPROVAL}` nor `{REVOCATION}`")
    model, version, digest = _subject(statement)
    said = msgspec.convert(statement.predicate, _RevocationPredicate)
    return Revocation(model, version, digest, said.reason, time_us(said.issued_at))


def time_text(us: int) -> str:
    """Return Unix microseconds as RFC 3339 UTC with six decimals."""
    return (_EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def time_us(text: str) -> int:
    """Return RFC 3339 UTC with six decimals as Unix microseconds. Raises InvalidApproval for any other spelling."""
    try:
        if _TIME.match(text):
            return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)
    except ValueError:
        pass
    raise InvalidApproval(f"`{text}` is not a time like `2026-11-20T10:00:00.000000Z`")


def origin_of(upstream: str) -> str:
    """Return `scheme://host:port[/prefix]` of an upstream: what an approval binds. Behind another prefix another model may answer."""
    parts = urlsplit(upstream)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}{parts.path.rstrip('/')}"
