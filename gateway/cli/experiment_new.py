"""`assay experiment new`: a good start of an experiment, in a file that holds beside all others.

Saving a file is putting it in force, so nothing is written that the gateway would refuse: the folder is compiled with the new file in a copy first.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, cast

import msgspec
import typer

from experiments.document import ExperimentDocument, Strategy
from experiments.room import NoRoomError, room_for
from experiments.templates import TEMPLATES, starter
from gateway.cli.folder import DirOption, layout_of
from gateway.cli.terminal import Exit, err, fail, out
from gateway.config.compile import compile_folder
from gateway.config.issues import Issue
from gateway.config.layout import write_durably


def new(
    strategy: Annotated[str, typer.Argument(metavar="STRATEGY", help=f"One of {', '.join(TEMPLATES)}.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the experiment.")],
    model: Annotated[str, typer.Option("--model", help="Model (file of `config/models/`) whose calls are split.")],
    champion: Annotated[str, typer.Option("--champion", help="Version that serves now.")],
    challenger: Annotated[str, typer.Option("--challenger", help="Version that is tried.")],
    directory: DirOption = Path(),
    owner: Annotated[str, typer.Option("--owner", help="Who answers for it.")] = "",
) -> None:
    """Write a good start of an experiment, as a draft: nothing is drawn before `assay experiment start`.

    Where other experiments split the same model, it gets slots of their layer that nobody has.

    Example: assay experiment new canary credit-v4 --model credit-risk --champion 3 --challenger 4
    """
    if strategy not in TEMPLATES:
        fail(f"there is no strategy `{strategy}`", hint=f"one of {', '.join(TEMPLATES)}")
    if Path(name).name != name:
        fail(f"`{name}` is not a name", hint="it is the file's name, without folder and `.yaml`")
    config = layout_of(directory).config
    path = config / "experiments" / f"{name}.yaml"
    if path.exists():
        fail(f"`{path}` is there already", hint="choose another name, or edit it")
    text = starter(strategy, name, model, champion, challenger, owner, layer=_layer(config, model, cast("Strategy", strategy), directory))
    _tell(_issues_with(config, name, text), f"`{name}` would not hold beside the rest of the configuration; nothing was written", directory)
    write_durably(path, text.encode())
    out.print(f"Written: {path}", markup=False, soft_wrap=True)
    out.print(
        f"Next: say what you expect in `hypothesis`; assay experiment plan {name} --dir {directory}; assay experiment start {name}",
        markup=False,
        soft_wrap=True,
    )


def _layer(config: Path, model: str, strategy: Strategy, directory: Path) -> str:
    """Return the line that gives it its part of the units, empty where it needs none; exit where nothing is left."""
    compiled = compile_folder(config)
    _tell(compiled.issues, "the configuration has problems, and nothing new comes in force beside them; nothing was written", directory)
    manifest = compiled.manifest
    assert manifest is not None  # noqa: S101 - there are no issues
    others = [msgspec.json.decode(compiled.objects[digest], type=ExperimentDocument) for digest in manifest.experiments.values()]
    try:
        room = room_for(model, strategy, others)
    except NoRoomError as error:
        fail(str(error), hint="nothing was written", code=Exit.NO)
    return "" if room is None else room.line()


def _issues_with(config: Path, name: str, text: str) -> tuple[Issue, ...]:
    """Return what would be wrong with the folder if it held the new file too."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "config"
        shutil.copytree(config, copy)
        write_durably(copy / "experiments" / f"{name}.yaml", text.encode())
        return compile_folder(copy).issues


def _tell(issues: tuple[Issue, ...], what: str, directory: Path) -> None:
    for issue in issues:
        err.print(str(issue), markup=False, soft_wrap=True)
    if issues:
        fail(what, hint=f"assay check {directory}", code=Exit.NO)
