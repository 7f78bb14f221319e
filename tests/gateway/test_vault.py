"""The vault of a real gateway: what is captured, who may read it, how a subject is erased, and that nothing brings it back."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from browser import Browser
from click.testing import Result
from deployment import DAY_US, Deployment, wait_until
from typer.testing import CliRunner
from upstreams import Model

from audit.store.layout import vault_path
from audit.store.sqlite import open_reader
from audit.vault.crypto import MasterKey
from gateway.cli.main import app
from gateway.config.layout import write_durably
from gateway.pseudonyms import commitment
from policies.erasure import ErasureConsent, Ground, about, sign_erasure
from policies.trust import PersonKey

VAULT = 'vault: {key: "file:keys/vault.key", erase_people: 2}\n'
PLAN = {
    "retention": "30d",
    "request": {"/parameters": "keep", "/parameters/email": "hash", "/parameters/note": "truncate:8", "/parameters/secret": "drop"},
    "reply": {"/outputs/0/data": "keep", "/parameters/echo": "mask"},
    "context": {"/country": "keep"},
    "tenants": {"beta": {"retention": "1d"}},
}
SENT = {"email": "ann@example.com", "note": "a long note about a person", "secret": "never kept", "age": 41}


def body(word: str) -> dict[str, Any]:
    return {"parameters": SENT, "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [word]}]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, one: Model) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("vault"), settings=VAULT)
    write_durably(deployment.layout.keys / "vault.key", MasterKey(os.urandom(32)).secret_text().encode(), mode=0o600)
    for name, key in deployment.people.items():
        write_durably(deployment.layout.keys / f"{name}.key", key.encode().encode(), mode=0o600)
    for name, keys in (("plain", {}), ("kept", {}), ("durable", {"audit": "sync"})):
        capture = {} if name == "plain" else {"capture": {"vault": PLAN}}
        deployment.write_model(name, {"1": one.url}, **keys, **capture)
        deployment.approve(name, "1", url=one.url)
    deployment.add_key("product", "infer", "unit:assert", "context:assert")
    deployment.add_key("beta", "infer", "unit:assert", tenant="beta")
    deployment.add_key("reader", "audit:read", "vault:read", "tenants:all")
    deployment.add_key("officer", "subject:erase", "tenants:all")
    with deployment.running():
        yield deployment


def call(gateway: Deployment, unit: str, *, model: str = "kept", word: str = "a-word-of-its-own", key: str = "product", **headers: str) -> str:
    """Make a call and return its decision, once it is recorded and kept."""
    sent = json.dumps(body(word)).encode()
    reply = gateway.client.post(
        f"{gateway.front}/v2/models/{model}/infer",
        content=sent,
        headers={**gateway.bearer(key), "assay-unit": unit, "content-type": "application/json", **headers},
    )
    assert reply.status_code == 200, reply.text
    decision = reply.headers["assay-decision"]
    gateway.outcome(decision)
    return decision


def index_of(gateway: Deployment, decision: str) -> int:
    return gateway.log.records.index(gateway.record(decision))


def payload(gateway: Deployment, decision: str, key: str = "reader") -> httpx.Response:
    return gateway.client.get(f"{gateway.admin}/api/records/{index_of(gateway, decision)}/payload", headers=gateway.bearer(key))


def kept(gateway: Deployment, decision: str) -> dict[str, Any]:
    """Return what the vault keeps of a call, once it has arrived there."""

    def look() -> Any:
        answer = payload(gateway, decision)
        if answer.status_code == 404:  # the outcome of a decision is shown once a signed head covers it
            return None
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.json()["state"] != "absent" else None

    found: dict[str, Any] = wait_until(look, "the entry to be committed")
    return found


def assay(gateway: Deployment, *words: str, given: str | None = None, key: str = "officer") -> Result:
    return CliRunner().invoke(app, list(words), input=given, env={"ASSAY_KEY": gateway.keys[key], "NO_COLOR": "1", "COLUMNS": "300"})


def erase_by_command(gateway: Deployment, unit: str) -> dict[str, Any]:
    """Have a subject erased by the command line, with the consents of both people."""
    consent = gateway.directory / "alice.consent"
    common = ("--tenant", "acme", "--dir", str(gateway.directory))
    keys = {name: ("--as", name, "--key", str(gateway.layout.keys / f"{name}.key")) for name in gateway.people}
    signed = assay(gateway, "audit", "erase", "-", *common, *keys["alice"], "--write", str(consent), given=unit)
    assert signed.exit_code == 0, signed.stderr
    done = assay(gateway, "audit", "erase", "-", *common, *keys["bob"], "--consent", str(consent), "--yes", "--json", given=unit)
    assert done.exit_code == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_the_plan_names_is_kept_as_its_rules_say_and_matches_the_record(gateway):
    decision = call(gateway, "customer-1", word="the-echo-of-a-word", **{"assay-context": '{"country": "CH", "city": "Basel"}'})
    found = kept(gateway, decision)
    request = found["fields"]["request"]["/parameters"]
    assert (found["state"], found["matches"]) == ("kept", True)
    assert request == {"age": 41, "note": "a long n", "email": request["email"]}
    assert len(request["email"]["hash"]) == 64
    assert found["fields"]["reply"] == {"/outputs/0/data": [1], "/parameters/echo": "****word"}
    assert found["fields"]["context"] == {"/country": "CH"}
    record = gateway.log.by_id[decision]
    assert record["payload"]["vault"] == found["committed"]
    salt = bytes.fromhex(found["salts"]["in"])
    assert commitment(salt, json.dumps(body("the-echo-of-a-word")).encode()) == record["payload"]["in"]


def test_a_person_with_the_scope_reads_it_by_command_and_one_without_is_refused(gateway):
    decision = call(gateway, "customer-1")
    kept(gateway, decision)
    words = ("audit", "show", decision, "--data", str(gateway.data), "--dir", str(gateway.directory), "--payload")
    shown = assay(gateway, *words, key="reader")
    assert shown.exit_code == 0, shown.output
    assert "It matches the commitment of the record." in shown.stdout
    assert 'request /parameters: {"age": 41, "email": {"hash": "' in shown.stdout
    assert "the vault keeps them until" in shown.stdout
    refused = assay(gateway, *words, key="officer")
    assert (refused.exit_code, "needs the scope `vault:read`" in refused.stderr) == (1, True)


def test_a_sync_route_answers_only_once_its_entry_is_committed_and_another_tenant_has_its_own_plan(gateway):
    reply = gateway.infer("durable", unit="customer-2")
    with contextlib.closing(open_reader(vault_path(gateway.data))) as reader:
        held = reader.execute("SELECT count(*) FROM vault_entry WHERE record = ?", (reply.headers["assay-decision"],)).fetchone()
    assert held == (1,), "without waiting"
    other = kept(gateway, call(gateway, "customer-2", key="beta"))
    assert (other["state"], other["fields"], set(other["salts"])) == ("kept", {}, {"in", "out"})


def test_a_route_that_captures_nothing_names_nothing_in_the_vault(gateway):
    decision = call(gateway, "customer-3", model="plain")
    assert "vault" not in gateway.log.by_id[decision]["payload"]
    assert payload(gateway, decision).status_code == 404


def test_a_read_needs_a_scope_of_its_own_and_is_a_record_before_anything_is_shown(gateway):
    decision = call(gateway, "customer-4")
    assert payload(gateway, decision, key="console").json()["code"] == "missing_scope"
    before = len([record for record in gateway.log.of_type("query") if record["question"] == {"payload": decision}])
    kept(gateway, decision)
    reads = [record for record in gateway.log.of_type("query") if record["question"] == {"payload": decision}]
    assert (before, len(reads) >= 1) == (0, True)
    assert reads[0]["actor"]["kind"] == "key"


def consent(unit: str, key: PersonKey, ground: Ground = "request", *, issued_us: int | None = None) -> dict[str, str]:
    now_us = time.time_ns() // 1000 if issued_us is None else issued_us
    nonce = os.urandom(32)
    said = ErasureConsent("assay.example/test", "acme", about(nonce, "acme", unit), ground, now_us, now_us + DAY_US)
    return {"nonce": nonce.hex(), "envelope": sign_erasure(said, key).decode()}


def order(gateway: Deployment, unit: str, *consents: dict[str, str], key: str = "officer", **more: str) -> dict[str, Any]:
    """Ask for an erasure as a program would."""
    body = {"unit": unit, "tenant": "acme", "ground": "request", "consents": consents, **more}
    answer: dict[str, Any] = gateway.client.post(f"{gateway.admin}/api/erasures", json=body, headers=gateway.bearer(key)).json()
    return answer


def test_an_erasure_takes_a_scope_and_two_people_who_signed_for_this_subject_and_ground_now(gateway):
    call(gateway, "customer-5")
    alice, bob = (gateway.people[name] for name in ("alice", "bob"))
    mine, yours = consent("customer-5", alice), consent("customer-5", bob)
    assert order(gateway, "customer-5", mine, yours, key="reader")["code"] == "missing_scope"
    assert order(gateway, "customer-5", mine, yours, ground="a reason in words")["code"] == "malformed_body"
    assert order(gateway, "customer-5", mine)["detail"] == "2 approvers sign an erasure, 1 did"
    assert order(gateway, "customer-5", mine, consent("customer-5", alice))["detail"] == "2 approvers sign an erasure, 1 did"
    wrong = (
        consent("someone-else", bob),
        consent("customer-5", bob, "order"),
        consent("customer-5", bob, issued_us=time.time_ns() // 1000 - 2 * DAY_US),
        consent("customer-5", PersonKey.from_seed(os.urandom(32))),
        {**yours, "nonce": mine["nonce"]},
    )
    for other in wrong:
        refused = order(gateway, "customer-5", mine, other)
        assert refused["code"] == "bad_consent"
        assert "customer-5" not in json.dumps(refused)
    assert gateway.log.of_type("erasure") == []


def test_an_erased_subject_is_gone_the_rest_is_there_every_proof_verifies_and_the_record_names_nobody(gateway):
    erased = [call(gateway, "customer-6", model=model) for model in ("kept", "durable", "kept")]
    other = call(gateway, "customer-7")
    for decision in (*erased, other):
        kept(gateway, decision)
    known = gateway.checkpoint()
    done = erase_by_command(gateway, "customer-6")
    assert (done["keys"], done["entries"]) == (1, 3)
    assert {payload(gateway, decision).json()["state"] for decision in erased} == {"erased"}
    assert kept(gateway, other)["state"] == "kept"
    (record,) = gateway.log.of_type("erasure")
    assert (record["erasure"], record["entries"], record["ground"], len(record["keys"])) == (done["erasure"], 3, "request", 1)
    assert [each["person"] for each in record["signed"]] == ["alice", "bob"]
    subject = gateway.log.by_id[erased[0]]["subject"]
    told = json.dumps(record)
    assert "customer-6" not in told
    assert subject not in told
    verdict = gateway.verify(known)
    assert (verdict.chain.grade, verdict.tamper.grade) == ("ok", "ok"), verdict
    shown = assay(gateway, "audit", "show", erased[0], "--data", str(gateway.data))
    assert f"have been erased (erasure `{done['erasure']}`)" in shown.stdout, shown.stdout + shown.stderr


# --- pages --------------------------------------------------------------------------------------------------------------------------------


def page(gateway: Deployment, path: str, key: str = "reader") -> httpx.Response:
    return gateway.client.get(f"{gateway.admin}{path}", headers=gateway.bearer(key))


def test_from_a_records_page_what_was_captured_is_shown_checked_and_the_reading_of_it_recorded(gateway):
    decision = call(gateway, "customer-11")
    kept(gateway, decision)
    index = index_of(gateway, decision)
    assert f'href="/records/{index}/payload"' in page(gateway, f"/records/{index}").text
    before = len(gateway.log.of_type("query"))
    shown = page(gateway, f"/records/{index}/payload")
    assert shown.status_code == 200
    assert "matches the record" in shown.text
    assert [word for word in ("a long n", "41", "/outputs/0/data", "****-own") if word not in shown.text] == []
    assert [word for word in ("ann@example.com", "never kept", "customer-11") if word in shown.text] == []
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert shown.headers["cache-control"] == "no-store"
    reads = [record["question"] for record in gateway.log.of_type("query")[before:]]
    assert {"payload": decision} in reads, "it was recorded before it was shown"


def test_a_page_with_what_was_captured_needs_the_scope_and_a_record_that_captured_something(gateway):
    decision, plain = call(gateway, "customer-12"), call(gateway, "customer-12", model="plain")
    index = index_of(gateway, decision)
    text = page(gateway, f"/records/{index}", key="console").text
    assert f"/records/{index}/payload" not in text
    assert "A key with the scope <code>vault:read</code> shows what was captured" in text
    refused = page(gateway, f"/records/{index}/payload", key="console")
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
    for path in (f"/records/{index}/payload", "/vault"):
        assert gateway.client.get(f"{gateway.admin}{path}").headers["location"] == "/login"
    assert page(gateway, f"/records/{index_of(gateway, plain)}/payload").status_code == 404
    assert "captured" not in page(gateway, f"/records/{index_of(gateway, plain)}").text
    assert page(gateway, "/vault", key="product").status_code == 403


def test_what_a_caller_sent_is_escaped_on_the_page(gateway):
    sent = {**SENT, "note": "<script>"}
    body = json.dumps({"parameters": sent, "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["w"]}]}).encode()
    decision = gateway.infer("kept", content=body, unit="customer-13").headers["assay-decision"]
    kept(gateway, decision)
    text = page(gateway, f"/records/{index_of(gateway, decision)}/payload").text
    assert "&lt;script&gt;" in text
    assert "<script>" not in text


def test_who_follows_the_commands_on_the_vaults_page_erases_the_subject_and_finds_it_listed(gateway):
    decision = call(gateway, "customer-14")
    kept(gateway, decision)
    commands = [html.unescape(found) for found in re.findall(r"<pre><code>(assay [^<]*)</code></pre>", page(gateway, "/vault", key="officer").text)]
    assert len(commands) == 2, "as many as people have to sign"
    people = iter(gateway.people)
    for command in commands:
        told, _, file = command.partition(" < ")
        assert file == "subject.txt", "the subject stands on no command line"
        name = next(people)
        given = {"TENANT": "acme", "GROUND": "objection", "PERSON": name, "FILE": str(gateway.layout.keys / f"{name}.key"), "ADMIN": gateway.admin}
        words = [given.get(word, word).replace("first.consent", str(gateway.directory / "first.consent")) for word in told.split()[1:]]
        done = assay(gateway, *words, *([] if "--write" in words else ["--yes"]), given="customer-14\n")
        assert done.exit_code == 0, done.stdout + done.stderr
    record = gateway.log.of_type("erasure")[-1]
    gateway.wait_signed(gateway.log.records.index(record))
    listed = page(gateway, "/vault", key="officer").text
    row = next(part for part in listed.split("<tr") if record["erasure"] in part)
    assert [word for word in ("the person objected", "acme", "alice, bob", record["actor"]["id"]) if word not in row] == []
    assert "customer-14" not in listed
    assert {"type": "erasure"} in [each["question"] for each in gateway.log.of_type("query")], "that the list was read is a record"
    gone = page(gateway, f"/records/{index_of(gateway, decision)}/payload").text
    assert "nobody can open what the record commits to" in gone
    assert f"/vault#e-{record['erasure']}" in gone
    assert "alice</code> and <code>bob" in page(gateway, f"/records/{gateway.log.records.index(record)}").text


def test_an_officer_is_led_to_the_vaults_page_and_to_no_page_that_would_refuse(gateway):
    with httpx.Client(follow_redirects=True, timeout=20) as browser:
        entered = browser.post(f"{gateway.admin}/login", data={"key": gateway.keys["officer"]})
        assert entered.url.path == "/vault"
        for path in set(re.findall(r'href="(/[^"#?]*)', entered.text)):
            assert browser.get(f"{gateway.admin}{path}").status_code == 200, path


@pytest.mark.component("chromium")
def test_a_browser_shows_the_pages_whole_in_any_width_and_complains_of_nothing(gateway, tmp_path):
    decision = call(gateway, "customer-15", word="word" * 40)
    kept(gateway, decision)
    index = index_of(gateway, decision)
    with Browser(tmp_path) as browser:
        browser.sign_in(gateway.admin, gateway.keys["reader"])
        for path, words in (
            (f"/records/{index}/payload", "matches the record"),
            ("/vault", "It cannot be undone."),
            (f"/records/{index}", "What was captured"),
        ):
            for width, dark in ((1100, False), (380, True)):
                shown = browser.open(f"{gateway.admin}{path}", width=width, dark=dark)
                assert (shown.status, shown.overflows, shown.complaints) == (200, False, []), (path, width)
                assert words in shown.text
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)", "dark, as its reader prefers"


@pytest.mark.slow
def test_a_vault_restored_from_before_an_erasure_opens_with_its_key_alone_and_is_erased_again_before_anything_is_served(gateway, tmp_path):
    decision = call(gateway, "customer-8")
    kept(gateway, decision)
    copy = tmp_path / "vault"
    gateway.signal("keeper", signal.SIGSTOP)
    try:
        shutil.copytree(gateway.data / "vault", copy)
    finally:
        gateway.signal("keeper", signal.SIGCONT)
    assert order(gateway, "customer-8", *(consent("customer-8", key) for key in gateway.people.values()))["entries"] == 1
    assert gateway.stop() == 0
    for path in (gateway.data / "vault").glob("vault.sqlite*"):
        path.unlink()
    for path in copy.glob("vault.sqlite*"):
        shutil.copyfile(path, gateway.data / "vault" / path.name)
    master = gateway.layout.keys / "vault.key"
    right = master.read_bytes()
    write_durably(master, MasterKey(os.urandom(32)).secret_text().encode(), mode=0o600, replace=True)
    assert "the vault was written under master key" in gateway.serve_expecting_refusal()
    write_durably(master, right, mode=0o600, replace=True)
    gateway.start()
    assert payload(gateway, decision).json()["state"] == "erased"
    with contextlib.closing(open_reader(vault_path(gateway.data))) as reader:
        assert reader.execute("SELECT count(*) FROM vault_entry WHERE record = ? AND box IS NOT NULL", (decision,)).fetchone() == (0,)


def test_entries_wait_for_a_keeper_that_was_killed_and_are_kept_once(gateway):
    first = call(gateway, "customer-9")
    pid = gateway.signal("keeper", signal.SIGKILL)
    second = call(gateway, "customer-9")
    assert {kept(gateway, decision)["state"] for decision in (first, second)} == {"kept"}
    assert gateway.pids()["keeper"] != pid


def test_calls_are_refused_once_what_they_leave_has_not_been_kept_for_a_second_and_others_are_served(gateway):
    def status(model: str) -> int:
        # A reply may wait as long as the route's deadline for what came before it: the caller does not.
        return gateway.infer(model, unit="customer-10", timeout_s=1.0).status_code

    with gateway.paused("keeper"):
        assert wait_until(lambda: status("kept") == 503, "calls of a capturing route to be refused", 30.0)
        assert gateway.infer("kept").json()["code"] == "vault_unavailable"
        assert status("plain") == 200
    assert wait_until(lambda: status("kept") == 200, "calls to be served again")
