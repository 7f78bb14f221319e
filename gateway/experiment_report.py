"""`assay report experiment`: from the leaves of a pinned log to one experiment's report document.

Two passes over the leaves (`experiments/history.py` says why). A leaf that cannot concern the experiment is never decoded.

Example:
    report = experiment_report(lambda: follow(data, 0, until=state.size), state, "credit-v4", version="0.1.0")
"""

from __future__ import annotations

from typing import Any

import msgspec

from audit.reports.document import document
from audit.reports.state import Leaves, LogState
from experiments.history import Story
from experiments.report import describe

_ANSWERS = (b'"type":"outcome"', b'"type":"label"', b'"type":"reward"', b'"type":"human_decision"')


class UnknownExperimentError(ValueError):
    """No record of the log names the experiment."""


def tell(leaves: Leaves, name: str) -> Story:
    """Return an experiment's story.

    Raises:
        UnknownExperimentError: the log has no such experiment.
        experiments.history.NoPlanError: it was started by a release that recorded no plan.
    """
    story = Story(name)
    mark = b'"experiment":"%b"' % name.encode()
    for index, leaf in leaves():
        if mark in leaf:
            story.note(index, msgspec.json.decode(leaf))
    if not story.registrations and not story.epochs:
        raise UnknownExperimentError(f"the log has no experiment `{name}` up to this size")
    if story.epochs:
        for _, leaf in leaves():
            if mark in leaf or any(answer in leaf for answer in _ANSWERS):
                story.feed(msgspec.json.decode(leaf))
    return story


def experiment_report(leaves: Leaves, state: LogState, name: str, *, version: str) -> dict[str, Any]:
    """Return the report of one experiment. Raises as `tell`."""
    return document("experiment", describe(tell(leaves, name)), state, version=version)
