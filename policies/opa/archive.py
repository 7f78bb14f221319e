"""Our policies as OPA's bundle: one archive, the same bytes for the same policies, with the revision that answers must tell.

OPA loads it whole or not at all (`opa run --bundle FILE`, or from any web server), so there is never a mixture of two revisions, and nobody can
change a policy below the bundle's roots through OPA's API. https://www.openpolicyagent.org/docs/management-bundles
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any, Final

from policies.bundle import PREFIX, Package, digest_of
from policies.opa.query import MODULE, answers_module
from policies.rego.parser import parse_module

NAME: Final = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*\.rego")
"""Names of modules that can stand in a URL and in an archive as they are."""


def revision_of(modules: Mapping[str, str], packages: Sequence[Package], data: Mapping[str, Any]) -> str:
    """Return what names these policies, the packages that answer, and this data together: `sha256:` and 64 digits."""
    answering = sorted({package.name: list(package.rules) for package in packages}.items())
    return "sha256:" + hashlib.sha256(_json([digest_of(modules), answering, hashlib.sha256(_json(data)).hexdigest()])).hexdigest()


def check_names(modules: Mapping[str, str], data: Mapping[str, Any]) -> None:
    """Refuse what could not be told apart or addressed in OPA.

    Raises:
        ValueError: a module's name is no plain path ending in `.rego`, is ours, or the data has a root that is ours.
    """
    for name in modules:
        if NAME.fullmatch(name) is None or name == MODULE:
            raise ValueError(f"`{name}` cannot be the name of a module in OPA; hint: letters, digits, `-`, `_`, `.`, `/`, ending in `.rego`")
    taken = {PREFIX, "assay"} & set(data)
    if taken:
        raise ValueError(f"the data has `{min(taken)}` at its root, where the policies are; hint: put facts below another name, as `params`")


def roots_of(modules: Mapping[str, str], data: Mapping[str, Any]) -> list[str]:
    """Return the parts of `data` that belong to the bundle: the packages' first names, the data's, and ours."""
    packages = {parse_module(name, text).package[0] for name, text in modules.items()}
    return sorted(packages | set(data) | {"assay"})


def archive(modules: Mapping[str, str], packages: Sequence[Package], data: Mapping[str, Any]) -> bytes:
    """Return the bundle as a gzipped tar file.

    Args:
        modules: Path -> text of every module in force.
        packages: The packages that decide.
        data: The base document.

    Raises:
        ValueError: see `check_names`.
    """
    check_names(modules, data)
    revision = revision_of(modules, packages, data)
    manifest = {"revision": revision, "roots": roots_of(modules, data), "rego_version": 1}
    members = {".manifest": _json(manifest), "data.json": _json(data), MODULE: answers_module(packages, revision).encode()}
    members |= {name: text.encode() for name, text in modules.items()}
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as squeezed, tarfile.open(fileobj=squeezed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(members):
            entry = tarfile.TarInfo(name)
            entry.size = len(members[name])
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(members[name]))
    return packed.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
