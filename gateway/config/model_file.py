"""`models/<model>.yaml`: one route. Which versions answer where, what a call must look like, what is kept of it.

Every key is documented in `docs/configuration.md` and taught in `config/models/`; a test compares the three.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from experiments.quantities import Price
from experiments.wording import recorded_form
from gateway.capture import RULE, inside
from gateway.config.gateway_file import FileModel
from gateway.config.issues import KeyPath, allowed, nearest
from gateway.config.names import Digest, InputName, Name, NumberText, Origin, Pointer, ServedPath, Text
from gateway.config.quantities import Duration, Rate, Share
from gateway.documents import CaptureDocument, FieldDocument, PriceDocument, RouteDocument, VaultDocument, VersionDocument

Method = Literal["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
Found = list[tuple[KeyPath, str]]
"""Key path and message of what is wrong inside one file."""


class Unit(FileModel):
    """Where the unit (the person or thing an experiment assigns) is read from."""

    json_pointer: Pointer = Field(alias="json", description="JSON pointer into the request body.")


class Prices(FileModel):
    """What a call of one version costs, in the currency under `cost`; what is left out is 0."""

    per_call: Price | None = Field(default=None, description="Price of a call that was answered (status 200).")
    per_1000_input_tokens: Price | None = Field(default=None, description="Price of 1,000 input tokens; needs `capture.usage.input_tokens`.")
    per_1000_output_tokens: Price | None = Field(default=None, description="Price of 1,000 output tokens; needs `capture.usage.output_tokens`.")


def _currency(value: str) -> str:
    if re.fullmatch(r"[A-Z]{3}", value) is None:
        raise ValueError(f"`{value}` is not a currency; write its three capital letters (ISO 4217): EUR")
    return value


Currency = Annotated[str, AfterValidator(_currency), WithJsonSchema({"type": "string", "pattern": "^[A-Z]{3}$", "examples": ["EUR"]})]
"""ISO 4217."""


class Cost(Prices):
    """What a call costs, for records, metrics and budgets."""

    currency: Currency = Field(description="Three letters (ISO 4217), for example EUR.")


class VersionEntry(FileModel):
    """One version of the model."""

    upstreams: list[Origin] = Field(min_length=1, max_length=64, description="Where it answers; several are replicas of one another.")
    digest: Digest = Field(description="Declared SHA-256 of the artifact; approvals bind it.")
    stage: Literal["candidate", "production", "retired"] = Field(
        default="candidate", description="Where the version is in its life: candidate, production, retired."
    )
    submitted_by: Name | None = Field(default=None, description="Person who handed it in; never counts among its approvers.")
    cost: Prices | None = Field(default=None, description="Its own prices, instead of all those under `cost`.")


class InputEntry(FileModel):
    """What one input may be."""

    type: Literal["number", "integer", "string", "boolean"] = Field(description="Type of the value.")
    min: NumberText | None = Field(default=None, description="Smallest value allowed (numbers).")
    max: NumberText | None = Field(default=None, description="Largest value allowed (numbers).")
    allowed: list[str] = Field(default_factory=list, max_length=1000, description="The only values allowed (strings).")
    unit: Text | None = Field(default=None, description="Unit, for people and reports (`EUR/year`).")
    required: bool = Field(default=True, description="Whether it must be there.")
    nullable: bool = Field(default=False, description="Whether it may be null.")


class Contract(FileModel):
    """The schema contract: calls that break it get a 422 and never reach the model."""

    inputs: dict[InputName, InputEntry] = Field(min_length=1, description="Each input and what it may be.")
    unknown: Literal["reject", "allow"] = Field(default="reject", description="What to do with an input that is not listed.")


def _rule(value: str) -> str:
    if RULE.fullmatch(value) is None:
        raise ValueError(f"`{value}` is not a rule; allowed: keep, drop, hash, mask, truncate:N (1 to 9999)")
    return value


CaptureRule = Annotated[str, AfterValidator(_rule), WithJsonSchema({"type": "string", "pattern": f"^({RULE.pattern[:-2]})$"})]
"""What becomes of a captured field."""
CaptureRules = Annotated[dict[Pointer, CaptureRule], Field(max_length=200)]


class Captured(FileModel):
    """What of a call goes into the vault, and for how long."""

    retention: Duration = Field(
        ge=3_600_000_000, le=10 * 365 * 86_400_000_000, description="How long it is kept, 1h to 3650d; then it is deleted, and the deletion recorded."
    )
    request: CaptureRules = Field(
        default_factory=dict, description="JSON pointers into the request's body -> rule: keep, drop, hash, mask, truncate:N."
    )
    reply: CaptureRules = Field(default_factory=dict, description="JSON pointers into the reply's body -> rule. The reply is then read whole.")
    context: CaptureRules = Field(default_factory=dict, description="JSON pointers into Assay-Context (`/country`, and `/tenant`) -> rule.")


class CapturedByTenant(Captured):
    """What goes into the vault, with what goes there instead for some tenants."""

    tenants: dict[Name, Captured] = Field(
        default_factory=dict, max_length=1000, description="Tenants whose calls are captured by other rules: these instead of the ones above."
    )


class UsagePlaces(FileModel):
    """Where a reply says what it consumed."""

    input_tokens: Pointer | None = Field(
        default=None, description="JSON pointer into the reply to its input tokens, for example /usage/prompt_tokens."
    )
    output_tokens: Pointer | None = Field(default=None, description="JSON pointer into the reply to its output tokens.")


MOST_CLASSES: Final = 10_000
MOST_CLASS: Final = 256
"""Characters of a class."""


class Capture(FileModel):
    """What is read from a call for records and evaluation."""

    prediction: Pointer | None = Field(default=None, description="JSON pointer into the reply to the predicted class.")
    classes: Annotated[list[Annotated[str, Field(min_length=1, max_length=MOST_CLASS)]], Field(max_length=MOST_CLASSES)] = Field(
        default_factory=list, description="Classes of the model whose words are no names (`golden retriever`): only what stands here is recorded."
    )
    score: Pointer | None = Field(default=None, description="JSON pointer into the reply to the score, 0 to 1.")
    usage: UsagePlaces | None = Field(default=None, description="Where a reply counts its tokens; a reply that does not is counted as unread.")
    vault: CapturedByTenant | None = Field(
        default=None, description="What of a call goes into the vault, encrypted and erasable; needs `vault` in gateway.yaml. Default: nothing."
    )


class Labels(FileModel):
    """What is known of late labels."""

    observed_when: Text = Field(
        description="Condition under which a label is ever seen (`prediction == 1`); reports then say what is not identified."
    )


class Limits(FileModel):
    """Limits of one call and of one key."""

    max_rows: int = Field(default=1000, ge=1, le=1_000_000, description="Rows one call may carry.")
    rate: Rate = Field(default=0, description="Calls a second and API key; 0 = unlimited.")


class Slo(FileModel):
    """What was promised to callers; reports compare with it."""

    availability: Share | None = Field(default=None, description="Share of calls answered.")
    p99: Duration | None = Field(default=None, description="Latency that 99 of 100 calls stay under.")


class ModelFile(FileModel):
    """`models/<model>.yaml`."""

    model: Name = Field(description="Name of the model; callers and experiments use it. One file a model.")
    protocol: Literal["v2", "http"] = Field(description="v2: Open Inference Protocol, JSON. http: any HTTP under /http/MODEL/.")
    serves: dict[ServedPath, Annotated[list[Method], Field(min_length=1)]] | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="Protocol http: paths callers may reach -> methods; `*` one segment, `**` at the end the rest. Anything else is a 404 or 405.",
    )
    owner: Name = Field(description="Team that answers for the model.")
    intended_use: Text = Field(description="What it is for, in words. Approvals bind these words: changing them needs new approvals.")
    risk: Literal["low", "medium", "high"] = Field(description="Risk class; it sets how many people must approve.")
    unit: Unit | None = Field(default=None, description="Where the unit is read from when the caller sends no Assay-Unit.")
    versions: Annotated[dict[Name, VersionEntry], Field(min_length=1, max_length=1000)] = Field(description="Versions by name; quote numbers.")
    default_version: str = Field(description="Version that serves outside experiments, and instead of an arm that may not serve.")
    balance: Literal["round_robin", "least_pending"] = Field(default="least_pending", description="How a replica is chosen.")
    contract: Contract | None = Field(default=None, alias="schema", description="Schema contract of the inputs (protocol v2).")
    capture: Capture = Field(default_factory=Capture, description="What is kept of a call for evaluation.")
    labels: Labels | None = Field(default=None, description="What is known of late labels.")
    audit: Literal["batch", "sync", "async"] = Field(
        default="batch", description="batch: the reply waits for the log within 50 ms. sync: the record is first. async: telemetry only, may be lost."
    )
    on_audit_unavailable: Literal["deny", "degrade"] = Field(
        default="deny", description="What to do when the log cannot be written: refuse calls, or serve and state the gap."
    )
    idempotent: bool = Field(default=False, description="Whether a call that may have reached the model may be sent again.")
    expose_arm: bool = Field(default=False, description="Whether replies carry Assay-Arm.")
    deadline: Duration = Field(default=30_000_000, ge=1_000, le=3_600_000_000, description="Time in which the complete reply must have arrived.")
    retries: int = Field(default=1, ge=0, le=5, description="Times a failed call is sent again, where that is safe.")
    limits: Limits = Field(default_factory=Limits, description="Limits of a call and of a key.")
    slo: Slo = Field(default_factory=Slo, description="What was promised to callers.")
    cost: Cost | None = Field(default=None, description="What a call costs.")


def check_model(file: ModelFile, stem: str) -> Found:
    """Return what is wrong with a model file beyond the type of each key.

    Args:
        file: the file as read.
        stem: name of the file without `.yaml`.
    """
    found: Found = []
    if file.model != stem:
        found.append((("model",), f"`{file.model}` must be the name of its file: rename the file to `{file.model}.yaml`, or say `model: {stem}`"))
    if file.default_version not in file.versions:
        message = f"`{file.default_version}` is not a version of this model; {allowed(file.versions)}{nearest(file.default_version, file.versions)}"
        found.append((("default_version",), message))
    elif file.versions[file.default_version].stage == "retired":
        found.append((("default_version",), f"version `{file.default_version}` is retired and cannot serve"))
    for name, version in file.versions.items():
        seen: set[str] = set()
        for position, origin in enumerate(version.upstreams):
            if origin in seen:
                found.append((("versions", name, "upstreams", position), f"`{origin}` is listed twice"))
            seen.add(origin)
    found += _check_serves(file)
    found += _check_inputs(file)
    found += _check_classes(file)
    found += _check_captured(file)
    found += _check_cost(file)
    if file.audit == "async" and file.risk != "low":
        found.append((("audit",), f"`async` may lose records and is for low risk only; risk is `{file.risk}`; allowed: batch, sync"))
    if file.on_audit_unavailable == "degrade" and file.risk == "high":
        found.append((("on_audit_unavailable",), "a model of high risk is not served without a record; allowed: deny"))
    return found


def _check_serves(file: ModelFile) -> Found:
    if file.protocol == "http" and file.serves is None:
        return [(("protocol",), "an `http` model says which paths it serves; hint: `serves: {/score: [POST]}`")]
    if file.protocol != "http" and file.serves is not None:
        return [(("serves",), f"is for `protocol: http`; `{file.protocol}` has paths of its own")]
    return []


def _check_inputs(file: ModelFile) -> Found:
    if file.contract is None:
        return []
    found: Found = []
    if file.protocol != "v2":
        found.append((("schema",), "a schema contract needs `protocol: v2`: the body of an `http` route is not read"))
    for name, entry in file.contract.inputs.items():
        found += [(("schema", "inputs", name, *key), message) for key, message in _check_input(entry)]
    return found


def _check_classes(file: ModelFile) -> Found:
    """Find classes that would be told apart by nobody: twice, unprintable, or recorded under one name."""
    found: Found = []
    recorded: dict[str, str] = {}
    if file.capture.classes and file.capture.prediction is None:
        found.append((("capture", "classes"), "says what a prediction may be, and none is read; hint: `capture.prediction` says where it stands"))
    for at, text in enumerate(file.capture.classes):
        where: KeyPath = ("capture", "classes", at)
        form = recorded_form(text)
        if not text.isprintable():
            found.append((where, f"`{ascii(text)[1:-1]}` holds a sign that cannot be printed"))
        elif recorded.get(form) == text:
            found.append((where, f"`{text}` is there twice"))
        elif form in recorded:
            found.append((where, f"`{text}` would be recorded as `{form}`, as `{recorded[form]}` is; hint: rename one of them"))
        recorded.setdefault(form, text)
    return found


def _check_captured(file: ModelFile) -> Found:
    """Find rules that could never be applied, because the one around them leaves nothing to apply them to."""
    if file.capture.vault is None:
        return []
    found: Found = []
    plans: list[tuple[KeyPath, Captured]] = [(("capture", "vault"), file.capture.vault)]
    plans += [(("capture", "vault", "tenants", tenant), plan) for tenant, plan in file.capture.vault.tenants.items()]
    for where, plan in plans:
        for source, rules in (("request", plan.request), ("reply", plan.reply), ("context", plan.context)):
            for pointer in rules:
                around = inside(pointer, rules)
                if around is not None and rules[around] != "keep":
                    message = f"lies inside `{around}`, whose rule `{rules[around]}` leaves nothing to refine; only `keep` does"
                    found.append(((*where, source, pointer), message))
                elif around is None and rules[pointer] == "drop":
                    found.append(((*where, source, pointer), "`drop` takes a part out of what another pointer keeps, and none does: leave it out"))
    return found


def _check_cost(file: ModelFile) -> Found:
    """Find prices of what is not counted, versions without a price beside others that have one, and prices without a currency."""
    usage = file.capture.usage
    counted = set() if usage is None else usage.model_dump(exclude_none=True).keys()
    found: Found = []
    if usage is not None and not counted:
        found.append((("capture", "usage"), "names neither `input_tokens` nor `output_tokens`"))
    lists: list[tuple[KeyPath, Prices]] = [] if file.cost is None else [(("cost",), file.cost)]
    lists += [(("versions", name, "cost"), entry.cost) for name, entry in file.versions.items() if entry.cost is not None]
    for where, prices in lists:
        for kind in ("input_tokens", "output_tokens"):
            if getattr(prices, f"per_1000_{kind}") is not None and kind not in counted:
                message = f"has a price and is not counted; hint: say under `capture.usage.{kind}` where the reply counts them"
                found.append(((*where, f"per_1000_{kind}"), message))
        if where != ("cost",) and not _names_a_price(prices):
            found.append((where, "names no price; hint: `per_call: 0` for what costs nothing"))
        if file.cost is None:
            found.append((where, "has prices and no currency; hint: `cost: {currency: EUR}` at the top of the file"))
    if file.cost is not None and not _names_a_price(file.cost):
        unpriced = [name for name, entry in file.versions.items() if entry.cost is None]
        if unpriced:
            found.append((("cost",), f"names no price, and version `{unpriced[0]}` has none of its own; hint: `per_call: 0` for what costs nothing"))
    return found


def _names_a_price(prices: Prices) -> bool:
    return any(price is not None for price in (prices.per_call, prices.per_1000_input_tokens, prices.per_1000_output_tokens))


def _price(file: ModelFile, entry: VersionEntry) -> PriceDocument | None:
    prices = entry.cost or file.cost
    if prices is None:
        return None
    return PriceDocument(
        per_call_nano=prices.per_call or 0,
        per_1000_input_tokens_nano=prices.per_1000_input_tokens or 0,
        per_1000_output_tokens_nano=prices.per_1000_output_tokens or 0,
    )


def _check_input(entry: InputEntry) -> Found:
    numeric = entry.type in {"number", "integer"}
    bounded = [bound for bound, value in (("min", entry.min), ("max", entry.max)) if value is not None]
    found: Found = [((bound,), f"a {entry.type} has no `{bound}`; only number and integer have") for bound in bounded if not numeric]
    if entry.allowed and entry.type != "string":
        found.append((("allowed",), f"a list of values is for `type: string`; bound a {entry.type} with `min` and `max`"))
    if numeric and entry.min is not None and entry.max is not None and Decimal(entry.min) > Decimal(entry.max):
        found.append((("min",), f"`{entry.min}` is more than max `{entry.max}`: no call could ever pass"))
    return found


def compile_model(file: ModelFile) -> RouteDocument:
    """Return the compiled document of a model file that has no issues."""
    return RouteDocument(
        model=file.model,
        protocol=file.protocol,
        owner=file.owner,
        risk=file.risk,
        intended_use=file.intended_use,
        unit_pointer=file.unit.json_pointer if file.unit else None,
        versions={
            name: VersionDocument(
                name=name,
                upstreams=tuple(entry.upstreams),
                digest=entry.digest,
                stage=entry.stage,
                submitted_by=entry.submitted_by,
                price=_price(file, entry),
            )
            for name, entry in file.versions.items()
        },
        default_version=file.default_version,
        balance=file.balance,
        inputs={name: _field(entry) for name, entry in file.contract.inputs.items()} if file.contract else {},
        unknown_inputs=file.contract.unknown if file.contract else "allow",
        capture=_capture(file.capture),
        labels_observed_when=file.labels.observed_when if file.labels else None,
        audit=file.audit,
        on_audit_unavailable=file.on_audit_unavailable,
        idempotent=file.idempotent,
        expose_arm=file.expose_arm,
        deadline_us=file.deadline,
        retries=file.retries,
        max_rows=file.limits.max_rows,
        rate_per_s=file.limits.rate,
        serves={path: tuple(sorted(set(methods))) for path, methods in (file.serves or {}).items()},
        slo_availability_ppm=file.slo.availability,
        slo_p99_us=file.slo.p99,
        currency=file.cost.currency if file.cost else "",
    )


def _capture(capture: Capture) -> CaptureDocument:
    plan = capture.vault
    return CaptureDocument(
        prediction=capture.prediction,
        classes=tuple(capture.classes),
        score=capture.score,
        input_tokens=capture.usage.input_tokens if capture.usage else None,
        output_tokens=capture.usage.output_tokens if capture.usage else None,
        vault=None if plan is None else _captured(plan),
        vault_tenants={} if plan is None else {tenant: _captured(own) for tenant, own in plan.tenants.items()},
    )


def _captured(plan: Captured) -> VaultDocument:
    return VaultDocument(retention_us=plan.retention, request=dict(plan.request), reply=dict(plan.reply), context=dict(plan.context))


def _field(entry: InputEntry) -> FieldDocument:
    return FieldDocument(
        type=entry.type,
        min=entry.min,
        max=entry.max,
        allowed=tuple(entry.allowed),
        unit=entry.unit,
        required=entry.required,
        nullable=entry.nullable,
    )
