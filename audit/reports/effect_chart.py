"""An effect with its interval over time, as SVG from integers: the picture people look at before they read.

Rules: the band is the interval that holds at all times, the line the difference seen, the solid level line no difference, the dashed one the margin.
The scale is that of the later looks; what the first, wide intervals have beyond it is cut at the edge. The numbers stand in the table beside it.

Example:
    effect_chart([{"time": "2026-11-20T10:00:00Z", "difference_ppm": -1200, "low_ppm": -9000, "high_ppm": 7000}, ...], margin_ppm=5000)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT = 1040, 180
_TOP, _BOTTOM, _LABELS = 8, 172, 20


def effect_chart(points: Sequence[dict[str, Any]], margin_ppm: int | None = None) -> Markup:
    """Draw one metric of one arm; empty below two looks.

    Args:
        points: oldest first, each with `time` (RFC 3339) and integers `difference_ppm`, `low_ppm`, `high_ppm`.
        margin_ppm: signed place of the margin, where there is one in these units.
    """
    points = [point for point in points if "low_ppm" in point]
    if len(points) < 2:
        return Markup("")
    reach = _reach(points, margin_ppm)
    times = [int(datetime.fromisoformat(point["time"]).timestamp() * 1e6) for point in points]
    span = max(times[-1] - times[0], 1)
    across = [(time - times[0]) * WIDTH // span for time in times]
    lows = [(x, _up(point["low_ppm"], reach)) for x, point in zip(across, points, strict=True)]
    highs = [(x, _up(point["high_ppm"], reach)) for x, point in zip(across, points, strict=True)]
    middles = [(x, _up(point["difference_ppm"], reach)) for x, point in zip(across, points, strict=True)]
    inside = f'<polygon class="interval" points="{_path([*highs, *reversed(lows)])}"/>'
    inside += f'<line class="track" x1="0" x2="{WIDTH}" y1="{_up(0, reach)}" y2="{_up(0, reach)}"/>'
    if margin_ppm is not None:
        y = _up(margin_ppm, reach)
        inside += (
            f'<line class="margin" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/><text class="axis" x="{WIDTH}" y="{y - 4}" text-anchor="end">margin</text>'
        )
    inside += f'<polyline class="effect" points="{_path(middles)}"/><circle class="point" cx="{middles[-1][0]}" cy="{middles[-1][1]}" r="4"/>'
    inside += f'<text class="axis" x="0" y="{_TOP + 6}">{_pp(reach)}</text><text class="axis" x="0" y="{_BOTTOM}">{_pp(-reach)}</text>'
    inside += f'<text class="axis" x="0" y="{_up(0, reach) - 4}">no difference</text>'
    for x, point, anchor in ((0, points[0], "start"), (WIDTH, points[-1], "end")):
        when = point["time"][5:16].replace("T", " ")
        inside += f'<text class="axis" x="{x}" y="{HEIGHT + 14}" text-anchor="{anchor}">{when}</text>'
    last = points[-1]
    told = f"Difference over time, last {_pp(last['difference_ppm'])}, interval {_pp(last['low_ppm'])} to {_pp(last['high_ppm'])}"
    return Markup(  # noqa: S704 - numbers and our own words only
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT + _LABELS}" role="img" aria-label="{told}"><title>{told}</title>{inside}</svg>'
    )


def _reach(points: Sequence[dict[str, Any]], margin_ppm: int | None) -> int:
    """Return the half-height of the scale in ppm: the intervals of the later half of the looks, and the margin, fit in."""
    later = points[len(points) // 2 :]
    widest: int = max(max(abs(point["low_ppm"]), abs(point["high_ppm"])) for point in later)
    reach: int = max(widest, abs(margin_ppm or 0) * 5 // 4, 100) * 21 // 20
    return reach


def _up(ppm: int, reach: int) -> int:
    held = max(-reach, min(reach, ppm))
    return _TOP + (_BOTTOM - _TOP) * (reach - held) // (2 * reach)


def _path(places: Sequence[tuple[int, int]]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)


def _pp(ppm: int) -> str:
    """Return a difference of rates in percentage points, from integers."""
    sign = "-" if ppm < 0 else "+" if ppm > 0 else ""
    hundredths = (abs(ppm) + 50) // 100
    return f"{sign}{hundredths // 100}.{hundredths % 100:02d} pp"
