"""From one log to the next: where a log cannot be gone on with, another is opened, and its first words say which one it follows.

A restored backup, a lost key, a yearly change: each time a second history under one name has to be kept from beginning. So the old log ends as it is,
a new one begins under a new origin, and a record of it, `log.open`, carries the last signed head that is known of the old one. Whoever verifies the
new log finds the link in it, under the new log's own signature, and follows it: the old log must extend that head.

Rules:

- `log.open {origin}` is committed once, before anything of a new log is signed; with `previous {origin, size, root, checkpoint, vkey}` where it
  follows another. It is never added later: a log does not find itself a past.
- The carried checkpoint must be signed by the key that is named with it, and be of another origin.
- Where the old log at hand ends before the linked head, the records in between are lost, and the verdict says how many.

Example:
    record = {"type": "log.open", "origin": origin, "previous": link_to(note, key, new_origin=origin)}
    link = read_link(3, record)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audit.keys import InvalidKey, VerifierKey
from audit.note import NoteError, open_checkpoint


@dataclass(frozen=True, slots=True)
class Link:
    """The head of an earlier log, as leaf `index` of a log says that it follows it. Nothing about it is verified."""

    index: int
    origin: str
    size: int
    root: str
    checkpoint: str
    vkey: str

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"index": self.index, "origin": self.origin, "size": self.size, "root": self.root, "checkpoint": self.checkpoint, "vkey": self.vkey}


class LinkError(ValueError):
    """A head cannot be what a log follows."""


def link_to(checkpoint: bytes, key: VerifierKey, *, new_origin: str) -> dict[str, Any]:
    """Return the `previous` of a `log.open` record.

    Args:
        checkpoint: The last signed head that is known of the old log, as the note it was.
        key: Key of the old log.
        new_origin: Origin of the log that begins.

    Raises:
        LinkError: The key did not sign it, or it is a head of the new origin itself.
    """
    try:
        head = open_checkpoint(checkpoint, [key]).checkpoint
    except NoteError as error:
        raise LinkError(f"the checkpoint of the former log: {error}") from error
    if head.origin == new_origin:
        raise LinkError(f"both logs are named `{new_origin}`\nhint: a log that follows another has an `audit.origin` of its own")
    return {"origin": head.origin, "size": head.size, "root": head.root.hex(), "checkpoint": checkpoint.decode(), "vkey": str(key)}


def read_link(index: int, record: Mapping[str, Any]) -> Link | None:
    """Return what a `log.open` record says its log follows; None where it follows none, or what it says is no link."""
    previous = record.get("previous")
    if not isinstance(previous, dict):
        return None
    texts = {name: previous.get(name) for name in ("origin", "root", "checkpoint", "vkey")}
    size = previous.get("size")
    if not all(isinstance(text, str) for text in texts.values()) or type(size) is not int or size < 0:
        return None
    try:
        VerifierKey.parse(texts["vkey"] or "")
    except InvalidKey:
        return None
    return Link(index, texts["origin"] or "", size, texts["root"] or "", texts["checkpoint"] or "", texts["vkey"] or "")
