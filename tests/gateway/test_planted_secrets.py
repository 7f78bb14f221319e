"""Secrets and personal data planted in every place a caller, a model server or an operator can put them, and looked for in everything that is kept.

Real traffic, failures included: then every record, file, log line, metric, page, report, bundle, backup and the last words of killed processes are
searched. What the vault keeps must be there and be unreadable. A control plants the same in a place that is meant to be found.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import uuid
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment, free_port, wait_until
from typer.testing import CliRunner
from upstreams import Model

from audit.store.layout import vault_path
from audit.store.sqlite import open_reader
from audit.vault.crypto import MasterKey
from gateway.cli.main import app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
CAPTURE = {
    "prediction": "/parameters/echo",
    "vault": {"retention": "1d", "request": {"/parameters": "keep", "/inputs": "keep"}, "reply": {"/parameters": "keep"}},
}
SIGNS = ("{}.person@example.com", "sk_live_{}", "Jane Q. {}", "+41 79 {}")


class Planter:
    """Makes values that occur nowhere else, and remembers them by place."""

    def __init__(self) -> None:
        self.sent: dict[str, str] = {}

    def __call__(self, place: str, form: str = SIGNS[0]) -> str:
        self.sent[place] = uuid.uuid4().hex[:16]
        return form.replace("{}", self.sent[place])


def assay(*words: str) -> str:
    """Run a command as an operator; return everything it said."""
    done = CliRunner().invoke(app, list(words), env={"NO_COLOR": "1", "COLUMNS": "200"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output + done.stderr


@pytest.fixture(scope="module")
def planted() -> Planter:
    return Planter()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, one: Model, planted: Planter) -> Iterator[Deployment]:
    """A gateway with every kind of route, whose secrets come from the environment and from files."""
    directory = tmp_path_factory.mktemp("planted")
    settings = 'vault: {key: "env:PLANTED_VAULT_KEY", erase_people: 0}\n'
    deployment = Deployment(directory, settings=settings)
    master = MasterKey(os.urandom(32)).secret_text()
    planted.sent["master key"] = master.rpartition("+")[2][:40]
    planted.sent["log key"] = (deployment.layout.keys / "log.key").read_text().strip().rpartition("+")[2][:40]
    secrets = {"PLANTED_VAULT_KEY": master, "SOME_TOKEN": planted("environment", SIGNS[1])}
    nowhere = f"http://127.0.0.1:{free_port()}"
    deployment.write_model("kept", {"1": one.url}, capture=CAPTURE, unit={"json": "/parameters/customer"})
    deployment.write_model("durable", {"1": one.url}, capture=CAPTURE, audit="sync")
    deployment.write_model("plain", {"1": one.url}, schema={"inputs": {"x": {"type": "string", "allowed": ["fine"]}}})
    deployment.write_model("files", {"1": one.url}, protocol="http", serves={"/any/*": ["POST"]})
    deployment.write_model("down", {"1": nowhere}, retries=0, capture=CAPTURE)
    for model in ("kept", "durable", "plain", "files"):
        deployment.approve(model, "1", url=one.url)
    deployment.approve("down", "1", url=nowhere)
    deployment.add_key("product", "infer", "unit:assert", "context:assert", "feedback:write")
    deployment.add_key("reader", "audit:read", "vault:read", "tenants:all")
    deployment.add_key("officer", "subject:erase", "tenants:all")
    deployment.environment = secrets
    with deployment.running():
        yield deployment


def call(gateway: Deployment, path: str, body: Any, **headers: str) -> httpx.Response | None:
    """Make a call, whatever becomes of it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with contextlib.suppress(httpx.TransportError):
        return gateway.client.post(f"{gateway.front}{path}", content=content, headers={**gateway.bearer("product"), **headers})
    return None


