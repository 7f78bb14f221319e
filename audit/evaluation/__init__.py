"""Evaluation: from records to traffic, refusals, latency and quality with late labels.

In the order data flows:

- `labels`: feedback records -> one label per (decision, row)
- `cells`: counters of one (model, version, experiment, assigned, served); they add up
- `fold`: two passes over the leaves -> `Evaluation`
- `intervals`, `quality`: counts -> metrics with intervals, in integers only
- `document`: `Evaluation` -> the plain document that reports sign
"""

from audit.evaluation.document import describe
from audit.evaluation.fold import Evaluation, Scope, evaluate

__all__ = ["Evaluation", "Scope", "describe", "evaluate"]
