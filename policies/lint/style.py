"""How policies read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from policies.lint.subject import Subject, finding, lint_rule, walk
from policies.rego import Issue
from policies.rego.syntax import Unify, Var

LONGEST_LINE: Final = 140
MOST_EXPRESSIONS: Final = 15
_SNAKE: Final = re.compile(r"_?[a-z][a-z0-9]*(_[a-z0-9]+)*")


@lint_rule(
    "title",
    "a package that decides without a title",
    "`# METADATA` with `title:` above `package` is what a compliance officer reads first, and what lists of policies show.",
)
def title(subject: Subject) -> Iterator[Issue]:
    """No title in any file of the package."""
    titled = {module.package for module in subject.deciding for _, last, text in module.annotations if re.search(r"^title:", text, re.MULTILINE)
              if module.source.position(module.package_pos)[0] == last + 1}  # fmt: skip
    for module in subject.deciding:
        if module.package not in titled:
            titled.add(module.package)
            hint = "write `# METADATA` and `# title: ...` in the lines above"
            yield finding(module, "title", f"package `{'.'.join(module.package)}` has no title", module.package_pos, hint)


@lint_rule(
    "unify",
    "`=` where `:=` or `==` is meant",
    "`=` compares or binds, depending on what is bound elsewhere: a variable added above turns an assignment into a comparison.",
)
def unify(subject: Subject) -> Iterator[Issue]:
    """`x = input.a`."""
    for module in subject.modules:
        for node in walk(module.rules):
            if type(node) is Unify and not node.assign:
                yield finding(module, "unify", "`=` binds or compares", node.pos, "write `:=` to bind, `==` to compare")


@lint_rule("name", "a name that is not in snake_case", "One way to write names; OPA's own rules, built-ins and the input have it.")
def name(subject: Subject) -> Iterator[Issue]:
    """`isAllowed`."""
    for module in subject.modules:
        seen: set[str] = set()
        for rule in module.rules:
            word = rule.ref[0].name
            if word not in seen and not _SNAKE.fullmatch(word):
                seen.add(word)
                yield finding(module, "name", f"`{word}` is not in snake_case", rule.pos)
        for node in walk(module.rules):
            if type(node) is Unify and node.assign and type(node.lhs) is Var and not _SNAKE.fullmatch(node.lhs.name) and node.lhs.name[:2] != "_#":
                yield finding(module, "name", f"`{node.lhs.name}` is not in snake_case", node.pos)


@lint_rule("line-length", f"a line longer than {LONGEST_LINE} characters", "Reviews show two files side by side.")
def line_length(subject: Subject) -> Iterator[Issue]:
    """A long line."""
    for module in subject.modules:
        for line, start in zip(module.source.text.split("\n"), module.source.line_starts, strict=False):
            if len(line) > LONGEST_LINE:
                yield finding(module, "line-length", f"{len(line)} characters", start + LONGEST_LINE)


@lint_rule(
    "long-rule", f"a body of more than {MOST_EXPRESSIONS} expressions", "Nobody can say what it means. Name parts of it as rules of their own."
)
def long_rule(subject: Subject) -> Iterator[Issue]:
    """A body that wants to be several."""
    for module in subject.policies:
        for rule in module.rules:
            for branch in rule.branches:
                if len(branch.body) > MOST_EXPRESSIONS:
                    yield finding(module, "long-rule", f"{len(branch.body)} expressions in one body", rule.pos, "name parts of it as rules")


@lint_rule("default-first", "a default below its rules", "A reader meets the exception first and the rule last.")
def default_first(subject: Subject) -> Iterator[Issue]:
    """`default allow := false` at the end."""
    for module in subject.policies:
        seen: set[str] = set()
        for rule in module.rules:
            if rule.is_default and rule.ref[0].name in seen:
                yield finding(module, "default-first", f"the default of `{rule.ref[0].name}` stands below its rules", rule.pos, "move it above them")
            seen.add(rule.ref[0].name)
