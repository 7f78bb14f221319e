"""regex.* on google-re2: the syntax and the linear time of Go's regexp, so no pattern can hang a decision.

A pattern is compiled once per process for the last 512 distinct patterns; its memory is bounded by re2 (`max_mem`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2

from policies.rego.builtins.arrays import bounded_items
from policies.rego.builtins.registry import builtin, want_integer, want_string
from policies.rego.errors import BuiltinError, LimitError

MAX_PATTERN_CHARS = 20_000


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 8 << 20
    return options


_OPTIONS = _options()


@lru_cache(maxsize=512)
def compiled(pattern: str) -> Any:
    """Compile a pattern.

    Raises:
        BuiltinError: no pattern of re2, or too large.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise BuiltinError("pattern is too long")
    try:
        return re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        raise BuiltinError(f"error parsing regexp: {error}") from error


@builtin("regex.match", 2)
def match(pattern: Any, text: Any) -> bool:
    """Whether the pattern occurs in the text."""
    return compiled(want_string(pattern)).search(want_string(text, 2)) is not None


builtin("re_match", 2)(match)


@builtin("regex.is_valid", 1)
def is_valid(pattern: Any) -> bool:
    """Whether a string is a pattern."""
    if type(pattern) is not str:
        return False
    try:
        compiled(pattern)
    except BuiltinError:
        return False
    return True


@builtin("regex.split", 2)
def split(pattern: Any, text: Any) -> list[str]:
    """Pieces between matches; matches that are empty at an edge do not split (Go)."""
    code, source = compiled(want_string(pattern)), want_string(text, 2)
    if pattern and not source:
        return [""]
    pieces: list[str] = []
    begin = end = 0
    for found in code.finditer(source):
        end = found.start()
        if found.end() != 0:
            pieces.append(source[begin:end])
        begin = found.end()
    if end != len(source):
        pieces.append(source[begin:])
    return pieces


def _matches(pattern: Any, text: Any, count: Any) -> list[Any]:
    code, source, limit = compiled(want_string(pattern)), want_string(text, 2), want_integer(count, 3)
    found: list[Any] = []
    last_end = -1
    for hit in code.finditer(source):
        if 0 <= limit <= len(found):
            break
        if hit.start() == hit.end() == last_end:
            continue
        last_end = hit.end()
        found.append(hit)
    return found


@builtin("regex.find_n", 3)
def find_n(pattern: Any, text: Any, count: Any) -> list[str]:
    """The first matches; all for -1."""
    return [hit.group() for hit in _matches(pattern, text, count)]


@builtin("regex.find_all_string_submatch_n", 3)
def find_all(pattern: Any, text: Any, count: Any) -> list[list[str]]:
    """The first matches with their groups."""
    return [[hit.group(), *(part or "" for part in hit.groups())] for hit in _matches(pattern, text, count)]


@builtin("regex.replace", 3, context=True)
def replace(context: Any, text: Any, pattern: Any, value: Any) -> str:
    """Every match replaced; `$1`, `${name}` stand for groups, `$$` for `$` (Go's Expand)."""
    source, code, template = want_string(text), compiled(want_string(pattern, 2)), want_string(value, 3)
    out: list[str] = []
    position = size = 0
    last_end = -1
    for hit in code.finditer(source):
        if hit.start() == hit.end() == last_end:
            continue
        last_end = hit.end()
        piece = expand(template, hit)
        size += len(piece)
        if size > context.limits.text_chars:
            raise LimitError("text_chars", "a text made by regex.replace")
        out.append(source[position : hit.start()])
        out.append(piece)
        position = hit.end()
    out.append(source[position:])
    return "".join(out)


def expand(template: str, hit: Any) -> str:
    """Fill `$name` and `${name}` as Go's `Regexp.Expand` does."""
    out: list[str] = []
    index = 0
    while True:
        dollar = template.find("$", index)
        if dollar < 0:
            out.append(template[index:])
            return "".join(out)
        out.append(template[index:dollar])
        if template[dollar + 1 : dollar + 2] == "$":
            out.append("$")
            index = dollar + 2
            continue
        brace = template[dollar + 1 : dollar + 2] == "{"
        start = end = dollar + 1 + brace
        while end < len(template) and (template[end].isalnum() or template[end] == "_"):
            end += 1
        name = template[start:end]
        if not name or (brace and template[end : end + 1] != "}"):
            out.append("$")
            index = dollar + 1
            continue
        out.append(_group(hit, name))
        index = end + brace


