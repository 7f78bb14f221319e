"""Rego text to tokens.

Rules:

- White space separates tokens and matters twice: a new line ends a statement (`nl`), and `.`, `[`, `(` continue a reference
  only when nothing stands between (`gap`).
- Keywords are identifiers here; the parser knows where they are keywords, because v1 allows `input.if` and `contains("a", "b")`.
- Strings are decoded here, so the parser sees values. A template string is one token holding text and nested token lists.
- Comments are kept apart, for `# METADATA`.

Example: `tokenize("x := 1")` gives the kinds `ident op number eof`.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from policies.rego.errors import Issue, PolicyError

MAX_NESTING = 100
"""Depth of brackets, bodies and template strings; 60 more than the deepest policy we have seen, and safe for the interpreter's stack."""

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<comment>\#[^\n]*)
    |(?P<ident>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|(?<![\w\])])\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    |(?P<string>"(?:[^"\\\n]|\\[^\n])*")
    |(?P<raw>`[^`]*`)
    |(?P<template>\$["`])
    |(?P<op>:=|==|!=|<=|>=|[-=<>+*/%&|.,:;()\[\]{}])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|[^u])|\\u")
_SIMPLE = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Token(NamedTuple):
    """One token: `nl` = a new line stands before it, `gap` = anything at all stands before it."""

    kind: str
    text: str
    start: int
    end: int
    nl: bool
    gap: bool
    value: Any = None


@dataclass(frozen=True, slots=True)
class Source:
    """A module's name and text, with the offsets of its lines."""

    name: str
    text: str
    line_starts: tuple[int, ...]

    def position(self, offset: int) -> tuple[int, int]:
        """Return 1-based (line, column) of a character offset."""
        line = bisect_right(self.line_starts, offset)
        return line, offset - self.line_starts[line - 1] + 1

    def issue(self, rule: str, message: str, offset: int, hint: str = "", severity: str = "error") -> Issue:
        """Return an `Issue` that points at `offset`."""
        line, column = self.position(offset)
        end = self.text.find("\n", offset)
        snippet = self.text[self.line_starts[line - 1] : end if end >= 0 else len(self.text)].rstrip("\r")
        return Issue(rule, message, self.name, line, column, hint, snippet, severity)


def make_source(name: str, text: str) -> Source:
    """Return the `Source` of a module text."""
    starts = [0]
    starts.extend(match.end() for match in re.finditer("\n", text))
    return Source(name, text, tuple(starts))


def fail(source: Source, message: str, offset: int, hint: str = "") -> PolicyError:
    """Return (not raise) the parse error at `offset`."""
    return PolicyError([source.issue("parse", message, min(offset, len(source.text)), hint)])


