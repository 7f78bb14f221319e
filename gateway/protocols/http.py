"""Which paths of an `http` model callers may reach, and by which methods: what its file lists under `serves`, and nothing else.

Rules:

- A pattern is a path below `/http/MODEL`. `*` as a whole segment stands for any one segment, `**` as the last for one or more.
- A call is served when one pattern fits its path and names its method. HEAD and OPTIONS are methods like the others: nothing stands for them.
- The path has been normalised once (`gateway/pathname.py`), so `.`, `..`, `//`, `%2F` and `%5C` are not in it. What is left to a model that decodes
  twice, `%25` before two hex digits, is refused here: a pattern would judge one path and the model serve another.

Example:
    serves = Serves({"/score": ("POST",), "/items/*": ("GET", "PUT")})
    serves.methods("/items/7")       # frozenset({"GET", "PUT"})
    serves.methods("/admin")         # frozenset()
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_TWICE_ENCODED: Final = re.compile(r"%25[0-9A-Fa-f]{2}")
_NONE: Final[frozenset[str]] = frozenset()


def is_twice_encoded(path: str) -> bool:
    """Say whether a server that decodes a path twice would read another one."""
    return _TWICE_ENCODED.search(path) is not None


class Serves:
    """The paths of one model, compiled. Immutable."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, listed: Mapping[str, tuple[str, ...]]) -> None:
        """Compile pattern -> methods; patterns are well formed (`gateway/config/names.py`)."""
        self._exact = {pattern: frozenset(methods) for pattern, methods in listed.items() if "*" not in pattern}
        self._patterns = tuple((tuple(pattern.split("/")[1:]), frozenset(methods)) for pattern, methods in listed.items() if "*" in pattern)

    def methods(self, path: str) -> frozenset[str]:
        """Return the methods a path is served by; empty where it is not."""
        found = self._exact.get(path, _NONE)
        if self._patterns:
            segments = path.split("/")[1:]
            for pattern, methods in self._patterns:
                if _fits(pattern, segments):
                    found |= methods
        return found


def _fits(pattern: tuple[str, ...], segments: list[str]) -> bool:
    if pattern[-1] == "**":
        return len(segments) >= len(pattern) and segments[len(pattern) - 1] != "" and _fits_each(pattern[:-1], segments)
    return len(segments) == len(pattern) and _fits_each(pattern, segments)


def _fits_each(pattern: tuple[str, ...], segments: list[str]) -> bool:
    return all(segment != "" if part == "*" else segment == part for part, segment in zip(pattern, segments, strict=False))
