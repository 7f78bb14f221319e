import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.framing import (
    HOP_BY_HOP,
    BodyBy,
    FramingError,
    check_characters,
    check_head_size,
    check_reply,
    for_upstream,
    read_reply_head,
    read_request_head,
    read_target,
)

HOST = (b"host", b"h")
CHUNKED = (b"transfer-encoding", b"chunked")

REFUSED = [
    ([], "1.1", 400),
    ([HOST, HOST], "1.1", 400),
    ([(b"host", b"a, b")], "1.1", 400),
    ([(b"host", b"")], "1.1", 400),
    ([(b"host", b"a/b")], "1.1", 400),
    ([(b"host", b"u@h")], "1.1", 400),
    ([HOST], "2.0", 505),
    ([HOST], "0.9", 505),
    ([HOST, CHUNKED], "1.0", 400),
    ([HOST, CHUNKED, (b"content-length", b"1")], "1.1", 400),
    ([HOST, CHUNKED, CHUNKED], "1.1", 400),
    ([HOST, (b"transfer-encoding", b"gzip, chunked")], "1.1", 501),
    ([HOST, (b"transfer-encoding", b"identity")], "1.1", 501),
    ([HOST, (b"transfer-encoding", b"chunked, chunked")], "1.1", 501),
    ([HOST, (b"transfer-encoding", b"")], "1.1", 501),
    ([HOST, (b"content-length", b"1"), (b"content-length", b"1")], "1.1", 400),
    ([HOST, (b"content-length", b"+1")], "1.1", 400),
    ([HOST, (b"content-length", b"-1")], "1.1", 400),
    ([HOST, (b"content-length", b"01")], "1.1", 400),
    ([HOST, (b"content-length", b"1, 1")], "1.1", 400),
    ([HOST, (b"content-length", b"0x1")], "1.1", 400),
    ([HOST, (b"content-length", b"1_0")], "1.1", 400),
    ([HOST, (b"content-length", b"")], "1.1", 400),
    ([HOST, (b"content-length", b"9" * 19)], "1.1", 400),
    ([HOST, (b"upgrade", b"h2c")], "1.1", 400),
    ([HOST, (b"expect", b"200-ok")], "1.1", 417),
    ([HOST, (b"content-encoding", b"gzip")], "1.1", 415),
    ([HOST, (b"connection", b"host")], "1.1", 400),
    ([HOST, (b"connection", b"close, Authorization")], "1.1", 400),
]


@pytest.mark.parametrize(("headers", "version", "status"), REFUSED)
def test_an_ambiguous_request_head_is_refused(headers, version, status):
    with pytest.raises(FramingError) as refusal:
        read_request_head("POST", version, headers)
    assert refusal.value.status == status


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_connect_and_trace_are_not_served(method):
    with pytest.raises(FramingError) as refusal:
        read_request_head(method, "1.1", [HOST])
    assert refusal.value.status == 405


@pytest.mark.parametrize(
    ("headers", "version", "keep_alive"),
    [
        ([], "1.1", True),
        ([(b"connection", b"close")], "1.1", False),
        ([(b"connection", b"Keep-Alive, Close")], "1.1", False),
        ([], "1.0", False),
        ([(b"connection", b"keep-alive")], "1.0", True),
        ([(b"connection", b"x"), (b"connection", b"close")], "1.1", False),
    ],
)
def test_connection_decides_about_keep_alive(headers, version, keep_alive):
    assert read_request_head("GET", version, [HOST, *headers]).keep_alive is keep_alive


def test_hop_by_hop_fields_and_those_connection_names_are_taken_out():
    headers = [HOST, (b"connection", b"x-private, keep-alive"), (b"x-private", b"1"), (b"te", b"trailers"), (b"x-kept", b"2"), (b"keep-alive", b"5")]
    assert read_request_head("GET", "1.1", headers).headers == [HOST, (b"x-kept", b"2")]


def test_a_head_has_at_most_100_fields_and_32_kib():
    check_head_size([(b"a", b"b")] * 100)
    with pytest.raises(FramingError) as refusal:
        check_head_size([(b"a", b"b")] * 101)
    assert refusal.value.status == 431
    with pytest.raises(FramingError):
        check_head_size([(b"a", b"b" * 32768)])


