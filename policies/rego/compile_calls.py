"""The closures that terms are made of: paths below `input`, objects, calls of functions and built-ins, comparisons, membership."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from policies.rego.builtins.registry import Builtin
from policies.rego.errors import BuiltinError
from policies.rego.runtime import COMPOSITES
from policies.rego.tree import Documents, Node
from policies.rego.values import UNDEFINED, RegoSet, compare, equal, freeze, lookup

Frame = list[Any]
ValueCode = Callable[[Frame], Any]
TestCode = Callable[[Frame], bool]
ORDERINGS: dict[Any, Callable[[Any, Any], Any]] = {"lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge}


def whole_code(documents: Documents, node: Node, base: Any) -> ValueCode:
    return lambda frame: documents.value(frame[0], node, base)


def input_names(names: tuple[str, ...]) -> ValueCode:  # noqa: C901 - one flat list of cases
    """Code for `input.a.b`: the common lengths unrolled."""
    if len(names) == 0:
        return lambda frame: frame[0].input
    if len(names) == 1:
        first = names[0]

        def one(frame: Frame) -> Any:
            document = frame[0].input
            return document.get(first, UNDEFINED) if type(document) is dict else lookup(document, first)

        return one
    if len(names) == 2:
        first, second = names

        def two(frame: Frame) -> Any:
            try:
                return frame[0].input[first][second]
            except (KeyError, TypeError, IndexError):
                return lookup(lookup(frame[0].input, first), second)

        return two
    if len(names) == 3:
        first, second, third = names

        def three(frame: Frame) -> Any:
            try:
                return frame[0].input[first][second][third]
            except (KeyError, TypeError, IndexError):
                return lookup(lookup(lookup(frame[0].input, first), second), third)

        return three

    def many(frame: Frame) -> Any:
        value = frame[0].input
        for name in names:
            value = lookup(value, name)
        return value

    return many


def named_object(named: list[tuple[str, ValueCode]]) -> ValueCode:
    def code(frame: Frame) -> Any:
        found = {}
        for name, value_code in named:
            value = value_code(frame)
            if value is UNDEFINED:
                return UNDEFINED
            if type(value) in COMPOSITES:
                frame[0].weigh(value)
            found[name] = value
        return found

    return code


def user_call(function: Callable[..., Any], args: list[ValueCode]) -> ValueCode:
    def code(frame: Frame) -> Any:
        given = []
        for argument in args:
            value = argument(frame)
            if value is UNDEFINED:
                return UNDEFINED
            given.append(value)
        return function(frame[0], *given)

    return code


def builtin_call(entry: Builtin, args: list[ValueCode]) -> ValueCode:  # noqa: C901 - one flat list of cases
    name, call = entry.name, _priced(entry)
    if entry.context:
        return _context_call(entry, args)
    if name not in _FREE:
        return _context_call(replace(entry, call=call, context=True), args)
    if len(args) == 1:
        (only,) = args

        def one(frame: Frame) -> Any:
            value = only(frame)
            if value is UNDEFINED:
                return UNDEFINED
            try:
                return call(value)
            except BuiltinError as error:
                return frame[0].failed(name, error)

        return one
    if len(args) == 2:
        left, right = args

        def two(frame: Frame) -> Any:
            value = left(frame)
            if value is UNDEFINED:
                return UNDEFINED
            other = right(frame)
            if other is UNDEFINED:
                return UNDEFINED
            try:
                return call(value, other)
            except BuiltinError as error:
                return frame[0].failed(name, error)

        return two

    def many(frame: Frame) -> Any:
        given = [argument(frame) for argument in args]
        for value in given:
            if value is UNDEFINED:
                return UNDEFINED
        try:
            return call(*given)
        except BuiltinError as error:
            return frame[0].failed(name, error)

    return many


ARITHMETIC: dict[Any, Callable[[Any, Any], Any]] = {
    "plus": operator.add, "minus": operator.sub, "mul": operator.mul, "div": operator.truediv, "rem": operator.mod,
}  # fmt: skip
_NATIVE = frozenset({"plus", "minus", "mul"})
_NATIVE_BITS = 256
"""Integers below this size are computed here; larger ones go the way that checks their digits."""


def arithmetic_call(entry: Builtin, left: ValueCode, right: ValueCode) -> ValueCode:
    """Code for arithmetic: small integers at once, everything else by the built-in."""
    if entry.name not in _NATIVE:
        return builtin_call(entry, [left, right])
    native, name, general = ARITHMETIC[entry.name], entry.name, _priced(entry)
    is_free = name in _FREE

    def code(frame: Frame) -> Any:
        value = left(frame)
        if value is UNDEFINED:
            return UNDEFINED
        other = right(frame)
        if type(value) is int and type(other) is int and value.bit_length() < _NATIVE_BITS and other.bit_length() < _NATIVE_BITS:
            return native(value, other)
        if other is UNDEFINED:
            return UNDEFINED
        try:
            return general(value, other) if is_free else general(frame[0], value, other)
        except BuiltinError as error:
            return frame[0].failed(name, error)

    return code


_FREE = frozenset(
    {
        "count", "is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string", "type_name", "object.get", "plus",
        "mul", "div", "rem", "abs", "ceil", "floor", "round", "startswith", "endswith", "contains", "format_int", "time.now_ns",
        "numbers.range", "numbers.range_step", "bits.and", "bits.or", "bits.xor", "bits.lsh", "bits.rsh", "bits.negate",
    }
)  # fmt: skip
"""Built-ins whose cost does not grow with their operands beyond what they charge themselves."""
LONG_TEXT_CHARS = 512


def _priced(entry: Builtin) -> Callable[..., Any]:
    """Wrap a built-in that walks its operands, so that it pays for them first and its result is weighed."""
    if entry.name in _FREE:
        return entry.call
    call, wants_context = entry.call, entry.context

    def priced(context: Any, *given: Any) -> Any:
        for value in given:
            if type(value) in COMPOSITES:
                context.pay(value)
            elif type(value) is str and len(value) > LONG_TEXT_CHARS:
                context.charge(len(value) // LONG_TEXT_CHARS)
        result = call(context, *given) if wants_context else call(*given)
        if type(result) in COMPOSITES:
            context.weigh(result)
        return result

    return priced


def _context_call(entry: Builtin, args: list[ValueCode]) -> ValueCode:
    name, call = entry.name, entry.call if entry.name in _FREE or not entry.context else _priced(entry)

    def code(frame: Frame) -> Any:
        given = [argument(frame) for argument in args]
        for value in given:
            if value is UNDEFINED:
                return UNDEFINED
        try:
            return call(frame[0], *given)
        except BuiltinError as error:
            return frame[0].failed(name, error)

    return code


def inline(name: str, left: ValueCode, right: ValueCode) -> ValueCode:
    """Comparisons and membership, without the table."""
    if name == "internal.member_2":
        return _member(left, right)
    if name in {"equal", "neq"}:
        wanted = name == "equal"

        def same(frame: Frame) -> Any:
            value = left(frame)
            if value is UNDEFINED:
                return UNDEFINED
            other = right(frame)
            if type(value) in COMPOSITES:
                frame[0].pay(value)
            return UNDEFINED if other is UNDEFINED else equal(value, other) is wanted

        return same
    return _ordering(name, left, right)


def _ordering(name: str, left: ValueCode, right: ValueCode) -> ValueCode:
    native = ORDERINGS[name]

    def code(frame: Frame) -> Any:
        value = left(frame)
        if value is UNDEFINED:
            return UNDEFINED
        other = right(frame)
        if other is UNDEFINED:
            return UNDEFINED
        kind = type(value)
        if kind is type(other) and (kind is int or kind is float or kind is str):
            return native(value, other)
        frame[0].pay(value)
        return native(compare(value, other), 0)

    return code


def _member(left: ValueCode, right: ValueCode) -> ValueCode:
    def code(frame: Frame) -> Any:
        value = left(frame)
        if value is UNDEFINED:
            return UNDEFINED
        container = right(frame)
        if container is UNDEFINED:
            return UNDEFINED
        if type(container) is RegoSet and type(value) not in COMPOSITES:
            return contains(container, value)
        pay_for_search(frame[0], container, value)
        return contains(container, value)

    return code


def pay_for_search(context: Any, container: Any, value: Any) -> None:
    """Charge for looking through an array or object."""
    if type(container) in {list, dict} and len(container) > 32:
        context.charge(len(container) >> 4)
    if type(value) in COMPOSITES:
        context.charge(context.weigh(value) * (len(container) if type(container) in COMPOSITES else 1) >> 4)


def contains(container: Any, value: Any) -> bool:
    """Tell whether a value is among the members of a collection (values, for an object)."""
    kind = type(container)
    if kind is RegoSet:
        return bool(frozenset.__contains__(container, freeze(value)))
    if kind is list:
        if type(value) is str:
            return value in container
        return any(equal(value, item) for item in container)
    if kind is dict:
        return any(equal(value, item) for item in container.values())
    return False
