r"""The engine: modules and data in, decisions out.

Example:
    >>> from policies.rego import Engine
    >>> engine = Engine({"p.rego": "package p\nallow if input.age >= 18"})
    >>> engine.eval("data.p.allow", input={"age": 20})
    [{}]
    >>> engine.value("data.p.allow", input={"age": 7})
    UNDEFINED
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from policies.rego.builtins import load
from policies.rego.check import STRICT, check_linked
from policies.rego.errors import EvaluationError, Issue, LimitError, PolicyError, RegoError
from policies.rego.ir import Const, Doc
from policies.rego.lexer import Source
from policies.rego.memo import Remembered
from policies.rego.parser import parse_module, parse_query
from policies.rego.plan import Planner
from policies.rego.program import Linker, Program, module_map, replaced_by, with_targets
from policies.rego.reads import reachable, read_paths, targets
from policies.rego.runtime import CLOCK_STEPS, COMPOSITES, Budget, Context, Limits
from policies.rego.syntax import Module, Statement
from policies.rego.tracing import TracedEngine
from policies.rego.values import UNDEFINED, depth_exceeds, import_value

load.all_families()


class Prepared(Protocol):
    """A reference ready for the hot path: input must be plain JSON data (dict, list, str, int, float, bool, None)."""

    def __call__(self, input: Any, now_ns: int = 0, deadline: float | None = None) -> Any:  # noqa: A002 - Rego's own word for it
        """Return the document, or `UNDEFINED`; `deadline` is a moment of the engine's clock, in place of `Limits.wall_s` from now."""


