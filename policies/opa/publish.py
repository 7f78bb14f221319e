"""Our policies and data put into a running OPA through its API, and read back: what runs there is what was published, byte for byte.

OPA's API changes one policy at a time, so a server in the middle of it has a mixture. The module with the revision (`query.MODULE`) is therefore
taken away first and put back last, after everything was read back: in between OPA has no answer to give and the decision point's fail mode
holds. A crash at any step leaves a server without answers, never with wrong ones; publishing again repairs it. Where that pause matters, give
OPA the bundle (`archive.py`), which it swaps whole.

Steps of `publish`:
1. refuse a server on which someone else's policy stands inside our packages;
2. take the answers away;
3. delete policies and data of an earlier publication, put ours, unchanged (`rego_compat=False`);
4. read everything back and compare;
5. put the answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from opa_client.errors import DeleteDataError, DeletePolicyError, PathNotFoundError, PolicyNotFoundError

from policies.bundle import PREFIX, Package
from policies.opa.archive import check_names, revision_of
from policies.opa.client import Client
from policies.opa.query import MODULE, OpaError, answers_module

FOLDER: Final = "assay/"
"""What the ids of our policies begin with on the server."""
_ROOTS: Final = "assay_published"
"""Where the server keeps the names of the data roots we put there."""
_ABSENT: Final = "resource_not_found"
"""OPA's code for what is not there."""


class PublishError(Exception):
    """The server does not have our policies in force; the text says why."""


async def publish(client: Client, modules: Mapping[str, str], packages: Sequence[Package], data: Mapping[str, Any]) -> str:
    """Put modules and data into a server; return the revision that its answers will tell.

    Args:
        client: The way to the server.
        modules: Path -> text of every module in force.
        packages: The packages that decide.
        data: The base document; its roots are replaced whole.

    Raises:
        PublishError: the server refused, or has something else than was put.
        ValueError: a name cannot be published.
    """
    check_names(modules, data)
    revision = revision_of(modules, packages, data)
    try:
        await _refuse_strangers(client)
        await _delete_policy(client, MODULE)
        wanted = {FOLDER + name: text for name, text in modules.items()}
        for known in await client.get_policies_list():
            if known.startswith(FOLDER) and known not in wanted:
                await _delete_policy(client, known)
        for root in sorted(set(await _published_roots(client)) - set(data)):
            await _delete_data(client, root)
        await client.update_or_create_data({"roots": sorted(data)}, _ROOTS)
        for root, document in sorted(data.items()):
            await _put_data(client, root, document)
        for name, text in sorted(wanted.items()):
            await client.update_policy_from_string(text, name, rego_compat=False)
        await _compare(client, wanted, data)
        await client.update_policy_from_string(answers_module(packages, revision), MODULE, rego_compat=False)
    except (PublishError, ValueError):
        raise
    except Exception as fault:
        raise PublishError(
            f"OPA did not take the policies: {fault or type(fault).__name__}; hint: does an OPA >= 1.0 answer at `{client.root_url}`?"
        ) from fault
    return revision


async def verify(client: Client, modules: Mapping[str, str], packages: Sequence[Package], data: Mapping[str, Any]) -> None:
    """Read everything back from a server that was published to.

    Raises:
        PublishError: something differs, or a stranger's policy stands inside our packages.
    """
    try:
        await _refuse_strangers(client)
        answers = {MODULE: answers_module(packages, revision_of(modules, packages, data))}
        await _compare(client, {FOLDER + name: text for name, text in modules.items()} | answers, data)
    except PublishError:
        raise
    except Exception as fault:
        raise PublishError(f"what OPA has cannot be read back: {fault or type(fault).__name__}") from fault


async def _refuse_strangers(client: Client) -> None:
    """A rule of someone else's in `package policy.x` would be part of our package: more to allow, more to deny."""
    for name, told in (await client.get_policies_info()).items():
        package = unquote(told["path"].removeprefix(client.root_url)).strip("/").split("/")
        if package[:1] == ["data"] and package[1:2] in ([PREFIX], ["assay"]) and name != MODULE and not name.startswith(FOLDER):
            where = ".".join(package[1:])
            raise PublishError(f"policy `{name}` on the server is in package `{where}`, which is ours; hint: rename its package or delete it there")


async def _compare(client: Client, modules: Mapping[str, str], data: Mapping[str, Any]) -> None:
    there = {name for name in await client.get_policies_list() if name.startswith(FOLDER) and name != MODULE}
    more = there - set(modules)
    if more:
        raise PublishError(f"policy `{min(more)}` stands on the server and was not published; hint: publish again")
    for name, text in modules.items():
        try:
            raw = (await client.get_policy(name))["result"]["raw"]
        except (PolicyNotFoundError, PathNotFoundError, KeyError, OpaError):
            raw = None
        if raw != text:
            raise PublishError(f"policy `{name}` on the server is not what was published; hint: who else writes to it? publish again")
    for root, document in data.items():
        try:
            held = (await client.get_data(root))["result"]
        except (PolicyNotFoundError, KeyError, OpaError):
            held = None
        if _text(held) != _text(document):
            raise PublishError(f"`data.{root}` on the server is not what was published; hint: who else writes to it? publish again")


def _text(value: Any) -> str:
    """Return JSON in one spelling: in Python 1 == 1.0 == True, in a policy they differ."""
    return json.dumps(value, sort_keys=True)


async def _published_roots(client: Client) -> list[str]:
    try:
        roots = (await client.get_data(f"{_ROOTS}/roots"))["result"]
    except (PolicyNotFoundError, KeyError):
        return []
    return [root for root in roots if isinstance(root, str)]


async def _put_data(client: Client, root: str, document: Any) -> None:
    if not isinstance(document, dict):
        raise PublishError(f"`data.{root}` is no object; hint: OPA keeps objects at the root, put it one level deeper")
    await client.update_or_create_data(document, root)


async def _delete_policy(client: Client, name: str) -> None:
    try:
        await client.delete_policy(name)
    except DeletePolicyError as fault:
        if fault.expression != _ABSENT:
            raise PublishError(f"policy `{name}` could not be deleted: {fault.message}; hint: does a bundle of the server own it?") from fault


async def _delete_data(client: Client, root: str) -> None:
    try:
        await client.delete_data(root)
    except DeleteDataError as fault:
        if fault.expression != _ABSENT:
            raise PublishError(f"`data.{root}` could not be deleted: {fault.message}; hint: does a bundle of the server own it?") from fault
