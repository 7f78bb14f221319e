"""Steps that people ask for: who may, with which consents, and what the record says of it.

Rules (semantics.md 2.8):
- Making things safer (pause, stop, roll back) takes one key with `experiment:operate`, alone and at any time.
- Starting and resuming take `experiment:start`; promoting takes `experiment:promote`. `admin:write` is all three. A key that names models may act on
  their experiments alone.
- A step that asks for approval is left with the signed consent of the person it names, or of any approver where it says `approver`.
- Promoting what is not proven fine takes the signed consents of two people and is marked `against_evidence` for good.
- An order names the epoch and phase it was decided on; if the experiment has moved since, nothing happens.

Example:
    order = admit(Asked("credit-v4", "pause", "too many complaints", actor), running, principal, root, now_us)
    await rollouts.take(order, now_us)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from experiments.lifecycle import ASKED_BY, IllegalStepError, Verb
from experiments.rollout import RolloutState, has_enough, is_proven
from experiments.verdict import Verdict
from gateway.authenticate import Principal
from gateway.refusals import Refusal
from policies.consent import Consent, InvalidConsent, load_consent
from policies.trust import TrustRoot

if TYPE_CHECKING:
    from gateway.control.running import Running

AGAINST_EVIDENCE_PEOPLE: Final = 2
ANY_APPROVER: Final = "approver"
MOST_REASON: Final = 500


@dataclass(frozen=True, slots=True)
class Asked:
    """What someone asks for, as the API read it."""

    experiment: str
    verb: Verb
    reason: str
    epoch: int | None = None
    phase: str | None = None
    """Epoch and phase it was decided on, where the caller says."""
    envelopes: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """A step that may be taken."""

    experiment: str
    verb: Verb
    reason: str
    actor: Mapping[str, str]
    epoch: int | None = None
    phase: str | None = None
    signed: tuple[tuple[str, str], ...] = ()
    """(person, envelope) of each consent it rests on."""
    against_evidence: bool = False

    def require_seen(self, state: RolloutState) -> None:
        """Check that the experiment is where the order was decided. Raises IllegalStepError."""
        if (self.epoch is not None and self.epoch != state.epoch) or (self.phase is not None and self.phase != state.phase):
            where = f"{state.phase.replace('_', ' ')} in epoch {state.epoch}"
            raise IllegalStepError(f"`{self.experiment}` has moved on: it is {where}; look again before you {self.verb} it")

    def record_part(self, verdict: Verdict) -> dict[str, Any]:
        """Return what the record says beside the step itself: who asked, who consented, what was known."""
        part: dict[str, Any] = {"actor": dict(self.actor), "known": {"outcome": verdict.outcome, "reasons": list(verdict.reasons[:8])}}
        if self.signed:
            part["signed"] = [{"person": person, "envelope": envelope} for person, envelope in self.signed]
        if self.against_evidence:
            part["against_evidence"] = True
        return part


def admit(asked: Asked, running: Mapping[str, Running], principal: Principal, root: TrustRoot, now_us: int) -> Order:
    """Say whether someone may have what they ask for.

    Args:
        asked: the step.
        running: every configured experiment.
        principal: whose key it is.
        root: trust root in force.
        now_us: Unix microseconds.

    Raises:
        Refusal: unknown experiment, missing scope, model not allowed, or too few consents.
    """
    found = running.get(asked.experiment)
    if found is None:
        raise unknown(asked.experiment)
    scope = ASKED_BY[asked.verb]
    if not {scope, "admin:write"} & set(principal.scopes):
        raise Refusal("missing_scope", f"to {asked.verb} an experiment needs the scope `{scope}`")
    if principal.models is not None and found.document.model not in principal.models:
        raise Refusal("model_not_allowed", f"this key may not act on experiments of `{found.document.model}`")
    if not 0 < len(asked.reason) <= MOST_REASON:
        raise Refusal("schema_mismatch", f"`reason` has to say why in 1 to {MOST_REASON} characters; it goes into the log")
    consents = _consents(asked, found, root, now_us)
    against = asked.verb == "promote" and not _is_proven(found, running)
    if asked.verb == "approve":
        _require_approver(found, consents)
    if against and len({consent.person for consent, _ in consents}) < AGAINST_EVIDENCE_PEOPLE:
        raise Refusal(
            "not_proven",
            f"`{asked.experiment}` is not proven fine: {(found.verdict.reasons or ('no data yet',))[0]}",
            hint=f"against the evidence {AGAINST_EVIDENCE_PEOPLE} approvers sign: `assay experiment promote NAME --as PERSON --key FILE`",
        )
    signed = tuple((consent.person, envelope.decode()) for consent, envelope in consents)
    return Order(asked.experiment, asked.verb, asked.reason, principal.actor, asked.epoch, asked.phase, signed, against)


def unknown(experiment: str, problems: int = 0) -> Refusal:
    """Return the refusal of an experiment that is not in force; where the folder has problems its file may be saved all the same."""
    if not problems:
        return Refusal("unknown_experiment", f"no experiment `{experiment}`", hint="`assay experiment list` names those that are configured")
    what = f"no experiment `{experiment}` is in force; problems of the configuration folder: {problems}, so what was saved last does not count"
    return Refusal("unknown_experiment", what, hint="`assay check` tells them; once they are mended it is in force within a second")


def needs_signatures(found: Running, verb: Verb) -> bool:
    """Say whether a step rests on people's signatures, as far as the experiment itself tells."""
    is_switch = found.document.strategy == "blue_green"
    return verb == "approve" or (verb == "promote" and not is_switch and not is_proven(found.document, found.state, found.verdict))


