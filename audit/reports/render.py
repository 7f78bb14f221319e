"""Renderings of a report document: Markdown, and one HTML file without script.

Rules:
- From the document alone: no clock, no network, no locale. The same document gives the same bytes.
- HTML is autoescaped; a strict Content-Security-Policy in the page forbids everything but its own inline style.
- At most `MOST_MODELS` models are drawn in full, so that a page stays below 500 kB; the rest are rows of a table, and the JSON has them all.

Example:
    html = render_html(report, report_bytes(report))
"""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from audit.reports import charts, figures
from audit.reports.document import digest
from audit.reports.effect_chart import effect_chart

MOST_MODELS = 12
MOST_ROWS = 400
METRIC_TITLES = {
    "accuracy": "Accuracy",
    "error": "Error rate",
    "tpr": "True positive rate",
    "fpr": "False positive rate",
    "precision": "Precision",
    "brier": "Brier score",
    "auroc": "AUROC",
}
STATE_GLYPHS = {"proven": "\u2713", "claimed": "~", "missing": "\u2013"}


def render_html(report: dict[str, Any], data: bytes) -> str:
    """One HTML file. `data` are the report's canonical bytes, whose SHA-256 the page carries."""
    return _environment(is_html=True).get_template(f"{report['report']}.html.j2").render(_context(report, data))


def render_markdown(report: dict[str, Any], data: bytes) -> str:
    """Markdown for terminals, issues and mails."""
    return _environment(is_html=False).get_template(f"{report['report']}.md.j2").render(_context(report, data))


def _environment(*, is_html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("audit.reports", "templates"),
        autoescape=is_html,  # noqa: S701 - off for Markdown alone, which escapes by the filter `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        count=figures.count,
        percent=figures.percent,
        duration_us=figures.duration_us,
        duration_s=figures.duration_s,
        when=figures.when,
        metric=figures.metric,
        interval=figures.interval,
        ratio=figures.ratio,
        cell=_markdown_cell,
        code=_code,
        rate=figures.rate,
        gap=figures.gap,
        decimal=figures.decimal,
        milli=figures.milli,
        trail_of=_trail_of,
    )
    return environment


def _context(report: dict[str, Any], data: bytes) -> dict[str, Any]:
    body = report["body"]
    context: dict[str, Any] = {
        "report": report,
        "body": body,
        "log": report["log"],
        "sha256": digest(data),
        "share": figures.share,
        "charts": charts,
        "effect_chart": effect_chart,
        "findings": {"fine": "proven fine", "harm": "proven harm", "hold": "not proven"},
        "titles": METRIC_TITLES,
        "not_percent": figures.NOT_PERCENT,
        "glyphs": STATE_GLYPHS,
        "most_rows": MOST_ROWS,
    }
    if report["report"] == "evaluation":
        ranked = sorted(body["models"], key=lambda model: (-model["traffic"]["calls"], model["model"]))
        context.update(shown=ranked[:MOST_MODELS], rest=ranked[MOST_MODELS : MOST_MODELS + MOST_ROWS])
    return context


def _trail_of(trail: list[dict[str, Any]], metric: str, arm: str) -> list[dict[str, Any]]:
    """The looks at one metric of one arm, oldest first, each with its time."""
    return [{**effect, "time": look["time"]} for look in trail for effect in look["effects"] if (effect["metric"], effect["arm"]) == (metric, arm)]


def _code(value: str) -> Markup:
    """Text whose parts in backticks are set as code."""
    parts = value.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts))


def _markdown_cell(value: object) -> str:
    """Text that cannot break a Markdown table or smuggle in markup."""
    text = str(value).replace("\\", "\\\\")
    for character in "|`*_<>[]":
        text = text.replace(character, "\\" + character)
    return text.replace("\r", " ").replace("\n", " ")
