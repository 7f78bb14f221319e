"""Go's time layouts, to parse and to format (pkg.go.dev/time#Layout)."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from policies.rego.errors import BuiltinError

LAYOUTS: Final = {
    "ANSIC": "Mon Jan _2 15:04:05 2006",
    "UnixDate": "Mon Jan _2 15:04:05 MST 2006",
    "RubyDate": "Mon Jan 02 15:04:05 -0700 2006",
    "RFC822": "02 Jan 06 15:04 MST",
    "RFC822Z": "02 Jan 06 15:04 -0700",
    "RFC850": "Monday, 02-Jan-06 15:04:05 MST",
    "RFC1123": "Mon, 02 Jan 2006 15:04:05 MST",
    "RFC1123Z": "Mon, 02 Jan 2006 15:04:05 -0700",
    "RFC3339": "2006-01-02T15:04:05Z07:00",
    "RFC3339Nano": "2006-01-02T15:04:05.999999999Z07:00",
}
_PIECE: Final = re.compile(
    r"January|Jan|Monday|Mon|MST|2006|Z07:00:00|Z07:00|Z0700|Z07|-07:00:00|-07:00|-0700|-07|[.,]0+(?![0-9])|[.,]9+(?![0-9])"
    r"|002|01|02|03|04|05|06|15|_2|PM|pm|1|2|3|4|5"
)
_MONTHS, _DAYS = list(calendar.month_name), list(calendar.day_name)
# What has two lengths takes the longer one and keeps it, as in Go: given back, thirty fields in a row would be tried in 2^30 ways.
_PATTERNS: Final = {
    "January": "(" + "|".join(_MONTHS[1:]) + ")",
    "Jan": "(" + "|".join(name[:3] for name in _MONTHS[1:]) + ")",
    "Monday": "(?:" + "|".join(_DAYS) + ")",
    "Mon": "(?:" + "|".join(name[:3] for name in _DAYS) + ")",
    "MST": "([A-Z]{3,4}+|[+-][0-9]{2,4}+)",
    "2006": "([0-9]{4})", "06": "([0-9]{2})", "01": "([0-9]{2})", "1": "([0-9]{1,2}+)", "02": "([0-9]{2})", "2": "([0-9]{1,2}+)",
    "_2": "( ?+[0-9]{1,2}+)", "15": "([0-9]{2})", "03": "([0-9]{2})", "3": "([0-9]{1,2}+)", "04": "([0-9]{2})", "4": "([0-9]{1,2}+)",
    "05": "([0-9]{2})", "5": "([0-9]{1,2}+)", "PM": "(AM|PM)", "pm": "(am|pm)", "002": "([0-9]{3})",
    "Z07:00": "(Z|[+-][0-9]{2}:[0-9]{2})", "Z0700": "(Z|[+-][0-9]{4})", "Z07": "(Z|[+-][0-9]{2})", "-07:00": "([+-][0-9]{2}:[0-9]{2})",
    "-0700": "([+-][0-9]{4})", "-07": "([+-][0-9]{2})", "Z07:00:00": "(Z|[+-][0-9]{2}:[0-9]{2}:[0-9]{2})",
    "-07:00:00": "([+-][0-9]{2}:[0-9]{2}:[0-9]{2})",
}  # fmt: skip


def _pieces(layout: str) -> list[tuple[bool, str]]:
    """Split a layout into (is a field, text)."""
    if len(layout) > 200:
        raise BuiltinError("layout is too long")
    found: list[tuple[bool, str]] = []
    position = 0
    for match in _PIECE.finditer(layout):
        if match.start() > position:
            found.append((False, layout[position : match.start()]))
        found.append((True, match.group()))
        position = match.end()
    found.append((False, layout[position:]))
    return found


def parse_time(layout: str, text: str) -> tuple[datetime, int]:
    """Read a text by a layout: the whole second with its zone, and the nanoseconds after it.

    Raises:
        BuiltinError: it does not fit, or is no date.
    """
    pattern, fields = "", []
    for is_field, piece in _pieces(layout):
        if not is_field:
            pattern += re.escape(piece)
        elif piece[0] in ".,":
            pattern += f"[.,]([0-9]{{{len(piece) - 1}}})" if piece[1] == "0" else "(?:[.,]([0-9]++))?+"
            fields.append("fraction")
        else:
            pattern += _PATTERNS[piece]
            if piece not in {"Mon", "Monday"}:
                fields.append(piece)
            # Go reads a fraction after the seconds even if the layout has none.
            if piece in {"05", "5"} and "." not in layout and "," not in layout:
                pattern += "(?:[.,]([0-9]++))?+"
                fields.append("fraction")
    match = re.fullmatch(pattern, text[:400])
    if match is None:
        raise BuiltinError(f"parsing time {text[:60]!r} as {layout!r}: cannot parse")
    return _assemble(dict(zip(fields, match.groups(), strict=True)))


def _assemble(found: dict[str, Any]) -> tuple[datetime, int]:
    def pick(*names: str) -> str | None:
        return next((found[name] for name in names if found.get(name) is not None), None)

    year = int(pick("2006") or 0)
    short = pick("06")
    if short is not None:
        year = int(short) + (1900 if int(short) >= 69 else 2000)
    month_name = pick("January", "Jan")
    month = [name[:3] for name in _MONTHS].index(month_name[:3]) if month_name else int(pick("01", "1") or 1)
    day = int((pick("02", "2", "_2") or "1").strip())
    hour = int(pick("15", "03", "3") or 0)
    half = (pick("PM", "pm") or "").upper()
    hour = hour % 12 + (12 if half == "PM" else 0) if half else hour
    fraction = (pick("fraction") or "")[:9]
    try:
        # Year 0, Go's default, is before Python's calendar; such a time is outside the valid range anyway.
        when = datetime(year, month, day, hour, int(pick("04", "4") or 0), int(pick("05", "5") or 0), tzinfo=_offset(found))
    except (ValueError, OverflowError) as error:
        raise BuiltinError(f"time out of range: {error}") from error
    return when, int(fraction.ljust(9, "0")) if fraction else 0


def _offset(found: dict[str, Any]) -> timezone:
    for name, text in found.items():
        if text and (name.startswith(("Z07", "-07")) or (name == "MST" and text[0] in "+-")) and text != "Z":
            digits = text[1:].replace(":", "")
            seconds = int(digits[:2]) * 3600 + int(digits[2:4] or 0) * 60 + int(digits[4:6] or 0)
            if seconds >= 86_400:
                raise BuiltinError("zone offset out of range")
            return timezone(timedelta(seconds=-seconds if text[0] == "-" else seconds))
    return UTC


def format_time(when: datetime, rest: int, layout: str) -> str:
    """Return a time as text."""
    return "".join(_field(piece, when, rest) if is_field else piece for is_field, piece in _pieces(layout))


def _field(piece: str, when: datetime, rest: int) -> str:
    if piece[0] in ".,":
        digits = f"{rest:09d}"[: len(piece) - 1]
        if piece[1] == "0":
            return piece[0] + digits
        digits = digits.rstrip("0")
        return piece[0] + digits if digits else ""
    if piece[:3] in {"Z07", "-07"}:
        return _zone_text(piece, when)
    hour = when.hour % 12 or 12
    texts = {
        "January": _MONTHS[when.month], "Jan": _MONTHS[when.month][:3], "Monday": _DAYS[when.weekday()],
        "Mon": _DAYS[when.weekday()][:3], "MST": when.tzname() or "UTC", "2006": f"{when.year:04d}", "06": f"{when.year % 100:02d}",
        "01": f"{when.month:02d}", "1": str(when.month), "02": f"{when.day:02d}", "2": str(when.day), "_2": f"{when.day:2d}",
        "15": f"{when.hour:02d}", "03": f"{hour:02d}", "3": str(hour), "04": f"{when.minute:02d}", "4": str(when.minute),
        "05": f"{when.second:02d}", "5": str(when.second), "PM": "PM" if when.hour >= 12 else "AM",
        "pm": "pm" if when.hour >= 12 else "am", "002": f"{when.timetuple().tm_yday:03d}",
    }  # fmt: skip
    return texts[piece]


def _zone_text(piece: str, when: datetime) -> str:
    offset = when.utcoffset() or timedelta(0)
    seconds = int(offset.total_seconds())
    if piece[0] == "Z" and seconds == 0:
        return "Z"
    sign, seconds = ("-" if seconds < 0 else "+"), abs(seconds)
    hours, minutes = f"{seconds // 3600:02d}", f"{seconds // 60 % 60:02d}"
    if piece.endswith("07"):
        return sign + hours
    if piece.endswith(":00:00"):
        return f"{sign}{hours}:{minutes}:{seconds % 60:02d}"
    return sign + hours + (":" if ":" in piece else "") + minutes