class Lexer:
    """One pass over a text. Owns `comments`; nothing outlives the call of `tokenize`."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.comments: list[tuple[int, str]] = []

    def run(self, start: int, *, until_brace: bool, depth: int) -> tuple[list[Token], int]:  # noqa: C901, PLR0912 - one flat list of cases
        """Scan from `start`; inside a template stop at the brace that closes the expression."""
        if depth > MAX_NESTING:
            raise fail(self.source, f"nested deeper than `{MAX_NESTING}`", start)
        text, position, size = self.source.text, start, len(self.source.text)
        tokens: list[Token] = []
        newline, gap, braces = False, True, 0
        while position < size:
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._unexpected(position)
            kind, lexeme, end = match.lastgroup or "", match.group(), match.end()
            if kind in {"space", "comment"}:
                if kind == "comment":
                    self.comments.append((position, lexeme))
                newline, gap, position = newline or "\n" in lexeme, True, end
                continue
            value: Any = None
            if kind == "op":
                if lexeme == "{":
                    braces += 1
                elif lexeme == "}":
                    if until_brace and braces == 0:
                        tokens.append(Token("eof", "", position, position, newline, gap))
                        return tokens, end
                    braces -= 1
            elif kind == "string":
                kind, value = "string", self._decode(lexeme[1:-1], position + 1)
            elif kind == "raw":
                kind, value = "string", lexeme[1:-1]
            elif kind == "number":
                value = self._number(lexeme, position, end)
            elif kind == "template":
                value, end = self._template(end, raw=lexeme[1] == "`", depth=depth)
            tokens.append(Token(kind, lexeme, position, end, newline, gap, value))
            newline, gap, position = False, False, end
        if until_brace:
            raise fail(self.source, "template expression is not closed by `}`", start)
        tokens.append(Token("eof", "", size, size, True, True))
        return tokens, size

    def _unexpected(self, position: int) -> PolicyError:
        char = self.source.text[position]
        if char in '"`':
            return fail(self.source, "string is not closed", position, "end it on the same line, or use a raw string")
        return fail(self.source, f"unexpected character `{char}`", position)

    def _number(self, lexeme: str, position: int, end: int) -> Any:
        following = self.source.text[end : end + 1]
        if following.isalnum() or following == "_":
            raise fail(self.source, f"number `{lexeme}` runs into `{following}`", position)
        try:
            return number_value(lexeme)
        except (ValueError, InvalidOperation, OverflowError) as error:
            raise fail(self.source, f"number `{lexeme[:40]}` is out of range", position) from error

    def _decode(self, body: str, offset: int) -> str:
        if "\\" not in body:
            if any(char < " " and char != "\t" for char in body):
                raise fail(self.source, "control character in a string", offset, "write it as an escape such as `\\n`")
            return body
        for match in _ESCAPE.finditer(body):
            escape = match.group()
            if escape == "\\u" or (len(escape) == 2 and escape[1] not in _SIMPLE):
                raise fail(self.source, f"unknown escape `{escape}`", offset + match.start(), "use a raw string in backticks")
        text: str = json.loads('"' + body.replace("\t", "\\t") + '"')
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _template(self, start: int, *, raw: bool, depth: int) -> tuple[list[Any], int]:
        """Read the inside of a template string: text pieces (str) and token lists, alternating freely."""
        text, position, piece = self.source.text, start, start
        close = "`" if raw else '"'
        parts: list[Any] = []
        literal: list[str] = []

        def flush(end: int) -> None:
            fragment = text[piece:end]
            literal.append(fragment if raw else self._decode(fragment, piece))

        while position < len(text):
            char = text[position]
            if char == close:
                flush(position)
                parts.append("".join(literal))
                return parts, position + 1
            if char == "\\" and text[position + 1 : position + 2] == "{":
                flush(position)
                literal.append("{")
                position += 2
                piece = position
            elif char == "\\" and not raw:
                position += 2
            elif char == "{":
                flush(position)
                parts.append("".join(literal))
                literal = []
                tokens, position = self.run(position + 1, until_brace=True, depth=depth + 1)
                parts.append(tokens)
                piece = position
            elif char == "\n" and not raw:
                break
            else:
                position += 1
        raise fail(self.source, "template string is not closed", start - 2)


def number_value(text: str) -> int | float | Decimal:
    """Return the exact number a literal denotes: int, float when its text is the float's own, else Decimal.

    Raises:
        ValueError: more than 4,300 digits or an exponent beyond 10^4, which no arithmetic here can bound.
    """
    if text.lstrip("-").isdigit():
        return int(text)
    exact = Decimal(text)
    if exact and abs(exact.adjusted()) > 10_000:
        raise ValueError(text)
    approximate = float(text)
    if Decimal(repr(approximate)) == exact:
        return approximate
    return exact


def tokenize(source: Source) -> tuple[list[Token], list[tuple[int, str]]]:
    """Return the tokens of a module (the last is `eof`) and its comments as (offset, text).

    Raises:
        PolicyError: with the position of the first character that is no Rego.
    """
    lexer = Lexer(source)
    tokens, _ = lexer.run(0, until_brace=False, depth=0)
    return tokens, lexer.comments
