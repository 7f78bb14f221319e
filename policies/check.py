"""Everything that is wrong with a set of policies, before they are in force.

Three layers, each only asked when the one before found no error: the text (syntax), the engine (`Engine.check`, strict mode included), and what
the gateway asks of packages that decide (`PolicyBundle.load`). Deciding packages are checked together with the shipped ones, as they will run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.bundle import PARAMETERS, PREFIX, BundleError, PolicyBundle, shipped_modules
from policies.rego import Engine, Issue, PolicyError
from policies.rego.parser import parse_module
from policies.rego.render import json_text
from policies.rego.values import import_value
from policies.sources import Sources, is_test


def check(sources: Sources, input_schema: Any = None) -> list[Issue]:
    """Return the findings, errors first, then by file and line.

    Args:
        sources: Policies, tests and data.
        input_schema: JSON Schema of the input; paths it does not know become errors.
    """
    given = sources.modules
    try:
        issues = Engine(with_shipped(given), sources.data).check(input_schema)
    except PolicyError as refused:
        issues = refused.issues
    issues = [issue for issue in issues if issue.file in given]
    if not any(issue.severity == "error" for issue in issues):
        issues += _enforceable({path: text for path, text in given.items() if not is_test(path)}, sources.data.get("params"))
    return sorted(issues, key=lambda issue: (issue.severity != "error", issue.file, issue.line, issue.column, issue.rule))


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
