"""SVG drawn from integers: no script, no floats in the output, colours from the page's CSS variables, so that light and dark need one drawing.

Every mark has a `<title>` and stands beside the same number as text; colour is never the only signal.

Example:
    interval_mark({"state": "estimated", "value_ppm": 750000, "low_ppm": 700000, "high_ppm": 800000, "n": 300})
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from audit.evaluation.intervals import wilson
from audit.reports.figures import count, duration_us, interval, metric, percent, when

MARK_WIDTH, MARK_HEIGHT = 220, 20
CHART_WIDTH, CHART_HEIGHT = 1040, 150
LABEL_HEIGHT = 18
MOST_BUCKETS = 90
VERSION_MARKS = 6
"""Versions drawn with a mark of their own; CSS classes v0 to v5."""


WHOLE = (0, 1_000_000)


def domain(values: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """A common scale for marks of one metric, in ppm: from and to, on steps of 5 %, at least 10 % wide."""
    values = list(values)
    low = min((value["low_ppm"] for value in values if "low_ppm" in value), default=0)
    high = max((value["high_ppm"] for value in values if "high_ppm" in value), default=1_000_000)
    low, high = low // 50_000 * 50_000, -(-high // 50_000) * 50_000
    return max(0, min(low, high - 100_000)), min(1_000_000, max(high, low + 100_000))


def interval_mark(value: dict[str, Any], scale: tuple[int, int] = WHOLE) -> Markup:
    """One metric on a track from `scale[0]` to `scale[1]` ppm: interval as a bar, point as a dot; bounds of what is not identified as an open bar."""
    track = f'<line class="track" x1="0" x2="{MARK_WIDTH}" y1="10" y2="10"/>' + "".join(
        f'<line class="track" x1="{x}" x2="{x}" y1="7" y2="13"/>' for x in (0, MARK_WIDTH // 4, MARK_WIDTH // 2, 3 * MARK_WIDTH // 4, MARK_WIDTH)
    )
    marks = ""
    if "low_ppm" in value:
        low, high = _across(value["low_ppm"], scale), _across(value["high_ppm"], scale)
        kind = "interval" if value["state"] == "estimated" else "bounds"
        marks = f'<rect class="{kind}" x="{low}" y="6" width="{max(high - low, 2)}" height="8" rx="2"/>'
    if value["state"] == "estimated":
        marks += f'<circle class="point" cx="{_across(value["value_ppm"], scale)}" cy="10" r="3.5"/>'
    return _svg(MARK_WIDTH, MARK_HEIGHT, f"{metric(value)} {interval(value)}".strip(), track + marks, "mark")


def share_bar(part: int, whole: int, title: str) -> Markup:
    """A horizontal bar: part of a whole."""
    width = part * MARK_WIDTH // whole if whole else 0
    inside = f'<rect class="ground" width="{MARK_WIDTH}" height="10" y="5" rx="2"/>'
    inside += f'<rect class="interval-solid" width="{max(width, 1 if part else 0)}" height="10" y="5" rx="2"/>'
    return _svg(MARK_WIDTH, MARK_HEIGHT, title, inside, "mark")


def latency_mark(quantiles: dict[str, Any], largest_us: int) -> Markup:
    """p50, p95 and p99 on a logarithmic track that ends at `largest_us`."""
    if quantiles["p50"] is None:
        return Markup("")
    places = [_log_place(quantiles[name], largest_us) for name in ("p50", "p95", "p99")]
    inside = f'<line class="track" x1="0" x2="{MARK_WIDTH}" y1="10" y2="10"/>'
    inside += f'<rect class="interval" x="{places[0]}" y="7" width="{max(places[2] - places[0], 2)}" height="6" rx="2"/>'
    inside += f'<circle class="point" cx="{places[0]}" cy="10" r="3.5"/>'
    inside += "".join(f'<line class="tick" x1="{x}" x2="{x}" y1="4" y2="16"/>' for x in places[1:])
    words = ", ".join(f"{name} {duration_us(quantiles[name])}" for name in ("p50", "p95", "p99"))
    return _svg(MARK_WIDTH, MARK_HEIGHT, words, inside, "mark")


def traffic_chart(timeline: dict[str, Any]) -> Markup:
    """Calls over time as stacked bars: answered below, then refused, then failed."""
    buckets = _buckets(timeline, by_version=False)
    highest = max((bucket["calls"] for bucket in buckets), default=0)
    if not highest:
        return Markup("")
    step = CHART_WIDTH // max(len(buckets), 12)
    bars = []
    for place, bucket in enumerate(buckets):
        x, y = place * step + 1, CHART_HEIGHT
        answered = bucket["calls"] - bucket["refused"] - bucket["failed"]
        words = (
            f"{when(bucket['start'])}: {count(bucket['calls'])} calls, "
            f"{count(answered)} answered or open, {count(bucket['refused'])} refused, {count(bucket['failed'])} failed"
        )
        parts = ""
        for kind, number in (("answered", answered), ("refused", bucket["refused"]), ("failed", bucket["failed"])):
            height = number * (CHART_HEIGHT - 16) // highest if number else 0
            height = max(height, 2) if number else 0
            y -= height
            if height:
                parts += f'<rect class="{kind}" x="{x}" y="{y}" width="{max(step - 2, 1)}" height="{height}"/>'
        bars.append(f"<g><title>{words}</title>{parts}</g>")
    return _chart("".join(bars), buckets, step, f"Calls over time, at most {count(highest)} in one bucket", count(highest))


def quality_chart(timeline: dict[str, Any]) -> Markup:
    """Accuracy over time of decision, with its interval, one mark per version and bucket that has labels."""
    versions = sorted({point["version"] for point in timeline["points"]})[:VERSION_MARKS]
    buckets = _buckets(timeline, by_version=True)
    starts = sorted({bucket["start"] for bucket in buckets})
    if not any(bucket["labelled"] for bucket in buckets) or len(starts) < 2:
        return Markup("")
    step = CHART_WIDTH // max(len(starts), 12)
    marks = []
    for bucket in buckets:
        if bucket["version"] not in versions or not bucket["labelled"]:
            continue
        which = versions.index(bucket["version"])
        x = starts.index(bucket["start"]) * step + step // 2 + (which * 7 - len(versions) * 3)
        found = wilson(bucket["correct"], bucket["labelled"])
        low, middle, high = (CHART_HEIGHT - ppm * (CHART_HEIGHT - 16) // 1_000_000 for ppm in (found.low_ppm, found.value_ppm, found.high_ppm))
        words = (
            f"version {bucket['version']}, {when(bucket['start'])}: {percent(found.value_ppm)} correct of {count(bucket['labelled'])} labelled, "
            f"{percent(found.low_ppm)} to {percent(found.high_ppm)}"
        )
        whisker = f'<line class="whisker v{which}" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>'
        marks.append(f'<g><title>{_escape(words)}</title>{whisker}<circle class="dot v{which}" cx="{x}" cy="{middle}" r="3.5"/></g>')
    return _chart("".join(marks), [{"start": start} for start in starts], step, "Accuracy over time of decision, with 95 % intervals", "100 %")


def level_ladder(levels: Sequence[dict[str, Any]], proven: int, claimed: int) -> Markup:
    """The levels as steps: filled up to the proven one, outlined up to the claimed one."""
    total = len(levels) + 1
    width = CHART_WIDTH // total
    steps = []
    for number in range(total):
        height = 30 + number * 22
        kind = "step-proven" if number <= proven else "step-claimed" if number <= claimed else "step-open"
        x, y = number * width, 150 - height
        steps.append(f'<rect class="{kind}" x="{x + 2}" y="{y}" width="{width - 4}" height="{height}" rx="3"/>')
        steps.append(f'<text class="step-number {kind}-text" x="{x + 14}" y="{y + 22}">{number}</text>')
    return _svg(CHART_WIDTH, 152, f"Proven level {proven}, claimed level {claimed}", "".join(steps), "chart")


def state_bar(level: dict[str, Any]) -> Markup:
    """Criteria of one level: proven, claimed, missing, as segments."""
    inside, x = "", 0
    unit = MARK_WIDTH // max(level["criteria"], 1)
    for state in ("proven", "claimed", "missing"):
        for _ in range(level[state]):
            inside += f'<rect class="state-{state}" x="{x + 1}" y="4" width="{unit - 2}" height="12" rx="2"/>'
            x += unit
    return _svg(MARK_WIDTH, MARK_HEIGHT, ", ".join(f"{level[state]} {state}" for state in ("proven", "claimed", "missing")), inside, "mark")


def _buckets(timeline: dict[str, Any], *, by_version: bool) -> list[dict[str, Any]]:
    """Points summed over versions if asked, and over neighbours until at most `MOST_BUCKETS` are left."""
    starts = sorted({point["start"] for point in timeline["points"]})
    width = -(-len(starts) // MOST_BUCKETS) or 1
    of = {start: starts[place - place % width] for place, start in enumerate(starts)}
    summed: dict[tuple[str, str], dict[str, Any]] = {}
    for point in timeline["points"]:
        version = point["version"] if by_version else ""
        bucket = summed.setdefault((of[point["start"]], version), {"start": of[point["start"]], "version": version})
        for name in ("calls", "refused", "failed", "labelled", "correct"):
            bucket[name] = bucket.get(name, 0) + point[name]
    return [summed[key] for key in sorted(summed)]


def _chart(inside: str, buckets: Sequence[dict[str, Any]], step: int, title: str, top: str) -> Markup:
    grid = f'<line class="track" x1="0" x2="{CHART_WIDTH}" y1="{CHART_HEIGHT}" y2="{CHART_HEIGHT}"/>'
    grid += (
        f'<line class="grid" x1="0" x2="{CHART_WIDTH}" y1="16" y2="16"/><text class="axis" x="{CHART_WIDTH}" y="11" text-anchor="end">{top}</text>'
    )
    shown = {0, len(buckets) - 1} if len(buckets) < 8 else {0, len(buckets) // 2, len(buckets) - 1}
    axis = "".join(
        f'<text class="axis" x="{place * step + step // 2}" y="{CHART_HEIGHT + 14}" text-anchor="{"start" if place == 0 else "middle"}">'
        f"{buckets[place]['start'][5:16].replace('T', ' ')}</text>"
        for place in sorted(shown)
    )
    return _svg(CHART_WIDTH, CHART_HEIGHT + LABEL_HEIGHT, title, grid + inside + axis, "chart")


def _svg(width: int, height: int, title: str, inside: str, kind: str) -> Markup:
    text = _escape(title)
    return Markup(f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{text}"><title>{text}</title>{inside}</svg>')  # noqa: S704 - numbers and escaped text only


def _escape(text: str) -> str:
    return str(Markup.escape(text))


def _across(ppm: int, scale: tuple[int, int]) -> int:
    return max(0, min(MARK_WIDTH, (ppm - scale[0]) * MARK_WIDTH // (scale[1] - scale[0])))


def _log_place(value_us: int, largest_us: int) -> int:
    """Place on a track from 100 µs to the largest value; bit lengths with eight steps each, so no floating logarithm is needed."""
    low, high = _log8(100), max(_log8(largest_us), _log8(100) + 1)
    return max(0, min(MARK_WIDTH, (_log8(value_us) - low) * MARK_WIDTH // (high - low)))


def _log8(value: int) -> int:
    bits = max(value, 1).bit_length()
    return 8 * bits + ((max(value, 1) << 8 >> bits) - 128) // 16
