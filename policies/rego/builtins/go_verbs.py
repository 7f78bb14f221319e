"""How Go prints one value under one verb: integers, big integers, floats, text, and the complaint about a verb that does not fit.

After `fmt/format.go`, `fmt/print.go`, `strconv/ftoa.go` and `math/big/intconv.go` of the Go that OPA is built with. A bad verb prints the value
under `%v` with the same flags inside `%!d(float64=...)`.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, Self

from policies.rego.render import display, number_text
from policies.rego.values import NUMBERS

_LARGEST_FLOAT: Final = Decimal("1.7976931348623157e308")
_BASES: Final = {"d": 10, "v": 10, "b": 2, "o": 8, "O": 8, "x": 16, "X": 16}
_PREFIXES: Final = {"b": "0b", "o": "0", "x": "0x", "X": "0X"}
_ESCAPES: Final = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\"}


@dataclass(frozen=True, slots=True)
class Spec:
    """Flags, width and precision of a verb."""

    minus: bool = False
    plus: bool = False
    sharp: bool = False
    space: bool = False
    zero: bool = False
    width: int | None = None
    precision: int | None = None

    @classmethod
    def of(cls, flags: str, width: int | None, precision: int | None) -> Self:
        """Read flags; a negative width from `*` is a minus flag, a negative precision is none."""
        minus = "-" in flags or (width is not None and width < 0)
        return cls(
            minus, "+" in flags, "#" in flags, " " in flags, "0" in flags, None if width is None else abs(width),
            None if precision is None or precision < 0 else precision,
        )  # fmt: skip

    def pad(self, text: str, *, zeros: bool = True) -> str:
        """Fill to the width; zeros go to the left only."""
        if self.width is None or len(text) >= self.width:
            return text
        if self.minus:
            return text.ljust(self.width)
        return text.rjust(self.width, "0" if self.zero and zeros else " ")


def go_type(value: Any) -> str:
    """Return the name of the Go type a value is handed over as."""
    if type(value) is int:
        return "int64" if -(2**63) <= value < 2**63 else "*big.Int"
    return "float64" if type(value) in NUMBERS else "string"


def formatted(verb: str, value: Any, spec: Spec) -> str:
    """Return a value under a verb."""
    if verb == "T":
        return _string("s", go_type(value), spec)
    if verb in "vw" and go_type(value) != "*big.Int":
        # Under %v `#` asks for Go's syntax and `+` for field names: neither is the flag of other verbs.
        plain = replace(spec, plus=False, sharp=False)
        if spec.sharp and go_type(value) == "string":
            text = _printed("q", value, plain)
            return text if verb == "v" else f"%!w(string={text})"
        return _printed(verb, value, plain)
    return _printed(verb, value, spec)


def _printed(verb: str, value: Any, spec: Spec) -> str:
    kind = type(value)
    if kind is int:
        return _integer(verb, value, spec) if go_type(value) == "int64" else _big(verb, value, spec)
    if kind in NUMBERS:
        if kind is Decimal and abs(value) > _LARGEST_FLOAT:
            return _string(verb, number_text(value), spec)
        return _float(verb, float(value), spec)
    return _string(verb, display(value), spec)


def _bad(verb: str, value: Any, spec: Spec) -> str:
    return f"%!{verb}({go_type(value)}={_printed('v', value, spec)})"


# --- integers --------------------------------------------------------------------------------------------------------


def _integer(verb: str, value: int, spec: Spec) -> str:
    if verb in _BASES:
        return _digits(verb, value, spec)
    if verb == "c":
        return spec.pad(_rune(value))
    if verb == "q":
        return spec.pad(_quoted(_rune(value), "'", ascii_only=spec.plus))
    if verb == "U":
        return _unicode(value % 2**64, spec)
    return _bad(verb, value, spec)


def _sign(value: float, spec: Spec) -> str:
    return "-" if value < 0 else ("+" if spec.plus else (" " if spec.space else ""))


def _in_base(verb: str, value: int) -> str:
    base = _BASES[verb]
    if base == 10:
        return str(abs(value))
    return format(abs(value), {2: "b", 8: "o", 16: "X" if verb == "X" else "x"}[base])


def _digits(verb: str, value: int, spec: Spec) -> str:
    """An int64: zeros come from the precision, or from the width where there is none."""
    sign, wanted = _sign(value, spec), 0
    if spec.precision is not None:
        wanted = spec.precision
        if wanted == 0 and value == 0:
            return " " * (spec.width or 0)
    elif spec.zero and not spec.minus and spec.width is not None:
        wanted = spec.width - len(sign)
    text = _in_base(verb, value).rjust(wanted, "0")
    if verb == "O":
        text = ("0o0" if spec.sharp and not text.startswith("0") else "0o") + text
    elif spec.sharp and verb in _PREFIXES and not (verb == "o" and text.startswith("0")):
        text = _PREFIXES[verb] + text
    return spec.pad(sign + text, zeros=False)


def _big(verb: str, value: int, spec: Spec) -> str:
    """A big.Int, which formats itself."""
    if verb == "w":
        return f"%!w(*big.Int={value})"
    if verb not in _BASES and verb != "s":
        return f"%!{verb}(big.Int={value})"
    sign, text = _sign(value, spec), _in_base("d" if verb == "s" else verb, value)
    prefix = "0o" if verb == "O" else (_PREFIXES.get(verb, "") if spec.sharp else "")
    text = text.rjust(spec.precision or 0, "0")
    if spec.width is not None and spec.zero and not spec.minus and spec.precision is None:
        text = text.rjust(spec.width - len(sign) - len(prefix), "0")
    return spec.pad(sign + prefix + text, zeros=False)


def _rune(value: int) -> str:
    return chr(value) if 0 <= value <= 0x10FFFF and not 0xD800 <= value <= 0xDFFF else "\ufffd"


def _is_printed(char: str) -> bool:
    return char == " " or unicodedata.category(char)[0] in "LMNPS"


def _quoted(text: str, quote: str, *, ascii_only: bool) -> str:
    """strconv.Quote, strconv.QuoteRune."""
    return quote + "".join(_escaped(char, quote, ascii_only=ascii_only) for char in text) + quote


def _escaped(char: str, quote: str, *, ascii_only: bool) -> str:
    code = ord(char)
    if char == quote:
        return "\\" + char
    if char in _ESCAPES:
        return _ESCAPES[char]
    if _is_printed(char) and (code < 0x7F or not ascii_only):
        return char
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _unicode(code: int, spec: Spec) -> str:
    text = "U+" + format(code, "X").rjust(max(spec.precision or 0, 4), "0")
    if spec.sharp and code <= 0x10FFFF and _is_printed(chr(code)):
        text += f" '{chr(code)}'"
    return spec.pad(text, zeros=False)


# --- floats ------------------------------------------------------------------------------------------------------------


def _float(verb: str, value: float, spec: Spec) -> str:
    """Format, restore what `#` asks for, then sign and padding."""
    if verb not in "vbgGxXfFeE":
        return _bad(verb, value, spec)
    small = "g" if verb == "v" else ("f" if verb == "F" else verb)
    precision = spec.precision if spec.precision is not None else (6 if small in "feE" else -1)
    text = _float_text(small, abs(value), precision)
    if spec.sharp and small != "b":
        text = _sharp(small, text, precision)
    sign = "-" if math.copysign(1, value) < 0 else ("+" if spec.plus else (" " if spec.space else ""))
    if sign and spec.zero and not spec.minus and spec.width is not None:
        return sign + text.rjust(spec.width - 1, "0")
    return spec.pad(sign + text)


def _float_text(verb: str, value: float, precision: int) -> str:
    """strconv.FormatFloat of a value that is not negative."""
    if verb == "b":
        mantissa, exponent = math.frexp(value)
        if value == 0 or exponent < -1021:
            return f"{round(value * 2.0**1023 * 2.0**51)}p-1074"
        return f"{int(mantissa * 2**53)}p{exponent - 53:+d}"
    if verb in "xX":
        text = _hexadecimal(value, precision)
        return text.upper() if verb == "X" else text
    if verb == "f":
        return f"{value:.{precision}f}"
    if verb in "eE":
        return f"{value:.{precision}{verb}}"
    text = _general(value, precision)
    return text.upper() if verb == "G" else text


def _general(value: float, precision: int) -> str:
    """%g: as many digits as needed, or `precision`; an exponent below -4 and from the precision on (6 for the shortest form)."""
    if value == 0:
        return "0"
    if precision < 0:
        figures, exponent = _figures(repr(value))
        threshold = 6
    else:
        figures, exponent = _figures(f"{value:.{max(precision, 1) - 1}e}")
        threshold = max(precision, 1)
        if threshold > len(figures) > exponent:
            threshold = len(figures)
    if exponent < -4 or exponent >= threshold:
        body = figures[0] + ("." + figures[1:] if len(figures) > 1 else "")
        return f"{body}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + figures
    whole = figures.ljust(exponent + 1, "0")
    return whole[: exponent + 1] + ("." + whole[exponent + 1 :] if len(whole) > exponent + 1 else "")


def _figures(text: str) -> tuple[str, int]:
    """Return the significant digits of a positive decimal and the exponent of the first."""
    mantissa, _, power = text.lower().partition("e")
    whole, _, rest = mantissa.partition(".")
    digits = whole + rest
    figures = digits.lstrip("0")
    exponent = int(power or 0) + len(whole) - 1 - (len(digits) - len(figures))
    return figures.rstrip("0") or "0", exponent


def _hexadecimal(value: float, precision: int) -> str:
    """%x: one digit, a fraction, a binary exponent."""
    if value == 0:
        return "0x0" + ("." + "0" * precision if precision > 0 else "") + "p+00"
    mantissa, exponent = math.frexp(value)
    whole, exponent = int(mantissa * 2**53), exponent - 1
    if 0 <= precision < 13:
        drop = 4 * (13 - precision)
        whole, rest = whole >> drop, whole & ((1 << drop) - 1)
        half = 1 << (drop - 1)
        whole += rest > half or (rest == half and whole & 1)
        if whole >> (4 * precision + 1):
            whole, exponent = whole >> 1, exponent + 1
        digits, first = format(whole, "x"), whole >> (4 * precision)
        fraction = digits[len(digits) - precision :] if precision else ""
        head = format(first, "x")
    else:
        text = format(whole, "x").rjust(14, "0")
        head, fraction = text[0], text[1:]
        fraction = fraction.rstrip("0") if precision < 0 else fraction.ljust(precision, "0")
    return f"0x{head}{'.' + fraction if fraction else ''}p{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _sharp(verb: str, text: str, precision: int) -> str:
    """Put a decimal point, and the zeros that %g leaves out."""
    digits = (6 if precision == -1 else precision) if verb in "gGx" else 0
    stop = next((index for index, char in enumerate(text) if char in "pP" or (char in "eE" and verb not in "xX")), len(text))
    number, tail = text[:stop], text[stop:]
    seen = False
    for char in number:
        if char == ".":
            continue
        seen = seen or char != "0"
        digits -= seen
    if "." not in number:
        digits -= number == "0"
        number += "."
    return number + "0" * max(digits, 0) + tail


# --- text --------------------------------------------------------------------------------------------------------------


def _string(verb: str, value: str, spec: Spec) -> str:
    if verb not in "vsxXq":
        # The complaint shows the text under %v, which cuts it at the precision.
        return f"%!{verb}(string={_string('v', value, spec)})"
    if verb in "xX":
        return _hex_text(verb, value, spec)
    if spec.precision is not None:
        value = value[: spec.precision]
    if verb == "q":
        if spec.sharp and "`" not in value and all(char == "\t" or (ord(char) >= 0x20 and char not in "\x7f\ufeff") for char in value):
            return spec.pad("`" + value + "`")
        return spec.pad(_quoted(value, '"', ascii_only=spec.plus))
    return spec.pad(value)


def _hex_text(verb: str, value: str, spec: Spec) -> str:
    """Bytes in hexadecimal; a space flag sets them apart, `#` marks each group."""
    data = value.encode("utf-8", "replace")
    if spec.precision is not None:
        data = data[: spec.precision]
    pairs = [format(byte, "02" + verb) for byte in data]
    mark = "0" + verb if spec.sharp and pairs else ""
    text = (" " + mark).join(pairs) if spec.space else "".join(pairs)
    return spec.pad(mark + text)