def _group(hit: Any, name: str) -> str:
    try:
        return hit.group(int(name) if name.isdigit() else name) or ""
    except (IndexError, KeyError, re2.error):
        return ""


@builtin("regex.template_match", 4)
def template_match(template: Any, text: Any, start: Any, end: Any) -> bool:
    """Whether a text matches a template whose patterns stand between two delimiters."""
    source, opening, closing = want_string(template), want_string(start, 3), want_string(end, 4)
    if len(opening) != 1 or len(closing) != 1:
        raise BuiltinError("delimiters must be one character")
    out = ["^"]
    position = 0
    while True:
        begin = source.find(opening, position)
        if begin < 0:
            break
        out.append(re2.escape(source[position:begin]))
        depth, index = 1, begin + 1
        while index < len(source) and depth:
            depth += (source[index] == opening) - (source[index] == closing)
            index += 1
        if depth:
            raise BuiltinError("unbalanced braces")
        out.append("(" + source[begin + 1 : index - 1] + ")")
        position = index
    if closing in source[position:]:
        raise BuiltinError("unbalanced braces")
    out.append(re2.escape(source[position:]) + "$")
    return compiled("".join(out)).search(want_string(text, 2)) is not None


def _glob_sets(pattern: str) -> list[tuple[frozenset[str] | None, bool]]:
    """Read the small regex language of `globs_match`: characters, `.`, `[...]`, each with `*` or `+`."""
    found: list[tuple[frozenset[str] | None, bool]] = []
    index = 0
    while index < len(pattern):
        char = pattern[index]
        members: frozenset[str] | None
        if char == "[":
            end = pattern.find("]", index)
            if end < 0:
                raise BuiltinError("unbalanced `[`")
            members, index = _char_class(pattern[index + 1 : end]), end
        elif char == "\\":
            index += 1
            members = frozenset(pattern[index : index + 1])
        elif char in "*+]":
            raise BuiltinError(f"unexpected `{char}`")
        else:
            members = None if char == "." else frozenset(char)
        index += 1
        flag = pattern[index : index + 1]
        if flag in {"*", "+"}:
            index += 1
            if flag == "+":
                found.append((members, False))
            found.append((members, True))
        else:
            found.append((members, False))
    return found


def _char_class(body: str) -> frozenset[str]:
    members: set[str] = set()
    index = 0
    while index < len(body):
        if body[index + 1 : index + 2] == "-" and index + 2 < len(body):
            members.update(chr(code) for code in range(ord(body[index]), min(ord(body[index + 2]), ord(body[index]) + 5000) + 1))
            index += 3
        else:
            members.add(body[index])
            index += 1
    return frozenset(members)


@builtin("regex.globs_match", 2, context=True)
def globs_match(context: Any, left: Any, right: Any) -> bool:
    """Whether some non-empty text matches both globs."""
    bounded_items(context, len(want_string(left)) * len(want_string(right, 2)))
    one, other = _glob_sets(left), _glob_sets(right)
    context.charge(len(one) * len(other))
    seen = {(0, 0)}
    queue = [(0, 0)]
    while queue:
        first, second = queue.pop()
        if first == len(one) and second == len(other):
            return True
        for place in _glob_moves(one, other, first, second):
            if place not in seen:
                seen.add(place)
                queue.append(place)
    return False


def _glob_moves(one: Any, other: Any, first: int, second: int) -> list[tuple[int, int]]:
    moves = []
    if first < len(one) and one[first][1]:
        moves.append((first + 1, second))
    if second < len(other) and other[second][1]:
        moves.append((first, second + 1))
    if first < len(one) and second < len(other):
        mine, theirs = one[first], other[second]
        if mine[0] is None or theirs[0] is None or mine[0] & theirs[0]:
            moves.append((first + (not mine[1]), second + (not theirs[1])))
    return moves
