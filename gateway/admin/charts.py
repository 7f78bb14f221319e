"""Charts as SVG text: no script, no fonts of their own, colours from the page's style sheet by class."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from gateway.admin.traffic import Second

_WIDTH: Final = 720
_HEIGHT: Final = 160
_RIGHT: Final = 80
"""Room for the numbers at the right edge; on a narrow screen they are drawn larger."""


def traffic_chart(history: Sequence[Second], span_s: int) -> str:
    """Return stacked columns of served, refused and failed calls a second; an empty chart says so.

    Args:
        history: seconds, oldest first.
        span_s: width of the chart in seconds; the newest second stands at its right edge.
    """
    if not history:
        return '<p class="quiet">No traffic seen yet.</p>'
    top = max(second.served + second.refused + second.failed for second in history)
    nice = _nice(max(2, top))
    columns = "".join(_column(second, _WIDTH - (history[-1].at_s - second.at_s + 1) * _WIDTH / span_s, _WIDTH / span_s, nice) for second in history)
    lines = "".join(
        f'<line class="grid" x1="0" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/><text class="tick" x="{_WIDTH + 6}" y="{y + 4:.1f}">{value:,}</text>'
        for y, value in ((0.5, nice), (_HEIGHT / 2, nice // 2), (_HEIGHT - 0.5, 0))
    )
    now = history[-1]
    told = (
        f"Calls a second over the last {span_s // 60} minutes. Most in one second: {top:,}. "
        f"Last second: {now.served:,} served, {now.refused:,} refused, {now.failed:,} failed."
    )
    return (
        f'<svg viewBox="0 -18 {_WIDTH + _RIGHT} {_HEIGHT + 46}" role="img" aria-label="{escape(told)}">{lines}{columns}'
        f'<text class="tick" x="0" y="{_HEIGHT + 22}">{span_s // 60} min ago</text>'
        f'<text class="tick" x="{_WIDTH}" y="{_HEIGHT + 22}" text-anchor="end">now</text></svg>'
    )


def _column(second: Second, x: float, width: float, top: int) -> str:
    """Return one second's rectangles, served at the bottom."""
    parts, base = [], float(_HEIGHT)
    for kind, count in (("served", second.served), ("refused", second.refused), ("failed", second.failed)):
        height = count / top * _HEIGHT
        if height > 0:
            base -= height
            parts.append(f'<rect class="{kind}" x="{x:.1f}" y="{base:.1f}" width="{width:.2f}" height="{height:.1f}"/>')
    return "".join(parts)


def _nice(value: int) -> int:
    """Return the smallest of 2, 4, 6, 8, 10, 20, 40 ... that is not below `value`: its half is a whole number."""
    scale = 1
    while True:
        for factor in (2, 4, 6, 8, 10):
            if factor * scale >= value:
                return factor * scale
        scale *= 10
