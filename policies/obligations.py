"""What a policy may ask the gateway to do to a JSON document on its way: `redact`, `top_k`, `round`. A closed list with one meaning each.

Rules:

- An obligation is an object with exactly the keys of its type; anything else is `InvalidObligation`, which a gateway answers with a denial.
- `on` is `reply` (default) or `request`; a request can only be redacted.
- Obligations of all packages are merged to the strictest: all paths to redact, the fewest digits, the smallest k. The order of packages does not
  matter. They are carried out in the order redact, top_k, round.
- What cannot be carried out is `NotCarriedOut`, never skipped: text where a number is to be rounded, a scalar where a collection is expected.
  A place that is not in the document needs nothing done; null is nothing.

- `redact` (`path`) takes the member out of its object. In an array `[name=value]` takes the item out; an index or `*` leaves null in its place.
- `top_k` (`path`, `k`) keeps the k largest members of an object of numbers, or numbers of an array, with null for the others; with `by`, of an array
  of objects those whose member `by` is largest.
- `round` (`path`, `digits`) rounds a number, or every number of an array and of arrays in it, to so many decimals.

A path is a JSON pointer (RFC 6901) with three wider steps: `*` every member or item, `**` any number of steps, `[name=value]` the items of an array
whose member `name` is the text `value`. What stands at which index is often the caller's to choose (Open Inference Protocol: `outputs` of the
request), so name what is to be hidden, or take all: `/outputs/[name=score]/data/*`, `/outputs/*/data/*`.

Example:
    duties = merge([read({"type": "round", "path": "/score", "digits": 1})])
    document = {"score": 0.4567}
    carry_out(duties, document)        # 1 place; document is {"score": 0.5}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

Kind = Literal["redact", "top_k", "round"]
Step = tuple[str, str, int | None]
"""(`key`, name, index or None), (`any`, "", None), (`deep`, "", None) or (`item`, value, None) with the member's name before `=`."""
ORDER: Final[tuple[Kind, ...]] = ("redact", "top_k", "round")
MOST_OBLIGATIONS: Final = 16
"""Obligations of one verdict after merging; together with the bound on paths they fit into a record."""
MOST_PATH: Final = 256
MOST_DIGITS: Final = 15
"""Decimals a float holds."""
_ITEM: Final = re.compile(r"\[([^=\]]+)=([^\]]*)\]\Z")
_HALF: Final = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which no record can hold."""
_BAD_ESCAPE: Final = re.compile(r"~(?![01])")
_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "redact": frozenset(("type", "on", "path")),
    "top_k": frozenset(("type", "on", "path", "k", "by")),
    "round": frozenset(("type", "on", "path", "digits")),
}


class InvalidObligation(ValueError):  # noqa: N818 - reads as the statement it is
    """A policy asks for something that has no meaning here; the text says what."""


class NotCarriedOut(Exception):  # noqa: N818 - says what happened
    """An obligation does not fit the document; nothing of it may be passed on."""


@dataclass(frozen=True, slots=True, order=True)
class Obligation:
    """One thing to do. Ordered as it is carried out, then by path."""

    rank: int
    path: str
    on: Literal["reply", "request"]
    number: int = 0
    """`digits` of a round, `k` of a top_k."""
    by: str = ""

    @property
    def kind(self) -> Kind:
        """Return its type."""
        return ORDER[self.rank]

    def told(self) -> dict[str, Any]:
        """Return it as records tell it."""
        told: dict[str, Any] = {"type": self.kind, "path": self.path}
        if self.on == "request":
            told["on"] = "request"
        if self.kind == "round":
            told["digits"] = self.number
        elif self.kind == "top_k":
            told["k"] = self.number
            if self.by:
                told["by"] = self.by
        return told


def read(item: Mapping[str, Any]) -> Obligation:
    """Return the obligation a policy wrote.

    Raises:
        InvalidObligation: an unknown type, key, path or number.
    """
    kind = item.get("type")
    keys = _KEYS.get(kind) if isinstance(kind, str) else None
    if keys is None:
        raise InvalidObligation(f"`{kind}` is none of {', '.join(ORDER)}")
    unknown = sorted(str(key) for key in item.keys() - keys)
    if unknown:
        raise InvalidObligation(f"`{kind}` has no `{unknown[0]}`")
    path, on = item.get("path"), item.get("on", "reply")
    if not isinstance(path, str) or _HALF.search(path):
        raise InvalidObligation(f"`{kind}` needs a `path`")
    parse_path(path)
    if on != "reply" and (on != "request" or kind != "redact"):
        raise InvalidObligation(f"`{kind}` cannot be done on `{on}`")
    number = 0
    if kind == "round":
        number = _whole(item, "digits", 0, MOST_DIGITS)
    elif kind == "top_k":
        number = _whole(item, "k", 1, 1000)
    by = item.get("by", "")
    if not isinstance(by, str) or len(by) > MOST_PATH or _HALF.search(by):
        raise InvalidObligation("`by` is the name of a member")
    return Obligation(ORDER.index(kind), path, on, number, by)


def _whole(item: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = item.get(key)
    if type(value) is not int or not low <= value <= high:
        raise InvalidObligation(f"`{key}` is a whole number from {low} to {high}")
    return value


def merge(obligations: Iterable[Obligation]) -> tuple[Obligation, ...]:
    """Return the strictest of what was asked for, in the order it is carried out."""
    strictest: dict[tuple[Any, ...], Obligation] = {}
    for one in obligations:
        key = (one.rank, one.path, one.on, one.by)
        held = strictest.get(key)
        if held is None or one.number < held.number:
            strictest[key] = one
    return tuple(sorted(strictest.values()))


def carry_out(obligations: Iterable[Obligation], document: Any) -> tuple[Any, int]:
    """Do what is asked to a parsed document, in place.

    Args:
        obligations: merged; see `merge`.
        document: plain JSON values, at most as deep as the recursion of the caller allows (the gateway parses 32 levels).

    Returns:
        The document, and at how many places something was done, whether or not the value there changed by it.

    Raises:
        NotCarriedOut: something does not fit; the document is half done and must not be used.
    """
    root = [document]
    places = 0
    takes_items = False
    for one in obligations:
        steps = parse_path(one.path)
        takes_items = takes_items or one.by != "" or (one.kind == "redact" and bool(steps) and steps[-1][0] == "item")
        if not steps or type(document) in (dict, list):
            for container, key, by_name in list(_places(root, 0, steps)):
                places += 1
                _at(one, container, key, by_name=by_name)
        else:
            raise NotCarriedOut(f"`{one.kind}` of `{one.path}`: the document is neither an object nor an array")
    if takes_items:
        for holder in _holders(root):
            holder[:] = [item for item in holder if item is not _GONE]
    return root[0], places


_GONE: Final = object()
"""Stands for an item that is to leave its array once all places were visited: positions must not move under the other obligations."""


def _holders(node: Any) -> Iterator[list[Any]]:
    stack = [node]
    while stack:
        item = stack.pop()
        if type(item) is list:
            if any(member is _GONE for member in item):
                yield item
            stack.extend(member for member in item if type(member) in (dict, list))
        elif type(item) is dict:
            stack.extend(member for member in item.values() if type(member) in (dict, list))


@lru_cache(maxsize=1024)
def parse_path(path: str) -> tuple[Step, ...]:
    """Return the steps of a path. Raises InvalidObligation. Remembered: a path is parsed when a policy is judged, and again for each reply."""
    if len(path) > MOST_PATH:
        raise InvalidObligation(f"a path has at most {MOST_PATH} characters")
    if path and not path.startswith("/"):
        raise InvalidObligation(f"`{path}` is no JSON pointer: it begins with `/`")
    if _BAD_ESCAPE.search(path):
        raise InvalidObligation(f"`{path}` is no JSON pointer: after `~` comes 0 or 1")
    steps = tuple(_step(part) for part in path.split("/")[1:])
    if steps and steps[-1][0] == "deep":
        raise InvalidObligation(f"`{path}`: after `**` comes what is looked for")
    if sum(kind == "deep" for kind, _, _ in steps) > 1:
        raise InvalidObligation(f"`{path}`: `**` stands at most once")
    return steps


def _step(part: str) -> Step:
    if part == "*":
        return "any", "", None
    if part == "**":
        return "deep", "", None
    if _ITEM.match(part):
        return "item", part[1:-1], None
    name = part.replace("~1", "/").replace("~0", "~")
    is_index = part.isascii() and part.isdigit() and (part == "0" or part[0] != "0")
    return "key", name, int(part) if is_index and len(part) < 10 else None


Place = tuple[Any, Any, bool]
"""Container, key or index in it, and whether an `[name=value]` step chose the item."""


def _places(container: Any, key: Any, steps: tuple[Step, ...], *, by_name: bool = False) -> Iterator[Place]:
    """Yield every place the steps lead to from `container[key]`."""
    if not steps:
        yield container, key, by_name
        return
    node, rest = container[key], steps[1:]
    if steps[0][0] == "deep":
        yield from _places(container, key, rest)
        for member in _keys(node):
            yield from _places(node, member, steps)
    else:
        for member, is_named in _members(node, steps[0]):
            yield from _places(node, member, rest, by_name=is_named)


def _members(node: Any, step: Step) -> list[tuple[Any, bool]]:
    """Return the keys or indices one step leads to, and whether each was chosen by `[name=value]`."""
    kind, name, index = step
    if kind == "any":
        return [(member, False) for member in _keys(node)]
    if kind == "item":
        member, _, value = name.partition("=")
        items = enumerate(node) if type(node) is list else ()
        return [(position, True) for position, item in items if type(item) is dict and item.get(member) == value]
    if type(node) is dict:
        return [(name, False)] if name in node else []
    return [(index, False)] if type(node) is list and index is not None and index < len(node) else []


def _keys(node: Any) -> list[Any]:
    if type(node) is dict:
        return list(node)
    return list(range(len(node))) if type(node) is list else []


def _at(one: Obligation, container: Any, key: Any, *, by_name: bool) -> None:
    """Carry one obligation out at one place."""
    if type(container) is dict and key not in container:
        return  # an obligation before took it out
    value = container[key]
    if value is _GONE:
        return
    if one.kind == "redact":
        if type(container) is dict:
            del container[key]
        else:
            container[key] = _GONE if by_name else None
    elif value is None:
        return
    elif one.kind == "round":
        container[key] = _rounded(value, one)
    else:
        container[key] = _largest(value, one)


def _rounded(value: Any, one: Obligation) -> Any:
    kind = type(value)
    if kind is float:
        return round(value, one.number)
    if kind is int or value is None or value is _GONE:
        return value
    if kind is list:
        return [_rounded(item, one) for item in value]
    raise NotCarriedOut(f"`round` of `{one.path}`: there is {_called(value)}, not a number")


def _largest(value: Any, one: Obligation) -> Any:
    if type(value) is dict and not one.by:
        kept = set(_ranked(value.items(), one))
        return {name: number for name, number in value.items() if name in kept}
    if type(value) is list:
        if one.by:
            if any(type(item) is not dict for item in value if item is not _GONE):
                raise NotCarriedOut(f"`top_k` of `{one.path}`: an item is no object with `{one.by}`")
            kept = set(_ranked(((position, item.get(one.by)) for position, item in enumerate(value) if item is not _GONE), one))
            return [item if position in kept else _GONE for position, item in enumerate(value)]
        kept = set(_ranked(((position, item) for position, item in enumerate(value) if item is not _GONE), one))
        return [item if position in kept or item is _GONE else None for position, item in enumerate(value)]
    raise NotCarriedOut(f"`top_k` of `{one.path}`: there is {_called(value)}, not a collection of numbers")


def _ranked(pairs: Iterable[tuple[Any, Any]], one: Obligation) -> list[Any]:
    """Return the keys of the k largest; of equal ones the first."""
    numbers = []
    for key, number in pairs:
        if type(number) not in (int, float):
            raise NotCarriedOut(f"`top_k` of `{one.path}`: among the values is {_called(number)}, not a number")
        numbers.append((key, number))
    return [key for key, _ in sorted(numbers, key=lambda pair: -pair[1])[: one.number]]


def _called(value: Any) -> str:
    """Name what a value is, never the value."""
    names = {dict: "an object", list: "an array", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
