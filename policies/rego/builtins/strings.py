"""Strings."""

from __future__ import annotations

from typing import Any

from policies.rego.builtins.formatting import sprintf_text
from policies.rego.builtins.registry import (
    builtin,
    operand_error,
    want_array,
    want_integer,
    want_object,
    want_string,
    want_strings,
)
from policies.rego.errors import BuiltinError, LimitError
from policies.rego.values import RegoSet, ordered


def bounded_text(context: Any, length: int) -> None:
    """Refuse a string longer than the caller allows."""
    if length > context.limits.text_chars:
        raise LimitError("text_chars", f"a string of `{length}` characters")
    context.charge(length // 4096)


@builtin("concat", 2, context=True)
def concat(context: Any, delimiter: Any, parts: Any) -> str:
    """Strings joined."""
    glue, pieces = want_string(delimiter), want_strings(parts, 2)
    if type(parts) is RegoSet:
        pieces = ordered(pieces)
    bounded_text(context, sum(map(len, pieces)) + len(glue) * max(len(pieces) - 1, 0))
    return glue.join(pieces)


@builtin("contains", 2)
def contains(text: Any, part: Any) -> bool:
    """Whether part stands in text."""
    return want_string(part, 2) in want_string(text)


@builtin("startswith", 2)
def startswith(text: Any, part: Any) -> bool:
    """Whether text begins with part."""
    return want_string(text).startswith(want_string(part, 2))


@builtin("endswith", 2)
def endswith(text: Any, part: Any) -> bool:
    """Whether text ends with part."""
    return want_string(text).endswith(want_string(part, 2))


@builtin("lower", 1)
def lower(text: Any) -> str:
    """Lower case."""
    return want_string(text).lower()


@builtin("upper", 1)
def upper(text: Any) -> str:
    """Upper case."""
    return want_string(text).upper()


@builtin("indexof", 2)
def indexof(text: Any, part: Any) -> int:
    """Index of the first occurrence, in characters, or -1."""
    haystack, needle = want_string(text), want_string(part, 2)
    if not needle:
        raise BuiltinError("empty search character")
    return haystack.find(needle)


@builtin("indexof_n", 2, context=True)
def indexof_n(context: Any, text: Any, part: Any) -> list[int]:
    """Indexes of all occurrences."""
    haystack, needle = want_string(text), want_string(part, 2)
    if not needle:
        raise BuiltinError("empty search character")
    found: list[int] = []
    index = haystack.find(needle)
    while index >= 0:
        found.append(index)
        if len(found) > context.limits.items:
            raise LimitError("items", "too many occurrences")
        index = haystack.find(needle, index + 1)
    return found


@builtin("substring", 3)
def substring(text: Any, offset: Any, length: Any) -> str:
    """`length` characters from `offset`; a negative length means to the end."""
    source, start, size = want_string(text), want_integer(offset, 2), want_integer(length, 3)
    if start < 0:
        raise BuiltinError("negative offset")
    return source[start:] if size < 0 else source[start : start + size]


@builtin("replace", 3, context=True)
def replace(context: Any, text: Any, old: Any, new: Any) -> str:
    """Every `old` replaced by `new`."""
    source, before, after = want_string(text), want_string(old, 2), want_string(new, 3)
    bounded_text(context, len(source) + source.count(before) * max(len(after) - len(before), 0))
    return source.replace(before, after)


@builtin("strings.replace_n", 2, context=True)
def replace_n(context: Any, patterns: Any, text: Any) -> str:
    """Replaced by the first key (in order) that matches at each place."""
    table, source = want_object(patterns), want_string(text, 2)
    pairs = [(want_string(key), table[key]) for key in ordered(table)]
    for _, after in pairs:
        if type(after) is not str:
            raise operand_error(1, "object with string values", after)
    bounded_text(context, len(source) * max([len(after) for _, after in pairs], default=1))
    out: list[str] = []
    index = 0
    after_empty = False
    context.charge(len(source) * len(pairs) // 64)
    while index <= len(source):
        for before, after in pairs:
            # Go's Replacer: an empty key matches before each character, then the other keys have their turn there.
            if (before or not after_empty) and source.startswith(before, index):
                out.append(after)
                index += len(before)
                after_empty = not before
                break
        else:
            out.append(source[index : index + 1])
            index += 1
            after_empty = False
    return "".join(out)


@builtin("split", 2)
def split(text: Any, delimiter: Any) -> list[str]:
    """Pieces between delimiters; every character for an empty one."""
    source, glue = want_string(text), want_string(delimiter, 2)
    return source.split(glue) if glue else list(source)


@builtin("strings.split_n", 3)
def split_n(text: Any, delimiter: Any, count: Any) -> list[str]:
    """The first `count` pieces; the last ones for a negative count."""
    source, glue, limit = want_string(text), want_string(delimiter, 2), want_integer(count, 3)
    pieces = source.split(glue) if glue else list(source)
    return pieces[:limit] if limit >= 0 else pieces[limit:]


@builtin("trim", 2)
def trim(text: Any, cutset: Any) -> str:
    """Without leading and trailing characters of a set."""
    source, chars = want_string(text), want_string(cutset, 2)
    return source.strip(chars) if chars else source


@builtin("trim_left", 2)
def trim_left(text: Any, cutset: Any) -> str:
    """Without leading characters of a set."""
    source, chars = want_string(text), want_string(cutset, 2)
    return source.lstrip(chars) if chars else source


@builtin("trim_right", 2)
def trim_right(text: Any, cutset: Any) -> str:
    """Without trailing characters of a set."""
    source, chars = want_string(text), want_string(cutset, 2)
    return source.rstrip(chars) if chars else source


@builtin("trim_prefix", 2)
def trim_prefix(text: Any, prefix: Any) -> str:
    """Without a prefix."""
    return want_string(text).removeprefix(want_string(prefix, 2))


@builtin("trim_suffix", 2)
def trim_suffix(text: Any, suffix: Any) -> str:
    """Without a suffix."""
    return want_string(text).removesuffix(want_string(suffix, 2))


@builtin("trim_space", 1)
def trim_space(text: Any) -> str:
    """Without leading and trailing white space."""
    return want_string(text).strip()


@builtin("strings.reverse", 1)
def reverse(text: Any) -> str:
    """Characters from last to first."""
    return want_string(text)[::-1]


@builtin("strings.count", 2)
def count(text: Any, part: Any) -> int:
    """Number of occurrences that do not overlap."""
    return want_string(text).count(want_string(part, 2))


def _one_or_many(value: Any, position: int) -> tuple[str, ...]:
    return (value,) if type(value) is str else tuple(want_strings(value, position))


_PAIRS_A_STEP = 6
"""A power of two: comparisons of a beginning that cost as much as a step of a rule."""


@builtin("strings.any_prefix_match", 2, context=True)
def any_prefix_match(context: Any, texts: Any, prefixes: Any) -> bool:
    """Whether any text begins with any prefix."""
    heads, bodies = _one_or_many(prefixes, 2), _one_or_many(texts, 1)
    context.charge(len(bodies) * len(heads) >> _PAIRS_A_STEP)
    return any(text.startswith(heads) for text in bodies)


@builtin("strings.any_suffix_match", 2, context=True)
def any_suffix_match(context: Any, texts: Any, suffixes: Any) -> bool:
    """Whether any text ends with any suffix."""
    tails, bodies = _one_or_many(suffixes, 2), _one_or_many(texts, 1)
    context.charge(len(bodies) * len(tails) >> _PAIRS_A_STEP)
    return any(text.endswith(tails) for text in bodies)


@builtin("sprintf", 2, context=True)
def sprintf(context: Any, template: Any, values: Any) -> str:
    """Text with verbs filled in, as Go's `fmt.Sprintf`."""
    text = sprintf_text(want_string(template), want_array(values, 2), context.limits.text_chars)
    bounded_text(context, len(text))
    return text
