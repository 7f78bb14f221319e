"""`assay model`: approve, revoke, list. Writes signed envelopes into the inbox; the running controller verifies, records and applies them.

An envelope binds what the configuration says *now*: digest, origins and intended use of the version. Who signs sees them before.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gateway.cli.folder import DirOption, layout_of
from gateway.cli.terminal import Exit, JsonFlag, emit_json, err, fail, out
from gateway.cli.trust import read_person_key, read_root
from gateway.config.compile import compile_folder
from gateway.config.layout import Layout, write_durably
from gateway.config.quantities import parse_duration_us, parse_share_ppm
from gateway.documents import RouteDocument, VersionDocument
from policies.approvals import Approval, InvalidApproval, Revocation, load, origin_of, sign_approval, sign_revocation, time_text
from policies.in_force import Candidate, judge
from policies.trust import PersonKey, TrustRoot

app = typer.Typer(no_args_is_help=True, help="Which versions may serve.")
SUFFIX = ".dsse.json"
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Name of the version.")]
As = Annotated[str, typer.Option("--as", metavar="PERSON", help="Who signs: a person of the trust root.")]
KeyOption = Annotated[Path, typer.Option("--key", help="Their private key; SSH ed25519 keys work.")]


@dataclass(frozen=True, slots=True)
class _Configured:
    """What the configuration says of all models."""

    routes: dict[str, RouteDocument]
    environment: str


@app.command("approve")
def approve(
    model: Model,
    version: Version,
    person: As,
    key: KeyOption,
    directory: DirOption = Path(),
    valid_for: Annotated[str, typer.Option("--valid-for", help="How long it holds; at most 366d.")] = "90d",
    max_exposure: Annotated[str, typer.Option("--max-exposure", help="Most of the traffic it may get.")] = "100%",
    environment: Annotated[list[str] | None, typer.Option("--environment", help="Where it holds; default: the configured one.")] = None,
    evidence: Annotated[list[Path] | None, typer.Option("--evidence", help="A report the approval rests on; its digest is signed.")] = None,
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Sign that a version may serve.

    Example: assay model approve credit-risk 4 --as alice --key ~/.ssh/id_ed25519 --max-exposure 5%
    """
    layout = layout_of(directory)
    root, configured = read_root(layout), _configured(layout)
    route, document = _version(configured, model, version)
    signer = _signer(root, person, key)
    if person == document.submitted_by:
        fail(f"`{person}` handed version `{version}` in and never counts among its approvers", hint="someone else approves", code=Exit.NO)
    now_us = time.time_ns() // 1000
    try:
        approval = Approval(
            model=model,
            version=version,
            digest=document.digest,
            origins=tuple(sorted({origin_of(upstream) for upstream in document.upstreams})),
            environments=tuple(sorted(set(environment or [configured.environment]))),
            purpose=route.intended_use,
            max_exposure_ppm=parse_share_ppm(max_exposure),
            issued_at_us=now_us,
            not_before_us=now_us,
            not_after_us=now_us + parse_duration_us(valid_for),
            evidence=tuple((path.name, _digest_of(path)) for path in evidence or []),
        )
        envelope = sign_approval(approval, signer)
    except ValueError as error:
        fail(str(error))
    path = _deliver(layout, envelope, root)
    approvals, revocations, _ = read_inbox(layout, root)
    judgement = judge(approvals, revocations, candidate_of(route, document), root, configured.environment, now_us, approval.max_exposure)
    if json_flag:
        emit_json({"approval": _id(envelope), "file": str(path), "in_force": judgement.reason is None, "reason": judgement.reason})
        return
    out.print(f"{person} approves {model} version {version}, until {time_text(approval.not_after_us)}: {path}", markup=False, soft_wrap=True)
    out.print(f"  artifact {document.digest}", markup=False, soft_wrap=True)
    out.print(
        f"  answers at {', '.join(approval.origins)}; used for: {approval.purpose}; in {', '.join(approval.environments)}",
        markup=False,
        soft_wrap=True,
    )
    if judgement.reason is None:
        out.print("Enough people have approved.")
    else:
        err.print(f"Not in force yet: {judgement.reason}; {route.risk} risk needs {root.needed(f'approve.{route.risk}')} people.", markup=False)


