"""JSON as the lane accepts it: one meaning per byte string.

orjson is fast but lets the last of two equal keys win, while a model server may let the first one win: then policy and model see
different calls. RFC 8259 section 4 leaves the choice open, so duplicate keys are refused, and so is nesting past `MAX_DEPTH`.

How it stays cheap: the document is written anew. Where that gives the body's own bytes, as most programs' JSON does, no key can have been lost.
Else, in a body without a backslash no string holds a quote, so `":` stands exactly once behind each key that has no white space before its colon.
Then the body has as many `":` as keys, duplicates included, and the document written anew has as many as keys that survived: equal counts mean that
none was lost. Anything else goes to the slow, exact parser. A property test holds all paths together.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

MAX_DEPTH: Final = 32


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
    written = orjson.dumps(document)
    if written == body:
        return document
    # `find`, because `in` first takes bytes for a number, which costs a raised and dropped exception each time (CPython 3.11).
    find = body.find
    if (
        find(b"\\") >= 0
        # One byte is looked for much faster than two, and most bodies have no white space but blanks.
        or (find(b" ") >= 0 and find(b" :") >= 0)
        or (find(b"\n") >= 0 and find(b"\n:") >= 0)
        or (find(b"\t") >= 0 and find(b"\t:") >= 0)
        or (find(b"\r") >= 0 and find(b"\r:") >= 0)
        or written.count(b'":') != body.count(b'":')
    ):
        _refuse_duplicates(body)
    return document


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
