"""What tests of the controller's work share: a clerk over a log in memory, experiments by digest, people who sign."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from audit.leaf import render
from audit.statements import Clock, statement
from experiments.document import ExperimentDocument, StepDocument
from experiments.shares import WHOLE
from gateway.documents import digest_of, encode
from policies.approvals import Approval, Revocation, sign_approval, sign_revocation
from policies.trust import PersonKey, ceremony

PEOPLE = {name: PersonKey.from_seed(name.encode().ljust(32, b".")) for name in ("ann", "bob")}
STRANGER = PersonKey.from_seed(b"?" * 32)
ROOT = ceremony(PEOPLE, thresholds={"approve.low": 1, "approve.medium": 1, "approve.high": 2, "root": 1})
DAY_US = 86_400_000_000


class Broken(Exception):  # noqa: N818 - what a crash is called here
    """The process ends here."""


class MemoryClerk:
    """The real clerk's interface over a list of leaves. `dies_at` raises at that record, before or after it was committed."""

    def __init__(self, leaves: list[bytes] | None = None) -> None:
        self.leaves = [] if leaves is None else leaves
        self.dies_at: int | None = None
        self.after_commit = False
        self.calls = 0
        self._clock = Clock("boot")

    async def record(self, kind: str, **carries: Any) -> int:
        self.calls += 1
        if self.calls == self.dies_at and not self.after_commit:
            raise Broken
        record = statement(kind, self._clock.moment(), actor_id="n1.controller", **carries)
        self.leaves.append(render({**record, "writer": {"node": "n1.controller", "epoch": 1, "seq": len(self.leaves)}}))
        if self.calls == self.dies_at:
            raise Broken
        return len(self.leaves) - 1

    async def record_all(self, records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[int]:
        return [await self.record(kind, **carries) for kind, carries in records]

    def kinds(self) -> list[str]:
        return [json.loads(leaf)["type"] for leaf in self.leaves]


class Documents:
    """Experiments by digest."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, document: ExperimentDocument) -> str:
        data = encode(document)
        self.objects[digest_of(data)] = data
        return digest_of(data)

    def get(self, digest: str) -> bytes:
        return self.objects[digest]


def experiment(name: str = "x", **more: Any) -> ExperimentDocument:
    half = WHOLE // 2
    shares = {"champion": half, "challenger": half}
    fields: dict[str, Any] = {
        "experiment": name,
        "strategy": "canary",
        "model": "credit-risk",
        "owner": "risk",
        "hypothesis": "better",
        "arms": {"champion": "3", "challenger": "4"},
        "control": "champion",
        "sticky": "unit",
        "salt": "pepper",
        "seed": "1",
        "mode": "native",
        "steps": tuple(StepDocument(exposure=exposure, shares=shares, hold_us=10, min_units=1) for exposure in (WHOLE // 50, WHOLE // 10, WHOLE)),
        "guardrails": (),
        "goal": None,
        "alpha_ppm": 50_000,
        "alpha_harm_ppm": 25_000,
        "breaker": None,
        "deadline_us": None,
        "deadline_then": "hold",
    }
    return ExperimentDocument(**{**fields, **more})


def call(number: int, *, arm: str = "challenger", epoch: int = 1, status: int = 200, name: str = "x", kind: str = "call", at: str = "10:00:00"):
    """A call's record as the fold reads it."""
    record: dict[str, Any] = {
        "type": kind,
        "id": f"{number:08d}-0000-7000-8000-000000000000",
        "time": f"2026-11-20T{at}.000000Z",
        "subject": f"s{number}",
        "route": {
            "experiment": name,
            "epoch": epoch,
            "exposed": True,
            "assigned": arm,
            "served": arm,
            "shares": dict(experiment().steps[0].shares),
        },
    }
    if kind == "call":
        record["outcome"] = {"status": status, "latency_us": 5}
    return record


def outcome(number: int, status: int = 200):
    return {
        "type": "outcome",
        "id": f"{number:08d}-9999-7000-8000-000000000000",
        "time": "2026-11-20T10:00:00.000000Z",
        "parents": [f"{number:08d}-0000-7000-8000-000000000000"],
        "outcome": {"status": status, "latency_us": 5},
    }


def approval(version: str = "3", **more: Any) -> Approval:
    fields: dict[str, Any] = {
        "model": "credit-risk",
        "version": version,
        "digest": "sha256:" + "3" * 64,
        "origins": ("http://v3:80",),
        "environments": ("staging",),
        "purpose": "credit",
        "max_exposure_ppm": 1_000_000,
        "issued_at_us": DAY_US,
        "not_before_us": DAY_US,
        "not_after_us": 2 * DAY_US,
    }
    return Approval(**{**fields, **more})


def envelope(person: str = "ann", **more: Any) -> bytes:
    return sign_approval(approval(**more), PEOPLE[person])


def revocation(person: str = "ann", version: str = "3") -> bytes:
    return sign_revocation(Revocation("credit-risk", version, "sha256:" + "3" * 64, "broken", 3 * DAY_US), PEOPLE[person])
