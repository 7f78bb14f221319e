"""scipy's functions, loaded when the first of them is asked for.

Loading them takes longer than all else a start needs, and no call needs them: a gateway that starts serves before it computes a verdict.

Rules:
- `special` and `optimize` are scipy's modules by another way; nothing is added and nothing is hidden.
- Whoever must not wait in the middle of something calls `load` beforehand, in a thread.

Example:
    from experiments.stats.late import special
    special.ndtr(1.96)
"""

from __future__ import annotations

import importlib
from typing import Any, Final


class _Late:
    """A module that is imported by its first attribute. What was asked for once is kept, so that later uses cost nothing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, found)
        return found


special: Final = _Late("scipy.special")
optimize: Final = _Late("scipy.optimize")


def load() -> None:
    """Import what would be imported at the first use."""
    importlib.import_module("scipy.special")
    importlib.import_module("scipy.optimize")
