"""Objects: `object.*`."""

from __future__ import annotations

from typing import Any

from policies.rego.builtins.registry import builtin, operand_error, type_name, want_array, want_object
from policies.rego.errors import BuiltinError
from policies.rego.values import UNDEFINED, RegoSet, equal, freeze, has_key, lookup


def _keys(value: Any) -> set[Any]:
    if type(value) is dict:
        return set(value)
    if type(value) is list or type(value) is RegoSet:
        return {freeze(item) for item in value}
    raise operand_error(2, "one of {object, string}", value)


@builtin("object.get", 3)
def get(value: Any, key: Any, default: Any) -> Any:
    """`value[key]`, or the default; an array key is a path."""
    want_object(value)
    if type(key) is list:
        for part in key:
            value = lookup(value, part)
            if value is UNDEFINED:
                return default
        return value
    found = lookup(value, key)
    return default if found is UNDEFINED else found


@builtin("object.keys", 1)
def keys(value: Any) -> RegoSet:
    """The keys."""
    return RegoSet(want_object(value))


@builtin("object.remove", 2)
def remove(value: Any, unwanted: Any) -> dict[Any, Any]:
    """The object without some keys."""
    drop = _keys(unwanted)
    return {key: item for key, item in want_object(value).items() if key not in drop}


@builtin("object.filter", 2)
def keep(value: Any, wanted: Any) -> dict[Any, Any]:
    """The object with only some keys."""
    names = _keys(wanted)
    return {key: item for key, item in want_object(value).items() if key in names}


@builtin("object.union", 2)
def union(left: Any, right: Any) -> Any:
    """Both objects, the second wins; objects in both merge."""
    return _union(want_object(left), want_object(right, 2))


def _union(left: Any, right: Any) -> Any:
    if type(left) is not dict or type(right) is not dict:
        return right
    found = dict(left)
    for key, item in right.items():
        found[key] = _union(found[key], item) if key in found else item
    return found


@builtin("object.union_n", 1)
def union_n(values: Any) -> Any:
    """All objects of an array, later ones win."""
    found: Any = {}
    for item in want_array(values):
        if type(item) is not dict:
            raise BuiltinError(f"operand 1 must be array of object but got array containing {type_name(item)}", "eval_type_error")
        found = _union(found, item)
    return found


@builtin("object.subset", 2)
def subset(whole: Any, part: Any) -> bool:
    """Whether the second is contained in the first: object, set, array in array, or set in array."""
    if type(whole) is dict and type(part) is dict:
        return _object_subset(whole, part)
    if type(whole) is RegoSet and type(part) is RegoSet:
        return frozenset.issuperset(whole, part)
    if type(whole) is list and type(part) is list:
        return _run_in(whole, part)
    if type(whole) is list and type(part) is RegoSet:
        return all(has_key(RegoSet([freeze(item) for item in whole]), freeze(item)) for item in part)
    raise BuiltinError("both arguments object.subset must be of the same type or array and set", "eval_type_error")


def _object_subset(whole: dict[Any, Any], part: dict[Any, Any]) -> bool:
    for key, item in part.items():
        other = whole.get(key, UNDEFINED)
        if other is UNDEFINED:
            return False
        same_kind = type(item) is type(other) and type(item) in {dict, RegoSet, list}
        if not (subset(other, item) if same_kind else equal(other, item)):
            return False
    return True


def _run_in(whole: list[Any], part: list[Any]) -> bool:
    width = len(part)
    return any(all(map(equal, whole[start : start + width], part)) for start in range(len(whole) - width + 1))
