"""Schemas, `docs/configuration.md` and the reference configuration say the same."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.config.schemas import FILES, key_paths, schema
from gateway.config.tree import read_tree

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text()
FREE = {"versions", "inputs", "arms", "split", "guardrails", "layers", "holdouts", "metrics", "modes"}


def documented(kind):
    heading = f"`{FILES[kind][0]}`"
    section = re.split(r"\n#+ ", PAGE.split(f"# {heading}\n")[1])[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


@pytest.mark.parametrize("kind", FILES)
def test_every_key_is_documented_and_every_documented_key_exists(kind):
    assert documented(kind) == key_paths(kind)


def used(files):
    """Key paths that occur in files, free names as NAME."""
    found = set()
    for file in files:
        tree, issues = read_tree(file.read_bytes(), file.name)
        assert issues == []
        for path in tree.places:
            text = ""
            for position, part in enumerate(path):
                if isinstance(part, int):
                    text += "[]"
                else:
                    name = "NAME" if position and path[position - 1] in FREE else part
                    text = f"{text}.{name}" if text else name
            found.add(text)
    return found


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [("gateway", "gateway.yaml"), ("model", "models/*.yaml"), ("modes", "policies/modes.yaml"), ("experiment", "experiments/*.yaml")],
)
def test_the_reference_configuration_teaches_every_key(kind, pattern):
    files = sorted((ROOT / "config").glob(pattern))
    text = "".join(file.read_text() for file in files)
    missing = {path for path in key_paths(kind) - used(files) if not re.search(rf"\b{re.escape(path.rsplit('.', maxsplit=1)[-1])}\b", text)}
    assert missing == set()


@pytest.mark.parametrize(("kind", "pattern"), [("gateway", "gateway.yaml"), ("model", "models/*.yaml")])
def test_every_key_of_the_reference_configuration_is_commented(kind, pattern):
    """The line before a key, or the line before its mapping's keys when it is written in one line, says what it is; in one of the files."""
    files = [file.read_text().splitlines() for file in (ROOT / "config").glob(pattern)]
    commented = "\n".join(line for lines in files for line in lines if line.lstrip().startswith("#"))
    above = {
        match[1]
        for lines in files
        for before, line in pairwise(lines)
        if before.lstrip().startswith("#") and (match := re.match(r"\s*([a-z0-9_]+):", line))
    }
    for path in key_paths(kind):
        key = path.rsplit(".", maxsplit=1)[-1]
        assert key in above or re.search(rf"\b{re.escape(key)}\b", commented), f"`{path}` has no comment"


@pytest.mark.parametrize("kind", FILES)
def test_a_schema_refuses_unknown_keys(kind):
    def closed(node):
        if isinstance(node, dict):
            if "properties" in node:
                assert node.get("additionalProperties") is False, node.get("title")
            for child in node.values():
                closed(child)
        elif isinstance(node, list):
            for child in node:
                closed(child)

    closed(schema(kind))
