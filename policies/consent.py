"""A person's signed consent to one step of one experiment: to leave a step that asks for a yes, or to promote against the evidence.

A consent is canonical JSON in a DSSE envelope. It binds experiment, epoch, document, action and step, so that it can be used for nothing else, and
holds for at most `LONGEST_US`. Whether the person is one who may is the trust root's to say: they need the role `approver`.

Rules:
- A **person** counts, not a key: two consents of one person are one voice.
- The signature is checked when it arrives, and the whole envelope goes into the record of the step: anyone can check it again.

Example:
    envelope = sign_consent(Consent("credit-v4", 1, digest, "approve", 2, "seen the slices", now_us, now_us + DAY_US), key)
    load_consent(envelope, root).person      # "alice"
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

import msgspec

from audit import canonical
from policies.approvals import time_text, time_us
from policies.dsse import Envelope, InvalidEnvelope, seal, strict_json
from policies.trust import PersonKey, TrustRoot

PAYLOAD_TYPE: Final = "application/vnd.assay.rollout-consent+json"
LONGEST_US: Final = 7 * 86_400_000_000
"""A consent is to what is seen now; after a week someone has to look again."""


_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class InvalidConsent(ValueError):  # noqa: N818 - reads as the statement it is
    """An envelope is not a valid consent under this trust root."""


@dataclass(frozen=True, slots=True)
class Consent:
    """What one person agreed to. Times in Unix microseconds; it holds from `issued_at_us` until before `not_after_us`."""

    experiment: str
    epoch: int
    document_digest: str
    """Digest of the experiment's compiled document, 64 hex digits."""
    action: Literal["approve", "promote"]
    step: int
    reason: str
    issued_at_us: int
    not_after_us: int
    person: str = ""
    """Who signed. Comes from the trust root, not from the statement."""

    def is_for(self, experiment: str, epoch: int, document_digest: str, action: str, step: int) -> bool:
        """Say whether it is a consent to exactly this."""
        return (self.experiment, self.epoch, self.document_digest, self.action, self.step) == (experiment, epoch, document_digest, action, step)


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    experiment: str
    epoch: int
    document_digest: str
    action: Literal["approve", "promote"]
    step: int
    reason: str
    issued_at: str
    not_after: str


def sign_consent(consent: Consent, key: PersonKey) -> bytes:
    """Return the envelope of a consent."""
    payload = {
        "experiment": consent.experiment,
        "epoch": consent.epoch,
        "document_digest": consent.document_digest,
        "action": consent.action,
        "step": consent.step,
        "reason": consent.reason,
        "issued_at": time_text(consent.issued_at_us),
        "not_after": time_text(consent.not_after_us),
    }
    return seal(PAYLOAD_TYPE, canonical.encode(payload), key.id, key.sign).encode()


def load_consent(data: bytes, root: TrustRoot) -> Consent:
    """Return what an envelope says, verified against the trust root. The caller MUST still judge time and what it is for.

    Raises:
        InvalidConsent: the envelope, its signature, the signer's role or the statement is not as it has to be.
    """
    said, person = signed_statement(data, root, PAYLOAD_TYPE, _Payload)
    issued_us, ends_us = validity(said.issued_at, said.not_after)
    consent = Consent(said.experiment, said.epoch, said.document_digest, said.action, said.step, said.reason, issued_us, ends_us)
    return replace(consent, person=person)


def signed_statement(data: bytes, root: TrustRoot, payload_type: str, kind: type[_Kind]) -> tuple[_Kind, str]:
    """Return the statement in an envelope and the approver who signed it. Raises InvalidConsent."""
    try:
        envelope = Envelope.parse(data)
    except InvalidEnvelope as error:
        raise InvalidConsent(str(error)) from error
    if envelope.payload_type != payload_type:
        raise InvalidConsent(f"payload type is `{envelope.payload_type}`, not `{payload_type}`")
    person = root.verify(envelope.key_id, envelope.signed_bytes, envelope.signature)
    if person is None:
        raise InvalidConsent(f"key `{envelope.key_id}` is not in trust root version {root.version}, or the signature is not by it")
    if "approver" not in person.roles:
        raise InvalidConsent(f"`{person.name}` does not have the role `approver` in trust root version {root.version}")
    try:
        said = msgspec.convert(strict_json(envelope.payload, InvalidConsent, "consent"), kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidConsent(f"consent: {error}") from error
    return said, person.name


def validity(issued_at: str, not_after: str) -> tuple[int, int]:
    """Return from when until before when a consent holds, Unix microseconds. Raises InvalidConsent where that is too long, or no time."""
    try:
        issued_us, ends_us = time_us(issued_at), time_us(not_after)
    except ValueError as error:
        raise InvalidConsent(f"consent: {error}") from error
    if not issued_us < ends_us <= issued_us + LONGEST_US:
        raise InvalidConsent("a consent ends after it was issued and at most 7 days later")
    return issued_us, ends_us
