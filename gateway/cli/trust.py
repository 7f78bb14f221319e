"""`assay trust`: who people are, which keys are theirs, and how many must agree.

A change of the root is a new version, written beside the one in force as `trust/root.next.json` and signed there by people of the old root; the
signature that completes it puts it in place. A running gateway keeps the root it pinned until it is started again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from audit.keys import InvalidKey, read_secret_file
from gateway.cli.folder import DirOption, layout_of
from gateway.cli.terminal import Exit, JsonFlag, emit_json, fail, out
from gateway.config.layout import Layout, write_durably
from policies.trust import DEFAULT_THRESHOLDS, InvalidTrust, Key, Person, PersonKey, TrustRoot, ceremony, read_public_key

app = typer.Typer(no_args_is_help=True, help="People, keys, roles, thresholds: the trust root.")
_MOST_PUBLIC_BYTES = 16 * 1024


@app.command("init")
def init(
    person: Annotated[list[str], typer.Option("--person", help="A person; once for each.")],
    directory: DirOption = Path(),
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Make a development root: everyone named gets a key in keys/ and is approver and root.

    Example: assay trust init --person alice --person bob
    """
    layout = layout_of(directory)
    if layout.trust_root.exists():
        fail(f"`{layout.trust_root}` exists", hint="a root changes only by its own people: `assay trust add-person`, then `assay trust sign`")
    if len(set(person)) != len(person):
        fail("each --person is named once")
    keys = {name: PersonKey.from_seed(os.urandom(32)) for name in person}
    try:
        root = ceremony(keys, thresholds={**DEFAULT_THRESHOLDS, "approve.high": min(2, len(person))})
    except InvalidTrust as error:
        fail(str(error))
    for name, key in keys.items():
        path = layout.keys / f"{name}.key"
        try:
            write_durably(path, key.encode().encode(), mode=0o600)
        except FileExistsError:
            fail(f"`{path}` exists and is not overwritten", hint="move it away first")
    write_durably(layout.trust_root, root.encode())
    _tell(root, layout.trust_root, json_flag=json_flag)


@app.command("add-person")
def add_person(
    name: Annotated[str, typer.Argument(help="Name of the person; an existing one gets a further key.")],
    public_key: Annotated[Path, typer.Option("--public-key", help="Their public key: an OpenSSH line (id_ed25519.pub) or base64.")],
    role: Annotated[list[str] | None, typer.Option("--role", help="approver, root; default approver.")] = None,
    directory: DirOption = Path(),
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Draft the next root with one person (or key) more. It counts once `assay trust sign` has gathered enough signatures.

    Example: assay trust add-person carol --public-key carol.pub
    """
    layout = layout_of(directory)
    old = read_root(layout)
    draft_path = _draft(layout)
    try:
        base = TrustRoot.parse_unsigned(draft_path.read_bytes()) if draft_path.exists() else None
        key = read_public_key(public_key.read_bytes()[:_MOST_PUBLIC_BYTES].decode("utf-8", "replace"))
        people = _with(base.people if base else old.people, name, key, tuple(sorted(set(role or ["approver"]))))
        draft = old.next(people=people, thresholds=base.thresholds if base else None)
    except OSError as error:
        fail(f"cannot read `{error.filename}`: {error.strerror}")
    except InvalidTrust as error:
        fail(str(error))
    write_durably(draft_path, draft.encode(), replace=True)
    _tell(draft, draft_path, json_flag=json_flag)


@app.command("sign")
def sign(
    key: Annotated[Path, typer.Option("--key", help="Private key of a person: from `assay trust init`, OpenSSH ed25519, or PKCS #8.")],
    directory: DirOption = Path(),
    *,
    json_flag: JsonFlag = False,
) -> None:
    """Sign the drafted root. The signature that completes it puts it in place.

    Example: assay trust sign --key keys/alice.key
    """
    layout = layout_of(directory)
    old = read_root(layout)
    draft_path = _draft(layout)
    if not draft_path.exists():
        fail("there is no drafted root to sign", hint="assay trust add-person NAME --public-key FILE")
    try:
        draft = TrustRoot.parse_unsigned(draft_path.read_bytes()).signed(read_person_key(key))
    except (OSError, InvalidTrust) as error:
        fail(f"`{draft_path}`: {error}")
    try:
        draft.require_successor_of(old)
    except InvalidTrust as error:
        write_durably(draft_path, draft.encode(), replace=True)
        fail(str(error), hint="your signature is kept; the next person signs the same file", code=Exit.INCOMPLETE)
    write_durably(layout.trust_root, draft.encode(), replace=True)
    draft_path.unlink()
    _tell(draft, layout.trust_root, json_flag=json_flag)


def read_root(layout: Layout) -> TrustRoot:
    """Return the trust root of a deployment, or exit saying why not."""
    try:
        return TrustRoot.parse(layout.trust_root.read_bytes())
    except FileNotFoundError:
        fail(f"trust root `{layout.trust_root}` is missing", hint="assay trust init --person NAME")
    except (OSError, InvalidTrust) as error:
        fail(f"trust root `{layout.trust_root}`: {error}", code=Exit.NO)


def read_person_key(path: Path) -> PersonKey:
    """Return a person's private key, asking for its passphrase if it has one; exit saying why not."""
    try:
        text = read_secret_file(path, limit_bytes=_MOST_PUBLIC_BYTES)
        try:
            return PersonKey.load(text)
        except InvalidTrust as error:
            if "assword" not in str(error):
                raise
            return PersonKey.load(text, typer.prompt("Passphrase", hide_input=True, err=True).encode())
    except (InvalidKey, InvalidTrust) as error:
        fail(f"`{path}`: {error}")


def _draft(layout: Layout) -> Path:
    return layout.trust_root.with_name("root.next.json")


def _with(people: tuple[Person, ...], name: str, key: Key, roles: tuple[str, ...]) -> tuple[Person, ...]:
    known = {person.name: person for person in people}
    if name in known:
        person = known[name]
        known[name] = Person(name, (*person.keys, key), tuple(sorted({*person.roles, *roles})))
    else:
        known[name] = Person(name, (key,), roles)
    return tuple(known.values())


def _tell(root: TrustRoot, path: Path, *, json_flag: bool) -> None:
    if json_flag:
        people = [{"name": person.name, "roles": list(person.roles), "keys": [key.id for key in person.keys]} for person in root.people]
        emit_json({"path": str(path), "version": root.version, "digest": root.digest, "people": people, "thresholds": dict(root.thresholds)})
        return
    out.print(f"{path}: trust root version {root.version}, digest {root.digest}", markup=False, soft_wrap=True)
    for person in root.people:
        out.print(f"  {person.name}: {', '.join(person.roles)}; keys {', '.join(key.id for key in person.keys)}", markup=False, soft_wrap=True)
