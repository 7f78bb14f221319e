"""`docs/cli.md` and the README name the commands that exist, with options that exist."""

import re
import shlex

import pytest
from pages import DOCS, PAGES, ROOT, blocks, commands, first_column, options, page
from typer.testing import CliRunner

from gateway.cli.main import app

COMMANDS = commands()


def uses():
    """Every `assay ...` line of a code block or in backticks, on every page."""
    found = []
    for path in PAGES:
        if path == DOCS / "acceptance.md":
            continue
        text = path.read_text()
        shell = "\n".join(blocks(text, "(?:sh)?")).replace("\\\n", " ")
        lines = [line.removeprefix("$ ").split(" && ")[-1] for line in shell.splitlines()]
        lines += re.findall(r"`((?:assay) [^`]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
        for line in lines:
            found += [(path, piece) for piece in re.split(r"; |, (?=assay)", line) if re.match(r"(\.venv/bin/)?assay [a-z]", piece)]
    return found


def matching(line):
    """The longest command that begins a line, and the words after it."""
    words = line.split(" #")[0].split(" > ")[0].replace(".venv/bin/", "").split()
    for length in (4, 3, 2):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return name, words[length:]
    return None, words


def test_every_command_is_documented_once_and_nothing_else_is():
    named = [name for name in first_column(page("cli.md")) if name.startswith("assay ")]
    assert sorted(named) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_runs_it_and_uses_options_it_has(name):
    row = next(line for line in page("cli.md").splitlines() if line.startswith(f"| `{name}` |"))
    example = re.findall(r"`([^`]+)`", row.split("|")[3])[0]
    assert matching(example)[0] == name
    assert {word for word in shlex.split(example) if word.startswith("--")} <= options(COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_runs_and_has_an_example(name):
    done = CliRunner().invoke(app, [*name.split()[1:], "--help"])
    assert done.exit_code == 0
    assert "Example" in done.output


def test_commands_on_all_pages_exist_and_have_the_options_used():
    wrong = []
    for path, line in uses():
        name, rest = matching(line)
        group = any(command.startswith(" ".join(line.split()[:2]) + " ") for command in COMMANDS)
        if name is None and group and len(line.split()) == 2:
            continue  # names a group of commands, such as `assay trust`
        unknown = set() if name is None else {word.split("=")[0] for word in rest if word.startswith("--")} - options(COMMANDS[name])
        if name is None or unknown:
            wrong.append((str(path.relative_to(ROOT)), line, sorted(unknown)))
    assert wrong == []


def test_the_pages_use_commands_at_all():
    assert len(uses()) > 20
