"""The folder of a deployment, as a person names it: the one that holds `config/`, or `config/` itself.

Example:
    layout = layout_of(directory)
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.terminal import fail
from gateway.config.layout import Layout, NoConfiguration

_WORDS = "Folder of the deployment, or the config folder in it."
Directory = Annotated[Path, typer.Argument(metavar="DIR", help=_WORDS)]
DirOption = Annotated[Path, typer.Option("--dir", help=_WORDS)]


def layout_of(directory: Path) -> Layout:
    """Return the layout of a folder a person named, or exit saying why not."""
    try:
        return Layout.of(directory)
    except NoConfiguration as error:
        fail(str(error), hint="`assay init DIR` writes one; `--dir` or DIR names the folder that holds `config/`")
