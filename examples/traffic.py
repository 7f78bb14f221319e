"""Callers of the example model: held-out rows as v2 calls now, their true labels later.

Rules:
- Rows come from the held-out part of the data, resampled with replacement; each call is a fresh unit (`case-...`). The script says so.
- Bounded: `count` calls, at most `rate_per_s` begun a second and `concurrency` at once. No retries: what was refused is counted, not hidden.
- `Assay-Decision` of every answered call is kept; labels go to `POST /feedback` for answered calls alone, with an event id derived from the
  decision id, so that sending them twice changes nothing.
- Only what a product service knows is used: HTTP, a key, a unit, a decision id.

Example:
    $ ASSAY_KEY=... python -m examples.traffic --url http://127.0.0.1:8080 --count 400 --rate 100 --labels-after 2
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from .models.train import FEATURES, MODEL, load_split

RESAMPLING_NOTE = "rows are held-out cases resampled with replacement, each under a fresh unit id"
LABELS_PER_POST = 200
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Case:
    """One call to make: a held-out row under a fresh unit, and what is true about it."""

    unit: str
    features: tuple[float, ...]
    """Ten numbers, in the order of `FEATURES`."""
    label: str
    """`1` malignant, `0` benign; unknown to the model, reported later."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where calls go and how fast."""

    base_url: str
    key: str
    rate_per_s: float = 100.0
    concurrency: int = 8
    model: str = MODEL


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one case."""

    case: Case
    status: int
    """HTTP status; 0 if no reply arrived."""
    decision_id: str | None
    arm: str | None
    version: str | None
    prediction: str | None
    reasons: tuple[str, ...]
    """Codes of a refusal, empty for an answer; the error's class name if no reply arrived."""