def as_callers(gateway: Deployment, planted: Planter) -> list[str]:
    """Plant by every way a caller has; return decisions of calls that were served."""
    served = []
    tensor = {"name": planted("name of an input", "{}"), "shape": [1], "datatype": "BYTES", "data": [planted("value of an input", SIGNS[2])]}
    parameters = {"customer": planted("unit in the body"), "iban": planted("field", "CH93{}"), planted("name of a field", "{}"): 1}
    body = {"id": planted("id of a body", "{}"), "parameters": parameters, "inputs": [tensor]}
    headers = {
        "user-agent": planted("user agent", "agent {}"),
        "cookie": planted("cookie", "session={}"),
        "referer": planted("referer", "https://u:{}@example.com/"),
        "x-forwarded-for": planted("forwarded for", "203.0.113.7, {}"),
        "idempotency-key": planted("idempotency key", "{}"),
        "baggage": planted("baggage", "user={}"),
        "tracestate": planted("tracestate", "v={}"),
        "traceparent": planted("traceparent", "00-{}-{}"),
        "assay-context": json.dumps({"email": planted("context")}),
    }
    for model in ("kept", "durable", "down"):
        reply = call(gateway, f"/v2/models/{model}/infer", body, **headers, **{"assay-unit": planted(f"unit of {model}")})
        if reply is not None and reply.status_code == 200:
            served.append(reply.headers["assay-decision"])
    call(gateway, "/v2/models/kept/infer", body)
    call(gateway, "/v2/models/plain/infer", {"inputs": [{**tensor, "name": "x", "data": [planted("refused value", SIGNS[2])]}]})
    call(gateway, f"/v2/models/kept/infer?q={planted('query')}", body)
    call(gateway, f"/http/files/any/{planted('path', '{}')}?token={planted('query of a path', '{}')}", body)
    call(gateway, f"/{planted('unknown path', '{}')}", body)
    call(gateway, f"/v2/models/{planted('unknown model', '{}')}/infer", body)
    call(gateway, "/v2/models/kept/infer", b'{"inputs": "' + planted("malformed body").encode())
    call(gateway, "/v2/models/kept/infer", {**body, "inputs": planted("refused body")})
    call(gateway, "/v2/models/kept/infer", body, authorization=f"Bearer {planted('wrong key', SIGNS[1])}")
    call(gateway, "/v2/models/kept/infer", body, authorization=f"Basic {planted('basic password', '{}')}")
    call(gateway, "/v2/models/kept/infer", body, **{"assay-context": planted("malformed context")})
    for said in ("x" * 300, "no, {}"):
        event = {"decision_id": served[0], "label": planted(f"label {said[:3]}", said[:3] + " " + SIGNS[2])}
        call(gateway, "/feedback", event)
    for name, form in (("label", SIGNS[0]), ("metric", SIGNS[0]), ("event_id", SIGNS[0]), ("time", "on {} day"), ("other", "{}")):
        event = {"decision_id": served[0], **({"metric": "m", "value": 1} if name != "label" else {}), name: planted(f"feedback {name}", form)}
        call(gateway, "/feedback", event)
    return served


