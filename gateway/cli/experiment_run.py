"""`assay experiment new|list|status` and the steps of its life, through the admin port.

Each step is a record with who asked and why. Steps that need people's signatures (`approve`, and `promote` against the evidence) are signed here and
verified by the gateway; the private key never leaves this command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.table import Table

from gateway.cli.admin_client import AdminClient, AdminOption, ApiKeyOption
from gateway.cli.experiment_new import new
from gateway.cli.folder import DirOption
from gateway.cli.terminal import JsonFlag, emit_json, err, fail, out
from gateway.cli.trust import read_person_key
from gateway.config.layout import write_durably
from policies.consent import LONGEST_US, Consent, sign_consent

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the experiment.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it goes into the log.")]
As = Annotated[str | None, typer.Option("--as", metavar="PERSON", help="Who signs: a person of the trust root.")]
KeyOption = Annotated[Path | None, typer.Option("--key", help="Their private key; SSH ed25519 keys work.")]
ConsentOption = Annotated[list[Path] | None, typer.Option("--consent", help="A consent that someone else signed with `--write`.")]
WriteOption = Annotated[Path | None, typer.Option("--write", help="Only sign, and write the consent here for whoever delivers it.")]
_CONSENT_US = 86_400_000_000


def register(app: typer.Typer) -> None:
    """Add the commands to the `experiment` group."""
    app.command("new")(new)
    app.command("list")(list_experiments)
    app.command("status")(status)
    for verb, command in STEPS.items():
        app.command(verb)(command)
    app.command("approve")(approve)
    app.command("promote")(promote)


def list_experiments(
    directory: DirOption = Path(),
    admin: AdminOption = None,
    api_key: ApiKeyOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """List every experiment there ever was, ended ones too.

    Example: assay experiment list
    """
    register_rows = AdminClient(directory, admin, api_key).get("/api/experiments")["register"]
    if json_flag:
        emit_json(register_rows)
        return
    out.print(register_table(register_rows))


def register_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the register as a table; names are never cut, because other commands ask for them, and times fold where it is narrow."""
    table = Table()
    table.add_column("experiment", min_width=max((len(row["name"]) for row in rows), default=0), no_wrap=True)
    for heading in ("stage", "decision", "epoch", "first step", "last step"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(row["name"], row["stage"], row["decision"] or "-", str(row["epoch"]), row["first"] or "-", row["last"] or "-")
    return table


def status(
    name: Name,
    directory: DirOption = Path(),
    admin: AdminOption = None,
    api_key: ApiKeyOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Say where an experiment is, what is known, and what can be done from here.

    Example: assay experiment status credit-v4
    """
    found = AdminClient(directory, admin, api_key).get(f"/api/experiments/{name}")
    if json_flag:
        emit_json(found)
        return
    out.print(f"{found['name']}: {found['stage']}, epoch {found['epoch']}; {found['strategy']} on {found['model']}", markup=False)
    out.print(found["verdict"], markup=False, soft_wrap=True)
    for reason in found["reasons"]:
        out.print(f"  {reason}", markup=False, soft_wrap=True)
    for arm in found["arms"]:
        control = ", the control" if arm["control"] else ""
        who = arm["version"] if arm["version"].startswith("a person") else f"version {arm['version']}"
        share = "split not declared" if arm["share"] == "not declared" else f"{arm['share']} of the compared"
        out.print(f"  {arm['name']}: {who}{control}, {share}, {arm['units']} units", markup=False)
    for line in _standing(found):
        out.print(f"  {line}", markup=False, soft_wrap=True)
    for row in found["history"][:5]:
        by = f" by {row['by']}" if row["by"] else ""
        out.print(f"  {row['time']} {row['action']}{by}: {row['reason']}", markup=False, soft_wrap=True)
    out.print(f"can be done from here: {', '.join(found['may']) or 'nothing'}", markup=False)


def _standing(found: dict[str, Any]) -> list[str]:
    """Return effects, who answered, whether units arrive as declared, and what would change the verdict, a line each."""
    lines = [effect["words"] for effect in found["effects"]]
    for metric in found["responses"]:
        answered = ", ".join(f"{one['arm']} {one['answered']} of {one['due']}" for one in metric["arms"])
        waiting = f"; the window of {metric['pending']} is still open" if metric["pending"] else ""
        lines.append(f"{metric['metric']} answered: {answered}{waiting}")
    if found["sample_ratio"]:
        off = [stage["stage"] for stage in found["sample_ratio"] if stage["off"]]
        stages = ", ".join(stage["stage"] for stage in found["sample_ratio"])
        lines.append(f"sample ratio OFF at: {', '.join(off)}" if off else f"sample ratio as declared at: {stages}")
    return [*lines, *(f"what would change this: {words}" for words in found["outlook"])]


def _ask(client: AdminClient, verb: str, name: str, reason: str, body: dict[str, Any], *, json_flag: bool) -> None:
    answer = client.post(f"/api/experiments/{name}/{verb}", {"reason": reason, **body})
    if json_flag:
        emit_json(answer)
    else:
        out.print(f"{name}: {answer['from'].replace('_', ' ')} -> {answer['to'].replace('_', ' ')}", markup=False)


def _step(verb: str, told: str) -> Callable[..., None]:
    """Return the command of a step that takes a key and a reason, nothing else; `told` is its help."""

    def step(
        name: Name,
        reason: Reason,
        directory: DirOption = Path(),
        admin: AdminOption = None,
        api_key: ApiKeyOption = None,
        *,
        json_flag: JsonFlag = False,
    ) -> None:
        _ask(AdminClient(directory, admin, api_key), verb, name, reason, {}, json_flag=json_flag)

    step.__name__, step.__doc__ = verb, told
    return step


STEPS: Final = {
    "start": _step(
        "start",
        """Start a draft: its plan is hashed and committed before the first draw.

    Example: assay experiment start credit-v4 --reason "plan agreed with risk"
    """,
    ),
    "pause": _step(
        "pause",
        """Pause: the control serves everyone, the evidence is kept, the deadline goes on.

    Example: assay experiment pause credit-v4 --reason "complaints at the call centre"
    """,
    ),
    "resume": _step(
        "resume",
        """Resume a paused experiment on the step it was paused on; the step's hold begins anew.

    Example: assay experiment resume credit-v4 --reason "unrelated outage"
    """,
    ),
    "rollback": _step(
        "rollback",
        """Send everyone back to the control, for good: this experiment does not run again.

    Example: assay experiment rollback credit-v4 --reason "wrong on thin files"
    """,
    ),
    "stop": _step(
        "stop",
        """End without a decision: the model's default version serves everyone.

    Example: assay experiment stop credit-v4 --reason "superseded by version 5"
    """,
    ),
}
"""Steps without signatures -> their command."""


def approve(
    name: Name,
    person: As = None,
    key: KeyOption = None,
    directory: DirOption = Path(),
    reason: Reason = "approved",
    consent: ConsentOption = None,
    write: WriteOption = None,
    admin: AdminOption = None,
    api_key: ApiKeyOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Sign that the step it waits on may be left. The signature goes into the log.

    Example: assay experiment approve credit-v4 --as lending-risk --key keys/lending-risk.key
    """
    _signed("approve", name, person, key, reason, consent or [], write, AdminClient(directory, admin, api_key), json_flag=json_flag)


def promote(
    name: Name,
    reason: Reason,
    person: As = None,
    key: KeyOption = None,
    directory: DirOption = Path(),
    consent: ConsentOption = None,
    write: WriteOption = None,
    admin: AdminOption = None,
    api_key: ApiKeyOption = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Give the challenger everyone. What is not proven fine takes the consents of two approvers, and is marked so for good.

    Example: assay experiment promote credit-v4 --reason "proven" --as bob --key keys/bob.key --consent alice.consent
    """
    _signed("promote", name, person, key, reason, consent or [], write, AdminClient(directory, admin, api_key), json_flag=json_flag)


def _signed(
    verb: Literal["approve", "promote"],
    name: str,
    person: str | None,
    key: Path | None,
    reason: str,
    consents: list[Path],
    write: Path | None,
    client: AdminClient,
    *,
    json_flag: bool,
) -> None:
    """Sign a consent where someone signs, then write it down or deliver it with the others."""
    found = client.get(f"/api/experiments/{name}")
    envelopes = [_read_consent(path) for path in consents]
    if (person is None) != (key is None):
        fail("a signature needs both who and their key", hint="--as PERSON --key FILE")
    if person is not None and key is not None:
        envelopes.append(_sign(verb, found, reason, key))
    if write is not None:
        if person is None:
            fail("there is nothing to write: nobody signs", hint="--as PERSON --key FILE")
        write_durably(write, envelopes[-1].encode(), replace=True)
        err.print(f"wrote {write}; it holds for a day, for {name} epoch {found['epoch']} step {found['step']} alone", markup=False, soft_wrap=True)
        return
    _ask(client, verb, name, reason, {"epoch": found["epoch"], "consents": envelopes}, json_flag=json_flag)


def _sign(verb: Literal["approve", "promote"], found: dict[str, Any], reason: str, key: Path) -> str:
    now_us = time.time_ns() // 1000
    consent = Consent(
        found["name"], found["epoch"], found["document_digest"], verb, found["step"], reason, now_us, now_us + min(_CONSENT_US, LONGEST_US)
    )
    return sign_consent(consent, read_person_key(key)).decode()


def _read_consent(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as fault:
        fail(f"consent `{path}` cannot be read: {fault}")
