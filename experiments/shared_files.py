"""The two files that all experiments share: `_layers.yaml` (layers, holdouts) and `_metrics.yaml` (metrics)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Literal

from pydantic import Field, field_validator, model_validator

from experiments.document import MetricSource, MetricType, Missing
from experiments.parts import BUILT_IN_NAMES, LATENCY_NAME, MetricName, Name, Strict, listed
from experiments.quantities import Duration, Probability, Share

BUILT_IN: Mapping[str, tuple[Literal["errors", "diverted", "label"], Literal["lower", "higher"]]] = {
    "errors": ("errors", "lower"),
    "diverted": ("diverted", "lower"),
    "error_rate": ("label", "lower"),
    "accuracy": ("label", "higher"),
}
"""Metrics that need no declaration, beside latency quantiles `p50_ms` to `p99_ms`."""


class LayerDeclaration(Strict):
    """A layer: its units fall into fixed slots."""

    slots: int = Field(default=1000, ge=2, le=1_000_000, description="How finely the layer can be divided. Changing it moves every unit.")


class HoldoutDeclaration(Strict):
    """Units kept out of every experiment of one model, to measure what experiments gain together."""

    model: Name
    version: str = Field(description="Version that serves held-out units.", min_length=1)
    share: Share
    until: date = Field(description="Last day; a holdout ends.")
    owner: str = Field(min_length=1)


class LayersFile(Strict):
    """`experiments/_layers.yaml`."""

    layers: dict[Name, LayerDeclaration] = Field(default_factory=dict)
    holdouts: dict[Name, HoldoutDeclaration] = Field(default_factory=dict)


SOURCES: Mapping[MetricSource, tuple[MetricType, ...]] = {
    "feedback": ("proportion", "mean", "count", "ratio", "quantile"),
    "labels": ("proportion",),
    "errors": ("proportion",),
    "latency": ("mean", "ratio", "quantile"),
    "rows": ("mean", "ratio", "quantile"),
    "bytes_in": ("mean", "ratio", "quantile"),
    "bytes_out": ("mean", "ratio", "quantile"),
    "tokens": ("mean", "ratio", "quantile"),
    "input_tokens": ("mean", "ratio", "quantile"),
    "output_tokens": ("mean", "ratio", "quantile"),
    "cost": ("mean", "ratio", "quantile"),
}
"""Where a metric's values come from -> what can be made of them. A unit has one call that counts, so what a call says of itself is not counted up."""


class MetricDeclaration(Strict):
    """A metric: what it is made of, and which way is better."""

    type: MetricType = Field(
        description="`proportion`: each value is 0 or 1. `mean`: a number. `count`: numbers of distinct events, summed. "
        "`ratio`: over another metric. `quantile`: how far out a tail of the numbers lies."
    )
    source: MetricSource = Field(
        default="feedback",
        alias="from",
        description="`feedback` (`POST /feedback`), or what the record of a call says: `labels` (wrong predictions), `errors`, `latency` (ms), "
        "`rows`, `bytes_in`, `bytes_out`, and where the model's file says how they are read `tokens`, `input_tokens`, `output_tokens`, `cost`.",
    )
    better: Literal["higher", "lower"]
    quantile: Probability | None = Field(default=None, description="Of a `quantile`: which, for example `95%`.")
    per: MetricName | None = Field(default=None, description="Of a `ratio`: the declared metric below the line.")
    range: tuple[Decimal, Decimal] | None = Field(default=None, description="Least and largest value, `[0, 500]`; others are counted and not used.")
    window: Duration | None = Field(
        default=None,
        description="How long after the decision it may come; only units whose window has closed count, and what comes later is not used.",
    )
    missing: Missing = Field(
        default="drop", description="What a unit counts as whose window closed without it; `refuse` judges nothing while there is such a unit."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> MetricDeclaration:
        allowed = SOURCES[self.source]
        if self.type not in allowed:
            raise ValueError(f"`from: {self.source}` gives no `{self.type}`; it gives {listed(allowed)}")
        if self.source in ("latency", "errors", "labels", "cost") and self.better != "lower":
            raise ValueError(f"`from: {self.source}` counts what is better when lower")
        if (self.type == "ratio") != (self.per is not None):
            raise ValueError("a `ratio`, and nothing else, names what it is `per`")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError("`range` goes from the least to the largest value")
        self._quantile_fits()
        self._window_fits()
        return self

    def _quantile_fits(self) -> None:
        if (self.type == "quantile") != (self.quantile is not None):
            raise ValueError("a `quantile`, and nothing else, says which: `quantile: 95%`")
        if self.quantile is None:
            return
        if not 1_000 <= self.quantile <= 999_000:
            raise ValueError("`quantile` lies between 0.1% and 99.9%: further out nothing is ever seen")
        if self.source == "latency" and self.quantile < 500_000:
            raise ValueError("a `quantile` of a latency is at least 50%")
        if self.source == "feedback" and self.window is None:
            raise ValueError("a `quantile` of feedback needs a `window`: which units fix its threshold must not depend on who answers first")

    def _window_fits(self) -> None:
        if self.source not in ("feedback", "labels") and (self.window is not None or self.missing != "drop"):
            raise ValueError(f"`window` and `missing` are about feedback and labels; `from: {self.source}` comes with the call")
        if self.missing == "zero" and (self.window is None or self.type == "ratio"):
            raise ValueError("`missing: zero` needs a `window`, and makes no sense of a ratio")
        if self.missing == "refuse" and self.window is None:
            raise ValueError("`missing: refuse` needs a `window`: before it closes, nothing is missing")


class MetricsFile(Strict):
    """`experiments/_metrics.yaml`."""

    metrics: dict[MetricName, MetricDeclaration] = Field(default_factory=dict)

    @field_validator("metrics")
    @classmethod
    def _names_are_free(cls, metrics: dict[str, MetricDeclaration]) -> dict[str, MetricDeclaration]:
        for name in metrics:
            if name in BUILT_IN_NAMES or LATENCY_NAME.match(name) is not None:
                raise ValueError(f"`{name}` is built in; choose another name")
        return metrics


NO_LAYERS, NO_METRICS = LayersFile(), MetricsFile()
