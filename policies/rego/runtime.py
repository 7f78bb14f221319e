"""One evaluation: its documents, its memory of rules already computed, and its bounds.

Bounds are counted where work is done: every iteration pays for its entries, a long one in parts while it is gone through (paid at once,
a million tests behind it would run between two looks at the clock), every rule and function one step. The clock is looked at every
`CLOCK_STEPS` steps. Built-ins that can make much out of little ask `Limits` themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from policies.rego.errors import BuiltinError, EvaluationError, LimitError
from policies.rego.values import UNDEFINED, Key, RegoSet

CLOCK_STEPS: Final = 500
PART: Final = 256
"""Entries of an iteration that are paid for at once."""
MISSING: Final = object()
SMALL: Final = 32
PRICED_WEIGHT: Final = 64
COMPOSITES: Final = frozenset({list, dict, RegoSet})


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one evaluation.

    Args:
        steps: Iterations, rule and function evaluations together.
        wall_s: Seconds from start to end.
        items: Members of a collection that a built-in makes.
        text_chars: Characters of a string that a built-in makes.
        depth: Nesting of input and results.
        nodes: Values inside one document, shared parts counted as often as they occur.
    """

    steps: int = 1_000_000
    wall_s: float = 1.0
    items: int = 100_000
    text_chars: int = 1_000_000
    depth: int = 200
    nodes: int = 500_000


@dataclass(slots=True)
class Context:
    """State of one evaluation, owned by the call that made it; `with` makes a child.

    `steps` counts down; below `mark` the clock and the budget are looked at.
    """

    input: Any
    data: Any
    cache: list[Any]
    now_ns: int
    limits: Limits
    clock: Callable[[], float]
    deadline: float
    budget: Budget
    blank: list[Any]
    strict: bool
    overrides: tuple[tuple[Any, ...], ...] = ()
    mocks: dict[Any, Any] | None = None
    sizes: dict[int, tuple[Any, int]] = field(default_factory=dict)

    def charge(self, count: int) -> None:
        """Pay for `count` steps.

        Raises:
            LimitError: `steps` or `wall_s` used up.
        """
        budget = self.budget
        budget.left -= count
        if budget.left < budget.mark:
            self._look()

    def _look(self) -> None:
        """Look at the budget and at the clock."""
        budget = self.budget
        if budget.left < 0:
            raise LimitError("steps", f"more than `{self.limits.steps}` steps")
        budget.mark = budget.left - CLOCK_STEPS
        if self.clock() > self.deadline:
            raise LimitError("wall_s", f"longer than `{self.limits.wall_s}` seconds")

    def paced(self, entries: Iterable[Any], count: int) -> Iterable[Any]:
        """Return the entries to go through, `count` of them, paid for: few at once, many in parts as they are reached.

        Raises:
            LimitError: `steps` or `wall_s` used up; also while the entries are gone through.
        """
        if count <= PART:
            budget = self.budget
            budget.left -= count
            if budget.left < budget.mark:
                self._look()
            return entries
        return self._in_parts(entries)

    def _in_parts(self, entries: Iterable[Any]) -> Iterator[Any]:
        rest = iter(entries)
        while part := list(islice(rest, PART)):
            self.charge(len(part))
            yield from part

    def weigh(self, value: Any) -> int:  # noqa: C901 - one flat list of cases
        """Return the number of values inside a value, shared parts counted as often as they occur.

        Values are shared, so forty rules `x2 := [x1, x1]` describe a document of 2^40 members in forty lists. Whatever puts
        a composite into another weighs it first, so nothing that walks a value later can walk more than `Limits.nodes`.

        Raises:
            LimitError: `nodes`.
        """
        kind = type(value)
        if kind not in COMPOSITES:
            return 1
        total = 1 + len(value)
        if kind is RegoSet:
            for key in frozenset.__iter__(value):
                if type(key) is Key:
                    total += key.weight - 1
            return total if total <= SMALL else self._within(total)
        sizes = self.sizes
        if sizes:
            known = sizes.get(id(value))
            if known is not None and known[0] is value:
                return int(known[1])
        for member in value.values() if kind is dict else value:
            if type(member) in COMPOSITES:
                total += self.weigh(member)
                if total > self.limits.nodes:
                    break
        if total <= SMALL:
            # Weighing it again costs less than remembering it.
            return total
        self._within(total)
        if len(value) >= SMALL:
            self.charge(len(value) >> 4)
        # The value is kept beside its size, so that its id is not given to another one.
        sizes[id(value)] = (value, total)
        return total

    def _within(self, total: int) -> int:
        if total > self.limits.nodes:
            raise LimitError("nodes", f"a document of more than `{self.limits.nodes}` values")
        return total

    def keyed(self, value: Any) -> Any:
        """Return the key of a value, paid for by its weight."""
        key = Key(value)
        if key.weight >= PRICED_WEIGHT:
            self.charge(key.weight >> 4)
        return key

    def pay(self, value: Any) -> None:
        """Charge for an operation that walks a whole value."""
        if type(value) in COMPOSITES:
            price = self.weigh(value) >> 4
            if price:
                self.charge(price)

    def child(self) -> Context:
        """Return a context for a `with`: same budget, nothing remembered."""
        return Context(
            self.input, self.data, self.blank.copy(), self.now_ns, self.limits, self.clock, self.deadline, self.budget, self.blank,
            self.strict, self.overrides, self.mocks, self.sizes,
        )  # fmt: skip

    def failed(self, name: str, error: BuiltinError) -> Any:
        """A built-in refused its operands: undefined, or an error in strict mode."""
        if self.strict:
            raise EvaluationError(error.code, f"{name}: {error}") from error
        return UNDEFINED


@dataclass(slots=True)
class Budget:
    """Steps left, shared by a context and its children."""

    left: int
    mark: int
