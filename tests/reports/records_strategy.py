"""Generated logs: small, consistent histories of calls, labels, approvals and rollouts, as leaves in the form of `docs/records.md`.

`Log` is a builder with one method per record type; `logs()` is the hypothesis strategy that drives it. Ids and times come from counters, so that
a log is a function of the draws alone.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from hypothesis import strategies as st

START = dt.datetime(2026, 11, 2, 8, 0, 0, tzinfo=dt.UTC)


def leaf_bytes(record: dict[str, Any]) -> bytes:
    """RFC 8785 bytes of a record in the leaf profile (ASCII keys, integers): sorted compact JSON."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Log:
    """A growing log. `records` is the list of leaves so far; owner: the test."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.at_us = 0

    def add(self, kind: str, *, tenant: str = "acme", step_us: int = 1_000_000, **fields: Any) -> dict[str, Any]:
        self.at_us += step_us
        count = len(self.records)
        record = {
            "v": 1,
            "id": f"019a0000-0000-7000-8000-{count:012x}",
            "type": kind,
            "time": self.clock(self.at_us),
            "mono_ns": self.at_us * 1000,
            "boot_id": "b",
            "writer": {"node": "n1.w0", "epoch": 1, "seq": count},
            "actor": {"kind": "key", "id": "k_1"},
            "tenant": tenant,
        }
        record.update(fields)
        self.records.append(record)
        return record

    @staticmethod
    def clock(at_us: int) -> str:
        return (START + dt.timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def call(
        self,
        *,
        version: str = "3",
        prediction: str | None = "1",
        score_ppm: int | None = 800_000,
        status: int = 200,
        code: str | None = None,
        decision: str = "allow",
        rules: tuple[str, ...] = (),
        experiment: str | None = None,
        assigned: str | None = None,
        served: str | None = None,
        latency_us: int = 5000,
        model: str = "credit-risk",
        kind: str = "call",
        **more: Any,
    ) -> dict[str, Any]:
        route: dict[str, Any] = {"eligible": [], "live_digest": "l"}
        if experiment is not None:
            route.update(
                experiment=experiment,
                epoch=1,
                mode="native",
                assigned=assigned,
                served=served or assigned,
                exposed=True,
                shares={"champion": 2**31, "challenger": 2**31},
            )
            route["eligible"] = [{"arm": "champion"}, {"arm": "challenger"}]
        outcome: dict[str, Any] = {"status": status, "latency_us": latency_us, "stages": {"decide_us": 80, "upstream_us": 4000}}
        if code is not None:
            outcome["code"] = code
        fields: dict[str, Any] = {
            "model": {"name": model, "version": version, "digest": f"sha256:{version * 4}"},
            "route": route,
            "policy": {"decision": decision, "reasons": [{"id": rule, "package": "p", "msg": "m"} for rule in rules]},
            "config_digest": "c",
            "approval": {"ids": ["a1"]},
            "subject": f"{len(self.records) % 7:032x}",
        }
        if kind == "call":
            fields["outcome"] = outcome
            fields["usage"] = {"rows": 1, "bytes_in": 10, "bytes_out": 20}
            if status == 200:
                if prediction is not None:
                    fields["prediction"] = prediction
                if score_ppm is not None:
                    fields["score_ppm"] = score_ppm
        fields.update(more)
        return self.add(kind, **fields)

    def outcome(self, decision: dict[str, Any], *, prediction: str = "1", score_ppm: int = 700_000, status: int = 200) -> dict[str, Any]:
        return self.add(
            "outcome",
            parents=[decision["id"]],
            tenant=decision["tenant"],
            model=decision["model"],
            outcome={"status": status, "latency_us": 9000, "stages": {}},
            prediction=prediction,
            score_ppm=score_ppm,
            usage={"rows": 1, "bytes_in": 1, "bytes_out": 1},
        )

    def label(self, decision_id: str, label: str, **more: Any) -> dict[str, Any]:
        return self.add("label", decision=decision_id, metric="label", label=label, row=0, source="k_1", **more)

    def leaves(self) -> list[tuple[int, bytes]]:
        return [(idx, leaf_bytes(record)) for idx, record in enumerate(self.records)]


CONSUMED = st.one_of(
    st.just({}),
    st.just({"unread": 1}),
    st.fixed_dictionaries({"input_tokens": st.integers(0, 10**6)}),
    st.fixed_dictionaries(
        {
            "input_tokens": st.integers(0, 10**6),
            "output_tokens": st.integers(0, 10**6),
            "cost_nano": st.integers(0, 10**12),
            "currency": st.sampled_from(["EUR", "USD"]),
        }
    ),
)
"""What a call consumed: nothing asked for, nothing said, tokens alone, tokens and their cost."""


@st.composite
def logs(draw: st.DrawFn, max_records: int = 40) -> Log:
    """A history: each draw appends one record; labels, outcomes and corrections refer to earlier or unknown decisions."""
    log = Log()
    for _ in range(draw(st.integers(0, max_records))):
        decisions = [record for record in log.records if record["type"] in {"call", "decision"}]
        kind = draw(st.sampled_from(["call"] * 6 + ["refused", "failed", "decision", "outcome"] + ["label"] * 5 + ["other"]))
        tenant = draw(st.sampled_from(["acme", "acme", "acme", "globex"]))
        arm = draw(st.sampled_from([None, "champion", "challenger"]))
        arms = {"experiment": "credit-v4", "assigned": arm, "served": draw(st.sampled_from([arm, "champion"]))} if arm else {}
        version = draw(st.sampled_from(["3", "4"]))
        if kind == "call":
            log.call(
                version=version,
                tenant=tenant,
                prediction=draw(st.sampled_from(["0", "1"])),
                score_ppm=draw(st.integers(0, 1_000_000)),
                latency_us=draw(st.integers(0, 10_000_000)),
                model=draw(st.sampled_from(["credit-risk", "churn"])),
                usage={"rows": 1, "bytes_in": 10, "bytes_out": 20, **draw(CONSUMED)},
                **arms,
            )
        elif kind == "refused":
            log.call(version=version, tenant=tenant, status=403, code="policy_denied", decision="deny", rules=("approvals.missing", "x"), **arms)
        elif kind == "failed":
            log.call(version=version, tenant=tenant, status=502, code="upstream_unavailable", **arms)
        elif kind == "decision":
            log.call(version=version, tenant=tenant, kind="decision", **arms)
        elif kind == "outcome" and decisions:
            log.outcome(draw(st.sampled_from(decisions)), prediction=draw(st.sampled_from(["0", "1"])))
        elif kind == "label":
            known = [record["id"] for record in decisions] or ["unknown"]
            more: dict[str, Any] = {"corrects": True} if draw(st.booleans()) else {}
            if draw(st.booleans()):
                more["event_id"] = f"e{draw(st.integers(0, 5))}"
            log.label(draw(st.sampled_from(known)), draw(st.sampled_from(["0", "1"])), tenant=tenant, **more)
        elif kind == "other":
            other = draw(st.sampled_from(["log.heartbeat", "denial.count", "approval.granted", "rollout.step"]))
            log.add(other, **OTHERS[other])
    return log


OTHERS: dict[str, dict[str, Any]] = {
    "log.heartbeat": {},
    "denial.count": {"reason": "unauthenticated", "count": 3, "second": 1},
    "approval.granted": {"approval_id": "a1", "model": "credit-risk", "version": "4", "digest": "sha256:4444", "person": "ann"},
    "rollout.step": {
        "experiment": "credit-v4",
        "epoch": 1,
        "action": "advance",
        "from": 0,
        "to": 1,
        "exposure": 1,
        "evidence": {"n": 1},
        "reason": "r",
    },
}
