"""Runs lint rules over modules.

A comment `# lint: ignore RULE reason` silences a rule on its line or, when it has the line for itself, on the line below. The reason is part of
it: without one, and when there is nothing to silence, the comment is itself a finding (`ignore`).

Example:
    for issue in lint(modules):
        print(issue.render())
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from policies.lint import reasons, style, tested, traps
from policies.lint.subject import RULES, LintRule, Subject
from policies.rego import Issue
from policies.rego.lexer import tokenize
from policies.rego.parser import parse_module
from policies.rego.syntax import Module

IGNORE: Final = LintRule(
    "ignore",
    "a `# lint: ignore` without a reason, or with nothing to silence",
    "Whoever reads it later has to know whether it still holds.",
    lambda _subject: (),
)
_COMMENT: Final = re.compile(r"#\s*lint:\s*ignore\b\s*(?P<rules>[\w-]+(?:\s*,\s*[\w-]+)*)?\s*:?\s*(?P<reason>.*)")
_GROUPS: Final = (traps, reasons, style, tested)
"""The modules of rules; importing them registers theirs."""


@dataclass(slots=True)
class _Silence:
    """One ignore comment. `used` is set by the run that owns it."""

    rules: tuple[str, ...]
    reason: str
    line: int
    """The line it speaks of."""
    offset: int
    used: bool = False


def known_rules() -> dict[str, LintRule]:
    """Return every rule by id, sorted."""
    return dict(sorted({**RULES, IGNORE.id: IGNORE}.items()))


def lint(
    modules: Mapping[str, str | Module], cases: Collection[str] = (), *, without: Collection[str] = (), only: Collection[str] = ()
) -> list[Issue]:
    """Return the findings, by file, line and column.

    Args:
        modules: path -> text or parsed module, tests among them.
        cases: Texts of `cases.yaml` files beside them.
        without: Ids of rules that do not run.
        only: Ids of the rules that run; empty for all.

    Raises:
        PolicyError: a module is no Rego.
    """
    parsed = tuple(parse_module(name, text) if isinstance(text, str) else text for name, text in sorted(modules.items()))
    subject = Subject(parsed, tuple(cases))
    chosen = [rule for name, rule in known_rules().items() if name not in without and (not only or name in only)]
    found = [issue for rule in chosen for issue in rule.check(subject)]
    silences = {module.source.name: list(_silences(module)) for module in parsed}
    kept = [issue for issue in dict.fromkeys(found) if not _is_silenced(issue, silences[issue.file])]
    if any(rule.id == IGNORE.id for rule in chosen):
        ran = {rule.id for rule in chosen}
        kept += [issue for module in parsed for silence in silences[module.source.name] for issue in _judged(module, silence, ran)]
    return sorted(kept, key=lambda issue: (issue.file, issue.line, issue.column, issue.rule))


def _silences(module: Module) -> Iterator[_Silence]:
    for offset, text in tokenize(module.source)[1]:
        match = _COMMENT.match(text)
        if match:
            names = tuple(name.strip() for name in (match["rules"] or "").split(",") if name.strip())
            line, column = module.source.position(offset)
            stands_alone = not module.source.text[offset - column + 1 : offset].strip()
            yield _Silence(names, match["reason"].strip(), line + stands_alone, offset)


def _is_silenced(issue: Issue, silences: list[_Silence]) -> bool:
    for silence in silences:
        if issue.rule in silence.rules and issue.line == silence.line and silence.reason:
            silence.used = True
            return True
    return False


def _judged(module: Module, silence: _Silence, ran: set[str]) -> Iterator[Issue]:
    """Say what is wrong with an ignore comment."""
    unknown = [name for name in silence.rules if name not in known_rules()]
    message = ""
    if not silence.rules or unknown:
        message = f"there is no rule `{unknown[0]}`" if unknown else "it names no rule"
    elif not silence.reason:
        message = "it gives no reason"
    elif not silence.used and set(silence.rules) <= ran:
        message = "there is nothing to silence"
    if message:
        yield module.source.issue(IGNORE.id, message, silence.offset, "write `# lint: ignore RULE reason`, or remove it", "warning")
