"""time.*: nanoseconds since 1970 in, the caller's `now_ns` as now.

Layouts are Go's (`2006-01-02T15:04:05Z07:00`). Zones are IANA names; `Local` is refused, a decision must not depend on the host.
Times are calculated on integers, so no nanosecond is lost. https://pkg.go.dev/time#pkg-constants
"""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta, tzinfo
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from policies.rego.builtins.layouts import LAYOUTS, format_time, parse_time
from policies.rego.builtins.registry import builtin, operand_error, want_integer, want_string
from policies.rego.errors import BuiltinError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_NS, MIN_NS = (1 << 63) - 1, -(1 << 63)


def zone(name: str) -> tzinfo:
    """Return a time zone."""
    if name in {"", "UTC"}:
        return UTC
    if name == "Local":
        raise BuiltinError("the zone of the host is refused")
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise BuiltinError(f"unknown time zone {name}") from error


def bounded(value: int) -> int:
    """Return nanoseconds that fit 64 bits."""
    if not MIN_NS <= value <= MAX_NS:
        raise BuiltinError("time outside of valid range")
    return value


def moment(value: Any, position: int = 1) -> tuple[datetime, int, str]:
    """Read `ns`, `[ns, zone]` or `[ns, zone, layout]`: the whole second in its zone, the nanoseconds after it, the layout."""
    name, layout = "UTC", ""
    if type(value) is list:
        if not 2 <= len(value) <= 3:
            raise operand_error(position, "either number (ns) or [number (ns), string (tz)]", value)
        name = want_string(value[1], position)
        layout = want_string(value[2], position) if len(value) == 3 else ""
        value = value[0]
    try:
        nanoseconds = want_integer(value, position)
    except BuiltinError as error:
        raise BuiltinError("timestamp is no integer", "eval_type_error") from error
    if not MIN_NS <= nanoseconds <= MAX_NS:
        raise BuiltinError("timestamp too big")
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return (_EPOCH + timedelta(seconds=seconds)).astimezone(zone(name)), rest, layout


def to_ns(when: datetime, rest: int) -> int:
    """Return nanoseconds since 1970."""
    delta = when - _EPOCH
    return bounded((delta.days * 86_400 + delta.seconds) * 1_000_000_000 + rest)


@builtin("time.now_ns", 0, context=True)
def now_ns(context: Any) -> int:
    """The caller's now."""
    return int(context.now_ns)


@builtin("time.parse_ns", 2)
def parse_ns(layout: Any, text: Any) -> int:
    """Read a time by a layout, or by the name of one (`RFC3339`)."""
    pattern = want_string(layout)
    when, rest = parse_time(LAYOUTS.get(pattern, pattern), want_string(text, 2))
    return to_ns(when, rest)


@builtin("time.parse_rfc3339_ns", 1)
def parse_rfc3339_ns(text: Any) -> int:
    """Read an RFC 3339 time."""
    when, rest = parse_time(LAYOUTS["RFC3339"], want_string(text))
    return to_ns(when, rest)


_DURATION = re.compile(r"([0-9]{1,60}+(?:\.[0-9]{0,60}+)?|\.[0-9]{1,60}+)(ns|us|µs|μs|ms|s|m|h)")
_MOST_DURATION_CHARS = 4_096
_UNIT_NS = {
    "ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip


@builtin("time.parse_duration_ns", 1)
def parse_duration_ns(text: Any) -> int:
    """Read a Go duration such as `1h15m`."""
    source = want_string(text)
    body = source[1:] if source[:1] in {"+", "-"} else source
    if body == "0":
        return 0
    if len(body) > _MOST_DURATION_CHARS:
        raise BuiltinError(f"invalid duration {source[:60]}")
    total, position = Fraction(0), 0
    while position < len(body):
        match = _DURATION.match(body, position)
        if match is None or match.end() - position > 60:
            raise BuiltinError(f"invalid duration {source[:60]}")
        total += Fraction(match.group(1)) * _UNIT_NS[match.group(2)]
        position = match.end()
    if not body:
        raise BuiltinError("invalid duration")
    return bounded(-int(total) if source.startswith("-") else int(total))


@builtin("time.date", 1)
def date(value: Any) -> list[int]:
    """[year, month, day]."""
    when, _, _ = moment(value)
    return [when.year, when.month, when.day]


@builtin("time.clock", 1)
def clock(value: Any) -> list[int]:
    """[hour, minute, second]."""
    when, _, _ = moment(value)
    return [when.hour, when.minute, when.second]


@builtin("time.weekday", 1)
def weekday(value: Any) -> str:
    """Name of the day."""
    when, _, _ = moment(value)
    return calendar.day_name[when.weekday()]


@builtin("time.format", 1)
def formatted(value: Any) -> str:
    """Text by a layout, RFC 3339 with nanoseconds if none is given."""
    when, rest, layout = moment(value)
    return format_time(when, rest, LAYOUTS.get(layout, layout) or LAYOUTS["RFC3339Nano"])


def shifted(when: datetime, years: int, months: int, days: int) -> datetime:
    """Return Go's `AddDate`: overflowing days roll into the next month; the wall clock is kept."""
    month_index = when.year * 12 + when.month - 1 + years * 12 + months
    year, month = divmod(month_index, 12)
    if not 1 <= year <= 9998:
        raise BuiltinError("time outside of valid range")
    first = when.replace(year=year, month=month + 1, day=1)
    try:
        return first + timedelta(days=when.day - 1 + days)
    except OverflowError as error:
        raise BuiltinError("time outside of valid range") from error


@builtin("time.add_date", 4)
def add_date(value: Any, years: Any, months: Any, days: Any) -> int:
    """The time moved by years, months and days."""
    when, rest, _ = moment(value)
    return to_ns(shifted(when, want_integer(years, 2), want_integer(months, 3), want_integer(days, 4)), rest)


@builtin("time.diff", 2)
def diff(left: Any, right: Any) -> list[int]:
    """[years, months, days, hours, minutes, seconds] between two times, the second taken to the zone of the first."""
    one, one_rest, _ = moment(left)
    other, other_rest, _ = moment(right, 2)
    other = other.astimezone(one.tzinfo)
    if (one, one_rest) > (other, other_rest):
        one, other, one_rest, other_rest = other, one, other_rest, one_rest
    parts = [
        other.year - one.year, other.month - one.month, other.day - one.day,
        other.hour - one.hour, other.minute - one.minute, other.second - one.second,
    ]  # fmt: skip
    for index, size in ((5, 60), (4, 60), (3, 24)):
        if parts[index] < 0:
            parts[index] += size
            parts[index - 1] -= 1
    if parts[2] < 0:
        parts[2] += calendar.monthrange(one.year, one.month)[1]
        parts[1] -= 1
    if parts[1] < 0:
        parts[1] += 12
        parts[0] -= 1
    return parts
