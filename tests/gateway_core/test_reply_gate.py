"""What is remembered of replies never changes an answer, and what a record tells of one is what it rests on."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_harness import REPLY, Answer, Fault, Harness, live_of, snapshot_of

from gateway.facts import Facts, ReplyFacts, fixed_digest, input_digest
from gateway.reply_policy import UNREAD, ReplyGate, ReplyRules, govern
from policies.bundle import PolicyBundle

HEAD = "# METADATA\n# custom: {points: [response]}\n"
READS = {
    "status": "input.response.status >= 500",
    "type": 'input.response.content_type == "text/html"',
    "kib": "input.response.kib > 3",
    "scopes": 'not "infer" in input.subject.scopes',
    "path": 'endswith(input.request.path, "/b")',
    "body": "input.response.body.score > 0.5",
    "everything": "count([1 | some value in input.response; value == 503]) > 0",
}
FIXED = {"env": "staging", "model": {"name": "m"}, "approvals": [], "params": {"max_rows": 1}}


def policies(*names: str, mode: str = "enforce"):
    modules = {
        f"policies/{name}.rego": f'{HEAD}package policy.{name}\n\ndeny contains {{"id": "{name}", "msg": "m"}} if {READS[name]}\n' for name in names
    }
    return PolicyBundle.load(modules, dict.fromkeys(names, mode)).at("response")


SETS = [policies(*names) for names in (("status",), ("type", "kib"), ("scopes", "path"), ("body",), ("body", "kib", "scopes"), ("everything",))]
facts = st.builds(
    Facts,
    st.sampled_from(["acme", "other"]),
    st.just("POST"),
    st.sampled_from(["/a", "/b", "/" + "x" * 600 + "/b"]),
    st.just(""),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from([(), ("infer",)]),
    st.booleans(),
    st.just(""),
    st.just(""),
)
replies = st.builds(ReplyFacts, st.sampled_from([200, 404, 503]), st.sampled_from(["", "text/html"]), st.sampled_from([-1, 0, 1, 4]))
bodies = st.sampled_from([UNREAD, {"score": 0.4}, {"score": 0.6}, {}, [1]])


@given(st.sampled_from(SETS), st.lists(st.tuples(facts, replies, bodies), min_size=1, max_size=12))
def test_an_answer_from_memory_is_the_answer(found, asked):
    gate = ReplyGate(FIXED, found)
    for call, reply, body in asked * 2:
        judged, _ = gate.judge(call, reply, body, 0)
        fresh, is_cached = ReplyGate(FIXED, found).judge(call, reply, body, 0)
        assert not is_cached
        assert (judged.verdict, judged.told, judged.warning) == (fresh.verdict, fresh.told, fresh.warning)


@given(facts, replies)
def test_what_is_told_is_what_was_read_without_path_and_body(call, reply):
    told = ReplyGate(FIXED, SETS[4]).judge(call, reply, {"score": 0.7}, 0)[0].told
    read = {"scopes": list(call.scopes), "reply_kib": reply.kib}
    assert told["facts"] == read
    assert told["input_digest"] == input_digest(read, fixed_digest(FIXED))
    assert "path" not in ReplyGate(FIXED, SETS[2]).judge(call, reply, UNREAD, 0)[0].told["facts"]


@pytest.mark.parametrize(("names", "mode", "needs"), [(("body",), "enforce", True), (("body",), "warn", False), (("status",), "enforce", False)])
def test_a_reply_is_held_only_for_a_policy_that_enforces_on_it(names, mode, needs):
    assert ReplyGate(FIXED, policies(*names, mode=mode)).needs_body is needs


class Unread:
    """A reply that must not be read."""

    status, headers, content_length = 200, [(b"content-type", b"text/event-stream")], -1

    def __init__(self) -> None:
        self.is_closed = False

    async def read(self, limit_bytes):
        raise AssertionError(limit_bytes)

    def close(self) -> None:
        self.is_closed = True


CALL = Facts("t", "POST", "/a", "", 1, 1, ("infer",), exhausted=False, experiment="", arm="")


def test_a_stream_that_cannot_be_judged_is_given_up_at_its_head():
    reply = Unread()
    governed = asyncio.run(govern(ReplyRules((), ReplyGate(FIXED, SETS[3])), CALL, reply, 0, 100))
    assert governed.refusal is not None
    assert (governed.refusal.code, reply.is_closed) == ("reply_withheld", True)


def test_a_stream_nobody_has_anything_to_say_about_is_left_alone():
    reply = Unread()
    governed = asyncio.run(govern(ReplyRules((), ReplyGate(FIXED, SETS[0])), CALL, reply, 0, 100))
    assert (governed.refusal, governed.body, reply.is_closed) == (None, None, False)
    assert governed.told is not None


JSON = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(REPLY)))
HARSH = {"policies/harsh.rego": f'{HEAD}package policy.harsh\n\ndeny contains {{"id": "H", "msg": "m"}} if input.response.body.score\n'}
ROUND = {
    "policies/round.rego": 'package policy.round\n\nobligations contains {"type": "round", "path": "/score", "digits": 0} if input.env == "staging"\n'
}


@pytest.mark.parametrize("gone_at", range(1, 5))
@pytest.mark.parametrize("texts", [HARSH, ROUND])
def test_a_caller_who_goes_away_while_a_reply_is_judged_leaves_one_record_and_no_defect(texts, gone_at):
    snapshot = snapshot_of(policies=texts)
    harness = Harness(snapshot, live_of(snapshot), [Answer(headers=JSON)])
    harness.points.gone_at = gone_at
    exchange = harness.run()
    assert harness.defects == []
    assert len(harness.terminals()) == 1
    assert b"0.25" not in exchange.body
    assert harness.lane.open == {}


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("stage", ["send", "read"])
def test_a_model_that_fails_under_a_policy_is_told_as_one_that_fails_without(fault, stage):
    answers = []
    for texts in (ROUND, {}):
        snapshot = snapshot_of(policies=texts)
        harness = Harness(snapshot, live_of(snapshot), [Answer(headers=JSON, fault=fault, stage=stage)])
        exchange = harness.run()
        (record,) = harness.terminals()
        answers.append((exchange.status, json.loads(exchange.body)["code"], record["outcome"]["fault"]))
    assert answers[0] == answers[1]
