"""Asks the admin port of a running gateway, for commands that change or show what is in force.

Address: `--admin URL`, else `admin.bind` of the configuration in `--dir`. Key: the environment variable `ASSAY_KEY`, else `--api-key FILE`.
A refusal is printed with its hint; the exit code is 1, because the verdict is no; a gateway that does not answer is 3.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from audit.keys import InvalidKey, read_secret_file
from gateway.cli.folder import layout_of
from gateway.cli.terminal import Exit, fail
from gateway.config.compile import compile_folder

TIMEOUT_S = 20.0
AdminOption = Annotated[str | None, typer.Option("--admin", help="Address of the admin port; by default that of the configuration in `--dir`.")]
ApiKeyOption = Annotated[Path | None, typer.Option("--api-key", help="File with an API key; by default the environment variable ASSAY_KEY.")]


class AdminClient:
    """One command's connection to the admin port."""

    def __init__(self, directory: Path, address: str | None, key_file: Path | None) -> None:
        """Find address and key, or exit saying what is missing."""
        self._address = (address or _configured(directory)).rstrip("/")
        self._headers = {"authorization": f"Bearer {_secret(key_file)}"}

    def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send a JSON body and return the JSON that answers."""
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            reply = httpx.request(method, self._address + path, json=body, headers=self._headers, timeout=TIMEOUT_S)
        except httpx.HTTPError as fault:
            fail(f"the admin port at {self._address} does not answer: {fault}", hint="is `assay serve` running? `--admin URL`", code=Exit.INCOMPLETE)
        if reply.is_success:
            return reply.json()
        try:
            problem = reply.json()
        except ValueError:
            fail(f"{self._address}{path} answered {reply.status_code} and no JSON", hint="is this Assay's admin port?", code=Exit.INCOMPLETE)
        return fail(problem.get("detail", f"status {reply.status_code}"), hint=problem.get("hint"), code=Exit.NO)


def _configured(directory: Path) -> str:
    gateway = compile_folder(layout_of(directory).config).gateway
    if gateway is None:
        fail("`gateway.yaml` cannot be read", hint=f"`assay check {directory}`, or name the admin port: `--admin URL`")
    return f"http://{gateway.admin.bind}"


def _secret(path: Path | None) -> str:
    if path is None:
        secret = os.environ.get("ASSAY_KEY", "")
        if not secret:
            fail("no API key is given", hint="`export ASSAY_KEY=...`, or `--api-key FILE`; `assay key create` makes one")
        return secret
    try:
        return read_secret_file(path).strip()
    except InvalidKey as fault:
        fail(str(fault))
