"""What models may do wrong: whose fault it is said with the right status, one record tells how each call ended, nobody gets another's reply."""

from __future__ import annotations

import contextlib
import socket
import time

import httpx
import pytest
from deployment import BODY, Deployment, wait_until
from upstreams import Asked, Model

from audit.follow import follow

pytestmark = pytest.mark.usefixtures("nothing_leaks")


def ask(gateway: Deployment, behave: str, *, model: str = "captured", value: int = 1) -> httpx.Response:
    return gateway.infer(model, body={"inputs": [{**BODY["inputs"][0], "data": [value]}]}, behave=behave, unit="u")


def is_fault(gateway: Deployment, reply: httpx.Response, status: int, code: str, fault: str) -> bool:
    """Whether reply and record tell the same fault of the model."""
    told, outcome = reply.json(), gateway.outcome(reply.headers["assay-decision"])["outcome"]
    assert told["error"] == f"{code}: {told['detail']}", told
    assert "`1`" in told["detail"], "which version"
    assert len(told["hint"].split()) > 3, "what to do"
    assert told["decision_id"] == reply.headers["assay-decision"]
    assert (reply.status_code, outcome["status"], outcome["code"], outcome["fault"]) == (status, status, code, fault)
    return True


def test_a_model_that_is_down_is_a_502_that_says_when_to_retry(gateway: Deployment):
    reply = ask(gateway, "answer", model="down")
    assert is_fault(gateway, reply, 502, "upstream_unreachable", "connect")
    assert int(reply.headers["retry-after"]) > 0
    # Where models run is nobody's business outside; whoever operates the gateway reads it in its log.
    assert "127.0.0.1" not in reply.text
    lines = [line for line in gateway.output().splitlines() if '"model": "down"' in line and "a model server failed" in line]
    assert any("http://127.0.0.1:" in line and reply.headers["assay-decision"] in line for line in lines), lines


def test_a_model_that_is_slower_than_the_deadline_is_a_504_at_the_deadline(gateway: Deployment):
    started_s = time.monotonic()
    reply = ask(gateway, "slow:5", model="hurried")
    assert 0.4 <= time.monotonic() - started_s < 4, "not when the model answers, after five seconds"
    assert is_fault(gateway, reply, 504, "upstream_timeout", "timeout")


@pytest.mark.parametrize(
    ("behave", "fault"), [("close", "closed"), ("half", "closed"), ("garbage", "protocol"), ("two-lengths", "protocol"), ("bad-chunk", "protocol")]
)
def test_a_model_that_breaks_http_is_a_502(gateway: Deployment, behave: str, fault: str):
    assert is_fault(gateway, ask(gateway, behave), 502, "upstream_broken", fault)


@pytest.mark.parametrize("behave", ["long", "twice"])
def test_what_a_model_says_unasked_reaches_nobody(gateway: Deployment, behave: str):
    for value in range(5):
        reply = ask(gateway, behave, value=value)
        if reply.status_code == 200:
            assert reply.json()["parameters"]["echo"] == value
        else:
            assert is_fault(gateway, reply, 502, "upstream_broken", "protocol")
        good = ask(gateway, "answer", value=100 + value)
        assert (good.status_code, good.json()["parameters"]["echo"]) == (200, 100 + value)
        assert "poison" not in reply.text + good.text


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_a_models_own_error_is_passed_on_as_it_is_and_recorded(gateway: Deployment, status: int):
    reply = ask(gateway, f"status:{status}")
    assert (reply.status_code, reply.json()) == (status, {"error": "the model says no"})
    assert gateway.outcome(reply.headers["assay-decision"])["outcome"]["status"] == status


def test_a_reply_that_cannot_be_read_is_passed_on_and_recorded_as_unreadable(gateway: Deployment):
    reply = ask(gateway, "unreadable")
    assert (reply.status_code, reply.text) == (200, "<html>not JSON</html>")
    record = gateway.outcome(reply.headers["assay-decision"])
    assert record["outcome"]["code"] == "reply_unreadable"
    assert "prediction" not in record


def test_a_reply_too_long_to_be_read_whole_is_a_502(gateway: Deployment):
    assert is_fault(gateway, ask(gateway, "big:17000000"), 502, "upstream_too_large", "too_large")


def test_an_endless_reply_where_it_has_to_be_read_whole_is_a_502(gateway: Deployment):
    assert is_fault(gateway, ask(gateway, "endless"), 502, "upstream_too_large", "too_large")


# --- one leaf, or two -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["captured", "plain"])
def test_a_short_call_is_one_leaf(gateway: Deployment, model: str):
    ask(gateway, "answer", model=model)  # so that the connection stands
    for _ in range(5):  # a busy machine may stretch one call past 15 ms
        reply = ask(gateway, "answer", model=model)
        record = gateway.record(reply.headers["assay-decision"])
        if record["type"] == "call":
            break
    assert (record["type"], record["outcome"]["status"]) == ("call", 200)
    assert record["usage"] == {"rows": 1, "bytes_in": len(reply.request.content), "bytes_out": len(reply.content)}
    assert {"in", "out"} == record["payload"].keys()


def test_what_was_to_be_captured_is_in_the_record(gateway: Deployment):
    record = gateway.outcome(ask(gateway, "answer").headers["assay-decision"])
    assert (record["prediction"], record["score_ppm"]) == ("1", 750_000)


