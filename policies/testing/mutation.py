"""Rules and expressions whose removal no test notices: what the tests do not hold in place.

Each rule, each `else` and each expression of a policy is taken away in turn, and the tests that reached it run again. If all still pass, nothing
would have told that it was lost. What cannot be taken away (the rest would not compile) is held in place by the checks and is not judged.

A hint, not a verdict: `default allow := false` beside tests of `not allow` is noticed by nobody, because undefined is not true either. Write
`allow == false` where the difference matters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from policies.rego import PolicyError
from policies.rego.coverage import Reached
from policies.rego.spans import Span, module_spans
from policies.rego.syntax import Module, Rule, Scalar, Statement, Unify
from policies.testing.coverage import holds_tests

MOST: Final = 400
"""Removals tried; a policy set with more is judged on the first."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A part of a policy that was taken away, with the modules without it."""

    kind: Literal["rule", "else", "expression"]
    file: str
    span: Span
    reach: frozenset[Reached]
    """What a test must have reached to notice."""
    module: Module


@dataclass(frozen=True, slots=True)
class Unnoticed:
    """A removal no test noticed."""

    kind: str
    file: str
    line: int
    text: str
    is_reached: bool
    """Whether any test reached it at all."""


@dataclass(frozen=True, slots=True)
class Hint:
    """The outcome: how many removals were judged, and those that nobody noticed."""

    judged: int
    left_out: int
    """Removals beyond `MOST`, which were not tried."""
    unnoticed: tuple[Unnoticed, ...]


def hint(
    modules: Mapping[str, Module],
    own: Collection[str],
    reached: Mapping[Any, frozenset[Reached]],
    survives: Callable[[Mapping[str, Module], list[Any]], bool],
) -> Hint:
    """Take every part away in turn.

    Args:
        modules: All modules, tests among them.
        own: Names of those that are taken apart.
        reached: What each test reached; only tests that pass.
        survives: Tells whether the named tests still pass on other modules.

    Returns:
        What no test noticed, in the order of files and lines.
    """
    found: list[Unnoticed] = []
    judged = left_out = 0
    for module in sorted(modules.values(), key=lambda module: module.source.name):
        for removal in removals(module) if module.source.name in own and not holds_tests(module) else ():
            if judged >= MOST:
                left_out += 1
                continue
            concerned = [test for test, places in reached.items() if places & removal.reach]
            try:
                noticed = not survives({**modules, removal.file: removal.module}, concerned)
            except PolicyError:
                continue
            judged += 1
            if not noticed:
                found.append(Unnoticed(removal.kind, removal.file, removal.span.line, removal.span.text, bool(concerned)))
    return Hint(judged, left_out, tuple(found))


def removals(module: Module) -> Iterator[Removal]:
    """Yield the module without each of its parts."""
    name = module.source.name
    spans = module_spans(module)
    for number, rule in enumerate(module.rules):
        own = [span for span in spans if span.rule == number]
        heads = [span for span in own if span.is_head]
        everything = frozenset((name, span.start, span.is_head) for span in own)
        rest = (*module.rules[:number], *module.rules[number + 1 :])
        yield Removal("rule", name, heads[0], everything, replace(module, rules=rest))
        for branch in range(1, len(rule.branches)):
            kept = (*rule.branches[:branch], *rule.branches[branch + 1 :])
            reach = frozenset((name, span.start, span.is_head) for span in own if span.branch == branch)
            yield Removal("else", name, heads[branch], reach, _with_rule(module, number, replace(rule, branches=kept)))
        for span in own:
            if span.statement is not None and not _binds(span.statement):
                changed = _without(rule, span.statement)
                yield Removal("expression", name, span, frozenset({(name, span.start, False)}), _with_rule(module, number, changed))


def _binds(statement: Statement) -> bool:
    """An assignment only names a value; what it is named for is judged where it is used."""
    return type(statement.expr) is Unify and statement.expr.assign


def _with_rule(module: Module, number: int, rule: Rule) -> Module:
    return replace(module, rules=(*module.rules[:number], rule, *module.rules[number + 1 :]))


def _without(node: Any, gone: Statement) -> Any:
    """Return syntax with one statement replaced by `true`."""
    if node is gone:
        return Statement(Scalar(True, gone.pos), negated=False, withs=(), pos=gone.pos)
    if type(node) is tuple:
        changed = tuple(_without(item, gone) for item in node)
        return changed if any(new is not old for new, old in zip(changed, node, strict=True)) else node
    if hasattr(node, "__dataclass_fields__"):
        fields = {name: getattr(node, name) for name in node.__dataclass_fields__}
        news = {name: _without(value, gone) for name, value in fields.items() if type(value) is tuple or hasattr(value, "__dataclass_fields__")}
        different = {name: value for name, value in news.items() if value is not fields[name]}
        return replace(node, **different) if different else node
    return node
