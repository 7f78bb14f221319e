"""What a package says of itself in the `# METADATA` block above its `package` line: where it is asked, and in which mode.

```rego
# METADATA
# title: Scores leave rounded
# custom: {points: [response], models: [credit-risk], mode: warn}
package policy.rounding
```

Rules:
- `custom.points` lists `config`, `request` or `response`; without it a package is asked at `request`. `promote` and `audit` are accepted beside
  others, for rules that are asked there too one day; a package only for them would never be asked and is refused.
- `custom.models` lists the models whose calls the package is asked about; without it, all. A policy that reads the bodies of replies should name
  them: where it enforces, a reply that cannot be read is withheld.
- `custom.mode` is the mode where `modes.yaml` names none. `custom.required: true` needs a rule `allow`.
- Several files of one package: what each says is put together; two modes are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import yaml

from policies.rego.syntax import Module
from policies.verdict import Mode

Point = Literal["config", "request", "response"]
POINTS: Final[tuple[Point, ...]] = get_args(Point)
_LATER: Final = frozenset(("promote", "audit"))
_MODES: Final[tuple[Mode, ...]] = get_args(Mode)


class InvalidMetadata(ValueError):  # noqa: N818 - reads as the statement it is
    """The block above `package` cannot be followed; the text has file, line and column."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a package says of itself."""

    points: frozenset[Point]
    mode: Mode | None
    is_required: bool
    models: frozenset[str] | None
    """Models it is asked about; None for all."""


def declared(modules: Iterable[Module]) -> Declared:
    """Return what the files of one package say together.

    Raises:
        InvalidMetadata: one of them, or two against each other.
    """
    points: set[Point] = set()
    modes: set[Mode] = set()
    models: set[str] | None = set()
    required = False
    place = "-"
    for module in modules:
        custom, place = _custom(module)
        points |= _points(custom, place)
        required = required or custom.get("required") is True
        named = _models(custom, place)
        models = None if models is None or named is None else models | named
        mode = custom.get("mode")
        if mode is not None:
            if mode not in _MODES:
                raise InvalidMetadata(f"{place}: error: mode `{mode}` is none of {', '.join(_MODES)}")
            modes.add(mode)
    if len(modes) > 1:
        raise InvalidMetadata(f"{place}: error: files of one package name the modes {' and '.join(sorted(modes))}")
    return Declared(frozenset(points or {"request"}), next(iter(modes), None), required, None if models is None else frozenset(models))


def _custom(module: Module) -> tuple[Mapping[str, Any], str]:
    """Return `custom` of the block right above the package line, and where it stands."""
    name = module.source.name
    package_line, _ = module.source.position(module.package_pos)
    for first, last, text in module.annotations:
        if last + 1 != package_line:
            continue
        place = f"{name}:{first}:1"
        try:
            block = yaml.safe_load(text)
        except yaml.YAMLError as fault:
            problem = getattr(fault, "problem", None) or "not YAML"
            raise InvalidMetadata(f"{place}: error: the metadata cannot be read: {problem}") from fault
        custom = block.get("custom", {}) if isinstance(block, dict) else {}
        if not isinstance(custom, dict):
            raise InvalidMetadata(f"{place}: error: `custom` is a mapping, such as `custom: {{points: [response]}}`")
        return custom, place
    return {}, f"{name}:{package_line}:1"


def _models(custom: Mapping[str, Any], place: str) -> set[str] | None:
    if "models" not in custom:
        return None
    listed = custom["models"]
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        raise InvalidMetadata(f"{place}: error: `models` is a list of names of models")
    return set(listed)


def _points(custom: Mapping[str, Any], place: str) -> set[Point]:
    if "points" not in custom:
        return set()
    listed = custom["points"]
    if not isinstance(listed, list) or not listed:
        raise InvalidMetadata(f"{place}: error: `points` is a list of {', '.join(POINTS)}")
    unknown = [point for point in listed if point not in POINTS and point not in _LATER]
    if unknown:
        raise InvalidMetadata(f"{place}: error: there is no decision point `{unknown[0]}`; allowed: {', '.join(POINTS)}")
    found: set[Point] = {point for point in POINTS if point in listed}
    if not found:
        raise InvalidMetadata(f"{place}: error: nothing asks at {', '.join(listed)} yet; hint: name one of {', '.join(POINTS)}")
    return found
