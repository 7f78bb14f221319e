"""What callers may write into records for ever, and what the gateway's own log tells of a defect."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.wording import is_name, recorded_form, recorded_forms
from gateway.config.issues import Issue
from gateway.feedback import read
from gateway.logs import JsonLines, without_words
from gateway.refusals import Refusal

DECISION = "019a83c0-7a3b-7c11-8d2e-3f1b2a4c5d6e"


@pytest.mark.parametrize("name", ["1", "-1", "true", ">50K", "<=50K", "not_repaid", "räuber", "label-019a83c0-7a3b", "a/b:c", "3.14", "x" * 64])
def test_classes_and_ids_are_names(name):
    assert is_name(name)


@pytest.mark.parametrize(
    "text", ["", "x" * 65, "ann@example.com", "Jane Person", "+41 79 123 45 67", "a\nb", "a\tb", "no\u00a0break", '{"a":1}', "\x00"]
)
def test_text_is_none(text):
    assert not is_name(text)


@given(st.text())
def test_nothing_with_a_space_or_an_at_sign_is_a_name(text):
    assert not is_name(text + " ")
    assert not is_name(f"{text}@{text}")


@pytest.mark.parametrize(
    "field",
    [
        {"label": "Jane Person"},
        {"label": "1", "event_id": "ann@example.com"},
        {"metric": "the metric", "value": 1},
        {"label": "1", "time": "yesterday"},
        {"label": "1", "time": "2026-11-20T11:00:00"},
    ],
)
def test_feedback_that_says_more_than_a_name_is_refused_whole(field):
    with pytest.raises(Refusal) as refused:
        read(json.dumps([{"decision_id": DECISION, "label": "1"}, {"decision_id": DECISION, **field}]).encode())
    assert refused.value.code == "bad_feedback"
    assert not any(str(value) in refused.value.detail for value in field.values() if value not in {"1", 1})


def test_credentials_in_an_address_are_not_shown_with_the_mistake_they_stand_in():
    issue = Issue("gateway.yaml", 1, 1, "store", "`postgresql://u:pa@ss/word@db/log` is not a store; write `sqlite:DIRECTORY`")
    assert str(issue) == "gateway.yaml:1:1: store: `postgresql://…@db/log` is not a store; write `sqlite:DIRECTORY`"
    assert "u:pa" not in str(Issue("m", 1, 1, "", "`ftp://u:pa@h` and `http://v:u:pa@i`"))
    assert str(Issue("m", 1, 1, "", "`http://host:1/a` is listed twice")) == "m:1:1: `http://host:1/a` is listed twice"


def failing() -> BaseException:
    secret = "a-secret-in-the-words"
    try:
        try:
            int(secret)
        except ValueError as error:
            raise KeyError(secret) from error
    except KeyError as error:
        return error


def test_a_process_that_sees_payload_tells_of_a_defect_where_it_was_and_not_what_it_said():
    fault = failing()
    record = logging.makeLogRecord({"name": "assay.worker", "msg": "defect", "exc_info": (type(fault), fault, fault.__traceback__)})
    line = JsonLines("worker", sees_payload=True).format(record)
    assert "a-secret" not in line
    told = json.loads(line)["traceback"]
    assert told.index("builtins.ValueError") < told.index("builtins.KeyError")
    assert "test_wording.py" in told
    assert "failing" in told
    assert "a-secret" in JsonLines("controller").format(record)


def test_a_chain_that_bites_its_tail_is_told_once():
    fault = ValueError("x")
    fault.__context__ = KeyError("y")
    fault.__context__.__context__ = fault
    assert without_words(fault).count("ValueError") == 1


def test_the_event_loops_own_words_quote_no_arguments():
    words = "Exception in callback Protocol.data_received(b'a-secret')\nhandle: <Handle data_received(b'a-secret')>"
    record = logging.makeLogRecord({"name": "asyncio", "msg": words})
    assert json.loads(JsonLines("worker", sees_payload=True).format(record))["message"] == "Exception in callback Protocol.data_received"


@pytest.mark.parametrize("end", ["raise ValueError('a-secret')", "f()", "gone()"])
def test_the_last_words_of_a_process_that_sees_payload_name_the_type_alone(end):
    program = f"""
from gateway import logs
logs.configure("worker 0", sees_payload=True)
class Late:
    def __del__(self):
        raise RuntimeError("a-secret")
def gone():
    Late()
def f():
    gone()
    raise KeyError("a-secret")
{end}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "Error" in done.stderr
    assert "a-secret" not in done.stderr + done.stdout
    assert all(json.loads(line)["process"] == "worker 0" for line in done.stderr.splitlines())


# --- classes that a model's file declares ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("golden_retriever", "golden_retriever"),
        ("50%", "50%"),
        ("golden retriever", "golden%20retriever"),
        ("100 %", "100%20%25"),
        ("name@place", "name%40place"),
        ("schöner Hund", "schöner%20Hund"),
        ("x" * 65, "x" * 47 + "#" + hashlib.sha256(b"x" * 65).hexdigest()[:16]),
    ],
)
def test_a_declared_class_is_recorded_under_a_name_that_a_reader_recognises(text, form):
    assert recorded_form(text) == form


@given(st.text(min_size=1, max_size=200))
def test_every_class_has_a_name_and_a_name_is_its_own(text):
    form = recorded_form(text)
    assert is_name(form)
    assert (form == text) == is_name(text)
    assert recorded_forms([text]) == ({} if is_name(text) else {text: form})


@given(st.lists(st.text(min_size=1, max_size=100).filter(lambda text: not is_name(text)), min_size=2, max_size=5, unique=True))
def test_no_two_classes_that_are_no_names_share_one(texts):
    assert len({recorded_form(text) for text in texts}) == len(texts)


def test_feedback_takes_declared_classes_and_no_other_text():
    classes = recorded_forms(["golden retriever", "cat"])
    for key in ("label", "human_decision"):
        (event,) = read(json.dumps({"decision_id": DECISION, key: "golden retriever"}).encode(), classes=classes)
        assert event.fields[key] == "golden%20retriever"
        (event,) = read(json.dumps({"decision_id": DECISION, key: "dog"}).encode(), classes=classes)
        assert event.fields[key] == "dog", "a name needs no declaration"
        for other in ("Golden retriever", "golden retriever ", "silver retriever", ["golden retriever"]):
            with pytest.raises(Refusal) as refused:
                read(json.dumps({"decision_id": DECISION, key: other}).encode(), classes=classes)
            assert "capture.classes" in refused.value.hint
    with pytest.raises(Refusal):
        read(json.dumps({"decision_id": DECISION, "label": "1", "event_id": "golden retriever"}).encode(), classes=classes)
