"""People come and go in the trust root: only by a root that the people before signed, and what was taken back stays taken back."""

from __future__ import annotations

from pathlib import Path

from deployment import Deployment, wait_until
from upstreams import Model

from gateway.config.layout import write_durably
from policies.trust import PersonKey, TrustRoot, ceremony


def test_a_root_is_followed_by_its_successor_alone_and_a_revocation_outlives_who_signed_it(tmp_path: Path, one: Model):
    deployment = Deployment(tmp_path / "d")
    try:
        path = deployment.layout.trust_root
        first = TrustRoot.parse(path.read_bytes())
        deployment.write_model("plain", {"1": one.url})
        deployment.approve("plain", "1", url=one.url, person="alice")
        deployment.start()
        assert deployment.infer("plain").status_code == 200
        deployment.revoke("plain", "1", person="bob")
        wait_until(lambda: deployment.infer("plain").status_code == 403, "the revocation to be in force")
        assert deployment.stop() == 0

        stranger = PersonKey.from_seed(b"?" * 32)
        write_durably(
            path, ceremony({"eve": stranger, "mallory": PersonKey.from_seed(b"!" * 32)}, thresholds=first.thresholds).encode(), replace=True
        )
        told = deployment.serve_expecting_refusal()
        assert "trust/root.json" in told
        assert "does not follow the one in force" in told
        assert "hint: put the former root back" in told

        alone = {**first.thresholds, "approve.high": 1}
        second = first.next(people=[person for person in first.people if person.name == "alice"], thresholds=alone).signed(deployment.people["alice"])
        write_durably(path, second.encode(), replace=True)
        deployment.start()
        reply = deployment.infer("plain")
        assert (reply.status_code, reply.json()["code"]) == (403, "not_approved")
        assert "approval.revoked" in reply.text, "bob's revocation holds although bob has left"
        assert deployment.stop() == 0

        write_durably(path, first.encode(), replace=True)
        assert "expected trust root version 3, got version 1" in deployment.serve_expecting_refusal(), "an older root brings nobody back"
        write_durably(path, second.encode(), replace=True)
        deployment.start()
        assert [(pinned["version"], pinned["digest"]) for pinned in deployment.log.of_type("trust.pinned")] == [
            (1, first.digest),
            (2, second.digest),
            (2, second.digest),
        ]
        assert deployment.stop() == 0
    finally:
        deployment.close()
