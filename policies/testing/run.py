"""Runs tests: rules written in Rego, and cases in YAML.

A test passes when its document is `true`, fails when it is anything else or undefined, and errs when its evaluation does. A test with cases passes
when every case does: the cases are all values that the head's variables take, found by the body up to where they are bound. A case in YAML passes
when packages say what it expects of them.

Errors of built-ins are errors, as in the gateway (which denies on them); `lenient` makes them undefined, as `opa test` does.

Example:
    suite = Suite(modules, data)
    [suite.run(test) for test in suite.tests]
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from policies.bundle import CLOCK, PREFIX
from policies.rego import UNDEFINED, Engine, PolicyError, RegoError, to_json
from policies.rego.coverage import Reached
from policies.rego.explain import explain_rules
from policies.rego.names import split_head
from policies.rego.parser import parse_module
from policies.rego.render import json_text, rego
from policies.rego.syntax import Array, Branch, Module, Rule, Var
from policies.rego.tracing import TracedEngine
from policies.rego.values import import_value
from policies.sources import SourceError
from policies.testing.cases import Case, with_params
from policies.testing.closure import closure
from policies.testing.discover import RegoTest, discover
from policies.testing.judge import ask, at_point, deciding, differences, shown

Outcome = Literal["pass", "fail", "error", "todo"]
Test = RegoTest | Case
_CASES: Final = "cases_of_"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one test."""

    suite: str
    """Package of a test in Rego, file of a case in YAML."""
    name: str
    """As it is written; unique in its suite."""
    title: str
    """As people read it."""
    file: str
    line: int
    outcome: Outcome
    duration_us: int = 0
    message: str = ""
    """What is wrong, in a sentence."""
    explanation: str = ""
    """The trace that says why."""
    cases: tuple[tuple[str, bool], ...] = ()
    """Of a test with cases: each with whether it held."""


