r"""Answers remembered while nothing they read has changed.

The key is the values on the paths an evaluation can read (`Engine.reads`), as bytes in which types are told apart: 1, true and 1.0 are three
keys, an absent field is a fourth. Equal keys give equal answers, whatever else an input holds; that is a property test. Data does not occur in
the key, because a memo belongs to one engine and its data never changes.

Rules:
- an evaluation that asks for the time is never remembered, nor is one that failed;
- an input that has no such bytes (a `Decimal`) is evaluated every time;
- the bytes are JSON text, in which only NaN and null look alike: what has a `null` in it, or is no JSON, is spelt by marshal, and no JSON text
  begins as marshal's bytes do;
- entries leave oldest use first once they weigh more than `limit_bytes`;
- one thread owns a memo; the answers are shared, so nobody may change one.

Example:
    >>> allow = Engine({"p.rego": "package p\nallow if input.age >= 18"}).remembering(["data.p.allow"])
    >>> allow({"age": 20, "id": 1}), allow({"age": 20, "id": 2}), allow.hits
    ([True], [True], 1)
"""

from __future__ import annotations

import marshal
from collections import OrderedDict
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, Final

import orjson

from policies.rego.values import UNDEFINED, lookup

_FORMAT: Final = 2
"""Of marshal's formats the last whose bytes depend on the value alone, not on how often Python shares a string. Nothing is ever read back."""
_ABSENT: Final = orjson.Fragment(b"~")
"""Stands for no value: what no JSON text has outside of its strings."""
_PLAIN: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
"""JSON's own types and nothing that only looks like one of them when it is written."""
_ENTRY_BYTES: Final = 300
"""What an entry costs beside its key: table, answer, bookkeeping."""
Getter = Callable[[Any], Any]
dumps = orjson.dumps


class Remembered:
    """A prepared evaluation with a memory. `hits` and `misses` count since construction."""

    __slots__ = ("_entries", "_held_bytes", "_limit_bytes", "_read", "_run", "hits", "is_remembering", "misses")

    def __init__(self, run: Callable[..., list[Any]], paths: Iterable[tuple[Any, ...]], limit_bytes: int) -> None:
        """Remember the answers of `run`, which reads `paths` (`("input", ...)`, `("data", ...)`, `("now",)`)."""
        paths = sorted(paths, key=repr)
        self._run = run
        self._read = _reader([path[1:] for path in paths if path[0] == "input"])
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[bytes, list[Any]] = OrderedDict()
        self._held_bytes = self.hits = self.misses = 0
        self.is_remembering = ("now",) not in paths
        """False where the answer may change with the time alone."""

    def __call__(self, input: Any, now_ns: int = 0) -> list[Any]:  # noqa: A002 - Rego's own word for it
        """Return the documents, remembered or worked out. Raises what the evaluation raises."""
        if not self.is_remembering:
            self.misses += 1
            return self._run(input, now_ns)
        read = self._read(input)
        try:
            key = dumps(read, None, _PLAIN)
            if b"null" in key:
                key = _marshalled(read)
        except (TypeError, ValueError):
            try:
                key = _marshalled(read)
            except ValueError:
                self.misses += 1
                return self._run(input, now_ns)
        entries = self._entries
        answer = entries.get(key)
        if answer is not None:
            self.hits += 1
            entries.move_to_end(key)
            return answer
        self.misses += 1
        answer = self._run(input, now_ns)
        self._held_bytes += len(key) + _ENTRY_BYTES
        entries[key] = answer
        while self._held_bytes > self._limit_bytes:
            oldest, _ = entries.popitem(last=False)
            self._held_bytes -= len(oldest) + _ENTRY_BYTES
        return answer

    def __len__(self) -> int:
        return len(self._entries)


def _marshalled(read: list[Any]) -> bytes:
    """Return the other spelling of a key. Raises ValueError for what has none."""
    parts = [tuple(... if one is _ABSENT else one for one in part) if type(part) is tuple else ... if part is _ABSENT else part for part in read]
    return marshal.dumps(parts, _FORMAT)


def _grouped(paths: list[tuple[Any, ...]]) -> tuple[dict[str, list[str]], list[tuple[Any, ...]]]:
    """Return first name -> second names (none for the whole), and the paths of another shape."""
    groups: dict[str, list[str]] = {}
    rest: list[tuple[Any, ...]] = []
    for path in paths:
        if len(path) == 1 and type(path[0]) is str:
            groups[path[0]] = []
        elif len(path) == 2 and type(path[0]) is type(path[1]) is str:
            groups.setdefault(path[0], []).append(path[1])
        else:
            rest.append(path)
    return groups, rest


def _reader(paths: list[tuple[Any, ...]]) -> Getter:
    """Return code for the values at some paths, as one list.

    Most paths are `a` or `a.b`: they are fetched by group, and only where something is absent one by one. Both ways give the same list.
    """
    groups, rest = _grouped(paths)
    names = tuple(groups)
    outer = itemgetter(*names) if len(names) > 1 else None
    inner = [(index, itemgetter(*groups[name])) for index, name in enumerate(names) if groups[name]]

    def slowly(document: Any) -> list[Any]:
        found: list[Any] = []
        for name in names:
            parts = tuple(_value(document, (name, part)) for part in groups[name])
            found.append(_value(document, (name,)) if not parts else parts if len(parts) > 1 else parts[0])
        return found

    def read(document: Any) -> list[Any]:
        if outer is None or type(document) is not dict:
            found = slowly(document)
        else:
            try:
                found = list(outer(document))
                for index, get in inner:
                    found[index] = get(found[index])
            except (KeyError, TypeError, IndexError):
                found = slowly(document)
        for path in rest:
            found.append(_value(document, path))
        return found

    return read


def _value(document: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        document = lookup(document, name)
        if document is UNDEFINED:
            return _ABSENT
    return document
