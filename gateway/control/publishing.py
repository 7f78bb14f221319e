"""The thread that publishes: it alone holds the publisher, with a connection of its own to the control file.

Why a thread. A publication hashes what is new, flushes files several times and waits for witnesses (`gateway/control/witnesses.py`, at most 300 ms).
On the controller's loop each of these would hold up the tick, whose age is what workers call staleness: 300 ms of witness is most of the second that
a model of high risk is given. The other way out, asking witnesses beside the loop and adding their cosignatures to a checkpoint that is already
shown, leaves a moment at every checkpoint in which a verifier finds it without them.

Rules:

- Everything that touches the publisher runs in this one thread, in the order it was asked for; the loop only awaits it.
- The term is the controller's: one leader with two connections. Both write in short transactions, and the control file's statements check the term.

Example:
    publishing = await Publishing.start(data_dir, store.term, [key], witnesses)
    await publishing.publish()
    await publishing.close()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from audit.excerpts import Excerpting
from audit.publisher import Publication, Publisher
from audit.signer import Signer, SignerUnavailable
from audit.store.control import ControlStore
from audit.store.copies import SignedMark
from audit.store.errors import StoreFull
from gateway.control.witnesses import Witnesses

_log = logging.getLogger(__name__)


class Publishing:
    """Owned by the controller's loop; `publisher`, `_store` and `_witnesses.cosign` are used in the thread alone but for reading sizes."""

    def __init__(
        self, thread: ThreadPoolExecutor, store: ControlStore, publisher: Publisher, witnesses: Witnesses, hot_ranges: int, excerpting: Excerpting
    ) -> None:
        """Take over what was opened in the thread; use `start`."""
        self._thread = thread
        self._store = store
        self.publisher = publisher
        self._witnesses = witnesses
        self._hot_ranges = hot_ranges
        self._excerpting = excerpting

    @classmethod
    async def start(
        cls,
        data_dir: Path,
        term: int,
        keys: Sequence[Signer],
        witnesses: Witnesses,
        *,
        mark: SignedMark | None,
        hot_ranges: int,
        excerpting: Excerpting,
    ) -> Publishing:
        """Open the publisher in a new thread.

        Args:
            data_dir: the data directory.
            term: the term this controller leads with.
            keys: as for `Publisher.open`.
            witnesses: who is asked; may be none.
            mark: what the key has signed, kept outside the data directory; None where it cannot be kept.
            hot_ranges: newest full ranges that stay in their databases.
            excerpting: makes the excerpts that are missing; used in the thread alone from here on.

        Raises:
            audit.store.errors.StoreError: as `Publisher.open`.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="publish")

        def start() -> tuple[ControlStore, Publisher]:
            store = ControlStore.open(data_dir)
            store.term = term  # the lock is held by the connection that leads
            try:
                return store, Publisher.open(data_dir, store, keys, cosign=witnesses.cosign if witnesses.keys else None, mark=mark)
            except BaseException:
                store.close()
                raise

        try:
            store, publisher = await asyncio.get_running_loop().run_in_executor(thread, start)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(thread, store, publisher, witnesses, hot_ranges, excerpting)

    async def publish(self) -> Publication | None:
        """Publish what was committed since, seal some of what is full and take some into excerpts; None when nothing was new.

        Raises:
            audit.store.errors.StoreError: as `Publisher.publish_once` and `Publisher.seal_some`.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._publish)

    def _publish(self) -> Publication | None:
        publication = self.publisher.publish_once()
        if self.publisher.seal_some(hot=self._hot_ranges) == 0:
            self.publisher.remove_old_databases(0)
        self._excerpting.step(self.publisher)
        return publication

    async def close(self) -> None:
        """Publish what is left, then end the thread."""

        def end() -> None:
            try:
                while self._publish() is not None:  # a large backlog takes several heads
                    pass
            except (StoreFull, SignerUnavailable) as fault:
                _log.warning("the last records are not published yet; the next start does it", extra={"why": str(fault)})
            finally:
                self.publisher.close()
                self._store.close()
                self._witnesses.close()

        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, end)
        finally:
            self._thread.shutdown(wait=True)
