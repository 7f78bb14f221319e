"""`assay experiment`: the group. Commands on plain files are in `experiment_files.py`; `main.py` puts the modules together."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Experiments: their life on live traffic, plans, and statistics on your own files.")


@app.callback()
def experiment() -> None:
    """Experiments: their life on live traffic, plans, and statistics on your own files."""
