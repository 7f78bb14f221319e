r"""What happened inside an evaluation: rule, expression, values; and which lines were ever reached.

Tracing compiles the same plans with a recorder around every operation, so it shows the order in which things really ran. It is for
explaining one decision and for tests, not for the hot path.

Example:
    >>> traced = Engine({"p.rego": "package p\nallow if {\n\tinput.age >= 18\n}"}).traced()
    >>> traced.value("data.p.allow", input={"age": 7})
    UNDEFINED
    >>> print(traced.explain())
    data.p.allow (p.rego:2): undefined
      line 3: input.age >= 18: failed
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from policies.rego.compile_bodies import BodyCompiler
from policies.rego.compile_calls import Frame, TestCode
from policies.rego.errors import LimitError
from policies.rego.ir import Const, Doc, Local, RuleIR
from policies.rego.plan import Planner
from policies.rego.program import Linked, Program, with_targets
from policies.rego.render import rego
from policies.rego.runtime import CLOCK_STEPS, Budget, Context, Limits
from policies.rego.values import UNDEFINED, import_value, thaw

VALUE_CHARS = 200


@dataclass(frozen=True, slots=True)
class Step:
    """One expression that was tried: its place, text, whether it held, and the variables it saw, as Rego text."""

    file: str
    line: int
    column: int
    text: str
    held: bool
    variables: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class RuleTrace:
    """One rule that was evaluated. `steps` and `result` are filled by the recorder while it runs."""

    name: str
    file: str
    line: int
    depth: int
    steps: list[Step] = field(default_factory=list)
    result: str = "undefined"

    @property
    def first_failure(self) -> Step | None:
        """The first expression that did not hold, if the rule is undefined."""
        return next((step for step in self.steps if not step.held), None) if self.result == "undefined" else None


@dataclass(frozen=True, slots=True)
class FileCoverage:
    """Lines with something to run, and those that ran."""

    lines: frozenset[int]
    covered: frozenset[int]

    @property
    def missed(self) -> frozenset[int]:
        """Lines that never ran."""
        return self.lines - self.covered


class Recorder:
    """The program's hook. Owns `rules` (this evaluation), `lines` and `covered` (since construction)."""

    def __init__(self, linked: Linked) -> None:
        self.linked = linked
        self.rules: list[RuleTrace] = []
        self.open: list[RuleTrace] = []
        self.lines: dict[str, set[int]] = {}
        self.covered: dict[str, set[int]] = {}

    def compiler(self, program: Program, planner: Planner, rule: RuleIR | None) -> BodyCompiler:
        """Return a compiler that records."""
        return TracingCompiler(program, planner, self, rule)

    def rule(self, rule: RuleIR) -> Callable[[Any], Any]:
        """Return a wrapper for the code of a rule."""
        source = self.linked.modules[rule.module].source
        line, _ = source.position(rule.pos)
        name = "data." + ".".join(str(thaw(part)) for part in rule.prefix)
        self.lines.setdefault(source.name, set()).add(line)

        def wrap(code: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
            def run(context: Any, args: Any) -> Any:
                trace = RuleTrace(name, source.name, line, len(self.open))
                self.rules.append(trace)
                self.open.append(trace)
                size = len(args) if isinstance(args, (list, dict)) else 0
                try:
                    value = code(context, args)
                finally:
                    self.open.pop()
                if value is not None and value is not UNDEFINED:
                    trace.result = shorten(value)
                elif isinstance(args, (list, dict)) and len(args) > size:
                    trace.result = f"{len(args) - size} added"
                if trace.result != "undefined":
                    self.covered.setdefault(source.name, set()).add(line)
                return value

            return run

        return wrap

    def note(self, step: Step) -> None:
        """Record a step of the rule that is running."""
        self.covered.setdefault(step.file, set()).add(step.line)
        if self.open:
            self.open[-1].steps.append(step)


def shorten(value: Any) -> str:
    """Return a value as Rego text, cut."""
    text = rego(value)
    return text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…"


class TracingCompiler(BodyCompiler):
    """A compiler whose every operation reports."""

    def __init__(self, program: Program, planner: Planner, recorder: Recorder, rule: RuleIR | None) -> None:
        super().__init__(program, planner)
        self._recorder = recorder
        self._source = recorder.linked.modules[rule.module].source if rule is not None else None

    def _place(self, op: Any) -> tuple[str, int, int, str, list[tuple[str, int]]] | None:
        if self._source is None:
            return None
        line, column = self._source.position(op.pos)
        end = self._source.text.find("\n", op.pos)
        text = self._source.text[op.pos : end if end >= 0 else None].strip()
        self._recorder.lines.setdefault(self._source.name, set()).add(line)
        variables = sorted({(self.names[slot], slot) for slot in _slots(op) if self.names[slot] and not self.names[slot].startswith("_#")})
        return self._source.name, line, column, text, variables

    def _report(self, place: Any, frame: Frame, *, held: bool) -> None:
        name, line, column, text, variables = place
        seen = tuple((variable, shorten(frame[slot])) for variable, slot in variables if frame[slot] is not None)
        self._recorder.note(Step(name, line, column, text, held, seen))

    def _test(self, op: Any) -> TestCode:
        code, place = super()._test(op), self._place(op)
        if place is None:
            return code

        def test(frame: Frame) -> bool:
            held = code(frame)
            self._report(place, frame, held=bool(held))
            return held

        return test

    def _iteration(self, op: Any, then: TestCode) -> TestCode:
        place = self._place(op)
        if place is None:
            return super()._iteration(op, then)
        reached: list[int] = [0]

        def arrived(frame: Frame) -> bool:
            reached[0] += 1
            return then(frame)

        code = super()._iteration(op, arrived)

        def run(frame: Frame) -> bool:
            before = reached[0]
            stop = code(frame)
            self._report(place, frame, held=reached[0] > before)
            return stop

        return run


def _slots(op: Any) -> set[int]:
    """Return the slots of variables that an operation mentions."""
    found: set[int] = set()
    stack = [getattr(op, name) for name in op.__dataclass_fields__ if name != "ops"]
    while stack:
        item = stack.pop()
        if type(item) is Local:
            found.add(item.slot)
        elif isinstance(item, (tuple, list)):
            stack.extend(item)
        elif hasattr(item, "__dataclass_fields__") and not hasattr(item, "ops"):
            stack.extend(getattr(item, name) for name in item.__dataclass_fields__)
    if hasattr(op, "slot"):
        found.add(op.slot)
    return found


class TracedEngine:
    """Evaluates with a recorder. One evaluation at a time; coverage adds up over all of them."""

    def __init__(self, linked: Linked, data: Any, limits: Limits, clock: Callable[[], float], *, strict_builtin_errors: bool) -> None:
        self._recorder = Recorder(linked)
        mocked, replaces = with_targets(linked)
        self._program = Program(linked, data, mocked=mocked, replaces_data=replaces, hook=self._recorder)
        self._limits = limits
        self._clock = clock
        self._strict = strict_builtin_errors

    def value(self, ref: str, input: Any = UNDEFINED, now_ns: int = 0) -> Any:  # noqa: A002 - Rego's word
        """Return the document at a dotted reference, recording the way to it."""
        path = tuple(ref.removeprefix("data.").split("."))
        program, limits = self._program, self._limits
        self._recorder.rules = []
        self._recorder.open = []
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

    def explain(self) -> str:
        """Return the last evaluation as text: rule, then its expressions with their values."""
        lines: list[str] = []
        for rule in self._recorder.rules:
            pad = "  " * rule.depth
            lines.append(f"{pad}{rule.name} ({rule.file}:{rule.line}): {rule.result}")
            for step in rule.steps:
                values = "".join(f"; {name} = {value}" for name, value in step.variables)
                lines.append(f"{pad}  line {step.line}: {step.text}: {'held' if step.held else 'failed'}{values}")
        return "\n".join(lines)

    def coverage(self) -> dict[str, FileCoverage]:
        """Return line coverage by file over all evaluations so far; every rule of the modules counts."""
        lines: dict[str, set[int]] = {name: set(found) for name, found in self._recorder.lines.items()}
        for rule in self._program.linked.rules:
            source = self._program.linked.modules[rule.module].source
            lines.setdefault(source.name, set()).add(source.position(rule.pos)[0])
            for branch in rule.branches:
                lines[source.name].update(source.position(statement.pos)[0] for statement in branch.body)
        covered = self._recorder.covered
        return {name: FileCoverage(frozenset(found), frozenset(covered.get(name, set()) & found)) for name, found in lines.items()}