@app.command("revoke")
def revoke(
    model: Model,
    version: Version,
    person: As,
    key: KeyOption,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the log.")],
    directory: DirOption = Path(),
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Take back every approval of a version given so far. One approver is enough.

    Example: assay model revoke credit-risk 4 --as bob --key keys/bob.key --reason "wrong training data"
    """
    layout = layout_of(directory)
    root, configured = read_root(layout), _configured(layout)
    _, document = _version(configured, model, version)
    signer = _signer(root, person, key)
    try:
        envelope = sign_revocation(Revocation(model, version, document.digest, reason, time.time_ns() // 1000), signer)
    except InvalidApproval as error:
        fail(str(error))
    path = _deliver(layout, envelope, root)
    if json_flag:
        emit_json({"revocation": _id(envelope), "file": str(path)})
    else:
        out.print(f"{person} revokes {model} version {version}: {path}", markup=False, soft_wrap=True)


@app.command("list")
def list_models(
    directory: DirOption = Path(),
    *,
    json_flag: JsonFlag = False,
) -> None:
    """List models and versions with who has approved them, as the inbox here says.

    Example: assay model list
    """
    layout = layout_of(directory)
    root, configured = read_root(layout), _configured(layout)
    approvals, revocations, refused = read_inbox(layout, root)
    now_us = time.time_ns() // 1000
    rows = []
    for route in configured.routes.values():
        for document in route.versions.values():
            candidate = candidate_of(route, document)
            # At the least exposure there is: a version approved for 5 % is in force, up to that.
            judgement = judge(approvals, revocations, candidate, root, configured.environment, now_us, 1)
            people = sorted({approval.person for approval in approvals if approval.id in judgement.ids})
            rows.append(
                {
                    "model": route.model,
                    "version": document.name,
                    "risk": route.risk,
                    "stage": document.stage,
                    "default": document.name == route.default_version,
                    "approved_by": people,
                    "in_force": judgement.reason is None,
                    "reason": judgement.reason,
                }
            )
    for problem in refused:
        err.print(problem, markup=False, soft_wrap=True)
    if json_flag:
        emit_json({"environment": configured.environment, "versions": rows})
        return
    for row in rows:
        state = "may serve" if row["in_force"] else f"may not serve ({row['reason']})"
        names = ", ".join(row["approved_by"]) if isinstance(row["approved_by"], list) and row["approved_by"] else "nobody"
        default = ", default" if row["default"] else ""
        out.print(
            f"{row['model']} {row['version']}: {state}; {row['risk']} risk, {row['stage']}{default}; approved by {names}",
            markup=False,
            soft_wrap=True,
        )


def read_inbox(layout: Layout, root: TrustRoot) -> tuple[list[Approval], list[Revocation], list[str]]:
    """Return the approvals and revocations in the inbox that are valid under `root`, and a line about each file that is not."""
    approvals: list[Approval] = []
    revocations: list[Revocation] = []
    refused: list[str] = []
    for path in sorted(layout.approvals.glob(f"*{SUFFIX}")) if layout.approvals.is_dir() else []:
        try:
            found = load(path.read_bytes(), root)
        except (OSError, InvalidApproval) as error:
            refused.append(f"{path}: {error}")
            continue
        if isinstance(found, Approval):
            approvals.append(found)
        else:
            revocations.append(found)
    return approvals, revocations, refused


def _configured(layout: Layout) -> _Configured:
    compiled = compile_folder(layout.config)
    if compiled.manifest is None or compiled.gateway is None:
        _explain(compiled.issues)
        fail("the configuration has problems; nothing was signed", hint=f"assay check {layout.root}", code=Exit.NO)
    routes = {name: msgspec.json.decode(compiled.objects[digest], type=RouteDocument) for name, digest in compiled.manifest.models.items()}
    return _Configured(routes, compiled.gateway.environment)


def _explain(lines: Iterable[object]) -> None:
    for line in lines:
        err.print(str(line), markup=False, soft_wrap=True)


def _version(configured: _Configured, model: str, version: str) -> tuple[RouteDocument, VersionDocument]:
    route = configured.routes.get(model)
    if route is None:
        fail(f"there is no model `{model}`", hint=_listed("models", list(configured.routes)))
    document = route.versions.get(version)
    if document is None:
        fail(f"model `{model}` has no version `{version}`", hint=_listed("versions", list(route.versions)))
    return route, document


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{what}: {', '.join(sorted(names)[:24])}"


def _signer(root: TrustRoot, person: str, path: Path) -> PersonKey:
    key = read_person_key(path)
    owner = root.person_of(key.id)
    if owner is None:
        fail(f"key `{key.id}` is not in trust root version {root.version}", hint="assay trust add-person NAME --public-key FILE")
    if owner.name != person:
        fail(f"key `{key.id}` belongs to `{owner.name}`, not to `{person}`", hint=f"--as {owner.name}")
    if "approver" not in owner.roles:
        fail(
            f"`{person}` does not have the role `approver`",
            hint="the people of the trust root give roles: `assay trust add-person --role`",
            code=Exit.NO,
        )
    return key


def _deliver(layout: Layout, envelope: bytes, root: TrustRoot) -> Path:
    """Put an envelope into the inbox, after reading it back as the controller will."""
    load(envelope, root)
    path = layout.approvals / f"{_id(envelope)}{SUFFIX}"
    write_durably(path, envelope, replace=True)  # the name is the content's digest: the same envelope again changes nothing
    return path


def _id(envelope: bytes) -> str:
    return hashlib.sha256(envelope).hexdigest()[:32]


def _digest_of(path: Path) -> str:
    try:
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError as error:
        fail(f"evidence `{path}` cannot be read: {error.strerror}")


def candidate_of(route: RouteDocument, version: VersionDocument) -> Candidate:
    """Return a version as approvals are judged for it."""
    return Candidate(route.model, version.name, version.digest, version.upstreams, route.risk, route.intended_use, version.submitted_by)
