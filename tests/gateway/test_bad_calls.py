"""What callers may send wrong: each gets its status in its protocol's shape, and is recorded where a decision was made."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from contextlib import closing
from typing import Any

import pytest
from deployment import BODY, Deployment, orphans, wait_until
from upstreams import Model

pytestmark = pytest.mark.usefixtures("nothing_leaks")
INFER = "/v2/models/plain/infer"


def early(deployment: Deployment, code: str) -> int:
    """How many refusals before authentication the log's `denial.count` records tell for a code."""
    return sum(record["count"] for record in deployment.log.of_type("denial.count") if record["reason"] == code)


def says_what_and_what_to_do(told: dict[str, Any], code: str) -> bool:
    """Whether an error names its code, says what is wrong and where, and what to do."""
    return told["code"] == code and len(told["detail"].split()) > 3 and len(told["hint"].split()) > 2


def is_v2_error(reply, code: str) -> bool:
    told = reply.json()
    is_shaped = reply.headers["content-type"] == "application/json" and told["error"] == f"{code}: {told['detail']}"
    return is_shaped and says_what_and_what_to_do(told, code)


def is_problem(reply, code: str) -> bool:
    told = reply.json()
    is_shaped = reply.headers["content-type"] == "application/problem+json" and told["status"] == reply.status_code
    return is_shaped and says_what_and_what_to_do(told, code)


def is_raw_problem(told: bytes, status: int, code: str) -> bool:
    """The same of an answer as it came over the wire, after which the connection was closed."""
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), told[:300]
    fields = head.lower()
    assert b"content-type: application/problem+json" in fields
    assert b"connection: close" in fields
    return says_what_and_what_to_do(json.loads(body), code)


def raw(deployment: Deployment, data: bytes, *, half_close: bool = False, timeout_s: float = 5.0) -> bytes:
    """Send bytes on a connection of their own and return everything that comes back until the end."""
    with closing(socket.create_connection(("127.0.0.1", deployment.front_port), timeout=timeout_s)) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)


def request(deployment: Deployment, *fields: str, body: bytes = b"", target: str = INFER, version: str = "HTTP/1.1") -> bytes:
    lines = [f"POST {target} {version}", f"authorization: Bearer {deployment.keys['product']}", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


# --- bodies -------------------------------------------------------------------------------------------------------------------------------

DEEP = b'{"inputs":' + b"[" * 40 + b"]" * 40 + b"}"
BAD_BODIES = {
    "empty": b"",
    "not JSON": b"{",
    "two documents": b"{}{}",
    "not UTF-8": b'{"inputs": "\xff"}',
    "NaN": b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[NaN]}]}',
    "a duplicate key": b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[1]}],"inputs":[]}',
    "a duplicate key spelt differently": b'{"inputs":[{"name":"x","n\\u0061me":"y","shape":[1],"datatype":"FP64","data":[1]}]}',
    "a list": b"[]",
    "no inputs": b"{}",
    "inputs of the wrong type": b'{"inputs":{"name":"x"}}',
    "no tensor": b'{"inputs":[]}',
    "a name that is a number": b'{"inputs":[{"name":1,"shape":[1],"datatype":"FP64","data":[1]}]}',
    "a shape that is text": b'{"inputs":[{"name":"x","shape":"1","datatype":"FP64","data":[1]}]}',
    "a negative shape": b'{"inputs":[{"name":"x","shape":[-1],"datatype":"FP64","data":[1]}]}',
    "nesting past the limit": DEEP,
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_malformed_body_is_a_400_in_the_protocols_shape_and_never_reaches_the_model(gateway: Deployment, one: Model, body: bytes):
    asked = len(one.asked)
    reply = gateway.infer("plain", content=body)
    assert reply.status_code == 400, reply.text
    assert is_v2_error(reply, "malformed_body")
    assert "assay-decision" not in reply.headers
    assert len(one.asked) == asked


def test_malformed_bodies_are_only_counted_in_the_log(gateway: Deployment):
    calls = gateway.settled_calls()
    counted = early(gateway, "malformed_body")
    for _ in range(3):
        assert gateway.infer("plain", content=b"{").status_code == 400
    wait_until(lambda: early(gateway, "malformed_body") >= counted + 3, "the count of refused bodies in the log")
    assert gateway.settled_calls() == calls + 1, "nothing but the call that was just made to look"


