"""Text forms: `json.*`, `yaml.*`, `base64.*`, `base64url.*`, `hex.*`, `urlquery.*`."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import urllib.parse
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import yaml

from policies.rego.builtins.registry import builtin, operand_error, want_object, want_string, want_strings
from policies.rego.errors import BuiltinError
from policies.rego.lexer import number_value
from policies.rego.render import json_text, to_json
from policies.rego.values import NUMBERS, RegoSet, import_value, ordered


def _constant(text: str) -> Any:
    raise ValueError(text)


def parse_json(text: str) -> Any:
    """Read JSON with exact numbers.

    Raises:
        BuiltinError: no JSON.
    """
    try:
        return json.loads(text, parse_float=number_value, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise BuiltinError(f"invalid JSON: {error}") from error


@builtin("json.marshal", 1)
def marshal(value: Any) -> str:
    """Compact JSON."""
    return json_text(value)


@builtin("json.marshal_with_options", 2)
def marshal_with(value: Any, options: Any) -> str:
    """JSON; `pretty` (implied by the others), `indent`, `prefix`."""
    given = want_object(options, 2)
    for key, item in given.items():
        if key not in {"pretty", "indent", "prefix"}:
            raise BuiltinError(f"object contained unknown key `{key}`", "eval_type_error")
        if type(item) is not (bool if key == "pretty" else str):
            raise BuiltinError(f"key `{key}` has a value of the wrong type", "eval_type_error")
    if not given.get("pretty", bool(given)):
        return json_text(value)
    prefix = want_string(given.get("prefix", ""))
    return prefix + _pretty(value, prefix, given.get("indent", "\t"), 0)


def _pretty(value: Any, prefix: str, indent: str, level: int) -> str:
    kind = type(value)
    inner, outer = "\n" + prefix + indent * (level + 1), "\n" + prefix + indent * level
    if kind is list or kind is RegoSet:
        items = [_pretty(item, prefix, indent, level + 1) for item in (value if kind is list else ordered(value))]
        return "[" + inner + ("," + inner).join(items) + outer + "]" if items else "[]"
    if kind is dict:
        plain = {key if type(key) is str else json_text(key): item for key, item in value.items()}
        items = [f"{json_text(key)}: {_pretty(plain[key], prefix, indent, level + 1)}" for key in sorted(plain)]
        return "{" + inner + ("," + inner).join(items) + outer + "}" if items else "{}"
    return json_text(value)


@builtin("json.unmarshal", 1)
def unmarshal(text: Any) -> Any:
    """Read JSON."""
    return parse_json(want_string(text))


@builtin("json.is_valid", 1)
def json_is_valid(text: Any) -> bool:
    """Whether a string is JSON."""
    if type(text) is not str:
        return False
    try:
        parse_json(text)
    except BuiltinError:
        return False
    return True


MAX_YAML_VALUES: Final = 100_000
MAX_YAML_DEPTH: Final = 100
YAML_NODE_STEPS: Final = 100
"""What one value of YAML costs: its reader and writer are a hundred times slower than JSON's."""


class _Loader(yaml.SafeLoader):
    """Safe YAML with the numbers and booleans of JSON; no dates, no aliases that multiply."""

    charge: Callable[[int], None]

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.charge(YAML_NODE_STEPS)
        if self.check_event(yaml.events.AliasEvent):
            self.alias_count = getattr(self, "alias_count", 0) + 1
            if self.alias_count > 100:
                raise yaml.YAMLError("too many aliases")
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, token: Any) -> None:
        # The scanner's look-ahead costs the square of the depth.
        if self.flow_level >= MAX_YAML_DEPTH:
            raise yaml.YAMLError("nested too deep")
        super().fetch_flow_collection_start(token)


