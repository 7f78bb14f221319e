"""What is in force beside the configuration: rollouts, approvals, stopped models. Published by the controller, pinned by every call.

Each item is a committed record before workers use it. A `Live` belongs to one snapshot; it is immutable but for memo tables that never
change an answer (gates, built when first asked for, and rebuilt when an approval begins or ends).
"""

from __future__ import annotations

import msgspec

from experiments.assignment import Assigner, Assignment, Draw, Variants
from experiments.document import LiveExperiment
from experiments.ranges import assigner_of
from experiments.shares import WHOLE
from experiments.targeting import EMPTY, Context
from gateway.gate import Gate
from gateway.snapshot import Route, Snapshot, Version
from gateway.standing import Approvals, ApprovalsInForce


class LiveDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The published live state, stored by digest like any configuration object."""

    experiments: dict[str, LiveExperiment]
    approvals: ApprovalsInForce
    killed: tuple[str, ...] = ()
    """Models that have been stopped."""


class Published(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A live state as workers read it: the same document, its parts read when a call first needs them.

    With thousands of experiments only a few change at a time; reading all of them at every change would hold up calls.
    """

    experiments: dict[str, msgspec.Raw]
    approvals: msgspec.Raw
    killed: tuple[str, ...] = ()

    def read_approvals(self) -> ApprovalsInForce:
        """Return the approvals and revocations in force."""
        read: ApprovalsInForce = msgspec.json.decode(self.approvals, type=ApprovalsInForce)
        return read


class Live:
    """One published live state, compiled for one snapshot."""

    __slots__ = ("_approvals", "_assigners", "_gates", "_snapshot", "as_of_us", "digest", "document", "killed")

    def __init__(self, document: LiveDocument | Published, digest: str, as_of_us: int, snapshot: Snapshot, approvals: Approvals) -> None:
        """Prepare; assigners and gates are built when a call first needs them.

        Args:
            document: what was published.
            digest: its digest, the `live_digest` of records.
            as_of_us: Unix microseconds when the controller last confirmed it; moved on by the worker while the digest stays the same.
            snapshot: the configuration it belongs to.
            approvals: the document's approvals, read.
        """
        self.document = document
        self.digest = digest
        self.as_of_us = as_of_us
        self.killed = frozenset(document.killed)
        self._snapshot = snapshot
        self._approvals = approvals
        self._gates: dict[tuple[str, str, int], tuple[int, Gate]] = {}  # with the time each was built at; changed by `gate` alone
        self._assigners: dict[str, tuple[Assigner, ...]] = {}  # of the models that were asked for; changed by `assign` alone

    def assign(
        self, model: str, subject: str, draw: Draw, context: Context = EMPTY, unit: str = "", variants: Variants | None = None
    ) -> Assignment | None:
        """Return where a call to `model` goes, or None where no experiment of it has the unit."""
        assigners = self._assigners.get(model)
        if assigners is None:
            assigners = self._assigners[model] = self._in_force(model)
        for assigner in assigners:
            assignment = assigner.assign(subject, draw, context, unit, variants)
            if assignment is not None:
                return assignment
        return None

    def gate(self, route: Route, version: Version, now_us: int, exposure: int = WHOLE) -> Gate:
        """Return the gate of a version as it stands at `now_us` for a share of the traffic out of 2**32."""
        key = (version.model, version.document.name, exposure)
        held = self._gates.get(key)
        # A clock that was set back may stand before an approval begins: then the gate built later does not hold either.
        if held is not None and held[0] <= now_us < held[1].standing.valid_until_us:
            return held[1]
        standing = self._approvals.standing(route, version, self._snapshot.settings.environment, exposure, now_us)
        gate = Gate(standing, self._snapshot.policies)
        self._gates[key] = (now_us, gate)
        return gate

    def experiment(self, name: str) -> LiveExperiment | None:
        """Return what is in force of one experiment; None where nothing was published of it."""
        live = self.document.experiments.get(name)
        return live if live is None or isinstance(live, LiveExperiment) else msgspec.json.decode(live, type=LiveExperiment)

    def _in_force(self, model: str) -> tuple[Assigner, ...]:
        """Return the assigners of a model's experiments that route anything, in the order of their names."""
        found = []
        for document in self._snapshot.by_model.get(model, ()):
            state = self.experiment(document.experiment) if document.shadow is None else None
            if state is not None:
                found.append(assigner_of(document, state))
        return tuple(assigner for assigner in found if assigner.in_force)


def encode(document: LiveDocument) -> bytes:
    """Return the bytes a live state is stored as."""
    return msgspec.json.encode(document, order="sorted")


def decode(data: bytes) -> Published:
    """Return a stored live state, its parts unread. Raises msgspec.ValidationError."""
    document: Published = msgspec.json.decode(data, type=Published)
    return document
