"""Reports: same records, same bytes; renderings carry the digest, escape what is foreign and stay small."""

from __future__ import annotations

import doctest
import json
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from records_strategy import Log, logs

from audit.evaluation import Scope, histogram, intervals
from audit.keys import SigningKey
from audit.merkle import leaf_hash, root
from audit.note import Checkpoint, NoteError
from audit.reports import figures
from audit.reports.build import evaluation_report, maturity_report
from audit.reports.charts import domain, interval_mark
from audit.reports.document import ReportMismatchError, digest, report_bytes, signed_note, verify_note
from audit.reports.figures import count, duration_us, percent
from audit.reports.render import render_html, render_markdown
from audit.reports.state import LogMismatchError, compared, pin


def reports(leaves, observed_when=None):
    state = pin(lambda: leaves)
    yield evaluation_report(lambda: leaves, state, version="1", scope=Scope(), observed_when=observed_when)
    yield maturity_report(lambda: leaves, state, version="1")


def big_log() -> Log:
    log = Log()
    log.add("experiment.start", experiment="credit-v4", epoch=1)
    for place in range(120):
        arm = ("champion", "challenger")[place % 2]
        call = log.call(version="34"[place % 2], prediction=str(place % 3 % 2), experiment="credit-v4", assigned=arm, step_us=600_000_000)
        log.label(call["id"], str(place % 2), step_us=1000)
    log.call(status=403, code="policy_denied", decision="deny", rules=("hours",))
    return log


@settings(max_examples=25, deadline=None)
@given(log=logs())
def test_a_second_run_is_byte_identical_in_every_format(log: Log):
    for first, second in zip(reports(log.leaves()), reports(log.leaves()), strict=True):
        data = report_bytes(first)
        assert data == report_bytes(second)
        assert render_html(first, data) == render_html(second, data)
        assert render_markdown(first, data) == render_markdown(second, data)
        assert digest(data) in render_html(first, data)
        assert digest(data) in render_markdown(first, data)


@settings(max_examples=25, deadline=None)
@given(log=logs())
def test_the_document_read_back_renders_the_same_page(log: Log):
    for report in reports(log.leaves(), {"credit-risk": "prediction == 1"}):
        data = report_bytes(report)
        assert render_html(json.loads(data), data) == render_html(report, data)


def test_later_records_change_nothing_in_a_report_of_a_smaller_size():
    log = big_log()
    size = len(log.records)
    before = report_bytes(next(reports(log.leaves())))
    log.label(log.records[1]["id"], "1", corrects=True)
    state = pin(log.leaves, size)
    assert report_bytes(evaluation_report(log.leaves, state, version="1", scope=Scope())) == before


def test_the_page_has_no_script_no_remote_reference_and_is_small():
    for report in reports(big_log().leaves()):
        page = render_html(report, report_bytes(report))
        assert "<script" not in page
        assert not re.search(r"""(?:src|href)\s*=|url\(|@import""", page)
        assert len(page.encode()) < 500_000


def test_every_drawing_is_well_formed_and_has_a_title():
    drawn = 0
    for report in reports(big_log().leaves()):
        for drawing in re.findall(r"<svg.*?</svg>", render_html(report, report_bytes(report)), re.DOTALL):
            element = ET.fromstring(drawing)  # noqa: S314 - our own output
            assert element.find("title") is not None
            drawn += 1
    assert drawn > 20


def test_a_page_of_many_models_stays_below_half_a_megabyte():
    log = Log()
    for place in range(1500):
        log.call(model=f"model-{place}", version="34"[place % 2])
    report = next(reports(log.leaves()))
    assert len(render_html(report, report_bytes(report)).encode()) < 500_000


