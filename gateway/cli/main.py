"""Puts the commands together.

A command's module is imported when that command is asked for: together they bring SQLAlchemy and SciPy, which `assay check` has no use for. Help and
completion of the whole import all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

import typer


def _group(*modules: str) -> Callable[[typer.Typer, str], None]:
    """Return how to add a command group: the app of the first module, to which the others add commands."""

    def add(app: typer.Typer, name: str) -> None:
        group = import_module(f"gateway.cli.{modules[0]}").app
        for module in modules[1:]:
            import_module(f"gateway.cli.{module}").register(group)
        app.add_typer(group, name=name)

    return add


def _command(module: str) -> Callable[[typer.Typer, str], None]:
    """Return how to add one command: the function of the module that has its name."""

    def add(app: typer.Typer, name: str) -> None:
        app.command(name)(getattr(import_module(f"gateway.cli.{module}"), name))

    return add


_COMMANDS: Final[dict[str, Callable[[typer.Typer, str], None]]] = {
    "init": _command("configure"),
    "check": _command("configure"),
    "schema": _command("configure"),
    "plan": _command("configure"),
    "serve": _command("serve"),
    "demo": _command("demo"),
    "key": _group("key"),
    "trust": _group("trust"),
    "model": _group("model"),
    "experiment": _group("experiment", "experiment_run", "experiment_files", "experiment_plans", "experiment_forecast", "experiment_import"),
    "audit": _group("audit", "query", "evidence", "index", "witness", "archive", "receipt", "vault"),
    "policy": _group("policy"),
    "report": _group("report"),
}
"""Command -> how to add it, in the order of the help."""


def build(asked_for: str | None = None) -> typer.Typer:
    """Return the application: with one command if `asked_for` names one, else with all."""
    app = typer.Typer(
        name="assay",
        help="A gateway you put in front of your models when you must answer for what they do.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    # A group of its own even with one command in it: otherwise typer would drop the command's name.
    app.callback()(_root)
    for name, add in _COMMANDS.items():
        if asked_for not in _COMMANDS or asked_for == name:
            add(app, name)
    return app


def _root() -> None:
    """A gateway you put in front of your models when you must answer for what they do."""


def main() -> None:
    """Run the command line."""
    build(sys.argv[1] if len(sys.argv) > 1 else None)()


def __getattr__(name: str) -> Any:
    """Make `app`, the whole application, when it is first asked for."""
    if name != "app":
        raise AttributeError(name)
    app = build()
    globals()["app"] = app
    return app
