"""A whole run: every test, coverage and the mutation hint, as one value; as JSON and as JUnit XML.

JUnit is the form CI systems read (one `testsuite` per file, times in seconds); there is no standard, only what Jenkins and others accept:
`testsuites > testsuite > testcase > failure | error | skipped`.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from policies.rego.coverage import Reached
from policies.rego.syntax import Module
from policies.testing.coverage import Coverage, measure
from policies.testing.mutation import Hint, hint
from policies.testing.run import Result, Suite, Test

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters XML 1.0 cannot hold (section 2.2)."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of tests found."""

    results: tuple[Result, ...]
    coverage: Coverage | None
    hint: Hint | None
    threshold: float | None = None
    """Percent of lines and of rules that have to be reached."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of tests by outcome."""
        counted = Counter(result.outcome for result in self.results)
        return {"pass": counted["pass"], "fail": counted["fail"], "error": counted["error"], "todo": counted["todo"]}

    @property
    def is_covered(self) -> bool:
        """Whether the threshold is reached, if there is one."""
        return self.threshold is None or (self.coverage is not None and self.coverage.percent >= self.threshold)

    @property
    def ok(self) -> bool:
        """Whether everything passed: some test, no failure, enough coverage."""
        counts = self.counts
        return bool(counts["pass"]) and not counts["fail"] and not counts["error"] and self.is_covered


def run_tests(
    suite: Suite, *, only: str = "", coverage: bool = True, mutation: bool = True, threshold: float | None = None, on_result: Callable[[Result], None]
) -> Report:
    """Run the tests of a suite.

    Args:
        suite: Modules and tests.
        only: Regular expression; tests whose `package.name` it does not find are left out.
        coverage: Record what was reached.
        mutation: Look for what no test notices; needs every test to pass, and all of them.
        threshold: Percent that coverage must reach.
        on_result: Called after each test.

    Raises:
        re.error: `only` is no regular expression.
    """
    wanted = re.compile(only)
    results: list[Result] = []
    chosen = [test for test in suite.tests if wanted.search(".".join(test.path))]
    for test in chosen:
        result = suite.run(test)
        if result.outcome == "pass" and (coverage or mutation):
            suite.trace(test)
        results.append(result)
        on_result(result)
    reached = suite.reached
    measured = measure(suite.policies, frozenset[Reached]().union(*reached.values())) if coverage else None
    all_pass = bool(results) and all(result.outcome in {"pass", "todo"} for result in results)
    found = hint(suite.modules, suite.own, reached, _survivor(suite)) if mutation and all_pass and not only else None
    return Report(tuple(results), measured, found, threshold)


def _survivor(suite: Suite) -> Callable[[Mapping[str, Module], list[Any]], bool]:
    """Return what tells whether tests still pass on other modules."""
    tests: dict[Any, Test] = {test.path: test for test in suite.tests}

    def survives(modules: Mapping[str, Module], concerned: list[Any]) -> bool:
        chosen = [tests[path] for path in concerned]
        changed = suite.changed(modules, chosen)
        return all(changed.holds(test) for test in chosen)

    return survives


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as plain JSON data."""
    return {
        "ok": report.ok,
        "counts": report.counts,
        "tests": [_result(result) for result in report.results],
        "coverage": None if report.coverage is None else {**report.coverage.as_json(), "threshold": report.threshold},
        "unnoticed": None if report.hint is None else _hint(report.hint),
    }


def _hint(found: Hint) -> dict[str, Any]:
    parts = [{"kind": part.kind, "file": part.file, "line": part.line, "text": part.text, "reached": part.is_reached} for part in found.unnoticed]
    return {"judged": found.judged, "left_out": found.left_out, "parts": parts}


def _result(result: Result) -> dict[str, Any]:
    told = {name: getattr(result, name) for name in ("suite", "name", "file", "line", "outcome", "duration_us", "message", "explanation")}
    return {**told, "cases": [{"name": name, "held": held} for name, held in result.cases]}


def as_junit(report: Report) -> str:
    """Return a report as JUnit XML."""
    root = ET.Element("testsuites", _attributes(report.results, name="assay policy test"))
    for file, group in groupby(report.results, key=lambda result: result.file):
        results = list(group)
        suite = ET.SubElement(root, "testsuite", _attributes(results, name=file))
        for result in results:
            place = {"classname": _text(result.suite), "name": _text(result.name), "file": _text(file), "line": str(result.line)}
            case = ET.SubElement(suite, "testcase", {**place, "time": _s(result.duration_us)})
            if result.outcome == "todo":
                ET.SubElement(case, "skipped", {"message": "not run yet"})
            elif result.outcome != "pass":
                tag = "failure" if result.outcome == "fail" else "error"
                ET.SubElement(case, tag, {"message": _text(result.message)}).text = _text(result.explanation)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _attributes(results: Sequence[Result], *, name: str) -> dict[str, str]:
    counted = Counter(result.outcome for result in results)
    return {
        "name": _text(name),
        "tests": str(len(results)),
        "failures": str(counted["fail"]),
        "errors": str(counted["error"]),
        "skipped": str(counted["todo"]),
        "time": _s(sum(result.duration_us for result in results)),
    }


def _s(duration_us: int) -> str:
    return f"{duration_us / 1_000_000:.6f}"


def _text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
