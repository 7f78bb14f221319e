"""JSON as the lane accepts it: one meaning per byte string.

orjson is fast but lets the last of two equal keys win, while a model server may let the first one win: then policy and model see
different calls. RFC 8259 section 4 leaves the choice open, so duplicate keys are refused, and so is nesting past `MAX_DEPTH`.

How it stays cheap: let K be the number of keys in the parsed document, d the keys lost to duplication, s the places inside strings that
look like `":`. A body without white space between a key and its colon has exactly K + d + s occurrences of `":`. Counting may stop early
(K' <= K), so K' == occurrences implies d = 0; anything else goes to the slow, exact parser. A property test holds both paths together.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

MAX_DEPTH: Final = 32
_SPACED_COLON = re.compile(rb'"[ \t\r\n]+:')


class JsonError(ValueError):
    """The bytes are not one unambiguous JSON document; the text says where."""


def parse(body: bytes) -> Any:
    """Return the parsed document.

    Args:
        body: UTF-8 bytes of one JSON document.

    Returns:
        Plain Python values. Integers beyond 64 bits arrive as floats, as orjson reads them.

    Raises:
        JsonError: not JSON, duplicate keys, or nesting deeper than `MAX_DEPTH`.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        raise JsonError(f"not JSON: {fault.msg} at line {fault.lineno} column {fault.colno}") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(document) > MAX_DEPTH:
        raise JsonError(f"nested deeper than {MAX_DEPTH} levels")
    if _keys(document) != body.count(b'":') or _SPACED_COLON.search(body):
        _refuse_duplicates(body)
    return document


def _keys(node: Any) -> int:
    """Count keys; may count fewer than there are (only the head of a list is looked at), never more."""
    kind = type(node)
    if kind is dict:
        count = len(node)
        for value in node.values():
            inner = type(value)
            if inner is dict or inner is list:
                count += _keys(value)
        return count
    if kind is list and node:
        inner = type(node[0])
        if inner is dict or inner is list:
            return sum(map(_keys, node))
    return 0


def _depth(document: Any) -> int:
    """Return the nesting depth, looking no further than one level past the limit."""
    level, depth = [document], 0
    while level and depth <= MAX_DEPTH:
        inside: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                inside.extend(node.values())
            elif isinstance(node, list):
                inside.extend(node)
        level = [node for node in inside if isinstance(node, (dict, list))]
        depth += 1
    return depth


def _refuse_duplicates(body: bytes) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise JsonError(f"key `{key[:80]}` stands twice in one object")
            found[key] = value
        return found

    json.loads(body, object_pairs_hook=unique)
