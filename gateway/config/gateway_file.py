"""`gateway.yaml`: who listens where, what the log is signed with, how old state may be.

What may change while the gateway runs compiles into a `SettingsDocument`; the rest (listeners, store, keys) is read once at start by the parent
process from `GatewayFile` itself. Every key is documented in `docs/configuration.md` and taught in `config/gateway.yaml`; a test compares the three.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from audit.keys import COSIGNATURE_V1, InvalidKey, VerifierKey
from gateway.config.names import Bind, Name, Origin, SecretReference, SignerReference, Store
from gateway.config.quantities import Duration, Size
from gateway.documents import PolicyServerDocument, SettingsDocument
from policies.opa.server import Server

Mode = Literal["enforce", "warn", "dryrun", "off"]


class FileModel(BaseModel):
    """Base of every mapping in a file: unknown keys are errors, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=False, protected_namespaces=())


class Front(FileModel):
    """The front door, where products call models."""

    bind: Bind = Field(default="127.0.0.1:8080", description="Where the front door listens, `address:port`. Changed by a restart.")
    workers: int = Field(default=2, ge=1, le=64, description="Worker processes; one a core. Changed by a restart.")
    body_limit: Size = Field(default=10 * 1024 * 1024, description="Longest request body; more is a 413.")


class Admin(FileModel):
    """The admin port: console, API, metrics, the log."""

    bind: Bind = Field(default="127.0.0.1:8081", description="Where the admin port listens, `address:port`. Changed by a restart.")


def _witness_key(value: str) -> str:
    try:
        key = VerifierKey.parse(value)
    except InvalidKey as error:
        raise ValueError(f"{error}; write the key the witness prints, `name+keyid+base64`") from error
    if key.kind != COSIGNATURE_V1:
        raise ValueError(f"the key of `{key.name}` is a log's, not a witness's; `assay audit witness` prints a witness's")
    return str(key)


WitnessKey = Annotated[str, AfterValidator(_witness_key)]
"""The verification key of a witness, as text."""


class Witness(FileModel):
    """Somebody else who remembers the log's heads (https://c2sp.org/tlog-witness)."""

    url: Origin = Field(description="Where it takes checkpoints: `/add-checkpoint` is put behind it. Changed by a restart.")
    key: WitnessKey = Field(description="Its verification key; only its own cosignature counts. Changed by a restart.")


def _log_key(value: str) -> str:
    try:
        key = VerifierKey.parse(value)
    except InvalidKey as error:
        raise ValueError(f"{error}; write the verification key, `name+keyid+base64`") from error
    if key.kind == COSIGNATURE_V1:
        raise ValueError(f"the key of `{key.name}` is a witness's, not a log's")
    return str(key)


class Revoked(FileModel):
    """A key of the log that was stolen, lost or leaked."""

    key: Annotated[str, AfterValidator(_log_key)] = Field(description="Its verification key. Changed by a restart.")
    until: int = Field(ge=0, lt=2**53, description="The last size of the log that it is believed for. Changed by a restart.")


class Push(FileModel):
    """Where each signed checkpoint is put as well: a network or write-once mount, or a folder that something ships."""

    directory: str = Field(min_length=1, description="The folder; relative to the one that holds `config/`. Changed by a restart.")
    keep: bool = Field(default=False, description="Keep every checkpoint under its size, not only the latest. Changed by a restart.")


class Follows(FileModel):
    """The log before this one, which could not be gone on with: a restored copy, a lost key."""

    checkpoint: str = Field(
        min_length=1, description="File of its last known signed head; relative to the one that holds `config/`. Read at the start."
    )
    key: Annotated[str, AfterValidator(_log_key)] = Field(description="Its verification key, which signed that head.")


