"""YAML text -> plain values with the position of each, in the subset that means one thing only.

YAML 1.1, which PyYAML resolves, reads `no` as false, `1:30` as 90 and `3.10` as 3.1. This reader takes PyYAML's events (libyaml: fast, and
iterative, so that depth is bounded before anything recurses) and resolves scalars itself:

- plain `true`, `false` and `null` (or nothing at all) are what they say; `yes`, `on`, `True`, `~` are text;
- plain whole numbers are `int`, plain decimals are `decimal.Decimal` of exactly the digits written; `0x1f`, `007`, `.inf` are text;
- everything quoted is text; every key is text, so `3:` and `"3":` are the same key;
- refused: a key twice in one mapping, anchors, aliases and merge keys, tags, a key that is not a scalar, a second document, text that is not
  UTF-8, more than `MOST_BYTES` bytes, `DEEPEST` levels or `MOST_NODES` values.

Example:
    tree, issues = read_tree(b"versions: {3: {stage: production}}", "models/m.yaml")
    tree.value            # {"versions": {"3": {"stage": "production"}}}
    tree.place(("versions", "3"))   # (1, 15): of the value; `key_place` for the key
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

from gateway.config.issues import Issue, KeyPath, key_text

MOST_BYTES = 4 * 1024 * 1024
"""Bytes in one file."""
DEEPEST = 32
"""Levels of nesting."""
MOST_NODES = 200_000
"""Values in one file."""
_MOST_DIGITS = 64

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z", re.ASCII)
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?\Z", re.ASCII)
_WORDS: dict[str, object] = {"true": True, "false": False, "null": None, "": None}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is in every wheel of PyYAML; the other is the same, slower

Place = tuple[int, int]
"""Line and column, from 1."""


@dataclass(slots=True)
class Tree:
    """What a file says. Filled by `read_tree`, read-only afterwards."""

    file: str
    value: Any = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    """Where each value begins."""
    key_places: dict[KeyPath, Place] = field(default_factory=dict)
    """Where each mapping key begins."""

    def place(self, path: KeyPath) -> Place:
        """Return where the value at `path` begins, or the nearest value around it that exists."""
        for length in range(len(path), -1, -1):
            found = self.places.get(path[:length])
            if found:
                return found
        return (1, 1)

    def key_place(self, path: KeyPath) -> Place:
        """Return where the key of the value at `path` begins (its value when it is in a list)."""
        return self.key_places.get(path) or self.place(path)

    def issue(self, path: KeyPath, message: str, *, at_key: bool = False) -> Issue:
        """Return an issue about the value (or the key) at `path`."""
        line, column = self.key_place(path) if at_key else self.place(path)
        return Issue(self.file, line, column, key_text(path), message)


@dataclass(slots=True)
class _Level:
    """A mapping or sequence being read. Owner: the loop of `_Reader.read`."""

    container: dict[str, Any] | list[Any]
    path: KeyPath
    key: str | None = None
    """Key that waits for its value (mappings)."""


class _Refused(Exception):  # noqa: N818 - control flow inside this module
    """The text breaks a rule after which reading on makes no sense."""


class _Reader:
    """Reads one file. Every attribute is owned by `read`."""

    def __init__(self, file: str) -> None:
        self.tree = Tree(file)
        self.issues: list[Issue] = []
        self.levels: list[_Level] = []
        self.nodes = 0
        self.documents = 0

    def read(self, text: str) -> None:
        loader = _Loader(text)
        try:
            while loader.check_event():
                self._take(loader.get_event())
        finally:
            loader.dispose()

    def _take(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._check(event)
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent):
            self._open(event, {})
        elif isinstance(event, yaml.SequenceStartEvent):
            self._open(event, [])
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self.levels.pop()
        elif isinstance(event, yaml.AliasEvent):
            self._refuse(event, f"alias `*{event.anchor}` is refused: write the value out, so that each file reads as it acts")
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._refuse(event, "a second document (`---`) in one file is refused: one file holds one thing")

    def _check(self, event: Any) -> None:
        """Refuse what any node may not have."""
        self.nodes += 1
        if self.nodes > MOST_NODES:
            self._refuse(event, f"more than {MOST_NODES} values in one file")
        if event.anchor is not None:
            self._refuse(event, f"anchor `&{event.anchor}` is refused: write the value out, so that each file reads as it acts")
        if event.tag is not None:
            self._refuse(event, f"tag `{event.tag}` is refused: values are plain text, numbers, true, false and null")

    def _refuse(self, event: Any, message: str) -> None:
        mark = event.start_mark
        path = self._next_path()
        self.issues.append(Issue(self.tree.file, mark.line + 1, mark.column + 1, key_text(path), message))
        raise _Refused

    def _next_path(self) -> KeyPath:
        """Return the path of the value that is read next."""
        if not self.levels:
            return ()
        level = self.levels[-1]
        if isinstance(level.container, list):
            return (*level.path, len(level.container))
        return level.path if level.key is None else (*level.path, level.key)

    def _scalar(self, event: Any) -> None:
        level = self.levels[-1] if self.levels else None
        if level is not None and isinstance(level.container, dict) and level.key is None:
            self._key(level, event)
            return
        self._put(event, resolve(event.value) if event.style is None or event.style == "" else event.value)

    def _key(self, level: _Level, event: Any) -> None:
        key = event.value
        if key == "<<" and not event.style:
            self._refuse(event, "merge key `<<` is refused: write the values out, so that each file reads as it acts")
        path = (*level.path, key)
        mark = event.start_mark
        if key in level.container:
            first = self.tree.key_places[path]
            self.issues.append(Issue(self.tree.file, mark.line + 1, mark.column + 1, key_text(path), f"key is already given in line {first[0]}"))
        else:
            self.tree.key_places[path] = (mark.line + 1, mark.column + 1)
        level.key = key

    def _open(self, event: Any, container: dict[str, Any] | list[Any]) -> None:
        self._check(event)
        level = self.levels[-1] if self.levels else None
        if level is not None and isinstance(level.container, dict) and level.key is None:
            self._refuse(event, "a key must be plain text, not a list or a mapping")
        if len(self.levels) >= DEEPEST:
            self._refuse(event, f"nested deeper than {DEEPEST} levels")
        path = self._next_path()
        self._put(event, container)
        self.levels.append(_Level(container, path))

    def _put(self, event: Any, value: Any) -> None:
        path = self._next_path()
        mark = event.start_mark
        self.tree.places.setdefault(path, (mark.line + 1, mark.column + 1))
        if not self.levels:
            self.tree.value = value
            return
        level = self.levels[-1]
        if isinstance(level.container, list):
            level.container.append(value)
        elif level.key is not None:
            level.container.setdefault(level.key, value)  # of a key given twice the first stays; the second is an issue
            level.key = None


def resolve(text: str) -> object:
    """Return what a plain scalar means: true, false, null, a whole number, a decimal, else the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _MOST_DIGITS:
        if _INTEGER.match(text):
            return int(text)
        if _DECIMAL.match(text):
            return Decimal(text)
    return text


def read_tree(data: bytes, file: str) -> tuple[Tree, list[Issue]]:
    """Return what `data` says, and what is wrong with it as YAML; with issues the tree is partial.

    Args:
        data: bytes of the file.
        file: its name for messages.
    """
    if len(data) > MOST_BYTES:
        return Tree(file), [Issue(file, 1, 1, "", f"file is longer than {MOST_BYTES} bytes")]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Tree(file), [Issue(file, line, 1, "", f"not UTF-8: byte {error.start} is 0x{data[error.start]:02x}")]
    reader = _Reader(file)
    try:
        reader.read(text)
    except _Refused:
        pass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        reader.issues.append(Issue(file, line, column, "", _yaml_message(error)))
    except yaml.YAMLError as error:
        reader.issues.append(Issue(file, 1, 1, "", f"not YAML: {' '.join(str(error).split())}"))
    return reader.tree, sorted(reader.issues)


def _yaml_message(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return "not YAML: " + ", ".join(parts)