def test_a_body_over_the_limit_is_a_413_and_counted(gateway: Deployment):
    counted = early(gateway, "body_too_large")
    reply = gateway.infer("plain", content=b" " * 70_000)
    assert reply.status_code == 413
    assert is_problem(reply, "body_too_large")
    wait_until(lambda: early(gateway, "body_too_large") == counted + 1, "the count of refused bodies in the log")


def test_a_chunked_body_over_the_limit_is_a_413(gateway: Deployment):
    piece = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
    told = raw(gateway, request(gateway, "host: h", "transfer-encoding: chunked", body=piece * 10 + b"0\r\n\r\n"))
    assert told.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("model", "data", "what"),
    [("typed", [11], "above the greatest value"), ("typed", ["text"], "of the wrong type"), ("typed", [None], "null")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_inputs_that_break_the_contract_are_a_422_and_a_record_and_never_reach_the_model(gateway: Deployment, one: Model, model, data, what):
    asked = len(one.asked)
    reply = gateway.infer(model, body={"inputs": [{**BODY["inputs"][0], "data": data}]})
    assert reply.status_code == 422, what
    assert is_v2_error(reply, "schema_mismatch")
    record = gateway.record(reply.headers["assay-decision"])
    assert (record["type"], record["outcome"]["status"], record["outcome"]["code"]) == ("call", 422, "schema_mismatch")
    assert "out" not in record.get("payload", {})
    assert len(one.asked) == asked


def test_an_unknown_input_is_a_422(gateway: Deployment):
    reply = gateway.infer("typed", body={"inputs": [*BODY["inputs"], {**BODY["inputs"][0], "name": "y"}]})
    assert reply.status_code == 422
    assert "`y`" in reply.json()["detail"]


def test_more_rows_than_the_route_allows_are_refused_by_policy_with_its_reason_on_record(gateway: Deployment):
    reply = gateway.infer("narrow", body={"inputs": [{**BODY["inputs"][0], "shape": [4], "data": [1, 2, 3, 4]}]})
    assert reply.status_code == 422
    assert reply.json()["reasons"][0]["id"] == "LIM-001"
    record = gateway.record(reply.headers["assay-decision"])
    assert (record["policy"]["decision"], record["policy"]["reasons"][0]["id"], record["outcome"]["status"]) == ("deny", "LIM-001", 422)


def test_a_unit_that_the_route_asks_for_and_is_missing_is_a_422_and_a_record(gateway: Deployment):
    reply = gateway.infer("captured")
    assert reply.status_code == 422
    assert is_v2_error(reply, "schema_mismatch")
    assert gateway.record(reply.headers["assay-decision"])["outcome"]["status"] == 422


# --- paths and methods --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v2/models/nobody/infer", "unknown_model"),
        ("/v2/models/plain/versions/9/infer", "unknown_model"),
        ("/v2/models/plain/explain", "not_found"),
    ],
)
def test_an_unknown_model_or_version_is_a_404_in_the_protocols_shape_and_counted(gateway: Deployment, path: str, code: str):
    counted = early(gateway, code)
    reply = gateway.client.post(f"{gateway.front}{path}", json=BODY, headers=gateway.bearer("product"))
    assert reply.status_code == 404
    assert is_v2_error(reply, code)
    wait_until(lambda: early(gateway, code) > counted, "the count of unknown models in the log")


def test_a_path_of_nothing_is_a_404_problem(gateway: Deployment):
    reply = gateway.get("/nothing/here")
    assert reply.status_code == 404
    assert is_problem(reply, "not_found")


def test_inference_is_a_post(gateway: Deployment):
    reply = gateway.get(INFER, key="product")
    assert reply.status_code == 405
    assert is_v2_error(reply, "method_not_allowed")


def test_an_unknown_http_model_is_a_404(gateway: Deployment):
    reply = gateway.client.post(f"{gateway.front}/http/plain/x", headers=gateway.bearer("product"))
    assert reply.status_code == 404


# --- framing ------------------------------------------------------------------------------------------------------------------------------

