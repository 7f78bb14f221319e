"""Says in words what happened to one call, and recomputes its arm from the record alone.

Rules:
- From records only: the call's own, and those that belong to it (outcome, labels, approvals, experiment start). What is not recorded is said so.
- Pure. How an arm is recomputed is an argument: `experiments.assignment.recompute` fits, and this room imports no other.
- A record is data from a log that may be damaged: a part that is missing or of another form is left out, never an exception.

Example:
    explanation = explain(record, related, recompute)
    explanation.headline      # "Answered 200 by credit-risk version 4 in 5.3 ms."
    explanation.arm.state     # "reproduced"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

Record = Mapping[str, Any]
Recompute = Callable[[Record, str | None, str | None], str]
"""(route, subject, salt) -> arm; raises ValueError when the route does not lead to an arm."""

SHARE_WHOLE = 2**32
ArmState = Literal["reproduced", "contradicted", "no_experiment"]


@dataclass(frozen=True, slots=True)
class ArmCheck:
    """The arm as recorded and as recomputed. `contradicted`: the record does not lead to the arm it states."""

    state: ArmState
    recorded: str | None
    recomputed: str | None
    words: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its sentences."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happened, in order of interest."""

    headline: str
    sections: tuple[Section, ...]
    arm: ArmCheck


def explain(record: Record, related: Sequence[Record], recompute: Recompute, captured: Sequence[str] = ()) -> Explanation:
    """Explain a call.

    Args:
        record: the `call` or `decision` record; any other type is told in general terms.
        related: records that belong to it, in index order.
        recompute: see `Recompute`.
        captured: what there is to say of the vault (`audit/vault/standing.py`).
    """
    end = next((one for one in reversed(related) if one.get("type") == "outcome"), record)
    salt = next((one.get("salt") for one in related if one.get("type") == "experiment.start" and one.get("salt")), None)
    arm = check_arm(record, recompute, salt)
    sections = (
        Section("Who", _who(record)),
        Section("Erasure", _erasure(record)),
        Section("Which version, and why", _route(record)),
        Section("The draw", _draw(record, arm)),
        Section("Policy", _policy(record, end)),
        Section("Approvals", _approvals(record, related)),
        Section("How it ended", _ending(end)),
        Section("What was captured", tuple(captured)),
        Section("What came later", _later(related)),
    )
    return Explanation(_headline(record, end), tuple(section for section in sections if section.lines), arm)


def check_arm(record: Record, recompute: Recompute, salt: str | None = None) -> ArmCheck:
    """Recompute the arm from the record's route, and from subject and salt too where the salt is known."""
    route = _map(record, "route")
    recorded = route.get("assigned")
    if not route.get("experiment"):
        return ArmCheck("no_experiment", None, None, "No experiment took part; there is no arm to recompute.")
    try:
        found = recompute(route, record.get("subject"), salt)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:  # the route may be anything
        return ArmCheck("contradicted", recorded, None, f"The record does not lead to an arm: {error}")
    if found != recorded:
        return ArmCheck("contradicted", recorded, found, f"The record states arm `{recorded}`, its own hashes and shares give `{found}`.")
    basis = "subject and salt" if salt and record.get("subject") else "its recorded hashes and shares"
    return ArmCheck("reproduced", recorded, found, f"Recomputed from {basis}: arm `{found}`, as recorded.")


def _headline(record: Record, end: Record) -> str:
    kind = record.get("type", "record")
    if kind not in ("call", "decision"):
        return _other_headline(record, kind)
    outcome, model = _map(end, "outcome"), _map(record, "model")
    version = f"{model.get('name', 'unknown model')} version {model.get('version', '?')}"
    status = outcome.get("status")
    if not isinstance(status, int):
        return f"Decided for {version}; no outcome is recorded."
    latency = f" in {_ms(outcome['latency_us'])}" if isinstance(outcome.get("latency_us"), int) else ""
    if 200 <= status < 400:
        return f"Answered {status} by {version}{latency}."
    word = "Refused" if 400 <= status < 500 else "Failed"
    code = f" `{outcome['code']}`" if outcome.get("code") else ""
    return f"{word} with {status}{code}; {version} was asked for{latency}."


def _other_headline(record: Record, kind: Any) -> str:
    if kind == "erasure":
        entries, keys = record.get("entries", "?"), len(_list(record, "keys"))
        return f"A subject was erased: {entries} {'entry' if entries == 1 else 'entries'} under {keys} data {'key' if keys == 1 else 'keys'}."
    return f"Record of type `{kind}`, {record.get('time', 'time unstated')}."


