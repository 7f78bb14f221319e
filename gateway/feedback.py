"""Labels, people's decisions and rewards as callers send them to `POST /feedback`: one event or a list.

`{"decision_id": ..., "label": "1"}` (what turned out true), `{"decision_id": ..., "human_decision": "1"}` (what a person decided) or
`{"decision_id": ..., "metric": "repaid", "value": 1}`, each with optional `row`, `event_id`, `time` and, for the first two, `corrects`.
Events arrive late, early, twice and in any order: each is recorded as it comes, and folding makes it count
once (by `event_id`, else by decision, row and metric).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from audit.entry import time_us
from experiments.wording import FORM, is_name
from gateway.protocols.strictjson import JsonError, parse
from gateway.refusals import Refusal

MOST_EVENTS: Final = 1_000
_LABEL_KEYS: Final = frozenset(("decision_id", "row", "event_id", "time", "corrects"))
_WORDS: Final = ("label", "human_decision")
"""What is said in one word, each a type of record."""
_REWARD_KEYS: Final = frozenset(("decision_id", "row", "metric", "value", "event_id", "time"))
_MOST_TIME: Final = 40
AHEAD_US: Final = 300_000_000
"""How far another clock may be ahead of ours before its times count as the future."""
_NONE: Final[Mapping[str, str]] = {}
_FOREVER_US: Final = 2**62
_MOST_VALUE: Final = 9_007_199_254  # times 10^6 stays below 2^53


@dataclass(frozen=True, slots=True)
class Event:
    """One label, human decision or reward, as its record says it."""

    kind: str
    decision: str
    fields: dict[str, Any]


def read(body: bytes, now_us: int = _FOREVER_US, classes: Mapping[str, str] = _NONE, metrics: Collection[str] = ()) -> list[Event]:
    """Return the events of a request body.

    Args:
        body: as it came.
        classes: what models' files declare and is no name -> the name it is recorded under.
        now_us: Unix microseconds; what lies more than five minutes after it is from the future.
        metrics: those that may be named, where any is declared: a misspelt one would be lost in silence.

    Raises:
        Refusal: `malformed_body` or `bad_feedback`, naming the first bad event; then none of them is taken.
    """
    try:
        document = parse(body)
    except JsonError as fault:
        raise Refusal("malformed_body", f"request body: {fault}") from None
    items = document if type(document) is list else [document]
    if len(items) > MOST_EVENTS:
        raise Refusal("bad_feedback", f"{len(items)} events in one request; the most is {MOST_EVENTS}")
    events = [_event(index, item, now_us + AHEAD_US, classes) for index, item in enumerate(items)]
    for index, event in enumerate(events):
        if metrics and event.kind == "reward" and event.fields["metric"] not in metrics:
            raise _undeclared(index, event.fields["metric"], metrics)
    return events


def _undeclared(index: int, metric: str, metrics: Collection[str]) -> Refusal:
    close = difflib.get_close_matches(metric, metrics, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"declare it there, or send one of {', '.join(f'`{one}`' for one in list(metrics)[:8])}"
    return Refusal("bad_feedback", f"event {index}: `{metric}` is not a metric that `experiments/_metrics.yaml` takes from feedback", hint=hint)


def _event(index: int, item: Any, until_us: int, classes: Mapping[str, str]) -> Event:
    where = f"event {index}"
    if type(item) is not dict:
        raise Refusal("bad_feedback", f"{where}: has to be an object")
    word = next((one for one in _WORDS if one in item), None)
    unknown = item.keys() - (_REWARD_KEYS if word is None else {*_LABEL_KEYS, word})
    if unknown:
        raise Refusal("bad_feedback", f"{where}: unknown field `{min(unknown)[:40]}`")
    decision = _decision(where, item.get("decision_id"), until_us)
    row = item.get("row", 0)
    if type(row) is not int or not 0 <= row < 1_000_000:
        raise Refusal("bad_feedback", f"{where}: `row` has to be a whole number")
    fields: dict[str, Any] = {"decision": decision, "row": row}
    if "event_id" in item:
        fields["event_id"] = _text(where, "event_id", item["event_id"])
    if "time" in item:
        fields["event_time"] = _time(where, item["time"], until_us)
    if word is not None:
        value = item[word]
        fields[word] = str(value) if type(value) is int else _class(where, word, value, classes)
        if "corrects" in item:
            if item["corrects"] is not True:
                raise Refusal("bad_feedback", f"{where}: `corrects` is true or left out")
            fields["corrects"] = True
        return Event("label" if word == "label" else "human_decision", decision, fields)
    fields["metric"] = _text(where, "metric", item.get("metric"))
    value = item.get("value")
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -_MOST_VALUE <= value <= _MOST_VALUE:
        raise Refusal("bad_feedback", f"{where}: `value` has to be a number between -{_MOST_VALUE} and {_MOST_VALUE}")
    fields["value_ppm"] = round(value * 1_000_000)
    return Event("reward", decision, fields)


def _decision(where: str, value: Any, until_us: int) -> str:
    try:
        decision = UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise Refusal("bad_feedback", f"{where}: `decision_id` has to be what `Assay-Decision` said") from None
    if decision.version == 7 and (decision.int >> 80) * 1000 > until_us:
        raise Refusal("bad_feedback", f"{where}: `decision_id` is of a decision that has not been made yet; compare the clocks")
    return str(decision)


def _class(where: str, key: str, value: Any, classes: Mapping[str, str]) -> str:
    """Return a class as records hold it: a name, or the name of a class that some model's file declares."""
    form = classes.get(value) if type(value) is str else None
    return form or _text(where, key, value, "that, or a class under `capture.classes` of a model's file")


def _text(where: str, key: str, value: Any, hint: str | None = None) -> str:
    """Return a text that may stand in the log for ever."""
    if type(value) is not str or not is_name(value):
        said = f"{where}: `{key}` has to be a name: {FORM}; it stands in the log for ever, where free text has no place"
        raise Refusal("bad_feedback", said, hint=hint)
    return value


def _time(where: str, value: Any, until_us: int) -> str:
    at_us = time_us(value) if type(value) is str and len(value) <= _MOST_TIME else None
    if at_us is None:
        raise Refusal("bad_feedback", f"{where}: `time` has to be RFC 3339 with a zone: `2026-11-20T10:00:00Z`")
    if at_us > until_us:
        raise Refusal("bad_feedback", f"{where}: `time` `{value}` lies in the future; compare the clocks")
    return str(value)
