"""uri.parse, uri.is_valid (RFC 3986 as Go's net/url reads it) and uuid.parse (RFC 4122)."""

from __future__ import annotations

import re
import urllib.parse
import uuid as uuids
from typing import Any

from policies.rego.builtins.registry import builtin, want_string
from policies.rego.errors import BuiltinError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%25[^\]]+)?\]|[^\[\s<>\"%^`{}|\\/?#@:]*)(?::[0-9]*)?\Z", re.ASCII)
_USERINFO = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*\Z")
_NEEDLESS = re.compile(r"%(?:21|27|28|29|2[aA])")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _parse(text: str) -> dict[str, str]:  # noqa: C901 - one flat list of cases
    if any(char < " " or char == "\x7f" for char in text):
        raise BuiltinError("invalid control character in URL")
    found: dict[str, str] = {}
    body, hash_mark, fragment = text.partition("#")
    match = _SCHEME.match(body)
    if match:
        found["scheme"], body = match.group(1).lower(), body[match.end() :]
    elif body.startswith(":"):
        raise BuiltinError("missing protocol scheme")
    body, _, query = body.partition("?")
    if body.startswith("//"):
        authority, slash, rest = body[2:].partition("/")
        body = slash + rest
        _authority(authority, found)
    elif match and not body.startswith("/") and body:
        body = ""
    elif not match and ":" in body.split("/")[0]:
        raise BuiltinError("first path segment in URL cannot contain colon")
    if _BAD_ESCAPE.search(body) or _BAD_ESCAPE.search(fragment):
        raise BuiltinError("invalid URL escape")
    if body:
        found["path"], found["raw_path"] = urllib.parse.unquote(body), _NEEDLESS.sub(lambda hit: chr(int(hit.group()[1:], 16)), body)
    if query:
        found["raw_query"] = query
    if hash_mark and fragment:
        found["fragment"] = urllib.parse.unquote(fragment)
    return found


def _authority(authority: str, found: dict[str, str]) -> None:
    userinfo, at, host = authority.rpartition("@")
    if at and not _USERINFO.match(userinfo):
        raise BuiltinError("net/url: invalid userinfo")
    if not _HOST.match(host):
        raise BuiltinError("invalid host")
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        found["hostname"], port = name.replace("%25", "%"), port[1:]
    else:
        name, _, port = host.partition(":")
        if name:
            found["hostname"] = name
    if port:
        found["port"] = port


@builtin("uri.parse", 1)
def parse(text: Any) -> dict[str, Any]:
    """The parts that are there: scheme, hostname, port, path, raw_path, raw_query, fragment."""
    return dict(_parse(want_string(text)))


@builtin("uri.is_valid", 1)
def is_valid(text: Any) -> bool:
    """Whether a string is a URI."""
    if type(text) is not str or not text:
        return False
    try:
        _parse(text)
    except BuiltinError:
        return False
    return True


_FORMS = re.compile(
    r"(?:urn:uuid:)?([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\Z|.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}).\Z"
    r"|([0-9a-f]{32})\Z",
    re.IGNORECASE | re.DOTALL,
)
_DOMAINS = {0: "Person", 1: "Group", 2: "Org"}


@builtin("uuid.parse", 1)
def uuid_parse(text: Any) -> dict[str, Any]:
    """Version, variant, and for versions 1 and 2 the time, clock sequence and node."""
    match = _FORMS.match(want_string(text))
    if match is None:
        raise BuiltinError("invalid UUID", "undefined")
    value = uuids.UUID(next(part for part in match.groups() if part))
    top = value.clock_seq_hi_variant >> 5
    variant = "NCS" if top < 4 else "RFC4122" if top < 6 else "Microsoft" if top == 6 else "Future"
    version = value.int >> 76 & 0xF
    found: dict[str, Any] = {"version": version, "variant": variant}
    if version not in {1, 2}:
        return found
    node = value.node.to_bytes(6, "big")
    found["nodeid"] = "-".join(f"{byte:02x}" for byte in node)
    found["macvariables"] = ("local" if node[0] & 2 else "global") + ":" + ("multicast" if node[0] & 1 else "unicast")
    ticks = value.time
    found["time"] = (ticks - 0x01B21DD213814000) * 100
    found["clocksequence"] = value.clock_seq
    if version == 2:
        found["id"] = value.time_low
        found["domain"] = _DOMAINS.get(value.clock_seq_low, f"Domain{value.clock_seq_low}")
    return found
