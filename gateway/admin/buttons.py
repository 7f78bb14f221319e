"""The buttons of an experiment's page: which steps this person may take from here, and what each will do before they press it.

A button sends a reason, and the epoch and phase the page was made from; if the experiment has moved since, nothing happens. Steps that rest on
signatures are not buttons: a browser holds no private key, so the page says which command signs.

Example:
    buttons_for(running, principal)     # [Button("pause", "Pause", "Version 3 serves everyone within a second; ...")]
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments.lifecycle import ASKED_BY, Verb
from experiments.progress import offered
from experiments.rollout import WINNERS
from gateway.authenticate import Principal
from gateway.control.orders import needs_signatures
from gateway.control.running import Running


@dataclass(frozen=True, slots=True)
class Button:
    """One step and its consequence."""

    verb: Verb
    label: str
    consequence: str
    command: str = ""
    """Signs and sends it, where a button cannot."""


def buttons_for(found: Running, principal: Principal) -> list[Button]:
    """Return the steps this principal may take from where the experiment is."""
    if principal.models is not None and found.document.model not in principal.models:
        return []
    name = found.document.experiment
    buttons = []
    for verb in offered(found.document, found.state):
        if not {ASKED_BY[verb], "admin:write"} & set(principal.scopes):
            continue
        command = f"assay experiment {verb} {name} --as PERSON --key FILE" if needs_signatures(found, verb) else ""
        buttons.append(Button(verb, verb.replace("rollback", "roll back").capitalize(), _consequence(found, verb), command))
    return buttons


def _consequence(found: Running, verb: Verb) -> str:
    document = found.document
    champion = document.arms[document.control]
    control = f"version {champion} ({document.control})" if champion else "the model's default version"
    winner = WINNERS.get(document.strategy, "")
    told: dict[str, str] = {
        "start": "The plan is hashed and committed, then units are drawn. What is in the plan cannot be changed without a new epoch.",
        "resume": "Units are drawn again as before the pause, with the same arms; the hold of this step begins anew.",
        "pause": f"Within a second {control} serves everyone. Evidence is kept, late labels count on, and the deadline goes on.",
        "rollback": f"Within a second {control} serves everyone, for good: this experiment does not run again.",
        "stop": "It ends without a decision, and the model's default version serves everyone. It does not run again.",
        "approve": f"This step may be left: the person it names ({document.steps[found.state.step].approve}) signs.",
        "promote": f"Within a second version {document.arms.get(winner, '')} ({winner}) serves everyone. `rollback` takes it back.",
    }
    if document.strategy == "shadow":
        told |= {
            "start": "The plan is hashed and committed, then calls are mirrored. Callers notice nothing.",
            "resume": "Calls are mirrored again as before the pause.",
            "pause": "Within a second nothing is mirrored any more; callers notice nothing. What was compared is kept, and the deadline goes on.",
            "rollback": "Within a second nothing is mirrored any more, for good; callers notice nothing. This shadow does not run again.",
            "stop": "It ends without a decision: nothing is mirrored any more, and callers notice nothing. It does not run again.",
        }
    if verb == "promote" and needs_signatures(found, verb):
        return told[verb] + " It is not proven fine: two approvers sign, and the record says so for good."
    return told[verb]
