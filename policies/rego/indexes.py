"""What need not be looked at: entries of base data by a field, members of constant collections, definitions by the input they ask for.

An index only leaves out what could not have held, and only where nothing that is passed over could have failed: between the start and the test
that is indexed there may stand comparisons of plain references, no call. So answers, and errors, are those of the plain loop; the cost is that of the
entries and rules that match. (OPA does the same for rules: policy-performance, "Use indexed statements".)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from policies.rego.compile_terms import ProgramView, constant_document
from policies.rego.errors import LimitError
from policies.rego.ir import Apply, Const, Doc, Get, Local
from policies.rego.plan import EqualOp, IterOp, TestOp
from policies.rego.runtime import COMPOSITES
from policies.rego.values import UNDEFINED, RegoSet, freeze, lookup

SMALLEST: Final = 16
"""Collections below this size are gone through as they are."""
FEWEST_RULES: Final = 4
"""Definitions of one name from which on they are indexed."""
_COMPARISONS: Final = frozenset({"equal", "neq", "lt", "lte", "gt", "gte", "internal.member_2"})
Table = dict[Any, list[Any]]


# --- members -----------------------------------------------------------------------------------------------------------


def member_keys(container: Any) -> RegoSet | None:
    """Return the keys of a constant collection's members, or None where a search is as quick."""
    if type(container) is RegoSet or type(container) not in {list, dict} or len(container) < SMALLEST:
        return None
    try:
        return RegoSet(map(freeze, container if type(container) is list else container.values()))
    except LimitError:
        return None


# --- entries of base data ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Join:
    """An iteration over base data whose entries must have `probe` at `names`, or among the members there."""

    container: Any
    names: tuple[Any, ...]
    probe: Any
    among: bool

    def table(self, pairs: Iterable[tuple[Any, Any]]) -> Table | None:
        """Return key of the field -> (key, value) pairs in their order; None where a field is too heavy to be a key."""
        found: Table = {}
        try:
            for key, value in pairs:
                field = value
                for name in self.names:
                    field = lookup(field, name)
                for wanted in self._wanted(field):
                    found.setdefault(wanted, []).append((key, value))
        except LimitError:
            return None
        return found

    def _wanted(self, field: Any) -> Iterable[Any]:
        if field is UNDEFINED:
            return ()
        if not self.among:
            return (freeze(field),)
        if type(field) is RegoSet:
            return frozenset.__iter__(field)
        if type(field) in {list, dict}:
            return dict.fromkeys(map(freeze, field if type(field) is list else field.values()))
        return ()


def join_of(program: ProgramView, op: IterOp, following: Sequence[Any]) -> Join | None:
    """Return how an iteration can be narrowed by a test that follows it, or None."""
    path = op.ref.path
    if type(op.ref) is not Doc or op.ref.root != "data" or type(path[-1]) is not Local or op.free != {path[-1].slot}:
        return None
    container = constant_document(program, path[:-1])
    if type(container) not in {list, dict} or len(container) < SMALLEST:
        return None
    changing = {op.out, path[-1].slot}
    for test in following:
        for one, other, among in _sides(program, test):
            if type(other) in {Local, Get} and _field(other, op.out) is not None and _is_steady(one, changing):
                return Join(container, _field(other, op.out) or (), one, among)
        if not _is_harmless(program, test):
            return None
    return None


def _sides(program: ProgramView, test: Any) -> Iterable[tuple[Any, Any, bool]]:
    """Yield (probe, field, whether the probe is among the field's members) of a test."""
    if type(test) is EqualOp:
        yield test.left, test.right, False
        yield test.right, test.left, False
    elif type(test) is TestOp and type(test.term) is Apply and test.term.name == "internal.member_2" and test.term.name not in program.mocked:
        yield test.term.args[0], test.term.args[1], True


def _field(term: Any, out: int) -> tuple[Any, ...] | None:
    """Return the names of `entry.a.b`, () for the entry itself, None for anything else."""
    if type(term) is Local:
        return () if term.slot == out else None
    if type(term.base) is Local and term.base.slot == out and all(type(element) is Const for element in term.path):
        return tuple(element.value for element in term.path)
    return None


