"""`assay policy eval` prints, byte for byte, what `opa eval` prints."""

from __future__ import annotations

import json
import subprocess

import pytest
from opa_server import INSTALL_HINT, opa_binary
from typer.testing import CliRunner

from gateway.cli.main import app

OPA = opa_binary()
POLICY = """package office

default allow := false

allow if input.hour in {8, 9, 10}

deny contains {"id": "O-1", "msg": "closed"} if not allow

rows[name] := n if some name, n in data.rows
"""
QUERIES = [
    "data.office.allow", "data.office", "data.office.deny", "data.office.missing", "data.office.rows[x]", "data.office.rows[x] > 1",
    "1 == 2", "false", "true; false", "not false", "not input.hour", "x := 1; x > 0", "x = 1", "some x in [1, 2]; x", "some x; x = 1; x",
    "x := [1, 2][_]", "[1, 2][i] > 1", "input.list[_]", "input.list[_] == 7", "count([1])", "count(input.list, n)", "plus(1, 2, x)",
    "walk([1], [p, v])", "walk([1])", "every x in [1] { x > 0 }", "1 in [2]", "[x | x := 1]", "{x | x := input.list[_]}", "null", "1 / 0",
    "set()", "{1: 2}", '{"b": 1, "a": {1, 3, 2}}', '"é<&>"', "0.1 + 0.2", "100000000000000000000000 * 10", "1.5", "[[]]", "{}", "[{}]",
    "true with input as 1", "data.office.allow with input.hour as 9", "[1] == [1]\ntrue", "input", "input.hour # a remark",
    'startswith("ab", "a")', "data.office.allow == false; x := 2",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("eval")
    (place / "office.rego").write_text(POLICY)
    (place / "data.json").write_text('{"rows": {"a": 1, "b": 2}}')
    (place / "input.json").write_text('{"hour": 12, "list": [3, {"k": [true, null]}]}')
    return place


def ours(folder, query, *more: str):
    files = [str(folder / "office.rego"), "--data", str(folder / "data.json"), "--input", str(folder / "input.json")]
    return CliRunner().invoke(app, ["policy", "eval", query, *files, *more])


@pytest.mark.component("opa")
@pytest.mark.skipif(OPA is None, reason=INSTALL_HINT)
@pytest.mark.parametrize("query", QUERIES)
def test_the_result_set_is_opas_byte_for_byte(folder, query):
    files = ["-d", folder / "office.rego", "-d", folder / "data.json", "-i", folder / "input.json"]
    theirs = subprocess.run([OPA, "eval", query, *files], capture_output=True, text=True, check=False)
    done = ours(folder, query)
    assert (done.exit_code, done.stdout) == (theirs.returncode, theirs.stdout)


def test_undefined_is_an_empty_object_and_success(folder):
    done = ours(folder, "data.office.missing.deep")
    assert (done.exit_code, json.loads(done.stdout)) == (0, {})


def test_without_policies_a_query_stands_alone():
    done = CliRunner().invoke(app, ["policy", "eval", "x := 1 + 1"])
    assert json.loads(done.stdout)["result"][0]["bindings"] == {"x": 2}


def test_the_clock_is_the_callers():
    done = CliRunner().invoke(app, ["policy", "eval", "time.now_ns()", "--now", "7"])
    assert json.loads(done.stdout)["result"][0]["expressions"][0]["value"] == 7


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("x ==", "parse"),
        ("y", "unsafe-var"),
        ('http.send({"method": "get"})', "refused-builtin"),
        ("numbers.range(1, 1e8)", "eval_cancel_error"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error_document_and_exit_2(query, code):
    done = CliRunner().invoke(app, ["policy", "eval", query])
    assert done.exit_code == 2
    assert json.loads(done.stdout)["errors"][0]["code"] == code
    assert done.stderr.strip()


def test_a_builtin_error_is_undefined_unless_asked_otherwise():
    assert json.loads(CliRunner().invoke(app, ["policy", "eval", "1 / 0"]).stdout) == {}
    done = CliRunner().invoke(app, ["policy", "eval", "1 / 0", "--strict-builtin-errors"])
    assert (done.exit_code, json.loads(done.stdout)["errors"][0]["code"]) == (2, "eval_builtin_error")


def test_the_result_set_does_not_depend_on_what_a_query_calls_its_variables():
    done = CliRunner().invoke(app, ["policy", "eval", "value0 := 1; value1 := 2; value0 + value1"])
    assert json.loads(done.stdout)["result"][0]["bindings"] == {"value0": 1, "value1": 2}


def test_expressions_are_listed_as_written_where_opa_lists_them_as_run():
    done = CliRunner().invoke(app, ["policy", "eval", "x = y; y = 1"])
    assert [entry["text"] for entry in json.loads(done.stdout)["result"][0]["expressions"]] == ["x = y", "y = 1"]
