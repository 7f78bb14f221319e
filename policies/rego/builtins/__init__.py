"""Built-in functions, one file per family.

A built-in takes Rego values and returns one, or raises `BuiltinError` (wrong operand, nothing to return). One marked `context` gets the
evaluation context first: for `now`, the limits, the memory that lasts one evaluation.

Example:
    >>> from policies.rego.builtins import BUILTINS
    >>> BUILTINS["count"].call([1, 2])
    2
"""

from __future__ import annotations

from policies.rego.builtins.registry import BUILTINS, REFUSED, Builtin, refusal

__all__ = ["BUILTINS", "REFUSED", "Builtin", "refusal"]
