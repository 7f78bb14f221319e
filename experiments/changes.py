"""What a change of an experiment's file does to its units and its evidence: nothing, a continuation, a new epoch, or an end to inference."""

from __future__ import annotations

from typing import Literal

from experiments.document import ExperimentDocument


def change_kind(old: ExperimentDocument, new: ExperimentDocument) -> Literal["none", "continue", "epoch", "exploratory"]:
    """What replacing a running experiment's document means (semantics.md 3.6).

    Returns:
        `none`: same document. `epoch`: another assignment (arms, shares, salt, layer, holdout), or another strategy, which asks for other proof; so a
        new epoch and fresh evidence. `exploratory`: a metric, alpha or stop rule changed, so a new experiment, or everything learnt so far counts as
        exploratory. `continue`: the rest.
    """
    if old == new:
        return "none"
    assigned = (
        "strategy",
        "model",
        "arms",
        "control",
        "sticky",
        "salt",
        "mode",
        "layer",
        "holdout",
        "who",
        "exclude",
        "bucketing",
        "external",
        "verify_shadow",
        "keep_warm_us",
    )
    if any(getattr(old, key) != getattr(new, key) for key in assigned) or _shares(old) != _shares(new):
        return "epoch"
    judged = ("guardrails", "goal", "alpha_ppm", "alpha_harm_ppm", "deadline_us", "deadline_then", "steps", "shadow", "segments")
    if any(getattr(old, key) != getattr(new, key) for key in judged):
        return "exploratory"
    return "continue"


def _shares(document: ExperimentDocument) -> list[tuple[int, dict[str, int]]]:
    return [(step.exposure, step.shares) for step in document.steps]