def _is_steady(term: Any, changing: set[int]) -> bool:
    """Tell whether a term has one value for the whole iteration and cannot fail."""
    kind = type(term)
    if kind is Const:
        return True
    if kind is Local:
        return term.slot not in changing
    if kind is Doc and term.root == "input":
        return all(_is_steady(element, changing) for element in term.path)
    return kind is Get and _is_steady(term.base, changing) and all(_is_steady(element, changing) for element in term.path)


def _is_harmless(program: ProgramView, op: Any) -> bool:
    """Tell whether an operation is a test that cannot fail with an error and binds nothing."""
    if type(op) is EqualOp:
        return _is_plain(program, op.left) and _is_plain(program, op.right)
    if type(op) is not TestOp:
        return False
    term = op.term
    if type(term) is Apply:
        return term.name in _COMPARISONS and term.name not in program.mocked and all(_is_plain(program, argument) for argument in term.args)
    return _is_plain(program, term)


def _is_plain(program: ProgramView, term: Any) -> bool:
    kind = type(term)
    if kind is Const or kind is Local:
        return True
    if kind is Doc:
        plain = all(_is_plain(program, element) for element in term.path)
        return plain and (term.root == "input" or constant_document(program, term.path) is not UNDEFINED)
    return kind is Get and _is_plain(program, term.base) and all(_is_plain(program, element) for element in term.path)


# --- definitions of a rule -----------------------------------------------------------------------------------------------

Choose = Callable[[Any], Sequence[Any]]


def chooser(program: ProgramView, plans: Sequence[list[Any] | None], codes: Sequence[Any]) -> Choose | None:
    """Return `context -> the codes that can hold`, or None where no input path tells enough of them apart.

    Args:
        program: The program.
        plans: The operations of each definition; None for one that is always tried.
        codes: The code of each definition, in the same order.
    """
    if program.hook is not None or len(codes) < FEWEST_RULES:
        return None
    guards = [{} if plan is None else dict(_guards(program, plan)) for plan in plans]
    counts: dict[Any, int] = {}
    for guard in guards:
        for path in guard:
            counts[path] = counts.get(path, 0) + 1
    best = max(counts, key=lambda path: counts[path], default=None)
    if best is None or counts[best] < FEWEST_RULES:
        return None
    everything = tuple(codes)
    always = tuple(code for code, guard in zip(codes, guards, strict=True) if best not in guard)
    values = {value for guard in guards for value in guard.get(best, ())}
    table = {value: tuple(code for code, guard in zip(codes, guards, strict=True) if best not in guard or value in guard[best]) for value in values}

    def choose(context: Any) -> Sequence[Any]:
        found = context.input
        for name in best:
            found = lookup(found, name)
        if found is UNDEFINED:
            return always
        # Making a key of a whole document could cost more than it saves.
        return everything if type(found) in COMPOSITES else table.get(freeze(found), always)

    return choose


def _guards(program: ProgramView, plan: list[Any]) -> Iterable[tuple[tuple[Any, ...], frozenset[Any]]]:
    """Yield (input path, keys one of which must be there) of the tests a definition begins with."""
    for op in plan:
        yield from _guard(program, op)
        if not _is_harmless(program, op):
            return


def _guard(program: ProgramView, op: Any) -> Iterable[tuple[tuple[Any, ...], frozenset[Any]]]:
    if type(op) is EqualOp:
        for one, other in ((op.left, op.right), (op.right, op.left)):
            path = _input_path(one)
            if path is not None and type(other) is Const:
                yield path, frozenset({freeze(other.value)})
    elif type(op) is TestOp and type(op.term) is Apply and op.term.name == "internal.member_2" and op.term.name not in program.mocked:
        path = _input_path(op.term.args[0])
        container = op.term.args[1]
        if path is not None and type(container) is Const and type(container.value) in {list, RegoSet}:
            yield path, frozenset(map(freeze, container.value))


def _input_path(term: Any) -> tuple[Any, ...] | None:
    if type(term) is Doc and term.root == "input" and all(type(element) is Const for element in term.path):
        return tuple(element.value for element in term.path)
    return None
