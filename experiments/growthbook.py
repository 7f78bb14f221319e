"""GrowthBook's SDK payload as our experiment files: what maps, and in words what does not.

Each experiment rule of a feature (`variations` with `weights`, `coverage`, `seed`, `hashVersion`, `condition`) becomes one `ab` draft in the
bucketing mode of its hash version, so that every unit keeps its arm. What has no counterpart is told, never dropped in silence; a rule that would
assign other units than there (a namespace, another hash attribute, nested conditions) is told and left out.

Source: GrowthBook SDK payload and `hashVersion` 1 and 2, https://docs.growthbook.io/lib/build-your-own

Example:
    converted = convert(payload, model="credit-risk", versions={"gpt-a": "3", "gpt-b": "4"})
    converted.files["new-prompt"]["bucketing"]["mode"]     # "growthbook-v2"
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

_NAME: Final = re.compile(r"[^a-z0-9_.-]+")
_ATTRIBUTE: Final = re.compile(r"[a-z][a-z0-9_]{0,40}")
_KNOWN: Final = frozenset(
    {"key", "variations", "weights", "coverage", "seed", "hashVersion", "condition", "hashAttribute", "namespace", "name", "phase", "meta", "id"}
)
_UNIT_ATTRIBUTES: Final = frozenset({"id", "userId", "user_id", "customer_id", "unit"})


@dataclass(slots=True)
class Converted:
    """Files by experiment, and what did not map."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    unmapped: list[str] = field(default_factory=list)


class _LeaveOut(Exception):  # noqa: N818 - a decision about one rule, not a failure
    """The rule would assign other units than there."""


def convert(payload: Mapping[str, Any], *, model: str, versions: Mapping[str, str]) -> Converted:
    """Convert every experiment rule of a payload.

    Args:
        payload: `{"features": {...}}` as the SDK endpoint gives it.
        model: model whose versions the variations stand for.
        versions: value of a variation, as text or JSON -> version.

    Raises:
        ValueError: it is no SDK payload.
    """
    features = payload.get("features")
    if not isinstance(features, dict):
        raise ValueError(  # noqa: TRY004 - what is wrong is the file, not a caller's type
            "the file is no GrowthBook SDK payload: it has no object `features`; hint: save what `/api/features/KEY` answers"
        )
    found = Converted()
    for feature, definition in sorted(features.items()):
        for number, rule in enumerate(definition.get("rules", ()) if isinstance(definition, dict) else ()):
            where = f"feature `{feature}`, rule {number + 1}"
            if not isinstance(rule, dict) or "variations" not in rule:
                found.unmapped.append(f"{where}: not an experiment; left out (forced values and rollouts belong to the model's `default_version`)")
                continue
            try:
                name, file = _file(feature, rule, model, versions, where, found.unmapped)
            except _LeaveOut as why:
                found.unmapped.append(f"{where}: left out, {why}")
                continue
            if name in found.files:
                found.unmapped.append(f"{where}: left out, another rule is called `{name}` too")
                continue
            found.files[name] = file
    return found


def _file(
    feature: str, rule: Mapping[str, Any], model: str, versions: Mapping[str, str], where: str, unmapped: list[str]
) -> tuple[str, dict[str, Any]]:
    name = _NAME.sub("-", str(rule.get("key", feature)).lower()).strip("-._")[:60] or "experiment"
    if rule.get("namespace"):
        raise _LeaveOut("a namespace keeps units by a hash of its own; put the experiment into a layer by hand")
    attribute = rule.get("hashAttribute", "id")
    if attribute not in _UNIT_ATTRIBUTES:
        raise _LeaveOut(f"it assigns by `{attribute}`, and units here are what `Assay-Unit` says")
    arms = _arms(rule["variations"], versions)
    hash_version = rule.get("hashVersion", 1)
    if hash_version not in (1, 2):
        raise _LeaveOut(f"hash version `{hash_version}` is not known")
    if hash_version == 1:
        unmapped.append(f"{where}: hash version 1 correlates experiments with similar names; kept as it is, start new ones natively")
    unmapped += [f"{where}: `{key}` has no counterpart" for key in sorted(set(rule) - _KNOWN)]
    file: dict[str, Any] = {
        "experiment": name,
        "strategy": "ab",
        "model": model,
        "hypothesis": str(rule.get("name", "")),
        "start": "manual",
        "arms": {arm: {"version": version} for arm, version in arms.items()},
        "control": next(iter(arms)),
        "split": _split(arms, rule.get("weights")),
        "exposure": _percent(Decimal(str(rule.get("coverage", 1)))),
        "bucketing": {"mode": f"growthbook-v{hash_version}", "seed": str(rule.get("seed", rule.get("key", feature))), "order": list(arms)},
    }
    who = _who(rule.get("condition") or {})
    return name, {**file, "who": who} if who else file


def _arms(variations: Any, versions: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(variations, list) or len(variations) < 2:
        raise _LeaveOut("it has fewer than two variations")
    arms = {}
    for number, value in enumerate(variations):
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        if text not in versions:
            raise _LeaveOut(f"no version stands for variation {number} `{text[:60]}`; say which: `--map '{text[:60]}=VERSION'`")
        arms["control" if number == 0 else f"treatment_{number}"] = versions[text]
    return arms


def _split(arms: Mapping[str, str], weights: Any) -> dict[str, str]:
    if weights is None:
        if 100 % len(arms):
            raise _LeaveOut(f"{len(arms)} equal weights are no whole share of 100%; write the weights out there first")
        weights = [1 / len(arms)] * len(arms)
    shares = [Decimal(str(weight)).quantize(Decimal("0.00000001")) for weight in weights]
    if len(shares) != len(arms) or sum(shares) != 1:
        raise _LeaveOut(f"its weights `{weights}` do not sum to 1")
    return {arm: _percent(share) for arm, share in zip(arms, shares, strict=True)}


def _percent(share: Decimal) -> str:
    return f"{(share * 100).normalize():f}%"


def _who(condition: Any) -> dict[str, Any]:
    """Rules of a condition; only those that mean the same in both."""
    who = {}
    for attribute, wanted in condition.items():
        if _ATTRIBUTE.fullmatch(attribute) is None:
            raise _LeaveOut(f"its condition names `{attribute}`, which no attribute can be called here")
        who[attribute] = _rule(attribute, wanted)
    return who


def _rule(attribute: str, wanted: Any) -> dict[str, Any]:
    if isinstance(wanted, (str, bool, int)):
        return {"is": wanted}
    if isinstance(wanted, dict) and len(wanted) == 1:
        ((operator, value),) = wanted.items()
        if operator == "$in" and isinstance(value, list) and value and all(isinstance(one, (str, bool, int)) for one in value):
            return {"in": value}
        if operator == "$eq" and isinstance(value, (str, bool, int)):
            return {"is": value}
        if operator in ("$gte", "$lt") and type(value) is int:
            return {"at_least": value} if operator == "$gte" else {"below": value}
    # `$ne` and `$nin` hold for a missing attribute there and not here: they would take other units in.
    raise _LeaveOut(f"its condition on `{attribute}` (`{json.dumps(wanted)[:80]}`) does not mean the same in our rules")
