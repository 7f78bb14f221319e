"""The life of an experiment as one table: which step leads from where to where, and who may ask for it.

Five stages; `decided` is one of four phases, because what was decided matters to whoever is served:

| stage | phases | who is served what |
|---|---|---|
| draft | `draft` | the model's default; nothing has been drawn |
| running | `running` | exposed units are split |
| paused | `paused` | the control serves everyone; evidence is kept, late labels count on |
| decided | `promoted`, `rolled_back`, `stopped`, `superseded` | the winner; the control; the default; the default |
| archived | `archived` | the default; its file is gone, its records are not |

Rules: what is not in `TABLE` is illegal and changes nothing. A decided experiment never runs again: the same file with another `seed` is a new epoch
with other draws, so that nothing is carried over. `ASKED_BY` are the steps people may ask for, with the scope that allows it; whoever is on call may
always make things safer, alone.

Example:
    >>> TABLE[("running", "pause")], STAGE[TABLE[("running", "promote")]]
    ('paused', 'decided')
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from experiments.document import Phase

Verb = Literal["start", "advance", "hold", "approve", "pause", "resume", "rollback", "promote", "stop", "supersede", "archive"]
Stage = Literal["draft", "running", "paused", "decided", "archived"]

TABLE: Final[Mapping[tuple[Phase, Verb], Phase]] = {
    ("draft", "start"): "running",
    ("draft", "stop"): "stopped",
    ("draft", "supersede"): "superseded",
    ("draft", "archive"): "archived",
    ("running", "advance"): "running",
    ("running", "hold"): "running",
    ("running", "approve"): "running",
    ("running", "pause"): "paused",
    ("running", "rollback"): "rolled_back",
    ("running", "promote"): "promoted",
    ("running", "stop"): "stopped",
    ("running", "supersede"): "superseded",
    ("paused", "hold"): "paused",
    ("paused", "approve"): "paused",
    ("paused", "resume"): "running",
    ("paused", "rollback"): "rolled_back",
    ("paused", "stop"): "stopped",
    ("paused", "supersede"): "superseded",
    ("promoted", "rollback"): "rolled_back",
    ("promoted", "stop"): "stopped",
    ("promoted", "supersede"): "superseded",
    ("promoted", "archive"): "archived",
    ("rolled_back", "stop"): "stopped",
    ("rolled_back", "supersede"): "superseded",
    ("rolled_back", "archive"): "archived",
    ("stopped", "archive"): "archived",
    ("superseded", "archive"): "archived",
}
"""(phase, verb) -> phase after it. What is not here is illegal; `archived` is final."""

STAGE: Final[Mapping[Phase, Stage]] = {
    "draft": "draft",
    "running": "running",
    "paused": "paused",
    "promoted": "decided",
    "rolled_back": "decided",
    "stopped": "decided",
    "superseded": "decided",
    "archived": "archived",
}
"""Phase -> stage of its life."""

ASKED_BY: Final[Mapping[Verb, str]] = {
    "start": "experiment:start",
    "resume": "experiment:start",
    "pause": "experiment:operate",
    "rollback": "experiment:operate",
    "stop": "experiment:operate",
    "approve": "experiment:promote",
    "promote": "experiment:promote",
}
"""Steps people may ask for -> the scope their key needs."""


class IllegalStepError(ValueError):
    """The step does not exist from here; nothing was changed."""


def after(name: str, phase: Phase, verb: Verb) -> Phase:
    """Return the phase a step leads to. Raises IllegalStepError, naming what is allowed instead."""
    found = TABLE.get((phase, verb))
    if found is None:
        allowed = ", ".join(f"`{known}`" for known in may_be_asked(phase)) or "nothing"
        raise IllegalStepError(f"`{name}` is {phase.replace('_', ' ')}: cannot {verb}; allowed from here: {allowed}")
    return found


def may_be_asked(phase: Phase) -> tuple[Verb, ...]:
    """Return the steps people may ask for from a phase, in the order of the table."""
    return tuple(verb for at, verb in TABLE if at == phase and verb in ASKED_BY)
