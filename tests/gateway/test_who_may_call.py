"""Who may call what: keys, scopes, rates, approvals. What is refused after authentication is a record; before it, only a count."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from deployment import BODY, Deployment, wait_until
from upstreams import Model

from audit.statements import machine_boot_id
from gateway import pseudonyms
from gateway.config.layout import write_durably
from gateway.control.vaultclock import HOLD_S, Seen
from gateway.limits import DENIED_BURST_BYTES, DENIED_BYTES_PER_S
from policies.approvals import Approval, origin_of, sign_approval
from policies.trust import PersonKey

pytestmark = pytest.mark.usefixtures("nothing_leaks")


def is_recorded_refusal(gateway: Deployment, reply, status: int, code: str) -> bool:
    """Whether a refusal has its status, the protocol's error shape, and one `call` record that says the same."""
    told = reply.json()
    assert (reply.status_code, told.get("code")) == (status, code), told
    assert told["error"].startswith(f"{code}: ")
    assert told["decision_id"] == reply.headers["assay-decision"]
    record = gateway.record(reply.headers["assay-decision"])
    assert (record["type"], record["outcome"]["status"], record["outcome"]["code"]) == ("call", status, code)
    assert "out" not in record.get("payload", {})
    return True


# --- keys ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "no_credentials"),
        ("", "no_credentials"),
        ("Basic dXNlcjpwYXNz", "no_credentials"),
        ("Bearer nonsense", "bad_credentials"),
        ("Bearer ak_" + "A" * 43, "bad_credentials"),
    ],
)
def test_a_call_without_a_good_key_is_a_401_that_says_how_and_is_only_counted(gateway: Deployment, header: str | None, code: str):
    calls = gateway.settled_calls()
    reply = gateway.client.post(f"{gateway.front}/v2/models/plain/infer", json=BODY, headers={} if header is None else {"authorization": header})
    assert (reply.status_code, reply.json()["code"]) == (401, code)
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert "nonsense" not in reply.text
    assert gateway.settled_calls() == calls + 1, "nothing but the call that was just made to look"


def test_refusals_before_authentication_are_counted_in_the_log_once_a_second(gateway: Deployment):
    def told() -> list[int]:
        return [record["count"] for record in gateway.log.of_type("denial.count") if record["reason"] == "no_credentials"]

    gateway.wait_idle()
    # What earlier tests were refused for is told within a second or two: wait until nothing more comes.
    settled = -1
    while settled != sum(told()):
        settled = sum(told())
        time.sleep(2.5)
    before, records, started_s = sum(told()), len(told()), time.monotonic()
    for _ in range(50):
        gateway.client.post(f"{gateway.front}/v2/models/plain/infer", json=BODY)
    wait_until(lambda: sum(told()) == before + 50, f"50 more refusals in the log: {told()}, {before}")
    assert len(told()) - records <= time.monotonic() - started_s + 2, "strangers cannot fill the log"


def test_a_new_key_works_and_a_revoked_one_does_not_within_a_second(gateway: Deployment):
    key_id = gateway.add_key("passing", "infer")
    wait_until(lambda: gateway.infer("plain", key="passing").status_code == 200, "the new key to be known", 1.5)
    gateway.revoke_key(key_id)
    reply = wait_until(lambda: (found := gateway.infer("plain", key="passing")).status_code == 401 and found, "the revoked key to be refused", 1.5)
    assert reply.json()["code"] == "bad_credentials"


