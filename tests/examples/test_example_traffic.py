"""Traffic: bounded, counted, labels for served calls alone. The gateway here is a small working fake on httpx's transport."""

from __future__ import annotations

import asyncio
import json
from itertools import islice

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.models.tensors import parse_request
from examples.models.train import FEATURES, load_split
from examples.traffic import Plan, cases, infer_body, label_event, post_labels, refusal_reasons, send

PLAN = Plan("http://gateway", "secret", rate_per_s=1e6, concurrency=3)


class FakeGateway:
    """Refuses every third call by policy, answers the rest with class 1; keeps what it was sent."""

    def __init__(self) -> None:
        self.calls: list[httpx.Request] = []
        self.labels: list[dict] = []
        self.in_flight = self.most_in_flight = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer secret"
        if request.url.path == "/feedback":
            self.labels += json.loads(request.content)
            return httpx.Response(202)
        self.calls.append(request)
        number = len(self.calls)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        headers = {"assay-decision": f"d{number}", "assay-arm": "champion"}
        if number % 3 == 0:
            reasons = {"error": "no", "code": "policy_denied", "reasons": [{"code": "texture_out_of_range"}]}
            return httpx.Response(403, json=reasons, headers=headers)
        outputs = [{"name": "prediction", "shape": [1], "datatype": "INT64", "data": [1]}]
        return httpx.Response(200, json={"model_version": "4", "outputs": outputs}, headers=headers)


def run(gateway, count):
    async def conversation():
        async with httpx.AsyncClient(transport=httpx.MockTransport(gateway)) as client:
            tally = await send(client, PLAN, list(islice(cases(seed=5), count)))
            return tally, await post_labels(client, PLAN, tally.answers)

    return asyncio.run(conversation())


def test_every_case_is_sent_once_and_counted_by_status_and_reason():
    gateway = FakeGateway()
    tally, _ = run(gateway, 30)
    assert tally.by_status == {200: 20, 403: 10}
    assert tally.by_reason == {"texture_out_of_range": 10}
    assert len({request.headers["assay-unit"] for request in gateway.calls}) == 30
    assert gateway.most_in_flight <= PLAN.concurrency


def test_labels_go_out_for_served_calls_alone_with_the_truth():
    gateway = FakeGateway()
    tally, labels = run(gateway, 30)
    truth = {answer.decision_id: answer.case.label for answer in tally.answers if answer.status == 200}
    assert {event["decision_id"]: event["label"] for event in gateway.labels} == truth
    assert labels.posted == 20
    assert labels.by_status == {202: 20}


def test_accuracy_compares_predictions_with_true_labels():
    tally, _ = run(FakeGateway(), 60)
    malignant = sum(answer.case.label == "1" for answer in tally.answers if answer.status == 200)
    assert tally.accuracy() == {"4": (malignant, 40)}


def test_the_event_id_follows_from_the_decision_so_that_posting_twice_is_harmless():
    tally, _ = run(FakeGateway(), 1)
    assert label_event(tally.answers[0]) == label_event(tally.answers[0])
    assert label_event(tally.answers[0])["event_id"] == "label-d1"


def test_no_reply_is_counted_as_status_zero_with_the_error():
    def unreachable(request):
        raise httpx.ConnectError("refused", request=request)

    tally, labels = run(unreachable, 4)
    assert tally.by_status == {0: 4}
    assert tally.by_reason == {"ConnectError": 4}
    assert labels.posted == 0


def test_rate_bounds_how_fast_calls_begin():
    async def timed():
        async with httpx.AsyncClient(transport=httpx.MockTransport(FakeGateway())) as client:
            loop = asyncio.get_running_loop()
            began_at = loop.time()
            await send(client, Plan("http://gateway", "secret", 100.0, 8), list(islice(cases(1), 21)))
            return loop.time() - began_at

    assert asyncio.run(timed()) >= 0.2


def test_cases_are_held_out_rows_under_fresh_units_and_follow_the_seed():
    drawn = list(islice(cases(seed=9), 300))
    held_out = {tuple(row) for row in load_split().held_out_features}
    assert {case.features for case in drawn} <= held_out
    assert len({case.unit for case in drawn}) == 300
    assert drawn == list(islice(cases(seed=9), 300))
    assert drawn != list(islice(cases(seed=10), 300))


def test_a_case_becomes_a_request_the_model_server_reads():
    case = next(cases(seed=2))
    parsed = parse_request(json.dumps(infer_body(case)).encode(), FEATURES)
    assert tuple(parsed.columns[name][0] for name in FEATURES) == case.features


@pytest.mark.parametrize(
    ("document", "reasons"),
    [
        ({"reasons": ["a", {"code": "b"}]}, ("a", "b")),
        ({"code": "not_approved", "reasons": []}, ("not_approved",)),
        ({}, ("unexplained",)),
    ],
)
def test_reasons_come_from_the_refusal(document, reasons):
    assert refusal_reasons(document) == reasons


@given(st.dictionaries(st.sampled_from(["code", "reasons", "error"]), st.none() | st.text() | st.lists(st.none() | st.text())))
def test_any_refusal_gives_at_least_one_reason(document):
    assert refusal_reasons(document)