def as_models(gateway: Deployment, planted: Planter) -> None:
    """Plant by what a model server answers: errors, garbage, headers, replies of every odd kind."""
    body = {"parameters": {"customer": "a"}, "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["fine"]}]}

    def answering(place: str, form: str) -> None:
        raw = base64.b64encode(planted(place, form).encode()).decode()
        for model in ("kept", "plain"):
            call(gateway, f"/v2/models/{model}/infer", body, **{"x-behave": f"last:{raw}"})

    head = "HTTP/1.1 {} X\r\ncontent-type: text/plain\r\n"
    answering(
        "error of a model", head.replace("{}", "500") + "content-length: 60\r\n\r\nTraceback: no row for {} in customers              ".ljust(60)
    )
    answering("header of a reply", head.replace("{}", "200") + "content-length: 2\r\nset-cookie: {}\r\n\r\nok")
    answering("redirect", head.replace("{}", "302") + "location: http://u:{}@example.com/\r\ncontent-length: 0\r\n\r\n")
    answering("status line", "HTTP/1.1 {} nonsense\r\n\r\n")
    answering("garbage", "{} is no HTTP\r\n\r\n")
    answering("header that is none", "HTTP/1.1 200 OK\r\n{}\r\n\r\n")
    answering("length that is none", "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n")
    answering("coding that is none", "HTTP/1.1 200 OK\r\ntransfer-encoding: {}\r\n\r\n")
    answering("unreadable reply", head.replace("{}", "200") + "content-length: 40\r\n\r\n<p>{}</p>                              ")
    answering("half a reply", head.replace("{}", "200") + "content-length: 400\r\n\r\n{}")


def as_operators(gateway: Deployment, planted: Planter) -> list[str]:
    """Plant where people who run it write: files with mistakes in them, questions, sign-in; return what commands said."""
    told = []
    good = (gateway.layout.config / "gateway.yaml").read_text()
    for place, old, new in (
        ("key instead of a reference", "file:keys/log.key", "PRIVATE+KEY+x+00000000+{}"),
        ("password in the store", "sqlite:data/", "postgresql://u:{}@db/log"),
        ("vault key in the file", "env:PLANTED_VAULT_KEY", "VAULT+KEY+{}"),
    ):
        gateway.write_config("gateway.yaml", good.replace(old, planted(place, new)))
        wait_until(lambda: gateway.api("/api/status")["issues"], "the mistake to be told")
        told.append(assay("check", str(gateway.directory)))
        gateway.write_config("gateway.yaml", good)
        wait_until(lambda: not gateway.api("/api/status")["issues"], "the mistake to be mended")
    bad = gateway.layout.config / "models" / "bad.yaml"
    bad.write_text(
        (gateway.layout.config / "models" / "plain.yaml").read_text().replace("plain", "bad").replace("http://", planted("URL", "ftp://u:{}@"), 1)
    )
    wait_until(lambda: gateway.api("/api/status")["issues"], "the mistake to be told")
    told.append(assay("check", str(gateway.directory)))
    bad.unlink()
    for name, form in (("subject", "{}"), ("model", SIGNS[0]), ("decision", SIGNS[2]), ("rule", SIGNS[0])):
        query = {name: planted(f"question {name}", form)}
        gateway.client.get(f"{gateway.admin}/records", params=query, headers=gateway.bearer("console"))
        gateway.client.get(f"{gateway.admin}/api/records", params=query, headers=gateway.bearer("console"))
        told.append(assay("audit", "query", f"--{name}", query[name], "--data", str(gateway.data)))
    gateway.client.post(f"{gateway.admin}/login", data={"key": planted("sign-in", SIGNS[1])})
    gateway.client.get(f"{gateway.admin}/metrics", headers={"authorization": f"Bearer {planted('admin key', SIGNS[1])}"})
    order = {"unit": planted("subject to erase"), "ground": "request", "tenant": "acme"}
    assert gateway.client.post(f"{gateway.admin}/api/erasures", json=order, headers=gateway.bearer("officer")).status_code == 200
    gateway.client.post(f"{gateway.admin}/api/erasures", json={**order, "ground": planted("ground", SIGNS[2])}, headers=gateway.bearer("officer"))
    gateway.client.post(f"{gateway.admin}/api/erasures", content=planted("malformed order"), headers=gateway.bearer("officer"))
    return told


def crash(gateway: Deployment, planted: Planter) -> None:
    """End processes in the middle of calls that carry secrets."""
    body = {"parameters": {"customer": planted("unit in a crash")}, "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["x"]}]}
    for name in ("worker 0", "keeper", "controller", "recorder"):
        with contextlib.suppress(httpx.TransportError):
            gateway.client.post(
                f"{gateway.front}/v2/models/kept/infer", json=body, headers={**gateway.bearer("product"), "x-behave": "slow:5"}, timeout=0.3
            )
        gateway.signal(name, signal.SIGABRT)
        gateway.wait_ready(60)


def everything(gateway: Deployment, told: list[str], tmp_path: Path) -> dict[str, bytes]:
    """Everything the gateway keeps or tells, by name, but for what people wrote themselves."""
    bundle = gateway.client.get(f"{gateway.admin}/api/evidence", params={"type": "call"}, headers=gateway.bearer("console")).content
    backup = tmp_path / "backup"
    told += [assay("audit", "backup", str(gateway.data), "--to", str(backup), "--with-vault")]
    told += [assay("audit", "archive", str(gateway.data), "--to", str(tmp_path / "archive"))]
    told += [assay("report", kind, "--data", str(gateway.data), "--format", "html") for kind in ("evaluation", "maturity")]
    told += [assay("audit", "query", "--data", str(gateway.data), "--limit", "1000", "--format", "jsonl")]
    found = {f"what a command said ({number})": text.encode() for number, text in enumerate(told)}
    for folder in (gateway.data, backup, tmp_path / "archive", gateway.directory / "marks"):
        found |= {f"file {path}": path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_socket()}
    with zipfile.ZipFile(BytesIO(bundle)) as archive:
        found |= {f"bundle {name}": archive.read(name) for name in archive.namelist()}
    found["the processes' own words"] = gateway.output().encode()
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
        found[path] = gateway.client.get(f"{gateway.admin}{path}", headers=gateway.bearer("console")).content
    found["leaves"] = json.dumps(gateway.log.refresh(), ensure_ascii=False).encode()
    return found


@pytest.fixture(scope="module")
def searched(gateway: Deployment, planted: Planter, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    served = as_callers(gateway, planted)
    planted.sent |= {f"API key {name}": secret for name, secret in gateway.keys.items()}
    as_models(gateway, planted)
    told = as_operators(gateway, planted)
    crash(gateway, planted)
    for decision in served:
        gateway.record(decision)
    last = gateway.infer(
        "kept", body={"parameters": {"customer": "b"}, "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["fine"]}]}
    )
    gateway.record(last.headers["assay-decision"])
    gateway.wait_idle(30)
    return everything(gateway, told, tmp_path_factory.mktemp("searched"))


def spellings(value: str) -> list[bytes]:
    """How a value may stand in a file: as it is, in base64 (three alignments), reversed hex, UTF-16."""
    plain = value.encode()
    coded = [base64.b64encode(b"x" * shift + plain)[4 if shift else 0 : -4] for shift in range(3)]
    return [plain, plain.hex().encode(), value.encode("utf-16-le"), *coded]


def test_the_search_finds_what_is_there(gateway: Deployment, searched: dict[str, bytes], planted: Planter):
    decision = gateway.log.of_type("call")[-1]["id"].encode()
    assert sum(decision in data for data in searched.values()) >= 4
    assert len(searched) > 30
    assert len(planted.sent) > 55
    with contextlib.closing(open_reader(vault_path(gateway.data))) as reader:
        (kept,) = reader.execute("SELECT count(*) FROM vault_entry WHERE box IS NOT NULL").fetchone()
    assert kept >= 3, "what was captured is in the vault"


def test_nothing_that_was_planted_is_found_anywhere(searched: dict[str, bytes], planted: Planter):
    found = [
        (where, place) for where, data in searched.items() for place, value in planted.sent.items() if any(one in data for one in spellings(value))
    ]
    assert found == []


def test_who_may_read_the_vault_reads_it(gateway: Deployment, searched: dict[str, bytes], planted: Planter):
    assert searched
    records = gateway.log.refresh()
    index = next(index for index, record in enumerate(records) if record["type"] == "call" and "vault" in record.get("payload", {}))

    def read() -> Callable[[], Any] | Any:
        return gateway.client.get(f"{gateway.admin}/api/records/{index}/payload", headers=gateway.bearer("reader")).json()

    assert read()["matches"] is True
    assert planted.sent["field"] in json.dumps(read())
