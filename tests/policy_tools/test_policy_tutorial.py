"""Every command of the tutorial runs, in order, and prints what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app

PAGE = Path(__file__).parents[2] / "docs/policy-tutorial.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def agrees(said: str, expected: str) -> bool:
    """Compare line by line; `…` stands for any lines, or for the rest of one."""
    pattern = "".join(
        "(?:.*\n)*?" if line == "…" else "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", line)) + "\n"
        for line in expected.splitlines()
    )
    return re.fullmatch(pattern, said) is not None


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["init", "."]).exit_code == 0

    def command(block: str) -> None:
        line, expected = block.split("\n", 1)
        assert line.startswith("$ assay ")
        done = CliRunner().invoke(app, shlex.split(line)[2:])
        assert agrees(re.sub(r"[ \t]+\n", "\n", done.stdout.expandtabs(4)), expected), f"{line}\n{done.stdout}{done.stderr}"

    return command


def test_the_tutorial_can_be_followed_to_its_end(run):
    commands, (office,), (cases, one_more) = blocks("sh"), blocks("rego"), blocks("yaml")
    policies = Path("config/policies")
    run(commands.pop(0))
    run(commands.pop(0))
    run(commands.pop(0))
    (policies / "office.rego").write_text(office)
    run(commands.pop(0))
    (policies / "office.rego").write_text(office.replace("is_reviwer", "is_reviewer"))
    run(commands.pop(0))
    (policies / "office_cases.yaml").write_text(cases)
    run(commands.pop(0))
    (policies / "office_cases.yaml").write_text(cases + one_more)
    run(commands.pop(0))
    (policies / "modes.yaml").write_text("modes: {office: warn, where_data_lives: warn}\n")
    run(commands.pop(0))
    assert commands == []
