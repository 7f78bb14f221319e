"""Policies on replies, over both transports and real model servers: nothing a policy holds back reaches a caller, whatever the model sends."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import sys
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))  # the deployment and the models of the gateway's own tests

from deployment import Deployment
from test_lane_transports import Both, compare, raw, start, stop, written
from upstreams import Models

from gateway.bodies import REPLY_LIMIT_BYTES
from gateway.processes.transports import TRANSPORTS

SECRET = b"S3CR3T"
POLICIES = {
    # A verdict on the request that binds the reply.
    "guarded": """\
package policy.guarded
obligations contains {"type": "redact", "path": "/**/secret"} if input.model.name == "guarded"
obligations contains {"type": "round", "path": "/**/score", "digits": 1} if input.model.name == "guarded"
""",
    # A verdict on the reply's head.
    "replied": """\
# METADATA
# custom: {points: [response]}
package policy.replied
obligations contains {"type": "redact", "path": "/**/secret"} if input.model.name == "replied"
deny contains {"id": "REP-1", "msg": "errors stay inside"} if {
	input.model.name == "replied"
	input.response.status >= 500
}
""",
    # A verdict on the reply's body.
    "judged": """\
# METADATA
# custom: {points: [response], models: [judged]}
package policy.judged
tells if {
	some name, _ in input.response.body
	contains(name, "secret")
}
tells if contains(json.marshal(input.response.body), "S3CR3T")
deny contains {"id": "JUD-1", "msg": "the reply tells a secret", "status": 451} if {
	tells
}
""",
    # The same, only to warn.
    "watched": """\
# METADATA
# custom: {points: [response], models: [watched], mode: warn}
package policy.watched
deny contains {"id": "WAT-1", "msg": "the reply tells a secret"} if {
	input.response.body.secret
}
""",
    # What the model may not see.
    "blind": """\
package policy.blind
obligations contains {"type": "redact", "path": "/parameters/group", "on": "request"} if input.model.name == "blind"
obligations contains {"type": "redact", "path": "/inputs/[name=group]", "on": "request"} if input.model.name == "blind"
""",
    # Fails whenever it is asked.
    "broken": """\
