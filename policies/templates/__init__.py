"""Policies to begin with: each with tests, cases, parameters and an example of its input.

A template is a folder with the files of one package; `make` gives them the name of the new package. The name occurs in packages, in
`data.params`, in file names, and in capitals in the ids of reasons.

Example:
    files = make("residency", "where_data_lives")       # {"where_data_lives.rego": "...", ...}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import yaml

from policies.rego.parser import parse_module

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*\Z")
_LONGEST: Final = 40
"""Characters of a name: ids are made of it, and they have a bound."""
_PACKAGES: Final = {
    "approval": "committee",
    "fairness": "fairness_report",
    "protection": "model_protection",
    "experiment-limits": "experiment_limits",
    "residency": "data_residency",
}
"""Template -> the package in its folder."""
RESERVED: Final = frozenset({"approval", "limits"})
"""Packages that are shipped: nothing may be added to them."""
PARAMETERS: Final = "params.yaml"


class NoSuchTemplate(ValueError):  # noqa: N818 - reads as the statement it is
    """There is no template of that name, or a package cannot be called so; the text says why."""


@dataclass(frozen=True, slots=True)
class Template:
    """One template."""

    name: str
    package: str
    """The name its package has by default."""
    title: str
    description: str


def templates() -> list[Template]:
    """Return the templates, with what their metadata says of them."""
    found = []
    for name, package in _PACKAGES.items():
        module = parse_module(name, _read(name)[f"{package}.rego"])
        said = yaml.safe_load(module.annotations[0][2])
        found.append(Template(name, package, said["title"], said["description"]))
    return found


def make(template: str, name: str | None = None) -> dict[str, str]:
    """Return the files of a new policy: path below the policies' folder -> text.

    Args:
        template: Its name.
        name: Of the package, without `policy.`; the template's own if None.

    Raises:
        NoSuchTemplate: an unknown template, or a name that is no name of a package.
    """
    if template not in _PACKAGES:
        raise NoSuchTemplate(f"there is no template `{template}`; choose one of {', '.join(_PACKAGES)}")
    package = _PACKAGES[template]
    name = package if name is None else name
    if not _NAME.match(name) or len(name) > _LONGEST:
        raise NoSuchTemplate(f"`{name}` is no name of a package: small letters, digits and `_`, such as `night_shift`, at most {_LONGEST}")
    if name in RESERVED:
        raise NoSuchTemplate(f"`policy.{name}` is shipped and cannot be added to; choose another name")
    return {_renamed(path, package, name): _renamed(text, package, name) for path, text in _read(template).items()}


def _renamed(text: str, package: str, name: str) -> str:
    ids = package.upper().replace("_", "-"), name.upper().replace("_", "-")
    return text.replace(package, name).replace(f"{ids[0]}-", f"{ids[1]}-")


def _read(template: str) -> dict[str, str]:
    folder = files("policies") / "templates" / template
    return {entry.name: entry.read_text(encoding="utf-8") for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)}
