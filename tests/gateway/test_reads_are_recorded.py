"""Every read of the log by a person is itself a record of it; what is exported verifies elsewhere; the console has the auditor's pages."""

from __future__ import annotations

import csv
import getpass
import io
import json
import sqlite3
import subprocess
from typing import Any

import httpx
import pytest
from deployment import COMMAND, ENVIRONMENT, Deployment, wait_until

from audit.bundle import verify_bundle
from audit.merkle import leaf_hash
from audit.proof import parse_proof, verify_proof


@pytest.fixture(scope="module")
def asked(spine: Deployment) -> Deployment:
    """The shared gateway after some calls, with an auditor's key."""
    spine.add_key("reader", "audit:read", "tenants:all")
    spine.add_key("looker", "admin:read", "tenants:all")
    for number in range(12):
        spine.infer("split", unit=f"reader {number}")
    spine.infer("unapproved")
    wait_until(lambda: get(spine, "/api/records").status_code == 200, "the auditor's key")
    wait_until(lambda: get(spine, "/api/records", model="split").json()["rows"], "the calls to be indexed")
    return spine


def audit(deployment: Deployment, *words: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "audit", *map(str, words)]
    return subprocess.run(command, cwd=deployment.directory, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)


def get(deployment: Deployment, path: str, key: str = "reader", **parameters: str) -> httpx.Response:
    return deployment.client.get(f"{deployment.admin}{path}", params=parameters, headers=deployment.bearer(key))


def reads(deployment: Deployment, kind: str = "query") -> list[dict[str, Any]]:
    return deployment.log.of_type(kind)


# --- recorded -----------------------------------------------------------------------------------------------------------------------------


def test_a_question_on_the_admin_port_is_a_record_that_names_the_key_and_the_question(asked: Deployment):
    before = len(reads(asked))
    reply = get(asked, "/api/records", model="split", policy="allow", limit="5").json()
    (record,) = reads(asked)[before:]
    assert record["question"] == {"model": "split", "policy": "allow"}
    assert (record["rows"], record["size"], record["full_scan"]) == (5, reply["size"], False)
    assert record["actor"]["kind"] == "key"


