"""A leaf put together from rendered parts is, byte for byte, the leaf that is rendered whole; what it cannot say is declined."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_harness import MODEL, NOW_US, approval, experiment, live_of, snapshot_of

from audit.leaf import INTEGER_LIMIT, SIZE_LIMIT_BYTES, LeafError, finished, parse, render
from experiments.document import LiveExperiment
from experiments.shares import WHOLE
from gateway import plain_leaf
from gateway.decide import Call, Decision, decide
from gateway.facts import Facts
from gateway.plain_leaf import PlainLeaves
from gateway.record import CallRecord, Source
from gateway.refusals import Refusal

WARNS = """package policy.office
import rego.v1
warn contains {"id": "OFF-4", "msg": sprintf("„%v“ rows \\n", [input.request.rows])} if input.request.rows > 1
"""
SNAPSHOTS = (
    snapshot_of(),
    snapshot_of(experiments=[experiment()], policies={"policies/office.rego": WARNS}),
    snapshot_of(experiments=[experiment(sticky="none")]),
)
WRITER = b',"writer":{"epoch":1,"node":"n1.w0","seq":'
LEAVES = PlainLeaves()
"""One memo for all examples: what one call left in it must not be seen in another."""
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
counts = st.integers(0, 2**40)
CONSUMED = {"cost_nano": counts, "currency": st.just("EUR"), "input_tokens": counts, "output_tokens": counts}
names = st.from_regex(r"[\w.:/+#%=<>,-]{1,64}", fullmatch=True)


def live(snapshot, exposure: int):
    shares = {"champion": WHOLE // 2, "challenger": WHOLE // 2}
    running = LiveExperiment(experiment="credit-v4", epoch=2, phase="running", step=0, exposure=exposure, shares=shares)
    return live_of(snapshot, (approval("3"), approval("4", "bob")), {"credit-v4": running}, as_of_us=NOW_US)


LIVES = [(snapshot, live(snapshot, exposure)) for snapshot in SNAPSHOTS for exposure in (WHOLE, WHOLE // 2)]


@st.composite
def ended(draw) -> CallRecord:
    """A call that was decided, answered and is about to be recorded."""
    snapshot, state = draw(st.sampled_from(LIVES))
    actor = {"kind": "key", "id": draw(st.sampled_from(["k_1", "k_2"]))}
    source = Source(draw(st.sampled_from(["boot", "other boot"])))
    source.install(snapshot.config_digest, state.digest, {**snapshot.policies.record, "engine": "native"})
    call = Call(
        draw(digests), snapshot.routes[MODEL], draw(st.sampled_from([None, None, "3", "4"])), draw(digests)[:32], True, ("n1", 1, draw(counts))
    )
    facts = Facts("acme", "POST", "/v2", "application/json", 1, draw(st.sampled_from([1, 2])), ("infer",), False, "", "")
    record = CallRecord(source, call.id, NOW_US + draw(counts), draw(st.integers(0, 2**63)), draw(st.sampled_from(["acme", "globex"])), actor)
    record.subject, record.decision = call.subject, decide(call, facts, snapshot, state, NOW_US)
    record.committed_in, record.committed_out = draw(digests), draw(digests)
    record.status, record.latency_us, record.decided_us, record.rows = draw(st.integers(200, 599)), draw(counts), draw(counts), draw(counts)
    record.upstream_us, record.bytes_in, record.bytes_out = draw(counts) + 1, draw(counts), draw(counts)
    record.trace = draw(st.none() | digests)
    record.prediction = draw(st.none() | names)
    record.score_ppm = draw(st.none() | st.integers(-(10**15), 10**15))
    record.metered = draw(st.none() | st.just({"unread": 1}) | st.fixed_dictionaries({}, optional=CONSUMED))
    return record


def whole(record: CallRecord, seq: int) -> bytes:
    return render({**record.call(), "writer": {"node": "n1.w0", "epoch": 1, "seq": seq}})


@given(ended(), st.integers(0, INTEGER_LIMIT - 1))
def test_it_is_the_leaf_that_is_rendered_whole_to_the_byte(record, seq):
    unfinished = LEAVES.render(record)
    assert unfinished is not None
    leaf = finished(unfinished, WRITER, seq)
    assert leaf == whole(record, seq)
    assert parse(leaf)["writer"]["seq"] == seq


def test_what_one_call_leaves_in_the_memo_is_not_seen_in_another():
    leaves, arms = PlainLeaves(), set()
    actors = [{"kind": "key", "id": name} for name in ("k_1", "k_2")]
    for snapshot, state in LIVES:
        source = Source("boot")
        source.install(snapshot.config_digest, state.digest, dict(snapshot.policies.record))
        for number in range(48):
            call = Call("id", snapshot.routes[MODEL], None, f"{number:032x}", False, ("n", 1, number))
            facts = Facts("acme", "POST", "/v2", "application/json", 1, 1 + number // 2 % 2, ("infer",), False, "", "")
            record = CallRecord(source, "id", NOW_US, 5, ("acme", "globex")[number // 4 % 2], actors[number % 2])
            record.decision = decide(call, facts, snapshot, state, NOW_US)
            record.subject, record.committed_in, record.committed_out, record.upstream_us = call.subject, "aa", "bb", 7
            assert finished(leaves.render(record), WRITER, 1) == whole(record, 1)
            arms.add(record.decision.served)
    assert arms == {None, "champion", "challenger"}


def plain() -> CallRecord:
    snapshot, state = LIVES[0]
    source = Source("boot")
    source.install(snapshot.config_digest, state.digest, dict(snapshot.policies.record))
    record = CallRecord(source, "id", NOW_US, 5, "acme", {"kind": "key", "id": "k_1"})
    facts = Facts("acme", "POST", "/v2", "application/json", 1, 1, ("infer",), False, "", "")
    record.decision = decide(Call("id", snapshot.routes[MODEL], None, "ab", False, ("n", 1, 1)), facts, snapshot, state, NOW_US)
    record.subject, record.committed_in, record.committed_out, record.upstream_us = "ab", "aa", "bb", 7
    return record


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decision", None),
        ("decision", Decision(None, None, False, None, None, [])),
        ("code", "upstream_failed"),
        ("fault", "closed"),
        ("reply_policy", {"decision": "allow"}),
        ("kept", object()),
        ("committed_in", None),
        ("committed_out", None),
        ("committed_to_model", "cc"),
        ("committed_from_model", "dd"),
        ("subject", None),
        ("streamed", True),
        ("upstream_us", 0),
    ],
)
def test_a_call_that_is_not_plain_is_declined(name, value):
    record = plain()
    assert LEAVES.render(record) is not None
    setattr(record, name, value)
    assert LEAVES.render(record) is None


SAID = {"bytes_in": 7, "code": "odd", "decision": None, "prediction": "yes", "rows": 7, "score_ppm": 7, "status": 418, "subject": "cd", "trace": "ef"}
SAID |= dict.fromkeys(("bytes_out", "decided_us", "latency_us", "upstream_us"), 7) | dict.fromkeys(("fault", "vault"), "odd")
SAID |= dict.fromkeys(("committed_in", "committed_out", "committed_to_model", "committed_from_model"), "ee")
SAID |= {"reply_policy": {"decision": "allow"}, "metered": {"input_tokens": 3}, "streamed": True}
NOT_IN_A_LEAF = {"facts", "kept", "promised", "wants_receipt"}


@pytest.mark.parametrize("name", sorted(name for name, value in vars(CallRecord).items() if not name.startswith("__") and not callable(value)))
def test_nothing_that_a_record_says_is_left_out(name):
    """A field that is new to `CallRecord` fails here until it is said in `SAID`, and then until it is rendered or declined."""
    if name not in NOT_IN_A_LEAF:
        record = plain()
        setattr(record, name, SAID[name])
        unfinished = LEAVES.render(record)
        assert unfinished is None or finished(unfinished, WRITER, 1) == whole(record, 1)


def test_a_refused_call_is_declined():
    record = plain()
    assert record.decision is not None
    record.decision = replace(record.decision, refusal=Refusal("model_killed", "stopped"))
    assert LEAVES.render(record) is None


def test_a_number_that_is_none_is_never_written():
    record = plain()
    record.latency_us = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        LEAVES.render(record)


def test_the_memo_is_bounded_and_forgets_without_changing_a_byte(monkeypatch):
    monkeypatch.setattr(plain_leaf, "MOST_PARTS", 2)
    leaves, records = PlainLeaves(), [plain() for _ in range(5)]  # each with an actor of its own
    for record in records + records:
        assert finished(leaves.render(record), WRITER, 1) == whole(record, 1)
    assert len(leaves._fixed) <= 2


def test_a_leaf_that_would_be_too_large_is_refused():
    with pytest.raises(LeafError, match="at most"):
        finished(b"x" * SIZE_LIMIT_BYTES, WRITER, 1)