@dataclass(slots=True)
class Tally:
    """What happened to a run of calls. Filled by `send` alone; owned by its caller afterwards."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def by_status(self) -> Counter[int]:
        """Calls by HTTP status."""
        return Counter(answer.status for answer in self.answers)

    @property
    def by_reason(self) -> Counter[str]:
        """Refused calls by reason; a call with two reasons counts under both."""
        return Counter(reason for answer in self.answers for reason in answer.reasons)

    @property
    def by_version(self) -> Counter[str]:
        """Answered calls by the version that served them."""
        return Counter(answer.version for answer in self.answers if answer.version)

    def accuracy(self) -> dict[str, tuple[int, int]]:
        """Return version -> (right, answered), from labels the models never saw."""
        right = Counter(a.version for a in self.answers if a.version and a.prediction == a.case.label)
        return {version: (right[version], answered) for version, answered in sorted(self.by_version.items())}


@dataclass(frozen=True, slots=True)
class LabelTally:
    """What happened to the labels that were posted."""

    posted: int
    by_status: Counter[int]
    """Labels by the HTTP status of the post that carried them."""


def cases(seed: int, prefix: str = "case") -> Iterator[Case]:
    """Yield held-out rows, resampled with replacement, without end. Same seed and prefix, same cases."""
    split = load_split()
    draw = random.Random(seed)  # noqa: S311 - resampling for a demonstration, not a secret
    while True:
        row = draw.randrange(len(split.held_out_classes))
        yield Case(
            unit=f"{prefix}-{draw.getrandbits(64):016x}",
            features=tuple(float(number) for number in split.held_out_features[row]),
            label=str(int(split.held_out_classes[row])),
        )


def infer_body(case: Case) -> dict[str, Any]:
    """Return the v2 infer request of one case: ten tensors of one row each."""
    return {
        "parameters": {"case_id": case.unit},
        "inputs": [{"name": name, "shape": [1], "datatype": "FP64", "data": [value]} for name, value in zip(FEATURES, case.features, strict=True)],
    }


async def send(
    client: httpx.AsyncClient,
    plan: Plan,
    to_send: Sequence[Case],
    on_answer: Callable[[Answer], None] = lambda _answer: None,
) -> Tally:
    """Call the model once per case, in order, no faster than the plan allows.

    Args:
        client: used as given; its limits should allow `plan.concurrency` connections.
        plan: where and how fast.
        to_send: the cases.
        on_answer: called after each answer, for progress or to stop early by raising.
    """
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    queue = iter(enumerate(to_send))
    tally = Tally()

    async def caller() -> None:
        for index, case in queue:
            await asyncio.sleep(max(0.0, started_at + index / plan.rate_per_s - loop.time()))
            answer = await _call(client, plan, case)
            tally.answers.append(answer)
            on_answer(answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(plan.concurrency):
            group.create_task(caller())
    return tally


async def post_labels(client: httpx.AsyncClient, plan: Plan, answers: Sequence[Answer]) -> LabelTally:
    """Report what turned out to be true, for the answers that were served and have a decision id."""
    labelled = [answer for answer in answers if answer.status == 200 and answer.decision_id]
    by_status: Counter[int] = Counter()
    for first in range(0, len(labelled), LABELS_PER_POST):
        batch = [label_event(answer) for answer in labelled[first : first + LABELS_PER_POST]]
        try:
            reply = await client.post(f"{plan.base_url}/feedback", json=batch, headers=_authorization(plan))
        except httpx.HTTPError:
            by_status[0] += len(batch)
        else:
            by_status[reply.status_code] += len(batch)
    return LabelTally(len(labelled), by_status)


def label_event(answer: Answer) -> dict[str, Any]:
    """Return the `/feedback` item of one answer."""
    return {
        "decision_id": answer.decision_id,
        "label": answer.case.label,
        "event_id": f"label-{answer.decision_id}",
    }


async def _call(client: httpx.AsyncClient, plan: Plan, case: Case) -> Answer:
    try:
        reply = await client.post(
            f"{plan.base_url}/v2/models/{plan.model}/infer",
            json=infer_body(case),
            headers={**_authorization(plan), "Assay-Unit": case.unit},
        )
    except httpx.HTTPError as error:
        return Answer(case, 0, None, None, None, None, (type(error).__name__,))
    document = _document(reply)
    return Answer(
        case=case,
        status=reply.status_code,
        decision_id=reply.headers.get("assay-decision"),
        arm=reply.headers.get("assay-arm"),
        version=document.get("model_version") if reply.status_code == 200 else None,
        prediction=_prediction(document),
        reasons=() if reply.status_code == 200 else refusal_reasons(document),
    )


def refusal_reasons(document: dict[str, Any]) -> tuple[str, ...]:
    """Return the codes a refusal gives: those of `reasons`, else its `code`, else `unexplained`."""
    reasons = document.get("reasons")
    listed = reasons if isinstance(reasons, list) else []
    codes = tuple(str(item.get("code", item)) if isinstance(item, dict) else str(item) for item in listed)
    return codes or (str(document.get("code", "unexplained")),)


def _prediction(document: dict[str, Any]) -> str | None:
    for output in document.get("outputs") or []:
        if output.get("name") == "prediction" and output.get("data"):
            return str(output["data"][0])
    return None


def _document(reply: httpx.Response) -> dict[str, Any]:
    try:
        document = reply.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _authorization(plan: Plan) -> dict[str, str]:
    return {"Authorization": f"Bearer {plan.key}"}


async def _run(arguments: argparse.Namespace, key: str) -> dict[str, Any]:
    plan = Plan(arguments.url.rstrip("/"), key, arguments.rate, arguments.concurrency, arguments.model)
    source = cases(arguments.seed)
    limits = httpx.Limits(max_connections=plan.concurrency, max_keepalive_connections=plan.concurrency)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as client:
        tally = await send(client, plan, [next(source) for _ in range(arguments.count)])
        report: dict[str, Any] = {
            "calls": len(tally.answers),
            "by_status": {str(status): n for status, n in sorted(tally.by_status.items())},
            "by_reason": dict(sorted(tally.by_reason.items())),
            "right_of_answered": {v: f"{right} of {n}" for v, (right, n) in tally.accuracy().items()},
        }
        if arguments.labels_after is not None:
            await asyncio.sleep(arguments.labels_after)
            labels = await post_labels(client, plan, tally.answers)
            report["labels"] = {"posted": labels.posted, "by_status": {str(s): n for s, n in labels.by_status.items()}}
    return report


def main() -> None:
    """Send calls, optionally their labels, and print what happened as JSON."""
    parser = argparse.ArgumentParser(description="Send held-out rows through a gateway and report their labels later.")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="base URL of the gateway")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--count", type=int, default=400, help="calls to make")
    parser.add_argument("--rate", type=float, default=100.0, help="calls begun a second, at most")
    parser.add_argument("--concurrency", type=int, default=8, help="calls in progress at once, at most")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same cases")
    parser.add_argument("--labels-after", type=float, metavar="SECONDS", help="post the true labels after this wait")
    arguments = parser.parse_args()
    if arguments.count < 1 or arguments.rate <= 0 or arguments.concurrency < 1:
        parser.error("--count, --rate and --concurrency have to be positive")
    key = os.environ.get("ASSAY_KEY")
    if not key:
        parser.error("set ASSAY_KEY to an API key with scopes for calls and feedback; `assay key create` makes one")
    print(RESAMPLING_NOTE, file=sys.stderr)
    print(json.dumps(asyncio.run(_run(arguments, key)), indent=2))


if __name__ == "__main__":
    main()
