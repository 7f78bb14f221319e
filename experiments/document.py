"""Compiled experiments: what the controller publishes by digest, and the live state that goes with each.

`experiments/compiler.py` turns a checked file into an `ExperimentDocument`; stored as canonical JSON, its SHA-256 is its digest. No floats:
shares are integers out of 2**32, times microseconds, probabilities and margins parts per million (ppm). A comment in a file changes no digest, and
no digest is ever hashed into an assignment.

`LiveExperiment` is what moves while the document stands still: epoch, phase, exposure, shares. The controller derives it from the rollout's state
(`experiments/rollout.py:live`), commits it, and workers draw with it.

Example:
    >>> msgspec.json.decode(msgspec.json.encode(document), type=ExperimentDocument) == document
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from experiments.bucketing import Mode
from experiments.shares import WHOLE

Strategy = Literal["ab", "canary", "shadow", "blue_green", "champion_challenger"]
Sticky = Literal["unit", "none"]
DrawMode = Literal[Mode, "external"]
"""Whose draw it is: ours, ours as another system does it, or another system's, which says so with the call."""
OnHarm = Literal["rollback", "hold"]
Phase = Literal["draft", "running", "paused", "promoted", "rolled_back", "stopped", "superseded", "archived"]
"""`experiments/lifecycle.py` says what each means and what leads from one to another."""


MetricType = Literal["proportion", "mean", "count", "ratio", "quantile"]
MetricSource = Literal["feedback", "latency", "errors", "labels", "rows", "bytes_in", "bytes_out", "tokens", "input_tokens", "output_tokens", "cost"]
"""Feedback, or what the records of calls say: the last four where the model's file says how they are read."""
USAGE_SOURCES: frozenset[MetricSource] = frozenset({"tokens", "input_tokens", "output_tokens", "cost"})
"""What a reply may leave out: how often it does is told, and held against an arm that does it more."""
_UNITS: Mapping[MetricSource, tuple[str, str]] = {
    "latency": ("ms", "ms"),
    "rows": ("rows", "row"),
    "bytes_in": ("bytes", "byte"),
    "bytes_out": ("bytes", "byte"),
    "tokens": ("tokens", "token"),
    "input_tokens": ("input tokens", "input token"),
    "output_tokens": ("output tokens", "output token"),
}
"""Unit of a value, and of one below the line of a ratio."""
Missing = Literal["drop", "zero", "refuse"]


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every compiled document: immutable, strict, without floats."""


class StepDocument(Document, frozen=True, kw_only=True):
    """One exposure at which an experiment stays for a while. An `ab` has exactly one."""

    exposure: int
    """Part of the units that is in the comparison, out of 2**32. In a canary twice the challenger's share, at most everyone."""
    shares: dict[str, int]
    """Shares of the arms within the exposed units; they sum to 2**32. Empty where another system assigns and no split was declared."""
    hold_us: int
    """Least time on this step."""
    min_units: int
    """Units each arm must have been seen by before the next step."""
    approve: str | None = None
    """Who must approve before this step is left."""
    tested: bool = True
    """False above 50 %: watched by breakers, not compared (semantics.md 4.6)."""


