"""`assay init`, `check`, `schema`, `plan`: from an empty folder to a configuration that holds.

These are top-level commands: `main.py` adds them by `register`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer

import gateway
from audit.keys import InvalidKey, SigningKey, read_secret, save_signing_key
from audit.signer import load_signer
from experiments.document import ExperimentDocument
from gateway import apikeys
from gateway.cli.folder import Directory, layout_of
from gateway.cli.key import FIRST_TENANT
from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out
from gateway.config.compile import Compiled, compile_folder
from gateway.config.gateway_file import GatewayFile
from gateway.config.layout import Layout, write_durably
from gateway.config.plan import EMPTY, Load, movements
from gateway.config.plan import plan as plan_changes
from gateway.config.schemas import FILES
from gateway.config.schemas import schema as schema_of
from gateway.documents import Manifest, decode
from gateway.processes.control import ControlDirectory, ControlError
from policies.trust import DEFAULT_THRESHOLDS, InvalidTrust, PersonKey, TrustRoot, ceremony


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the top level."""
    app.command("init")(init)
    app.command("check")(check)
    app.command("schema")(schema)
    app.command("plan")(plan)


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet, or is empty.")],
    person: Annotated[list[str] | None, typer.Option("--person", help="People of the development trust root; twice or more for high risk.")] = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Write a configuration that teaches, a development trust root, a log key and an API key.

    Example: assay init demo && assay check demo
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        fail(f"`{directory}` exists and is not empty", hint="name a new folder: nothing is ever overwritten")
    people = person or ["alice", "bob"]
    if len(set(people)) != len(people):
        fail("each --person is named once", hint="a person with several keys: `assay trust add-person`")
    directory.mkdir(parents=True, exist_ok=True)
    _copy(_reference(), directory / "config")
    for name, folder_mode in (("keys", 0o700), ("trust", 0o755), ("approvals", 0o755), ("data", 0o750)):
        (directory / name).mkdir(mode=folder_mode)
    layout = Layout.of(directory)
    gateway_file = compile_folder(layout.config).gateway
    if gateway_file is None:
        fail("the reference configuration of this installation is broken", hint="install Assay again", code=Exit.NO)
    log_key = SigningKey.generate(gateway_file.audit.origin)
    save_signing_key(log_key, layout.keys / "log.key")
    keys = {name: PersonKey.from_seed(os.urandom(32)) for name in people}
    for name, key in keys.items():
        write_durably(layout.keys / f"{name}.key", key.encode().encode(), mode=0o600)
    thresholds = {**DEFAULT_THRESHOLDS, "approve.high": min(2, len(people))}
    root = ceremony(keys, thresholds=thresholds)
    write_durably(layout.trust_root, root.encode())
    secret, file = apikeys.create(
        apikeys.new_file(os.urandom),
        tenant=FIRST_TENANT,
        scopes=("infer", "unit:assert", "feedback:write", "admin:read", "tenants:all"),
        note="made by assay init",
        random=os.urandom,
        now_us=time.time_ns() // 1000,
    )
    write_durably(layout.resolve(gateway_file.keys.file), apikeys.encode(file), mode=0o600)
    if json_flag:
        emit_json({"directory": str(directory), "api_key": secret, "log_vkey": str(log_key.verifier), "trust_root": root.digest, "people": people})
        return
    out.print(f"Configuration written to {directory}/config; read the comments, they teach.", markup=False)
    out.print(f"API key (shown once, keep it): {secret}", markup=False, soft_wrap=True)
    out.print(f"Log's public key: {log_key.verifier}", markup=False, soft_wrap=True)
    out.print(f"Trust root version 1, people: {', '.join(people)} (keys in {directory}/keys). Digest {root.digest}", markup=False, soft_wrap=True)
    err.print("This is a development root: whoever has this folder is everyone in it. For real use every person makes their own key.", soft_wrap=True)
    example = f"assay model approve credit-risk 3 --as {people[0]} --key {directory}/keys/{people[0]}.key --dir {directory}"
    out.print(f"Next: assay check {directory}; {example}; assay serve {directory}", markup=False, soft_wrap=True)


