"""The leaf of a plain call, put together from parts that are rendered once; nearly every call is plain.

Most of a leaf's 1.4 kB stays the same from call to call: who called, the version, its approvals, what policies said. Building all of it as a
document and writing that as JSON costs more than deciding the call. Here those parts are rendered once, checked by `audit.leaf`, and joined with what
varies: numbers, hex digests, names. The bytes are those that `audit.leaf.render(record.call())` gives; `tests/gateway_core/test_plain_leaf.py` and
every lane of its harness hold them to that. A call that is not plain (refused, streamed, changed or captured, failed upstream) is declined.

Example::

    unfinished = leaves.render(record)          # all of the leaf but `writer` and the last brace, or None
    seq = journal.append_rendered(unfinished) if unfinished is not None else journal.append(record.call())
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from audit.leaf import known_part, part
from audit.statements import told_mono_ns
from gateway.decide import Decision
from gateway.gate import Judged
from gateway.record import CallRecord
from gateway.snapshot import Version

MOST_PARTS: Final = 4096
"""Combinations of key, version and verdict remembered; all are forgotten when there are more."""
_LEAF: Final = (
    '%s"id":"%s",%s"mono_ns":%d,'
    '"outcome":{"latency_us":%d,"stages":{"decide_us":%d,"upstream_us":%d},"status":%d},'
    '"payload":{"in":"%s","out":"%s"},'
    '%s%s"route":%s,%s"subject":"%s",%s"time":"%s",%s"type":"call",'
    '"usage":{"bytes_in":%d,"bytes_out":%d,%s"rows":%d%s},"v":1'
)


_NO_HASHES: Final = '"hashes":{}'


class _Fixed(NamedTuple):
    """What stays the same, in the order of a leaf's keys."""

    before_id: str
    model: str
    policy: str
    tenant: str
    held: tuple[Any, ...]
    """What the key names by identity: as long as it is kept, nothing else can have that identity."""


class PlainLeaves:
    """Renders the leaves of plain calls. Owned by one worker's loop; the memo never changes a byte."""

    __slots__ = ("_fixed", "_routes")

    def __init__(self) -> None:
        """Start with nothing rendered."""
        self._fixed: dict[tuple[Any, ...], _Fixed] = {}  # changed by `render` alone
        self._routes: dict[tuple[Any, ...], tuple[str, str]] = {}  # the part before and after its hashes; changed by `_route` alone

    def render(self, record: CallRecord) -> bytes | None:
        """Return the leaf of a call that has ended, without `writer` and the closing brace; None where the call is not plain.

        Raises:
            audit.leaf.LeafError: a part is outside the profile.
        """
        decision = record.decision
        if decision is None or not _is_plain(record, decision):
            return None
        judged, version = decision.judged, decision.version
        assert judged is not None and version is not None  # noqa: S101, PT018 - else it is not plain
        key = (record.config_digest, record.tenant, id(record.actor), id(record.policy), id(judged), id(version), decision.cached)
        fixed = self._fixed.get(key)
        if fixed is None:
            if len(self._fixed) >= MOST_PARTS:
                self._fixed.clear()
            fixed = self._fixed[key] = _fixed_of(record, judged, version, is_cached=decision.cached)
        return (
            _LEAF
            % (
                fixed.before_id,
                record.id,
                fixed.model,
                told_mono_ns(record.mono_ns),
                record.latency_us,
                record.decided_us,
                record.upstream_us,
                record.status,
                record.committed_in,
                record.committed_out,
                fixed.policy,
                "" if record.prediction is None else f'"prediction":"{record.prediction}",',  # a name: nothing in it has to be escaped
                self._route(record, decision),
                "" if record.score_ppm is None else '"score_ppm":%d,' % record.score_ppm,  # noqa: UP031 - takes whole numbers alone
                record.subject,
                fixed.tenant,
                record.source.times.text(record.unix_us),
                "" if record.trace is None else f'"trace":"{record.trace}",',
                record.bytes_in,
                record.bytes_out,
                "" if not record.metered or "unread" in record.metered else part(record.metered)[1:-1] + ",",  # all its keys stand before `rows`
                record.rows,
                "" if not record.metered or "unread" not in record.metered else ',"unread":1',
            )
        ).encode()

    def _route(self, record: CallRecord, decision: Decision) -> str:
        """Return the `route` part. For a call of an experiment only the hashes vary, as long as configuration and live state are the same."""
        assignment = decision.assignment
        if assignment is None or assignment.extra:
            return known_part(record.route_of(decision))
        hashes = assignment.hashes
        reasons = tuple([one.get("reason") for one in decision.eligible])
        drawn = (assignment.experiment, assignment.epoch, assignment.versions, assignment.arm, assignment.exposed, decision.served)
        key = (record.config_digest, record.live_digest, drawn, reasons, tuple(hashes))
        around = self._routes.get(key)
        if around is None:
            if len(self._routes) >= MOST_PARTS:
                self._routes.clear()
            route = record.route_of(decision)
            before, _, after = part({**route, "hashes": {}}).partition(_NO_HASHES)
            if part(hashes) != _hashes(hashes):
                return known_part(route)  # an arm whose name has to be escaped
            around = self._routes[key] = (f'{before}"hashes":', after)
        return f"{around[0]}{_hashes(hashes)}{around[1]}"


def _hashes(hashes: Mapping[str, str]) -> str:
    return "{" + ",".join([f'"{name}":"{hashes[name]}"' for name in sorted(hashes)]) + "}"


def _is_plain(record: CallRecord, decision: Decision) -> bool:
    return (
        decision.judged is not None
        and decision.refusal is None
        and decision.version is not None
        and record.code is None
        and record.reply_policy is None
        and record.kept is None
        and record.committed_in is not None
        and record.committed_out is not None
        and record.committed_to_model is None
        and record.committed_from_model is None
        and record.fault is None
        and record.upstream_us > 0
        and record.subject is not None
        and not record.streamed
    )


def _fixed_of(record: CallRecord, judged: Judged, version: Version, *, is_cached: bool) -> _Fixed:
    approval = f'"approval":{part({"ids": list(judged.approval_ids)})},' if judged.approval_ids else ""
    return _Fixed(
        f'{{"actor":{part(record.actor)},{approval}"boot_id":{part(record.source.boot_id)},"config_digest":{part(record.config_digest)},',
        f'"model":{part(version.record)},',
        f'"policy":{part(record.policy_of(judged, is_cached=is_cached))},',
        f'"tenant":{part(record.tenant)},',
        (record.actor, record.policy, judged, version),
    )