def test_an_expired_key_is_a_401(gateway: Deployment):
    gateway.add_key("old", "infer", expires_us=time.time_ns() // 1000 - 1)
    wait_until(lambda: "expired" in gateway.infer("plain", key="old").json()["detail"], "the expired key to be known")
    assert gateway.infer("plain", key="old").status_code == 401


def test_the_first_key_of_a_new_tenant_is_never_answered_with_a_500(gateway: Deployment):
    gateway.add_key("newcomer", "infer", tenant="newcomer")
    seen = set()
    ends_s = time.monotonic() + 3
    while time.monotonic() < ends_s and 200 not in seen:
        seen.add(gateway.infer("plain", key="newcomer").status_code)
    assert 200 in seen
    assert seen <= {200, 401, 503}


def test_one_unit_has_different_pseudonyms_in_different_tenants(gateway: Deployment):
    gateway.add_key("stranger", "infer", "unit:assert", tenant="other")
    wait_until(lambda: gateway.infer("plain", key="stranger").status_code == 200, "the key of the other tenant")
    ours, theirs = (gateway.record(gateway.infer("plain", key=key, unit="same").headers["assay-decision"]) for key in ("product", "stranger"))
    again = gateway.record(gateway.infer("plain", unit="same").headers["assay-decision"])
    assert ours["subject"] == again["subject"] != theirs["subject"]
    assert (ours["tenant"], theirs["tenant"]) == ("acme", "other")


def end_the_key(deployment: Deployment) -> tuple[pseudonyms.EpochKey, str]:
    """Let the pseudonym key of `acme` end in a moment; return it and the pseudonym that a unit has under it."""
    path = deployment.data / "vault" / "epochs.json"
    before, held = subject(deployment), pseudonyms.load(path)
    (key,) = held["acme"]
    pseudonyms.save(path, {**held, "acme": [msgspec.structs.replace(key, ends_us=time.time_ns() // 1000 + 1_500_000)]})
    assert subject(deployment) == before
    return key, before


def subject(deployment: Deployment) -> str:
    return str(deployment.record(deployment.infer("plain", unit="someone").headers["assay-decision"])["subject"])


@pytest.mark.parametrize("steady_s", [HOLD_S, 0])
def test_a_pseudonym_key_that_has_ended_is_destroyed_once_the_clock_has_run_steadily_for_a_day(tmp_path: Path, one: Model, steady_s: int):
    deployment = Deployment(tmp_path)
    deployment.write_model("plain", {"1": one.url})
    deployment.approve("plain", "1", url=one.url)
    seen = Seen(time.time_ns() // 1000, time.monotonic_ns() // 1000, machine_boot_id(), steady_s * 1_000_000)
    write_durably(deployment.data / "vault" / "clock.json", msgspec.json.encode(seen), mode=0o600)
    with deployment.running():
        key, before = end_the_key(deployment)
        if steady_s:
            wait_until(lambda: subject(deployment) != before, "a new pseudonym", 15)
            (fresh,) = pseudonyms.load(deployment.data / "vault" / "epochs.json")["acme"]
            assert (fresh.epoch, fresh.secret == key.secret) == (key.epoch + 1, False)
        else:
            time.sleep(5)  # the key ended long ago, and the vault was looked at twice
            assert subject(deployment) == before


# --- scopes -------------------------------------------------------------------------------------------------------------------------------


def test_calling_needs_the_scope_infer(gateway: Deployment):
    assert is_recorded_refusal(gateway, gateway.infer("plain", key="console"), 403, "missing_scope")


def test_a_key_for_named_models_may_call_no_other(gateway: Deployment):
    gateway.add_key("confined", "infer", models=("typed",))
    wait_until(lambda: gateway.infer("typed", key="confined").status_code == 200, "the new key to be known")
    assert is_recorded_refusal(gateway, gateway.infer("plain", key="confined"), 403, "model_not_allowed")


def test_naming_the_unit_needs_the_scope_unit_assert(gateway: Deployment):
    gateway.add_key("modest", "infer")
    wait_until(lambda: gateway.infer("plain", key="modest").status_code == 200, "the new key to be known")
    assert is_recorded_refusal(gateway, gateway.infer("plain", key="modest", unit="someone"), 403, "missing_scope")


def test_naming_a_version_needs_the_scope_version_pin(gateway: Deployment):
    assert is_recorded_refusal(gateway, gateway.infer("plain", version="2"), 403, "missing_scope")


def test_a_pinned_version_serves_and_is_recorded_as_pinned(gateway: Deployment):
    reply = gateway.infer("plain", version="2", key="tester")
    assert (reply.status_code, reply.json()["model_version"]) == (200, "2")
    record = gateway.record(reply.headers["assay-decision"])
    assert record["model"]["version"] == "2"
    assert record["route"].get("pinned") in (True, 1)


def test_feedback_needs_its_scope(gateway: Deployment):
    found = gateway.infer("plain").headers["assay-decision"]
    event = {"decision_id": found, "label": "1"}
    refused = gateway.client.post(f"{gateway.front}/feedback", json=event, headers=gateway.bearer("tester"))
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
    assert refused.headers["content-type"] == "application/problem+json"
    taken = gateway.client.post(f"{gateway.front}/feedback", json=event, headers=gateway.bearer("product"))
    assert (taken.status_code, taken.json()) == (202, {"accepted": 1})
    gateway.log.refresh()
    labels = [record for record in gateway.log.children[found] if record["type"] == "label"]
    assert [(label["decision"], label["label"]) for label in labels] == [(found, "1")]


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"decision_id": "no"},
        {"decision_id": "0" * 32},
        {"decision_id": "0" * 32, "label": "1", "unknown": 1},
        {"decision_id": "0" * 32, "metric": "m", "value": "text"},
        [1],
    ],
)
def test_bad_feedback_is_a_422_and_none_of_it_is_taken(gateway: Deployment, event):
    labels = len(gateway.log.of_type("label"))
    good = {"decision_id": "0" * 32, "label": "1"}
    reply = gateway.client.post(f"{gateway.front}/feedback", json=[good, event], headers=gateway.bearer("product"))
    assert (reply.status_code, reply.json()["code"]) == (422, "bad_feedback")
    assert len(gateway.log.of_type("label")) == labels


def test_a_rate_that_is_used_up_is_a_429_with_retry_after_and_a_record(gateway: Deployment):
    gateway.add_key("eager", "infer")
    wait_until(lambda: gateway.infer("plain", key="eager").status_code == 200, "the new key to be known")
    replies = [gateway.infer("rated", key="eager") for _ in range(6)]
    limited = [reply for reply in replies if reply.status_code == 429]
    assert [reply.status_code for reply in replies[:2]] == [200, 200]
    assert len(limited) >= 3
    assert int(limited[0].headers["retry-after"]) > 0
    assert is_recorded_refusal(gateway, limited[0], 429, "rate_limited")
    assert gateway.infer("rated").status_code == 200, "another key has its own rate"


# --- approvals ----------------------------------------------------------------------------------------------------------------------------


def test_a_key_that_may_call_nothing_cannot_fill_the_log_with_its_refusals(gateway: Deployment):
    gateway.add_key("noisy", "feedback:write", tenant="noisy")
    wait_until(lambda: gateway.infer("plain", key="noisy").status_code == 403, "the key to be known")
    body = json.dumps(BODY).encode()
    head = f"POST /v2/models/plain/infer HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {gateway.keys['noisy']}\r\ncontent-length: {len(body)}\r\n\r\n"
    refused, total = b"", 2500
    with closing(socket.create_connection(("127.0.0.1", gateway.front_port), timeout=10)) as connection:
        for _ in range(total // 10):
            connection.sendall((head.encode() + body) * 10)
            answers = b""
            while answers.count(b"HTTP/1.1 403 ") < 10 or not answers.endswith(b"}"):
                answers += connection.recv(65536)
            refused += answers
    assert refused.count(b'"code":"missing_scope"') == total
    own: list[dict[str, Any]] = []
    assert refused.count(b"assay-decision:") < total, "what has no record names no decision"

    def told() -> int:
        gateway.log.refresh()
        own[:] = [record for record in gateway.log.records if record["tenant"] == "noisy"]
        return sum(record["count"] if record["type"] == "denial.count" else 1 for record in own)

    wait_until(lambda: told() >= total, f"every refusal to be told, one by one or counted; {told()} are")
    (counted, *_) = [record for record in own if record["type"] == "denial.count"]
    assert (counted["actor"]["kind"], counted["reason"]) == ("key", "missing_scope")
    assert sum(len(json.dumps(record, separators=(",", ":"))) for record in own) < DENIED_BURST_BYTES + 20 * DENIED_BYTES_PER_S
    reply = gateway.infer("plain", key="tester", version="3")
    assert gateway.record(reply.headers["assay-decision"])["outcome"]["status"] == 403, "another tenant's refusals are recorded one by one"


def test_a_version_nobody_approved_does_not_serve_even_when_it_is_the_only_one(gateway: Deployment):
    reply = gateway.infer("unapproved")
    assert is_recorded_refusal(gateway, reply, 403, "not_approved")
    assert reply.json()["reasons"][0]["id"] == "approval.missing"


def test_an_unapproved_version_that_is_asked_for_by_name_is_a_403(gateway: Deployment):
    reply = gateway.infer("plain", version="3", key="tester")
    assert is_recorded_refusal(gateway, reply, 403, "not_approved")
    record = gateway.record(reply.headers["assay-decision"])
    assert (record["model"]["version"], record["policy"]["decision"]) == ("3", "deny")


def test_an_arm_without_approval_is_served_by_the_default_and_both_are_recorded(gateway: Deployment):
    assigned: dict[str, int] = {}
    for number in range(40):
        reply = gateway.infer("split", unit=f"unit {number}")
        assert (reply.status_code, reply.json()["model_version"]) == (200, "1")
        record = gateway.record(reply.headers["assay-decision"])
        route = record["route"]
        assigned[route["assigned"]] = assigned.get(route["assigned"], 0) + 1
        assert (route["experiment"], route["served"], record["model"]["version"]) == ("half", "control", "1")
        assert {"arm": "treatment", "reason": "approval.missing"} in route["eligible"]
        assert {"arm": "control"} in route["eligible"]
        assert reply.headers["assay-arm"] == "control"
    assert set(assigned) == {"control", "treatment"}


def test_an_approval_puts_a_version_in_force_and_a_revocation_takes_it_out_within_a_second(gateway: Deployment, one: Model):
    gateway.write_model("revocable", {"1": one.url})
    wait_until(lambda: gateway.infer("revocable").status_code == 403, "the new model to be known and not approved")
    gateway.approve("revocable", "1", url=one.url)
    wait_until(lambda: gateway.infer("revocable").status_code == 200, "the approval to take force", 2)
    gateway.revoke("revocable", "1")
    revoked_s = time.monotonic()
    reply = wait_until(lambda: (found := gateway.infer("revocable")).status_code == 403 and found, "the revocation to take force", 5)
    assert time.monotonic() - revoked_s < 1.0
    assert reply.json()["reasons"][0]["id"] == "approval.revoked"
    kinds = [r["type"] for r in gateway.log.refresh() if r["type"].startswith("approval.") and r["model"] == "revocable"]
    assert kinds == ["approval.granted", "approval.revoked"]


def test_an_approval_ends_when_it_said_it_would(gateway: Deployment, one: Model):
    gateway.write_model("fleeting", {"1": one.url})
    gateway.approve("fleeting", "1", url=one.url, valid_us=2_500_000)
    ends_s = time.monotonic() + 2.5
    wait_until(lambda: gateway.infer("fleeting").status_code == 200, "the approval to take force", 2.4)
    reply = wait_until(lambda: (found := gateway.infer("fleeting")).status_code == 403 and found, "the approval to end", 5)
    assert 0 <= time.monotonic() - ends_s + 0.1 < 1.0
    assert reply.json()["reasons"][0]["id"] == "approval.expired"


def test_an_approval_for_a_part_of_the_traffic_does_not_cover_all_of_it(gateway: Deployment, one: Model):
    gateway.write_model("partial", {"1": one.url})
    gateway.approve("partial", "1", url=one.url, max_exposure_ppm=50_000)
    reply = wait_until(
        lambda: (found := gateway.infer("partial")).status_code == 403 and found.json()["reasons"][0]["id"] != "approval.missing" and found,
        "the approval to be known",
    )
    assert reply.json()["reasons"][0]["id"] == "approval.exposure"


def test_an_approval_by_a_stranger_counts_for_nothing_and_is_told(gateway: Deployment, one: Model):
    stranger = PersonKey.from_seed(os.urandom(32))
    now_us = time.time_ns() // 1000
    digest = f"sha256:{hashlib.sha256(b'unapproved 1').hexdigest()}"
    forged = Approval("unapproved", "1", digest, (origin_of(one.url),), ("development",), "tests", 1_000_000, now_us, now_us, now_us + 10**9)
    write_durably(gateway.layout.approvals / "forged.dsse.json", sign_approval(forged, stranger))
    wait_until(lambda: "forged.dsse.json" in gateway.api("/api/status")["refused_approvals"], "the forged approval to be told")
    assert gateway.infer("unapproved").status_code == 403
    assert not [r for r in gateway.log.of_type("approval.granted") if r["model"] == "unapproved"]