class Suite:
    """Modules with their tests, compiled. One test at a time; owns `reached`, what each test reached."""

    def __init__(
        self,
        modules: Mapping[str, str | Module],
        data: Mapping[str, Any] | None = None,
        cases: Sequence[Case] = (),
        *,
        own: Collection[str] | None = None,
        lenient: bool = False,
        now_ns: int = 0,
    ) -> None:
        """Compile.

        Args:
            modules: Policies and tests, the shipped policies among them where they are needed.
            data: The base document.
            cases: Cases in YAML.
            own: Files of the policies under test; coverage counts them, and cases that name no package are about theirs. None for all.
            lenient: Errors of built-ins are undefined.
            now_ns: What the clock says.

        Raises:
            PolicyError: a module is refused.
        """
        self.modules = {name: parse_module(name, text) if isinstance(text, str) else text for name, text in modules.items()}
        self.tests: list[Test] = [*discover(self.modules.values()), *cases]
        self.data = dict(data or {})
        self.deciding = deciding(self.modules.values())
        self.own = frozenset(self.modules if own is None else own)
        self._judged = frozenset(deciding(self.policies))
        self.lenient = lenient
        self.now_ns = now_ns
        self.engine = self._engine(self.modules)
        self.reached: dict[tuple[str, ...], frozenset[Reached]] = {}
        self._engines: dict[str, Engine] = {"{}": self.engine}
        self._traced: dict[str, TracedEngine] = {}
        self._names: dict[tuple[str, ...], list[list[Any]]] = {}

    @property
    def policies(self) -> list[Module]:
        """The modules under test."""
        return [module for name, module in self.modules.items() if name in self.own]

    def changed(self, modules: Mapping[str, Module], tests: Sequence[Test]) -> Suite:
        """Return a suite of some of the tests over changed modules, with only the modules these tests need.

        The names of a test's cases stay as they are here: a table that a change has emptied is a failure, not a pass.
        """
        roots = {name for test in tests for name in self._files(test)}
        roots |= {name for name, module in modules.items() if module is not self.modules.get(name)}
        cases = [test for test in tests if isinstance(test, Case)]
        other = Suite(closure(modules, roots), self.data, cases, own=self.own, lenient=self.lenient, now_ns=self.now_ns)
        other._names = self._names
        return other

    def _files(self, test: Test) -> Iterator[str]:
        """Yield the files of the packages a test asks."""
        packages = {(PREFIX, name) for name in self._packages(test)} if isinstance(test, Case) else {test.package}
        packages |= {tuple(ref.split(".")[1:3]) for ref in test.expect.values} if isinstance(test, Case) else set()
        return (name for name, module in self.modules.items() if any(module.package[: len(package)] == package for package in packages))

    def run(self, test: Test, *, clock: Callable[[], int] = time.perf_counter_ns) -> Result:
        """Run one test."""
        suite, title = (test.file, test.name) if isinstance(test, Case) else (".".join(test.package), test.title)
        result = Result(suite, test.name, title, test.file, test.line, "todo")
        if test.is_todo:
            return result
        begun = clock()
        outcome, message, cases = self._judge(test)
        result = replace(result, outcome=outcome, message=message, cases=cases, duration_us=(clock() - begun) // 1000)
        return result if outcome == "pass" else replace(result, explanation=self.trace(test))

    def holds(self, test: Test) -> bool:
        """Tell whether a test passes, nothing more."""
        return test.is_todo or self._judge(test)[0] == "pass"

    def trace(self, test: Test) -> str:
        """Run a test once more, recording what it reaches; return its explanation."""
        key, engine = self._engine_of(test)
        traced = self._traced.get(key) or self._traced.setdefault(key, engine.traced())
        asked, document, now_ns = self._asked(test)
        said = ask(engine, self._packages(test), document, now_ns) if isinstance(test, Case) else None
        reached: set[Reached] = set()
        told: list[str] = []
        for path in asked:
            with contextlib.suppress(Exception):  # what an evaluation raises is told by `run`; here its trace is wanted
                traced.value(path, document, now_ns)
            reached |= traced.reached
            told.append(explain_rules(shown(test, said, path, traced.rules)) if isinstance(test, Case) and said else traced.explain())
        self.reached[test.path] = frozenset(reached)
        return "\n".join(text for text in told if text)

    def _asked(self, test: Test) -> tuple[list[tuple[str, ...]], Any, int]:
        """Return the documents a test asks for, with the input and the time."""
        if not isinstance(test, Case):
            return [test.path], UNDEFINED, self.now_ns
        asked: list[tuple[str, ...]] = [(PREFIX, name, rule) for name, rules in self._packages(test).items() for rule in rules]
        return asked + [tuple(ref.split(".")[1:]) for ref in test.expect.values], test.document, self._now(test)

    def _judge(self, test: Test) -> tuple[Outcome, str, tuple[tuple[str, bool], ...]]:
        if isinstance(test, Case):
            return self._judge_case(test)
        try:
            value = self._value(self.engine, test.path)
            cases = self._cases(test, value) if test.has_cases else ()
        except RegoError as error:
            return "error", str(error).splitlines()[0], ()
        if test.has_cases:
            missed = [name for name, held in cases if not held]
            if missed:
                named = ", ".join(f"`{name}`" for name in missed[:5])
                return "fail", f"{len(missed)} of {len(cases)} cases do not hold: {named}", cases
            return ("pass", "", cases) if cases else ("fail", "the test has no case: its table is empty or undefined", ())
        if value is True:
            return "pass", "", ()
        said = "an expression of the test does not hold" if value is UNDEFINED else f"the test is `{rego(value)}`, not `true`"
        return "fail", said, ()

    def _judge_case(self, case: Case) -> tuple[Outcome, str, tuple[tuple[str, bool], ...]]:
        packages = self._packages(case)
        unknown = [name for name in case.packages if name not in self.deciding]
        if unknown or not packages:
            return (
                "error",
                f"there is no package `{PREFIX}.{unknown[0]}`" if unknown else "no package that is asked at this point is among the policies",
                (),
            )
        try:
            _, engine = self._engine_of(case)
            said = ask(engine, packages, case.document, self._now(case))
            found = differences(case, said, engine, self._now(case))
        except (RegoError, SourceError) as error:
            return "error", str(error).splitlines()[0], ()
        return ("fail", "; ".join(found), ()) if found else ("pass", "", ())

    def _packages(self, case: Case) -> dict[str, tuple[str, ...]]:
        if case.packages:
            return {name: rules for name, rules in self.deciding.items() if name in case.packages}
        modules = self.modules.values()
        return {name: rules for name, rules in self.deciding.items() if name in self._judged and at_point(modules, name, case.document)}

    def _now(self, case: Case) -> int:
        return self.now_ns if case.now_ns is None else case.now_ns

    def _engine_of(self, test: Test) -> tuple[str, Engine]:
        """Return the engine with the parameters of a case, and its key."""
        params = test.params if isinstance(test, Case) else {}
        key = json_text(import_value(dict(params)))
        if key not in self._engines:
            self._engines[key] = self._engine(self.modules, with_params(self.data, params))
        return key, self._engines[key]

    def _value(self, engine: Engine, path: tuple[str, ...]) -> Any:
        return engine.value("data" + "".join(f"[{rego(part)}]" for part in path), now_ns=self.now_ns)

    def _cases(self, test: RegoTest, value: Any) -> tuple[tuple[str, bool], ...]:
        """Return every case by name with whether it held."""
        if test.path not in self._names:
            defined = [(module, rule) for module in self.modules.values() if module.package == test.package for rule in module.rules]
            self._names[test.path] = [path for module, rule in defined if rule.ref[0].name == test.name for path in self._heads(module, rule)]
        found = {" / ".join(str(part) for part in path): _at(value, path) is True for path in self._names[test.path]}
        return tuple(sorted(found.items()))

    def _heads(self, module: Module, rule: Rule) -> list[list[Any]]:
        """Return all values of a rule's head variables: evaluate its body up to the first point where they are bound."""
        variables = split_head(rule)[1]
        name = f"{_CASES}{rule.ref[0].name}"
        for length in range(len(rule.branches[0].body) + 1):
            body = rule.branches[0].body[:length]
            head = replace(
                rule, ref=(Var(name, rule.pos),), key=Array(variables, rule.pos), branches=(Branch(rule.branches[0].value, body, rule.pos),)
            )
            extended = replace(module, rules=(*module.rules, head))
            try:
                engine = self._engine({**self.modules, module.source.name: extended})
            except PolicyError:
                continue
            value = self._value(engine, (*module.package, name))
            return to_json(value) if value is not UNDEFINED else []
        return []

    def _engine(self, modules: Mapping[str, Module], data: Any = None) -> Engine:
        return Engine(modules, self.data if data is None else data, strict_builtin_errors=not self.lenient, clock=CLOCK)


def _at(value: Any, path: list[Any]) -> Any:
    """Follow a path of JSON data into a document."""
    value = to_json(value) if value is not UNDEFINED else {}
    for part in path:
        value = value.get(part if isinstance(part, str) else rego(part)) if isinstance(value, dict) else None
    return value