def check(
    directory: Directory = Path(),
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Check a configuration and the secrets it names; tell everything that is wrong at once.

    Example: assay check . || echo "not served"
    """
    layout = layout_of(directory)
    compiled = compile_folder(layout.config)
    problems = [str(issue) for issue in compiled.issues] + _secret_problems(layout, compiled)
    notes = [] if problems else _unapproved(layout, compiled)
    if json_flag:
        counts = _counts(compiled.manifest) if compiled.manifest else {}
        digest = compiled.digest if compiled.manifest else None
        emit_json({"ok": not problems, "config_digest": digest, "counts": counts, "problems": problems, "notes": notes})
    elif problems:
        for problem in problems:
            out.print(problem, markup=False, soft_wrap=True)
        err.print(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}; a running gateway keeps its old configuration.")
    else:
        listed = ", ".join(f"{count} {name}" for name, count in _counts(compiled.manifest).items())
        for path, verdict in sorted(compiled.verdicts.items()):
            for reason in verdict.reasons:
                words = f"{path}: {reason['mode']}: policy `{reason['package']}` says {reason['id']} {reason['msg']}"
                out.print(words, markup=False, soft_wrap=True)
        out.print(f"ok: {listed}; config digest {compiled.digest}", markup=False, soft_wrap=True)
        for note in notes:
            out.print(note, markup=False, soft_wrap=True)
    if problems:
        raise typer.Exit(int(Exit.NO))


def _unapproved(layout: Layout, compiled: Compiled) -> list[str]:
    """Return which default versions nobody approved, and what keeps each blue-green switch from being started: an unapproved side."""
    from gateway.cli.missing_approvals import unapproved_arms, unapproved_defaults  # noqa: PLC0415 - cryptography, only where it is asked for

    if compiled.manifest is None:
        return []
    documents = [msgspec.json.decode(compiled.objects[digest], type=ExperimentDocument) for digest in compiled.manifest.experiments.values()]
    switches = [document for document in documents if document.strategy == "blue_green"]
    return [
        *unapproved_defaults(layout, compiled),
        *(
            f"experiments/{document.experiment}.yaml: cannot be started yet: {line}"
            for document in switches
            for line in unapproved_arms(layout, compiled, document).values()
        ),
    ]


def schema(
    kind: Annotated[str | None, typer.Argument(metavar="[FILE-KIND]", help=f"One of {', '.join(FILES)}; without it, all.")] = None,
) -> None:
    """Print the JSON Schema of a kind of file, for editors and checks elsewhere.

    Example: assay schema model > model.schema.json
    """
    if kind is None:
        emit_json({name: schema_of(name) for name in FILES})
        return
    if kind not in FILES:
        fail(f"there is no kind `{kind}`", hint=f"one of {', '.join(FILES)}")
    emit_json(schema_of(kind))


def plan(
    directory: Directory = Path(),
    against: Annotated[Path | None, typer.Option("--against", help="Another configuration folder; by default what is in force here.")] = None,
    sample: Annotated[int, typer.Option("--sample", min=1, max=1_000_000, help="Units assigned under both configurations.")] = 10_000,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Show what a configuration would change: models, experiments, policies, and how many units move to another version.

    Example: assay plan . --against ../main
    """
    layout = layout_of(directory)
    new = _compiled(layout)
    if new.manifest is None:
        fail("a configuration with problems cannot be planned", hint=f"assay check {directory}", code=Exit.NO)
    old, load_old, what = _baseline(layout, new, against)
    load_new = new.objects.__getitem__
    changes = plan_changes(old, load_old, new.manifest, load_new)
    moved = movements(old, load_old, new.manifest, load_new, sample=sample)
    if json_flag:
        emit_json(
            {
                "against": what,
                "changes": [{"kind": c.kind, "name": c.name, "action": c.action, "fields": list(c.fields), "note": c.note} for c in changes],
                "movements": [{"model": m.model, "moved": m.moved, "sample": m.sample, "by_pair": dict(m.by_pair)} for m in moved],
            }
        )
        return
    out.print(f"Compared with {what}: {len(changes)} change{'' if len(changes) == 1 else 's'}", markup=False, soft_wrap=True)
    for change in changes:
        out.print(f"  {change}", markup=False, soft_wrap=True)
    for movement in moved:
        pairs = "; ".join(f"{pair}: {count}" for pair, count in movement.by_pair.items())
        out.print(
            f"  {movement.model}: {movement.moved} of {movement.sample} sampled units change version" + (f" ({pairs})" if pairs else ""), markup=False
        )
    if moved:
        err.print("Units are assigned with every experiment at its first step; a rollout that is further along moves other numbers.")


def _compiled(layout: Layout) -> Compiled:
    compiled = compile_folder(layout.config)
    for issue in compiled.issues:
        err.print(str(issue), markup=False, soft_wrap=True)
    return compiled


def _baseline(layout: Layout, new: Compiled, against: Path | None) -> tuple[Manifest, Load, str]:
    """Return what to compare with: another folder, or what is in force in this one, or nothing at all."""
    if against is not None:
        other = _compiled(layout_of(against))
        if other.manifest is None:
            fail(f"`{against}` has problems", hint=f"assay check {against}", code=Exit.NO)
        return other.manifest, other.objects.__getitem__, f"`{against}`"
    store = new.gateway.store_directory if new.gateway else "data"
    control = ControlDirectory(layout.resolve(store))
    try:
        current = control.current()
        if current is None:
            return EMPTY, new.objects.__getitem__, "nothing (no configuration has been in force here)"
        return decode(control.get(current.manifest), Manifest), control.get, f"what is in force, {current.manifest[:12]}"
    except (ControlError, ValueError, OSError) as error:
        fail(f"what is in force cannot be read: {error}", hint="compare with a folder: `--against DIR`", code=Exit.INCOMPLETE)


def _secret_problems(layout: Layout, compiled: Compiled) -> list[str]:
    """Return what is wrong with the secrets and the trust root a configuration needs."""
    problems: list[str] = []
    if compiled.gateway is not None:
        try:
            key = load_signer(compiled.gateway.audit.key, base=layout.root, environ=os.environ)
            if key.name != compiled.gateway.audit.origin:
                problems.append(
                    f"gateway.yaml: audit.key: the key is named `{key.name}`, the log `{compiled.gateway.audit.origin}`; they must be the same"
                )
        except InvalidKey as error:
            problems.append(f"gateway.yaml: audit.key: {error}")
        problems += _vault_problems(layout, compiled.gateway)
        try:
            apikeys.load(layout.resolve(compiled.gateway.keys.file))
        except apikeys.InvalidKeyFile as error:
            problems.append(f"gateway.yaml: keys.file: {error}")
    try:
        TrustRoot.parse(layout.trust_root.read_bytes())
    except FileNotFoundError:
        problems.append(f"trust root `{layout.trust_root}` is missing; hint: `assay trust init`")
    except (OSError, InvalidTrust) as error:
        problems.append(f"trust root `{layout.trust_root}`: {error}")
    return problems


def _vault_problems(layout: Layout, found: GatewayFile) -> list[str]:
    """Return what is wrong with the vault's master keys, where there is a vault."""
    if found.vault is None:
        return []
    from audit.vault.crypto import MasterKey  # noqa: PLC0415 - cryptography, only where it is asked for

    problems = []
    for name, reference in (("key", found.vault.key), ("previous", found.vault.previous)):
        if reference is None:
            continue
        try:
            MasterKey.parse(read_secret(reference, base=layout.root, environ=os.environ))
        except InvalidKey as error:
            problems.append(f"gateway.yaml: vault.{name}: {error}")
    return problems


def _counts(manifest: Manifest | None) -> Mapping[str, int]:
    if manifest is None:
        return {}
    return {
        "models": len(manifest.models),
        "experiments": len(manifest.experiments),
        "policies": sum(path.endswith(".rego") for path in manifest.policies),
    }


def _reference() -> Path:
    """Return the reference configuration: in the installed package, or `config/` of a checkout."""
    package = Path(gateway.__file__).parent
    found = [folder for folder in (package / "reference", package.parent / "config") if (folder / "gateway.yaml").is_file()]
    if not found:
        fail("this installation holds no reference configuration", hint="install Assay from its wheel, or run it from a checkout")
    return found[0]


def _copy(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            write_durably(target / path.relative_to(source), path.read_bytes())
