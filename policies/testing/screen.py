"""A report for people: what failed and why first, then what the tests do not hold in place. Lines of text with a tone each, no colour codes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final, Literal

from policies.rego.explain import flat
from policies.testing.coverage import Coverage
from policies.testing.mutation import Hint
from policies.testing.report import Report
from policies.testing.run import Result

Tone = Literal["plain", "good", "bad", "quiet"]
Line = tuple[str, Tone]
_WORDS: Final = {"pass": "pass", "fail": "FAIL", "error": "ERROR", "todo": "todo"}
_WIDTH: Final = 72
_SHOWN: Final = 12
"""Findings of a kind shown on the screen; `--json` has them all."""


def lines(report: Report, *, verbose: bool = False) -> Iterator[Line]:
    """Yield the screen of a report; `verbose` lists tests that pass too."""
    for file, group in groupby(report.results, key=lambda result: result.file):
        yield from _file(file, list(group), verbose=verbose)
    yield "", "plain"
    yield _summary(report)
    if report.coverage is not None:
        yield from _coverage(report.coverage, report)
    if report.hint is not None:
        yield from _hint(report.hint)


def _file(file: str, results: list[Result], *, verbose: bool) -> Iterator[Line]:
    passed = sum(result.outcome == "pass" for result in results)
    is_good = all(result.outcome in {"pass", "todo"} for result in results)
    yield f"{file}: {passed} of {len(results)} pass", "good" if is_good else "bad"
    for result in results:
        if result.outcome == "pass":
            if verbose:
                yield f"  pass  {result.title:<{_WIDTH}} {result.duration_us / 1000:8.2f} ms", "plain"
            continue
        yield f"  {_WORDS[result.outcome]:<5} {result.title}", "quiet" if result.outcome == "todo" else "bad"
        if result.outcome != "todo":
            yield f"        {result.file}:{result.line}: {result.message}", "plain"
            for line in result.explanation.splitlines():
                yield f"        {line}".rstrip(), "quiet"


def _summary(report: Report) -> Line:
    counts = report.counts
    if not report.results:
        return "There is no test here. A test is a rule whose name begins with `test_`, in a file such as `office_test.rego`.", "bad"
    parts = [f"{counts['pass']} passed"]
    parts += [f"{counts[outcome]} {word}" for outcome, word in (("fail", "failed"), ("error", "could not run"), ("todo", "to do")) if counts[outcome]]
    spent_ms = sum(result.duration_us for result in report.results) / 1000
    is_good = not counts["fail"] and not counts["error"] and counts["pass"] > 0
    return f"{_count(len(report.results), 'test')} in {spent_ms:.1f} ms: {', '.join(parts)}", "good" if is_good else "bad"


def _coverage(coverage: Coverage, report: Report) -> Iterator[Line]:
    (lines_done, lines_all), (rules_done, rules_all) = coverage.lines, coverage.rules
    text = f"Coverage {coverage.percent:.1f} %: {lines_done} of {lines_all} lines reached, {rules_done} of {rules_all} rules gave a value"
    if report.threshold is not None:
        text += f"; {'enough' if report.is_covered else 'NOT ENOUGH'}, {report.threshold:g} % asked for"
    yield text, "plain" if report.is_covered else "bad"
    found = [
        f"  {name}:{span.line}  {'never gave a value' if span.is_head else 'never tried'}: {flat(span.text, 80)}"
        for name, file in sorted(coverage.files.items())
        for span in file.missed_spans
    ]
    yield from _listed(found)


def _hint(hint: Hint) -> Iterator[Line]:
    more = f", {hint.left_out} more not tried" if hint.left_out else ""
    if not hint.unnoticed:
        yield f"Every one of the {_count(hint.judged, 'part')} tried is held in place by a test{more}.", "good"
        return
    noticed = hint.judged - len(hint.unnoticed)
    yield f"Removal: {noticed} of {_count(hint.judged, 'part')} are held in place by a test{more}. Nobody notices when these go:", "plain"
    yield from _listed([f"  {part.file}:{part.line}  {part.kind} `{flat(part.text, 80)}`" for part in hint.unnoticed])


def _listed(found: list[str]) -> Iterator[Line]:
    for line in found[:_SHOWN]:
        yield line, "quiet"
    if len(found) > _SHOWN:
        yield f"  and {len(found) - _SHOWN} more; `--json` lists all", "quiet"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
