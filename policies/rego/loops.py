"""The closures that bodies are made of: collectors, chains of tests, loops, unpacking.

Each takes compiled parts and returns a closure over a frame; what is decided here is only how to run, never what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policies.rego.compile_calls import Frame, TestCode, ValueCode, contains, pay_for_search
from policies.rego.errors import EvaluationError
from policies.rego.runtime import COMPOSITES
from policies.rego.values import UNDEFINED, Key, RegoSet, compare, equal, freeze, has_key, ordered, thaw

keys_of = frozenset.__iter__
PlaceCode = Callable[[Frame, Any], bool]


def enough(_frame: Frame) -> bool:
    """The continuation of an existence test."""
    return True


def slot_value(slot: int) -> ValueCode:
    return lambda frame: frame[slot]


def collect_array(slot: int, value: ValueCode) -> TestCode:
    def collect(frame: Frame) -> bool:
        item = value(frame)
        if item is not UNDEFINED:
            if type(item) in COMPOSITES:
                frame[0].weigh(item)
            frame[slot].append(item)
        return False

    return collect


def collect_set(slot: int, value: ValueCode) -> TestCode:
    def collect(frame: Frame) -> bool:
        item = value(frame)
        if item is not UNDEFINED:
            frame[slot].append(frame[0].keyed(item) if type(item) in COMPOSITES else freeze(item))
        return False

    return collect


def collect_object(slot: int, key: ValueCode, value: ValueCode) -> TestCode:
    def collect(frame: Frame) -> bool:
        name, item = key(frame), value(frame)
        if name is UNDEFINED or item is UNDEFINED:
            return False
        frame[0].pay(name)
        frame[0].weigh(item)
        name = freeze(name)
        found = frame[slot]
        if name in found and not equal(found[name], item):
            raise EvaluationError("eval_conflict_error", "object keys must be unique")
        found[name] = item
        return False

    return collect


def chain(tests: list[TestCode], then: TestCode) -> TestCode:
    """Tests in a row, then the continuation."""
    if not tests:
        return then
    if len(tests) == 1:
        (first,) = tests
        if then is enough:
            return first
        return lambda frame: first(frame) and then(frame)
    if len(tests) == 2:
        first, second = tests
        return lambda frame: first(frame) and second(frame) and then(frame)
    if len(tests) == 3:
        first, second, third = tests
        return lambda frame: first(frame) and second(frame) and third(frame) and then(frame)
    row = tuple(tests)

    def code(frame: Frame) -> bool:
        for test in row:
            if not test(frame):
                return False
        return then(frame)

    return code


def assign(slot: int, value: ValueCode) -> TestCode:
    def test(frame: Frame) -> bool:
        found = value(frame)
        if found is UNDEFINED:
            return False
        frame[slot] = found
        return True

    return test


def ordering_test(native: Callable[[Any, Any], Any], left: ValueCode, right: ValueCode) -> TestCode:
    """Code for `left < right` as a statement."""

    def test(frame: Frame) -> bool:
        value = left(frame)
        other = right(frame)
        kind = type(value)
        if kind is type(other) and (kind is int or kind is float or kind is str):
            return native(value, other)  # type: ignore[no-any-return]  # a comparison of two numbers or two strings
        if value is UNDEFINED or other is UNDEFINED:
            return False
        frame[0].pay(value)
        return bool(native(compare(value, other), 0))

    return test


def bound_test(native: Callable[[Any, Any], Any], left: ValueCode, bound: float) -> TestCode:
    """Code for `left < 3`: one side is a number known at load."""

    def test(frame: Frame) -> bool:
        value = left(frame)
        kind = type(value)
        if kind is int or kind is float:
            return native(value, bound)  # type: ignore[no-any-return]  # a comparison of two numbers
        if value is UNDEFINED:
            return False
        frame[0].pay(value)
        return bool(native(compare(value, bound), 0))

    return test


def member_test(left: ValueCode, right: ValueCode) -> TestCode:
    """Code for `left in right` as a statement."""

    def test(frame: Frame) -> bool:
        value = left(frame)
        container = right(frame)
        if type(container) is list and type(value) is str:
            if len(container) > 32:
                frame[0].charge(len(container) >> 4)
            return value in container
        if value is UNDEFINED:
            return False
        pay_for_search(frame[0], container, value)
        return contains(container, value)

    return test


def key_test(left: ValueCode, keys: RegoSet) -> TestCode:
    """Code for `left in collection` where the collection is known at load."""

    def test(frame: Frame) -> bool:
        value = left(frame)
        if value is UNDEFINED:
            return False
        return has_key(keys, frame[0].keyed(value) if type(value) in COMPOSITES else freeze(value))

    return test


def indexed_loop(table: dict[Any, list[Any]], probe: ValueCode, slot: int, out: int, then: TestCode) -> TestCode:
    """The entries of a collection known at load whose field is the probe's value."""

    def code(frame: Frame) -> bool:
        wanted = probe(frame)
        if wanted is UNDEFINED:
            return False
        found = table.get(frame[0].keyed(wanted) if type(wanted) in COMPOSITES else freeze(wanted), ())
        frame[0].charge(1)
        for key, value in frame[0].paced(found, len(found)):
            frame[slot] = key
            frame[out] = value
            if then(frame):
                return True
        return False

    return code


