"""Puts the commands together."""

from __future__ import annotations

import typer

from gateway.cli import audit, configure, demo, experiment, key, model, query, report, serve, trust, witness

app = typer.Typer(
    name="assay",
    help="A gateway you put in front of your models when you must answer for what they do.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
configure.register(app)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.add_typer(key.app, name="key")
app.add_typer(trust.app, name="trust")
app.add_typer(model.app, name="model")
app.add_typer(experiment.app, name="experiment")
query.register(audit.app)
witness.register(audit.app)
app.add_typer(audit.app, name="audit")
app.add_typer(report.app, name="report")


def main() -> None:
    """Run the command line."""
    app()
