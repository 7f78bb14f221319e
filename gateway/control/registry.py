"""What the log says is in force beside the configuration: a fold over its `approval.*`, `experiment.*`, `rollout.step` and `key.*` records.

The log is the source of truth (design.md 1.2): the controller keeps nothing else, and after a restart folds the same records to the same state.

Where several nodes write one log, each controller that begins to lead says so (`log.led`, with its term). What only a leader may say counts from the
one that said so last: a step of a leader that was stalled, and whose record was committed after another had begun, changes nothing, for anybody.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

import msgspec

from audit.receipt import Certificates
from experiments.rollout import RolloutState
from gateway.control.logkeys import LogKeys
from gateway.standing import ApprovalsInForce
from policies.approvals import Approval, InvalidApproval, Revocation, load, recorded_revocation
from policies.erasure import statements_of
from policies.trust import TrustRoot

CONCERNING: Final = re.compile(
    rb'"type":"(?:approval\.|rollout\.step"|experiment\.|trust\.pinned"|policy\.change"|key\.|log\.open"|log\.led"|erasure")'
)
"""Found in every leaf that can change the registry, and in few others: what is found is parsed. A start searches the whole log for it."""

_OF_EVERY_NODE: Final = frozenset({"approval.granted", "approval.revoked", "key.certified", "key.withdrawn", "erasure", "log.led"})
"""What any node of a shared log may say. The rest is its leader's to say."""


class Erased(msgspec.Struct, frozen=True):
    """What a record `erasure` says that counts at the next start."""

    keys: tuple[str, ...]
    """Ids of the data keys it destroyed."""
    consents: frozenset[str]
    """Statements that people signed for it (`policies.erasure.statement_of`): they serve no other."""


