"""An `http` model is reached on the paths and by the methods its file lists, and nowhere else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_harness import BASE, Answer, Fault, Harness, live_of, route, snapshot_of

from gateway.config.model_file import ModelFile, check_model
from gateway.config.names import _served_path
from gateway.pathname import PathError, normalise
from gateway.protocols.http import Serves, is_twice_encoded
from policies.approvals import origin_of
from policies.in_force import Candidate, InForce

SERVES = {"/score": ("POST",), "/items/*": ("GET", "PUT"), "/items/special": ("DELETE",), "/v1/**": ("GET",)}
FILES = route(protocol="http", serves=SERVES, unit_pointer=None)
SNAPSHOT = snapshot_of([FILES])


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/score", {"POST"}),
        ("/score/", set()),
        ("/scores", set()),
        ("/", set()),
        ("/items/7", {"GET", "PUT"}),
        ("/items/special", {"GET", "PUT", "DELETE"}),
        ("/items/", set()),
        ("/items/7/8", set()),
        ("/v1/a", {"GET"}),
        ("/v1/a/b/", {"GET"}),
        ("/v1", set()),
        ("/v1/", set()),
        ("/score;x", set()),
        ("/SCORE", set()),
    ],
)
def test_a_path_is_served_by_the_methods_of_every_pattern_that_fits(path, methods):
    assert Serves(SERVES).methods(path) == methods


def call(path, method="POST", answers=(), snapshot=SNAPSHOT):
    harness = Harness(snapshot, live_of(snapshot), answers)
    return harness, harness.run(path=path, method=method)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/http/credit-risk/score", "POST", 200),
        ("/http/credit-risk/score", "GET", 405),
        ("/http/credit-risk/score", "HEAD", 405),
        ("/http/credit-risk/items/7", "PUT", 200),
        ("/http/credit-risk/admin", "POST", 404),
        ("/http/credit-risk", "POST", 404),
        ("/http/credit-risk/", "POST", 404),
        ("/http/credit-risk/items/%252E%252E%252Fadmin", "GET", 400),
        ("/http/credit-risk/v1/%252e%252e/admin", "GET", 400),
    ],
)
def test_what_a_model_does_not_serve_never_reaches_it(path, method, status):
    harness, exchange = call(path, method)
    assert exchange.status == status
    assert len(harness.upstream.calls) == (status == 200)
    if status == 405:
        assert "POST" in exchange.document["detail"]


SEGMENT = st.sampled_from(
    ["score", "items", "admin", "..", ".", "%2e%2e", "%2E", "%2f", "%252e%252e", "%252f", "", "7", "v1", ";", "..;x", "%5c", "%00"]
)


@given(st.lists(SEGMENT, max_size=6), st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]))
def test_whatever_is_asked_the_model_only_sees_paths_it_serves(segments, method):
    try:
        path = normalise(("/http/credit-risk/" + "/".join(segments)).encode())
    except PathError:
        return
    harness, _ = call(path, method)
    for _endpoint, target, _body in harness.upstream.calls:
        seen = target.decode()
        assert method in Serves(SERVES).methods(seen)
        assert not is_twice_encoded(seen)
        assert not {"..", "."} & set(seen.split("/"))


def test_an_http_model_has_to_say_what_it_serves():
    entry = {"upstreams": ["http://h"], "digest": "sha256:" + "0" * 64}
    document = {"model": "m", "protocol": "http", "owner": "o", "intended_use": "u", "risk": "low", "versions": {"1": entry}, "default_version": "1"}
    assert [key for key, _ in check_model(ModelFile.model_validate(document), "m")] == [("protocol",)]
    assert check_model(ModelFile.model_validate({**document, "serves": {"/score": ["POST"]}}), "m") == []
    other = {**document, "protocol": "v2", "serves": {"/score": ["POST"]}}
    assert [key for key, _ in check_model(ModelFile.model_validate(other), "m")] == [("serves",)]


@pytest.mark.parametrize("path", ["score", "", "/a/../b", "/a//b", "/a/./b", "/a?b", "/a%2fb", "/a%252fb", "/a b", "/x*", "/**/a", "/%41"])
def test_a_pattern_with_more_than_one_reading_is_refused(path):
    with pytest.raises(ValueError, match=r"path|segment"):
        _served_path(path)


# --- approvals bind the prefix


def test_an_approval_of_one_path_prefix_is_none_of_another():
    assert origin_of("http://h:80/risk/") == "http://h:80/risk"
    assert origin_of("http://h") == "http://h:80"
    approved = next(iter(live_of(BASE)._approvals._approvals.values()))[0]
    for upstream, reason in [("http://v3:80", None), ("http://v3:80/other", "approval.origin")]:
        candidate = Candidate(approved.model, approved.version, approved.digest, (upstream,), "low", approved.purpose)
        in_force = InForce.build([candidate], [approved], [], live_of(BASE)._approvals.root, "staging")
        assert in_force.judge(approved.model, approved.version, approved.digest, 10**15).reason == reason


# --- what callers are told about a model that failed


@pytest.mark.parametrize("fault", list(Fault))
def test_a_caller_is_never_told_an_address_and_the_log_is(fault):
    secret = "10.0.0.7:9003"

    class Failing(Harness):
        def __init__(self) -> None:
            super().__init__(BASE, live_of(BASE), [Answer(fault=fault)])
            self.told = []
            self.lane.on_upstream_fault = lambda name, version, error: self.told.append((name, version.name, error.detail))
            send = self.upstream.send

            async def fails(endpoint, method, target, headers, body, deadline_at, *, idempotent=False):
                try:
                    return await send(endpoint, method, target, headers, body, deadline_at, idempotent=idempotent)
                except Exception as error:
                    error.detail = f"http://{secret} cannot be reached"
                    raise

            self.upstream.send = fails

    harness = Failing()
    exchange = harness.run()
    assert exchange.status in (502, 503, 504)
    assert secret not in json.dumps(exchange.document)
    assert "v3" not in exchange.document["error"]
    assert harness.told == [(exchange.headers[b"assay-decision"].decode(), "3", f"http://{secret} cannot be reached")]