# METADATA
# custom: {points: [response]}
package policy.broken
deny contains {"id": "BRO-1", "msg": "never said"} if {
	input.model.name == "broken"
	count(numbers.range(1, 10000000)) > 0
}
""",
}
MODELS = ("guarded", "replied", "judged", "watched", "broken", "blind")
HTTP = {"protocol": "http", "serves": {"/**": ["GET", "HEAD", "POST"]}}


def write(deployment: Deployment, url: str) -> None:
    for name, text in POLICIES.items():
        deployment.write_config(f"policies/{name}.rego", text)
    for name in MODELS:
        deployment.write_model(name, {"1": url}, retries=0, **({} if name == "blind" else HTTP))
        deployment.approve(name, "1", url=url)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    deployment = Deployment(tmp_path_factory.mktemp("reply") / "d")
    with Models() as models, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        model = models.add("1")
        write(deployment, model.url)
        sides = {name: runner.run(start(name, deployment)) for name in TRANSPORTS}
        yield Both(runner, sides, deployment.keys), model
        for side in sides.values():
            runner.run(stop(side))
    deployment.close()


def reply(body: bytes, *fields: bytes, status: bytes = b"200 OK", form: str = "length", kind: bytes | None = b"application/json") -> str:
    """A behaviour of the model: this reply."""
    lines = [b"HTTP/1.1 " + status, *fields]
    if kind is not None:
        lines.append(b"content-type: " + kind)
    if form == "chunked":
        half = len(body) // 2
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
        lines.append(b"transfer-encoding: chunked")
        body = chunks + b"0\r\n\r\n"
    elif form == "length":
        lines.append(b"content-length: %d" % len(body))
    text = base64.b64encode(b"\r\n".join(lines) + b"\r\n\r\n" + body).decode()
    return f"{'last' if form == 'end' else 'raw'}:{text}"


def call(both: Both, model: str, behave: str, **more: object):
    return compare(both, raw(both, written(f"/http/{model}/x", x_behave=behave, **more)))


TELLING = json.dumps({"secret": SECRET.decode(), "score": 0.123456, "list": [{"secret": SECRET.decode(), "x": 1}]}).encode()
GZIPPED = gzip.compress(TELLING)
TRICKS = {
    "plainly": reply(TELLING),
    "in chunks": reply(TELLING, form="chunked"),
    "until the end": reply(TELLING, form="end"),
    "without a type": reply(TELLING, kind=None),
    "as a problem": reply(TELLING, kind=b"application/problem+json", status=b"400 Bad"),
    "as an error": reply(TELLING, status=b"500 Error"),
    "as text": reply(b"the secret is S3CR3T", kind=b"text/plain"),
    "as an event stream": reply(b'data: {"secret": "S3CR3T"}\n\n', kind=b"text/event-stream", form="chunked"),
    "as JSON lines": reply(TELLING + b"\n" + TELLING, kind=b"application/x-ndjson"),
    "as JSON lines that say they are JSON": reply(TELLING + b"\n" + TELLING),
    "broken": reply(TELLING[:-1]),
    "with a tail": reply(TELLING + b"S3CR3T"),
    "with a key twice": reply(b'{"secret": 1, "secret": "S3CR3T"}'),
    "with an escaped key": reply(b'{"s\\u0065cret": "S3CR3T"}'),
    "with an escaped key twice": reply(b'{"secret": 1, "s\\u0065cret": "S3CR3T"}'),
    "compressed": reply(GZIPPED, b"content-encoding: gzip"),
    "compressed, unsaid": reply(GZIPPED),
    "said to be compressed": reply(TELLING, b"content-encoding: gzip"),
    "two codings": reply(TELLING, b"content-encoding: identity", b"content-encoding: gzip"),
    "two types": reply(TELLING, b"content-type: text/plain"),
    "a part": reply(b'"S3CR3T"', b"content-range: bytes 11-18/90", status=b"206 Partial Content"),
    "a part that reads as a whole": reply(b'{"x": "S3CR3T"}', b"content-range: bytes 11-25/90", status=b"206 Partial Content"),
    # To us this is harmless JSON; to a caller who believes the head it says S3CR3T.
    "in UTF-7": reply(b'{"x": "+AFMAMwBDAFIAMwBU-"}', kind=b"application/json; charset=utf-7"),
    "a scalar": reply(b'"S3CR3T"'),
    "in another alphabet": reply(TELLING.decode().encode("utf-16"), kind=b"application/json; charset=utf-16"),
    "in another alphabet, unsaid": reply(TELLING.decode().encode("utf-16")),
    "said to be in another alphabet": reply(TELLING, kind=b"application/json; charset=utf-7"),
    "with a mark": reply(b"\xef\xbb\xbf" + TELLING),
    "too deep": reply(b'{"a":' * 40 + TELLING + b"}" * 40),
    "with no number": reply(b'{"secret": "S3CR3T", "x": NaN}'),
    "binary tensors": reply(b'{"secret":1}S3CR3T', b"inference-header-content-length: 12", kind=b"application/octet-stream"),
    "less than announced": reply(TELLING + b" " * 0, b"x: y").replace("raw:", "last:"),
}
PASSES = {"plainly", "in chunks", "until the end", "without a type", "as a problem", "as an error", "with an escaped key", "less than announced"}


@pytest.mark.parametrize("model", ["guarded", "replied", "judged"])
@pytest.mark.parametrize("trick", TRICKS)
def test_however_a_model_tells_a_secret_the_caller_does_not_get_it(guarded, trick, model):
    both, _ = guarded
    (status, headers, body, complete, _), leaves = call(both, model, TRICKS[trick])
    assert SECRET not in body
    assert GZIPPED[12:40] not in body
    assert complete
    outcome = leaves[-1]["outcome"]
    if trick in PASSES and model != "judged":
        is_refused = trick == "as an error" and model == "replied"
        assert (status, outcome.get("code")) == ((403, "policy_denied") if is_refused else (outcome["status"], None))
        if not is_refused:
            assert leaves[-1]["payload"] == ["from_model", "in", "out"]
            assert b"secret" not in body
    else:
        assert status in (451, 502)
        assert outcome["code"] in ("reply_withheld", "policy_denied"), outcome
        assert dict(headers)[b"content-type"] == b"application/problem+json"


@pytest.mark.parametrize("model", ["guarded", "replied", "judged"])
@pytest.mark.parametrize("behave", ["endless", "stream:50:0.001", "broken-stream", "garbage", "half", "unreadable"])
def test_what_never_ends_or_breaks_off_is_withheld_and_not_passed_on_in_pieces(guarded, behave, model):
    both, _ = guarded
    (status, _, body, complete, _), leaves = call(both, model, behave)
    assert (status, complete) == (502, True)
    assert b"piece" not in body
    assert b"xxxx" not in body
    assert [leaf["type"] for leaf in leaves if leaf["type"] != "decision"] in (["call"], ["outcome"])


@pytest.mark.parametrize("model", ["guarded", "judged"])
def test_a_reply_longer_than_can_be_held_is_withheld(guarded, model):
    both, _ = guarded
    (status, _, body, complete, _), leaves = call(both, model, f"big:{REPLY_LIMIT_BYTES + 1}")
    assert (status, complete, leaves[-1]["outcome"]["code"]) == (502, True, "upstream_too_large")
    assert len(body) < 1000


names = st.sampled_from(["secret", "a", "score", "s\u0435cret", "Secret"])
scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.just(SECRET.decode()) | st.floats(0, 1)
documents = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=10)


def hidden(document):
    """A copy without members called `secret`, anywhere."""
    if isinstance(document, dict):
        return {name: hidden(value) for name, value in document.items() if name != "secret"}
    return [hidden(value) for value in document] if isinstance(document, list) else document


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    documents,
    st.sampled_from(["length", "chunked", "end"]),
    st.sampled_from(["guarded", "replied"]),
    st.sampled_from([b"200 OK", b"404 No", b"204 No"]),
)
def test_a_caller_gets_the_document_without_what_was_redacted_or_nothing(guarded, document, form, model, status):
    both, _ = guarded
    body = b"" if status[:3] == b"204" else json.dumps(document).encode()
    (got, _, found, complete, _), _ = call(both, model, reply(body, status=status, form="length" if not body else form))
    assert complete
    if not body:
        assert (got, found) == (204, b"")
    elif isinstance(document, (dict, list)):
        expected = hidden(document)
        if got == 502:  # a score that is no number cannot be rounded
            assert model == "guarded"
            assert b"withheld" in found or b"passed on" in found
            return
        assert got == int(status[:3])
        if model == "replied":
            assert json.loads(found) == expected
        assert b"secret" not in found.replace("s\u0435cret".encode(), b"").replace(b"Secret", b"")
    else:
        assert got == 502


def test_a_head_request_has_nothing_to_hide_and_is_answered(guarded):
    both, model = guarded
    asked = len(model.asked)
    (status, _, body, _, _), _ = compare(
        both, raw(both, written("/http/guarded/x", method="GET", body=b"", x_behave=reply(b"", status=b"304 Not Modified")))
    )
    assert (status, body) == (304, b"")
    assert len(model.asked) == asked + 2


def test_headers_that_describe_the_old_body_do_not_stay_with_the_new_one(guarded):
    both, _ = guarded
    fields = (b'etag: "1"', b"digest: sha-256=x", b"content-digest: y", b"x-kept: 1")
    (_, headers, body, _, _), _ = call(both, "guarded", reply(TELLING, *fields))
    assert json.loads(body) == {"score": 0.1, "list": [{"x": 1}]}
    found = {name for name, _ in headers}
    assert b"x-kept" in found
    assert not found & {b"etag", b"digest", b"content-digest"}
    (_, headers, body, _, _), _ = call(both, "guarded", reply(b'{"x": 1}', *fields))
    assert body == b'{"x": 1}'
    assert {b"etag", b"digest", b"content-digest"} <= {name for name, _ in headers}


def test_a_record_tells_what_was_asked_and_what_the_reply_was_judged_by(guarded):
    both, _ = guarded
    _, (leaf,) = call(both, "guarded", reply(TELLING))
    assert leaf["policy"]["obligations"] == [
        {"type": "redact", "path": "/**/secret"},
        {"type": "round", "path": "/**/score", "digits": 1},
    ]
    assert len(leaf["policy"]["input_digest"]) == 64
    assert leaf["outcome"]["policy"]["decision"] == "allow"
    _, (leaf,) = call(both, "replied", reply(TELLING))
    assert "obligations" not in leaf["policy"]
    assert leaf["outcome"]["policy"]["obligations"] == [{"type": "redact", "path": "/**/secret"}]
    assert leaf["outcome"]["policy"]["facts"] == {"reply_status": 200}


def test_a_package_that_only_warns_changes_no_call_and_tells_the_caller(guarded):
    both, _ = guarded
    (status, headers, body, _, _), (leaf,) = call(both, "watched", reply(TELLING))
    assert (status, body) == (200, TELLING)
    assert dict(headers)[b"assay-policy-warning"] == b"WAT-1"
    assert leaf["outcome"]["policy"]["decision"] == "allow_with_warnings"
    for trick in ("broken", "compressed", "as text", "as an event stream"):
        (status, headers, body, _, _), _ = call(both, "watched", TRICKS[trick])
        assert status == 200
        assert b"assay-policy-warning" not in dict(headers)
    (status, _, body, complete, _), _ = call(both, "watched", "stream:3:0.01")
    assert (status, complete, body) == (200, True, b"piece 0\npiece 1\npiece 2\n")


def test_a_policy_that_fails_on_a_reply_withholds_it(guarded):
    both, _ = guarded
    (status, _, body, _, _), (leaf,) = call(both, "broken", reply(TELLING))
    assert (status, leaf["outcome"]["policy"]["reasons"][0]["id"]) == (403, "ENGINE-ERR")
    assert SECRET not in body


GROUPED = {
    "inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}, {"name": "group", "shape": [1], "datatype": "BYTES", "data": ["f"]}],
    "parameters": {"group": "f", "customer": "c-1"},
}


def test_what_is_redacted_from_a_request_never_reaches_the_model(guarded):
    both, model = guarded
    body = json.dumps(GROUPED).encode()
    (status, *_), (leaf,) = compare(both, raw(both, written("/v2/models/blind/infer", body=body)))
    assert status == 200
    for asked in model.asked[-2:]:
        assert json.loads(asked.body) == {"inputs": GROUPED["inputs"][:1], "parameters": {"customer": "c-1"}}
    assert leaf["payload"] == ["in", "out", "to_model"]
    assert leaf["policy"]["obligations"][0] == {"type": "redact", "path": "/inputs/[name=group]", "on": "request"}
