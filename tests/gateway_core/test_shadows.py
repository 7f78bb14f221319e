"""Shadows in one process: who is mirrored, at what cost at most, and that the caller never notices."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from lane_harness import MODEL, REPLY, Answer, FakeUpstream, Harness, Points, approval, experiment, live_of, route, snapshot_of, version

from experiments.bucketing import encode_parts
from experiments.document import LiveExperiment, PartDocument, ShadowDocument, StepDocument
from experiments.shares import WHOLE
from gateway import shadows as module
from gateway.documents import CaptureDocument, PriceDocument
from gateway.exchange import Fault
from gateway.shadows import Shadows

PARTS = (
    PartDocument(name="label", kind="label", at="/outputs/0/data/0", max_disagreement_ppm=10_000),
    PartDocument(name="score", kind="number", at="/score", tolerance_ppm=10_000, max_disagreement_ppm=10_000),
)


class Mirror(Harness):
    """A lane with a running shadow: version 3 serves, version 4 gets copies."""

    def __init__(self, *answers: Answer, share: int = WHOLE, phase: str = "running", approvals=None, champion=(), routes=None, **limits: Any) -> None:
        step = StepDocument(exposure=share, shares={"champion": WHOLE, "shadow": 0}, hold_us=0, min_units=1)
        document = experiment(
            "mirror",
            strategy="shadow",
            arms={"champion": "3", "shadow": "4"},
            sticky="none",
            steps=(step,),
            shadow=ShadowDocument(compare=PARTS, **{"timeout_us": 1_000_000, "per_second": 10_000, "per_day": 0, **limits}),
        )
        state = LiveExperiment(experiment="mirror", epoch=2, phase=phase, step=0, exposure=share if phase == "running" else 0, shares=step.shares)
        snapshot = snapshot_of(routes, experiments=(document,))
        live = live_of(snapshot, approvals, {"mirror": state})
        super().__init__(snapshot, live, champion)
        self.copies = FakeUpstream(Points(), *answers)
        lane = self.lane
        self.now_s, self.unix_s = 100.0, 1_800_000_000
        lane.shadows = self.shadows = Shadows(
            self.copies, self.journal, lane.source, lane.ids, workers=1, clock_s=lambda: self.now_s, unix_ns=lambda: self.unix_s * 10**9
        )
        lane.install(snapshot, live)

    def serve(self, calls: int = 1, **more: Any) -> list[Any]:
        """Serve calls to their end, then mirror what was drawn."""

        async def all_of_them() -> list[Any]:
            exchanges = [await self.call(**more) for _ in range(calls)]
            while self.shadows._queue or self.shadows._tasks:  # the test drives what the sweep would
                self.shadows.start()
                await asyncio.sleep(0)
            return exchanges

        return asyncio.run(all_of_them())

    def compared(self) -> list[dict[str, Any]]:
        return self.journal.records("shadow")


def test_the_caller_gets_the_champions_reply_and_the_pair_is_recorded_under_its_decision():
    mirror = Mirror(Answer(body=b'{"outputs":[{"name":"p","data":[1]}],"score":0.255}'))
    (exchange,) = mirror.serve()
    assert (exchange.status, exchange.body) == (200, REPLY)
    assert b"assay-arm" not in exchange.headers
    (record,) = mirror.compared()
    (call,) = mirror.journal.records("call")
    assert record["parents"] == [call["id"]]
    assert call["model"]["version"] == "3"
    assert "experiment" not in call["route"]
    assert record["model"]["version"] == "4"
    assert (record["experiment"], record["epoch"]) == ("mirror", 2)
    assert record["compared"] == {"label": {"agrees": 1}, "score": {"agrees": 1, "difference_ppm": 5000}}
    assert record["subject"] == call["subject"]
    assert record["payload"]["out"] != call["payload"]["out"]
    assert mirror.copies.calls[0][0] == "http://v4:80"
    assert mirror.copies.calls[0][2] == mirror.upstream.calls[0][2]
    assert mirror.defects == []


@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.CONNECT, Fault.PROTOCOL, Fault.TOO_LARGE, Fault.BUSY])
def test_a_broken_shadow_is_a_failed_pair_and_nothing_else(fault: Fault):
    mirror = Mirror(Answer(fault=fault))
    (exchange,) = mirror.serve()
    assert (exchange.status, exchange.body) == (200, REPLY)
    (record,) = mirror.compared()
    assert record["outcome"]["code"] == f"upstream_{fault.value}"
    assert record["compared"] == {}
    assert mirror.shadows.counts == {"mirror": {"failed": 1}}


def test_a_reply_that_is_no_json_disagrees():
    mirror = Mirror(Answer(body=b"<html>"))
    mirror.serve()
    assert {part["agrees"] for part in mirror.compared()[0]["compared"].values()} == {0}


def test_another_status_than_the_champions_is_a_failure():
    mirror = Mirror(Answer(status=422))
    mirror.serve()
    assert (mirror.compared()[0]["outcome"]["status"], mirror.shadows.counts) == (422, {"mirror": {"failed": 1}})


def test_a_call_that_the_champion_failed_is_not_mirrored():
    mirror = Mirror(champion=[Answer(status=500)])
    mirror.serve()
    assert mirror.copies.calls == []


def test_a_version_that_is_not_approved_gets_no_copy():
    mirror = Mirror(approvals=(approval("3"),))
    mirror.serve(3)
    assert mirror.copies.calls == []
    assert mirror.shadows.counts == {"mirror": {"ineligible": 3}}
    assert mirror.compared() == []


def test_a_killed_model_gets_no_copy_any_more():
    mirror = Mirror()

    async def kill_in_between() -> None:
        await mirror.call()
        mirror.lane.install(mirror.lane.snapshot, live_of(mirror.lane.snapshot, killed=(MODEL,)))
        mirror.shadows.start()
        await asyncio.gather(*mirror.shadows._tasks)

    asyncio.run(kill_in_between())
    assert mirror.copies.calls == []


@pytest.mark.parametrize("phase", ["draft", "paused", "stopped", "rolled_back"])
def test_only_a_running_shadow_mirrors(phase: str):
    mirror = Mirror(phase=phase)
    mirror.serve()
    assert mirror.copies.calls == []
    assert mirror.shadows.of == {}


def test_which_calls_are_mirrored_follows_from_salt_and_decision_alone():
    share = WHOLE // 4
    mirror = Mirror(share=share)
    mirror.serve(200)
    expected = set()
    for record in mirror.journal.records("call"):
        hashed = module.sha256(encode_parts(("pepper", "shadow", record["id"]))).digest()
        if int.from_bytes(hashed[:4], "big") < share:
            expected.add(record["id"])
    assert {record["parents"][0] for record in mirror.compared()} == expected
    assert 20 <= len(expected) <= 85  # 50 expected, five standard deviations of 6.1


def test_the_pace_and_the_day_bound_what_a_shadow_costs():
    paced = Mirror(per_second=3)
    paced.serve(10)
    assert len(paced.copies.calls) == 3
    assert paced.shadows.counts["mirror"] == {"over_budget": 7, "compared": 3}
    paced.now_s += 1.0
    paced.serve(1)
    assert len(paced.copies.calls) == 4
    daily = Mirror(per_day=5)
    daily.serve(10)
    assert len(daily.copies.calls) == 5


# --- cost


def priced(**capture: str) -> list[Any]:
    """A route whose version 4 costs a thousandth of the currency a token."""
    prices = {"3": PriceDocument(per_call_nano=7), "4": PriceDocument(per_1000_output_tokens_nano=10**9)}
    versions = {name: version(name, price=price) for name, price in prices.items()}
    return [route(versions=versions, currency="EUR", capture=CaptureDocument(**{"output_tokens": "/n", **capture}))]


def wordy(tokens: Any) -> Answer:
    return Answer(body=json.dumps({"n": tokens}).encode())


def test_what_both_replies_cost_stands_in_the_pair():
    mirror = Mirror(wordy(2000), champion=[wordy(3)], routes=priced())
    mirror.serve()
    (record,) = mirror.compared()
    assert record["usage"] == {"output_tokens": 2000, "cost_nano": 2 * 10**9, "currency": "EUR"}
    assert record["champion"]["usage"] == {"output_tokens": 3, "cost_nano": 7, "currency": "EUR"}


def test_where_nothing_is_configured_a_pair_says_nothing_of_cost():
    mirror = Mirror()
    mirror.serve()
    (record,) = mirror.compared()
    assert "usage" not in record
    assert "usage" not in record["champion"]


def test_a_day_ends_when_its_copies_have_cost_the_budget_and_the_next_begins_anew():
    mirror = Mirror(wordy(1000), champion=[wordy(1)], routes=priced(), cost_per_day_nano=3 * 10**9)
    for _ in range(10):
        mirror.serve()
    assert len(mirror.copies.calls) == 3
    assert mirror.shadows.counts["mirror"] == {"compared": 3, "over_budget": 7}
    mirror.unix_s += 86_400
    mirror.serve()
    assert len(mirror.copies.calls) == 4


def test_copies_under_way_may_overdraw_a_day_by_no_more_than_are_in_flight_at_once():
    mirror = Mirror(wordy(1000), champion=[wordy(1)], routes=priced(), cost_per_day_nano=10**9)
    mirror.serve(10)
    assert 1 <= len(mirror.copies.calls) <= module.IN_FLIGHT
    mirror.serve(5)
    assert mirror.shadows.counts["mirror"]["over_budget"] == 5


@pytest.mark.parametrize(
    "answer", [Answer(body=b"{}"), Answer(body=b"<html>"), wordy(-1), Answer(fault=Fault.TIMEOUT)], ids=["nothing", "html", "less", "cut"]
)
def test_a_shadow_that_never_says_what_it_costs_is_bounded_all_the_same(answer: Answer):
    mirror = Mirror(answer, champion=[wordy(1)], routes=priced(), cost_per_day_nano=10**9)
    for _ in range(110):
        mirror.serve()
    assert len(mirror.copies.calls) == 100


def test_a_copy_whose_cost_is_not_known_counts_as_the_dearest_so_far():
    mirror = Mirror(wordy(400), Answer(body=b"{}"), champion=[wordy(1)], routes=priced(), cost_per_day_nano=10**9)
    for _ in range(10):
        mirror.serve()
    assert len(mirror.copies.calls) == 3  # 0.4, then twice as much as that


@pytest.mark.parametrize("answer", [Answer(status=422), Answer(fault=Fault.CONNECT, sent=False)], ids=["refused", "unsent"])
def test_what_nobody_is_paid_for_is_not_taken_from_the_budget(answer: Answer):
    mirror = Mirror(answer, champion=[wordy(1)], routes=priced(), cost_per_day_nano=10**9)
    for _ in range(120):
        mirror.serve()
    assert len(mirror.copies.calls) == 120


def test_a_shadow_that_hangs_costs_a_bounded_queue_and_no_caller_waits():
    mirror = Mirror()
    hung: list[asyncio.Future[None]] = []

    async def hang(*_: Any, **__: Any) -> Any:
        hung.append(asyncio.get_running_loop().create_future())
        await hung[-1]

    mirror.copies.send = hang  # type: ignore[method-assign] # a model that never answers

    async def many() -> None:
        for _ in range(500):
            exchange = await mirror.call()
            assert exchange.status == 200
            mirror.shadows.start()
            await asyncio.sleep(0)
        assert len(hung) == module.IN_FLIGHT
        assert len(mirror.shadows._queue) == module.QUEUE_CALLS
        assert mirror.shadows.counts["mirror"]["queue_full"] == 500 - module.IN_FLIGHT - module.QUEUE_CALLS
        await mirror.shadows.close()
        assert not mirror.shadows._tasks

    asyncio.run(many())


def test_a_call_with_a_large_body_is_left_out():
    mirror = Mirror(champion=[Answer(body=json.dumps({"outputs": [{"data": [1]}], "fill": "x" * (1 << 20)}).encode())])
    mirror.serve()
    assert mirror.shadows.counts == {"mirror": {"too_large": 1}}


def test_a_full_log_loses_the_pair_and_says_so():
    mirror = Mirror()
    mirror.journal.room = 1  # for the call's own record
    (exchange,) = mirror.serve()
    assert exchange.status == 200
    assert mirror.shadows.counts["mirror"] == {"compared": 1, "unrecorded": 1}


def test_without_a_shadow_nothing_is_looked_at():
    harness = Harness()
    lane = harness.lane
    lane.shadows = Shadows(FakeUpstream(Points()), harness.journal, lane.source, lane.ids, workers=1)
    lane.install(lane.snapshot, lane.live)
    assert harness.run().status == 200
    assert not lane.shadows._queue