class Registry:
    """The folded state. Owned by the controller's loop; changed by `fold` alone, in the order of the log."""

    def __init__(self, root: TrustRoot) -> None:
        """Start empty under a trust root."""
        self._root = root
        self.pinned: dict[str, Any] | None = None
        """The latest `trust.pinned` record: version, digest and text of the root."""
        self.policies: dict[str, str] | None = None
        """Digests of the policies in force, by the latest `policy.change`."""
        self.log_keys = LogKeys()
        self.receipt_keys = Certificates()
        self.erased: dict[str, Erased] = {}
        """What was erased, by the log's `erasure` records."""
        self.opened: dict[str, Any] | None = None
        """The `log.open` record; logs of earlier releases have none."""
        self.approvals: dict[str, Approval] = {}
        self.revocations: dict[str, Revocation] = {}
        self.rollouts: dict[str, RolloutState] = {}
        self.documents: dict[str, str] = {}
        """Experiment -> digest of the document its latest epoch began with."""
        self.begun_at: dict[str, int] = {}
        """Experiment -> index of the record its latest epoch began with: evidence is not older."""
        self.history: dict[str, list[dict[str, Any]]] = {}
        """Steps of each experiment as told on its page, oldest first."""
        self._led: tuple[int, tuple[str, int] | None] = (0, None)  # term of the latest leader of a shared log, and its writer; changed by `fold`
        self._beginning: dict[str, tuple[int, str, int]] = {}  # experiment -> (epoch, document, index) that no step has confirmed
        self.unreadable: list[str] = []
        """Approvals in the log that do not verify under the pinned root: they count for nothing, and are shown."""

    def fold(self, index: int, record: dict[str, Any]) -> None:
        """Take one record in."""
        kind = record["type"]
        if not self._may_say(kind, record):
            return
        if kind in ("approval.granted", "approval.revoked"):
            self._fold_approval(record)
        elif kind.startswith(("experiment.", "rollout.")):
            self._fold_experiment(index, kind, record)
        elif kind == "trust.pinned":
            self.pinned = record
        elif kind == "policy.change":
            self.policies = record["new"]
        elif kind in ("key.began", "key.ended"):
            self.log_keys.fold(record)
        elif kind in ("key.certified", "key.withdrawn", "log.open", "erasure"):
            self._fold_log(index, record)

    def _fold_experiment(self, index: int, kind: str, record: dict[str, Any]) -> None:
        if kind == "experiment.registered":
            self.registered(index, record)
        elif kind == "experiment.start":
            self.begun(record["experiment"], record["document_digest"], record["epoch"], index)
        elif kind == "experiment.stop":
            self.removed(record["experiment"])
        elif kind == "rollout.step":
            self.stepped(index, record, record["time"][:19].replace("T", " "))

    def in_force(self) -> ApprovalsInForce:
        """Return approvals and revocations as they are published."""
        return ApprovalsInForce(
            trust_root=self._root.encode().decode(), approvals=tuple(self.approvals.values()), revocations=tuple(self.revocations.values())
        )

    def lead(self, term: int, writer: tuple[str, int]) -> None:
        """Take in who leads from now on: a writer by node and epoch."""
        self._led = (term, writer)

    def _may_say(self, kind: str, record: dict[str, Any]) -> bool:
        """Say whether a record is its writer's to write; take in who leads."""
        term, leader = self._led
        if leader is None and kind != "log.led":  # one node, or a log of an earlier release
            return True
        writer = (record["writer"]["node"], record["writer"]["epoch"])
        if kind == "log.led" and record["term"] > term:
            self.lead(record["term"], writer)
        return kind in _OF_EVERY_NODE or writer == leader

    def _fold_log(self, index: int, record: dict[str, Any]) -> None:
        """Take in what the log says of itself."""
        if record["type"] == "log.open":
            self.opened = record
        elif record["type"] == "erasure":
            self.erased[record["erasure"]] = Erased(tuple(record["keys"]), statements_of(record.get("signed", ())))
        else:
            self.receipt_keys.fold(index, record)

    def registered(self, index: int, body: dict[str, Any]) -> None:
        """Take in that a draft was put on record: nothing is drawn before it is started."""
        experiment = body["experiment"]
        self.documents[experiment] = body["document_digest"]
        self.begun_at[experiment] = index
        self.rollouts[experiment] = RolloutState("draft", body["epoch"])

    def removed(self, experiment: str) -> None:
        """Take in that an experiment's file is gone. Releases before the stage `archived` said so by this record alone."""
        state = self.rollouts.get(experiment)
        if state is not None:
            self.rollouts[experiment] = replace(state, phase="archived")

    def begun(self, experiment: str, document_digest: str, epoch: int, index: int) -> None:
        """Take in that an epoch of an experiment is to begin with a document.

        It has begun with its first step. A controller killed between the two records leaves the epoch before in force, and the one that
        follows begins again.
        """
        self._beginning[experiment] = (epoch, document_digest, index)

    def stepped(self, index: int, body: dict[str, Any], time: str) -> None:
        """Take in a step of a rollout."""
        experiment = body["experiment"]
        epoch, document_digest, begun_at = self._beginning.get(experiment, (0, "", 0))
        if epoch == body["epoch"]:
            del self._beginning[experiment]
            self.documents[experiment] = document_digest
            self.begun_at[experiment] = begun_at
        self.rollouts[experiment] = msgspec.convert(body["state"], RolloutState)
        by = body.get("actor", {})
        people = [one["person"] for one in body.get("signed", ())]
        self.history.setdefault(experiment, []).append(
            {
                "index": index,
                "time": time,
                "action": body["action"],
                "reason": body["reason"],
                "by": ", ".join(people) or (by["id"] if by.get("kind") == "key" else ""),
            }
        )

    def _fold_approval(self, record: dict[str, Any]) -> None:
        data = record["envelope"].encode()
        try:
            found = load(data, self._root)
        except InvalidApproval as fault:
            self.unreadable.append(f"record {record['id']}: {fault}")
            if record["type"] != "approval.revoked":
                return
            # Its signer has left the root since. What was taken back stays taken back.
            found = recorded_revocation(data, record["person"])
        if isinstance(found, Approval):
            self.approvals[found.id] = found
        else:
            self.revocations[found.id] = found

    def knows(self, envelope_id: str) -> bool:
        """Say whether an envelope has been recorded."""
        return envelope_id in self.approvals or envelope_id in self.revocations