def _erasure(record: Record) -> tuple[str, ...]:
    if record.get("type") != "erasure":
        return ()
    people = [f"`{one.get('person', '?')}`" for one in _list(record, "signed") if isinstance(one, Mapping)]
    signed = f"signed by {' and '.join(people)}" if people else "which nobody had to sign"
    return (
        f"Erasure `{record.get('erasure', '?')}`, ground `{record.get('ground', '?')}`, {signed}.",
        "Whom it was about is recorded nowhere.",
    )


def _who(record: Record) -> tuple[str, ...]:
    actor, writer = _map(record, "actor"), _map(record, "writer")
    lines = [
        f"{record.get('time', 'time unstated')}: {actor.get('kind', 'someone')} `{actor.get('id', '?')}` of tenant `{record.get('tenant', '?')}`."
    ]
    if record.get("subject"):
        lines.append(f"On behalf of unit `{record['subject']}` (a pseudonym).")
    if writer:
        lines.append(f"Written by `{writer.get('node')}`, epoch {writer.get('epoch')}, number {writer.get('seq')}.")
    return tuple(lines)


def _route(record: Record) -> tuple[str, ...]:
    model, route = _map(record, "model"), _map(record, "route")
    if not model and not route:
        return ()
    lines = [f"`{model.get('name')}` version `{model.get('version')}`, digest `{model.get('digest', 'not recorded')}`."] if model else []
    assigned, served = route.get("assigned"), route.get("served")
    if route.get("pinned"):
        lines.append("The caller pinned this version; it takes part in no experiment.")
    elif route.get("experiment"):
        ended = "nothing served, the call was refused" if served is None else f"served `{served}`"
        lines.append(f"Experiment `{route['experiment']}`, epoch {route.get('epoch')}, mode `{route.get('mode')}`: assigned `{assigned}`, {ended}.")
        if served is not None and served != assigned:
            lines.append(
                "Served differs from assigned: the assigned arm was not eligible, so the default served. Analysis counts it under the assigned arm."
            )
        if route.get("exposed") is False:
            lines.append("The unit was outside the exposure: it got the control and is not compared.")
    else:
        lines.append("No experiment: the default version.")
    for candidate in _list(route, "eligible"):
        if isinstance(candidate, Mapping):
            reason = candidate.get("reason")
            lines.append(f"Candidate `{candidate.get('arm')}`: {f'not eligible, `{reason}`' if reason else 'eligible'}.")
    if record.get("config_digest"):
        lines.append(f"Configuration in force: `{record['config_digest']}`.")
    return tuple(lines)


def _draw(record: Record, arm: ArmCheck) -> tuple[str, ...]:
    route = _map(record, "route")
    if not route.get("experiment"):
        return ()
    hashes = _map(route, "hashes")
    lines = []
    if isinstance(route.get("exposure"), int):
        lines.append(f"Exposure {_share(route['exposure'])}{_hash(hashes, 'exposure')}.")
    for name, share in sorted(_map(route, "shares").items()):
        if isinstance(share, int):
            lines.append(f"Share of `{name}`: {_share(share)}{_hash(hashes, name)}.")
    return (*lines, arm.words)


def _policy(record: Record, end: Record) -> tuple[str, ...]:
    policy = _map(record, "policy")
    if not policy:
        return ("No policy verdict is recorded.",) if record.get("type") in ("call", "decision") else ()
    lines = [f"Verdict `{policy.get('decision')}` by bundle `{policy.get('digest', 'not recorded')}`."]
    lines.extend(_said(policy))
    reply = _map(_map(end, "outcome"), "policy")
    if reply:
        lines.append(f"On the reply: verdict `{reply.get('decision')}`.")
        lines.extend(_said(reply))
    return tuple(lines)


def _said(policy: Record) -> list[str]:
    """Say which rules spoke, and what they asked to be done to the request or the reply."""
    reasons = (reason for reason in _list(policy, "reasons") if isinstance(reason, Mapping))
    duties = (one for one in _list(policy, "obligations") if isinstance(one, Mapping))
    return [
        *(f"`{reason.get('id')}` ({reason.get('package')}): {reason.get('msg')}" for reason in reasons),
        *(f"Asked for `{one.get('type')}` of `{one.get('path')}`{' in the request' if one.get('on') == 'request' else ''}." for one in duties),
    ]


