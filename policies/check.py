"""Everything that is wrong with a set of policies, before they are in force.

Three layers, each only asked when the one before found no error: the text (syntax), the engine (`Engine.check`, strict mode included), and what
the gateway asks of packages that decide (`PolicyBundle.load`). Deciding packages are checked together with the shipped ones, as they will run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.bundle import PARAMETERS, PREFIX, BundleError, PolicyBundle, shipped_modules
from policies.input_v1 import schema_of
from policies.metadata import POINTS, InvalidMetadata, Point, declared
from policies.rego import Engine, Issue, PolicyError
from policies.rego.parser import parse_module
from policies.rego.render import json_text
from policies.rego.syntax import Module
from policies.rego.values import import_value
from policies.sources import Sources, is_test


def check(sources: Sources, input_schema: Any = None) -> list[Issue]:
    """Return the findings, errors first, then by file and line.

    Args:
        sources: Policies, tests and data.
        input_schema: JSON Schema of the input of all modules; paths it does not know become errors. Without one, packages that decide are held
            to `input/v1` at the points they declare.
    """
    given = sources.modules
    try:
        engine = Engine(with_shipped(given), sources.data)
        issues = engine.check(input_schema) if input_schema is not None else [*engine.check(), *_unknown_fields(engine, given)]
    except PolicyError as refused:
        issues = refused.issues
    issues = [issue for issue in issues if issue.file in given]
    if not any(issue.severity == "error" for issue in issues):
        issues += _enforceable({path: text for path, text in given.items() if not is_test(path)}, sources.data.get("params"))
    return sorted(issues, key=lambda issue: (issue.severity != "error", issue.file, issue.line, issue.column, issue.rule))


def _unknown_fields(engine: Engine, modules: Mapping[str, str]) -> list[Issue]:
    """Return the input paths that no decision point of a package has."""
    by_points: dict[frozenset[Point], set[str]] = {}
    parsed = {path: parse_module(path, text) for path, text in modules.items() if not is_test(path)}
    for path, module in parsed.items():
        if module.package[0] == PREFIX and len(module.package) > 1:
            siblings = [other for other in parsed.values() if other.package[:2] == module.package[:2]]
            by_points.setdefault(_points(siblings), set()).add(path)
    return [
        issue
        for points, files in by_points.items()
        for issue in engine.check(schema_of(points))
        if issue.rule == "unknown-input" and issue.file in files
    ]


def _points(modules: list[Module]) -> frozenset[Point]:
    try:
        return declared(modules).points
    except InvalidMetadata:
        return frozenset(POINTS)  # told by the bundle; here nothing is held against it


def with_shipped(modules: Mapping[str, str]) -> dict[str, str]:
    """Return modules with the shipped ones they run beside; those whose package is given are left out.

    Raises:
        PolicyError: a module is no Rego.
    """
    packages = {parse_module(path, text).package for path, text in modules.items()}
    if not any(package[0] == PREFIX for package in packages):
        return dict(modules)
    shipped = {path: text for path, text in shipped_modules().items() if parse_module(path, text).package not in packages}
    return {**shipped, **modules}


def _enforceable(modules: Mapping[str, str], params: Any) -> list[Issue]:
    """Return why the gateway would not put these modules in force with these parameters."""
    shipped = {parse_module(path, text).package for path, text in shipped_modules().items()}
    texts = {path: text for path, text in modules.items() if parse_module(path, text).package not in shipped}
    if params is not None:
        texts[PARAMETERS] = json_text(import_value(params))
    try:
        PolicyBundle.load(texts, {})
    except BundleError as error:
        path = str(error).partition(":")[0]
        return [Issue("not-enforceable", str(error), path if path in modules else next(iter(modules)), 1, 1)]
    return []
