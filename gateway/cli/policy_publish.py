"""`assay policy publish`: the policies of a configuration in a running OPA, or as a bundle for OPA to load."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from gateway.cli.terminal import Exit, emit_json, fail, out
from gateway.config.compile import compile_folder
from policies.bundle import PolicyBundle
from policies.opa.archive import archive as packed
from policies.opa.archive import revision_of
from policies.opa.query import packages_of

TIMEOUT_S: Final = 10.0
"""For each request: putting policies is no decision, and OPA compiles all of them every time."""


def publish_policies(config: Path, to: str | None, archive: Path | None, token_file: Path | None, *, verify_only: bool, as_json: bool) -> None:
    """Put the policies of a configuration folder where they are asked for, and print their revision."""
    if (to is None) == (archive is None):
        fail("say where to: one of `--to` and `--archive`", hint="for example `--to http://127.0.0.1:8181`")
    bundle = _bundle(config)
    done: dict[str, Any] = {"packages": [package.name for package in packages_of(bundle)], "modules": len(bundle.modules)}
    if archive is not None:
        archive.write_bytes(packed(bundle.modules, packages_of(bundle), bundle.data))
        done |= {"revision": revision_of(bundle.modules, packages_of(bundle), bundle.data), "archive": str(archive)}
    elif to is not None:
        done |= {"revision": _published(bundle, to, token_file, verify_only=verify_only), "server": to}
    if as_json:
        emit_json(done)
        return
    where = done.get("archive") or to
    verb = "stands as published on" if verify_only else "is in"
    out.print(
        f"{len(done['packages'])} packages, {done['modules']} modules: revision {done['revision']} {verb} {where}", markup=False, soft_wrap=True
    )


def _bundle(config: Path) -> PolicyBundle:
    compiled = compile_folder(config)
    if compiled.issues:
        fail(f"`{config}` has mistakes, so nothing of it is published", hint="`assay check` tells them", code=Exit.NO)
    return compiled.bundle or PolicyBundle.load({}, {})


def _published(bundle: PolicyBundle, to: str, token_file: Path | None, *, verify_only: bool) -> str:
    try:
        from policies.opa.client import Client  # noqa: PLC0415 - an extra, that may not be installed
        from policies.opa.publish import PublishError, publish, verify  # noqa: PLC0415 - as above
        from policies.opa.server import Server  # noqa: PLC0415 - as above
    except ModuleNotFoundError:
        fail("the OPA client is not installed", hint='pip install "assay-gateway[opa]"')

    async def conversation(server: Server) -> str:
        client = Client(server, TIMEOUT_S)
        try:
            if not verify_only:
                return await publish(client, bundle.modules, packages_of(bundle), bundle.data)
            await verify(client, bundle.modules, packages_of(bundle), bundle.data)
            return revision_of(bundle.modules, packages_of(bundle), bundle.data)
        finally:
            await client.close_connection()

    try:
        token = None if token_file is None else token_file.read_text(encoding="utf-8").strip()
        return asyncio.run(conversation(Server(to, token)))
    except (PublishError, ValueError, OSError) as fault:
        said, _, hint = str(fault).partition("; hint: ")
        fail(said, hint=hint or None, code=Exit.NO if isinstance(fault, PublishError) else Exit.USAGE)
