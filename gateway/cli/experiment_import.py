"""`assay experiment import`: experiments of other systems as drafts of ours, with a report of what does not map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from experiments.growthbook import convert
from gateway.cli.folder import DirOption, layout_of
from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out
from gateway.config.layout import write_durably

imports = typer.Typer(no_args_is_help=True, help="Experiments of other systems as drafts.")


def register(app: typer.Typer) -> None:
    """Add the group to `assay experiment`."""
    app.add_typer(imports, name="import")


@imports.callback()
def group() -> None:
    """Experiments of other systems as drafts."""


@imports.command("growthbook")
def growthbook(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="SDK payload: what `/api/features/KEY` answers.")],
    model: Annotated[str, typer.Option("--model", help="Model whose versions the variations stand for.")],
    mapping: Annotated[list[str], typer.Option("--map", help="VALUE=VERSION: the version a variation's value stands for.")],
    directory: DirOption = Path(),
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Write a draft for each GrowthBook experiment, in its own hash, so that every unit keeps its arm. Exit code 1 if anything did not map.

    Example: assay experiment import growthbook features.json --model credit-risk --map old=3 --map new=4
    """
    versions = dict(_pair(text) for text in mapping)
    try:
        converted = convert(json.loads(file.read_text()), model=model, versions=versions)
    except (OSError, ValueError, AttributeError) as fault:
        fail(f"{file}: {fault}")
    folder = layout_of(directory).config / "experiments"
    written, there = [], []
    for name, document in converted.files.items():
        path = folder / f"{name}.yaml"
        if path.exists():
            there.append(f"`{path}` is there already and was left as it is")
            continue
        write_durably(path, _text(document).encode())
        written.append(str(path))
    told = [*converted.unmapped, *there]
    if json_flag:
        emit_json({"written": written, "unmapped": told})
    else:
        for path_text in written:
            out.print(f"written: {path_text}", markup=False, soft_wrap=True)
        for line in told:
            err.print(f"not mapped: {line}", markup=False, soft_wrap=True)
        out.print(f"{len(written)} drafts written, {len(told)} things not mapped; next: assay check {directory}", markup=False)
    if told:
        raise typer.Exit(int(Exit.NO))


def _pair(text: str) -> tuple[str, str]:
    value, _, version = text.rpartition("=")
    if not value or not version:
        fail(f"`{text}` is not a mapping", hint="write VALUE=VERSION")
    return value, version


def _text(document: dict[str, Any]) -> str:
    body: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_style=None)
    return f"# Imported from GrowthBook. A draft: add a goal and guardrails, then `assay experiment start {document['experiment']}`.\n{body}"
