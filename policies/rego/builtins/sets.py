"""Set algebra."""

from __future__ import annotations

from typing import Any

from policies.rego.builtins.registry import builtin, want_set
from policies.rego.errors import BuiltinError
from policies.rego.values import EMPTY_SET, RegoSet


@builtin("and", 2)
def both(left: Any, right: Any) -> RegoSet:
    """Members of both sets."""
    return RegoSet(frozenset.__and__(want_set(left), want_set(right, 2)))


@builtin("or", 2)
def either(left: Any, right: Any) -> RegoSet:
    """Members of either set."""
    return RegoSet(frozenset.__or__(want_set(left), want_set(right, 2)))


@builtin("set_diff", 2)
def difference(left: Any, right: Any) -> RegoSet:
    """Members of the first set only."""
    return RegoSet(frozenset.__sub__(want_set(left), want_set(right, 2)))


def _sets(value: Any) -> list[RegoSet]:
    members = list(want_set(value))
    if any(type(item) is not RegoSet for item in members):
        raise BuiltinError("operand 1 must be set of sets", "eval_type_error")
    return members


@builtin("intersection", 1)
def intersection(value: Any) -> RegoSet:
    """Members of all sets in a set."""
    members = _sets(value)
    return RegoSet(frozenset.intersection(*members)) if members else EMPTY_SET


@builtin("union", 1)
def union(value: Any) -> RegoSet:
    """Members of any set in a set."""
    return RegoSet(frozenset().union(*map(frozenset.copy, _sets(value)))) if value else EMPTY_SET
