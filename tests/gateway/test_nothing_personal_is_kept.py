"""What callers send about people, and the secrets they send it with, is found nowhere afterwards: no record, log line, metric, page or file."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from deployment import Deployment, wait_until


def planted(kind: str) -> str:
    """A value that occurs nowhere else, as a person's data would look like."""
    return f"{kind}-{uuid.uuid4().hex[:12]}"


def places(deployment: Deployment) -> dict[str, bytes]:
    """Everything the gateway keeps or tells, by name; but for the vault, which holds keys and no payload, and the folder a person writes."""
    found = {f"file {path.relative_to(deployment.data)}": path.read_bytes() for path in deployment.data.rglob("*") if path.is_file()}
    found = {name: data for name, data in found.items() if not name.startswith("file vault/")}
    found["gateway's log lines"] = deployment.output().encode()
    for path in (
        "/",
        "/experiments",
        "/vault",
        "/audit-log",
        "/metrics",
        "/api/status",
        "/api/experiments",
        "/records?limit=500",
        "/api/records?limit=1000",
    ):
        found[path] = deployment.client.get(f"{deployment.admin}{path}", headers=deployment.bearer("console")).content
    found["leaves"] = json.dumps(deployment.log.refresh()).encode()
    return found


@pytest.fixture(scope="module")
def secrets(spine: Deployment) -> dict[str, str]:
    """Send personal data and secrets by every way a caller has; return what was sent, by where."""
    names = (
        "unit",
        "body",
        "feature",
        "refused body",
        "query",
        "unknown path",
        "unknown model",
        "wrong key",
        "user agent",
        "cookie",
        "basic password",
        "context",
        "malformed body",
        "idempotency key",
        "baggage",
    )
    sent = {name: planted(name.replace(" ", "-")) for name in names}
    front, key = spine.front, spine.bearer("product")
    body = {
        "id": "x",
        "parameters": {"customer": sent["feature"]},
        "inputs": [{"name": sent["body"], "shape": [1], "datatype": "BYTES", "data": ["x"]}],
    }
    infer = f"{front}/v2/models/plain/infer"
    headers = {
        **key,
        "assay-unit": sent["unit"],
        "user-agent": sent["user agent"],
        "cookie": f"session={sent['cookie']}",
        "assay-context": json.dumps({"email": sent["context"]}),
        "idempotency-key": sent["idempotency key"],
        "baggage": f"user={sent['baggage']}",
    }
    for model in ("plain", "split", "durable", "captured", "typed", "narrow", "down"):
        spine.client.post(f"{front}/v2/models/{model}/infer", json=body, headers=headers)
    spine.client.post(infer, json={**body, "inputs": sent["refused body"]}, headers=headers)
    spine.client.post(infer, params={"who": sent["query"]}, json=body, headers=headers)
    spine.client.post(f"{front}/{sent['unknown path']}", json=body, headers=headers)
    spine.client.post(f"{front}/v2/models/{sent['unknown model']}/infer", json=body, headers=headers)
    spine.client.post(infer, content=b'{"name": "' + sent["malformed body"].encode(), headers=headers)
    spine.client.post(infer, json=body, headers={**headers, "authorization": f"Bearer {sent['wrong key']}"})
    spine.client.post(infer, json=body, headers={**headers, "authorization": f"Basic {sent['basic password']}"})
    spine.client.get(f"{spine.admin}/records", params={"subject": sent["unit"]}, headers=spine.bearer("console"))
    last = spine.infer("plain", unit=sent["unit"])
    wait_until(lambda: spine.record(last.headers["assay-decision"]), "the last call to be recorded")
    spine.wait_idle()
    return {**sent, "API key": spine.keys["product"], "console's API key": spine.keys["console"]}


@pytest.fixture(scope="module")
def everything(spine: Deployment, secrets: dict[str, str]) -> dict[str, bytes]:
    assert secrets
    return places(spine)


def test_the_calls_left_records_and_the_search_would_find_what_is_there(spine: Deployment, everything: dict[str, bytes]):
    decision = spine.log.of_type("call")[-1]["id"].encode()
    assert sum(decision in data for data in everything.values()) >= 2
    assert len(everything) > 15


def test_nothing_that_was_sent_about_a_person_and_no_secret_is_found_anywhere(secrets: dict[str, str], everything: dict[str, bytes]):
    found = [(where, name) for where, data in everything.items() for name, value in secrets.items() if value.encode() in data]
    assert found == []


def test_no_private_key_of_the_log_is_kept_with_the_data(spine: Deployment, everything: dict[str, bytes]):
    key = (spine.directory / "keys" / "log.key").read_text().strip()
    private = key.rpartition("+")[2].encode()
    assert [where for where, data in everything.items() if private in data] == []
    # The one that signs receipts is made anew by each gateway and lies where nothing is copied from; nobody else may read it.
    assert {where for where, data in everything.items() if b"PRIVATE+KEY" in data} <= {"file run/receipts.key"}
    assert (spine.data / "run" / "receipts.key").stat().st_mode & 0o077 == 0


def test_the_vault_holds_keys_and_nothing_that_was_sent(spine: Deployment, secrets: dict[str, str]):
    files = [path for path in (spine.data / "vault").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert not any(value.encode() in path.read_bytes() for value in secrets.values())
        assert path.stat().st_mode & 0o077 == 0, Path(path).name