def _is_proven(found: Running, running: Mapping[str, Running]) -> bool:
    """Say whether promoting rests on what was declared: the evidence, or for a switch its shadow, or nothing where nothing was asked for."""
    document = found.document
    if document.strategy != "blue_green":
        return is_proven(document, found.state, found.verdict)
    shadow = None if document.verify_shadow is None else running.get(document.verify_shadow)
    if shadow is None:
        return document.verify_shadow is None
    return shadow.verdict.outcome == "fine" and has_enough(shadow.document, shadow.state, shadow.verdict)


def _consents(asked: Asked, found: Running, root: TrustRoot, now_us: int) -> Sequence[tuple[Consent, bytes]]:
    """Return the consents that are for exactly this, one a person."""
    kept: dict[str, tuple[Consent, bytes]] = {}
    for envelope in asked.envelopes:
        try:
            consent = load_consent(envelope, root)
        except InvalidConsent as fault:
            raise Refusal("bad_consent", f"a consent does not verify: {fault}") from None
        if not consent.is_for(asked.experiment, found.state.epoch, found.digest, asked.verb, found.state.step):
            raise Refusal("bad_consent", f"the consent of `{consent.person}` is for another experiment, epoch, document, action or step")
        if not consent.issued_at_us - 60_000_000 <= now_us < consent.not_after_us:
            raise Refusal("bad_consent", f"the consent of `{consent.person}` does not hold at this time")
        kept[consent.person] = (consent, envelope)
    return [kept[person] for person in sorted(kept)]


def _require_approver(found: Running, consents: Sequence[tuple[Consent, bytes]]) -> None:
    wanted = found.document.steps[found.state.step].approve
    if wanted is None:
        return  # the state machine says that nothing is asked for here
    if not any(wanted in (ANY_APPROVER, consent.person) for consent, _ in consents):
        who = "an approver" if wanted == ANY_APPROVER else f"`{wanted}`"
        raise Refusal(
            "not_approved",
            f"step {found.state.step} of `{found.document.experiment}` is left with the signed consent of {who}",
            hint="`assay experiment approve NAME --as PERSON --key FILE`",
        )
