"""Numbers as people read them, from integers only.

Example:
    >>> decimal3(873_210), count(873), share(3, 8)
    ('0.873', '873', 375000)
"""

from __future__ import annotations

from typing import Any

THIN = "\u202f"
"""Narrow no-break space between groups of three digits."""
NO_BREAK = "\u00a0"
"""Between a number and its unit."""


def count(value: int) -> str:
    """12345 -> `12 345`."""
    return f"{value:,}".replace(",", THIN)


def percent(ppm: int) -> str:
    """Parts per million with one decimal; two below 1 % and above 99 %, so that 0.04 % does not read as nothing."""
    decimals = 1 if 10_000 <= ppm <= 990_000 or ppm in {0, 1_000_000} else 2
    return f"{_fixed(ppm, 10_000, decimals)}{NO_BREAK}%"


def rate(ppm: int | None, effect: dict[str, Any]) -> str:
    """A metric's value in its own unit: a rate as a percentage, a value as a number with three decimals, small ones with up to six."""
    if ppm is None:
        return "\u2013"
    return decimal(ppm) if effect.get("unit") == "value" else f"{_fixed(ppm, 10_000, 2)}{NO_BREAK}%"


def gap(ppm: int | None, effect: dict[str, Any]) -> str:
    """A difference in a metric's own unit, with its sign: percentage points of a rate, else a number."""
    if ppm is None:
        return "\u2013"
    sign = "+" if ppm > 0 else "\u2212" if ppm < 0 else ""
    return f"{sign}{decimal(abs(ppm))}" if effect.get("unit") == "value" else f"{sign}{_fixed(abs(ppm), 10_000, 2)}{NO_BREAK}pp"


def milli(value: int) -> str:
    """Thousandths as a number with one decimal."""
    sign = "\u2212" if value < 0 else ""
    return f"{sign}{_fixed(abs(value), 1_000, 1)}"


def decimal3(ppm: int) -> str:
    """Parts per million as a number with three decimals."""
    return _fixed(ppm, 1_000_000, 3)


def decimal(ppm: int) -> str:
    """As `decimal3`, but that small numbers keep their digits: the cost of a thousand short calls is a hundredth of a cent."""
    return decimal3(ppm) if abs(ppm) >= 100_000 or ppm == 0 else _fixed(ppm, 1_000_000, 6).rstrip("0")


def duration_us(value: int | None) -> str:
    """Microseconds in the unit that reads best."""
    if value is None:
        return "\u2013"
    if value < 1_000:
        return f"{value}{NO_BREAK}µs"
    if value < 1_000_000:
        return f"{_fixed(value, 1_000, 1 if value < 100_000 else 0)}{NO_BREAK}ms"
    return f"{_fixed(value, 1_000_000, 1)}{NO_BREAK}s"


def duration_s(value: int | None) -> str:
    """Seconds in the unit that reads best."""
    if value is None:
        return "\u2013"
    for limit, unit_s, name in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if value < limit:
            return f"{_fixed(value, unit_s, 0)}{NO_BREAK}{name}"
    return f"{_fixed(value, 86_400, 1)}{NO_BREAK}d"


def share(part: int, whole: int) -> int:
    """Part of a whole in ppm; 0 of nothing is 0."""
    return part * 1_000_000 // whole if whole else 0


def when(time: str | None) -> str:
    """A record's time to the second, in UTC."""
    return "\u2013" if not time else f"{time[:10]} {time[11:19]} UTC"


STATES = {"insufficient_evidence": "insufficient evidence", "not_identified": "not identified", "not_applicable": "not applicable"}


NOT_PERCENT = frozenset({"brier", "auroc"})
"""Metrics that are read as numbers between 0 and 1."""


def ratio(ppm: int, name: str) -> str:
    """A metric's ppm the way that metric is read."""
    return decimal3(ppm) if name in NOT_PERCENT else percent(ppm)


def metric(value: dict[str, Any], *, as_percent: bool = True) -> str:
    """Point of a metric, or the words for why there is none."""
    if value["state"] != "estimated":
        return STATES[value["state"]]
    return percent(value["value_ppm"]) if as_percent else decimal3(value["value_ppm"])


def interval(value: dict[str, Any], *, as_percent: bool = True) -> str:
    """Interval, or worst-case bounds, of a metric; empty when there are none."""
    if "low_ppm" not in value:
        return ""
    form = percent if as_percent else decimal3
    words = f"{form(value['low_ppm'])} \u2013 {form(value['high_ppm'])}"
    return f"bounds {words}" if value["state"] == "not_identified" else words


def _fixed(value: int, unit: int, decimals: int) -> str:
    scale = 10**decimals
    sign, scaled = "-" if value < 0 else "", (abs(value) * scale * 2 + unit) // (2 * unit)
    whole, rest = divmod(scaled, scale)
    return f"{sign}{count(whole)}" + (f".{rest:0{decimals}d}" if decimals else "")
