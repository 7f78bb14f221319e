"""Effects with their intervals over time for the experiment page: worked out beside the loop, each look once.

An interval takes tenths of a second (`experiments/effects.py`), so the page asks for it in a thread. The thread sees finished counts alone
(`Running.looks`, `Running.evidence`); nothing of the controller changes under it.

Example:
    board = EffectBoard()
    shown = await asyncio.to_thread(board.of, document, looks)
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from audit.reports.effect_chart import effect_chart
from audit.reports.figures import gap, rate
from experiments.document import ExperimentDocument
from experiments.evidence import Evidence
from experiments.pairs import PairEvidence

_MOST_KEPT: Final = 2000
Look = tuple[str, Evidence]
"""When, and the counts as they stood."""


class EffectBoard:
    """Remembers the effects of every look. `_kept` and `_outlooks` are guarded by `_lock`, which is never held while an interval is worked out."""

    def __init__(self) -> None:
        """Start with nothing worked out."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int, str], list[dict[str, Any]]] = OrderedDict()
        self._outlooks: dict[str, tuple[tuple[int, str], list[str]]] = {}  # experiment -> epoch and time of its newest look, and what was said then

    def of(self, document: ExperimentDocument, looks: Sequence[Look]) -> list[dict[str, Any]]:
        """Return each metric of each arm as the page shows it: numbers, interval, chart.

        Args:
            document: the experiment.
            looks: oldest first; the last one is told in numbers, all are drawn.
        """
        if not looks:
            return []
        trail = [(time, self._effects(document, time, evidence)) for time, evidence in looks]
        return [self._shown(effect, trail) for effect in trail[-1][1]]

    def now(self, document: ExperimentDocument, time: str, evidence: Evidence | PairEvidence) -> dict[str, Any]:
        """Return what a person at a terminal asks: effects in ppm and in words (a shadow has none), and what would change the verdict."""
        from experiments.outlook import outlook, outlook_of_pairs  # noqa: PLC0415 - SciPy, only when someone asks

        if isinstance(evidence, PairEvidence):
            return {"effects": [], "outlook": [one.words for one in outlook_of_pairs(document, evidence)]}
        found = self._effects(document, time, evidence)
        return {
            "effects": [{**effect, "words": _sentence(effect)} for effect in found],
            "outlook": [one.words for one in outlook(document, evidence)],
        }

    def _effects(self, document: ExperimentDocument, time: str, evidence: Evidence) -> list[dict[str, Any]]:
        from experiments.effects import effects  # noqa: PLC0415 - SciPy, only when a page asks

        key = (document.experiment, evidence.epoch, time)
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            found = [msgspec.to_builtins(effect) for effect in effects(document, evidence)]
            with self._lock:
                self._kept[key] = found
                while len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
        return found

    def _shown(self, effect: dict[str, Any], trail: list[tuple[str, list[dict[str, Any]]]]) -> dict[str, Any]:
        mine = [{**one, "time": time} for time, found in trail for one in found if (one["metric"], one["arm"]) == (effect["metric"], effect["arm"])]
        return {
            "metric": effect["metric"],
            "past": effect.get("past", ""),
            "of": effect.get("of", ""),
            "arm": effect["arm"],
            "role": effect["role"],
            "units": f"{effect['n']:,} / {effect['control_n']:,}",
            "value": rate(effect.get("value_ppm"), effect),
            "control": rate(effect.get("control_ppm"), effect),
            "difference": gap(effect.get("difference_ppm"), effect),
            "low": gap(effect.get("low_ppm"), effect),
            "high": gap(effect.get("high_ppm"), effect),
            "chart": str(effect_chart(mine, effect.get("margin_ppm"))),
        }


def _sentence(effect: dict[str, Any]) -> str:
    of = f", share {effect['past']}" if effect.get("past") else f", {effect['of']}" if effect.get("of") else ""
    if effect.get("difference_ppm") is None:
        return f"{effect['metric']} ({effect['role']}{of}), {effect['arm']}: nothing to compare yet"
    interval = "no interval yet"
    if effect.get("low_ppm") is not None:
        interval = f"between {gap(effect['low_ppm'], effect)} and {gap(effect['high_ppm'], effect)} at all looks"
    values = f"{rate(effect['value_ppm'], effect)} against {rate(effect['control_ppm'], effect)}"
    return f"{effect['metric']} ({effect['role']}{of}), {effect['arm']}: {values}, {gap(effect['difference_ppm'], effect)}, {interval}"
