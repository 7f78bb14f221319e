"""Assignment by somebody else: a feature-flag product chooses the arm and the caller says which with the call (`Assay-Variant`).

What that allows and what not (semantics.md 3.8):

- The arm is recorded as it was said, with `mode: external`, the other system's name and no hashes. No probability is claimed but the split its owner
  declared; with none declared `shares` is empty and nothing is tested, only described.
- Its ratio can be tested (sample ratio against the declared split), its randomness cannot: nothing here can recompute why a unit got its arm. So it
  never promotes by itself, and neither off-policy evaluation nor a bandit may learn from it.
- A unit that comes with two arms counts by its first; such units are counted (`Evidence.flipped`).
- A call that says nothing of this experiment takes no part. One that names no arm of it is refused, or served by the control, recorded as
  `unknown_variant` and not compared.
- Targeting and exclusions are ours and come first; eligibility too: an arm that may not serve is not served, whoever asked for it.

Example:
    >>> ExternalAssigner(document, live).assign(pseudonym, variants={"new-prompt": "on"}).arm
    'treatment'
"""

from __future__ import annotations

from typing import Any

from experiments.assignment import Assigner, Assignment, Draw, Variants
from experiments.document import ExperimentDocument, LiveExperiment
from experiments.targeting import EMPTY, Context, matches


class ExternalAssigner(Assigner):
    """One experiment that another system assigns, at one live state. Immutable."""

    __slots__ = ("_external",)

    def __init__(self, document: ExperimentDocument, live: LiveExperiment) -> None:
        """Prepare. Raises ValueError as `Assigner`, or for a document that we assign."""
        super().__init__(document, live)
        if document.external is None:
            raise ValueError(f"`{document.experiment}` is assigned here")
        self._external = document.external
        self._extra = {"control": document.control, "system": document.external.system}

    def assign(
        self, pseudonym: str, draw: Draw | None = None, context: Context = EMPTY, unit: str = "", variants: Variants | None = None
    ) -> Assignment | None:
        """Take the arm the caller says; None where it says nothing of this experiment, or the rules do not hold for it."""
        del pseudonym, draw, unit  # whose arm it is the other system knows
        said = None if variants is None else variants.get(self._document.experiment)
        if said is None or not self.in_force or (self._reads_context and not matches(self._document.who, context)):
            return None
        extra: dict[str, Any] = dict(self._with_context(context) if self._reads_context else self._extra)
        arm = self._external.variants.get(said)
        problem = ""
        if arm is None:
            extra["unknown_variant"] = 1
            if self._external.unknown == "refuse" and self._live.phase == "running":  # afterwards no call may fail for the experiment
                allowed = ", ".join(f"`{name}`" for name in sorted(self._external.variants))
                problem = f"`{said}` is no arm of experiment `{self._document.experiment}`; allowed: {allowed}"
        if arm is None or "excluded" in extra or self._live.phase != "running":
            return self._made(self._document.control, False, self._control_versions, {}, extra, problem)
        return self._made(arm, True, self._all_versions, {}, extra)