def truth(value: ValueCode) -> TestCode:
    def test(frame: Frame) -> bool:
        found = value(frame)
        return found is not False and found is not UNDEFINED

    return test


def unpack_array(slot: int, slots: tuple[int, ...]) -> TestCode:
    def test(frame: Frame) -> bool:
        value = frame[slot]
        if type(value) is not list or len(value) != len(slots):
            return False
        for target, item in zip(slots, value, strict=True):
            frame[target] = item
        return True

    return test


def pairs_of(container: Any, *, in_order: bool) -> Any:
    """Return (key, value) pairs of a collection; sorted by key where the order can be seen."""
    kind = type(container)
    if kind is list:
        return enumerate(container)
    if kind is dict:
        if in_order:
            return [(key, container[freeze(key)]) for key in ordered(map(thaw, container))]
        if Key in set(map(type, container)):
            return [(thaw(key), value) for key, value in container.items()]
        return container.items()
    if kind is RegoSet:
        return [(value, value) for value in (ordered(container) if in_order else container)]
    return None


def loop_code(slot: int, after: PlaceCode, *, in_order: bool) -> PlaceCode:
    def loop(frame: Frame, place: Any) -> bool:
        pairs = pairs_of(place, in_order=in_order)
        if pairs is None:
            return False
        for key, value in frame[0].paced(pairs, len(place)):
            frame[slot] = key
            if after(frame, value):
                return True
        return False

    return loop


def last_loop(slot: int, out: int, then: TestCode, *, in_order: bool) -> PlaceCode:
    """The innermost loop; `slot` 0 stands for a key nobody reads."""
    if slot == 0:
        return _value_loop(out, then, in_order=in_order)

    def loop(frame: Frame, place: Any) -> bool:
        if type(place) is list:
            for index, value in frame[0].paced(enumerate(place), len(place)):
                frame[slot] = index
                frame[out] = value
                if then(frame):
                    return True
            return False
        pairs = pairs_of(place, in_order=in_order)
        if pairs is None:
            return False
        for key, value in frame[0].paced(pairs, len(place)):
            frame[slot] = key
            frame[out] = value
            if then(frame):
                return True
        return False

    return loop


def _value_loop(out: int, then: TestCode, *, in_order: bool) -> PlaceCode:
    def loop(frame: Frame, place: Any) -> bool:
        kind = type(place)
        if kind is list:
            values: Any = place
        elif kind is dict:
            values = [place[freeze(key)] for key in ordered(map(thaw, place))] if in_order else place.values()
        elif kind is RegoSet:
            # Without the generator that a set's own iteration goes through.
            values = ordered(place) if in_order else [key.value if type(key) is Key else key for key in keys_of(place)]
        else:
            return False
        for value in frame[0].paced(values, len(place)):
            frame[out] = value
            if then(frame):
                return True
        return False

    return loop


def sorted_keys(value: Any) -> list[Any]:
    kind = type(value)
    if kind is list:
        return list(range(len(value)))
    if kind is dict:
        return ordered(map(thaw, value))
    return ordered(value) if kind is RegoSet else []


def patched(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a document with `value` at `path`; what stands in the way becomes an object."""
    if not path:
        return value
    copy = dict(document) if type(document) is dict else {}
    key = freeze(path[0])
    copy[key] = patched(copy.get(key), path[1:], value)
    return copy