class MetricDocument(Document, frozen=True, kw_only=True):
    """A guardrail or the goal: what is measured and how much worse the treatment may be."""

    metric: str
    kind: Literal["errors", "diverted", "latency", "label", "reward", "measured"]
    """`reward`: comes as feedback. `measured`: a number of the call itself, see `source`."""
    better: Literal["lower", "higher"]
    quantile_ppm: int | None = None
    """Of `latency` and of the type `quantile`."""
    margin: int
    """In ppm of the rate (`pp`), in ppm of the control's value (`%`), or in microseconds (`ms`)."""
    margin_unit: Literal["pp", "%", "ms"]
    on_harm: OnHarm = "rollback"
    type: MetricType = "proportion"
    """Of `reward` and `measured` (`experiments/observations.py`)."""
    source: MetricSource = "feedback"
    """Where the values of a `reward` or `measured` come from."""
    per: str | None = None
    """Of a `ratio`: the metric below the line."""
    per_source: MetricSource = "feedback"
    """Where that one's values come from."""
    low_ppm: int | None = None
    high_ppm: int | None = None
    """Declared range of a value."""
    window_us: int | None = None
    """How long after the decision a reward may come; only units whose window has closed count."""
    missing: Missing = "drop"
    """What a unit counts as whose window closed without a reward; `refuse`: nothing is judged while there is one."""
    currency: str | msgspec.UnsetType = msgspec.UNSET
    """Of what comes from `cost`; elsewhere left out of the document, whose digest then is what it was before there were costs."""

    seen_when: str | msgspec.UnsetType = msgspec.UNSET
    """Of labels that are only ever seen for some calls: the model's `labels.observed_when`. Elsewhere left out of the document."""

    @property
    def is_identified(self) -> bool:
        """Whether what is counted can tell arms apart at all: not by labels that come for some calls only."""
        return self.seen_when is msgspec.UNSET

    @property
    def reads_usage(self) -> bool:
        """Whether its values stand in a reply, which may leave them out."""
        return self.kind == "measured" and not USAGE_SOURCES.isdisjoint((self.source, self.per_source))

    @property
    def unit(self) -> str:
        """What a value is counted in, for people: `ms`, `tokens`, `EUR per 1,000 calls`; empty where only its owner knows.

        Costs are told for a thousand, so that those of small calls can be read; in millionths of that a call's cost is its billionths.
        """
        if self.kind != "measured" or (self.per is not None and self.per_source == "cost" and self.source == "cost"):
            return ""
        if self.source == "cost":
            below = "calls" if self.per is None else _UNITS[self.per_source][0] if self.per_source in _UNITS else f"`{self.per}`"
            return f"{self.currency or 'currency'} per 1,000 {below}"
        unit, _ = _UNITS.get(self.source, ("", ""))
        if self.per is None:
            return unit
        below = f"0.001 {self.currency or 'currency'}" if self.per_source == "cost" else _UNITS.get(self.per_source, ("", f"`{self.per}`"))[1]
        return f"{unit or f'`{self.metric}`'} per {below}"

    @property
    def counts_good_events(self) -> bool:
        """Whether the events counted are the good ones: of a quantile it is the rarer side of the threshold that is counted."""
        return self.type == "quantile" and self.kind != "latency" and self.counts_above == (self.better == "higher")

    @property
    def counts_above(self) -> bool:
        """Whether a quantile's events are the values above its threshold, rather than those below."""
        return self.kind == "latency" or (self.quantile_ppm or 0) >= 500_000


class BreakerDocument(Document, frozen=True, kw_only=True):
    """An absolute limit beside the statistics: any arm but the control failing more often than this trips it."""

    above_ppm: int
    window_us: int
    min_calls: int
    action: OnHarm


class LayerDocument(Document, frozen=True, kw_only=True):
    """The fixed slots this experiment owns in a layer; no other experiment of the layer has them."""

    name: str
    salt: str
    slots: int
    first: int
    last: int
    """Inclusive."""


class HoldoutDocument(Document, frozen=True, kw_only=True):
    """Units kept out of every experiment of the model."""

    name: str
    salt: str
    share: int
    version: str
    until: str
    """RFC 3339 date the holdout ends."""
    owner: str


PartKind = Literal["label", "number", "json", "text"]
"""What `experiments/replies.py` compares."""


class PartDocument(Document, frozen=True, kw_only=True, omit_defaults=True):
    """One place of two replies that is compared."""

    name: str
    kind: PartKind
    at: str
    """JSON Pointer (RFC 6901) into both replies; empty for the whole."""
    tolerance_ppm: int = 0
    """Of `number`: of the value's unit, or of the champion's value where `relative`. Of `text`: share of words."""
    relative: bool = False
    max_disagreement_ppm: int
    """Part of the compared calls that may disagree."""


class ShadowDocument(Document, frozen=True, kw_only=True, omit_defaults=True):
    """What a shadow costs at most, and what of its replies is compared."""

    compare: tuple[PartDocument, ...]
    timeout_us: int
    per_second: int
    """Mirrored calls a second, all workers together."""
    per_day: int
    """Mirrored calls a day (UTC), all workers together; 0 = unlimited."""
    cost_per_day_nano: int = 0
    """What mirrored calls may cost a day, all workers together, in billionths of the model's currency; 0 = unlimited."""
    then_start: str | None = None
    """Draft that starts once every limit is proven kept."""
    person: str = ""
    """Who decides, where the champion is a person and not a version (`experiments/people.py`)."""
    decided_within_us: int = 0
    """How long after the call that person's decision may come."""


