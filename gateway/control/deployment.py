"""What a deployment brings to a start: its settings, the trust root, the keys that sign. All that can keep a gateway from starting is read here.

Read once, when the controller starts; what changes while it runs is followed elsewhere (`configuration.py`, `keysfile.py`).

Example:
    layout = Layout.of(config)
    gateway = read_gateway(Compiler(layout.config))
    root, signers = read_root(layout), read_signers(gateway, layout)
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from audit.keys import InvalidKey, VerifierKey, read_secret
from audit.outlet import Outlet
from audit.signer import Signer, load_signer
from audit.store.copies import SignedMark
from audit.vault.crypto import MasterKey
from gateway.config.compile import Compiler
from gateway.config.gateway_file import GatewayFile
from gateway.config.layout import Layout, write_durably
from policies.trust import InvalidTrust, TrustRoot

_log = logging.getLogger("assay.controller")
_MOST_ROOT_BYTES: Final = 48 * 1024


class CannotStart(Exception):  # noqa: N818 - says what happened
    """The deployment cannot be served; the text says what and what to do."""


def read_gateway(compiler: Compiler) -> GatewayFile:
    """Return `gateway.yaml`. Raises CannotStart."""
    compiled = compiler.compile()
    if compiled.gateway is None:
        raise CannotStart("\n".join(str(issue) for issue in compiled.issues))
    if compiled.gateway.environment == "production":
        raise CannotStart(
            "environment `production` asks for signed changes of the configuration, which this release cannot check yet\n"
            "hint: use `staging`; nothing is served in `production` until changes can be signed"
        )
    return compiled.gateway


def read_root(layout: Layout) -> TrustRoot:
    """Return the trust root. Raises CannotStart."""
    try:
        root = TrustRoot.parse(layout.trust_root.read_bytes())
    except FileNotFoundError:
        raise CannotStart(f"trust root `{layout.trust_root}` is missing\nhint: `assay trust init`") from None
    except InvalidTrust as fault:
        raise CannotStart(f"trust root `{layout.trust_root}`: {fault}") from fault
    if len(root.encode()) > _MOST_ROOT_BYTES:
        raise CannotStart(
            f"trust root `{layout.trust_root}` is longer than {_MOST_ROOT_BYTES // 1024} KiB, the most a record of it can hold\n"
            "hint: leave out people and keys that are no longer needed, and have a successor signed: `assay trust sign`"
        )
    return root


def require_follows(root: TrustRoot, pinned: Mapping[str, Any] | None, layout: Layout) -> None:
    """Refuse a trust root that does not follow the one the log says was in force (semantics.md 2.1).

    Args:
        root: the one in the folder.
        pinned: the newest `trust.pinned` record; None in a new log.
        layout: where it lies.

    Raises:
        CannotStart: another root, or an older one.
    """
    if pinned is None or pinned["digest"] == root.digest:
        return
    try:
        # A release that kept no text of the root left nothing to follow: an empty one is refused in words.
        root.require_successor_of(TrustRoot.parse(pinned.get("root", "").encode()))
    except InvalidTrust as fault:
        raise CannotStart(
            f"trust root `{layout.trust_root}` does not follow the one in force: {fault}\n"
            "hint: put the former root back, or have its people sign a successor: `assay trust sign`; "
            "where several versions were signed meanwhile, start once with each"
        ) from fault


def read_signers(gateway: GatewayFile, layout: Layout) -> list[Signer]:
    """Return who signs the log: the key, and during a change of keys the one before it. Raises CannotStart."""
    audit = gateway.audit
    signers = []
    for name, reference in (("key", audit.key), ("previous", audit.previous)):
        if reference is None:
            continue
        try:
            signers.append(load_signer(reference, base=layout.root, environ=os.environ))
        except InvalidKey as fault:
            raise CannotStart(f"audit.{name}: {fault}") from fault
        if signers[-1].name != audit.origin:
            raise CannotStart(f"audit.{name}: the key is named `{signers[-1].name}`, the log `{audit.origin}`; they must be the same")
    return signers


def outlet_of(gateway: GatewayFile, layout: Layout) -> Outlet | None:
    """Return where signed heads are put besides, or None."""
    push = gateway.audit.push
    return None if push is None else Outlet(layout.resolve(push.directory), keep=push.keep)


def read_vault_key(reference: str) -> MasterKey | None:
    """Return the vault's master key, None without a reference. Raises CannotStart."""
    if not reference:
        return None
    try:
        return MasterKey.parse(read_secret(reference, base=Path("/"), environ=os.environ))
    except InvalidKey as fault:
        raise CannotStart(f"vault.key: {fault}") from fault


def signed_mark(gateway: GatewayFile, layout: Layout) -> SignedMark | None:
    """Return the mark of the log, outside the data directory; None where its folder cannot be written."""
    folder = layout.root / "marks"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o750, exist_ok=True)
    if not os.access(folder, os.W_OK):
        _log.warning("an older copy of the log would be noticed by a witness alone: `marks/` cannot be written", extra={"folder": str(folder)})
        return None
    # By origin, not by key: keys change, and a new origin is a new log.
    return SignedMark(folder / f"{hashlib.sha256(gateway.audit.origin.encode()).hexdigest()[:16]}.signed")


def write_verification_keys(folder: Path, signers: Sequence[Signer], witnesses: Sequence[VerifierKey]) -> None:
    """Put into the log's folder what it is verified with: for a first look; a verifier takes keys from elsewhere."""
    write_durably(folder / "vkey", "".join(f"{signer.verifier}\n" for signer in signers).encode(), replace=True)
    if witnesses:
        write_durably(folder / "witnesses", "".join(f"{key}\n" for key in witnesses).encode(), replace=True)
    else:
        (folder / "witnesses").unlink(missing_ok=True)
