r"""One spelling for every path, made once, before anyone judges it.

Policy, routing, the record and the model server must see the same path; a proxy that decides on one spelling and forwards another can be
talked past its own rules. So a request path is rewritten here exactly once, or refused when two readers could understand it differently.

Rules, in this order:

1. The path starts with `/` and holds only characters RFC 3986 allows in a path (section 3.3). Raw bytes above 0x7F, spaces, quotes,
   braces, `|`, `^`, `` ` ``, `\\`, `<`, `>` and controls are refused.
2. Every `%` is followed by two hex digits, else refused. `%2F`, `%5C` and `%00` are refused: some servers decode them, some do not.
3. Percent-encoded unreserved characters (`ALPHA DIGIT - . _ ~`, RFC 3986 section 6.2.2.2) are decoded; the others keep their encoding with upper-case
   digits (6.2.2.1). Nothing is decoded twice: `%2541` stays `%2541`.
4. Runs of slashes become one slash. Model servers differ in whether `//` means `/`; the merged form means the same to all.
5. Dot segments are removed (5.2.4). `..` above the root is refused, and so are `.;x` and `..;x`, which some servers read as dot segments.

The result is plain ASCII and a fixed point: normalising it again changes nothing.

Example::

    normalise(b"/v2//models/./credit%2Drisk/infer")  # "/v2/models/credit-risk/infer"
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_ALLOWED: Final = re.compile(rb"/[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*")
_ESCAPE: Final = re.compile(r"%(..?)?")
_HEX_PAIR: Final = re.compile(r"[0-9A-Fa-f]{2}")
_SLASHES: Final = re.compile(r"//+")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_REFUSED: Final = {0x00: "NUL", 0x2F: "slash", 0x5C: "backslash"}


class PathError(ValueError):
    """A path that has no single reading. The message says which part and why."""


def normalise(raw: bytes) -> str:
    """Return the one spelling of a request path.

    Args:
        raw: path as it came over the wire, without query and fragment.

    Raises:
        PathError: the path cannot be normalised without ambiguity.

    Cost: a dictionary look-up for the last 4,096 distinct short paths, some microseconds else. Long ones are not remembered: strangers may send as
    many as they like.
    """
    return _remembered(raw) if len(raw) <= _REMEMBERED_BYTES else _normalised(raw)


def _normalised(raw: bytes) -> str:
    if not _ALLOWED.fullmatch(raw):
        raise PathError(_first_offence(raw))
    path = raw.decode("ascii")
    if "%" in path:
        path = _ESCAPE.sub(_rewrite_escape, path)
    if "//" in path:
        path = _SLASHES.sub("/", path)
    if "/." in path:
        path = _without_dot_segments(path)
    return path


_REMEMBERED_BYTES: Final = 256
_remembered = lru_cache(maxsize=4096)(_normalised)


def _first_offence(raw: bytes) -> str:
    if not raw.startswith(b"/"):
        return f"path `{_shown(raw)}` does not start with `/`"
    match = _ALLOWED.match(raw)
    position = match.end() if match else 0
    return f"path holds byte 0x{raw[position]:02X} at position {position}, which has to be percent-encoded"


def _rewrite_escape(match: re.Match[str]) -> str:
    digits = match.group(1) or ""
    if not _HEX_PAIR.fullmatch(digits):
        raise PathError(f"path holds `%{digits}` at position {match.start()}, which is no percent-encoding")
    value = int(digits, 16)
    if value in _REFUSED:
        raise PathError(f"path holds an encoded {_REFUSED[value]} (`%{digits}`) at position {match.start()}, which servers read differently")
    return chr(value) if value in _UNRESERVED else f"%{digits.upper()}"


def _without_dot_segments(path: str) -> str:
    """Resolve `.` and `..`; the path has single slashes and starts with one."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if not kept:
                raise PathError("path climbs above the root with `..`")
            kept.pop()
        elif segment.startswith((".;", "..;")):
            raise PathError(f"path holds the segment `{segment}`, which some servers read as `{segment.partition(';')[0]}`")
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _shown(raw: bytes) -> str:
    return raw[:80].decode("ascii", "backslashreplace")
