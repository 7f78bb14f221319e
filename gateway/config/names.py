"""Names, references and addresses as configuration may write them: pydantic types that refuse everything else.

Names are ASCII, so that sorted keys of compiled documents are in the order of RFC 8785, and so that no two names look alike.
"""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from gateway.pathname import PathError, normalise
from gateway.protocols.http import is_twice_encoded

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)+\Z")


def _digest(value: str) -> str:
    if not _DIGEST.match(value):
        raise ValueError(f"`{value}` is not a digest; write `sha256:` and 64 lower-case hex digits (`sha256sum FILE`)")
    return value


def _origin(value: str) -> str:
    """Check `http://host:port[/prefix]` and return it without a trailing slash."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"`{value}` is not an address: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or any(c.isspace() for c in value):
        raise ValueError(f"`{value}` is not an upstream; write `http://host:port`, with a path prefix if needed")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an upstream must not hold credentials: this file is not a secret")
    if not _is_host(parts.hostname):
        raise ValueError(f"`{parts.hostname}` is not a host name or an IP address")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    prefix = parts.path.rstrip("/")
    if prefix and not _is_plain_path(prefix):
        raise ValueError(f"the path prefix `{prefix}` has more than one reading; write it without `.`, `..`, `//` and needless escapes")
    return f"{parts.scheme}://{host}:{port or (443 if parts.scheme == 'https' else 80)}{prefix}"


def _is_plain_path(path: str) -> bool:
    """Say whether a path is its own normal form, so that what is approved, matched and sent is one thing."""
    try:
        return normalise(path.encode()) == path and not is_twice_encoded(path)
    except PathError:
        return False


def _served_path(value: str) -> str:
    if not value.startswith("/") or not _is_plain_path(value):
        raise ValueError(f"`{value}` is not a path; write `/score`, without `.`, `..`, `//`, query and needless escapes")
    segments = value.split("/")[1:]
    if any("*" in segment and segment not in {"*", "**"} for segment in segments) or "**" in segments[:-1]:
        raise ValueError(f"`{value}`: `*` is a whole segment, and `**` the last one: `/items/*`, `/v1/**`")
    return value


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bool(_HOST.match(host))
    return True


def _bind(value: str) -> str:
    host, _, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or not port.isascii() or not port.isdigit() or int(port) > 65535 or not _is_host(bare):
        raise ValueError(f"`{value}` is not a listener; write `address:port` (`127.0.0.1:8080`; `0.0.0.0:8080` listens to everyone)")
    return value


def _secret(value: str) -> str:
    scheme, _, rest = value.partition(":")
    if scheme not in {"file", "env"} or not rest:
        raise ValueError("a secret is given by reference: `file:PATH` or `env:NAME`; the value itself is never written here")
    return value


def _signer(value: str) -> str:
    scheme, _, rest = value.partition(":")
    if scheme not in {"file", "env", "command"} or not rest:
        raise ValueError("a secret is given by reference: `file:PATH`, `env:NAME`, or `command:PATH` for a command that signs")
    return value


def _store(value: str) -> str:
    scheme, _, rest = value.partition(":")
    if scheme not in {"sqlite", "postgres"} or not rest:
        raise ValueError(f"`{value}` is not a store; write `sqlite:DIRECTORY`, or `postgres:DIRECTORY` with `postgres.connection`")
    return value


def _pointer(value: str) -> str:
    if not _POINTER.match(value):
        raise ValueError(f"`{value}` is not a JSON pointer (RFC 6901); write `/parameters/customer_id`")
    return value


def _number_text(value: Any) -> str:
    """Return a number as its exact decimal text: documents hold no floats."""
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise ValueError(f"`{value}` is not a number")  # noqa: TRY004 - pydantic collects ValueError
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _sentence(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
"""Of a model, a version, an owner: ASCII letters, digits, `.`, `_`, `-`; at most 63 characters."""
InputName = Annotated[str, Field(pattern=r"^[ -~]{1,128}$")]
"""Of an input: printable ASCII."""
Text = Annotated[str, Field(max_length=1000), AfterValidator(_sentence)]
"""A sentence for people."""
Digest = Annotated[str, AfterValidator(_digest), WithJsonSchema({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})]
"""`sha256:` and 64 hex digits."""
Origin = Annotated[str, AfterValidator(_origin), WithJsonSchema({"type": "string", "format": "uri", "examples": ["http://127.0.0.1:9003"]})]
"""Where a version answers; compiled with its port and without a trailing slash."""
Bind = Annotated[str, AfterValidator(_bind), WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8080"]})]
"""A listener, `address:port`."""
SecretReference = Annotated[str, AfterValidator(_secret), WithJsonSchema({"type": "string", "pattern": "^(file|env):.+$"})]
"""A secret by reference; paths are relative to the folder that holds `config/`."""
SignerReference = Annotated[str, AfterValidator(_signer), WithJsonSchema({"type": "string", "pattern": "^(file|env|command):.+$"})]
"""A signing key by reference, or a file that names a command which signs."""
Store = Annotated[str, AfterValidator(_store), WithJsonSchema({"type": "string", "pattern": "^sqlite:.+$", "examples": ["sqlite:data/"]})]
"""Where the log is kept."""
Pointer = Annotated[str, AfterValidator(_pointer), WithJsonSchema({"type": "string", "format": "json-pointer"})]
"""RFC 6901."""
ServedPath = Annotated[str, AfterValidator(_served_path), WithJsonSchema({"type": "string", "pattern": "^/.*$", "examples": ["/score"]})]
"""A path of an `http` model, or a pattern of paths."""
NumberText = Annotated[str, BeforeValidator(_number_text), WithJsonSchema({"type": "number"})]
"""A number, kept as its exact digits."""
