"""Why a recorded decision is what it is: the input put together again, and the very bundle that decided run on it.

A record tells digests and a few facts, never the input itself (`gateway/facts.py`). Here the rest comes from where the digests lead: bundle, modes,
parameters and model from the objects of the control directory, approvals from the live state. The digest of the input in the record says
whether what was put together is what was judged; without that nothing is claimed.

| state | meaning |
|---|---|
| `reproduced` | the same input, run again, gives the verdict and the reasons of the record |
| `contradicted` | the same input gives another verdict: the record, the objects or the engine are not what they say |
| `undecidable` | something is gone, or was never recorded (the path of a call, the body of a reply, what a policy server did); `why` says what |

Steps: 1. the bundle; 2. what is fixed about the version; 3. the facts; 4. the digest; 5. the verdict; 6. the trace.

Example:
    found = retrace(record, ending, control, path=None)
    found.state, found.why, [step.text for step in found.traces]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import msgspec

from experiments.shares import WHOLE
from gateway.documents import Manifest, SettingsDocument, decode
from gateway.facts import (
    PATHS,
    REPLY_PATHS,
    Facts,
    ReplyFacts,
    facts_read,
    fixed_digest,
    input_digest,
    input_document,
    reply_document,
    reply_facts_read,
)
from gateway.gate import Standing
from gateway.live import decode as decode_live
from gateway.processes.control import ControlDirectory, ControlError
from gateway.snapshot import Route, compile_route
from gateway.standing import Approvals
from policies.approvals import time_us
from policies.bundle import PARAMETERS, PREFIX, BundleError, PointPolicies, PolicyBundle
from policies.explanation import explain
from policies.sources import Sources
from policies.trust import InvalidTrust
from policies.verdict import DIFFERENCE, UNANSWERED

State = Literal["reproduced", "contradicted", "undecidable"]
Record = Mapping[str, Any]
_NO_FACTS: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Trace:
    """One rule of one package: what it answered and why."""

    package: str
    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class Retraced:
    """What became of a decision that was run again."""

    point: Literal["request", "response"]
    state: State
    why: str
    recorded: Mapping[str, Any]
    """Verdict and reasons as recorded."""
    found: Mapping[str, Any] | None
    """Verdict and reasons of the new run."""
    document: Mapping[str, Any] | None
    """The input, put together again."""
    traces: tuple[Trace, ...] = ()


class Undecidable(Exception):  # noqa: N818 - reads as the statement it is
    """The input or the bundle cannot be put together again; the text says why."""


@dataclass(frozen=True, slots=True)
class _Scene:
    """Everything around a decision."""

    bundle: PolicyBundle
    route: Route
    standings: tuple[Standing, ...]
    """As it stood for every exposure the record may mean; their documents are the same."""
    now_us: int
    engine: str
    """Which engine was to decide."""


def retrace(record: Record, ending: Record | None, control: ControlDirectory, path: str | None = None, *, full: bool = False) -> list[Retraced]:
    """Run the decisions of one call again: on the request, and on the reply where one was judged.

    Args:
        record: the `call` or `decision` record.
        ending: the `outcome` record of a call that has one of its own.
        control: the control directory of the log's gateway.
        path: the path of the call, where the caller knows it: records do not tell it.
        full: trace what held too.
    """
    ending = record if ending is None else ending
    policy = record.get("policy")
    if not isinstance(policy, Mapping):
        return [Retraced("request", "undecidable", "no policy was asked before this call was refused", _NO_FACTS, None, None)]
    found = []
    reply = ending.get("outcome", {}).get("policy")
    try:
        scene = _scene(record, policy, control)
        facts = _facts(record, ending, policy.get("facts", {}), scene, path)
    except Undecidable as fault:
        found.append(Retraced("request", "undecidable", str(fault), _said(policy), None, None))
    else:
        found.append(_request(policy, scene, facts, path, full=full))
        if isinstance(reply, Mapping):
            found.append(_reply(reply, ending, scene, _facts(record, ending, reply.get("facts", {}), scene, path), path, full=full))
    return found


def _request(policy: Record, scene: _Scene, facts: Facts, path: str | None, *, full: bool) -> Retraced:
    policies = scene.bundle.at("request").about(scene.route.model)
    names = [name for where, name in PATHS.items() if policies.reads(where)]
    document = input_document(facts, scene.standings[0].document)
    unknown = _unknown(names, path, scene)
    if unknown is not None:
        return Retraced("request", "undecidable", unknown, _said(policy), None, document)
    digest = input_digest(facts_read(facts, names), fixed_digest(scene.standings[0].document))  # 4
    return _run("request", policies, policy, document, digest, scene, full=full)


def _reply(policy: Record, ending: Record, scene: _Scene, facts: Facts, path: str | None, *, full: bool) -> Retraced:
    policies = scene.bundle.at("response").about(scene.route.model)
    names = [name for where, name in PATHS.items() if policies.reads(where)]
    reply_names = [name for where, name in REPLY_PATHS.items() if policies.reads(where)]
    told = policy.get("facts", {})
    status = told.get("reply_status", ending.get("outcome", {}).get("status", 0))
    reply = ReplyFacts(status, told.get("reply_content_type", ""), told.get("reply_kib", -1))
    document = reply_document(facts, scene.standings[0].document, reply)
    unknown = _unknown(names, path, scene)
    if unknown is None and policies.reads(("response", "body")):
        unknown = "a policy reads the body of the reply, which is not recorded"
    if unknown is not None:
        return Retraced("response", "undecidable", unknown, _said(policy), None, document)
    read = {**facts_read(facts, names), **reply_facts_read(reply, reply_names)}
    return _run("response", policies, policy, document, input_digest(read, fixed_digest(scene.standings[0].document)), scene, full=full)


def _run(
    point: Literal["request", "response"],
    policies: PointPolicies,
    policy: Record,
    document: dict[str, Any],
    digest: str,
    scene: _Scene,
    *,
    full: bool,
) -> Retraced:
    """Judge again and compare. What the gateway itself says of approvals comes before what policies say."""
    recorded = _said(policy)
    if digest != policy.get("input_digest"):
        why = "what was put together again is not the input that was judged: its digest is another one"
        return Retraced(point, "undecidable", why, recorded, None, document)
    verdict = policies.evaluate(document, scene.now_us * 1000)  # 5
    reasons = [dict(reason) for reason in verdict.reasons]
    decision: str = verdict.decision
    refusal = next((reason for reason in recorded["reasons"] if str(reason.get("id", "")).startswith("approval.")), None)
    if point == "request" and refusal is not None and any(standing.refusal == refusal["id"] for standing in scene.standings):
        decision, reasons = "deny", [refusal, *reasons]
    found = {"decision": decision, "reasons": reasons, "obligations": [one.told() for one in verdict.obligations] if decision != "deny" else []}
    traces = _traces(policies, document, scene, full=full)  # 6
    elsewhere = _decided_elsewhere(policy, scene)
    if elsewhere is not None:
        return Retraced(point, "undecidable", elsewhere, recorded, found, document, traces)
    if found == recorded:
        return Retraced(point, "reproduced", "the same input and the same bundle give the recorded verdict", recorded, found, document, traces)
    return Retraced(
        point, "contradicted", "the same input and the same bundle give another verdict than the record", recorded, found, document, traces
    )


def _decided_elsewhere(policy: Record, scene: _Scene) -> str | None:
    """Return why running the policies again cannot give the recorded verdict: what a server did at that moment stands in the reasons alone."""
    ids = {reason.get("id") for reason in policy.get("reasons", ())} if scene.engine != "native" else set()
    if DIFFERENCE in ids:
        return "the two engines disagreed at that moment, as the record tells; here is what ours says"
    if UNANSWERED in ids:
        return "a policy server gave no answer at that moment, or could not evaluate a package, as the record tells; here is what our engine says"
    return None


def _traces(policies: PointPolicies, document: dict[str, Any], scene: _Scene, *, full: bool) -> tuple[Trace, ...]:
    sources = Sources(dict(scene.bundle.modules), scene.bundle.data)
    traces = []
    for package in policies.packages:
        for rule in package.rules:
            text = explain(sources, f"data.{PREFIX}.{package.name}.{rule}", document, now_ns=scene.now_us * 1000, full=full).text
            if text:
                traces.append(Trace(package.name, rule, text))
    return tuple(traces)


def _scene(record: Record, policy: Record, control: ControlDirectory) -> _Scene:
    try:
        bundle = _bundle(policy, control)  # 1
        manifest = decode(control.get(record["config_digest"]), Manifest)
        settings = decode(control.get(manifest.settings), SettingsDocument)
        model, version = record["model"]["name"], record["model"]["version"]
        digest = manifest.models[model]
        route = compile_route(digest, control.get(digest))
        live = decode_live(control.get_live(record["route"]["live_digest"]))
        approvals = Approvals(live.read_approvals())
        now_us = time_us(record["time"])
        standings = tuple(  # 2
            approvals.standing(route, route.versions[version], settings.environment, exposure, now_us) for exposure in _exposures(record["route"])
        )
    except ControlError as fault:
        raise Undecidable(str(fault)) from fault
    except (KeyError, TypeError, ValueError, msgspec.DecodeError, InvalidTrust) as fault:
        raise Undecidable(f"the record or an object it names is not what it should be: {type(fault).__name__}: {fault}") from fault
    return _Scene(bundle, route, standings, now_us, str(policy.get("engine", "native")))


def _bundle(policy: Record, control: ControlDirectory) -> PolicyBundle:
    texts = {path: control.get(digest).decode() for path, digest in json.loads(control.get(policy["digest"]))}
    if "data_digest" in policy:
        texts[PARAMETERS] = control.get(policy["data_digest"]).decode()
    try:
        return PolicyBundle.compile(texts, json.loads(control.get(policy["modes_digest"])))
    except BundleError as fault:
        raise Undecidable(f"the bundle that decided is refused by this release: {fault}") from fault


def _exposures(route: Record) -> set[int]:
    """Return the shares of the traffic a candidate may have been judged for: everyone, or the share of an arm."""
    exposure = route.get("exposure", WHOLE)
    return {WHOLE, *(exposure * share // WHOLE for share in cast("Mapping[str, int]", route.get("shares", {})).values())}


def _facts(record: Record, ending: Record, told: Record, scene: _Scene, path: str | None) -> Facts:  # 3
    """Return the facts as far as the record tells them; what no policy read may be anything."""
    usage = ending.get("usage", {})
    if "bytes_in" not in usage:
        raise Undecidable("the call has no recorded end: its size and rows are not known")
    return Facts(
        str(record.get("tenant", "")),
        told.get("method", ""),
        path or _usual_path(record, scene),
        told.get("content_type", ""),
        (usage["bytes_in"] + 1023) >> 10,
        usage["rows"],
        tuple(told.get("scopes", ())),
        told.get("exhausted", False),
        told.get("experiment", ""),
        told.get("arm", ""),
    )


def _usual_path(record: Record, scene: _Scene) -> str:
    """Return the one path a call of this protocol has; "" where it may be any."""
    if scene.route.document.protocol != "v2":
        return ""
    pinned = f"/versions/{record['model']['version']}" if record.get("route", {}).get("pinned") else ""
    return f"/v2/models/{scene.route.model}{pinned}/infer"


def _unknown(names: list[str], path: str | None, scene: _Scene) -> str | None:
    if "path" in names and path is None and scene.route.document.protocol != "v2":
        return "a policy reads the path of the call, which is not recorded; name it with `--path`"
    return None


def _said(policy: Record) -> dict[str, Any]:
    return {
        "decision": policy.get("decision"),
        "reasons": [dict(reason) for reason in policy.get("reasons", ())],
        "obligations": [dict(one) for one in policy.get("obligations", ())],
    }