class RuleDocument(Document, frozen=True, kw_only=True):
    """One rule over an attribute of a call (`experiments/targeting.py`)."""

    attribute: str
    op: Literal["in", "not", "at_least", "below"]
    values: tuple[str, ...] = ()
    """Of `in` and `not`, with their type: `s:CH`, `i:1`, `b:true`."""
    bound: int | None = None
    """Of `at_least` and `below`."""


class ExclusionDocument(Document, frozen=True, kw_only=True):
    """Who takes no part, and under which name that is recorded."""

    name: str
    rules: tuple[RuleDocument, ...]


class BucketingDocument(Document, frozen=True, kw_only=True):
    """What a compatibility mode needs to draw as the other system does (`experiments/ranges.py`)."""

    seed: str
    order: tuple[str, ...]
    """Arms in the order of their ranges."""


class ExternalDocument(Document, frozen=True, kw_only=True):
    """What another system's assignment needs (`experiments/external.py`)."""

    system: str
    """Who assigns, as its owner names it."""
    variants: dict[str, str]
    """What the caller says -> arm."""
    unknown: Literal["refuse", "control"]
    """What becomes of a call that says anything else."""


class ExperimentDocument(Document, frozen=True, kw_only=True):
    """One file of `config/experiments/`, compiled."""

    experiment: str
    strategy: Strategy
    model: str
    owner: str
    hypothesis: str
    arms: dict[str, str]
    """Arm -> version of the model; empty where a person decides."""
    control: str
    """Arm that serves units which are not exposed, and that the others are compared with."""
    sticky: Sticky
    salt: str
    """Derived from the name and the declared seed; committed in `experiment.start`."""
    seed: str
    mode: DrawMode
    steps: tuple[StepDocument, ...]
    guardrails: tuple[MetricDocument, ...]
    goal: MetricDocument | None
    alpha_ppm: int
    alpha_harm_ppm: int
    breaker: BreakerDocument | None
    deadline_us: int | None
    deadline_then: Literal["rollback", "hold", "stop"]
    layer: LayerDocument | None = None
    holdout: HoldoutDocument | None = None
    who: tuple[RuleDocument, ...] = ()
    """All must hold; units they do not hold for are outside the experiment."""
    exclude: tuple[ExclusionDocument, ...] = ()
    """In the order they are tried."""
    segments: dict[str, tuple[str, ...]] = {}
    """Attribute -> values that results are told by."""
    bucketing: BucketingDocument | None = None
    """None in native mode."""
    external: ExternalDocument | None = None
    """Who assigns instead of us; None where we do."""
    verify_shadow: str | None = None
    """Of `blue_green`: a shadow whose limits have to be proven kept before the switch."""
    keep_warm_us: int = 0
    """Of `blue_green`: how long after the switch the breaker sends everyone back."""
    start: Literal["auto", "manual"] = "auto"
    """Whether it starts when it is configured, or stays a draft until someone starts it."""
    shadow: ShadowDocument | None = None
    """Of a `shadow` alone."""

    def who_serves(self, arm: str) -> str:
        """Return who answers in an arm, in words: `version 4`, or the people who decide."""
        version = self.arms.get(arm, "")
        return f"version {version}" if version or self.shadow is None else f"a person ({self.shadow.person})"


class LiveExperiment(Document, frozen=True, kw_only=True):
    """What is in force of one experiment right now."""

    experiment: str
    epoch: int
    phase: Phase
    step: int
    exposure: int
    shares: dict[str, int]
    holdout_released: bool = False
    """True after the holdout ended, or was released by breaker or fairness."""


def everyone_to(arm: str, arms: dict[str, str]) -> dict[str, int]:
    """Shares that send every exposed unit to one arm."""
    return {name: WHOLE if name == arm else 0 for name in sorted(arms)}