ONE = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[1]}]}'
LENGTH = f"content-length: {len(ONE)}"
AMBIGUOUS = {
    "no host": ((LENGTH,), 400),
    "two hosts": (("host: a", "host: b", LENGTH), 400),
    "a host with a comma": (("host: a,b", LENGTH), 400),
    "two lengths": (("host: h", LENGTH, "content-length: 3"), 400),
    "two equal lengths": (("host: h", LENGTH, LENGTH), 400),
    "a length with a plus": (("host: h", "content-length: +66"), 400),
    "a length with zeros before": (("host: h", "content-length: 066"), 400),
    "length and chunks": (("host: h", LENGTH, "transfer-encoding: chunked"), 400),
    "chunks last but not alone": (("host: h", "transfer-encoding: gzip, chunked"), 501),
    "chunks not last": (("host: h", "transfer-encoding: chunked, identity"), 400),
    "a space before the colon": (("host: h", f"content-length : {len(ONE)}"), 400),
    "a folded header": (("host: h", LENGTH, "x-a: b\r\n c"), 400),
    "a control character in a value": (("host: h", LENGTH, "x-a: \x01"), 400),
    "an upgrade": (("host: h", LENGTH, "connection: upgrade", "upgrade: h2c"), 400),
    "a coded body": (("host: h", LENGTH, "content-encoding: gzip"), 415),
    "an expectation": (("host: h", LENGTH, "expect: tea"), 417),
    "more fields than anyone needs": (("host: h", LENGTH, *(f"x-{number}: 1" for number in range(120))), 431),
    "a connection that names a field of meaning": (("host: h", LENGTH, "connection: content-type"), 400),
}


