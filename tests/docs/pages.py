"""What tests of the pages share: the pages, and the program they describe. Everything is read from the source, nothing is started."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from gateway.cli.main import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "deploy").glob("*.md")])


def page(name: str) -> str:
    """Return the text of a page under docs/."""
    return (DOCS / name).read_text()


def first_column(text: str) -> list[str]:
    """Return the cells of first columns that are names in backticks; several names in a cell are several."""
    cells = re.findall(r"^\| ([^|]*`[^|]*) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def commands() -> dict[str, Any]:
    """Return every command that does something: its words -> the command."""

    def walk(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, (*words, name))
            else:
                yield " ".join((*words, name)), command

    return dict(walk(typer.main.get_command(app), ("assay",)))


def options(command: Any) -> set[str]:
    """Return the option names of a command."""
    return {"--help"} | {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("-")}


def calls(*folders: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield (name of what is called, call) for every call in the source of `folders`."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                    yield name, node


def texts(node: ast.AST) -> set[str]:
    """Return the constant texts that an expression may be: itself, or both sides of a conditional."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    if isinstance(node, ast.IfExp):
        return texts(node.body) | texts(node.orelse)
    return set()


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
