"""Charts as SVG text: no script, no fonts of their own, colours from the page's style sheet by class."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from gateway.admin.traffic import Second

_WIDTH, _HEIGHT = 720, 160


def traffic_chart(history: Sequence[Second], span_s: int) -> str:
    """Return stacked columns of served, refused and failed calls a second; an empty chart says so."""
    if not history:
        return '<p class="quiet">No traffic seen yet.</p>'
    top = max(1, *(second.served + second.refused + second.failed for second in history))
    nice = _nice(top)
    last = history[-1].at_s
    step = _WIDTH / span_s
    columns = []
    for second in history:
        x = _WIDTH - (last - second.at_s + 1) * step
        base = float(_HEIGHT)
        for kind, value in (("served", second.served), ("refused", second.refused), ("failed", second.failed)):
            height = value / nice * _HEIGHT
            if height > 0:
                base -= height
                columns.append(f'<rect class="{kind}" x="{x:.1f}" y="{base:.1f}" width="{step:.2f}" height="{height:.1f}"/>')
    lines = "".join(
        f'<line class="grid" x1="0" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/><text class="tick" x="{_WIDTH + 6}" y="{y + 4:.1f}">{label}</text>'
        for y, label in ((0.5, f"{nice:,}"), (_HEIGHT / 2, f"{nice / 2:,.10g}"), (_HEIGHT - 0.5, "0"))
    )
    label = f"Calls a second over the last {span_s // 60} minutes; most in one second: {top}"
    return (
        f'<svg viewBox="0 -6 {_WIDTH + 56} {_HEIGHT + 26}" role="img" aria-label="{escape(label)}">{lines}{"".join(columns)}'
        f'<text class="tick" x="0" y="{_HEIGHT + 16}">{span_s // 60} min ago</text>'
        f'<text class="tick" x="{_WIDTH}" y="{_HEIGHT + 16}" text-anchor="end">now</text></svg>'
    )


def interval_chart(rows: Sequence[tuple[str, float | None, float | None, float | None, float]]) -> str:
    """Return intervals of differences with the line of no difference and each row's margin.

    Args:
        rows: (label, lower, estimate, upper, margin); None where there is no evidence yet.
    """
    known = [abs(value) for _, low, mid, high, margin in rows for value in (low, mid, high, margin) if value is not None]
    reach = max(known, default=1e-9) * 1.1 or 1e-9
    left, width, pitch = 170, 480, 34

    def x(value: float) -> float:
        return left + (value + reach) / (2 * reach) * width

    parts = [f'<line class="axis" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{pitch * len(rows)}"/>']
    for index, (label, low, mid, high, margin) in enumerate(rows):
        y = pitch * index + pitch / 2
        parts.append(f'<text class="label" x="0" y="{y + 4:.1f}">{escape(label)}</text>')
        parts.append(f'<line class="margin" x1="{x(margin):.1f}" x2="{x(margin):.1f}" y1="{y - 11:.1f}" y2="{y + 11:.1f}"/>')
        if low is None or high is None or mid is None:
            parts.append(f'<text class="tick" x="{x(0) + 8:.1f}" y="{y + 4:.1f}">not enough evidence</text>')
            continue
        parts.append(f'<line class="interval" x1="{x(max(low, -reach)):.1f}" x2="{x(min(high, reach)):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<circle class="estimate" cx="{x(mid):.1f}" cy="{y:.1f}" r="4.5"/>')
    return f'<svg viewBox="0 0 {left + width + 20} {pitch * len(rows) + 6}" role="img" aria-label="Differences with intervals">{"".join(parts)}</svg>'


def _nice(value: int) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50 ... that is not below `value`."""
    scale = 1
    while True:
        for factor in (1, 2, 5):
            if factor * scale >= value:
                return factor * scale
        scale *= 10
