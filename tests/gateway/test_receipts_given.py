"""Receipts through a whole gateway: asked for, promised, proven, and checked offline by a stranger; nothing for who does not ask."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import httpx
import pytest
from deployment import BODY, COMMAND, ENVIRONMENT, Deployment, wait_until

from audit.merkle import leaf_hash
from audit.note import parse
from audit.promise import Promise, judge_in_log, judge_with_proof
from audit.receipt import Certificates, parse_receipt, read_note
from audit.source import open_directory

ASK = {"assay-receipt": "1"}


def call(gateway: Deployment, model: str = "plain", ask: str | None = "1", key: str = "product", **headers: str) -> httpx.Response:
    asked = {} if ask is None else {"assay-receipt": ask}
    return gateway.client.post(f"{gateway.front}/v2/models/{model}/infer", json=BODY, headers={**gateway.bearer(key), **asked, **headers})


def proof_of(gateway: Deployment, decision: str, key: str = "product") -> httpx.Response:
    return gateway.client.get(f"{gateway.front}/receipts/{decision}", headers=gateway.bearer(key))


def proven(gateway: Deployment, decision: str) -> httpx.Response:
    """Return the proof once a signed head covers the call and the index knows it."""
    return wait_until(lambda: reply if (reply := proof_of(gateway, decision)).status_code == 200 else None, "the proof of a receipt")


def promised_leaf(gateway: Deployment, note: bytes) -> dict:
    """Return the record whose leaf a receipt promises."""
    receipt = parse_receipt(note)

    def found() -> dict | None:
        wanted = {"node": receipt.node, "epoch": receipt.epoch, "seq": receipt.seq}
        return next((record for record in gateway.log.refresh() if record["writer"] == wanted), None)

    return wait_until(found, "the promised record")


@pytest.fixture
def asking(gateway: Deployment) -> Deployment:
    """The shared gateway once its worker has a receipt key."""
    wait_until(lambda: "assay-receipt" in call(gateway).headers, "the worker to have the receipt key")
    return gateway


def test_who_does_not_ask_gets_no_receipt_and_who_asks_gets_one(asking: Deployment, one):
    assert "assay-receipt" not in call(asking, ask=None).headers
    reply = call(asking)
    assert reply.status_code == 200
    receipt = parse_receipt(read_note(reply.headers["assay-receipt"].encode()))
    assert receipt.decision == reply.headers["assay-decision"]
    record = promised_leaf(asking, read_note(reply.headers["assay-receipt"].encode()))
    assert (record["type"], record["id"]) == ("call", receipt.decision)
    assert "assay-receipt" not in one.asked[-1].headers, "the model is told nothing of it"


def test_the_proof_at_receipts_shows_the_promise_kept_and_tells_nothing_of_the_record(asking: Deployment):
    reply = call(asking)
    note, decision = read_note(reply.headers["assay-receipt"].encode()), reply.headers["assay-decision"]
    answer = proven(asking, decision)
    verdict = judge_with_proof(note, answer.content, [asking.vkey])
    assert verdict.promise is Promise.KEPT
    assert answer.headers["cache-control"] == "no-store"
    assert "champion" not in answer.text
    assert "subject" not in answer.text
    assert {key for record in answer.json()["records"] for key in record} == {"index", "leaf_hash", "proof"}
    assert judge_in_log(note, open_directory(asking.data), [asking.vkey]).index == verdict.index


@pytest.mark.parametrize(("model", "kind"), [("durable", "outcome"), ("unapproved", "call"), ("down", "call")])
def test_sync_calls_refusals_and_failures_are_promised_too(asking: Deployment, model: str, kind: str):
    reply = call(asking, model)
    note = read_note(reply.headers["assay-receipt"].encode())
    record = promised_leaf(asking, note)
    assert record["type"] == kind
    assert record["outcome"]["status"] == reply.status_code
    assert judge_with_proof(note, proven(asking, reply.headers["assay-decision"]).content, [asking.vkey]).promise is Promise.KEPT


def test_a_stream_is_promised_by_its_decision_before_its_first_byte(asking: Deployment):
    with asking.client.stream(
        "POST", f"{asking.front}/v2/models/plain/infer", json=BODY, headers={**asking.bearer("product"), **ASK, "x-behave": "stream:3:0.05"}
    ) as reply:
        note = read_note(reply.headers["assay-receipt"].encode())
        reply.read()
    assert promised_leaf(asking, note)["type"] == "decision"
    decision = reply.headers["assay-decision"]
    wait_until(lambda: len(proven(asking, decision).json()["records"]) == 2, "decision and outcome to be covered")
    assert judge_with_proof(note, proven(asking, decision).content, [asking.vkey]).promise is Promise.KEPT


@pytest.mark.parametrize("ask", ["yes", "0", "", "1, 1"])
def test_what_is_no_clear_question_for_a_receipt_is_refused_and_no_model_is_called(asking: Deployment, one, ask: str):
    before = len(one.asked)
    reply = call(asking, ask=ask)
    assert (reply.status_code, reply.json()["code"]) == (400, "malformed_request")
    assert len(one.asked) == before


def test_a_proof_is_for_the_tenant_whose_call_it_was(asking: Deployment):
    decision = call(asking).headers["assay-decision"]
    proven(asking, decision)
    asking.add_key("stranger", "infer", tenant="other")
    wait_until(lambda: proof_of(asking, decision, "stranger").status_code != 401, "the new key")
    assert proof_of(asking, decision, "stranger").status_code == 404
    assert asking.client.get(f"{asking.front}/receipts/{decision}").status_code == 401
    assert asking.client.get(f"{asking.admin}/api/receipts/{decision}").status_code == 401
    assert proof_of(asking, str(uuid.uuid4())).status_code == 404
    for path in ("x", "../metrics", decision + "/", decision.upper()):
        assert asking.client.get(f"{asking.front}/receipts/{path}", headers=asking.bearer("product")).status_code == 404
    assert asking.client.post(f"{asking.front}/receipts/{decision}", headers=asking.bearer("product")).status_code == 405


def test_the_log_certifies_the_key_before_its_first_receipt_and_metrics_count(asking: Deployment):
    note = read_note(call(asking).headers["assay-receipt"].encode())
    certificates = Certificates()
    for index, record in enumerate(asking.log.refresh()):
        if record["type"].startswith("key."):
            certificates.fold(index, record)
    certificate = certificates.of(note)
    assert certificate is not None
    assert certificate.node == asking.node
    promised_leaf(asking, note)
    assert certificate.index < asking.log.records.index(promised_leaf(asking, note))
    assert (asking.data / "run" / "receipts.key").stat().st_mode & 0o777 == 0o600
    assert wait_until(lambda: "assay_receipts_total 0.0" not in asking.get("/metrics", key="console").text, "the count")


def test_a_log_says_once_how_it_begins_before_a_key_of_it_does(asking: Deployment):
    kinds = [record["type"] for record in asking.log.refresh()]
    assert kinds.count("log.open") == 1
    assert kinds.index("log.open") < kinds.index("key.began")
    (opened,) = asking.log.of_type("log.open")
    assert (opened["origin"], "previous" in opened) == ("assay.example/test", False)


def test_a_stranger_checks_a_receipt_on_the_command_line(asking: Deployment, tmp_path: Path):
    reply = call(asking)
    decision = reply.headers["assay-decision"]
    (tmp_path / "receipt").write_text(reply.headers["assay-receipt"])
    (tmp_path / "proof.json").write_bytes(proven(asking, decision).content)
    (tmp_path / "log.vkey").write_text(str(asking.vkey))

    def verify(*words: object) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "audit", "verify-receipt", *map(str, words), "--vkey", "log.vkey"]
        return subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)

    by_proof = verify("receipt", "--proof", "proof.json")
    assert (by_proof.returncode, by_proof.stdout.split()[0]) == (0, "kept"), by_proof.stderr
    by_log = verify(reply.headers["assay-receipt"], "--log", asking.data, "--json")
    assert by_log.returncode == 0, by_log.stderr
    assert json.loads(by_log.stdout)["receipt"]["decision"] == decision
    assert verify("receipt").returncode == 2
    other = parse(read_note(reply.headers["assay-receipt"].encode())).text.replace("merge 5", "merge 9")
    (tmp_path / "forged").write_text(other + "\n" + read_note(reply.headers["assay-receipt"].encode()).decode().partition("\n\n")[2])
    forged = verify("forged", "--log", asking.data)
    assert (forged.returncode, "does not verify" in forged.stderr) == (1, True)


def test_a_receipt_names_the_very_bytes_that_are_in_the_log(asking: Deployment):
    note = read_note(call(asking).headers["assay-receipt"].encode())
    promised_leaf(asking, note)
    index = judge_in_log(note, open_directory(asking.data), [asking.vkey]).index
    if index is None:  # the head is a moment behind
        index = wait_until(lambda: judge_in_log(note, open_directory(asking.data), [asking.vkey]).index, "the head")
    size = int(asking.checkpoint().splitlines()[1])
    assert leaf_hash(open_directory(asking.data).entry(index, size) or b"") == parse_receipt(note).leaf_hash
