"""Every refusal the front door can answer with, sorted by whose fault it is.

One table: code -> status, who must act, what a caller is told to do. A refusal is an exception raised anywhere in the lane and rendered
once, in the shape of the caller's protocol (`gateway/protocols/`). `docs/errors.md` lists every code; a test holds the two together. An
outage is never a 401: what we cannot know is a 503 with `Retry-After`.

Example::

    raise Refusal("unknown_model", "no model `credti-risk`", hint="did you mean `credit-risk`?")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Code:
    """One row of the table."""

    status: int
    fault: str
    """`caller`, `governance`, `upstream` or `gateway`: who has to act."""
    hint: str
    """What to do, when the place that raises knows nothing better."""
    retry_after_s: int | None = None


CODES: Final[dict[str, Code]] = {
    # the caller's to mend
    "malformed_request": Code(400, "caller", "send a well-formed HTTP/1.1 request"),
    "malformed_body": Code(400, "caller", "send one JSON document as the protocol describes"),
    "malformed_query": Code(400, "caller", "see the conditions a question may have in docs/http.md"),
    "no_credentials": Code(401, "caller", "send `Authorization: Bearer KEY`; `assay key create` makes a key"),
    "bad_credentials": Code(401, "caller", "check the key; a revoked or expired key has to be replaced with `assay key create`"),
    "not_found": Code(404, "caller", "see the paths in docs/http.md"),
    "unknown_model": Code(404, "caller", "`assay model list` lists the configured models"),
    "unknown_experiment": Code(404, "caller", "`assay experiment list` names those that are configured"),
    "illegal_step": Code(409, "caller", "`assay experiment status NAME` says where it is and what can be done from there"),
    "led_elsewhere": Code(409, "caller", "ask the admin port of the node that leads; any node tells which: `GET /api/status`"),
    "method_not_allowed": Code(405, "caller", "use the method the protocol names"),
    "body_too_large": Code(413, "caller", "send less, or raise `front.body_limit`"),
    "unsupported_media": Code(415, "caller", "send `Content-Type: application/json` without Content-Encoding"),
    "schema_mismatch": Code(422, "caller", "compare the inputs with the `schema` of the model's file"),
    "unknown_variant": Code(422, "caller", "name an arm of the experiment, or one of its `external.variants`, in `Assay-Variant`"),
    "bad_feedback": Code(422, "caller", "see the fields of /feedback in docs/http.md"),
    # governance says no
    "missing_scope": Code(403, "governance", "ask for a key with this scope: `assay key create --scope`"),
    "model_not_allowed": Code(403, "governance", "ask for a key that names this model: `assay key create --model`"),
    "not_approved": Code(403, "governance", "`assay model approve MODEL VERSION` by enough people puts a version in force"),
    "bad_consent": Code(403, "governance", "sign again: `assay experiment approve NAME --as PERSON --key FILE`"),
    "not_proven": Code(409, "governance", "wait for the evidence, or promote against it with the consents of two approvers"),
    "policy_denied": Code(403, "governance", "`assay audit show ID` tells which rule and why"),
    "model_killed": Code(403, "governance", "the model's owner has stopped it"),
    "rate_limited": Code(429, "governance", "slow down; the limit is in the model's file or the key", 1),
    "reply_withheld": Code(
        502, "governance", "policies ask for a change that cannot be made to this reply; the model's owner and theirs have to agree"
    ),
    # the model's side failed
    "upstream_unreachable": Code(502, "upstream", "the model server cannot be reached; its owner is named in the model's file", 2),
    "upstream_broken": Code(502, "upstream", "the model server broke its protocol; its owner is named in the model's file", 2),
    "upstream_too_large": Code(502, "upstream", "the model's reply is longer than the gateway may hold"),
    "upstream_busy": Code(503, "upstream", "all connections to the model are in use", 1),
    "upstream_timeout": Code(504, "upstream", "the model did not answer before `deadline`", 2),
    # ours
    "audit_unavailable": Code(503, "gateway", "calls cannot be recorded just now and are refused rather than served unrecorded", 1),
    "vault_unavailable": Code(503, "gateway", "what is captured of calls cannot be kept just now; calls are refused rather than half kept", 1),
    "state_stale": Code(503, "gateway", "this worker has not heard from the controller within the model's staleness bound", 1),
    "not_ready": Code(503, "gateway", "the gateway is starting or draining", 1),
    "internal": Code(500, "gateway", "a defect of the gateway; its log has the traceback under this id"),
}


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a failure of the program
    """The lane answers with an error instead of a model's reply."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        hint: str | None = None,
        reasons: tuple[dict[str, Any], ...] = (),
        status: int | None = None,
        fault: str | None = None,
    ) -> None:
        """Keep code, a sentence that says what and where, what to do, and the policy reasons if any.

        Args:
            code: key of `CODES`.
            detail: what happened and where, for people; never a secret.
            hint: what to do; the table's when None.
            reasons: policy reasons `{id, package, msg}`.
            status: overrides the table's status where a policy names one.
            fault: kind of upstream fault, for the record.
        """
        super().__init__(detail)
        row = CODES[code]
        self.code = code
        self.detail = detail
        self.hint = hint or row.hint
        self.reasons = reasons
        self.status = status or row.status
        self.retry_after_s = row.retry_after_s
        self.fault = fault

    def facts(self, decision_id: str | None) -> dict[str, Any]:
        """Return what every error shape tells, whatever the protocol."""
        facts: dict[str, Any] = {"code": self.code, "detail": self.detail, "hint": self.hint, "reasons": list(self.reasons)}
        if decision_id is not None:
            facts["decision_id"] = decision_id
        return facts
