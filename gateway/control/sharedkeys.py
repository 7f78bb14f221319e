"""Pseudonym keys that the nodes of a shared log have together: in its database, sealed under a key that every node has and the database has not.

A unit then has one pseudonym, and so one arm, on whichever node its calls arrive. Each node keeps a copy in the clear in its own `data/vault/`, where
its workers read it, as a gateway that is alone does.

Rules:

- What stands in the database counts. A node with other keys of its own takes those; the first one to come brings its own.
- A change is made by one node at a time: it replaces exactly what it has read, or reads again.
- Sealed with AES-256-GCM under `postgres.key`; that it is of this log's keys, and the key's name, are bound to it. Another key does not open it.
- Keys that have ended are replaced in the table, which is then vacuumed. What a backup of the database holds of them opens with `postgres.key` alone.

Example:
    shared = SharedKeys(nodes, NodesKey.parse(read_secret("file:keys/nodes.key", base=root, environ=os.environ)))
    keys = shared.settle(lambda held: rotate(held, tenants, now_us), mine=load(path))
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from audit.keys import InvalidKey, decode_base64
from audit.store.errors import StoreError
from audit.store.postgres_nodes import Nodes, Sealed
from audit.vault.crypto import KEY_BYTES, NONCE_BYTES, CannotOpen, seal, unseal
from gateway.pseudonyms import EpochKey

PREFIX: Final = "NODES+KEY+"
"""Begins the text of such a key, so that no other secret is taken for one."""
_PURPOSE: Final = b"assay pseudonym keys"
_TRIES: Final = 20
Keys = dict[str, list[EpochKey]]


class CannotShare(StoreError):  # noqa: N818 - says what happened
    """This node cannot read the pseudonym keys of the others: it must serve nobody."""


def _cannot_share(why: str) -> CannotShare:
    return CannotShare(
        f"postgres.key: the pseudonym keys in the database cannot be opened: {why}\n"
        "hint: every node of a log has the same `postgres.key`; with another one the same person would be another one here"
    )


@dataclass(frozen=True, slots=True)
class NodesKey:
    """The key the nodes share. Its `repr` shows the name alone."""

    secret: bytes = field(repr=False)
    id: str = field(init=False)
    """16 hex digits of SHA-256 over the secret."""

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise InvalidKey(f"the nodes' key has {KEY_BYTES} bytes, not `{len(self.secret)}`")
        object.__setattr__(self, "id", hashlib.sha256(b"assay nodes key id" + self.secret).hexdigest()[:16])

    @classmethod
    def parse(cls, text: str) -> NodesKey:
        """Read the text of a key. Raises InvalidKey, which never repeats it."""
        stripped = text.strip()
        if not stripped.startswith(PREFIX):
            raise InvalidKey(f"a key of the nodes begins with `{PREFIX}`; hint: `assay audit nodes-key FILE` makes one")
        try:
            return cls(decode_base64(stripped.removeprefix(PREFIX)))
        except ValueError as error:
            raise InvalidKey(f"the nodes' key is malformed: {error}") from None

    def secret_text(self) -> str:
        """Return the text of the key: for a file of mode 0600 and nowhere else."""
        return PREFIX + base64.b64encode(self.secret).decode()

    def seal(self, keys: Mapping[str, list[EpochKey]], nonce: bytes) -> bytes:
        """Return pseudonym keys as they are stored."""
        return seal(self.secret, self._bound(), msgspec.json.encode(keys), nonce)

    def unseal(self, sealed: Sealed) -> Keys:
        """Return stored pseudonym keys. Raises CannotShare."""
        if sealed.key_id != self.id:
            raise _cannot_share(f"they are sealed under key `{sealed.key_id}`, this node has `{self.id}`")
        try:
            return msgspec.json.decode(unseal(self.secret, self._bound(), sealed.data), type=Keys)
        except (CannotOpen, msgspec.DecodeError) as error:
            raise _cannot_share(str(error)) from error

    def _bound(self) -> bytes:
        return _PURPOSE + b"\0" + self.id.encode()


class SharedKeys:
    """The database's pseudonym keys as one node sees them. Used from one thread at a time."""

    def __init__(self, nodes: Nodes, key: NodesKey) -> None:
        """Open what is sealed under `key`; nothing is read yet."""
        self._nodes = nodes
        self._key = key

    def settle(self, change: Callable[[Keys], Keys], *, mine: Keys) -> Keys:
        """Return the keys in force after a change, which is made in the database if it is one.

        Args:
            change: gives the keys that are to be kept; asked again when another node was first.
            mine: what this node had, for a database that has none yet.

        Raises:
            CannotShare: they cannot be opened.
            StoreError: the database cannot be asked.
        """
        for _ in range(_TRIES):
            sealed = self._nodes.sealed()
            held = mine if sealed is None else self._key.unseal(sealed)
            kept = change(held)
            if sealed is not None and kept == held:
                return held
            if self._nodes.replace_sealed(0 if sealed is None else sealed.version, self._key.id, self._key.seal(kept, os.urandom(NONCE_BYTES))):
                if _is_less(kept, held):
                    self._nodes.scrub_sealed()
                return kept
        raise StoreError("other nodes change the pseudonym keys again and again")


def _is_less(kept: Keys, held: Keys) -> bool:
    """Say whether a key has gone."""
    return any(key not in kept.get(tenant, []) for tenant, keys in held.items() for key in keys)


def require_key(sealed: Sealed | None, key: NodesKey | None) -> None:
    """Check that a node can read what the others share. Raises CannotShare."""
    if sealed is None:
        return
    if key is None:
        raise CannotShare(
            f"the nodes of this log share their pseudonym keys under `postgres.key` (`{sealed.key_id}`), and this node has none\n"
            "hint: give it the same key as the others, in gateway.yaml: postgres: {key: file:keys/nodes.key}"
        )
    key.unseal(sealed)