_Loader.yaml_implicit_resolvers = {
    char: [(tag, pattern) for tag, pattern in found if tag not in {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float"}]
    for char, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_yaml(text: str, charge: Callable[[int], None]) -> Any:
    """Read YAML as JSON data, each value paid for while it is read.

    Raises:
        BuiltinError: no YAML, too deep, too many values.
        LimitError: `steps` or `wall_s`.
    """
    try:
        loader: Any = _Loader(text)
        loader.charge = charge
        documents = []
        while loader.check_data():
            documents.append(loader.get_data())
        return _yaml_value(documents[0] if documents else None, 0, [MAX_YAML_VALUES])
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise BuiltinError(f"invalid YAML: {error}") from error


def _yaml_value(value: Any, depth: int, left: list[int]) -> Any:
    """Copy loaded YAML; `left` counts values down, because aliases can describe more than memory holds."""
    left[0] -= 1
    if depth > MAX_YAML_DEPTH or left[0] < 0:
        raise ValueError("nested too deep, or too many values")
    if isinstance(value, dict):
        return {_yaml_key(key): _yaml_value(item, depth + 1, left) for key, item in value.items()}
    if isinstance(value, list):
        return [_yaml_value(item, depth + 1, left) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("not a JSON number")
        return int(value) if value.is_integer() else value
    return import_value(value)


def _yaml_key(key: Any) -> str:
    return key if isinstance(key, str) else json_text(key)


@builtin("yaml.marshal", 1, context=True)
def yaml_marshal(context: Any, value: Any) -> str:
    """YAML text, keys sorted."""
    context.charge(YAML_NODE_STEPS * context.weigh(value))
    plain = json.loads(json.dumps(to_json(value), default=lambda item: float(item) if isinstance(item, Decimal) else None))
    return str(yaml.safe_dump(plain, default_flow_style=False, allow_unicode=True, width=1 << 30))


@builtin("yaml.unmarshal", 1, context=True)
def yaml_unmarshal(context: Any, text: Any) -> Any:
    """Read YAML."""
    return parse_yaml(want_string(text), context.charge)


@builtin("yaml.is_valid", 1, context=True)
def yaml_is_valid(context: Any, text: Any) -> bool:
    """Whether a string is YAML."""
    if type(text) is not str:
        return False
    try:
        parse_yaml(text, context.charge)
    except BuiltinError:
        return False
    return True


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def decode_base64(text: str, *, url: bool = False) -> bytes:
    """Decode strictly; the URL form may lack padding."""
    body = text.replace("\n", "").replace("\r", "")
    if url and len(body) % 4:
        body += "=" * (-len(body) % 4)
    try:
        return base64.b64decode(body, altchars=b"-_" if url else None, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BuiltinError(f"illegal base64 data: {error}") from error


@builtin("base64.encode", 1)
def base64_encode(text: Any) -> str:
    """Base64."""
    return base64.b64encode(want_string(text).encode()).decode()


@builtin("base64.decode", 1)
def base64_decode(text: Any) -> str:
    """Base64 back."""
    return _text(decode_base64(want_string(text)))


@builtin("base64.is_valid", 1)
def base64_is_valid(text: Any) -> bool:
    """Whether a string is base64."""
    try:
        decode_base64(want_string(text))
    except BuiltinError as error:
        if error.code == "eval_type_error":
            raise
        return False
    return True


@builtin("base64url.encode", 1)
def base64url_encode(text: Any) -> str:
    """Base64 for URLs."""
    return base64.urlsafe_b64encode(want_string(text).encode()).decode()


@builtin("base64url.encode_no_pad", 1)
def base64url_encode_no_pad(text: Any) -> str:
    """Base64 for URLs without padding."""
    return base64url_encode(text).rstrip("=")


@builtin("base64url.decode", 1)
def base64url_decode(text: Any) -> str:
    """Base64 for URLs back."""
    return _text(decode_base64(want_string(text), url=True))


@builtin("hex.encode", 1)
def hex_encode(text: Any) -> str:
    """Hexadecimal of the UTF-8 bytes."""
    return want_string(text).encode().hex()


@builtin("hex.decode", 1)
def hex_decode(text: Any) -> str:
    """Hexadecimal back."""
    try:
        return _text(binascii.unhexlify(want_string(text)))
    except (binascii.Error, ValueError) as error:
        raise BuiltinError(f"hex: {error}") from error


@builtin("urlquery.encode", 1)
def query_encode(text: Any) -> str:
    """Percent encoding of a query part."""
    return urllib.parse.quote_plus(want_string(text), safe="")


@builtin("urlquery.decode", 1)
def query_decode(text: Any) -> str:
    """Percent encoding back."""
    return _unquote(want_string(text))


def _unquote(text: str) -> str:
    if re.search(r"%(?![0-9a-fA-F]{2})", text):
        raise BuiltinError("invalid URL escape")
    return urllib.parse.unquote_plus(text, errors="replace")


@builtin("urlquery.encode_object", 1)
def query_encode_object(value: Any) -> str:
    """A query string from an object of strings, arrays or sets of strings."""
    pairs: list[tuple[str, str]] = []
    document = want_object(value)
    for key in sorted(want_string(key) for key in document):
        item = document[key]
        if type(item) is str:
            pairs.append((key, item))
        elif type(item) is list or type(item) is RegoSet:
            members = want_strings(item)
            pairs.extend((key, member) for member in (sorted(members) if type(item) is RegoSet else members))
        else:
            raise operand_error(1, "object with values of one of {string, array, set}", item)
    return urllib.parse.urlencode(pairs)


@builtin("urlquery.decode_object", 1)
def query_decode_object(text: Any) -> dict[Any, Any]:
    """An object of arrays from a query string."""
    found: dict[Any, Any] = {}
    for part in want_string(text).split("&"):
        if not part:
            continue
        if ";" in part:
            raise BuiltinError("invalid semicolon separator in query")
        name, _, value = part.partition("=")
        found.setdefault(_unquote(name), []).append(_unquote(value))
    return found


__all__ = ["NUMBERS", "decode_base64", "parse_json", "parse_yaml"]
