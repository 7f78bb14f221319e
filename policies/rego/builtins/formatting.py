"""Go's `fmt.Sprintf` over Rego values: %v %s %d %f %e %g %t %q %x %X %o %O %b %c %U %T, flags, width, precision, `[n]`, `*`.

OPA hands integers over as int64 or big.Int, other numbers as float64, strings as strings, the rest as their Rego text. How each of them is
printed stands in `go_verbs`.
"""

from __future__ import annotations

import re
from typing import Any

from policies.rego.builtins.go_verbs import Spec, formatted, go_type
from policies.rego.errors import LimitError

_VERB = re.compile(r"%([-+# 0]*)(\[[0-9]+\])?(\*|[0-9]*)(?:\.(\[[0-9]+\])?(\*|[0-9]*))?(\[[0-9]+\])?(.?)", re.DOTALL)


def sprintf_text(template: str, values: list[Any], limit: int) -> str:  # noqa: C901, PLR0912 - one flat list of cases
    """Return the formatted text."""
    out: list[str] = []
    position = argument = 0
    reordered = False
    size = 0
    while True:
        found = template.find("%", position)
        if found < 0:
            out.append(template[position:])
            break
        out.append(template[position:found])
        match = _VERB.match(template, found)
        if match is None:
            out.append("%!(NOVERB)")
            break
        flags, index1, width_text, index2, precision_text, index3, verb = match.groups()
        position = match.end()
        for index in (index1, index2, index3):
            if index:
                argument, reordered = int(index[1:-1]) - 1, True
        width = precision = None
        if width_text == "*":
            width, argument = _star(values, argument), argument + 1
        elif width_text:
            width = int(width_text)
        if precision_text == "*":
            precision, argument = _star(values, argument), argument + 1
        elif precision_text is not None:
            precision = int(precision_text or 0)
        if (width or 0) > limit or (precision or 0) > min(limit, 10_000):
            raise LimitError("text_chars", "a width or precision in sprintf")
        if verb == "%":
            out.append("%")
            continue
        if not verb:
            out.append("%!(NOVERB)")
            continue
        if not 0 <= argument < len(values):
            out.append(f"%!{verb}(BADINDEX)" if reordered and not 0 <= argument < len(values) and index1 else f"%!{verb}(MISSING)")
            continue
        piece = formatted(verb, values[argument], Spec.of(flags, width, precision))
        size += len(piece)
        if size > limit:
            raise LimitError("text_chars", "a text made by sprintf")
        out.append(piece)
        argument += 1
    if not reordered and argument < len(values):
        extra = ", ".join(f"{go_type(value)}={formatted('v', value, Spec())}" for value in values[argument:])
        out.append(f"%!(EXTRA {extra})")
    return "".join(out)


def _star(values: list[Any], index: int) -> int | None:
    return values[index] if index < len(values) and type(values[index]) is int else None
