"""Who may import whom (`docs/architecture.md`, "Rooms")."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAVES = {"experiments.stats", "audit.canonical", "audit.keys"}
MAY = {"audit": {"audit"}, "policies": {"policies"}, "experiments": {"experiments"}, "gateway": {"gateway", "policies", "experiments", "audit"}}
OURS = set(MAY)


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    package = list(path.relative_to(ROOT).with_suffix("").parts)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: -node.level], base]).rstrip(".")
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in OURS}


def modules():
    for package in sorted(OURS):
        yield from sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", list(modules()), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may(path):
    room = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        other = name.split(".")[0]
        is_leaf = any(name == leaf or name.startswith(leaf + ".") for leaf in LEAVES)
        parent_of_leaf = name in {leaf.split(".")[0] for leaf in LEAVES}
        assert other in MAY[room] or is_leaf or parent_of_leaf, f"{path.relative_to(ROOT)} may not import {name}"


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_a_leaf_module_imports_nothing_of_ours(leaf):
    folder = ROOT / leaf.replace(".", "/")
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    for path in paths:
        assert {name for name in imports(path) if not name.startswith(f"{leaf}.")} == set(), path
    assert paths


def test_the_rego_engine_stands_alone():
    for path in (ROOT / "policies" / "rego").rglob("*.py"):
        assert {name for name in imports(path) if not name.startswith("policies.rego") and name != "policies"} == set(), path


def test_nothing_is_called_by_what_it_is_not():
    for package in OURS:
        for path in (ROOT / package).rglob("*.py"):
            assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}, path
