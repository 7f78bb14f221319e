"""Records and snapshots: every leaf fits the profile whatever callers and models send, and every call sees exactly one configuration."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lane_harness import (
    BODY,
    DAY_US,
    INFER,
    MODEL,
    NOW_US,
    PIN_SECRET,
    Answer,
    Harness,
    Store,
    approval,
    experiment,
    live_of,
    route,
    snapshot_of,
    version,
)
from lane_harness import settings as settings_document

from audit.leaf import SIZE_LIMIT_BYTES, parse
from experiments.document import LiveExperiment
from experiments.wording import is_name
from gateway.documents import CaptureDocument, Manifest
from gateway.documents import encode as encode_document
from gateway.live import Live, decode, encode
from gateway.snapshot import Snapshot
from gateway.standing import Approvals
from policies.bundle import BundleError

# --- records

text = st.text(max_size=40)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | text
nested = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8)
tokens = st.binary(max_size=60).map(lambda value: bytes(byte for byte in value if byte not in b"\r\n\0"))


def check_leaves(harness: Harness) -> None:
    assert harness.defects == []
    for leaf in harness.journal.leaves:
        assert parse(leaf)
        assert len(leaf) <= SIZE_LIMIT_BYTES


@given(unit=tokens, trace=tokens, media=tokens, id_=nested, data=st.lists(nested, min_size=1, max_size=3))
def test_whatever_a_caller_sends_the_record_is_a_leaf(unit, trace, media, id_, data):
    harness = Harness()
    body = json.dumps({"id": id_, "inputs": [{"name": "x", "shape": [len(data)], "data": data}]}).encode()
    told = [(b"content-type", media)]
    for more in ([(b"traceparent", trace)], [(b"assay-unit", unit)], [(b"traceparent", b"00-" + b"\xff" * 52)]):
        exchange = harness.run(body=body, headers=[*more, *told])
        assert exchange.status in (200, 422)
    check_leaves(harness)


@given(prediction=nested, score=nested, status=st.sampled_from([200, 200, 201, 404, 500]))
def test_whatever_a_model_replies_the_record_is_a_leaf_and_the_reply_is_untouched(prediction, score, status):
    body = json.dumps({"outputs": [{"data": [prediction]}], "score": score}).encode()
    harness = Harness(answers=[Answer(body=body, status=status)])
    exchange = harness.run()
    assert (exchange.status, exchange.body) == (status, body)
    check_leaves(harness)
    (record,) = harness.journal.records()
    if type(prediction) is str and status == 200:
        assert record.get("prediction") == (prediction if is_name(prediction) else None)


@pytest.mark.parametrize("value", ["1e308", "-1e308", "1e15", str(2**63), str(10**400), "0.1", '"' + "\\u0000" * 5000 + '"', "[[[[1]]]]", "true"])
def test_huge_and_strange_values_in_a_reply_are_bounded_or_left_out(value):
    body = b'{"outputs":[{"data":[%b]}],"score":%b}' % (value.encode(), value.encode())
    harness = Harness(answers=[Answer(body=body)])
    assert harness.run().status == 200
    check_leaves(harness)
    assert len(harness.journal.leaves[0]) < 8000


@pytest.mark.parametrize("unit", [None, True, 1.5, [], {}, ""])
def test_a_unit_that_is_no_unit_is_refused_and_recorded(unit):
    harness = Harness()
    exchange = harness.run(body=json.dumps({"id": unit, "inputs": [{"name": "x", "shape": [1], "data": [1]}]}).encode())
    assert exchange.status == 422
    (record,) = harness.journal.records()
    assert record["outcome"]["code"] == "schema_mismatch"


def test_a_policy_that_writes_novels_costs_no_record():
    text = 'sprintf("%d%s", [n, object.get(input, ["request", "path"], "")])'
    novel = f'deny contains {{"id": {text}, "msg": {text}}} if some n in numbers.range(1, 500)'
    snapshot = snapshot_of(policies={"policies/novel.rego": f"package policy.novel\n{novel}\n"})
    harness = Harness(snapshot)
    assert harness.run().status == 403
    check_leaves(harness)
    assert len(harness.journal.leaves) == 1


def test_a_call_whose_record_is_too_large_is_still_told_and_said_to_be_unrecordable():
    harness = Harness()
    harness.points.on[1] = lambda: setattr(next(iter(harness.lane.open.values())).record, "prediction", "x" * SIZE_LIMIT_BYTES)
    harness.lane.snapshot = snapshot_of([route(capture=CaptureDocument())])
    assert harness.run().status == 200
    check_leaves(harness)
    (end,) = harness.terminals()
    assert (end["outcome"]["status"], end["outcome"]["code"], end["model"]["version"]) == (200, "unrecordable", "3")


def test_a_decision_that_cannot_be_written_holds_up_nobody_elses_and_the_calls_end_tells_it():
    harness = Harness()

    def unwritable_then_late() -> None:
        next(iter(harness.lane.open.values())).record.trace = "x" * SIZE_LIMIT_BYTES
        harness.lane.write_late_decisions(0.0)

    harness.points.on[1] = unwritable_then_late
    assert harness.run().status == 200
    check_leaves(harness)
    (end,) = harness.journal.records()
    assert (end["type"], end["outcome"]["code"]) == ("call", "unrecordable")


def test_a_pinned_call_is_outside_the_experiment():
    snapshot = snapshot_of(experiments=[experiment()])
    live = live_of(snapshot, experiments={"credit-v4": running("credit-v4")})
    harness = Harness(snapshot, live)
    assert harness.run(path=f"/v2/models/{MODEL}/versions/4/infer", secret=PIN_SECRET).status == 200
    (record,) = harness.journal.records()
    assert record["model"]["version"] == "4"
    assert "experiment" not in record["route"]
    assert harness.run(path=f"/v2/models/{MODEL}/versions/4/infer").status == 403


def running(name: str) -> LiveExperiment:
    return LiveExperiment(experiment=name, epoch=1, phase="running", step=0, exposure=2**32, shares=dict(experiment().steps[0].shares))


# --- one snapshot a call


def variant(number: int):
    """A configuration that differs from the others in everything a record tells of it."""
    digest = f"sha256:{number:x}" + "0" * 63
    changed = [version(name, upstreams=(f"http://c{number}v{name}:80",), digest=digest) for name in ("3", "4")]
    document = route(versions={found.name: found for found in changed}, audit=("batch", "sync")[number % 2])
    policy = {"policies/note.rego": f'package policy.note\nwarn contains {{"id": "NOTE-{number}", "msg": ""}}\n'}
    snapshot = snapshot_of([document], [experiment()], policy, settings_document(staleness_default_us=DAY_US))
    approvals = [approval(name, origins=(f"http://c{number}v{name}:80",), digest=digest, id=f"{name}-c{number}") for name in ("3", "4")]
    return snapshot, live_of(snapshot, approvals, {"credit-v4": running("credit-v4")}, as_of_us=NOW_US)


VARIANTS = [variant(number) for number in (1, 2, 3)]
BY_CONFIG = {snapshot.config_digest: number for number, (snapshot, _) in enumerate(VARIANTS, 1)}


@settings(max_examples=80)
@given(
    st.integers(0, 2),
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.dictionaries(st.integers(1, 16), st.integers(0, 2), max_size=8),
    st.sets(st.integers(1, 16), max_size=4),
)
@example(1, [0], {1: 0}, set())
def test_every_call_sees_exactly_one_configuration_however_swaps_fall_between_its_awaits(first, pauses, swaps, sweeps):
    count = len(pauses)  # of calls; each begins so many rounds of the loop after the one before
    harness = Harness(*VARIANTS[first])
    for at, number in swaps.items():
        harness.points.on[at] = lambda number=number: harness.lane.install(*VARIANTS[number])
    for at in sweeps - set(swaps):
        harness.points.on[at] = lambda: harness.lane.write_late_decisions(0.0)

    async def run():
        calls = []
        for pause in pauses:
            for _ in range(pause):
                await asyncio.sleep(0)
            calls.append(asyncio.create_task(harness.call()))
        return await asyncio.gather(*calls)

    exchanges = asyncio.run(run())
    decided = {record["id"]: record for record in harness.journal.records("call", "decision")}
    assert len(decided) == count
    hosts = sorted(endpoint for endpoint, _, _ in harness.upstream.calls)
    expected = []
    for exchange in exchanges:
        record = decided[exchange.headers[b"assay-decision"].decode()]
        number = BY_CONFIG[record["config_digest"]]
        snapshot, live = VARIANTS[number - 1]
        assert record["route"]["live_digest"] == live.digest
        assert record["model"]["digest"].startswith(f"sha256:{number:x}0")
        assert record["policy"]["digest"] == snapshot.policies.record["digest"]
        assert record["policy"]["reasons"][0]["id"] == f"NOTE-{number}"
        assert all(found.endswith(f"c{number}") for found in record["approval"]["ids"])
        expected.append(f"http://c{number}v{record['model']['version']}:80")
    assert sorted(expected) == hosts
    for end in harness.journal.records("outcome"):
        assert end["model"] == decided[end["parents"][0]]["model"]


# --- building snapshots


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=3, unique=True), st.sets(st.sampled_from(["a", "b", "c"])))
def test_a_reload_compiles_what_changed_and_keeps_every_other_object(names, touched):
    store = Store()
    routes = {name: route(model=name) for name in names}
    before = Snapshot.build(store.manifest(routes.values()), store.get)
    after_routes = {name: route(model=name, owner="new") if name in touched else document for name, document in routes.items()}
    digest = store.manifest(after_routes.values())
    store.loaded.clear()
    after = Snapshot.build(digest, store.get, before)
    for name in names:
        assert (after.routes[name] is before.routes[name]) is (name not in touched)
        assert after.targets[f"/v2/models/{name}/infer"].route is after.routes[name]
        assert after.routes[name].document == after_routes[name]
    assert len(store.loaded) <= 2 + len(touched & set(names))
    assert after.policies is before.policies


def test_a_model_that_is_gone_leaves_no_target_behind():
    store = Store()
    before = Snapshot.build(store.manifest([route(), route(model="other")]), store.get)
    after = Snapshot.build(store.manifest([route(model="other")]), store.get, before)
    assert INFER not in after.targets
    assert set(after.routes) == {"other"}


def test_modes_compile_the_policies_anew_and_a_policy_that_cannot_be_enforced_builds_nothing():
    before = snapshot_of()
    assert snapshot_of(chosen=settings_document(modes={"limits": "warn"}), previous=before).policies is not before.policies
    assert snapshot_of(chosen=settings_document(policy_budget_us=7_000), previous=before).policies.at("request").budget_s == 0.007
    with pytest.raises(BundleError):
        snapshot_of(policies={"policies/x.rego": "package policy.x\nallow if"}, previous=before)


def test_a_model_document_that_is_not_canonical_is_refused():
    store = Store()
    digest = store.put(encode_document(route()) + b" ")
    manifest = Manifest(settings=store.put(encode_document(settings_document())), models={MODEL: digest}, experiments={}, policies={})
    with pytest.raises(ValueError, match="canonical"):
        Snapshot.build(store.put(encode_document(manifest)), store.get).targets[INFER]


def test_a_live_state_decides_the_same_after_its_storage():
    snapshot = snapshot_of(experiments=[experiment()])
    live = live_of(snapshot, experiments={"credit-v4": running("credit-v4")}, killed=("m",))
    stored = decode(encode(live.document))
    assert stored.read_approvals() == live.document.approvals
    again = Live(stored, live.digest, live.as_of_us, snapshot, Approvals(stored.read_approvals()))
    assert again.killed == live.killed
    for unit in range(50):
        assert again.assign(MODEL, f"s{unit}", ("n", 1, 1)) == live.assign(MODEL, f"s{unit}", ("n", 1, 1))


def test_a_live_state_of_an_experiment_nobody_configured_routes_nothing():
    snapshot = snapshot_of()
    live = live_of(snapshot, experiments={"credit-v4": running("credit-v4")})
    assert live.assign(MODEL, "s", ("n", 1, 1)) is None


def test_the_body_goes_to_the_model_byte_for_byte():
    harness = Harness()
    odd = b' {"id" : "u",\n "inputs":[{"name":"x","shape":[1],"data":[1.0]}]}'
    harness.run(body=odd)
    harness.run(body=BODY)
    assert [body for _, _, body in harness.upstream.calls] == [odd, BODY]


DECLARED = snapshot_of([route(capture=CaptureDocument(prediction="/outputs/0/data/0", classes=("golden retriever", "cat")))])


@pytest.mark.parametrize(
    ("said", "recorded"),
    [("golden retriever", "golden%20retriever"), ("cat", "cat"), ("dog", "dog"), ("grey hound", None), (1, "1"), (["golden retriever"], None)],
)
@pytest.mark.parametrize("audit", ["batch", "sync"])
def test_a_declared_class_is_recorded_under_its_name_and_what_is_no_name_and_not_declared_stays_out(said, recorded, audit):
    capture = DECLARED.routes[MODEL].document.capture
    body = json.dumps({"outputs": [{"data": [said]}]}).encode()
    harness = Harness(snapshot_of([route(capture=capture, audit=audit)]), answers=[Answer(body=body)])
    assert harness.run().body == body, "callers get the model's own words"
    check_leaves(harness)
    assert harness.terminals()[0].get("prediction") == recorded


def test_a_label_is_taken_in_the_words_of_a_declared_class_and_recorded_as_its_prediction_is():
    harness = Harness(DECLARED)
    event = {"decision_id": "0199aa00-0000-7000-8000-000000000000", "label": "golden retriever"}
    assert harness.run(path="/feedback", body=json.dumps(event).encode()).status == 202
    assert harness.run(path="/feedback", body=json.dumps({**event, "label": "grey hound"}).encode()).status == 422
    (record,) = harness.journal.records("label")
    assert record["label"] == "golden%20retriever"


def test_the_classes_of_a_changed_model_are_those_of_its_new_file():
    assert DECLARED.classes == {"golden retriever": "golden%20retriever"}
    changed = snapshot_of([route(capture=CaptureDocument(prediction="/outputs/0/data/0", classes=("grey hound",)))], previous=DECLARED)
    assert changed.classes == {"grey hound": "grey%20hound"}
