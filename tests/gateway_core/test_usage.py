"""What a call consumed, read from the reply: exactly what it says, or `unread`; never a failed call, and nothing where nothing is configured."""

from __future__ import annotations

import asyncio
import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_harness import Answer, Harness, route, snapshot_of, version

from gateway.documents import CaptureDocument, PriceDocument
from gateway.exchange import Fault
from gateway.usage import MOST_EVENTS, MOST_ITEMS, MOST_NANO, MOST_TOKENS, TAIL_BYTES, Meter, Tail, cost_nano, count_of

PLACES = CaptureDocument(input_tokens="/usage/prompt_tokens", output_tokens="/usage/completion_tokens")
PRICE = PriceDocument(per_call_nano=1_000_000, per_1000_input_tokens_nano=500_000, per_1000_output_tokens_nano=1_500_000)
METER = Meter.of(PLACES, "EUR")
assert METER is not None
EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"),)
JSON = ((b"content-type", b"application/json"),)
COUNTS = st.integers(0, MOST_TOKENS)
PRICES = st.builds(
    PriceDocument,
    per_call_nano=st.integers(0, 10**15),
    per_1000_input_tokens_nano=st.integers(0, 10**15),
    per_1000_output_tokens_nano=st.integers(0, 10**15),
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["usage", "prompt_tokens", "x"]), inner, max_size=3),
    max_leaves=8,
)


def reply(given_in: Any, given_out: Any) -> bytes:
    return json.dumps({"usage": {"prompt_tokens": given_in, "completion_tokens": given_out}}).encode()


# --- the reading


@given(COUNTS, COUNTS, PRICES)
def test_a_reply_that_says_it_is_recorded_exactly_and_priced_to_half_a_billionth(given_in: int, given_out: int, price: PriceDocument):
    found = METER.of_body(reply(given_in, given_out), price)
    exact = price.per_call_nano + Fraction(given_in * price.per_1000_input_tokens_nano + given_out * price.per_1000_output_tokens_nano, 1000)
    if exact > MOST_NANO + Fraction(1, 2):
        assert found == {"unread": 1}
    else:
        assert (found["input_tokens"], found["output_tokens"], found["currency"]) == (given_in, given_out, "EUR")
        assert abs(found["cost_nano"] - exact) <= Fraction(1, 2)
        assert all(type(value) is int for name, value in found.items() if name != "currency")


@given(JUNK, JUNK)
def test_whatever_a_reply_says_it_is_a_whole_record_of_counts_or_unread(given_in: Any, given_out: Any):
    found = METER.of_body(reply(given_in, given_out), PRICE)
    assert found == {"unread": 1} or set(found) == {"input_tokens", "output_tokens", "cost_nano", "currency"}
    assert ("unread" in found) == (count_of(given_in) is None or count_of(given_out) is None)


@given(st.binary(max_size=40))
def test_bytes_that_are_no_json_are_unread_and_raise_nothing(body: bytes):
    assert METER.of_body(body, PRICE) == {"unread": 1}


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (12, 12),
        (12.0, 12),
        (0, 0),
        ([1, 2, 3.0], 6),
        (MOST_TOKENS, MOST_TOKENS),
        (True, None),
        (-1, None),
        (1.5, None),
        ("12", None),
        (None, None),
        ([], None),
        ([1, None], None),
        ([[1]], None),
        ({"a": 1}, None),
        (MOST_TOKENS + 1, None),
        ([MOST_TOKENS, 1], None),
        ([1] * (MOST_ITEMS + 1), None),
        (float("inf"), None),
    ],
)
def test_a_count_is_a_whole_number_or_a_list_of_them(value: Any, count: int | None):
    assert count_of(value) == count


def test_a_tensor_with_one_count_a_row_is_summed():
    meter = Meter.of(CaptureDocument(output_tokens="/outputs/1/data"), "")
    assert meter is not None
    assert meter.of_body(b'{"outputs": [{"data": ["a", "b"]}, {"data": [7, 5]}]}', None) == {"output_tokens": 12}


