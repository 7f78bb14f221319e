"""Compiled configuration: what the controller publishes by digest and workers load.

The reading side (`gateway/config/`) turns YAML into pydantic models, checks them, and compiles each file into one of these documents. A
document is stored as canonical JSON under `data/control/objects/<sha256>`; its SHA-256 is its digest and appears in every record. A comment or a
reordering in a file changes no digest. Times are integers in the unit their name ends with; shares are integers out of 2**32.

Rules:
- A field that has its default value is left out of the bytes, so a release that adds a field changes no digest of a configuration that does
  not use it. For the same reason a default never changes its meaning: it gets a new name.
- Names (models, versions, inputs) are ASCII; `gateway/config/` refuses others, so sorted keys are the order of RFC 8785.

Example:
    data = encode(route)
    assert decode(data, RouteDocument) == route
    path = objects / digest_of(data)
"""

from __future__ import annotations

import hashlib
from typing import Literal, TypeVar

import msgspec

_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every compiled document: immutable, strict, without floats."""


class PriceDocument(Document, frozen=True):
    """What a call of one version costs, in billionths of the model's currency."""

    per_call_nano: int = 0
    per_1000_input_tokens_nano: int = 0
    per_1000_output_tokens_nano: int = 0


class VersionDocument(Document, frozen=True):
    """One version of a model and where it answers."""

    name: str
    upstreams: tuple[str, ...]
    """Origins, `http://host:port[/prefix]`, without a trailing slash."""
    digest: str
    """Declared digest of the artifact, `sha256:<hex>`."""
    stage: str
    submitted_by: str | None = None
    """Person who handed the version in; never counts among its approvers."""
    price: PriceDocument | None = None
    """Its own prices or the model's; None where its calls have none."""


class FieldDocument(Document, frozen=True):
    """What one input of the schema contract may be."""

    type: Literal["number", "integer", "string", "boolean"]
    min: str | None = None
    """Decimal number as text: documents hold no floats."""
    max: str | None = None
    allowed: tuple[str, ...] = ()
    unit: str | None = None
    required: bool = True
    nullable: bool = False


class VaultDocument(Document, frozen=True):
    """What of a call goes into the vault: JSON pointer -> rule (`gateway/capture.py`), and for how long."""

    retention_us: int
    request: dict[str, str] = {}
    reply: dict[str, str] = {}
    context: dict[str, str] = {}


class CaptureDocument(Document, frozen=True):
    """What is read from a call for records and evaluation. Pointers are RFC 6901."""

    features: tuple[str, ...] = ()
    prediction: str | None = None
    classes: tuple[str, ...] = ()
    """What a prediction may be, as declared; those that are no names are recorded under one (`experiments.wording.recorded_form`)."""
    score: str | None = None
    vault: VaultDocument | None = None
    """What goes into the vault of every call."""
    vault_tenants: dict[str, VaultDocument] = {}
    """What goes there instead, of the calls of these tenants."""
    input_tokens: str | None = None
    output_tokens: str | None = None
    """Where a reply counts its tokens."""


class RouteDocument(Document, frozen=True):
    """One file of `config/models/`."""

    model: str
    protocol: Literal["v2", "http"]
    owner: str
    risk: Literal["low", "medium", "high"]
    intended_use: str
    unit_pointer: str | None
    """RFC 6901 pointer into the request body to the unit, or None."""
    versions: dict[str, VersionDocument]
    default_version: str
    balance: Literal["round_robin", "least_pending"]
    inputs: dict[str, FieldDocument]
    """Schema contract; empty = no contract."""
    unknown_inputs: Literal["reject", "allow"]
    capture: CaptureDocument
    labels_observed_when: str | None
    audit: Literal["batch", "sync", "async"]
    on_audit_unavailable: Literal["deny", "degrade"]
    idempotent: bool
    expose_arm: bool
    deadline_us: int
    retries: int
    max_rows: int
    """Rows a call may carry; the shipped limits policy refuses more."""
    rate_per_s: int
    """Calls a second and key; 0 = unlimited."""
    serves: dict[str, tuple[str, ...]] = {}
    """Protocol `http`: pattern of a path -> methods (`gateway/protocols/http.py`)."""
    slo_availability_ppm: int | None = None
    slo_p99_us: int | None = None
    currency: str = ""
    """Of the versions' prices; empty where calls have none."""


class PolicyServerDocument(Document, frozen=True):
    """The OPA servers that are asked, instead of our engine or beside it."""

    engine: Literal["opa", "both"]
    addresses: tuple[str, ...]
    """`http://host:port`; they have the same policies and are asked in turn."""
    timeout_us: int
    bundle: str | None = None
    """Name of the bundle the servers load by themselves; None where the gateway publishes to them."""
    token: str | None = None
    """Bearer token by reference, `file:PATH` or `env:NAME`."""
    certificate: str | None = None
    authority: str | None = None
    """Paths of PEM files, for https."""
    on_failure: dict[str, Literal["closed", "native"]] = {}
    """Fail mode by decision point; `closed` where a point is not named."""


class SettingsDocument(Document, frozen=True):
    """The parts of `gateway.yaml` that may change while running."""

    environment: Literal["development", "staging", "production"]
    body_limit_bytes: int
    staleness_default_us: int
    staleness_high_risk_us: int
    modes: dict[str, Literal["enforce", "warn", "dryrun", "off"]]
    """Mode of each policy package."""
    policy_budget_us: int = 5_000
    """Processor time that all policies of one call may use together."""
    policy_server: PolicyServerDocument | None = None
    """None: our engine decides alone."""
    feedback_metrics: tuple[str, ...] = ()
    """Metrics that `experiments/_metrics.yaml` takes from feedback, sorted; where there is one, feedback names one of them."""

    @property
    def engine(self) -> Literal["native", "opa", "both"]:
        """Return which engine decides."""
        return "native" if self.policy_server is None else self.policy_server.engine


class Manifest(Document, frozen=True):
    """One configuration: the digests of everything in force. Its own SHA-256 is the `config_digest` of records.

    Every digest is 64 hex digits, the name of the object's file.
    """

    settings: str
    models: dict[str, str]
    """Name of each model -> digest of its `RouteDocument`."""
    experiments: dict[str, str]
    """Name of each experiment -> digest of its document (`experiments/document.py`)."""
    policies: dict[str, str]
    """Path of each policy module (`policies/credit.rego`) -> digest of its text; tests (`*_test.rego`) are not in force and not here."""


_encoder = msgspec.json.Encoder(order="sorted")


def encode(document: msgspec.Struct) -> bytes:
    """Return the canonical bytes of a document (RFC 8785: sorted keys, no white space, no floats)."""
    return _encoder.encode(document)


def decode(data: bytes, kind: type[_Kind]) -> _Kind:
    """Return the document in `data`.

    Raises:
        ValueError: the bytes are not the canonical bytes of a `kind` (`msgspec.ValidationError` says which field).
    """
    document = msgspec.json.decode(data, type=kind)
    if encode(document) != data:
        raise ValueError(f"stored {kind.__name__} is not in canonical form: it was written by something else")
    return document


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of an object's bytes as 64 hex digits: its name under `data/control/objects/`."""
    return hashlib.sha256(data).hexdigest()
