"""Which part of a model's units one more experiment can have, beside those that split the model already.

Experiments that split one model share a layer, each with its own slots (`experiments/checks.py` refuses anything else). What is free is handed out by
halves of the widest gap, so that there is something left for the next one.

Example:
    >>> room_for("credit-risk", "canary", documents)
    Room(layer='credit', first=200, last=599, free=((600, 999),))
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from experiments.document import ExperimentDocument, LayerDocument, Strategy

Slots = tuple[int, int]
"""First and last, both included."""


class NoRoomError(ValueError):
    """Nothing of the model's units is left; the text says who has them and what to do."""


@dataclass(frozen=True, slots=True)
class Room:
    """Slots that nobody owns."""

    layer: str
    first: int
    last: int
    free: tuple[Slots, ...]
    """What is free beside them."""

    def line(self) -> str:
        """Return the line of an experiment's file that takes them."""
        beside = ", ".join(f"{first}-{last}" for first, last in self.free)
        more = f"; free beside it: {beside}" if beside else ""
        return f"layer: {{name: {self.layer}, slots: {self.first}-{self.last}}}   # its own part of the units, others split this model too{more}\n"


def room_for(model: str, strategy: Strategy, others: Iterable[ExperimentDocument]) -> Room | None:
    """Return the slots a new experiment may take, None where it needs none: it splits nothing, or has the model for itself.

    Args:
        model: whose calls it is to split.
        strategy: of the new one.
        others: every experiment that is configured; they hold beside one another.

    Raises:
        NoRoomError: one has the model for itself, or the layer is full.
    """
    rivals = [other for other in others if other.model == model and other.strategy != "shadow"]
    if strategy == "shadow" or not rivals:
        return None
    layers: list[LayerDocument] = []
    for rival in rivals:
        if rival.layer is None:
            raise NoRoomError(
                f"experiment `{rival.experiment}` has all units of `{model}` for itself; give it a part, `layer: {{name: NAME, slots: 0-499}}`, with "
                "`layers: {NAME: {}}` in `_layers.yaml` (this moves units), or take its file away"
            )
        layers.append(rival.layer)
    gaps = _gaps([(layer.first, layer.last) for layer in layers], layers[0].slots)
    if not gaps:
        owned = ", ".join(f"`{rival.experiment}` {layer.first}-{layer.last}" for rival, layer in zip(rivals, layers, strict=True))
        raise NoRoomError(f"layer `{layers[0].name}` has no free slots: {owned}; give one of them fewer, or take its file away")
    widest = max(gaps, key=lambda gap: gap[1] - gap[0])
    first, last = widest
    middle = first + (last - first) // 2
    beside = [gap for gap in gaps if gap != widest] + ([(middle + 1, last)] if middle < last else [])
    return Room(layers[0].name, first, middle, tuple(sorted(beside)))


def _gaps(owned: list[Slots], slots: int) -> list[Slots]:
    """Return the ranges between and around those that are owned, which do not overlap."""
    gaps, at = [], 0
    for first, last in sorted(owned):
        if first > at:
            gaps.append((at, first - 1))
        at = last + 1
    return [*gaps, (at, slots - 1)] if at < slots else gaps
