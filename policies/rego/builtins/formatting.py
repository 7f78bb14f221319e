"""Go's `fmt.Sprintf` over Rego values: %v %s %d %f %e %g %t %q %x %X %o %b %c %U %T, flags, width, precision, `[n]`, `*`.

OPA hands integers over as integers, other numbers as float64, strings as strings, the rest as their Rego text.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

from policies.rego.errors import LimitError
from policies.rego.render import display, number_text, quote
from policies.rego.values import NUMBERS

_LARGEST_FLOAT: Final = Decimal("1.7976931348623157e308")
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
        piece = _pad(_format(verb, values[argument], flags, precision), flags, width, verb)
        size += len(piece)
        if size > limit:
            raise LimitError("text_chars", "a text made by sprintf")
        out.append(piece)
        argument += 1
    if not reordered and argument < len(values):
        extra = ", ".join(f"{_go_type(value)}={_format('v', value, '', None)}" for value in values[argument:])
        out.append(f"%!(EXTRA {extra})")
    return "".join(out)


def _star(values: list[Any], index: int) -> int | None:
    return values[index] if index < len(values) and type(values[index]) is int else None


def _go_type(value: Any) -> str:
    if type(value) is int:
        return "int64" if value.bit_length() < 64 else "*big.Int"
    return "float64" if type(value) in NUMBERS else "string"


def _pad(text: str, flags: str, width: int | None, verb: str) -> str:
    if width is None or len(text) >= abs(width):
        return text
    if "-" in flags or width < 0:
        return text.ljust(abs(width))
    if "0" in flags and verb not in "sqvT":
        sign = text[:1] if text[:1] in "+-" else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    if "0" in flags:
        return text.rjust(width, "0")
    return text.rjust(width)


def _format(verb: str, value: Any, flags: str, precision: int | None) -> str:
    kind = type(value)
    if verb == "T":
        return _go_type(value)
    if kind in NUMBERS:
        if kind is Decimal and abs(value) > _LARGEST_FLOAT and verb in "vs":
            return number_text(value)
        if kind is int:
            return _integer(verb, value, flags)
        return _float(verb, float(value), flags, precision)
    return _text(verb, display(value), flags, precision)


def _integer(verb: str, value: int, flags: str) -> str:  # noqa: PLR0911 - one flat list of cases
    sign = "-" if value < 0 else ("+" if "+" in flags else (" " if " " in flags else ""))
    size = abs(value)
    if verb in "dv":
        return sign + str(size)
    if verb in "xX":
        return sign + ("0" + verb if "#" in flags else "") + format(size, verb)
    if verb == "o":
        return sign + ("0" if "#" in flags else "") + format(size, "o")
    if verb == "O":
        return sign + "0o" + format(size, "o")
    if verb == "b":
        return sign + ("0b" if "#" in flags else "") + format(size, "b")
    if verb == "c":
        return chr(value) if 0 <= value <= 0x10FFFF else "\ufffd"
    if verb == "U":
        return f"U+{value:04X}"
    if verb == "q":
        return "'" + (chr(value) if 0 <= value <= 0x10FFFF else "\ufffd") + "'"
    if verb == "s" and value.bit_length() > 63:
        return str(value)
    return f"%!{verb}({_go_type(value).lstrip('*')}={value})"


def _float(verb: str, value: float, flags: str, precision: int | None) -> str:
    sign = "+" if "+" in flags and value >= 0 else (" " if " " in flags and value >= 0 else "")
    if verb in "fF":
        return sign + f"{value:.{6 if precision is None else precision}f}"
    if verb in "eE":
        return sign + _exponent(f"{value:.{6 if precision is None else precision}{verb}}")
    if verb in "gGv":
        if precision is not None:
            return sign + _exponent(f"{value:.{max(precision, 1)}g}")
        return sign + go_float(value, 21)
    if verb in "xX":
        text = re.sub(r"\.?0*p([-+])(\d)$", r"p\g<1>0\2", value.hex().replace(".0000000000000p", "p"))
        return text.upper() if verb == "X" else text
    return f"%!{verb}(float64={go_float(value, 21)})"


def _exponent(text: str) -> str:
    return text


def go_float(value: float, threshold: int) -> str:
    """Return the shortest text of a float as Go's `%v` prints it: exponent below -4 or from `threshold` on."""
    if value == 0:
        return "0"
    digits, exponent = f"{value!r}", 0
    mantissa, _, power = digits.lower().partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, rest = mantissa.lstrip("-").partition(".")
    rest = "" if rest == "0" else rest
    exponent = int(power or 0) + len(whole) - 1
    figures = (whole + rest).lstrip("0")
    if whole.strip("0") == "":
        exponent = int(power or 0) - (len(rest) - len(rest.lstrip("0"))) - 1
    figures = figures.rstrip("0") or "0"
    if exponent < -4 or exponent >= threshold:
        body = figures[0] + ("." + figures[1:] if len(figures) > 1 else "")
        return f"{sign}{body}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return sign + "0." + "0" * (-exponent - 1) + figures
    if len(figures) <= exponent + 1:
        return sign + figures + "0" * (exponent + 1 - len(figures))
    return sign + figures[: exponent + 1] + "." + figures[exponent + 1 :]


def _text(verb: str, value: str, flags: str, precision: int | None) -> str:
    if precision is not None and verb in "vsq":
        value = value[:precision]
    if verb in "vs":
        return value
    if verb == "q":
        return "`" + value + "`" if "#" in flags and "`" not in value else quote(value)
    if verb in "xX":
        text = value.encode().hex()
        return text.upper() if verb == "X" else text
    return f"%!{verb}(string={value})"