class Audit(FileModel):
    """The signed log."""

    origin: str = Field(
        pattern=r"^[!-*,-~]{1,255}$",
        description="Name of the log in its checkpoints: no spaces, no `+`. Never changed once records exist: it is what verifiers pin.",
    )
    key: SignerReference = Field(description="The log's signing key, by reference, or a command that signs; a file must be mode 0600.")
    previous: SignerReference | None = Field(
        default=None, description="The key before `key`: while it stands here both sign, so that verifiers can change over. Changed by a restart."
    )
    revoked: list[Revoked] = Field(default_factory=list, max_length=64, description="Keys of this log that are not to be believed any more.")
    follows: Follows | None = Field(
        default=None, description="The log that this one follows: its head goes into the new log's first records. Only for a log without records."
    )
    push: Push | None = Field(default=None, description="Another place that gets every signed checkpoint.")
    checkpoint: Duration = Field(default=1_000_000, ge=100_000, le=60_000_000, description="A new signed checkpoint at most this often.")
    heartbeat: Duration = Field(default=10_000_000, ge=1_000_000, le=3_600_000_000, description="An idle log gets a heartbeat record this often.")
    receipt_key: Duration = Field(
        default=30 * 86_400_000_000,
        ge=60_000_000,
        le=400 * 86_400_000_000,
        description="How long a key for receipts signs before the controller makes the next one. Changed by a restart.",
    )
    hot_ranges: int = Field(
        default=2,
        ge=1,
        le=10_000,
        description="Full ranges (65,536 records) that stay in their databases; older ones become verified entry files, their databases go.",
    )
    witnesses: list[Witness] = Field(
        default_factory=list,
        max_length=8,
        description="Who is asked to cosign every checkpoint, at most 8. One that does not answer holds nothing up.",
    )

    @field_validator("witnesses")
    @classmethod
    def _distinct(cls, value: list[Witness]) -> list[Witness]:
        if len({VerifierKey.parse(one.key).name for one in value}) != len(value):
            raise ValueError("two witnesses have one name; each is told apart by the name in its key")
        return value


class Postgres(FileModel):
    """The database of a log that several gateways share."""

    connection: SecretReference = Field(
        description="libpq connection string (`postgresql://user:password@host/db`), by reference; a file must be mode 0600. Changed by a restart."
    )
    key: SecretReference | None = Field(
        default=None,
        description="The key the nodes share, by reference; a file must be mode 0600. With it every node serves, and a unit has one pseudonym on "
        "all; without it one node serves and the others stand by. Changed by a restart.",
    )


class Vault(FileModel):
    """Where captured fields and the salts of commitments are kept, encrypted, until they end or are erased."""

    key: SecretReference = Field(
        description="The master key that wraps the key of every subject, by reference; a file must be mode 0600. Changed by a restart."
    )
    previous: SecretReference | None = Field(
        default=None, description="The master key before `key`: what it wrapped is wrapped anew at the next start. Changed by a restart."
    )
    erase_people: int = Field(
        default=0,
        ge=0,
        le=5,
        description="How many people sign before a subject is erased; 0: a key with the scope `subject:erase` is enough. Changed by a restart.",
    )


class Keys(FileModel):
    """API keys of callers."""

    file: str = Field(default="keys/api-keys.json", min_length=1, description="The file `assay key create` writes; mode 0600.")


class Staleness(FileModel):
    """How old the published state may be before calls are refused with 503 `state_stale`."""

    default: Duration = Field(default=10_000_000, ge=500_000, le=600_000_000, description="For models of low and medium risk.")
    high_risk: Duration = Field(default=1_000_000, ge=500_000, le=600_000_000, description="For models of high risk.")


FailMode = Literal["closed", "native"]


class OnFailure(FileModel):
    """What each decision point does where no server answers."""

    config: FailMode = Field(default="closed", description="A configuration is read: closed keeps the one in force, native asks our engine alone.")
    request: FailMode = Field(default="closed", description="A call comes in: closed refuses it, native lets our engine decide, with a warning.")
    response: FailMode = Field(default="closed", description="A reply is to leave: closed refuses it, native lets our engine decide, with a warning.")


def _server_address(value: str) -> str:
    Server(value)
    return value


ServerAddress = Annotated[Origin, AfterValidator(_server_address)]
"""Where an OPA server is."""


class PolicyServerFile(FileModel):
    """OPA servers that hold the policies in force."""

    addresses: list[ServerAddress] = Field(
        min_length=1, max_length=8, description="Where OPA servers answer, `http://host:port`; all hold the same policies and are asked in turn."
    )
    timeout: Duration = Field(default=50_000, ge=1_000, le=5_000_000, description="Time an answer may take; then the fail mode decides.")
    bundle: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Name of the bundle that the servers load by themselves (`assay policy publish --archive`). Without it the gateway publishes.",
    )
    token: SecretReference | None = Field(default=None, description="Bearer token of the servers, by reference; read when it is put in force.")
    certificate: str | None = Field(default=None, min_length=1, description="PEM file with the gateway's certificate and key, for https.")
    authority: str | None = Field(default=None, min_length=1, description="PEM file with who vouches for the servers; without it the system's.")
    on_failure: OnFailure = Field(default_factory=OnFailure, description="What each decision point does where no server answers.")

    @model_validator(mode="after")
    def _no_secret_in_the_clear(self) -> Self:
        if self.token is not None:
            for url in self.addresses:
                Server(url, token="-")  # noqa: S106 - any one: it is about the address
        return self