class Engine:
    """Policies ready to evaluate. Immutable after construction but for compiled code, so threads may share one.

    Args:
        modules: File name -> Rego text, or the module as `parse_module` gave it.
        data: Base document, JSON-like.
        limits: Bounds of every evaluation.
        strict: Refuse the findings of strict mode too, see `check`.
        strict_builtin_errors: A built-in's error is an `EvaluationError` instead of undefined.
        input_schema: JSON Schema of the input, for the checks.
        clock: Monotonic seconds, for `Limits.wall_s`.

    Raises:
        PolicyError: a module is refused; all findings at once.
    """

    def __init__(
        self,
        modules: Mapping[str, str | Module],
        data: Any = None,
        limits: Limits | None = None,
        *,
        strict: bool = False,
        strict_builtin_errors: bool = False,
        input_schema: Any = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.limits = limits or Limits()
        self.strict_builtin_errors = strict_builtin_errors
        self._clock = clock
        self.data = {} if data is None else import_value(data, depth_limit=self.limits.depth)
        parsed = _parse(module_map(modules))
        self._linker = Linker(parsed)
        try:
            self._linked = self._linker.link()
            mocked, replaces = with_targets(self._linked)
            self._program = Program(self._linked, self.data, mocked=mocked, replaces_data=replaces)
            self._issues = check_linked(self._linked, self._program, input_schema)
        except RecursionError as error:
            issue = Issue("too-long", "an expression is too long or too deep", parsed[0].source.name, 1, 1, "split it over several rules")
            raise PolicyError([issue]) from error
        errors = [issue for issue in self._issues if issue.severity == "error" and (strict or issue.rule not in STRICT)]
        if errors:
            raise PolicyError(errors)

    # --- evaluation --------------------------------------------------------------------------------------------------

    def eval(self, query: str, input: Any = UNDEFINED, now_ns: int = 0) -> list[dict[str, Any]]:  # noqa: A002 - Rego's word
        """Evaluate a query.

        Args:
            query: Statements, for example `data.p.allow` or `x := data.p.deny[_]`.
            input: The input document; left out, `input` is undefined.
            now_ns: What `time.now_ns()` answers, nanoseconds since 1970.

        Returns:
            One dict of variable bindings per solution: `[{}]` for a true query without variables, `[]` if undefined.

        Raises:
            PolicyError: the query is refused.
            EvaluationError, LimitError: see `errors`.
        """
        return self.solve(*parse_query(query), input, now_ns)

    def solve(self, source: Source, statements: tuple[Statement, ...], input: Any = UNDEFINED, now_ns: int = 0) -> list[dict[str, Any]]:  # noqa: A002 - Rego's word
        """Evaluate a query that is parsed already, as `parse_query` gives it; else like `eval`."""
        run, names = self._query(source, statements)
        context = self._context(self._import_input(input), now_ns, run.program)
        try:
            found: list[dict[str, Any]] = run(context, names)
            for solution in found:
                context.weigh(solution)
        except Exception as error:
            raise typed(error) from error
        return found

    def value(self, ref: str, input: Any = UNDEFINED, now_ns: int = 0) -> Any:  # noqa: A002 - Rego's word
        """Return the document at a reference such as `data.p.deny`, or `UNDEFINED`."""
        return self._prepare(ref)(self._import_input(input), now_ns)

    def prepare(self, ref: str) -> Prepared:
        """Return a callable `prepared(input, now_ns=...)` for the hot path; compiles what it needs at once.

        Raises:
            PolicyError: `ref` is no constant reference below `data`.
        """
        self._compile(ref)
        return self._prepare(ref)

    def prepare_all(self, refs: Sequence[str]) -> Callable[..., list[Any]]:
        """Return a callable that answers several references in one evaluation: rules they share run once.

        Args:
            refs: Constant references below `data`, for example `data.p.allow`, `data.p.deny`.

        Returns:
            `prepared(input, now_ns=..., deadline=...)`, a list of documents in the order of `refs`, `UNDEFINED` where there is none.
        """
        codes = [self._code(ref) for ref in refs]

        def all_codes(frame: list[Any]) -> list[Any]:
            return [code(frame) for code in codes]

        for ref in refs:
            self._compile(ref)
        return self._runner(all_codes)

    def remembering(self, refs: Sequence[str], limit_bytes: int = 4 << 20) -> Remembered:
        """Return what `prepare_all` returns, with a memory keyed by what the references can read (`memo`).

        Args:
            refs: Constant references below `data`.
            limit_bytes: What the memory may hold, about.
        """
        return Remembered(self.prepare_all(refs), frozenset[tuple[Any, ...]]().union(*map(self.reads, refs)), limit_bytes)

    def check(self, input_schema: Any = None) -> list[Issue]:
        """Return every finding, strict-mode ones included, errors first.

        Args:
            input_schema: JSON Schema of the input: paths it does not know become findings, fields it requires are not optional. Left out: the one
                given at construction, if any.
        """
        return list(self._issues) if input_schema is None else check_linked(self._linked, self._program, input_schema)

    def reads(self, ref: str) -> frozenset[tuple[Any, ...]]:
        """Return the paths that a document can read: `("input", "user", "name")`, `("data", "params")`, `("now",)`."""
        return read_paths(self._program.root, _reference(ref, self._linker))

    def traced(self) -> TracedEngine:
        """Return an engine over the same modules that records what it does."""
        return TracedEngine(self._linked, self.data, self.limits, self._clock, strict_builtin_errors=self.strict_builtin_errors)

    def _compile(self, ref: str) -> None:
        """Compile everything a reference can reach, so that no later call pays for it."""
        program = self._program
        start, _ = targets(program.root, _reference(ref, self._linker))
        for node in reachable(program.root, start):
            if node.extent is None and node.function is None:
                program.compile(node)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _prepare(self, ref: str) -> Prepared:
        return self._runner(self._code(ref))

    def _code(self, ref: str) -> Callable[[list[Any]], Any]:
        path = _reference(ref, self._linker)
        program = self._program
        code, rest, is_cursor = program.compiler(Planner(("",))).data_start(tuple(Const(part) for part in path))
        whole = program.compiler(Planner(("",))).value(Doc("data", tuple(Const(part) for part in path)))
        return whole if rest or is_cursor else code

    def _runner(self, run: Callable[[list[Any]], Any]) -> Prepared:
        program = self._program
        blank, limits, clock, data, strict = program.blank, self.limits, self._clock, self.data, self.strict_builtin_errors

        def prepared(input: Any, now_ns: int = 0, deadline: float | None = None) -> Any:  # noqa: A002 - Rego's word
            if type(now_ns) is not int:
                raise TypeError("`now_ns` is an integer of nanoseconds")
            context = Context(
                input, data, blank.copy(), now_ns, limits, clock, clock() + limits.wall_s if deadline is None else deadline,
                Budget(limits.steps, limits.steps - CLOCK_STEPS), blank, strict,
            )  # fmt: skip
            try:
                value = run([context])
                if type(value) in COMPOSITES:
                    context.weigh(value)
            except Exception as error:
                raise typed(error) from error
            return value

        return prepared

    def _import_input(self, document: Any) -> Any:
        if document is UNDEFINED:
            return UNDEFINED
        if depth_exceeds(document, self.limits.depth):
            raise LimitError("depth", f"input is nested deeper than `{self.limits.depth}`")
        return import_value(document, depth_limit=self.limits.depth + 1)

    def _context(self, document: Any, now_ns: int, program: Program) -> Context:
        limits = self.limits
        return Context(
            document, self.data, program.blank.copy(), now_ns, limits, self._clock, self._clock() + limits.wall_s,
            Budget(limits.steps, limits.steps - CLOCK_STEPS), program.blank, self.strict_builtin_errors,
        )  # fmt: skip

    def _query(self, source: Source, statements: tuple[Statement, ...]) -> tuple[Any, dict[str, int]]:
        module = Module(source, ("#query",), (), ())
        self._linker.names.setdefault(("#query",), set())
        lowering = self._linker.lowering(module)
        lowered, names = lowering.query(statements)
        errors = [issue for issue in lowering.issues if issue.severity == "error"]
        planner = Planner(tuple(lowering.slots))
        ops = planner.body(lowered, set())
        errors.extend(source.issue("unsafe-var", f"`{planner.names[slot] or '_'}` is unsafe: nothing binds it", pos) for slot, pos in planner.unsafe)
        if errors:
            raise PolicyError(errors)
        mocked: set[Any] = set()
        replaces = replaced_by(lowered, mocked) or self._program.replaces_data
        program = self._program
        if replaces != program.replaces_data or not mocked <= program.mocked:
            program = Program(self._linked, self.data, mocked=program.mocked | mocked, replaces_data=replaces)
        compiler = program.compiler(planner)
        compiler.in_order = True
        return _QueryRun(program, compiler, planner, ops), names


class _QueryRun:
    """A compiled query; `program` is the program it was compiled against."""

    def __init__(self, program: Program, compiler: Any, planner: Planner, ops: list[Any]) -> None:
        self.program = program
        self._slot = compiler.new_slot()
        slot = self._slot

        def collect(frame: list[Any]) -> bool:
            frame[slot].append(frame.copy())
            return False

        self._code = compiler.body(ops, collect)
        self._size = len(planner.names)

    def __call__(self, context: Context, names: dict[str, int]) -> list[dict[str, Any]]:
        frame: list[Any] = [None] * self._size
        frame[0] = context
        frame[self._slot] = []
        self._code(frame)
        return [{name: solution[slot] for name, slot in names.items()} for solution in frame[self._slot]]


def typed(error: Exception) -> RegoError:
    """Return an error of evaluation as one of the engine's own: a value that is no JSON must deny like any other failure."""
    if isinstance(error, RegoError):
        return error
    if isinstance(error, RecursionError):
        return LimitError("depth", "a value or a chain of rules is nested too deep")
    return EvaluationError("eval_internal_error", f"{type(error).__name__}: {error}")


def _parse(modules: Mapping[str, str | Module]) -> tuple[Module, ...]:
    parsed: list[Module] = []
    issues: list[Issue] = []
    for name in sorted(modules):
        try:
            module = modules[name]
            parsed.append(module if isinstance(module, Module) else parse_module(name, module))
        except PolicyError as error:
            issues.extend(error.issues)
        except RecursionError:
            issues.append(Issue("parse", "nested too deep", name, 1, 1))
    if issues:
        raise PolicyError(issues)
    return tuple(parsed)


def _reference(ref: str, linker: Linker) -> tuple[Any, ...]:
    """Read a constant reference below `data`."""
    source, statements = parse_query(ref, "reference")
    module = Module(source, ("#query",), (), ())
    linker.names.setdefault(("#query",), set())
    lowered, _ = linker.lowering(module).query(statements)
    term = getattr(lowered[0], "term", None) if len(lowered) == 1 else None
    if type(term) is not Doc or term.root != "data" or not all(type(element) is Const for element in term.path):
        raise PolicyError([source.issue("reference", f"`{ref}` is no constant reference below `data`", 0, "for example `data.p.allow`")])
    return tuple(element.value for element in term.path)