def test_half_a_sum_is_no_sum():
    assert METER.of_body(b'{"usage": {"prompt_tokens": 7}}', PRICE) == {"unread": 1}


def test_a_price_by_the_call_needs_no_reply_that_can_be_read():
    meter = Meter.of(CaptureDocument(), "CHF")
    assert meter is not None
    assert meter.of_body(b"\x00", PriceDocument(per_call_nano=5)) == {"cost_nano": 5, "currency": "CHF"}


def test_small_prices_are_not_rounded_away():
    a_token_at_0_15_a_million = PriceDocument(per_1000_input_tokens_nano=150_000)
    assert cost_nano(a_token_at_0_15_a_million, {"input_tokens": 1}) == 150
    assert cost_nano(PriceDocument(per_1000_input_tokens_nano=500), {"input_tokens": 1}) == 1


def test_a_model_that_says_nothing_has_no_meter():
    assert Meter.of(CaptureDocument(prediction="/x", score="/y"), "") is None


# --- what streams


def tail_of(headers: tuple[tuple[bytes, bytes], ...], *pieces: bytes) -> Tail:
    tail = Tail(headers)
    for piece in pieces:
        tail.add(piece)
    return tail


@given(st.lists(st.binary(min_size=1, max_size=12), max_size=30), st.integers(1, 40))
def test_any_split_of_a_stream_of_events_gives_the_same_reading(noise: list[bytes], step: int):
    said = b"".join(b"data: %b\n\n" % piece.hex().encode() for piece in noise)
    said += b'data: {"choices": [], "usage": null}\n\ndata: ' + reply(3, 4) + b"\n\ndata: [DONE]\n\n"
    whole = METER.of_tail(tail_of(EVENTS, said), PRICE)
    assert (whole["input_tokens"], whole["output_tokens"]) == (3, 4)
    pieces = [said[at : at + step] for at in range(0, len(said), step)]
    assert METER.of_tail(tail_of(EVENTS, *pieces), PRICE) == whole


def test_of_events_the_newest_that_says_it_counts():
    said = b"data: " + reply(1, 1) + b"\n\ndata: " + reply(1, 9) + b"\n\n"
    assert METER.of_tail(tail_of(EVENTS, said), None) == {"input_tokens": 1, "output_tokens": 9}


def test_what_is_further_back_than_the_newest_events_is_unread():
    said = b"data: " + reply(1, 1) + b"\n\n" + b"data: {}\n\n" * MOST_EVENTS
    assert METER.of_tail(tail_of(EVENTS, said), PRICE) == {"unread": 1}


