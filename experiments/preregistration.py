"""What was said before the start: the plan of an experiment, hashed and committed before its first draw, quoted in its result.

The plan is the compiled document itself: hypothesis, arms, shares, metrics with their margins, error probabilities, stop rule, deadline, salt.
Nothing is left out that could be chosen after looking. Its digest is SHA-256 over canonical JSON (RFC 8785) without empty keys, so that anyone can
hash the record and compare.

Example:
    >>> digest(plan_of(document)) == record["preregistration_digest"]
    True
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from audit import canonical
from experiments.document import ExperimentDocument


def plan_of(document: ExperimentDocument) -> dict[str, Any]:
    """Return the plan as records hold it: nested, integers and text alone, no key without a value."""
    plan: dict[str, Any] = _without_nothing(msgspec.to_builtins(document))
    return plan


def digest(plan: dict[str, Any]) -> str:
    """Return the SHA-256 of a plan, 64 hex digits."""
    return sha256(canonical.encode(plan)).hexdigest()


def differences(planned: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """Return the keys of two plans whose values differ, sorted: what was changed after it was said."""
    return sorted(key for key in planned.keys() | actual.keys() if planned.get(key) != actual.get(key))


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nothing(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_nothing(item) for item in value]
    return value
