"""`assay demo`: the whole product on this machine, in a few minutes."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from gateway.cli.terminal import Exit, fail, out
from gateway.demo.stage import Stage, StageError, free_port


def demo(
    directory: Annotated[Path, typer.Argument(help="Folder to build the deployment in; must not exist.")] = Path("assay-demo"),
    keep: Annotated[
        bool | None, typer.Option("--keep/--no-keep", help="Go on serving at the end, until Ctrl-C. Default: when at a terminal.")
    ] = None,
    *,
    traffic: Annotated[
        bool, typer.Option("--traffic", help="Go on serving, and calling with labels a second later, until Ctrl-C: for experiments of your own.")
    ] = False,
) -> None:
    """Train two model versions, serve them behind the gateway, and watch an A/B test, a canary, refusals and the signed log.

    Example: assay demo
    """
    try:
        import sklearn  # noqa: F401, PLC0415 - only asked whether it is there
    except ImportError:
        fail("the demo trains scikit-learn models, and scikit-learn is not installed", hint="pip install 'assay-gateway[demo]'")
    if directory.exists():
        fail(f"`{directory}` exists already", hint="name another folder, or remove this one: it holds keys and a log")
    from gateway.demo.story import Story  # noqa: PLC0415 - imports scikit-learn

    signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: whatever was started is ended
    stage = Stage(directory.absolute(), free_port(), free_port())
    try:
        story = Story(stage, out)
        story.tell()
        serves_on = traffic or (sys.stdin.isatty() if keep is None else keep)
        _what_next(stage, serves_on=serves_on)
        if traffic:
            out.print("\nThe gateway goes on serving, and is called 50 times a second. Ctrl-C ends it.")
            story.go_on(50.0)
        elif serves_on:
            out.print("\nThe gateway goes on serving. Ctrl-C ends it.")
            while True:
                time.sleep(1)
    except StageError as fault:
        fail(str(fault), code=Exit.NO)
    except KeyboardInterrupt:
        out.print("\nstopping")
    finally:
        stage.close()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _what_next(stage: Stage, *, serves_on: bool) -> None:
    data = stage.directory / "data"
    out.print()
    if serves_on:
        out.print("[bold]Look around[/]")
        out.print(f"  console      {stage.admin}   key {stage.keys['console']}", soft_wrap=True)
    else:
        out.print(
            "The gateway ends now; its log and its keys stay. `assay demo --keep` goes on serving, with its console.", markup=False, soft_wrap=True
        )
    out.print("[bold]Try[/]")
    out.print(f"  assay audit query --data {data} --type rollout.step", soft_wrap=True)
    keys = f"--vkey {stage.directory / 'log.vkey'} --witness {stage.directory / 'witness.vkey'}"
    out.print(f"  assay audit verify {data} {keys}", soft_wrap=True, markup=False)
    out.print(f"  assay report evaluation --data {data} --format html -o evaluation.html", soft_wrap=True)
