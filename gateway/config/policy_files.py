"""`policies/*.rego` as the compiler needs them: what cannot be enforced is a refusal, never ignored (semantics.md 6.3).

The modules are compiled exactly as workers will compile them, together with the shipped ones; tests (`*_test.rego`) are parsed only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.config.gateway_file import Mode
from gateway.config.issues import Issue, allowed, nearest
from gateway.config.model_file import Found

_PLACE = re.compile(r"(?P<file>[^:\n]+):(?P<line>[0-9]+):(?P<column>[0-9]+): (?P<message>.*)")


def check_modules(files: Mapping[str, bytes], modes: Mapping[str, Mode]) -> tuple[list[Issue], Found]:
    """Return what is wrong with the policy modules, and with `modes.yaml` in their light.

    Args:
        files: path -> text of every module, tests included.
        modes: mode by package, without the prefix `policy.`.
    """
    texts: dict[str, str] = {}
    issues: list[Issue] = []
    for path, data in files.items():
        try:
            texts[path] = data.decode()
        except UnicodeDecodeError as error:
            issues.append(Issue(path, data.count(b"\n", 0, error.start) + 1, 1, "", "not UTF-8"))
    if issues or not (texts or modes):
        return issues, []
    try:
        from policies.bundle import PREFIX, BundleError, PolicyBundle, shipped_modules  # noqa: PLC0415 - commands on keys need no engine
        from policies.rego import RegoError  # noqa: PLC0415 - as above
        from policies.rego.parser import parse_module  # noqa: PLC0415 - as above
    except ImportError as error:
        return [Issue(next(iter(texts), "policies"), 1, 1, "", f"policies cannot be enforced by this installation: {error}")], []
    packages: set[str] = set()
    for path, text in {**shipped_modules(), **texts}.items():
        try:
            package = parse_module(path, text).package
        except RegoError as error:
            issues += _located(str(error), path)
            continue
        if len(package) == 2 and package[0] == PREFIX and not path.endswith("_test.rego"):
            packages.add(str(package[1]))
    if issues:
        return issues, []
    try:
        PolicyBundle.load({path: text for path, text in texts.items() if not path.endswith("_test.rego")}, modes)
    except BundleError as error:
        issues += _located(str(error), next(iter(texts), "policies"))
    unknown = [name for name in modes if name not in packages]
    return issues, [
        (("modes", name), f"there is no policy package `{PREFIX}.{name}`; {allowed(packages)}{nearest(name, packages)}") for name in unknown
    ]


def _located(text: str, path: str) -> list[Issue]:
    """Return the engine's findings as issues; a text without a place is about the file at `path`."""
    places = list(_PLACE.finditer(text))
    if not places:
        return [Issue(path, 1, 1, "", " ".join(text.split()))]
    return [Issue(place["file"], int(place["line"]), int(place["column"]), "", place["message"]) for place in places]
