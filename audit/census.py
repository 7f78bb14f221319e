"""Which writers have died, and what their marks say of their end.

Rules:
- A writer is dead when the lock of its high-water mark is free and it has no connection; one that is unended and has no mark at all is dead too.
- It is judged only when it was found dead twice, with everything it had sent read in between: its committed numbers are final then.
- What it had numbered and nobody committed is lost, `from` which number `to` which; "unknown" where the mark is gone or of another boot.
- A writer that closed its own book needs no statement.

Example:
    for key, mark in census.judged(connected).items():
        ending = census.ending(key, mark)
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from audit import highwater
from audit.store.staging import Staging, WriterKey

UNKNOWN: Final = "unknown"


class Ending(msgspec.Struct, frozen=True):
    """How the epoch of a writer ended that did not say so itself: the record to write."""

    kind: str
    """`log.lost` or `log.recover`."""
    carries: dict[str, Any]
    lost: int
    """Records lost for certain; an unknown number counts as one."""


class Census:
    """Owned by the recorder's loop."""

    def __init__(self, run_dir: Path, store: Staging, own: WriterKey, boot_id: str) -> None:
        """Count writers by their marks in `run_dir` and by what `store` knows of them.

        Args:
            run_dir: `data/run`.
            store: Asked where writers stand; not changed here.
            own: The recorder's own writer, which lives.
            boot_id: Marks of another boot say nothing certain.
        """
        self._run_dir = run_dir
        self._store = store
        self._own = own
        self._boot_id = boot_id
        self._suspects: dict[WriterKey, highwater.Mark | None] = {}  # found dead in the last look; changed by `judged`
        self._refused: set[Path] = set()  # mark files that are none of ours, reported once

    def remove_marks_of_ended(self) -> None:
        """Remove marks of writers whose end is stated: a kill came between the two. To be done before anything is appended.

        A range that is turned over no longer knows ended writers. A mark that outlived that would have its writer's end stated a second time.
        """
        for path in highwater.marks(self._run_dir):
            with contextlib.suppress(highwater.HighWaterError):  # `_dead` says what is wrong with it
                mark = highwater.read_if_abandoned(path)
                if mark is not None and self._store.position((mark.node, mark.epoch)).ended:
                    path.unlink(missing_ok=True)

    def judged(self, connected: set[WriterKey]) -> dict[WriterKey, highwater.Mark | None]:
        """Look who is dead; return those, with their marks, who were found dead the last time too."""
        before, self._suspects = self._suspects, self._dead(connected)
        return {key: mark for key, mark in self._suspects.items() if key in before}

    def ending(self, key: WriterKey, mark: highwater.Mark | None) -> Ending | None:
        """Return what is to be stated of a dead writer; None where its own last record says it all."""
        last = self._store.last_leaf(key)
        if last is not None and msgspec.json.decode(last).get("type") == "writer.close":
            return None
        node, epoch = key
        last_seq = self._store.position(key).last_seq
        names = {"node": node, "epoch": epoch}
        # An earlier recorder numbers a record only in the transaction that commits it: nothing of it can be missing.
        if node != self._own[0]:
            if mark is None or mark.boot_id != self._boot_id:
                return Ending("log.lost", {**names, "from": last_seq + 1, "to": UNKNOWN}, 1)
            if mark.assigned > last_seq:
                return Ending("log.lost", {**names, "from": last_seq + 1, "to": mark.assigned}, mark.assigned - last_seq)
        return Ending("log.recover", {**names, "last": last_seq}, 0)

    def forget(self, mark: highwater.Mark | None) -> None:
        """Remove the mark of a writer whose end is stated."""
        if mark is not None:
            (self._run_dir / f"hwm-{mark.node}-{mark.epoch}").unlink(missing_ok=True)

    def _dead(self, connected: set[WriterKey]) -> dict[WriterKey, highwater.Mark | None]:
        marked: set[WriterKey] = set()
        dead: dict[WriterKey, highwater.Mark | None] = {}
        for path in highwater.marks(self._run_dir):
            node, _, epoch = path.name.removeprefix("hwm-").rpartition("-")
            key = (node, int(epoch)) if epoch.isdigit() else (node, -1)
            marked.add(key)
            if key in connected or path in self._refused:
                continue
            try:
                mark = highwater.read_if_abandoned(path)
            except highwater.HighWaterError as error:
                self._refused.add(path)
                print(error, file=sys.stderr, flush=True)  # noqa: T201 - the recorder's stderr is its log
                continue
            if mark is not None:
                dead[mark.node, mark.epoch] = mark
        for key, seed in self._store.writers().items():
            if not seed.ended and key not in marked and key not in connected and key != self._own:
                dead[key] = None
        return dead
