r"""Where each rule head and each expression of a module begins and ends; what coverage, traces and linters point at.

The syntax tree knows where a statement begins. Where it ends is read from the tokens: before the `;`, the closing bracket or the new line
that does not continue it. Expressions nest: those of a comprehension, an `every` or a `not { ... }` lie inside another expression.

Example:
    >>> [span.text for span in module_spans(parse_module("p.rego", "package p\nx if {\n\tinput.a == 1\n\tinput.b\n}"))]
    ['x', 'input.a == 1', 'input.b']
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from policies.rego.lexer import Token, tokenize
from policies.rego.syntax import Module, Rule, SomeDecl, Statement
from policies.rego.terms import OPERATORS

_CONTINUES: Final = frozenset({*OPERATORS, ":=", "=", "with", "as", "in", ".", ","})
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")


@dataclass(frozen=True, slots=True)
class Span:
    """A head or an expression.

    Args:
        start: Offset of its first character.
        end: Offset after its last.
        line: 1-based line of `start`.
        text: Its source text; of a head, up to its body.
        rule: Index of the rule in the module.
        branch: Index of the branch in the rule: 0, or the number of the `else`.
        parent: `start` of the expression it is nested in, or None directly in a body.
        statement: The expression; None for a head.
    """

    start: int
    end: int
    line: int
    text: str
    rule: int
    branch: int
    parent: int | None
    statement: Statement | None

    @property
    def is_head(self) -> bool:
        """Whether this is a head: it counts as reached when its branch gives a value."""
        return self.statement is None

    @property
    def is_negated(self) -> bool:
        """Whether it is an expression under `not`."""
        return self.statement is not None and self.statement.negated


def module_spans(module: Module) -> tuple[Span, ...]:
    """Return the spans of a module in the order of the text; declarations (`some x`) do nothing and have none."""
    reader = _Reader(module)
    found = [span for index, rule in enumerate(module.rules) for span in reader.rule(index, rule)]
    return tuple(sorted(found, key=lambda span: (span.start, not span.is_head)))


class SpanIndex:
    """Finds the innermost expression around an offset. Immutable."""

    def __init__(self, module: Module) -> None:
        self.spans = module_spans(module)
        self._text = module.source.text
        self._tokens = tokenize(module.source)[0]
        self._token_starts = [token.start for token in self._tokens]
        self.heads = {(span.rule, span.branch): span for span in self.spans if span.is_head}
        self._expressions = [span for span in self.spans if not span.is_head]
        self._starts = [span.start for span in self._expressions]
        self._by_start = {span.start: span for span in self._expressions}

    def around(self, offset: int) -> Span | None:
        """Return the innermost expression that holds the character at `offset`; None in a head."""
        index = bisect_right(self._starts, offset) - 1
        found = self._expressions[index] if index >= 0 else None
        while found is not None and offset >= found.end:
            found = self._by_start.get(found.parent) if found.parent is not None else None
        return found

    def reference(self, offset: int) -> str:
        """Return the text of the reference or call that begins at `offset` (`input.a[0].b`, `count(x)`), or an empty string."""
        index = bisect_left(self._token_starts, offset)
        if index >= len(self._tokens) or self._tokens[index].start != offset or self._tokens[index].kind != "ident":
            return ""
        end, depth = self._tokens[index].end, 0
        for token in self._tokens[index + 1 :]:
            if depth == 0 and (token.gap or token.text not in {".", "[", "("}) and self._text[end - 1] != ".":
                break
            depth += (token.text in _OPEN and token.kind == "op") - (token.text in _CLOSE and token.kind == "op")
            if depth < 0 or token.kind == "eof":
                break
            end = token.end
        return self._text[offset:end]


class _Reader:
    def __init__(self, module: Module) -> None:
        self._source = module.source
        self._tokens = tokenize(module.source)[0]
        self._starts = [token.start for token in self._tokens]

    def rule(self, index: int, rule: Rule) -> Iterator[Span]:
        for number, branch in enumerate(rule.branches):
            first = min((statement.pos for statement in branch.body), default=None)
            following = rule.branches[number + 1].pos if number + 1 < len(rule.branches) else rule.end
            end = self._head_end(branch.pos, following if first is None else first)
            yield self._span(branch.pos, end, index, number, None, None)
            for statement in branch.body:
                yield from self._statement(statement, index, number, None)
            # Comprehensions in the head have bodies of their own.
            for part in (branch.value, *((rule.key, *rule.ref[1:], *(rule.args or ())) if number == 0 else ())):
                for statement in _inside(part):
                    yield from self._statement(statement, index, number, None)

    def _statement(self, statement: Statement, rule: int, branch: int, parent: int | None) -> Iterator[Span]:
        start: int | None = statement.pos
        if type(statement.expr) is SomeDecl or self._token(statement.pos) is None:
            start = parent
        else:
            yield self._span(statement.pos, self._end(statement.pos), rule, branch, parent, statement)
        for inner in _inside(statement.expr, statement.withs):
            yield from self._statement(inner, rule, branch, start)

    def _span(self, start: int, end: int, rule: int, branch: int, parent: int | None, statement: Statement | None) -> Span:
        return Span(start, end, self._source.position(start)[0], self._source.text[start:end], rule, branch, parent, statement)

    def _token(self, offset: int) -> int | None:
        index = bisect_left(self._starts, offset)
        return index if index < len(self._starts) and self._starts[index] == offset else None

    def _head_end(self, start: int, limit: int) -> int:
        """Return the end of the last token of a head: before `limit`, without `if` and `{`."""
        index = bisect_left(self._starts, limit) - 1
        while index > 0 and self._tokens[index].text in {"if", "{"} and self._tokens[index].start > start:
            index -= 1
        return self._tokens[index].end

    def _end(self, start: int) -> int:
        """Return the end of the expression that begins at `start`."""
        first = self._token(start)
        assert first is not None  # noqa: S101 - the caller looked
        depth = 0
        last: Token = self._tokens[first]
        for token in self._tokens[first:]:
            text = token.text if token.kind in {"op", "ident"} else ""
            if token.kind == "eof" or (depth == 0 and (text in _CLOSE or text in {";", "else"})):
                break
            if depth == 0 and token.nl and token.start > start and text not in _CONTINUES and last.text not in _CONTINUES | {"not"}:
                break
            depth += (text in _OPEN) - (text in _CLOSE)
            last = token
        return last.end


def _inside(*nodes: Any) -> Iterator[Statement]:
    """Yield the statements directly inside terms: bodies of comprehensions, `every`, `not`, `and`, `or` and templates."""
    stack = list(reversed(nodes))
    while stack:
        node = stack.pop()
        if type(node) is Statement:
            yield node
        elif isinstance(node, tuple):
            stack.extend(reversed(node))
        elif hasattr(node, "__dataclass_fields__"):
            stack.extend(getattr(node, name) for name in reversed(node.__dataclass_fields__))
