"""A person's signed consent to the erasure of one subject. The signature goes into the log; who the subject is does not.

A consent is canonical JSON in a DSSE envelope, like one to a step of an experiment (`policies/consent.py`), and by the same people and rules. It
names the log by its origin, so that what was signed for a rehearsal erases nobody elsewhere, and the subject as
`about` = SHA-256(nonce || SHA-256(tenant) || unit). The nonce travels beside the envelope and is recorded nowhere: who has it can tell that the
envelope is for this subject; who has only the record can try no name against it. It serves one erasure: `statement_of` names it, by what was signed
and not by the signature, of which one statement may have several.

Example:
    nonce = os.urandom(NONCE_BYTES)
    consent = ErasureConsent("log.example/prod", "acme", about(nonce, "acme", unit), "request", now_us, now_us + DAY_US)
    envelope = sign_erasure(consent, key)
    load_erasure(envelope, root).person      # "alice"
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import msgspec

from audit import canonical
from policies.approvals import time_text
from policies.consent import signed_statement, validity
from policies.dsse import Envelope, InvalidEnvelope, seal
from policies.trust import PersonKey, TrustRoot

PAYLOAD_TYPE: Final = "application/vnd.assay.erasure-consent+json"
NONCE_BYTES: Final = 32
Ground = Literal["request", "objection", "retention", "order"]
"""Why a subject is erased, as a code: words could name a person. The subject asked; objected; its time is over; an authority or court ordered it."""
GROUNDS: Final[tuple[Ground, ...]] = get_args(Ground)


@dataclass(frozen=True, slots=True)
class ErasureConsent:
    """What one person agreed to. Times in Unix microseconds; it holds from `issued_at_us` until before `not_after_us`."""

    log: str
    """Origin of the deployment's log."""
    tenant: str
    about: str
    """See `about`, 64 hex digits."""
    ground: Ground
    issued_at_us: int
    not_after_us: int
    person: str = ""
    """Who signed. Comes from the trust root, not from the statement."""


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    log: str
    tenant: str
    erase: str
    ground: Ground
    issued_at: str
    not_after: str


def about(nonce: bytes, tenant: str, unit: str) -> str:
    """Return what a consent says instead of the subject."""
    return hashlib.sha256(nonce + hashlib.sha256(tenant.encode()).digest() + unit.encode()).hexdigest()


def statement_of(envelope: bytes) -> str:
    """Return what tells a consent from every other one: SHA-256 of what was signed, hex. Raises `policies.dsse.InvalidEnvelope`."""
    return hashlib.sha256(Envelope.parse(envelope).payload).hexdigest()


def statements_of(signed: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """Return the consents that a record `erasure` carries in `signed`; one that is no envelope could be given to nobody again."""
    found = set()
    for one in signed:
        with contextlib.suppress(InvalidEnvelope, KeyError):
            found.add(statement_of(one["envelope"].encode()))
    return frozenset(found)


def sign_erasure(consent: ErasureConsent, key: PersonKey) -> bytes:
    """Return the envelope of a consent."""
    payload = {
        "log": consent.log,
        "tenant": consent.tenant,
        "erase": consent.about,
        "ground": consent.ground,
        "issued_at": time_text(consent.issued_at_us),
        "not_after": time_text(consent.not_after_us),
    }
    return seal(PAYLOAD_TYPE, canonical.encode(payload), key.id, key.sign).encode()


def load_erasure(data: bytes, root: TrustRoot) -> ErasureConsent:
    """Return what an envelope says, verified against the trust root. The caller MUST still judge time and what it is about.

    Raises:
        policies.consent.InvalidConsent: envelope, signature, the signer's role or the statement is not as it has to be.
    """
    said, person = signed_statement(data, root, PAYLOAD_TYPE, _Payload)
    issued_us, ends_us = validity(said.issued_at, said.not_after)
    return replace(ErasureConsent(said.log, said.tenant, said.erase, said.ground, issued_us, ends_us), person=person)
