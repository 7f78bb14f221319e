"""A trace written down for people: which rule, which expression, what values it saw, and why the answer is what it is.

The short form follows the question. Of a rule without a value it shows the body up to the first expression that did not hold, with the values that
expression saw and the rules that gave them; of a rule with a value, what decided it. The full form shows everything that ran.

    data.policy.office.allow is false, by default
      allow                                                     office.rego:5
        yes  input.env == "production"
        NO   count(approvers) >= needed                         line 7
               count(approvers) is 1
               needed is 2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from policies.rego.trace import Attempt, RuleTrace, Sample

COLUMN: Final = 76
TEXT_CHARS: Final = 100
_DEEPEST: Final = 24


def explain_rules(rules: Sequence[RuleTrace], *, full: bool = False) -> str:
    """Return traces of rules as text, each with its expressions and the rules it asked."""
    return "\n".join(line.rstrip() for line in _rules(rules, 0, full=full))


def flat(text: str, most: int = TEXT_CHARS) -> str:
    """Return a text on one line, cut."""
    one = " ".join(text.split())
    return one if len(one) <= most else one[: most - 1] + "…"


def _rules(rules: Sequence[RuleTrace], depth: int, *, full: bool) -> Iterator[str]:
    for _, group in groupby(rules, key=lambda rule: (rule.name, rule.arguments)):
        yield from _document(list(group), depth, full=full)


def _document(definitions: list[RuleTrace], depth: int, *, full: bool) -> Iterator[str]:
    """One document: what it is, then the definitions that made it so."""
    first, pad = definitions[0], "  " * depth
    arguments = f"({flat(', '.join(first.arguments), 60)})" if first.arguments else ""
    yield f"{pad}{first.name}{arguments} {_outcome(definitions)}"
    if depth >= _DEEPEST:
        return
    bodies = [rule for rule in definitions if not rule.is_default]
    telling = [rule for rule in bodies if rule.has_value] if depth and not full else []
    for rule in telling or bodies:
        yield from _definition(rule, depth + 1, full=full)


def _outcome(definitions: list[RuleTrace]) -> str:
    given = [rule for rule in definitions if rule.has_value]
    if not given:
        return "has no member" if definitions[0].is_partial else "is undefined"
    if given[0].is_partial:
        return f"has {flat(', '.join(dict.fromkeys(rule.result for rule in given)))}"
    return f"is {flat(given[-1].result)}{', by default' if given[-1].is_default else ''}"


def _definition(rule: RuleTrace, depth: int, *, full: bool) -> Iterator[str]:
    pad = "  " * depth
    for number, head in enumerate(rule.heads):
        body = [span for span in rule.expressions if span.branch == number and span.parent is None]
        tried = [rule.attempts[span.start] for span in body if span.start in rule.attempts]
        if not tried and rule.branch != number:
            continue
        yield _placed(f"{pad}{flat(head.text, COLUMN - len(pad))}", f"line {head.line}" if number else f"{rule.file}:{head.line}")
        yield from _body(rule, tried, len(body), depth, full=full)


def _body(rule: RuleTrace, tried: list[Attempt], size: int, depth: int, *, full: bool) -> Iterator[str]:
    for attempt in tried:
        yield from _attempt(rule, attempt, depth, full=full)
        if not attempt.held and not full:
            if size > len(tried):
                yield f"{'  ' * depth}  -    {size - len(tried)} more, not looked at"
            return


def _attempt(rule: RuleTrace, attempt: Attempt, depth: int, *, full: bool) -> Iterator[str]:
    pad = "  " * depth
    tries = attempt.held + attempt.failed
    often = f" ({attempt.held} of {tries})" if tries > 1 else ""
    yield _placed(f"{pad}  {'yes' if attempt.held else 'NO '}  {flat(attempt.text)}{often}", f"line {attempt.span.line}")
    for sample in _telling(attempt, full=full):
        yield from _values(sample, pad, but=bool(attempt.held) and not sample.held)
    decided = not attempt.held or attempt.span.is_negated
    for inner in rule.nested(attempt):
        if full or decided:
            yield from _attempt(rule, inner, depth + 2, full=full)
    if full or decided:
        yield from _rules(attempt.rules, depth + 4, full=full)


def _values(sample: Sample, pad: str, *, but: bool) -> Iterator[str]:
    if but and sample.values:
        yield f"{pad}         not where {', '.join(f'{flat(text)} is {flat(value, 60)}' for text, value in sample.values)}"
        return
    for text, value in sample.values:
        yield f"{pad}         {flat(text)} is {flat(value)}"


def _telling(attempt: Attempt, *, full: bool) -> list[Sample]:
    """The tries worth showing: the failed ones, and in full the first that held."""
    held = [sample for sample in attempt.samples if sample.held][: 1 if full or attempt.span.is_negated else 0]
    return held + [sample for sample in attempt.samples if not sample.held]


def _placed(text: str, place: str) -> str:
    return f"{text:<{COLUMN}} {place}"