@pytest.mark.parametrize(("fields", "status"), AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_an_ambiguous_message_is_refused_the_connection_closed_and_nothing_smuggled(gateway: Deployment, one: Model, fields, status):
    asked = len(one.asked)
    code = "unsupported_media" if status == 415 else "malformed_request"
    smuggled = request(gateway, "host: h", LENGTH, body=ONE)
    told = raw(gateway, request(gateway, *fields, body=ONE) + smuggled)
    assert is_raw_problem(told, status, code)
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", told)) == 1, "one answer, then the end of the connection"
    assert len(one.asked) == asked, "nothing reached the model"


def test_ambiguous_messages_are_counted_one_by_one_and_nothing_of_them_is_recorded(gateway: Deployment):
    calls = gateway.settled_calls()
    codes = ("malformed_request", "unsupported_media")
    gateway.wait_idle()
    (status,) = gateway.statuses()
    before = [status["refused_early"].get(code, 0) for code in codes]
    wait_until(lambda: [early(gateway, code) for code in codes] == before, "what earlier messages added to be told")
    for fields, _ in AMBIGUOUS.values():
        raw(gateway, request(gateway, *fields, body=ONE))
    expected = [before[0] + len(AMBIGUOUS) - 1, before[1] + 1]
    wait_until(lambda: [early(gateway, code) for code in codes] == expected, "the counts of refused messages in the log")
    assert gateway.settled_calls() == calls + 1


def test_chunks_on_http_1_0_are_refused(gateway: Deployment):
    told = raw(gateway, request(gateway, "host: h", "transfer-encoding: chunked", body=b"0\r\n\r\n", version="HTTP/1.0"))
    assert is_raw_problem(told, 400, "malformed_request")


@pytest.mark.parametrize("target", ["/v2/models/plain%2Finfer", "/v2/../../etc/passwd", "/v2/models/%zz/infer", "/v2/models/plain%00/infer"])
def test_a_path_with_two_readings_is_a_400(gateway: Deployment, target: str):
    told = raw(gateway, request(gateway, "host: h", LENGTH, body=ONE, target=target))
    assert is_raw_problem(told, 400, "malformed_request")


def test_bytes_that_are_no_http_are_a_400_and_counted(gateway: Deployment):
    counted = early(gateway, "malformed_request")
    told = raw(gateway, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert is_raw_problem(told, 400, "malformed_request")
    wait_until(lambda: early(gateway, "malformed_request") > counted, "the count of malformed requests in the log")


def test_a_head_over_32_KiB_is_a_431(gateway: Deployment):  # noqa: N802 - a unit
    told = raw(gateway, request(gateway, "host: h", "x-long: " + "a" * 40_000, LENGTH, body=ONE))
    assert is_raw_problem(told, 431, "malformed_request")


def test_pipelined_calls_are_answered_in_order_each_with_its_own(gateway: Deployment):
    bodies = [json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [n]}]}).encode() for n in range(5)]
    calls = [request(gateway, "host: h", f"content-length: {len(body)}", body=body) for body in bodies[:-1]]
    calls.append(request(gateway, "host: h", f"content-length: {len(bodies[-1])}", "connection: close", body=bodies[-1]))
    told = raw(gateway, b"".join(calls))
    assert [told.split(b'"echo": ')[n + 1][:1] for n in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


# --- slow and absent callers --------------------------------------------------------------------------------------------------------------


def test_a_caller_who_sends_its_call_byte_by_byte_is_served(gateway: Deployment):
    data = request(gateway, "host: h", LENGTH, "connection: close", body=ONE)
    with closing(socket.create_connection(("127.0.0.1", gateway.front_port), timeout=5)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            connection.sendall(data[at : at + 1])
            time.sleep(0.001)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_callers_who_never_finish_their_head_hold_up_nobody_and_get_a_408(gateway: Deployment):
    idle = [socket.create_connection(("127.0.0.1", gateway.front_port), timeout=15) for _ in range(50)]
    try:
        for connection in idle:
            connection.sendall(b"POST /v2/models/plain/infer HTTP/1.1\r\nhost:")
        started_s = time.monotonic()
        assert gateway.infer("plain").status_code == 200
        assert time.monotonic() - started_s < 5, "not until their time is over, which is ten seconds"
        assert is_raw_problem(idle[0].recv(4096), 408, "malformed_request")
    finally:
        for connection in idle:
            connection.close()


def test_a_caller_who_never_finishes_its_body_gets_a_408_and_no_model_is_called(gateway: Deployment, one: Model):
    asked = len(one.asked)
    told = raw(gateway, request(gateway, "host: h", LENGTH, body=ONE[:10]), timeout_s=15)
    assert is_raw_problem(told, 408, "malformed_request")
    assert len(one.asked) == asked


def test_a_caller_who_goes_away_before_its_head_is_whole_leaves_nothing_behind(gateway: Deployment):
    for data in (b"", b"POST", request(gateway, "host: h", LENGTH), request(gateway, "host: h", LENGTH, body=ONE[:10])):
        with closing(socket.create_connection(("127.0.0.1", gateway.front_port), timeout=5)) as connection:
            connection.sendall(data)
    wait_until(lambda: not orphans(gateway), "their connections to be closed", 5)
    assert all(status["in_flight"] == 0 for status in gateway.statuses())


def test_a_half_closed_connection_before_a_whole_call_gets_no_model_call(gateway: Deployment, one: Model):
    asked = len(one.asked)
    told = raw(gateway, request(gateway, "host: h", LENGTH, body=ONE[:10]), half_close=True)
    assert not told.startswith(b"HTTP/1.1 2")
    assert len(one.asked) == asked


@pytest.mark.parametrize("leaves", ["whole", "half"])
def test_a_caller_who_goes_away_while_being_served_is_recorded_as_gone(gateway: Deployment, leaves: str):
    gateway.wait_idle()
    known = {record["id"] for record in gateway.log.refresh()}
    with closing(socket.create_connection(("127.0.0.1", gateway.front_port), timeout=5)) as connection:
        connection.sendall(request(gateway, "host: h", "x-behave: slow:5", LENGTH, body=ONE))
        decision = wait_until(
            lambda: next((record for record in gateway.log.of_type("decision") if record["id"] not in known), None),
            "the call to be recorded as decided",
        )
        if leaves == "half":  # it reads no more than it writes: nginx's rule
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(4096) == b""
    outcome = gateway.outcome(decision["id"])["outcome"]
    assert (outcome["status"], outcome["code"]) == (499, "caller_gone")


def test_a_caller_who_does_not_read_a_stream_holds_up_nobody(gateway: Deployment):
    with closing(socket.create_connection(("127.0.0.1", gateway.front_port), timeout=5)) as connection:
        connection.sendall(request(gateway, "host: h", "x-behave: endless", "content-length: 0", target="/http/files/x"))
        time.sleep(0.3)
        started_s = time.monotonic()
        assert gateway.infer("plain").status_code == 200
        assert time.monotonic() - started_s < 5


def test_many_callers_at_once_are_each_served_and_recorded(gateway: Deployment):
    replies = []

    def run() -> None:
        replies.extend(gateway.infer("plain", unit=f"u{n}") for n in range(20))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.status_code for reply in replies] == [200] * 160
    ids = {reply.headers["assay-decision"] for reply in replies}
    assert len(ids) == 160
    for found in ids:
        assert gateway.outcome(found)["outcome"]["status"] == 200
