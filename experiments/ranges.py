"""Assignment as another system does it: its hash on the raw id, ranges in the declared order, so that moving here moves nobody.

Ranges follow GrowthBook: arm i has [start_i, start_i + exposure * share_i), where start_i is the sum of the shares before it; what is not covered
is served by the control and not compared. The bucket is an integer at the mode's own resolution, and stands in the record with the ranges, so that
the arm follows from the record; which raw id it was does not, because records hold pseudonyms.

Rules: a change of shares or exposure moves innocents, other than in native mode; `assay experiment plan` says how many. A call without a unit of its
own takes no part. `growthbook-v1` is for experiments that run already: arms of experiments with similar names are correlated (-0.5 measured), so
start new ones in native mode.

Example:
    >>> RangeAssigner(document, live).assign(pseudonym, unit="customer-17").route()["bucket"]
    505
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from experiments.assignment import Assigner, Assignment, Draw, Variants
from experiments.bucketing import Mode, bucket
from experiments.document import ExperimentDocument, LiveExperiment
from experiments.external import ExternalAssigner
from experiments.shares import WHOLE
from experiments.targeting import EMPTY, Context, matches

RESOLUTION: Final[Mapping[Mode, int]] = {"growthbook-v1": 1_000, "growthbook-v2": 10_000, "unleash-murmur3": 100, "flagd-v2": 2**32}
"""Buckets of each mode; their numbers are what the record states."""


def ranges_of(shares: Mapping[str, int], order: tuple[str, ...], exposure: int, resolution: int) -> dict[str, list[int]]:
    """Return arm -> [first, end) in buckets; shares and exposure out of 2**32."""
    found, start = {}, Fraction(0)
    for arm in order:
        share = Fraction(shares[arm], WHOLE)
        end = start + share * Fraction(exposure, WHOLE)
        found[arm] = [math.ceil(start * resolution), math.ceil(end * resolution)]
        start += share
    return found


class RangeAssigner(Assigner):
    """One running experiment in a compatibility mode. Immutable."""

    __slots__ = ("_mode", "_ranges", "_seed")

    def __init__(self, document: ExperimentDocument, live: LiveExperiment) -> None:
        """Work the ranges out. Raises ValueError as `Assigner`, or for a document in native mode."""
        super().__init__(document, live)
        bucketing = document.bucketing
        mode = document.mode
        if bucketing is None or mode == "native" or mode == "external":  # noqa: PLR1714 - two comparisons are what narrows the type
            raise ValueError(f"`{document.experiment}` does not draw as another system does")
        self._mode: Mode = mode
        self._seed = bucketing.seed
        self._ranges = ranges_of(live.shares, bucketing.order, live.exposure, RESOLUTION[mode])

    def assign(
        self, pseudonym: str, draw: Draw | None = None, context: Context = EMPTY, unit: str = "", variants: Variants | None = None
    ) -> Assignment | None:
        """Assign one unit by its raw id; None where the rules do not hold for it or it has none."""
        del pseudonym, draw, variants  # other systems know neither
        if not self.in_force or not unit or (self._reads_context and not matches(self._document.who, context)):
            return None
        extra: dict[str, Any] = dict(self._with_context(context) if self._reads_context else self._extra)
        extra["control"] = self._document.control
        if "excluded" in extra:
            return self._made(self._document.control, False, self._control_versions, {}, extra)
        number = round(bucket(unit, self._seed, self._mode) * RESOLUTION[self._mode])
        extra |= {"bucket": number, "ranges": self._ranges}
        for arm, (first, end) in self._ranges.items():
            if first <= number < end:
                return self._made(arm, True, self._all_versions, {}, extra)
        return self._made(self._document.control, False, self._control_versions, {}, extra)


def assigner_of(document: ExperimentDocument, live: LiveExperiment) -> Assigner:
    """Return who assigns: whoever says so with the call; by ranges while it runs in a compatibility mode; natively otherwise."""
    if document.external is not None:
        return ExternalAssigner(document, live)
    return RangeAssigner(document, live) if document.mode != "native" and live.phase == "running" else Assigner(document, live)