def _approvals(record: Record, related: Sequence[Record]) -> tuple[str, ...]:
    ids = _list(_map(record, "approval"), "ids")
    granted = {str(one.get("approval_id")): one for one in related if one.get("type") == "approval.granted"}
    lines = []
    for approval_id in ids:
        found = granted.get(str(approval_id))
        who = f" by `{found.get('person')}` at {found.get('time')}" if found else ""
        lines.append(f"Approval `{approval_id}`{who}.")
    return tuple(lines)


def _ending(end: Record) -> tuple[str, ...]:
    outcome, usage = _map(end, "outcome"), _map(end, "usage")
    if not outcome:
        return ()
    fault = f", fault: {outcome['fault']}" if outcome.get("fault") else ""
    code = f", code `{outcome['code']}`" if outcome.get("code") else ""
    lines = [f"Status {outcome.get('status')}{code}{fault}."]
    stages = ", ".join(
        f"{name.removesuffix('_us')} {_ms(value)}" for name, value in sorted(_map(outcome, "stages").items()) if isinstance(value, int)
    )
    if isinstance(outcome.get("latency_us"), int):
        lines.append(f"Took {_ms(outcome['latency_us'])}{f': {stages}' if stages else ''}.")
    if end.get("prediction") is not None:
        score = f", score {_number(end['score_ppm'])}" if "score_ppm" in end else ""
        lines.append(f"Predicted `{end['prediction']}`{score}.")
    if usage:
        rows = usage.get("rows")
        lines.append(f"{rows} {'row' if rows == 1 else 'rows'}, {usage.get('bytes_in')} bytes in, {usage.get('bytes_out')} bytes out.")
        lines += _consumed(usage)
    for name, commitment in sorted(_map(end, "payload").items()):
        lines.append(f"Commitment to the payload {name}: `{commitment}`.")
    return tuple(lines)


def _consumed(usage: Record) -> list[str]:
    """Return what the reply said of tokens, and what they cost; nothing for a model whose file does not ask."""
    if usage.get("unread"):
        return ["The reply did not say what it consumed."]
    told = [f"{usage[kind]} {kind.replace('_', ' ')}" for kind in ("input_tokens", "output_tokens") if kind in usage]
    if "cost_nano" in usage:
        told.append(f"cost {Decimal(usage['cost_nano']).scaleb(-9):f} {usage.get('currency')}")
    return [f"Consumed: {', '.join(told)}."] if told else []


def _later(related: Sequence[Record]) -> tuple[str, ...]:
    lines = []
    for one in related:
        row = f"row {one.get('row', 0)}"
        if one.get("type") == "label":
            correction = ", a correction" if one.get("corrects") else ""
            lines.append(f"{one.get('time')}: label `{one.get('label')}` for {row} from `{one.get('source')}`{correction}.")
        elif one.get("type") == "human_decision":
            lines.append(f"{one.get('time')}: a person decided `{one.get('human_decision')}` for {row}, from `{one.get('source')}`.")
        elif one.get("type") == "reward":
            lines.append(f"{one.get('time')}: reward `{one.get('metric')}` = {_number(one.get('value_ppm'))} for {row} from `{one.get('source')}`.")
    return tuple(lines)


def _map(record: Record, key: str) -> Record:
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def _list(record: Record, key: str) -> Sequence[Any]:
    value = record.get(key)
    return value if isinstance(value, list | tuple) else ()


def _share(value: int) -> str:
    """Return a share as people write it, to a thousandth of a percent: `5 %`, `33.333 %`."""
    return f"{Decimal(value * 100_000 // SHARE_WHOLE).scaleb(-3).normalize():f} %"


def _hash(hashes: Record, name: str) -> str:
    """Return the recorded hash of a draw; nothing where this draw needed none, as where all is one arm's."""
    return f"; hash `{hashes[name]}`" if name in hashes else ""


def _number(value_ppm: Any) -> str:
    """Return millionths as the number that was sent or read."""
    if type(value_ppm) is not int:
        return "a number that cannot be read"
    return f"{Decimal(value_ppm).scaleb(-6).normalize():f}"


def _ms(value_us: int) -> str:
    return f"{value_us // 1000}.{value_us % 1000 // 100} ms" if value_us >= 1000 else f"0.{value_us:03d} ms"
