"""The console's colours can be read (WCAG 2.1, 1.4.3: contrast of text at least 4.5) and its pages by a screen reader."""

import re
from html.parser import HTMLParser

import pytest
from jinja2 import Environment, FileSystemLoader
from pages import ROOT

from gateway.admin.charts import traffic_chart
from gateway.admin.traffic import Second

ADMIN = ROOT / "gateway" / "admin"
CSS = (ADMIN / "static" / "console.css").read_text()
PAIRS = [(ink, ground) for ink in ("ink", "quiet", "accent", "failed", "running", "good") for ground in ("bg", "panel")] + [
    ("onaccent", "accent"),
    ("panel", "ink"),
]


def themes():
    light, dark = (dict(re.findall(r"--(\w+):(#[0-9a-f]{3,6})", block)) for block in re.findall(r":root\{([^}]*)\}", CSS))
    return {"light": light, "dark": {**light, **dark}}


def luminance(colour):
    """WCAG 2.1, relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """WCAG 2.1, contrast ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("pair", PAIRS, ids="-on-".join)
def test_text_has_a_contrast_of_at_least_four_and_a_half(theme, pair):
    colours = themes()[theme]
    assert contrast(colours[pair[0]], colours[pair[1]]) >= 4.5


def test_only_colours_that_are_checked_are_used_for_text():
    used = set(re.findall(r"(?<![-\w])color:var\(--(\w+)\)", CSS))
    assert used <= {ink for ink, _ in PAIRS}


class Page(HTMLParser):
    """Collects what the rules below ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.labels, self.inputs, self.references, self.tags = set(), set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        if "id" in found:
            self.ids.add(found["id"])
        if tag == "label":
            self.labels.add(found["for"])
        if tag == "input":
            self.inputs.append(found["id"])
        for name in ("aria-labelledby", "aria-describedby"):
            self.references += found.get(name, "").split()


def experiment(phase):
    reason = "errors: `b` 0 of 9 (0.0 %), `a` 1 of 9 (11.1 %): not proven fine, e = 1 against 20"
    return {
        "name": "x<y", "strategy": "canary", "model": "m", "hypothesis": "h", "phase": phase, "epoch": 1, "share": "10%", "verdict": "v",
        "reasons": [reason, "sample ratio off at stage `assigned`"],
        "arms": [{"name": "a", "version": "1", "control": True, "share": "50%", "units": 9}],
        "steps": [{"share": "10%", "hold": "1 s", "state": "now"}],
        "metrics": [{"metric": "errors", "arm": "b", "outcome": "hold", "reason": reason}],
        "responses": [
            {"metric": "thumb", "arms": [{"arm": "a", "due": 9, "answered": 3}], "pending": 2, "missing": "refuse", "obstacle": "6 `missing`"},
        ],
        "sample_ratio": [{"stage": "assigned", "units": {"a": 9}, "off": True}, {"stage": "served", "units": {"a": 9}, "off": False}],
        "history": [{"index": 3, "time": "2026-11-20 10:00:00", "action": "start", "reason": "configured"}],
    }  # fmt: skip


CONTEXTS = {
    "login.html": {"wrong": "no", "who": None},
    "experiments.html": {"experiments": [experiment("running")]},
    "experiment.html": {"e": experiment("rolled_back")},
}


def rendered(name, **more: object):
    environment = Environment(loader=FileSystemLoader(ADMIN / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    who = {"id": "k_1", "roles": ["admin:read"]}
    return environment.get_template(name).render(**{"who": who, "here": "experiments", "refresh": True, **CONTEXTS[name], **more})


@pytest.mark.parametrize("name", CONTEXTS)
def test_pages_have_one_heading_labelled_fields_and_references_that_exist(name):
    seen = Page(rendered(name))
    assert [tag for tag, _ in seen.tags].count("h1") == 1
    assert set(seen.inputs) <= seen.labels
    assert set(seen.references) <= seen.ids
    assert all("scope" in found for tag, found in seen.tags if tag == "th")
    assert all("alt" in found for tag, found in seen.tags if tag == "img")
    assert all("style" not in found and not any(key.startswith("on") for key in found) for _, found in seen.tags), (
        "forbidden by the page's own policy"
    )


@pytest.mark.parametrize("phase", ["running", "promoted", "rolled_back", "stopped", "superseded"])
def test_the_experiment_page_tells_findings_in_words_and_escapes_what_people_wrote(phase):
    text = rendered("experiment.html", e=experiment(phase))
    assert "not proven" in text
    assert "sample ratio off at stage <code>assigned</code>" in text
    assert text.count("0 of 9 (0.0 %)") == 1
    assert "x&lt;y" in text
    assert "x<y" not in text


def test_the_experiment_page_tells_who_answered_and_where_the_sample_ratio_is_off():
    text = rendered("experiment.html")
    assert "3 of 9" in text
    assert "nothing is judged: 6 <code>missing</code>" in text
    assert text.count("nothing that rests on it is judged") == 1


def test_the_page_of_a_shadow_speaks_of_calls_and_says_what_would_change_its_verdict():
    text = rendered(
        "experiment.html", e={**experiment("running"), "strategy": "shadow"}, outlook=["label: about 40 more calls would prove the limit kept"]
    )
    assert [word for word in ("Calls mirrored", "Counted by call", "What would change this", "about 40 more calls") if word not in text] == []
    assert [word for word in ("Counted by unit", "Units seen", "Units compared") if word in text] == []


def test_an_experiment_without_data_says_that_no_data_is_a_hold():
    nothing = {**experiment("running"), "metrics": [], "reasons": ["no data yet"], "history": []}
    assert "No data is a hold" in rendered("experiment.html", e=nothing)


def test_the_traffic_chart_is_told_in_words_and_its_columns_stay_inside():
    chart = traffic_chart([Second(100, 7, 0, 0), Second(101, 3, 2, 1)], 300)
    assert "Most in one second: 7" in chart
    assert "3 served, 2 refused, 1 failed" in chart
    boxes = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', chart)
    assert [box[0] for box in boxes] == ["served", "served", "refused", "failed"]
    for _, *box in boxes:
        x, y, width, height = map(float, box)
        assert x >= 0
        assert y >= 0
        assert x + width <= 720.1
        assert y + height <= 160.1


def test_a_chart_of_nothing_says_so():
    assert "No traffic" in traffic_chart([], 300)
