"""Imports every family once, which fills the table."""

from __future__ import annotations

import importlib
from typing import Final

FAMILIES: Final = (
    "aggregates", "arrays", "cidr", "crypto", "encoding", "globs", "graphs", "jsonpatch", "jwt", "numbers", "objects", "regexes",
    "schemas", "semver", "sets", "special", "strings", "templates", "times", "types", "units", "uris", "x509",
)  # fmt: skip


def all_families() -> None:
    """Import the family modules."""
    for name in FAMILIES:
        importlib.import_module(f"policies.rego.builtins.{name}")