@given(st.lists(st.integers(1, TAIL_BYTES), min_size=1, max_size=8))
def test_a_tail_holds_the_last_bytes_and_never_more(lengths: list[int]):
    body = bytes(range(256)) * (sum(lengths) // 256 + 1)
    at, tail = 0, Tail(JSON)
    for length in lengths:
        tail.add(body[at : at + length])
        at += length
        assert sum(map(len, tail._chunks)) <= TAIL_BYTES
    assert b"".join(tail._chunks) == body[max(0, at - TAIL_BYTES) : at]
    assert tail.is_cut == (at > TAIL_BYTES)


def test_a_document_longer_than_the_tail_is_unread():
    assert METER.of_tail(tail_of(JSON, b" " * TAIL_BYTES, reply(1, 1)), PRICE) == {"unread": 1}


# --- through the lane


def lane(*answers: Answer, capture: CaptureDocument = PLACES, currency: str = "EUR", price: PriceDocument | None = PRICE, **more: Any) -> Harness:
    versions = {name: version(name, price=price) for name in ("3", "4")}
    return Harness(snapshot_of([route(capture=capture, currency=currency, versions=versions)], **more), answers=answers)


def called(harness: Harness) -> tuple[Any, dict[str, Any]]:
    exchange = asyncio.run(harness.call())
    (record,) = harness.journal.records("call", "outcome")
    assert harness.defects == []
    return exchange, record


def test_tokens_and_cost_stand_in_the_record_of_the_call_and_in_the_counters():
    harness = lane(Answer(body=reply(1000, 200)))
    exchange, record = called(harness)
    assert exchange.status == 200
    assert record["usage"] | {"bytes_in": 0, "bytes_out": 0} == {
        "rows": 1,
        "bytes_in": 0,
        "bytes_out": 0,
        "input_tokens": 1000,
        "output_tokens": 200,
        "cost_nano": 1_000_000 + 500_000 + 300_000,
        "currency": "EUR",
    }
    assert harness.lane.counters.document()["usage"] == {
        "credit-risk\n3": {"input_tokens": 1000, "output_tokens": 200, "cost_nano EUR": 1_800_000},
    }


@pytest.mark.parametrize("body", [b"<html>", b"{}", reply(-1, 2), reply("1", 2), b"\xff\xff", b""])
def test_a_reply_that_does_not_say_it_is_passed_on_recorded_as_unread_and_no_failure(body: bytes):
    harness = lane(Answer(body=body))
    exchange, record = called(harness)
    assert (exchange.status, exchange.body) == (200, body)
    assert record["usage"]["unread"] == 1
    assert "cost_nano" not in record["usage"]
    assert "code" not in record["outcome"]
    assert harness.lane.counters.document()["usage"] == {"credit-risk\n3": {"unread": 1}}


def test_only_a_reply_with_status_200_costs_anything():
    _, record = called(lane(Answer(status=500, body=reply(1, 1))))
    assert set(record["usage"]) == {"rows", "bytes_in", "bytes_out"}


def test_where_nothing_is_configured_nothing_is_read_or_recorded():
    harness = lane(Answer(body=reply(1, 1)), capture=CaptureDocument(), currency="", price=None)
    assert next(iter(harness.lane.snapshot.routes.values())).meter is None
    _, record = called(harness)
    assert set(record["usage"]) == {"rows", "bytes_in", "bytes_out"}
    assert harness.lane.counters.document()["usage"] == {}


def test_a_streamed_reply_is_passed_on_piece_by_piece_and_metered_at_its_end():
    pieces = (b'data: {"delta": "a"}\n\n', b"data: " + reply(10, 20)[:9], reply(10, 20)[9:] + b"\n\n", b"data: [DONE]\n\n")
    harness = lane(Answer(headers=EVENTS, streamed=pieces))
    exchange, record = called(harness)
    assert (exchange.state, exchange.body) == ("ended", b"".join(pieces))
    assert (record["usage"]["input_tokens"], record["usage"]["output_tokens"]) == (10, 20)
    assert record["outcome"]["streamed"] == 1


def test_a_stream_that_breaks_off_is_unread():
    harness = lane(Answer(headers=EVENTS, streamed=(b"data: " + reply(1, 1) + b"\n\n",) * 2, fault=Fault.CLOSED, stage="chunk"))
    exchange, record = called(harness)
    assert exchange.state == "aborted"
    assert record["usage"]["unread"] == 1


def test_prediction_and_usage_are_read_from_one_reply():
    capture = CaptureDocument(prediction="/label", input_tokens="/n")
    _, record = called(lane(Answer(body=b'{"label": "yes", "n": 7}'), capture=capture, currency="", price=None))
    assert (record["prediction"], record["usage"]["input_tokens"]) == ("yes", 7)


def test_a_reply_that_policies_withhold_was_paid_for_all_the_same():
    harsh = 'package policy.harsh\n\ndeny contains {"id": "H", "msg": "m"} if input.response.body.secret\n'
    policies = {"policies/harsh.rego": f"# METADATA\n# custom: {{points: [response]}}\n{harsh}"}
    body = json.dumps({"secret": True, "usage": {"prompt_tokens": 5, "completion_tokens": 6}}).encode()
    exchange, record = called(lane(Answer(body=body, headers=(*JSON, (b"content-length", b"%d" % len(body)))), policies=policies))
    assert exchange.status == 403
    assert (record["usage"]["input_tokens"], record["usage"]["output_tokens"]) == (5, 6)