@pytest.mark.parametrize(
    ("words", "question"),
    [
        (("evaluation", "--model", "split"), {"report": "evaluation", "model": "split"}),
        (("maturity",), {"report": "maturity", "framework": "azure"}),
        (("experiment", "half"), {"report": "experiment", "experiment": "half"}),
    ],
)
def test_a_report_is_a_read_by_a_person_and_a_record(asked: Deployment, words: tuple[str, ...], question: dict[str, str]):
    before = len(reads(asked))
    command = [*COMMAND, "report", *words, "--data", str(asked.data), "--format", "json"]
    done = subprocess.run(command, cwd=asked.directory, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    size = json.loads(done.stdout)["log"]["size"]
    (record,) = reads(asked)[before:]
    assert record["actor"] == {"kind": "person", "id": getpass.getuser()}
    assert (record["question"], record["size"], record["rows"], record["full_scan"]) == (question, size, size, True)


def test_a_question_on_the_command_line_is_a_record_that_names_the_person(asked: Deployment):
    before = len(reads(asked))
    done = audit(asked, "query", "--type", "call", "--json")
    assert done.returncode == 0, done.stderr
    (record,) = reads(asked)[before:]
    assert record["actor"] == {"kind": "person", "id": getpass.getuser()}
    assert (record["question"], record["rows"]) == ({"type": "call"}, len(json.loads(done.stdout)["rows"]))
    assert record["writer"]["node"] == "cli"


@pytest.mark.parametrize(
    ("path", "parameters"),
    [("/api/records", {"limit": "9" * 5000}), ("/api/evidence", {"first": "9" * 5000, "end": "1"}), (f"/api/records/{'9' * 5000}", {})],
)
def test_a_number_no_index_can_have_is_refused_in_words(asked: Deployment, path: str, parameters: dict[str, str]):
    assert get(asked, path, **parameters).status_code in (400, 404)
    assert asked.client.get(f"{asked.admin}{path}", params=parameters).status_code in (401, 404), "and tells a stranger nothing"


def test_showing_one_record_is_a_record(asked: Deployment):
    before = len(reads(asked))
    index = get(asked, "/api/records", model="split", limit="1").json()["rows"][0]["idx"]
    assert audit(asked, "show", f"#{index}").returncode == 0
    get(asked, f"/api/records/{index}")
    assert [record["question"] for record in reads(asked)[before + 1 :]] == [{"id": f"#{index}"}, {"index": str(index)}]


def test_fetching_whole_entries_is_one_record_a_key_however_many_are_fetched(asked: Deployment):
    asked.add_key("verifier", "audit:read", "tenants:all")
    wait_until(lambda: get(asked, "/log/checkpoint", key="verifier").status_code == 200, "the verifier's key")
    asked.wait_signed(20)
    before = len(reads(asked))
    for width in (3, 5, 8):
        assert get(asked, f"/log/tile/entries/000.p/{width}", key="verifier").status_code == 200
        assert get(asked, f"/log/tile/0/000.p/{size_of(asked)}", key="verifier").status_code in {200, 404}
    (record,) = reads(asked)[before:]
    assert (record["question"], record["full_scan"]) == ({"log": "entries"}, True)


def size_of(deployment: Deployment) -> int:
    return min(int(deployment.checkpoint().splitlines()[1]), 255)


def test_a_leaf_that_is_written_out_with_its_proof_is_a_record(asked: Deployment, tmp_path):
    asked.wait_signed(5)
    before = len(reads(asked))
    done = audit(asked, "prove", "data", 5, "-o", tmp_path / "p", "--leaf", tmp_path / "l")
    assert done.returncode == 0, done.stderr
    assert [record["question"] for record in reads(asked)[before:]] == [{"index": "5"}]


def test_many_commands_at_once_are_each_recorded(asked: Deployment):
    before = len(reads(asked))
    command = [*COMMAND, "audit", "query", "--limit", "1"]
    running = [subprocess.Popen(command, cwd=asked.directory, env=ENVIRONMENT, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    assert len(reads(asked)) == before + 4


def test_a_stopped_recorder_means_nothing_is_shown(asked: Deployment):
    with asked.paused("recorder"):
        assert get(asked, "/api/records").status_code == 503
        done = audit(asked, "query", "--json")
        assert (done.returncode, done.stdout) == (3, "")
        assert "could not be recorded" in done.stderr
    wait_until(lambda: get(asked, "/api/records").status_code == 200, "the recorder to answer again")


# --- who, what ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/records", "/records/0", "/api/records", "/api/records/0", "/api/records/0/leaf", "/api/records/0/proof", "/api/evidence"]
)
def test_records_need_the_auditors_scope(asked: Deployment, path: str):
    before = len(reads(asked))
    assert get(asked, path, key="looker").status_code == 403
    assert asked.client.get(f"{asked.admin}{path}").status_code in {401, 303}
    assert len(reads(asked)) == before


WRONG: list[dict[str, str]] = [
    {"colour": "red"},
    {"subject": "ada@example.org"},
    {"model": "m" * 201},
    {"since": "yesterday"},
    {"limit": "0"},
    {"limit": "1001"},
    {"cursor": "x"},
    {"format": "xls"},
]


@pytest.mark.parametrize("parameters", WRONG)
def test_a_question_that_cannot_be_asked_is_a_400_with_a_hint(asked: Deployment, parameters: dict[str, str]):
    reply = get(asked, "/api/records", **parameters)
    assert (reply.status_code, reply.json()["code"]) == (400, "malformed_query")
    assert reply.json()["hint"]


def test_pages_of_one_walk_stay_at_one_size_and_agree_with_a_full_scan(asked: Deployment):
    first = get(asked, "/api/records", limit="5", oldest_first="1").json()
    rows, cursor = first["rows"], first["cursor"]
    while cursor:
        page = get(asked, "/api/records", limit="500", oldest_first="1", cursor=cursor).json()
        assert page["size"] == first["size"], "though each page is one record more in the log"
        rows, cursor = rows + page["rows"], page["cursor"]
    assert [row["idx"] for row in rows] == list(range(first["size"]))
    scanned = get(asked, "/api/records", limit="1000", oldest_first="1", full_scan="1").json()["rows"]
    assert scanned[: len(rows)] == rows


def test_a_deleted_index_is_noticed_and_the_answers_are_the_same(asked: Deployment):
    question = {"model": "split", "type": "call", "oldest_first": "1"}
    before = get(asked, "/api/records", **question).json()["rows"]
    (asked.data / "index.sqlite").unlink()
    assert get(asked, "/api/records", **question).json()["rows"] == before


def test_a_row_that_was_edited_is_found_by_the_check_and_gone_after_a_rebuild(asked: Deployment):
    assert audit(asked, "rebuild", "--check").returncode == 0
    with sqlite3.connect(asked.data / "index.sqlite", timeout=10) as index:
        index.execute("UPDATE leaf_index SET subject = 'f' WHERE idx = 3")
    index.close()
    found = audit(asked, "rebuild", "--check")
    assert (found.returncode, "row `3` differs from its leaf" in found.stderr) == (1, True)
    assert audit(asked, "rebuild").returncode == 0
    assert audit(asked, "rebuild", "--check", "--json").returncode == 0
    assert get(asked, "/api/records").status_code == 200


def test_an_index_that_is_deleted_again_and_again_under_commands_ends_no_process(asked: Deployment):
    before = asked.pids()
    command = [*COMMAND, "audit", "query", "--limit", "1"]
    for _ in range(3):
        running = [subprocess.Popen(command, cwd=asked.directory, env=ENVIRONMENT, stdout=subprocess.DEVNULL) for _ in range(2)]
        for _ in range(10):
            (asked.data / "index.sqlite").unlink(missing_ok=True)
            assert get(asked, "/api/records", limit="1").status_code == 200
        assert [process.wait(60) for process in running] == [0, 0]
    assert asked.pids() == before


def test_rows_come_as_csv_json_lines_and_parquet(asked: Deployment, tmp_path):
    question = {"model": "split", "type": "call", "oldest_first": "1", "limit": "10"}
    rows = get(asked, "/api/records", **question).json()["rows"]
    table = list(csv.DictReader(io.StringIO(get(asked, "/api/records", format="csv", **question).text)))
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    lines = [json.loads(line) for line in get(asked, "/api/records", format="jsonl", **question).text.splitlines()]
    assert lines == [{name: value for name, value in row.items() if value is not None} for row in rows]
    parquet = pytest.importorskip("pyarrow.parquet")
    done = audit(asked, "query", "--model", "split", "--type", "call", "--oldest-first", "--limit", 10, "--format", "parquet", "-o", tmp_path / "t")
    assert done.returncode == 0, done.stderr
    assert parquet.read_table(tmp_path / "t").to_pylist() == rows


# --- proven -------------------------------------------------------------------------------------------------------------------------------


def test_a_record_comes_with_its_proof_and_its_exact_bytes(asked: Deployment):
    index = get(asked, "/api/records", model="split", limit="1").json()["rows"][0]["idx"]
    asked.wait_signed(index)
    leaf = get(asked, f"/api/records/{index}/leaf").content
    proof = parse_proof(get(asked, f"/api/records/{index}/proof").content)
    assert verify_proof(proof, leaf, [asked.vkey]).checkpoint.size > index
    told = get(asked, f"/api/records/{index}").json()
    assert told["record"] == json.loads(leaf)
    assert told["explanation"]["arm"]["state"] == "reproduced"
    assert get(asked, "/api/records/99999999").status_code == 404
    assert len(leaf_hash(leaf)) == 32


def test_evidence_from_the_admin_port_and_from_the_command_line_verifies_with_the_key_alone(asked: Deployment, tmp_path):
    index = get(asked, "/api/records", model="split", limit="1").json()["rows"][0]["idx"]
    asked.wait_signed(index)
    before = len(reads(asked, "export"))
    found = verify_bundle(io.BytesIO(get(asked, "/api/evidence", model="split", type="call").content), [asked.vkey])
    assert found.question == {"model": "split", "type": "call", "oldest_first": True}
    assert all(json.loads(leaf)["model"]["name"] == "split" for leaf in found.leaves.values())
    span = verify_bundle(io.BytesIO(get(asked, "/api/evidence", first="2", end="9").content), [asked.vkey])
    assert (span.is_complete, sorted(span.leaves)) == (True, list(range(2, 9)))
    done = audit(asked, "export", "--where", "model=split", "--where", "type=call", "-o", tmp_path / "b.zip")
    assert done.returncode == 0, done.stderr
    checked = audit(asked, "verify-bundle", tmp_path / "b.zip", "--vkey", str(asked.vkey), "--json")
    assert checked.returncode == 0, checked.stderr
    assert set(found.leaves) <= set(json.loads(checked.stdout)["records"])
    assert len(reads(asked, "export")) == before + 3
    assert get(asked, "/api/evidence", model="nobody").status_code == 400
    assert get(asked, "/api/evidence", first="5", end="5").status_code == 400


# --- the console --------------------------------------------------------------------------------------------------------------------------


def test_the_auditors_pages_find_show_and_prove(asked: Deployment):
    listed = get(asked, "/records", model="split")
    assert listed.status_code == 200
    assert "Export as evidence" in listed.text
    index = get(asked, "/api/records", model="split", limit="1").json()["rows"][0]["idx"]
    asked.wait_signed(index)
    page = get(asked, f"/records/{index}").text
    for words in ("Answered 200 by split", "Proof", "Signed head", "Which version, and why", "hashes lead from it to the root"):
        assert words in page
    assert "is not a time" in get(asked, "/records", since="never").text
    assert "No record answers" in get(asked, "/records", model="nobody").text


def test_what_a_person_asks_is_escaped_on_the_page(asked: Deployment):
    assert "<script>alert" not in get(asked, "/records", model="<script>alert(1)</script>").text
