"""JSON Pointers (RFC 6901), compiled once per snapshot."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

_BAD_ESCAPE: Final = re.compile(r"~(?![01])")
MISSING: Final = object()
"""What a pointer gives where there is nothing."""


def compile_pointer(pointer: str) -> Callable[[Any], Any]:
    """Return a function from a document to the value at `pointer`, or `MISSING`.

    Args:
        pointer: e.g. `/outputs/0/data/0`; `~0` and `~1` stand for `~` and `/`.

    Raises:
        ValueError: not a JSON Pointer.
    """
    if pointer and not pointer.startswith("/"):
        raise ValueError(f"`{pointer}` is not a JSON Pointer: it has to start with `/`")
    if _BAD_ESCAPE.search(pointer):
        raise ValueError(f"`{pointer}` is not a JSON Pointer: after `~` comes `0` or `1`")
    steps = tuple(_step(part) for part in pointer.split("/")[1:])

    def get(document: Any) -> Any:
        node = document
        for name, index in steps:
            if type(node) is dict:
                node = node.get(name, MISSING)
            elif type(node) is list and index is not None and index < len(node):
                node = node[index]
            else:
                return MISSING
        return node

    return get


def _step(part: str) -> tuple[str, int | None]:
    name = part.replace("~1", "/").replace("~0", "~")
    is_index = part.isascii() and part.isdigit() and (part == "0" or part[0] != "0")
    return name, int(part) if is_index else None
