"""Statements in an order that can run: which variable is bound when, and by what.

OPA's rule of safety, which is also its order of evaluation: statements run in the order written, except that one whose variables are
not yet bound waits for the first place where they are. What can never run names its variables *unsafe*.

The result is a list of primitive operations over slots. Each is either a test (at most one way to succeed) or an iteration; because
the order is fixed here, the compiled code needs no trail, no unification at run time and no "is it bound?".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policies.rego.ir import (
    Apply,
    ArrayT,
    Compr,
    Const,
    Doc,
    EveryS,
    Get,
    Local,
    Match,
    Not,
    ObjectT,
    SetT,
    TemplateT,
    Test,
    WithS,
    locals_in,
)


@dataclass(frozen=True, slots=True)
class AssignOp:
    """slot := term."""

    slot: int
    term: Any
    pos: int


@dataclass(frozen=True, slots=True)
class TestOp:
    """term is defined and not false."""

    term: Any
    pos: int


@dataclass(frozen=True, slots=True)
class EqualOp:
    """Two terms are equal."""

    left: Any
    right: Any
    pos: int


@dataclass(frozen=True, slots=True)
class IterOp:
    """Walk a reference, binding `binds` (path index -> slot or pattern slot); the value goes to `out`."""

    ref: Any
    free: frozenset[int]
    out: int
    pos: int


@dataclass(frozen=True, slots=True)
class UnpackArrayOp:
    """The array in `slot` has exactly these elements; they go to `slots`."""

    slot: int
    slots: tuple[int, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class UnpackObjectOp:
    """The object in `slot` has exactly these keys; their values go to `slots`."""

    slot: int
    keys: tuple[Any, ...]
    slots: tuple[int, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class WalkOp:
    """`walk(term)`: each [path, value] pair goes to `out`."""

    term: Any
    out: int
    pos: int


@dataclass(frozen=True, slots=True)
class NotOp:
    """No way to satisfy the inner operations."""

    ops: tuple[Any, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class EveryOp:
    """The inner operations hold for every entry."""

    key: int
    value: int
    domain: Any
    ops: tuple[Any, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class LogicOp:
    """`and`, `or`."""

    op: str
    left: tuple[Any, ...]
    right: tuple[Any, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class WithOp:
    """Inner operations under replaced documents and functions."""

    targets: tuple[tuple[str, Any, Any], ...]
    ops: tuple[Any, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class ComprPlan:
    """A planned comprehension."""

    kind: str
    key: Any
    value: Any
    ops: tuple[Any, ...]
    pos: int


@dataclass(frozen=True, slots=True)
class TemplatePlan:
    """A planned template string."""

    parts: tuple[Any, ...]
    pos: int


class Planner:
    """Plans the bodies of one rule. Owns `names` (it grows by temporary slots) and `unsafe` (slot, position)."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = list(names)
        self.unsafe: list[tuple[int, int]] = []
        self._claimed: set[int] = set()

    def body(self, statements: tuple[Any, ...], bound: set[int]) -> list[Any]:
        """Order statements; `bound` grows by what they bind."""
        ops: list[Any] = []
        remaining = list(statements)
        while remaining:
            waiting = []
            for statement in remaining:
                found = self._plan(statement, bound)
                if found is None:
                    waiting.append(statement)
                else:
                    ops.extend(found)
            if len(waiting) == len(remaining):
                self._report(waiting, bound)
                break
            remaining = waiting
        return ops

    def _report(self, waiting: list[Any], bound: set[int]) -> None:
        for statement in waiting:
            for slot in sorted(locals_in(statement) - bound):
                self.unsafe.append((slot, statement.pos))
            bound |= locals_in(statement)

    def temp(self) -> int:
        """Reserve a slot."""
        self.names.append("")
        return len(self.names) - 1

    # --- one statement -----------------------------------------------------------------------------------------------

    def _plan(self, statement: Any, bound: set[int]) -> list[Any] | None:  # noqa: PLR0911 - one flat list of cases
        kind = type(statement)
        if kind is Match:
            return self._match(statement.left, statement.right, bound, statement.pos)
        if kind is Test:
            return self._test(statement, bound)
        if kind is WithS:
            return self._with(statement, bound)
        if not locals_in(statement) <= bound:
            return None
        if kind is Not:
            inner = set(bound)
            return [NotOp(tuple(self.body(statement.body, inner)), statement.pos)]
        if kind is EveryS:
            domain = self.value(statement.domain, bound)
            inner = bound | {statement.key, statement.value}
            return [EveryOp(statement.key, statement.value, domain, tuple(self.body(statement.body, inner)), statement.pos)]
        left = tuple(self.body(statement.left, set(bound)))
        right = tuple(self.body(statement.right, set(bound)))
        return [LogicOp(statement.op, left, right, statement.pos)]

    def _with(self, statement: WithS, bound: set[int]) -> list[Any] | None:
        needed: set[int] = set()
        for _, _, value in statement.targets:
            if type(value) is not tuple:
                locals_in(value, needed)
        if not needed <= bound:
            return None
        inner = set(bound)
        mark = len(self.unsafe)
        ops = self.body(statement.body, inner)
        if len(self.unsafe) > mark:
            del self.unsafe[mark:]
            return None
        targets = tuple((kind, name, value if type(value) is tuple else self.value(value, bound)) for kind, name, value in statement.targets)
        bound |= inner
        return [WithOp(targets, tuple(ops), statement.pos)]

    def _test(self, statement: Test, bound: set[int]) -> list[Any] | None:
        term = statement.term
        if type(term) is Doc or type(term) is Get:
            free = self._free(term, bound)
            if free is None:
                return None
            if free:
                out = self.temp()
                ops = self._iterate(term, free, out, bound, statement.pos)
                return [*ops, TestOp(Local(out), statement.pos)]
        if type(term) is Apply:
            if term.name == "walk":
                return self._walk(term, None, bound, statement.pos)
            if term.name == "equal" and locals_in(term) <= bound:
                return [EqualOp(self.value(term.args[0], bound), self.value(term.args[1], bound), statement.pos)]
        if not locals_in(term) <= bound:
            return None
        return [TestOp(self.value(term, bound), statement.pos)]

    # --- references that iterate -------------------------------------------------------------------------------------

    def _free(self, ref: Any, bound: set[int]) -> frozenset[int] | None:
        """Return the unbound slots a reference would bind, or None when it cannot run yet."""
        if type(ref) is Get and not locals_in(ref.base) <= bound:
            return None
        free: set[int] = set()
        for element in ref.path:
            missing = locals_in(element) - bound
            if missing and not self._is_pattern(element, bound):
                return None
            free |= missing
        return frozenset(free)

    def _is_pattern(self, term: Any, bound: set[int]) -> bool:
        kind = type(term)
        if kind is Local or kind is Const:
            return True
        if kind is ArrayT:
            return all(self._is_pattern(item, bound) for item in term.items)
        if kind is ObjectT:
            return all(locals_in(key) <= bound and self._is_pattern(value, bound) for key, value in term.pairs)
        return locals_in(term) <= bound

    def _iterate(self, ref: Any, free: frozenset[int], out: int, bound: set[int], pos: int) -> list[Any]:
        """Plan a reference with free variables; patterns in its path become temporaries unpacked afterwards."""
        unpack: list[tuple[int, Any]] = []
        path: list[Any] = []
        seen: set[int] = set()
        temps: set[int] = set()
        for element in ref.path:
            if type(element) is Local and element.slot in free and element.slot not in seen:
                seen.add(element.slot)
                path.append(element)
            elif locals_in(element) - bound - seen or (type(element) is not Local and locals_in(element) & seen):
                slot = self.temp()
                temps.add(slot)
                unpack.append((slot, element))
                path.append(Local(slot))
            else:
                path.append(self.value(element, bound | seen))
        base = Doc(ref.root, tuple(path), ref.pos) if type(ref) is Doc else Get(self.value(ref.base, bound), tuple(path), ref.pos)
        bound |= seen
        ops: list[Any] = [IterOp(base, frozenset(seen | temps), out, pos)]
        for slot, pattern in unpack:
            found = self._match(Local(slot), pattern, bound | {slot}, pos)
            ops.extend(found or [])
            bound |= locals_in(pattern)
        return ops

    def _walk(self, call: Apply, result: Any, bound: set[int], pos: int) -> list[Any] | None:
        args = call.args
        if len(args) == 2:
            result = args[1]
        if not locals_in(args[0]) <= bound or (result is not None and not self._is_pattern(result, bound)):
            return None
        out = self.temp()
        ops: list[Any] = [WalkOp(self.value(args[0], bound), out, pos)]
        if result is not None:
            bound.add(out)
            ops.extend(self._match(Local(out), result, bound, pos) or [])
        return ops

    # --- unification -------------------------------------------------------------------------------------------------

    def _match(self, left: Any, right: Any, bound: set[int], pos: int) -> list[Any] | None:
        if type(left) is Apply and left.name == "walk":
            return self._walk(left, right, bound, pos)
        if type(right) is Apply and right.name == "walk":
            return self._walk(right, left, bound, pos)
        if type(left) is ArrayT and type(right) is ArrayT:
            return self._match_arrays(left, right, bound, pos)
        if type(left) is ObjectT and type(right) is ObjectT and self._same_keys(left, right):
            others = {key.value: value for key, value in right.pairs}
            return self._match_all([(value, others[key.value]) for key, value in left.pairs], bound, pos)
        for source, target in ((left, right), (right, left)):
            trial = set(bound)
            ops = self._match_value(source, target, trial, pos)
            if ops is not None:
                bound |= trial
                return ops
        return None

    def _same_keys(self, left: ObjectT, right: ObjectT) -> bool:
        if not all(type(key) is Const and type(key.value) is str for key, _ in (*left.pairs, *right.pairs)):
            return False
        return sorted(key.value for key, _ in left.pairs) == sorted(key.value for key, _ in right.pairs)

    def _match_arrays(self, left: ArrayT, right: ArrayT, bound: set[int], pos: int) -> list[Any] | None:
        if len(left.items) != len(right.items):
            return [TestOp(Const(False), pos)] if (locals_in(left) | locals_in(right)) <= bound else self._never(left, right, bound, pos)
        return self._match_all(list(zip(left.items, right.items, strict=True)), bound, pos)

    def _never(self, left: Any, right: Any, bound: set[int], pos: int) -> list[Any]:
        bound |= locals_in(left) | locals_in(right)
        return [TestOp(Const(False), pos)]

    def _match_all(self, pairs: list[tuple[Any, Any]], bound: set[int], pos: int) -> list[Any] | None:
        trial = set(bound)
        ops: list[Any] = []
        remaining = pairs
        while remaining:
            waiting = []
            for one, other in remaining:
                found = self._match(one, other, trial, pos)
                if found is None:
                    waiting.append((one, other))
                else:
                    ops.extend(found)
            if len(waiting) == len(remaining):
                return None
            remaining = waiting
        bound |= trial
        return ops

    def _match_value(self, source: Any, target: Any, bound: set[int], pos: int) -> list[Any] | None:
        """Evaluate `source` (it may iterate), then fit `target` to the value."""
        ops: list[Any] = []
        if type(source) is Doc or type(source) is Get:
            free = self._free(source, bound)
            if free is None:
                return None
            if free:
                if not self._is_pattern(target, bound | free) and not self._iterable(target, bound | free):
                    return None
                slot = self._target_slot(target, bound, free)
                out = self.temp() if slot is None else slot
                ops = self._iterate(source, free, out, bound, pos)
                if slot is not None:
                    bound.add(slot)
                    return ops
                bound.add(out)
                rest = self._match(Local(out), target, bound, pos)
                return None if rest is None else [*ops, *rest]
        elif not locals_in(source) <= bound:
            return None
        return self._fit(source, target, bound, pos)

    def _iterable(self, target: Any, bound: set[int]) -> bool:
        return type(target) in {Doc, Get} and self._free(target, bound) is not None

    def _target_slot(self, target: Any, bound: set[int], free: frozenset[int]) -> int | None:
        if type(target) is Local and target.slot not in bound and target.slot not in free:
            return int(target.slot)
        return None

    def _fit(self, source: Any, target: Any, bound: set[int], pos: int) -> list[Any] | None:
        kind = type(target)
        missing = locals_in(target) - bound
        if kind is Local and missing:
            ops = [AssignOp(target.slot, self.value(source, bound), pos)]
            bound.add(target.slot)
            return ops
        if not missing:
            return [EqualOp(self.value(source, bound), self.value(target, bound), pos)]
        if kind is not ArrayT and kind is not ObjectT:
            return None
        if not self._is_pattern(target, bound):
            return None
        slot = source.slot if type(source) is Local else self.temp()
        ops = [] if type(source) is Local else [AssignOp(slot, self.value(source, bound), pos)]
        bound.add(slot)
        parts = target.items if kind is ArrayT else tuple(value for _, value in target.pairs)
        self._claimed = set()
        slots = tuple(self._part_slot(part, bound) for part in parts)
        if kind is ArrayT:
            unpack: Any = UnpackArrayOp(slot, slots, pos)
        else:
            unpack = UnpackObjectOp(slot, tuple(self.value(key, bound) for key, _ in target.pairs), slots, pos)
        ops.append(unpack)
        fresh: set[int] = set()
        for part, part_slot in zip(parts, slots, strict=True):
            if type(part) is Local and part.slot == part_slot and part_slot not in fresh:
                fresh.add(part_slot)
                bound.add(part_slot)
                continue
            bound.add(part_slot)
            found = self._fit(Local(part_slot), part, bound, pos)
            if found is None:
                return None
            ops.extend(found)
        return ops

    def _part_slot(self, part: Any, bound: set[int]) -> int:
        """An unbound variable that stands once receives its element directly."""
        if type(part) is Local and part.slot not in bound and part.slot not in self._claimed:
            self._claimed.add(part.slot)
            return int(part.slot)
        return self.temp()

    # --- terms -------------------------------------------------------------------------------------------------------

    def value(self, term: Any, bound: set[int]) -> Any:  # noqa: PLR0911 - one flat list of cases
        """Return a term with its closures planned."""
        kind = type(term)
        if kind is Compr:
            inner = set(bound)
            ops = self.body(term.body, inner)
            for part in (term.key, term.value):
                for slot in sorted(locals_in(part) - inner):
                    self.unsafe.append((slot, term.pos))
            key = None if term.key is None else self.value(term.key, inner)
            return ComprPlan(term.kind, key, self.value(term.value, inner), tuple(ops), term.pos)
        if kind is TemplateT:
            parts = [part if isinstance(part, str) else (tuple(self.body(part[0], set(bound))), part[1]) for part in term.parts]
            return TemplatePlan(tuple(parts), term.pos)
        if kind is Doc:
            return Doc(term.root, tuple(self.value(element, bound) for element in term.path), term.pos)
        if kind is Get:
            return Get(self.value(term.base, bound), tuple(self.value(element, bound) for element in term.path), term.pos)
        if kind is Apply:
            return Apply(term.name, tuple(self.value(argument, bound) for argument in term.args), term.pos)
        if kind is ArrayT or kind is SetT:
            return kind(tuple(self.value(item, bound) for item in term.items), term.pos)
        if kind is ObjectT:
            return ObjectT(tuple((self.value(key, bound), self.value(value, bound)) for key, value in term.pairs), term.pos)
        return term
