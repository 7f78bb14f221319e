"""`policies/*.rego` as the compiler needs them: what cannot be enforced is a refusal, never ignored (semantics.md 6.3).

The modules are compiled exactly as workers will compile them, together with the shipped ones; tests (`*_test.rego`) are parsed only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from gateway.config.gateway_file import Mode
from gateway.config.issues import Issue, allowed, nearest
from gateway.config.model_file import Found

if TYPE_CHECKING:
    from policies.bundle import PolicyBundle

_PLACE = re.compile(r"(?P<file>[^:\n]+):(?P<line>[0-9]+):(?P<column>[0-9]+): (?P<message>.*)")


@dataclass(frozen=True, slots=True)
class CheckedPolicies:
    """What became of the policies of a folder."""

    issues: tuple[Issue, ...]
    modes: Found
    """What is wrong with `modes.yaml` in the light of the modules."""
    bundle: PolicyBundle | None
    """The policies compiled; None where there are issues, or nothing but what is shipped."""


def check_modules(files: Mapping[str, bytes], modes: Mapping[str, Mode], models: Collection[str] | None = None) -> CheckedPolicies:
    """Compile the policy modules and say what is wrong with them, and with `modes.yaml` in their light.

    Args:
        files: path -> text of every module, tests included, and of the compiled parameters.
        modes: mode by package, without the prefix `policy.`.
        models: names of the configured models; packages may name no others. None where they are not known.
    """
    texts, issues = _texts(files)
    if issues or not (texts or modes):
        return CheckedPolicies(tuple(issues), [], None)
    try:
        from policies.bundle import PREFIX, BundleError, PolicyBundle, shipped_modules  # noqa: PLC0415 - commands on keys need no engine
        from policies.rego import RegoError  # noqa: PLC0415 - as above
        from policies.rego.parser import parse_module  # noqa: PLC0415 - as above
    except ImportError as error:
        issue = Issue(next(iter(texts), "policies"), 1, 1, "", f"policies cannot be enforced by this installation: {error}")
        return CheckedPolicies((issue,), [], None)
    packages: set[str] = set()
    bundle = None
    for path, text in {**shipped_modules(), **{path: text for path, text in texts.items() if path.endswith(".rego")}}.items():
        try:
            package = parse_module(path, text).package
        except RegoError as error:
            issues += _located(str(error), path)
            continue
        if len(package) == 2 and package[0] == PREFIX and not path.endswith("_test.rego"):
            packages.add(str(package[1]))
    if issues:
        return CheckedPolicies(tuple(issues), [], None)
    try:
        bundle = PolicyBundle.load({path: text for path, text in texts.items() if not path.endswith("_test.rego")}, modes)
    except BundleError as error:
        issues += _located(str(error), next(iter(texts), "policies"))
    else:
        issues += [] if models is None else _unknown_models(bundle, models, next(iter(texts), "policies"))
    found = _unknown_modes(modes, packages)
    return CheckedPolicies(tuple(issues), found, None if issues or found else bundle)


def _unknown_modes(modes: Mapping[str, Mode], packages: Collection[str]) -> Found:
    unknown = [name for name in modes if name not in packages]
    return [(("modes", name), f"there is no policy package `policy.{name}`; {allowed(packages)}{nearest(name, packages)}") for name in unknown]


def _texts(files: Mapping[str, bytes]) -> tuple[dict[str, str], list[Issue]]:
    texts: dict[str, str] = {}
    issues: list[Issue] = []
    for path, data in files.items():
        try:
            texts[path] = data.decode()
        except UnicodeDecodeError as error:
            issues.append(Issue(path, data.count(b"\n", 0, error.start) + 1, 1, "", "not UTF-8"))
    return texts, issues


def compile_parameters(data: bytes, path: str) -> tuple[bytes, list[Issue]]:
    """Return `params.yaml` as sorted JSON with exact numbers, so that a comment changes no digest, or what is wrong with it."""
    from policies.sources import SourceError, parse_document  # noqa: PLC0415 - commands on keys need no engine

    try:
        document = parse_document(data.decode(), path)
    except UnicodeDecodeError:
        return b"", [Issue(path, 1, 1, "", "not UTF-8")]
    except SourceError as error:
        return b"", _located(str(error), path)
    if document is None:
        document = {}
    if not isinstance(document, dict):
        return b"", [Issue(path, 1, 1, "", "parameters are a mapping, such as `max_amount: 5000`")]
    return _exact_json(document).encode(), []


def _exact_json(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(name))}:{_exact_json(item)}" for name, item in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_exact_json, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def _unknown_models(bundle: PolicyBundle, models: Collection[str], path: str) -> list[Issue]:
    """Return an issue for each package that names a model there is none of: a misspelt name would put the package out of force."""
    named = {(package, model) for package, listed in bundle.named_models().items() for model in listed if model not in models}
    return [
        Issue(
            path, 1, 1, "", f"package `policy.{package}` is about model `{model}`, which is not configured; {allowed(models)}{nearest(model, models)}"
        )
        for package, model in sorted(named)
    ]


def _located(text: str, path: str) -> list[Issue]:
    """Return the engine's findings as issues; a text without a place is about the file at `path`."""
    places = list(_PLACE.finditer(text))
    if not places:
        return [Issue(path, 1, 1, "", " ".join(text.split()))]
    return [Issue(place["file"], int(place["line"]), int(place["column"]), "", place["message"]) for place in places]
