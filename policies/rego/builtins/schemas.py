"""json.match_schema, json.verify_schema: JSON Schema drafts 4, 6 and 7 without remote references.

Keywords not listed in `_KEYWORDS` (annotations, `format`) do not restrict. `$ref` resolves inside the schema only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from policies.rego.builtins.encoding import parse_json
from policies.rego.builtins.regexes import compiled
from policies.rego.builtins.registry import builtin, operand_error
from policies.rego.errors import BuiltinError
from policies.rego.render import json_text
from policies.rego.values import NUMBERS, UNDEFINED, equal, freeze, lookup

TYPES = ("array", "boolean", "integer", "number", "null", "object", "string")
Finding = tuple[str, str, str]
MAX_DEPTH = 64


def _document(value: Any, position: int) -> Any:
    if type(value) is str:
        return parse_json(value)
    if type(value) is not dict:
        raise operand_error(position, "one of {string, object}", value)
    return value


def _json_type(value: Any) -> str:
    if type(value) in NUMBERS:
        return "integer" if value == int(value) else "number"
    return {str: "string", bool: "boolean", list: "array", dict: "object"}.get(type(value), "null")


def verify(schema: Any, depth: int = 0) -> None:  # noqa: C901, PLR0912 - one flat list of cases
    """Refuse a schema whose types are unknown or keywords misused.

    Raises:
        BuiltinError: what is wrong.
    """
    if depth > MAX_DEPTH:
        raise BuiltinError("schema is nested too deep")
    if type(schema) is bool:
        return
    if type(schema) is not dict:
        raise BuiltinError("jsonschema: schema is invalid")
    kinds = schema.get("type", [])
    for kind in kinds if type(kinds) is list else [kinds]:
        if kind not in TYPES:
            listed = " ".join(TYPES)
            raise BuiltinError(f"jsonschema: has a primitive type that is NOT VALID -- given: /{kind}/ Expected valid values are:[{listed}]")
    for name in ("properties", "patternProperties", "definitions", "$defs"):
        for item in _members(schema.get(name, {}), name):
            verify(item, depth + 1)
    for name in ("not", "additionalProperties", "additionalItems", "contains", "propertyNames", "if", "then", "else"):
        if name in schema:
            verify(schema[name], depth + 1)
    for name in ("allOf", "anyOf", "oneOf"):
        for item in schema.get(name, []):
            verify(item, depth + 1)
    items = schema.get("items", [])
    for item in items if type(items) is list else [items]:
        verify(item, depth + 1)
    if type(schema.get("required", [])) is not list:
        raise BuiltinError("jsonschema: `required` must be an array")


def _members(value: Any, name: str) -> list[Any]:
    if type(value) is not dict:
        raise BuiltinError(f"jsonschema: `{name}` must be an object")
    return list(value.values())


class _Validator:
    """Validates against one root schema. Owns `work`, which bounds references that multiply."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.work = 0

    def run(self, schema: Any, value: Any, field: str, depth: int = 0) -> Iterator[Finding]:
        """Yield (field, type, description) of every violation."""
        self.work += 1
        if depth > MAX_DEPTH or self.work > 100_000:
            raise BuiltinError("schema is too large or nested too deep")
        if type(schema) is bool:
            if not schema:
                yield field, "false", "False always fails validation"
            return
        if "$ref" in schema:
            schema = self._resolve(schema["$ref"])
            yield from self.run(schema, value, field, depth + 1)
            return
        yield from _check_type(schema, value, field)
        for name, check in _KEYWORDS.items():
            if name in schema:
                yield from check(schema[name], value, field)
        yield from self._object(schema, value, field, depth)
        yield from self._array(schema, value, field, depth)
        yield from self._combined(schema, value, field, depth)

    def _resolve(self, ref: Any) -> Any:
        if type(ref) is not str or not ref.startswith("#"):
            raise BuiltinError("remote schema references are refused")
        found = self.root
        for part in ref[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            is_index = type(found) is list and name.isdecimal() and len(name) < 6
            found = lookup(found, int(name) if is_index else name)
            if found is UNDEFINED:
                raise BuiltinError(f"reference `{ref}` leads nowhere")
        return found

    def _valid(self, schema: Any, value: Any, field: str, depth: int) -> bool:
        return next(self.run(schema, value, field, depth + 1), None) is None

    def _object(self, schema: Any, value: Any, field: str, depth: int) -> Iterator[Finding]:
        if type(value) is not dict:
            return
        known = schema.get("properties", {})
        patterns = schema.get("patternProperties", {})
        for name in schema.get("required", []):
            if name not in value:
                yield field, "required", f"{name} is required"
        for name, item in value.items():
            below = name if field == "(root)" else f"{field}.{name}"
            matched = name in known
            if matched:
                yield from self.run(known[name], item, below, depth + 1)
            for pattern, inner in patterns.items():
                if compiled(pattern).search(name):
                    matched = True
                    yield from self.run(inner, item, below, depth + 1)
            extra = schema.get("additionalProperties", True)
            if not matched and extra is False:
                yield field, "additional_property_not_allowed", f"Additional property {name} is not allowed"
            elif not matched and type(extra) is dict:
                yield from self.run(extra, item, below, depth + 1)

    def _array(self, schema: Any, value: Any, field: str, depth: int) -> Iterator[Finding]:
        if type(value) is not list:
            return
        items = schema.get("items", True)
        for index, item in enumerate(value):
            inner = items
            if type(items) is list:
                inner = items[index] if index < len(items) else schema.get("additionalItems", True)
            below = str(index) if field == "(root)" else f"{field}.{index}"
            yield from self.run(inner, item, below, depth + 1)
        if "contains" in schema and not any(self._valid(schema["contains"], item, field, depth) for item in value):
            yield field, "contains", "At least one of the items must match"

    def _combined(self, schema: Any, value: Any, field: str, depth: int) -> Iterator[Finding]:
        for inner in schema.get("allOf", []):
            yield from self.run(inner, value, field, depth + 1)
        if "anyOf" in schema and not any(self._valid(inner, value, field, depth) for inner in schema["anyOf"]):
            yield field, "number_any_of", "Must validate at least one schema (anyOf)"
        if "oneOf" in schema and sum(self._valid(inner, value, field, depth) for inner in schema["oneOf"]) != 1:
            yield field, "number_one_of", "Must validate one and only one schema (oneOf)"
        if "not" in schema and self._valid(schema["not"], value, field, depth):
            yield field, "number_not", "Must not validate the schema (not)"
        if "if" in schema:
            branch = "then" if self._valid(schema["if"], value, field, depth) else "else"
            if branch in schema:
                yield from self.run(schema[branch], value, field, depth + 1)


def _check_type(schema: Any, value: Any, field: str) -> Iterator[Finding]:
    if "type" not in schema:
        return
    wanted = schema["type"] if type(schema["type"]) is list else [schema["type"]]
    given = _json_type(value)
    if given not in wanted and not (given == "integer" and "number" in wanted):
        yield field, "invalid_type", f"Invalid type. Expected: {'/'.join(wanted)}, given: {given}"


def _number_check(kind: str, fails: Callable[[Any, Any], bool], text: str) -> Callable[[Any, Any, str], Iterator[Finding]]:
    def check(limit: Any, value: Any, field: str) -> Iterator[Finding]:
        if type(value) in NUMBERS and type(limit) in NUMBERS and fails(value, limit):
            yield field, kind, text.format(limit)

    return check


def _size_check(kind: str, of: type, fails: Callable[[int, Any], bool], text: str) -> Callable[[Any, Any, str], Iterator[Finding]]:
    def check(limit: Any, value: Any, field: str) -> Iterator[Finding]:
        if isinstance(value, (str, list, dict)) and type(value) is of and fails(len(value), limit):
            yield field, kind, text.format(limit)

    return check


def _pattern(pattern: Any, value: Any, field: str) -> Iterator[Finding]:
    if type(value) is str and not compiled(pattern).search(value):
        yield field, "pattern", f"Does not match pattern '{pattern}'"


def _enum(allowed: Any, value: Any, field: str) -> Iterator[Finding]:
    if not any(equal(item, value) for item in allowed):
        yield field, "enum", f"{field} must be one of the following: {', '.join(map(json_text, allowed))}"


def _const(wanted: Any, value: Any, field: str) -> Iterator[Finding]:
    if not equal(wanted, value):
        yield field, "const", f"{field} does not match: {json_text(wanted)}"


def _unique(wanted: Any, value: Any, field: str) -> Iterator[Finding]:
    if wanted is True and type(value) is list and len({freeze(item) for item in value}) < len(value):
        yield field, "unique", "array items must be unique"


def _multiple(step: Any, value: Any, field: str) -> Iterator[Finding]:
    if type(value) in NUMBERS and step and value % step:
        yield field, "multiple_of", f"Must be a multiple of {step}"


_KEYWORDS: dict[str, Callable[[Any, Any, str], Iterator[Finding]]] = {
    "minimum": _number_check("number_gte", lambda value, limit: value < limit, "Must be greater than or equal to {}"),
    "maximum": _number_check("number_lte", lambda value, limit: value > limit, "Must be less than or equal to {}"),
    "exclusiveMinimum": _number_check("number_gt", lambda value, limit: value <= limit, "Must be greater than {}"),
    "exclusiveMaximum": _number_check("number_lt", lambda value, limit: value >= limit, "Must be less than {}"),
    "multipleOf": _multiple,
    "minLength": _size_check("string_gte", str, lambda size, limit: size < limit, "String length must be greater than or equal to {}"),
    "maxLength": _size_check("string_lte", str, lambda size, limit: size > limit, "String length must be less than or equal to {}"),
    "minItems": _size_check("array_min_items", list, lambda size, limit: size < limit, "Array must have at least {} items"),
    "maxItems": _size_check("array_max_items", list, lambda size, limit: size > limit, "Array must have at most {} items"),
    "minProperties": _size_check("array_min_properties", dict, lambda size, limit: size < limit, "Must have at least {} properties"),
    "maxProperties": _size_check("array_max_properties", dict, lambda size, limit: size > limit, "Must have at most {} properties"),
    "pattern": _pattern,
    "enum": _enum,
    "const": _const,
    "uniqueItems": _unique,
}


@builtin("json.match_schema", 2)
def match_schema(document: Any, schema: Any) -> list[Any]:
    """[whether it matches, array of findings]."""
    value, root = _document(document, 1), _document(schema, 2)
    verify(root)
    found = [
        {"error": f"{field}: {text}", "type": kind, "field": field, "desc": text} for field, kind, text in _Validator(root).run(root, value, "(root)")
    ]
    return [not found, found]


@builtin("json.verify_schema", 1)
def verify_schema(schema: Any) -> list[Any]:
    """[whether it is a schema, null or what is wrong]."""
    try:
        verify(_document(schema, 1))
    except BuiltinError as error:
        if error.code == "eval_type_error":
            raise
        return [False, str(error)]
    return [True, None]
