"""Keys of the log over its life: which signs now, which signed before, and which may not sign any more, each a record.

Rules:

- `key.began {vkey, first_size}` is committed before a key signs its first checkpoint, `key.ended {vkey, last_size, reason}` when it has signed
  its last.
- While `audit.previous` is configured both keys sign: verifiers change over in that time. Taking it out ends the former key.
- A key that has ended never signs again: a gateway that is given one does not start.
- A key that was stolen is *revoked* by `audit.revoked` with the last size that is known to be honest; verifiers believe nothing later from it.

Pure but for the record of what is due, which the controller commits.

Example:
    for kind, carries in due(registry.log_keys, ["new", "old"], revoked, size=180_000): await clerk.record(kind, **carries)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from audit.keyring import BoundedKey, KeyPolicy
from audit.keys import VerifierKey

OPEN: Final = -1
"""Last size of a key that has not ended."""


class KeyHasEnded(Exception):  # noqa: N818 - says what happened
    """A configured key may not sign any more."""


class LogKeys:
    """The keys by verification key, folded from records: [first size, last size or `OPEN`]. Changed by `fold` alone."""

    def __init__(self) -> None:
        """Know no key yet."""
        self.bounds: dict[str, tuple[int, int]] = {}

    def fold(self, record: Mapping[str, Any]) -> None:
        """Take one `key.began` or `key.ended` in. Of two ends the earlier holds."""
        vkey = record["vkey"]
        first, last = self.bounds.get(vkey, (0, OPEN))
        if record["type"] == "key.began":
            self.bounds[vkey] = (record["first_size"], last)
        elif record["type"] == "key.ended":
            end = record["last_size"]
            self.bounds[vkey] = (first, end if last == OPEN else min(last, end))

    def policy(self, witnesses: Sequence[VerifierKey] = ()) -> KeyPolicy:
        """Return the key policy the records amount to, for the log's owner to publish. A key that may sign no size is left out."""
        keys = [
            BoundedKey(VerifierKey.parse(vkey), first) if last == OPEN else BoundedKey(VerifierKey.parse(vkey), first, last)
            for vkey, (first, last) in self.bounds.items()
            if last == OPEN or first <= last
        ]
        return KeyPolicy(tuple(keys), tuple(witnesses))


def refuse_ended(known: LogKeys, signing: Sequence[str], revoked: Mapping[str, int]) -> None:
    """Raise KeyHasEnded if a key that is to sign has ended or is to be revoked. Asked before anything could be signed."""
    for vkey in signing:
        if known.bounds.get(vkey, (0, OPEN))[1] != OPEN or vkey in revoked:
            raise KeyHasEnded(f"key `{vkey[:60]}…` has ended and may not sign\nhint: make a new one with `assay audit keys --generate`")


def due(known: LogKeys, signing: Sequence[str], revoked: Mapping[str, int], size: int) -> list[tuple[str, dict[str, Any]]]:
    """Return the records that are due when a gateway starts.

    Args:
        known: What the log says.
        signing: Verification keys that sign from now on, the newest first.
        revoked: Verification key -> last size it is believed for.
        size: Size of the last signed checkpoint.

    Raises:
        KeyHasEnded: One of `signing` has ended, or is to be revoked.
    """
    refuse_ended(known, signing, revoked)
    records: list[tuple[str, dict[str, Any]]] = []
    for vkey, last_size in revoked.items():
        _, last = known.bounds.get(vkey, (0, OPEN))
        if last == OPEN or last > last_size:  # also below the first size: then nothing it signed is believed
            records.append(_due("key.ended", vkey=vkey, last_size=last_size, reason="revoked"))
    for vkey, (_, last) in known.bounds.items():
        if last == OPEN and vkey not in signing and vkey not in revoked:
            records.append(_due("key.ended", vkey=vkey, last_size=size, reason="rotated"))
    # A log of an earlier release has no record of its key: what signs it now has signed it from the beginning.
    first_size = size + 1 if known.bounds else 0
    records += [_due("key.began", vkey=vkey, first_size=first_size) for vkey in signing if vkey not in known.bounds]
    return records


def _due(kind: str, **carries: Any) -> tuple[str, dict[str, Any]]:
    return kind, carries
