r"""glob.match, glob.quote_meta: patterns become re2 expressions, so matching is linear.

`*` any text without a delimiter, `**` any text, `?` one character that is no delimiter, `[a-z]`, `[!a]`, `{a,b}`, `\\` escapes.
Without delimiters given the delimiter is `.`; with null there is none. https://pkg.go.dev/github.com/gobwas/glob
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2

from policies.rego.builtins.regexes import compiled
from policies.rego.builtins.registry import builtin, operand_error, want_array, want_string
from policies.rego.errors import BuiltinError


def _any_but(delimiters: str) -> str:
    return "[^" + "".join("\\" + char if char in "\\]^-" else char for char in delimiters) + "]" if delimiters else "(?s:.)"


@lru_cache(maxsize=512)
def _expression(pattern: str, delimiters: str) -> str:  # noqa: C901, PLR0912 - one flat list of cases
    single = _any_but(delimiters)
    out, index, depth = ["(?s)^"], 0, 0
    while index < len(pattern):
        char = pattern[index]
        index += 1
        if char == "*":
            if pattern[index : index + 1] == "*":
                while pattern[index : index + 1] == "*":
                    index += 1
                out.append(".*")
            else:
                out.append(single + "*")
        elif char == "?":
            out.append(single)
        elif char == "[":
            end = pattern.find("]", index + 1)
            if end < 0:
                raise BuiltinError("unexpected end of input in a character class")
            body = pattern[index:end]
            negated = body.startswith("!")
            body = body[negated:].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
            out.append("[" + ("^" if negated else "") + body + "]")
            index = end + 1
        elif char == "{":
            depth += 1
            out.append("(?:")
        elif char == "}" and depth:
            depth -= 1
            out.append(")")
        elif char == "," and depth:
            out.append("|")
        elif char == "\\":
            if index >= len(pattern):
                raise BuiltinError("unexpected end of input after `\\`")
            out.append(re2.escape(pattern[index]))
            index += 1
        else:
            out.append(re2.escape(char))
    if depth:
        raise BuiltinError("unbalanced `{`")
    return "".join(out) + "$"


@builtin("glob.match", 3)
def match(pattern: Any, delimiters: Any, text: Any) -> bool:
    """Whether the whole text matches."""
    glob, subject = want_string(pattern), want_string(text, 3)
    if delimiters is None:
        chars = ""
    else:
        parts = want_array(delimiters, 2)
        if any(type(part) is not str or len(part) != 1 for part in parts):
            raise operand_error(2, "array of single characters", delimiters)
        chars = "".join(parts) or "."
    # `$` would also match before a final new line; re2 has no such exception without (?m).
    return compiled(_expression(glob, chars)).search(subject) is not None


@builtin("glob.quote_meta", 1)
def quote_meta(pattern: Any) -> str:
    """The text with every special character escaped."""
    return "".join("\\" + char if char in "*?\\[]{}" else char for char in want_string(pattern))