@pytest.mark.parametrize(
    "field", [(b"a b", b""), (b"", b""), (b"a:", b""), (b"\xe9", b""), (b"a", b"\x00"), (b"a", b"x\ny"), (b"a", b"\r"), (b"a", b"\x7f")]
)
def test_characters_that_break_a_header_are_refused(field):
    with pytest.raises(FramingError):
        check_characters([field])


@pytest.mark.parametrize("target", [b"*", b"h:80", b"http://other/p", b"ftp://h/p", b"/a?b#c", b"/a?\xff", b"/a#b"])
def test_a_target_that_is_not_a_plain_path_is_refused(target):
    with pytest.raises(FramingError):
        read_target(target, b"h")


def test_absolute_form_that_agrees_with_host_is_a_path():
    assert read_target(b"http://H/p?q=1", b"h") == ("/p", b"q=1")
    assert read_target(b"http://h", b"h") == ("/", b"")


def test_credentials_of_the_gateway_do_not_travel_on():
    headers = [HOST, (b"authorization", b"Bearer k"), (b"assay-unit", b"u"), (b"assay-context", b"{}"), (b"x", b"1"), (b"accept-encoding", b"br")]
    assert for_upstream(headers) == [(b"x", b"1"), (b"accept-encoding", b"identity")]


CODED = (b"transfer-encoding", b"chunked")
REPLIES = [
    ("HEAD", 200, "1.1", [(b"content-length", b"5")], BodyBy.NONE, True),
    ("GET", 204, "1.1", [(b"content-length", b"5")], BodyBy.NONE, True),
    ("GET", 304, "1.1", [CODED], BodyBy.NONE, True),
    ("GET", 100, "1.1", [], BodyBy.NONE, True),
    ("GET", 200, "1.1", [(b"content-length", b"5")], BodyBy.LENGTH, True),
    ("GET", 200, "1.0", [(b"content-length", b"5")], BodyBy.LENGTH, False),
    ("GET", 200, "1.0", [(b"content-length", b"5"), (b"connection", b"keep-alive")], BodyBy.LENGTH, True),
    ("GET", 200, "1.1", [CODED], BodyBy.CHUNKED, True),
    ("GET", 200, "1.1", [CODED, (b"connection", b"close")], BodyBy.CHUNKED, False),
    ("GET", 200, "1.1", [], BodyBy.EOF, False),
    ("POST", 500, "1.0", [(b"connection", b"keep-alive")], BodyBy.EOF, False),
    ("GET", 101, "1.1", [], None, None),
    ("GET", 99, "1.1", [], None, None),
    ("GET", 600, "1.1", [], None, None),
    ("GET", 200, "1.1", [CODED, (b"content-length", b"5")], None, None),
    ("GET", 200, "1.0", [CODED], None, None),
    ("GET", 200, "1.1", [(b"transfer-encoding", b"gzip, chunked")], None, None),
    ("GET", 200, "1.1", [(b"content-length", b"5"), (b"content-length", b"5")], None, None),
    ("GET", 200, "1.1", [(b"content-length", b"5, 5")], None, None),
    ("GET", 200, "1.1", [(b"content-length", b"05")], None, None),
]


@pytest.mark.parametrize(("method", "status", "version", "headers", "body_by", "keep_alive"), REPLIES)
def test_the_table_of_replies(method, status, version, headers, body_by, keep_alive):
    if body_by is None:
        with pytest.raises(FramingError):
            read_reply_head(method, status, version, headers)
        return
    head = read_reply_head(method, status, version, headers)
    assert (head.body_by, head.keep_alive) == (body_by, keep_alive)


@given(st.lists(st.tuples(st.sampled_from([*HOP_BY_HOP, b"x-a", b"x-b", b"date"]), st.sampled_from([b"x-a", b"v", b"close", b""])), max_size=6))
def test_no_hop_by_hop_field_survives_in_a_reply(headers):
    try:
        head = read_reply_head("GET", 200, "1.1", headers)
    except FramingError:
        return
    assert not HOP_BY_HOP & {name for name, _ in head.headers}


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (199, [], b""), (600, [], b""), (204, [], b"x"), (200, [(b"content-length", b"1")], b""), (200, [(b"connection", b"close")], b""),
        (200, [(b"a", b"b\r\nset-cookie: c")], b""), (200, [(b"a\n", b"b")], b""),
    ],
)  # fmt: skip
def test_the_lane_cannot_touch_the_framing_of_a_reply(status, headers, body):
    with pytest.raises(ValueError, match="`"):
        check_reply(status, headers, body)
