r"""What happened inside an evaluation: which rules ran, which expressions held, what values they saw, what was never reached.

Tracing compiles the same plans with a recorder around every operation, so it shows what really ran, in the order in which it ran. It is for
explaining one decision and for tests, not for the hot path. `explain.py` writes it down for people.

Rules:

- An expression is the text of one statement; it may run as several operations. It *held* when its last one did.
- What is recorded is bounded: the first `SAMPLES` tries of an expression with their values, the first `RULES` rules. Counts are exact.
- Values are looked up once more for the record; that is not charged to the evaluation and leaves no trace.
- What is reached: `coverage.py`.

Example:
    >>> traced = Engine({"p.rego": "package p\nallow if {\n\tinput.age >= 18\n}"}).traced()
    >>> traced.value("data.p.allow", input={"age": 7})
    UNDEFINED
    >>> traced.rules[0].first_failure.samples[0].values
    (('input.age', '7'),)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from policies.rego.compile_bodies import BodyCompiler
from policies.rego.compile_calls import Frame, TestCode, ValueCode
from policies.rego.coverage import FileCoverage, Reached, coverage_of
from policies.rego.errors import LimitError
from policies.rego.explain import explain_rules
from policies.rego.ir import Apply, ArrayT, Const, Doc, Get, Local, ObjectT, RuleIR, SetT
from policies.rego.plan import EveryOp, IterOp, LogicOp, NotOp, Planner, WithOp
from policies.rego.program import Linked, Program, with_targets
from policies.rego.runtime import CLOCK_STEPS, Budget, Context, Limits
from policies.rego.spans import Span, SpanIndex
from policies.rego.trace import Attempt, RuleTrace, Sample, shorten
from policies.rego.values import UNDEFINED, import_value, thaw

SAMPLES: Final = 3
RULES: Final = 2_000
MEMBERS: Final = 20
"""Members of a set that the result of a rule names."""


class Recorder:
    """The program's hook. Owns `rules`, `open`, `reached` (this evaluation) and `total` (since construction)."""

    def __init__(self, linked: Linked) -> None:
        self.linked = linked
        self.indexes = [SpanIndex(module) for module in linked.modules]
        self.numbers = [{rule.pos: number for number, rule in enumerate(module.rules)} for module in linked.modules]
        self.rules: list[RuleTrace] = []
        self.open: list[RuleTrace] = []
        self.reached: set[Reached] = set()
        self.total: set[Reached] = set()
        self.quiet = False

    def start(self) -> None:
        """Forget the evaluation before."""
        self.total |= self.reached
        self.rules, self.open, self.reached, self.quiet = [], [], set(), False

    def compiler(self, program: Program, planner: Planner, rule: RuleIR | None) -> BodyCompiler:
        """Return a compiler that records."""
        return TracingCompiler(program, planner, self, rule)

    def parts(self, rule: RuleIR) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Return the heads and the expressions of a rule."""
        number = self.numbers[rule.module][rule.pos]
        own = [span for span in self.indexes[rule.module].spans if span.rule == number]
        return tuple(span for span in own if span.is_head), tuple(span for span in own if not span.is_head)

    def rule(self, rule: RuleIR) -> Callable[[Any], Any]:
        """Return a wrapper for the code of a rule."""
        file = self.linked.modules[rule.module].source.name
        heads, expressions = self.parts(rule)
        name = "data." + ".".join(str(thaw(part)) for part in rule.prefix)
        outer = [span for span in expressions if span.parent is None]

        def wrap(code: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
            def run(context: Any, args: Any) -> Any:
                if self.quiet:
                    return code(context, args)
                is_kept = len(self.rules) < RULES
                arguments = tuple(shorten(value) for value in args) if rule.kind == "function" and is_kept else ()
                trace = RuleTrace(name, file, len(self.open), heads, expressions, rule.kind in {"set", "object"}, arguments)
                self._begin(trace)
                size = len(args) if rule.kind == "set" else 0
                try:
                    value = code(context, args)
                finally:
                    self.open.pop()
                if rule.kind == "set" and len(args) > size:
                    self._gave(trace, 0, ", ".join(shorten(thaw(member)) for member in args[size : size + MEMBERS]))
                elif rule.kind == "object" and all(span.start in trace.attempts and trace.attempts[span.start].held for span in outer):
                    self._gave(trace, 0, "members")
                elif value is not None and value is not UNDEFINED:
                    self._gave(trace, trace.branch or 0, shorten(value) if is_kept else "…")
                return value

            return run

        return wrap

    def _begin(self, trace: RuleTrace) -> None:
        if len(self.rules) < RULES:
            self.rules.append(trace)
            if self.open:
                self.open[-1].pending.append(trace)
        self.open.append(trace)

    def _gave(self, trace: RuleTrace, branch: int, result: str) -> None:
        trace.result, trace.branch = result, branch
        self.reached.add((trace.file, trace.heads[branch].start, True))

    def note(self, file: str, span: Span, *, held: bool, inner: bool, is_last: bool, values: Callable[[], tuple[tuple[str, str], ...]]) -> None:
        """Record that an operation of an expression ran in the rule that is open.

        Args:
            file: The module.
            span: The expression.
            held: Whether the operation held.
            inner: It runs inside another operation of the same expression, whose outcome is the one that counts.
            is_last: It is the expression's last operation.
            values: Looks up what the operation saw.
        """
        if self.quiet:
            return
        self.reached.add((file, span.start, False))
        if not self.open:
            return
        trace = self.open[-1]
        attempt = trace.attempts.get(span.start)
        if attempt is None:
            attempt = trace.attempts[span.start] = Attempt(span)
        attempt.rules.extend(trace.pending)
        trace.pending.clear()
        wanted = len(attempt.samples) < SAMPLES
        if wanted:
            attempt.seen = tuple(dict([*attempt.seen, *values()]).items())
        if inner or (held and not is_last):
            return
        attempt.held += held
        attempt.failed += not held
        if wanted:
            attempt.samples.append(Sample(held, attempt.seen))
        attempt.seen = ()


class TracingCompiler(BodyCompiler):
    """A compiler whose every operation reports. Owns `_inside`, the expressions whose operations are being compiled."""

    def __init__(self, program: Program, planner: Planner, recorder: Recorder, rule: RuleIR | None) -> None:
        super().__init__(program, planner)
        self._recorder = recorder
        self._index = recorder.indexes[rule.module] if rule is not None else None
        self._file = recorder.linked.modules[rule.module].source.name if rule is not None else ""
        self._last: set[int] = set()
        self._inside: list[int] = []

    def watched_branch(self, number: int, code: ValueCode) -> ValueCode:
        """Note which branch gives the value."""

        def branch(frame: Frame) -> Any:
            value = code(frame)
            if value is not UNDEFINED and self._recorder.open and not self._recorder.quiet:
                self._recorder.open[-1].branch = number
            return value

        return branch

    def body(self, ops: Any, then: TestCode) -> TestCode:
        """Compile operations, knowing which is the last of its expression."""
        found = list(ops)
        by_span = {span.start: op for op in found if (span := self._span(op)) is not None}
        self._last |= {id(op) for op in by_span.values()}
        return super().body(found, then)

    def _span(self, op: Any) -> Span | None:
        return None if self._index is None else self._index.around(op.pos)

    def _test(self, op: Any) -> TestCode:
        span = self._span(op)
        if span is None:
            return super()._test(op)
        report = self._reporter(op, span)
        self._inside.append(span.start)
        code = super()._test(op)
        self._inside.pop()

        def test(frame: Frame) -> bool:
            held = code(frame)
            report(frame, held=bool(held))
            return held

        return test

    def _iteration(self, op: Any, then: TestCode, following: Sequence[Any]) -> TestCode:
        span = self._span(op)
        if span is None:
            return super()._iteration(op, then, following)
        report = self._reporter(op, span)
        reached: list[int] = [0]

        def arrived(frame: Frame) -> bool:
            reached[0] += 1
            report(frame, held=True)
            return then(frame)

        self._inside.append(span.start)
        code = super()._iteration(op, arrived, following)
        self._inside.pop()

        def run(frame: Frame) -> bool:
            before = reached[0]
            stop = code(frame)
            if reached[0] == before:
                report(frame, held=False)
            return stop

        return run

    def _reporter(self, op: Any, span: Span) -> Callable[..., None]:
        """Return what reports an operation: `report(frame, held=...)`."""
        recorder, file = self._recorder, self._file
        inner, is_last = span.start in self._inside, id(op) in self._last
        shown = self._shown(op)

        def report(frame: Frame, *, held: bool) -> None:
            recorder.note(file, span, held=held, inner=inner, is_last=is_last, values=lambda: _look(recorder, shown, frame))

        return report

    # --- the values an operation saw -----------------------------------------------------------------------------------

    def _shown(self, op: Any) -> tuple[tuple[str, ValueCode], ...]:
        """Return (text, code) of the references, calls and variables whose values explain an operation."""
        found: dict[str, ValueCode] = {}
        index, self._index = self._index, None  # what is compiled here reports nothing
        for text, term in _terms(op, index, self.names):
            found.setdefault(text, self.value(term))
        self._index = index
        return tuple(found.items())


def _terms(op: Any, index: SpanIndex | None, names: list[str]) -> Iterator[tuple[str, Any]]:  # noqa: C901 - one flat list of cases
    """Yield (text, term) of what an operation reads."""
    if index is None:
        return
    stack = _roots(op)
    while stack:
        item = stack.pop()
        kind = type(item)
        if kind is Local:
            name = names[item.slot]
            text = name if name and not name.startswith("_#") else index.reference(item.pos)
            if text:
                yield text, item
        elif kind is Doc or kind is Get:
            text = index.reference(item.pos)
            if type(op) is IterOp and item.pos == op.ref.pos:
                text = text.partition("[")[0]
            if text and text not in {"input", "data"}:
                yield text, item
            stack.extend(part for part in reversed(item.path) if type(part) is not Const)
        elif kind is Apply:
            text = index.reference(item.pos)
            if text and item is not getattr(op, "term", None):
                yield text, item
            stack.extend(reversed(item.args))
        elif kind is ArrayT or kind is SetT:
            stack.extend(reversed(item.items))
        elif kind is ObjectT:
            stack.extend(value for _, value in reversed(item.pairs))


def _roots(op: Any) -> list[Any]:
    """Return the terms an operation begins with, the last first; of an iteration the collection it goes over."""
    if type(op) is IterOp:
        path = op.ref.path
        bound = next((number for number, part in enumerate(path) if type(part) is Local and part.slot in op.free), len(path))
        if bound:
            return [Doc(op.ref.root, path[:bound], op.ref.pos) if type(op.ref) is Doc else Get(op.ref.base, path[:bound], op.ref.pos)]
        return [op.ref.base] if type(op.ref) is Get else []
    if type(op) in {WithOp, LogicOp, NotOp}:
        return []
    if type(op) is EveryOp:
        return [op.domain]
    return [getattr(op, name) for name in ("right", "left", "term") if hasattr(op, name)]


def _look(recorder: Recorder, shown: tuple[tuple[str, ValueCode], ...], frame: Frame) -> tuple[tuple[str, str], ...]:
    """Look up values without charge and without trace."""
    budget = frame[0].budget
    left, mark, recorder.quiet = budget.left, budget.mark, True
    found = []
    for text, code in shown:
        try:
            value = code(frame)
        except Exception as error:  # noqa: BLE001 - whatever it is, the evaluation itself meets it too and reports it
            found.append((text, f"error: {error}"))
        else:
            found.append((text, shorten(value)))
    budget.left, budget.mark, recorder.quiet = left, mark, False
    return tuple(found)


class TracedEngine:
    """Evaluates with a recorder. One evaluation at a time; coverage adds up over all of them."""

    def __init__(self, linked: Linked, data: Any, limits: Limits, clock: Callable[[], float], *, strict_builtin_errors: bool) -> None:
        self._recorder = Recorder(linked)
        mocked, replaces = with_targets(linked)
        self._program = Program(linked, data, mocked=mocked, replaces_data=replaces, hook=self._recorder)
        self._limits = limits
        self._clock = clock
        self._strict = strict_builtin_errors

    def value(self, ref: str | tuple[Any, ...], input: Any = UNDEFINED, now_ns: int = 0) -> Any:  # noqa: A002 - Rego's own word
        """Return the document at a reference below `data` (dotted, or its path as a tuple), recording the way to it.

        Raises:
            EvaluationError, LimitError: as in `Engine.value`; what was recorded until then stays.
        """
        path = tuple(ref.removeprefix("data.").split(".")) if isinstance(ref, str) else ref
        program, limits = self._program, self._limits
        self._recorder.start()
        code = program.compiler(Planner(("",))).value(Doc("data", tuple(Const(part) for part in path)))
        document = UNDEFINED if input is UNDEFINED else import_value(input, depth_limit=limits.depth)
        context = Context(
            document, program.data, program.blank.copy(), now_ns, limits, self._clock, self._clock() + limits.wall_s,
            Budget(limits.steps, limits.steps - CLOCK_STEPS), program.blank, self._strict,
        )  # fmt: skip
        try:
            return code([context])
        except RecursionError as error:
            raise LimitError("depth", "a value or a chain of rules is nested too deep") from error

    @property
    def rules(self) -> list[RuleTrace]:
        """Rules of the last evaluation, in the order they began."""
        return list(self._recorder.rules)

    @property
    def reached(self) -> frozenset[Reached]:
        """What the last evaluation reached."""
        return frozenset(self._recorder.reached)

    def explain(self, *, full: bool = False) -> str:
        """Return the last evaluation as text for people: rule, its expressions, their values; `full` shows what held too."""
        return explain_rules([rule for rule in self._recorder.rules if not rule.depth], full=full)

    def coverage(self) -> dict[str, FileCoverage]:
        """Return coverage by file over all evaluations so far; every rule of the modules counts."""
        return coverage_of(self._program.linked.modules, self._recorder.total | self._recorder.reached)
