"""Verify the log that another one follows: it must extend the head that the other links (`audit/lineage.py`).

Example:
    new = verify_log(source, keys)
    old = verify_earlier(new.link, open_directory(Path("/backup/2026-11-21")), [VerifierKey.parse(text)])
"""

from __future__ import annotations

from collections.abc import Sequence

from audit.keyring import LogKey
from audit.lineage import Link
from audit.note import NoteError, open_checkpoint
from audit.source import CHECKPOINT, LogSource, SourceError
from audit.verdict import Verdict
from audit.verify import verify_log


def verify_earlier(link: Link, source: LogSource, keys: Sequence[LogKey], *, origin: str | None = None) -> Verdict:
    """Verify the log that another one follows; it must extend the linked head.

    Args:
        link: From the verdict on the log that follows.
        source: The old log: its directory, a backup or an archive of it.
        keys: Its keys, from elsewhere than the new log.
        origin: Its origin where that is not the name of its key.
    """
    note = link.checkpoint.encode()
    try:
        linked = open_checkpoint(note, keys, origin=origin)
    except NoteError as error:
        verdict = verify_log(source, keys, origin=origin)
        verdict.independence.fail(f"the head that the new log links is none of this one: {error}")
        return verdict
    at_hand = _size(source, keys, origin)
    if at_hand is None or at_hand >= linked.checkpoint.size:
        return verify_log(source, keys, note, origin=origin)
    verdict = verify_log(source, keys, origin=origin)
    lost = linked.checkpoint.size - at_hand
    verdict.completeness.doubt(
        f"{lost} records are missing: this copy ends at `{at_hand}`, the new log follows the head of size `{linked.checkpoint.size}`"
    )
    return verdict


def _size(source: LogSource, keys: Sequence[LogKey], origin: str | None) -> int | None:
    try:
        data = source.read(CHECKPOINT)
        head = None if data is None else open_checkpoint(data, keys, origin=origin)
    except (SourceError, NoteError):
        return None  # the verification says what is wrong with it
    return None if head is None else head.checkpoint.size
