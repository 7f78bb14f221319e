"""From leaves to a report document: the one place that puts state, fold and body together. Command line and console both call it.

Example:
    state = pin(leaves, size)
    report = evaluation_report(leaves, state, version="0.1.0", scope=Scope(model="credit-risk"))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audit.evaluation import Scope, describe, evaluate
from audit.maturity import assess, framework, gather
from audit.reports.document import document
from audit.reports.state import Leaves, LogState


def evaluation_report(
    leaves: Leaves,
    state: LogState,
    *,
    version: str,
    scope: Scope,
    observed_when: Mapping[str, str] | None = None,
    positive: str | None = None,
    classes: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Evaluate the calls of a pinned log.

    Args:
        leaves: yields (index, leaf bytes) from 0; called twice.
        state: from `state.pin` on the same leaves.
        version: of Assay.
        scope: which calls.
        observed_when: `labels.observed_when` by model.
        positive: the positive class, where the classes themselves do not tell.
        classes: model -> name in records -> class, of declared classes that are recorded under a name.

    Raises:
        TooManyLabels: see `audit.evaluation.labels`.
    """
    evaluation = evaluate(leaves, scope, size=state.size)
    return document("evaluation", describe(evaluation, observed_when=observed_when, positive=positive, classes=classes), state, version=version)


def maturity_report(leaves: Leaves, state: LogState, *, version: str, framework_name: str = "azure", model: str | None = None) -> dict[str, Any]:
    """Judge a pinned log by a maturity framework.

    Raises:
        KeyError: when there is no framework of that name.
    """
    judged_by = framework(framework_name)
    evidence = gather(leaves, size=state.size, as_of_us=state.as_of_us, window_days=judged_by.parameters.window_days, model=model)
    return document("maturity", {"scope": {"model": model}, **assess(judged_by, evidence)}, state, version=version)
