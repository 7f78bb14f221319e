"""json.patch (RFC 6902), json.filter, json.remove: pointers into documents, sets included (a member is its own key)."""

from __future__ import annotations

from typing import Any

from policies.rego.builtins.registry import builtin, operand_error, want_array, want_object, want_string
from policies.rego.errors import BuiltinError
from policies.rego.values import UNDEFINED, RegoSet, equal, freeze, lookup


def _pointer(path: Any) -> list[Any]:
    """Return the keys of a path: `a/b` or `/a/b` with `~0 ~1`, or an array of keys."""
    if type(path) is list:
        return list(path)
    if type(path) is not str:
        raise BuiltinError("paths must be strings or arrays of keys", "eval_type_error")
    trimmed = path.lstrip("/") if path.startswith("/") else path
    if not path:
        return []
    return [part.replace("~1", "/").replace("~0", "~") for part in trimmed.split("/")]


def _paths(value: Any) -> list[list[Any]]:
    if type(value) is not list and type(value) is not RegoSet:
        raise operand_error(2, "one of {set, array}", value)
    return [_pointer(path) for path in value]


def _tree(paths: list[list[Any]]) -> dict[Any, Any]:
    """Return nested dicts of the paths; None marks an end, which covers everything below it."""
    root: dict[Any, Any] = {}
    for path in paths:
        node = root
        for index, part in enumerate(path):
            key = freeze(part)
            if key in node and node[key] is None:
                break
            if index == len(path) - 1:
                node[key] = None
            else:
                node = node.setdefault(key, {})
    return root


@builtin("json.remove", 2)
def remove(document: Any, paths: Any) -> Any:
    """The object without some paths."""
    return _remove(want_object(document), _tree(_paths(paths)))


def _remove(value: Any, tree: dict[Any, Any]) -> Any:  # noqa: C901 - one flat list of cases
    kind = type(value)
    if kind is dict:
        found = {}
        for key, item in value.items():
            below = tree.get(key, UNDEFINED)
            if below is UNDEFINED:
                found[key] = item
            elif below is not None:
                found[key] = _remove(item, below)
        return found
    if kind is list:
        kept = []
        for index, item in enumerate(value):
            below = tree.get(str(index), tree.get(index, UNDEFINED))
            if below is UNDEFINED:
                kept.append(item)
            elif below is not None:
                kept.append(_remove(item, below))
        return kept
    if kind is RegoSet:
        members = []
        for member in value:
            below = tree.get(freeze(member), UNDEFINED)
            if below is UNDEFINED:
                members.append(freeze(member))
            elif below is not None:
                members.append(freeze(_remove(member, below)))
        return RegoSet(members)
    return value


@builtin("json.filter", 2)
def keep(document: Any, paths: Any) -> Any:
    """The object with only some paths."""
    return _keep(want_object(document), _tree(_paths(paths)))


def _keep(value: Any, tree: dict[Any, Any] | None) -> Any:
    if tree is None:
        return value
    kind = type(value)
    if kind is dict:
        return {key: _keep(value[key], below) for key, below in tree.items() if key in value}
    if kind is list:
        return [_keep(item, tree.get(str(index), tree.get(index))) for index, item in enumerate(value) if str(index) in tree or index in tree]
    if kind is RegoSet:
        return RegoSet([freeze(_keep(member, tree[freeze(member)])) for member in value if freeze(member) in tree])
    return value


# --- patch -------------------------------------------------------------------------------------------------------------


@builtin("json.patch", 2)
def patch(document: Any, operations: Any) -> Any:
    """Apply RFC 6902 operations in order; nothing if one cannot be applied."""
    for operation in want_array(operations, 2):
        document = _apply(document, want_object(operation, 2))
    return document


def _apply(document: Any, operation: dict[Any, Any]) -> Any:
    kind = operation.get("op")
    if type(kind) is not str:
        raise BuiltinError("missing or invalid `op`")
    if "path" not in operation:
        raise BuiltinError("missing `path`")
    path = _pointer(operation["path"])
    if kind in {"move", "copy"}:
        if "from" not in operation:
            raise BuiltinError("missing `from`")
        source = _pointer(operation["from"])
        value = _get(document, source)
        if kind == "move":
            document = _edit(document, source, "remove", None)
        return _edit(document, path, "add", value)
    if kind in {"add", "replace", "test"} and "value" not in operation:
        raise BuiltinError("missing `value`")
    if kind == "test":
        if not equal(_get(document, path), operation["value"]):
            raise BuiltinError("test failed")
        return document
    if kind not in {"add", "replace", "remove"}:
        raise BuiltinError(f"unknown operation `{want_string(kind)}`")
    return _edit(document, path, kind, operation.get("value"))


def _get(document: Any, path: list[Any]) -> Any:
    for part in path:
        if type(document) is list:
            document = document[_index(part, len(document) - 1)]
            continue
        document = lookup(document, part)
        if document is UNDEFINED:
            raise BuiltinError("path does not exist")
    return document


def _index(part: Any, last: int) -> int:
    if type(part) is str:
        if part != "0" and (not part.isdecimal() or part.startswith("0")):
            raise BuiltinError("invalid array index")
        part = int(part) if len(part) < 12 else last + 1
    if type(part) is not int or not 0 <= part <= last:
        raise BuiltinError("array index out of range")
    return part


def _edit(document: Any, path: list[Any], kind: str, value: Any) -> Any:
    if not path:
        return None if kind == "remove" else value
    part, rest = path[0], path[1:]
    if type(document) is list:
        return _edit_array(document, part, rest, kind, value)
    if type(document) is RegoSet:
        return _edit_set(document, part, rest, kind, value)
    if type(document) is not dict:
        raise BuiltinError("path does not exist")
    key = freeze(part)
    found = dict(document)
    if (rest or kind != "add") and key not in found:
        raise BuiltinError("path does not exist")
    if rest:
        found[key] = _edit(found[key], rest, kind, value)
    elif kind == "remove":
        del found[key]
    else:
        found[key] = value
    return found


def _edit_array(document: list[Any], part: Any, rest: list[Any], kind: str, value: Any) -> list[Any]:
    found = list(document)
    if rest:
        index = _index(part, len(found) - 1)
        found[index] = _edit(found[index], rest, kind, value)
    elif kind == "add":
        found.insert(len(found) if part == "-" else _index(part, len(found)), value)
    else:
        index = _index(part, len(found) - 1)
        if kind == "remove":
            del found[index]
        else:
            found[index] = value
    return found


def _edit_set(document: RegoSet, part: Any, rest: list[Any], kind: str, value: Any) -> RegoSet:
    key = freeze(part)
    if rest:
        if part not in document:
            raise BuiltinError("path does not exist")
        return RegoSet([*(member for member in frozenset.__iter__(document) if member != key), freeze(_edit(part, rest, kind, value))])
    if kind == "add":
        if not equal(part, value):
            raise BuiltinError("a member of a set is its own key")
        return RegoSet([*frozenset.__iter__(document), key])
    if part not in document:
        raise BuiltinError("path does not exist")
    members = [member for member in frozenset.__iter__(document) if member != key]
    if kind == "replace":
        if not equal(part, value):
            raise BuiltinError("a member of a set is its own key")
        members.append(key)
    return RegoSet(members)