def test_a_long_call_is_a_decision_while_it_runs_and_an_outcome_at_its_end(gateway: Deployment):
    reply = ask(gateway, "slow:0.2")
    decision = gateway.record(reply.headers["assay-decision"])
    outcome = gateway.outcome(reply.headers["assay-decision"])
    assert (decision["type"], outcome["type"], outcome["parents"]) == ("decision", "outcome", [decision["id"]])
    assert "outcome" not in decision
    assert outcome["outcome"]["latency_us"] >= 200_000
    assert outcome["model"]["version"] == "1"


def test_a_sync_call_reaches_the_model_only_after_its_decision_is_in_the_log(gateway: Deployment, one: Model):
    seen: list[bool] = []

    def look(asked: Asked) -> None:
        if "/durable/" in asked.line:
            trace = asked.headers["traceparent"][3:35].encode()
            seen.append(any(trace in leaf and b'"type":"decision"' in leaf for _, leaf in follow(gateway.data, 0)))

    one.before = look
    try:
        for number in range(5):
            headers = {**gateway.bearer("product"), "traceparent": f"00-{number:032x}-{1:016x}-01"}
            reply = gateway.client.post(f"{gateway.front}/v2/models/durable/infer", json=BODY, headers=headers)
            assert reply.status_code == 200
            outcome = next(iter(gateway.log.children.get(reply.headers["assay-decision"], [])), None) or gateway.outcome(
                reply.headers["assay-decision"]
            )
            assert outcome["type"] == "outcome"
    finally:
        one.before = None
    assert seen == [True] * 5


def test_a_reply_of_a_sync_route_comes_after_its_record_is_in_the_log(gateway: Deployment):
    for _ in range(5):
        found = ask(gateway, "answer", model="durable").headers["assay-decision"]
        gateway.log.refresh()
        assert found in gateway.log.by_id
        assert gateway.log.children[found][0]["outcome"]["status"] == 200


# --- streams --------------------------------------------------------------------------------------------------------------------------------


def test_a_stream_arrives_piece_by_piece_and_is_recorded_whole(gateway: Deployment):
    headers = {**gateway.bearer("product"), "x-behave": "stream:5:0.1"}
    arrivals, body = [], b""
    with gateway.client.stream("POST", f"{gateway.front}/http/files/any/path", headers=headers) as reply:
        assert reply.status_code == 200
        for piece in reply.iter_raw():
            arrivals.append(time.monotonic())
            body += piece
    assert body == b"".join(b"piece %d\n" % number for number in range(5))
    assert arrivals[-1] - arrivals[0] > 0.25, "the first piece was not held back until the last"
    outcome = gateway.outcome(reply.headers["assay-decision"])
    assert (outcome["type"], outcome["outcome"]["streamed"], outcome["usage"]["bytes_out"]) == ("outcome", 1, len(body))


def test_a_stream_that_breaks_off_is_seen_as_broken_by_the_caller_and_in_the_record(gateway: Deployment):
    headers = {**gateway.bearer("product"), "x-behave": "broken-stream"}
    with (
        contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError),
        gateway.client.stream("POST", f"{gateway.front}/http/files/x", headers=headers) as reply,
    ):
        body = reply.read()
        pytest.fail(f"the caller took {body!r} for a whole reply")
    outcome = gateway.outcome(reply.headers["assay-decision"])["outcome"]
    assert (outcome["code"], outcome["fault"]) == ("upstream_broken", "closed")


def test_a_reply_of_20_MB_that_nothing_is_read_from_passes_through(gateway: Deployment):  # noqa: N802 - a unit
    reply = gateway.infer("plain", behave="big:20000000")
    assert (reply.status_code, len(reply.content)) == (200, 20_000_000)
    assert gateway.outcome(reply.headers["assay-decision"])["usage"]["bytes_out"] == 20_000_000


def test_query_and_path_of_an_http_route_reach_the_model_and_credentials_do_not(gateway: Deployment, one: Model):
    reply = gateway.client.get(f"{gateway.front}/http/files/some/path?a=1&b=2", headers=gateway.bearer("product"))
    assert reply.status_code == 200
    assert one.asked[-1].line == "GET /some/path?a=1&b=2 HTTP/1.1"
    assert "authorization" not in one.asked[-1].headers


@pytest.mark.parametrize(
    ("target", "status"),
    [("/admin", 404), ("/any/../admin", 404), ("/any/%2e%2e/admin", 404), ("/any%2fadmin", 400), ("/any%252fadmin", 400), ("/../plain/x", 404)],
)
def test_an_http_model_is_not_reached_beside_the_paths_it_serves(gateway: Deployment, one: Model, target: str, status: int):
    asked = len(one.asked)
    line = f"GET /http/files{target} HTTP/1.1\r\nhost: h\r\nauthorization: {gateway.bearer('product')['authorization']}\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.front_port), 5) as connection:  # a client library would mend the path first
        connection.sendall(line.encode())
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert int(received.split(b" ")[1]) == status, received
    assert len(one.asked) == asked


def test_connections_to_models_that_nobody_uses_are_closed(gateway: Deployment, one: Model):
    assert ask(gateway, "answer").status_code == 200
    wait_until(lambda: one.connections == 0, f"idle connections to be closed, {one.connections} are open", 12)
