"""The commands on a real data directory: query, show, report."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from pathlib import Path

import pytest
import typer
from records_strategy import OTHERS, Log
from test_explain import experiment_call
from typer.testing import CliRunner

from audit.follow import follow
from audit.keys import SigningKey, save_signing_key
from audit.note import Checkpoint, sign
from audit.reports.document import verify_note
from audit.reports.state import pin
from audit.store.control import ControlStore
from audit.store.leaves import LeafStore
from gateway.cli import query, report

app = typer.Typer()
audit_group = typer.Typer()
query.register(audit_group)
app.add_typer(audit_group, name="audit")
app.add_typer(report.app, name="report")
runner = CliRunner()
KEY = SigningKey.generate("assay.example/test", seed=bytes(32))


def filled_log() -> Log:
    log = Log()
    log.add("approval.granted", **OTHERS["approval.granted"])
    for place in range(12):
        call = log.call(version="34"[place % 2], prediction=str(place % 2))
        log.label(call["id"], str(place % 2))
    log.call(status=403, code="policy_denied", decision="deny", rules=("hours",))
    experiment_call(log)
    return log


def sign_size(data: Path, size: int, root: bytes | None = None) -> None:
    checkpoint = Checkpoint("assay.example/test", size, root or bytes.fromhex(pin(lambda: follow(data, 0), size).root))
    control = ControlStore.open(data)
    control.lead("n1", 1)
    control.add_checkpoint(size, checkpoint.root, sign(checkpoint.text(), [KEY]))
    control.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    store = LeafStore.open(folder)
    store.stage(("n1.w0", 1), 0, [leaf for _, leaf in filled_log().leaves()])
    store.commit()
    store.close()
    return folder


def run(*arguments: str, code: int = 0):
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def test_query_prints_the_same_rows_with_and_without_the_index(data: Path):
    arguments = ["audit", "query", "--data", str(data), "--policy", "deny", "--json"]
    by_index = json.loads(run(*arguments).stdout)
    assert by_index == json.loads(run(*arguments, "--full-scan").stdout)
    assert [row["code"] for row in by_index["rows"]] == ["policy_denied"]


def test_a_locked_index_falls_back_to_reading_every_leaf(data: Path):
    run("audit", "query", "--data", str(data))
    (data / "index.sqlite").unlink()
    with contextlib.closing(sqlite3.connect(data / "index.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        result = run("audit", "query", "--data", str(data), "--policy", "deny", "--json")
    assert [row["code"] for row in json.loads(result.stdout)["rows"]] == ["policy_denied"]


def test_pages_follow_the_printed_cursor(data: Path):
    first = json.loads(run("audit", "query", "--data", str(data), "--limit", "20", "--json").stdout)
    second = json.loads(run("audit", "query", "--data", str(data), "--limit", "20", "--cursor", first["cursor"], "--json").stdout)
    assert [row["idx"] for row in first["rows"] + second["rows"]] == list(range(26, -1, -1))
    assert second["cursor"] is None


def test_the_table_never_cuts_an_id(data: Path):
    printed = run("audit", "query", "--data", str(data), "--type", "call").stdout
    assert filled_log().records[1]["id"] in printed


def test_a_bad_time_and_a_foreign_cursor_are_usage_errors_with_a_hint(data: Path):
    assert "hint" in run("audit", "query", "--data", str(data), "--since", "yesterday", code=2).output
    assert "cursor" in run("audit", "query", "--data", str(data), "--cursor", "AAAA", code=2).output


def test_show_explains_a_call_by_id_and_by_index(data: Path):
    record = filled_log().records[1]
    by_id = json.loads(run("audit", "show", record["id"], "--data", str(data), "--json").stdout)
    assert by_id["record"] == record
    assert [one["record"]["type"] for one in by_id["related"]] == ["label"]
    assert json.loads(run("audit", "show", "#1", "--data", str(data), "--json").stdout) == by_id
    assert "Answered 200" in run("audit", "show", record["id"], "--data", str(data)).stdout


def test_show_recomputes_the_arm(data: Path):
    shown = json.loads(run("audit", "show", "#26", "--data", str(data), "--json").stdout)
    assert shown["explanation"]["arm"]["state"] == "reproduced"


def test_show_of_an_unknown_id_says_where_ids_come_from(data: Path):
    assert "Assay-Decision" in run("audit", "show", "nothing", "--data", str(data), code=2).output


def test_a_directory_without_a_log_is_refused(tmp_path: Path):
    for arguments in (["audit", "query"], ["audit", "show", "x"], ["report", "evaluation"], ["report", "maturity"]):
        assert "holds no log" in run(*arguments, "--data", str(tmp_path), code=2).output


@pytest.mark.parametrize("kind", ["evaluation", "maturity"])
@pytest.mark.parametrize("form", ["json", "md", "html"])
def test_a_report_is_the_same_bytes_twice_and_on_paper(data: Path, tmp_path: Path, kind: str, form: str):
    first = run("report", kind, "--data", str(data), "--format", form).stdout_bytes
    run("report", kind, "--data", str(data), "--format", form, "-o", str(tmp_path / "r"))
    assert first == (tmp_path / "r").read_bytes()
    assert first


def test_the_page_names_the_digest_that_the_json_prints(data: Path):
    printed = run("report", "evaluation", "--data", str(data), "--format", "json").stdout_bytes
    page = run("report", "evaluation", "--data", str(data), "--format", "html").stdout
    assert hashlib.sha256(printed).hexdigest() in page


def test_a_report_speaks_of_the_signed_size_and_its_origin(data: Path):
    sign_size(data, 20)
    document = json.loads(run("report", "evaluation", "--data", str(data), "--format", "json").stdout)
    assert (document["log"]["size"], document["log"]["signed"], document["log"]["origin"]) == (20, True, "assay.example/test")
    assert document["body"]["traffic"]["calls"] == 10
    larger = json.loads(run("report", "evaluation", "--data", str(data), "--format", "json", "--size", "27").stdout)
    assert larger["log"]["signed"] is False


def test_no_report_is_made_from_leaves_that_do_not_fit_the_checkpoint(data: Path):
    sign_size(data, 20, bytes(32))
    assert "checkpoint signed" in run("report", "evaluation", "--data", str(data), code=1).output


def test_a_key_signs_the_json_report_beside_it(data: Path, tmp_path: Path):
    save_signing_key(KEY, tmp_path / "key")
    path = tmp_path / "report.json"
    run("report", "maturity", "--data", str(data), "--format", "json", "-o", str(path), "--key", str(tmp_path / "key"))
    verify_note(json.loads(path.read_bytes()), path.read_bytes(), (tmp_path / "report.json.note").read_bytes(), KEY.verifier)
    assert "--format json" in run("report", "maturity", "--data", str(data), "--key", str(tmp_path / "key"), code=2).output


def test_an_unknown_framework_is_refused_with_the_known_ones(data: Path):
    assert "azure" in run("report", "maturity", "--data", str(data), "--framework", "x", code=2).output


def test_json_is_asked_for_as_of_every_other_command(data: Path):
    assert (
        run("report", "maturity", "--data", str(data), "--json").stdout == run("report", "maturity", "--data", str(data), "--format", "json").stdout
    )
