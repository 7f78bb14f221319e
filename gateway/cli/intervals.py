"""Intervals as pictures: a line of text for the terminal, a forest plot as SVG. Pure; 0, the line of no effect, is always in sight.

Example:
    >>> bar({"lower": -0.5, "upper": 1.5, "difference": 0.5}, (-1.0, 2.0))
    '      ├───┼─────●──────────┤    '
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH = 31
Span = tuple[float, float]


def scale(comparisons: Sequence[dict[str, Any]]) -> Span:
    """Range that shows every interval and 0, with a margin."""
    ends = [0.0] + [found[key] for found in comparisons for key in ("lower", "upper") if found[key] is not None]
    low, high = min(ends), max(ends)
    margin = (high - low) * 0.08 or 1.0
    return low - margin, high + margin


def bar(found: dict[str, Any], span: Span) -> str:
    """One interval as `WIDTH` characters: ends, estimate, and `┼` or `|` where 0 is."""
    cells = [" "] * WIDTH

    def at(value: float) -> int:
        return min(WIDTH - 1, max(0, round((value - span[0]) / (span[1] - span[0]) * (WIDTH - 1))))

    zero = at(0.0)
    cells[zero] = "|"
    if found["lower"] is not None:
        low, high = at(found["lower"]), at(found["upper"])
        for place in range(low, high + 1):
            cells[place] = "┼" if place == zero else "─"
        cells[low], cells[high] = "├", "┤"
        if found["difference"] is not None:
            cells[at(found["difference"])] = "●"
    return "".join(cells)


def intervals_svg(result: dict[str, Any]) -> str:
    """A forest plot of an analysis (`experiments.analysis.analyze`): one line a comparison, one scale a metric."""
    rows, left, width, height = result["comparisons"], 260, 420, 34
    spans = {found["metric"]: scale([other for other in rows if other["metric"] == found["metric"]]) for found in rows}
    total = 84 + height * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 260} {total}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{left + width + 260}" height="{total}" fill="#fff"/>',
        f'<text x="16" y="26" font-weight="600">Differences to the control, {100 - 100 * result["alpha"]:g} % intervals ({result["method"]})</text>',
    ]
    for number, found in enumerate(rows):
        low, high = spans[found["metric"]]
        middle = 62 + height * number

        def x(value: float, low: float = low, high: float = high) -> float:
            return left + (value - low) / (high - low) * width

        colour = {"higher": "#0b6e4f", "lower": "#a4243b"}.get(found["verdict"], "#55606e")
        parts.append(f'<text x="16" y="{middle + 4}">{escape(found["metric"])}: {escape(found["arm"])}</text>')
        parts.append(f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{middle - 15}" y2="{middle + 15}" stroke="#b8c0ca" stroke-dasharray="3 3"/>')
        if found["lower"] is not None:
            ends = f'x1="{x(found["lower"]):.1f}" x2="{x(found["upper"]):.1f}"'
            parts.append(f'<line {ends} y1="{middle}" y2="{middle}" stroke="{colour}" stroke-width="3"/>')
            parts.append(f'<circle cx="{x(found["difference"]):.1f}" cy="{middle}" r="5" fill="{colour}"/>')
            words = f"{found['difference']:+.3g} ({found['lower']:+.3g} to {found['upper']:+.3g})"
        else:
            words = found["verdict"]
        parts.append(f'<text x="{left + width + 14}" y="{middle + 4}">{escape(words)}</text>')
    parts.append(f'<text x="{left}" y="{total - 12}" fill="#55606e" font-size="12">dashed: no difference; every metric has its own scale</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