def test_names_from_records_cannot_become_markup():
    log = Log()
    log.call(model="<b>x</b>", version="|*y*", status=403, code="<i>", decision="deny", rules=('"><script>',))
    log.label(log.call(model="<b>x</b>", prediction="<u>")["id"], "<u>")
    report = next(reports(log.leaves(), {"<b>x</b>": "<s>"}))
    data = report_bytes(report)
    page = render_html(report, data)
    for foreign in ("<b>x", "<i>", "<script>", "<u>", "<s>"):
        assert foreign not in page
    assert "\\|\\*y\\*" in render_markdown(report, data)


def test_a_signed_report_verifies_and_a_changed_one_does_not():
    key = SigningKey.generate("assay.example/reports", seed=bytes(32))
    report = next(reports(big_log().leaves()))
    data = report_bytes(report)
    signed = signed_note(report, data, key)
    verify_note(report, data, signed, key.verifier)
    with pytest.raises(ReportMismatchError, match="does not speak of"):
        verify_note(report, data.replace(b'"calls":121', b'"calls":122'), signed, key.verifier)
    with pytest.raises(NoteError):
        verify_note(report, data, signed, SigningKey.generate("assay.example/reports", seed=bytes(31) + b"1").verifier)


def test_the_state_has_the_root_and_the_newest_time_of_its_leaves():
    leaves = big_log().leaves()
    state = pin(lambda: leaves, 7)
    assert state.root == root([leaf_hash(leaf) for _, leaf in leaves[:7]]).hex()
    assert state.time == json.loads(leaves[6][1])["time"]
    assert state.config_digest == "c"


def test_missing_leaves_and_a_checkpoint_of_another_root_stop_the_report():
    leaves = big_log().leaves()
    with pytest.raises(LogMismatchError, match="only"):
        pin(lambda: leaves[:3], 7)
    with pytest.raises(LogMismatchError, match="missing"):
        pin(lambda: [*leaves[:3], *leaves[4:]])
    state = pin(lambda: leaves, 7)
    assert compared(state, Checkpoint("o", 8, bytes(32))) == state
    assert compared(state, Checkpoint("o", 7, bytes.fromhex(state.root))).is_signed
    with pytest.raises(LogMismatchError, match="checkpoint signed"):
        compared(state, Checkpoint("o", 7, bytes(32)))


def test_unknown_label_conditions_are_said():
    leaves = big_log().leaves()
    (evaluated, _) = reports(leaves)
    assert any("not at hand" in limit for limit in evaluated["body"]["limits"])
    (evaluated, _) = reports(leaves, {})
    assert not any("not at hand" in limit for limit in evaluated["body"]["limits"])


@pytest.mark.parametrize(
    ("function", "value", "words"),
    [
        (percent, 0, "0.0 %"),
        (percent, 873_210, "87.3 %"),
        (percent, 400, "0.04 %"),
        (percent, 999_500, "99.95 %"),
        (percent, 1_000_000, "100.0 %"),
        (count, 1_234_567, "1\u202f234\u202f567"),
        (duration_us, 250, "250 µs"),
        (duration_us, 5_321, "5.3 ms"),
        (duration_us, 999_999, "1\u202f000 ms"),
        (duration_us, 2_500_000, "2.5 s"),
        (duration_us, None, "\u2013"),
    ],
)
def test_figures_read_as_people_write_them(function, value, words):
    assert function(value) == words.replace(" ", "\u00a0")


def test_a_scale_holds_all_its_intervals_and_marks_lie_on_it():
    values = [{"state": "estimated", "value_ppm": 745_000, "low_ppm": 729_000, "high_ppm": 768_000, "n": 9}]
    low, high = domain(values)
    assert (low, high) == (700_000, 800_000)
    places = [int(place) for place in re.findall(r'<(?:rect|circle)[^>]*? (?:x|cx)="(\d+)"', interval_mark(values[0], (low, high)))]
    assert all(0 <= place <= 220 for place in places)
    assert domain([{"state": "insufficient_evidence"}]) == (0, 1_000_000)


@pytest.mark.parametrize("module", [figures, intervals, histogram])
def test_the_examples_in_the_documentation_are_true(module):
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 0) == (0, True)
