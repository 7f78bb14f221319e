"""Runs tests written in Rego.

A test passes when its document is `true`, fails when it is anything else or undefined, and errs when its evaluation does. A test with cases passes
when every case does: the cases are all values that the head's variables take, found by the body up to where they are bound.

Errors of built-ins are errors, as in the gateway (which denies on them); `lenient` makes them undefined, as `opa test` does.

Example:
    suite = Suite(modules, data)
    [suite.run(test) for test in suite.tests]
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from policies.rego import UNDEFINED, Engine, PolicyError, RegoError, to_json
from policies.rego.names import split_head
from policies.rego.parser import parse_module
from policies.rego.render import rego
from policies.rego.syntax import Array, Branch, Module, Rule, Var
from policies.rego.trace import Reached, TracedEngine
from policies.testing.discover import RegoTest, discover

Outcome = Literal["pass", "fail", "error", "todo"]
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

    def __init__(self, modules: Mapping[str, str | Module], data: Any = None, *, lenient: bool = False, now_ns: int = 0) -> None:
        """Compile.

        Raises:
            PolicyError: a module is refused.
        """
        self.modules = {name: parse_module(name, text) if isinstance(text, str) else text for name, text in modules.items()}
        self.tests = discover(self.modules.values())
        self.data = data
        self.lenient = lenient
        self.now_ns = now_ns
        self.engine = self._engine(self.modules)
        self.reached: dict[tuple[str, ...], frozenset[Reached]] = {}
        self._traced: TracedEngine | None = None

    def run(self, test: RegoTest, *, clock: Callable[[], int] = time.perf_counter_ns) -> Result:
        """Run one test."""
        result = Result(".".join(test.package), test.name, test.title, test.file, test.line, "todo")
        if test.is_todo:
            return result
        begun = clock()
        outcome, message, cases = self._judge(test)
        result = replace(result, outcome=outcome, message=message, cases=cases, duration_us=(clock() - begun) // 1000)
        return result if outcome == "pass" else replace(result, explanation=self.trace(test))

    def holds(self, test: RegoTest) -> bool:
        """Tell whether a test passes, nothing more."""
        return test.is_todo or self._judge(test)[0] == "pass"

    def trace(self, test: RegoTest) -> str:
        """Run a test once more, recording what it reaches; return its explanation."""
        if self._traced is None:
            self._traced = self.engine.traced()
        with contextlib.suppress(Exception):  # what an evaluation raises is told by `run`; here its trace is wanted
            self._traced.value(test.path, now_ns=self.now_ns)
        self.reached[test.path] = self._traced.reached
        return self._traced.explain()

    def _judge(self, test: RegoTest) -> tuple[Outcome, str, tuple[tuple[str, bool], ...]]:
        try:
            value = self._value(self.engine, test.path)
            cases = self._cases(test, value) if test.has_cases else ()
        except RegoError as error:
            return "error", str(error).splitlines()[0], ()
        if test.has_cases:
            missed = [name for name, held in cases if not held]
            if missed:
                return "fail", f"{len(missed)} of {len(cases)} cases do not hold: {', '.join(missed[:5])}", cases
            return ("pass", "", cases) if cases else ("fail", "the test has no case: its table is empty or undefined", ())
        if value is True:
            return "pass", "", ()
        said = "an expression of the test does not hold" if value is UNDEFINED else f"the test is `{rego(value)}`, not `true`"
        return "fail", said, ()

    def _value(self, engine: Engine, path: tuple[str, ...]) -> Any:
        return engine.value("data" + "".join(f"[{rego(part)}]" for part in path), now_ns=self.now_ns)

    def _cases(self, test: RegoTest, value: Any) -> tuple[tuple[str, bool], ...]:
        """Return every case by name with whether it held."""
        found: dict[str, bool] = {}
        for module in self.modules.values():
            for rule in module.rules if module.package == test.package else ():
                if rule.ref[0].name == test.name:
                    for path in self._heads(module, rule):
                        found[" / ".join(str(part) for part in path)] = _at(value, path) is True
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

    def _engine(self, modules: Mapping[str, Module]) -> Engine:
        return Engine(modules, self.data, strict_builtin_errors=not self.lenient)


def _at(value: Any, path: list[Any]) -> Any:
    """Follow a path of JSON data into a document."""
    value = to_json(value) if value is not UNDEFINED else {}
    for part in path:
        value = value.get(part if isinstance(part, str) else rego(part)) if isinstance(value, dict) else None
    return value
