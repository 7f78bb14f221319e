"""A maturity model as dated data: levels, criteria, and the rule that looks for evidence of each.

Frameworks change; a report names the date it was judged by. A criterion without a rule is one that no record of this version of Assay can show.

Example:
    framework("azure").criteria[0].title
"""

from __future__ import annotations

from importlib.resources import files

import msgspec


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Numbers the rules judge by; printed in every report."""

    window_days: int
    """Records older than this at the report's time are not counted."""
    minimum_occurrences: int
    """Events (promotions, approvals) below which a pattern is claimed, not proven."""
    minimum_calls: int
    """Answered calls below which a rate proves nothing."""
    coverage_ppm: int
    """Share of events that must show the pattern."""
    trace_coverage_ppm: int
    """The same for traceability and metrics."""
    availability_ppm: int
    level_mean_ppm: int
    """Mean score of a level's criteria that reaches the level."""


class Criterion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One criterion, in our words."""

    id: str
    level: int
    pillar: str
    title: str
    gating: bool = False
    """Must be at least claimed for the claimed level and proven for the proven level."""
    rule: str | None = None
    next_action: str


class Level(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A level and its published name."""

    number: int
    name: str


class Framework(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One maturity model."""

    name: str
    title: str
    source: str
    as_of: str
    parameters: Parameters
    levels: tuple[Level, ...]
    criteria: tuple[Criterion, ...]


def framework_names() -> tuple[str, ...]:
    """Names of the frameworks that are shipped."""
    names = (file.name for file in files("audit.maturity").iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in names if name.endswith(".json")))


def framework(name: str) -> Framework:
    """Read a shipped framework.

    Raises:
        KeyError: when there is none of that name.
    """
    if name not in framework_names():
        raise KeyError(name)
    return msgspec.json.decode((files("audit.maturity") / f"{name}.json").read_bytes(), type=Framework)