class Policies(FileModel):
    """Who evaluates the policies."""

    engine: Literal["native", "opa", "both"] = Field(
        default="native", description="native: our engine, in the gateway. opa: an OPA server. both: each is asked, and a difference denies."
    )
    budget: Duration = Field(
        default=5_000, ge=1_000, le=1_000_000, description="Processor time that all policies of one call may use together; what needs more refuses."
    )
    server: PolicyServerFile | None = Field(default=None, description="The OPA servers; with the engines opa and both.")

    @model_validator(mode="after")
    def _server_where_asked(self) -> Self:
        if (self.engine == "native") != (self.server is None):
            wrong = "`server` is given and never asked" if self.server else "no `server` is given"
            raise ValueError(f"engine `{self.engine}`: {wrong}; write `engine: opa` or `both` with `server`, or neither")
        return self


class GatewayFile(FileModel):
    """`gateway.yaml`."""

    environment: Literal["development", "staging", "production"] = Field(
        description="Which environment this is; approvals name the environments they hold in."
    )
    front: Front = Field(default_factory=Front, description="The front door.")
    admin: Admin = Field(default_factory=Admin, description="The admin port.")
    store: Store = Field(
        default="sqlite:data/",
        description="Where log and state are kept: `sqlite:DIRECTORY`, or `postgres:DIRECTORY` for a log in PostgreSQL. Changed by a restart.",
    )
    postgres: Postgres | None = Field(default=None, description="The database of a shared log; only with a `postgres:` store.")
    audit: Audit = Field(description="The signed log.")
    vault: Vault | None = Field(default=None, description="The vault of captured fields; without it no model may capture. Changed by a restart.")
    keys: Keys = Field(default_factory=Keys, description="API keys of callers.")
    policies: Policies = Field(default_factory=Policies, description="Who evaluates the policies.")
    staleness: Staleness = Field(default_factory=Staleness, description="How old published state may be.")

    @model_validator(mode="after")
    def _database_where_named(self) -> Self:
        if (self.store.partition(":")[0] == "postgres") != (self.postgres is not None):
            raise ValueError("`store: postgres:DIRECTORY` and `postgres.connection` go together; one is here without the other")
        return self

    @property
    def store_directory(self) -> str:
        """Return the directory of the store, relative to the folder that holds `config/`."""
        return self.store.partition(":")[2]


class ModesFile(FileModel):
    """`policies/modes.yaml`."""

    modes: dict[Name, Mode] = Field(
        default_factory=dict, description="Mode of each policy package: enforce, warn (tell), dryrun (record only), off. Default: enforce."
    )


def compile_settings(file: GatewayFile, modes: Mapping[str, Mode], feedback_metrics: Iterable[str] = ()) -> SettingsDocument:
    """Return what every worker follows: the part of `gateway.yaml` that may change while running, modes of policies, metrics of feedback."""
    return SettingsDocument(
        environment=file.environment,
        body_limit_bytes=file.front.body_limit,
        staleness_default_us=file.staleness.default,
        staleness_high_risk_us=file.staleness.high_risk,
        modes=dict(modes),
        policy_budget_us=file.policies.budget,
        policy_server=_compile_server(file.policies),
        feedback_metrics=tuple(sorted(feedback_metrics)),
    )


def _compile_server(policies: Policies) -> PolicyServerDocument | None:
    server = policies.server
    if server is None or policies.engine == "native":
        return None
    modes = server.on_failure
    chosen: dict[str, FailMode] = {"config": modes.config, "request": modes.request, "response": modes.response}
    return PolicyServerDocument(
        engine=policies.engine,
        addresses=tuple(server.addresses),
        timeout_us=server.timeout,
        bundle=server.bundle,
        token=server.token,
        certificate=server.certificate,
        authority=server.authority,
        on_failure={point: mode for point, mode in chosen.items() if mode != "closed"},
    )
