"""Calls whose request or reply a policy changes or refuses: what reaches the model, and what the log has of them."""

from __future__ import annotations

import hashlib

import pytest
from lane_harness import BODY, Harness, route, snapshot_of

from gateway import limits, reply_policy
from gateway.reply_policy import rewritten
from policies.obligations import NotCarriedOut, merge, read

DENIES_REPLIES = """\
# METADATA
# custom: {points: [response]}
package policy.held
deny contains {"id": "HELD-1", "msg": "no reply leaves"} if input.response.status == 200
"""
BLINDS_MODELS = """\
package policy.blind
obligations contains {"type": "redact", "path": "/parameters/group", "on": "request"}
"""
ROUTES = [route(max_rows=1, unit_pointer=None)]
ONE_ROW = b'{"inputs":[{"name":"income","shape":[1],"datatype":"FP64","data":[1]}],"parameters":{"group":"b"}}'
TWO_ROWS = b'{"inputs":[{"name":"income","shape":[2],"datatype":"FP64","data":[1,2]}]}'


def test_a_call_a_model_has_seen_has_its_record_although_its_reply_is_refused_and_the_quota_is_used_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "DENIED_BURST_BYTES", 1)
    monkeypatch.setattr(limits, "DENIED_BYTES_PER_S", 0)
    harness = Harness(snapshot_of(ROUTES, policies={"policies/held.rego": DENIES_REPLIES}))
    for _ in range(3):
        harness.run(body=TWO_ROWS)
    before = len(harness.terminals())
    refused = [harness.run(body=ONE_ROW) for _ in range(3)]
    assert [reply.status for reply in refused] == [403, 403, 403]
    assert len(harness.upstream.calls) == 3
    recorded = harness.terminals()[before:]
    assert [record["id"].encode() for record in recorded] == [reply.headers[b"assay-decision"] for reply in refused]
    assert all(record["outcome"]["policy"]["decision"] == "deny" for record in recorded)


def test_a_model_gets_no_digest_by_which_it_could_guess_what_was_redacted():
    harness = Harness(snapshot_of(ROUTES, policies={"policies/blind.rego": BLINDS_MODELS}))
    digest = hashlib.sha256(ONE_ROW).hexdigest().encode()
    fields = [(b"content-digest", digest), (b"digest", digest), (b"content-md5", digest), (b"x-mine", b"1")]
    harness.run(body=ONE_ROW, headers=fields)
    assert b"group" not in harness.upstream.calls[0][2]
    assert digest not in harness.upstream.heads[0].values()
    assert harness.upstream.heads[0][b"x-mine"] == b"1"
    untouched = Harness()
    untouched.run(body=BODY, headers=fields)
    assert untouched.upstream.heads[0][b"content-digest"] == digest, "a body that is as it was sent keeps its own"


@pytest.mark.parametrize("unit", [b"1.5,", b"[],", b'{"x":1},'])
def test_a_document_of_more_values_than_a_worker_can_go_through_is_held_back_before_work_begins(unit: bytes, monkeypatch: pytest.MonkeyPatch):
    duties = merge([read({"type": "redact", "path": "/**/x"}), read({"type": "redact", "path": "/**/y"})])
    monkeypatch.setattr(reply_policy, "MOST_VALUES", 400)
    assert rewritten(duties, b"[" + unit * 60 + b"0]")
    monkeypatch.setattr(reply_policy, "parse", None)
    with pytest.raises(NotCarriedOut, match="too many values"):
        rewritten(duties, b"[" + unit * 200 + b"0]")
