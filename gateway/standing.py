"""How a version stands with the people who answer for it: its approvals, judged against the trust root, as a gate needs them.

Signatures were checked by the controller before the approvals were recorded and published; here time, revocation, digest, origins, purpose
and exposure are judged (`policies/approvals.py`), and the same approvals become facts for policies.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.gate import Standing
from gateway.snapshot import Route, Version
from policies.approvals import Approval, Revocation
from policies.in_force import Candidate, InForce
from policies.trust import TrustRoot


class ApprovalsInForce(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Approvals and revocations as published: read under the trust root whose text stands beside them."""

    trust_root: str
    """Text of the pinned `root.json`."""
    approvals: tuple[Approval, ...]
    revocations: tuple[Revocation, ...]


class Approvals:
    """Published approvals, grouped by version. Immutable."""

    __slots__ = ("_approvals", "_revocations", "root")

    def __init__(self, published: ApprovalsInForce) -> None:
        """Group once. Raises policies.trust.InvalidTrust when the root is not signed by its own people."""
        self.root = TrustRoot.parse(published.trust_root.encode())
        self._approvals: dict[tuple[str, str], list[Approval]] = {}
        self._revocations: dict[tuple[str, str], list[Revocation]] = {}
        for approval in published.approvals:
            self._approvals.setdefault((approval.model, approval.version), []).append(approval)
        for revocation in published.revocations:
            self._revocations.setdefault((revocation.model, revocation.version), []).append(revocation)

    def standing(self, route: Route, version: Version, environment: str, exposure: int, now_us: int) -> Standing:
        """Judge a version.

        Args:
            route: its route.
            version: the version.
            environment: which environment this is.
            exposure: share of the traffic the version would get, out of 2**32.
            now_us: Unix microseconds.
        """
        document, model = version.document, route.document
        key = (model.model, document.name)
        mine = self._approvals.get(key, [])
        candidate = Candidate(model.model, document.name, document.digest, document.upstreams, model.risk, model.intended_use, document.submitted_by)
        in_force = InForce.build([candidate], mine, self._revocations.get(key, []), self.root, environment)
        judgement = in_force.judge(model.model, document.name, document.digest, now_us, exposure)
        fixed = {
            "env": environment,
            "model": {
                "name": model.model,
                "version": document.name,
                "digest": document.digest,
                "risk": model.risk,
                "stage": document.stage,
                "owner": model.owner,
            },
            "approvals": [self._fact(approval) for approval in mine if approval.id in judgement.ids],
            "params": {"max_rows": model.max_rows},
        }
        return Standing(fixed, judgement.ids, judgement.reason, judgement.valid_until_us)

    def _fact(self, approval: Approval) -> dict[str, Any]:
        roles = next((person.roles for person in self.root.people if person.name == approval.person), ())
        return {
            "person": approval.person,
            "roles": list(roles),
            "in_force": True,
            "model": approval.model,
            "version": approval.version,
            "digest": approval.digest,
            "environments": list(approval.environments),
            "max_exposure_ppm": approval.max_exposure_ppm,
        }
