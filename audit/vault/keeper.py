"""The keeper: takes entries from workers over a Unix socket, commits them to the vault, and only then acknowledges. One process, one thread.

It speaks the recorder's frames (`audit/wire.py`); an item of a batch is an `Entry` in MessagePack. The recorder's rules hold here too:
- The commit is the acknowledgement; one commit takes what all workers have sent meanwhile. An entry sent twice is kept once.
- A full disk is answered with a `Refusal` to be tried again; any other failed write ends the process (exit code 74), and the next one reads what is
  there.
- Before anything is taken in, what was erased and is here again is destroyed (`audit/vault/tombstones.py`).

Workers hold what is not acknowledged and send it again. What a worker held when it was killed is lost: its record names a commitment, and there is
nothing under it.

Example:
    sys.exit(await Keeper(vault).serve(listening_socket, stop))
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from typing import Final

import msgspec

from audit import wire
from audit.store.errors import StoreBroken, StoreFull
from audit.vault.entry import Entry
from audit.vault.store import VaultStore

EXIT_OK: Final = 0
EXIT_IO: Final = 74
_READ_BYTES: Final = 256 * 1024
_MOST_AT_ONCE: Final = 1024
"""Entries in one commit, about."""
_log = logging.getLogger(__name__)
_decoder: Final = msgspec.msgpack.Decoder(Entry)


class _Taken(msgspec.Struct, frozen=True, gc=False):
    """A batch waiting for the next commit."""

    first_seq: int
    entries: list[Entry]
    done: asyncio.Future[bytes]
    """The frame that answers it."""


class Keeper:
    """The loop and its state; everything is owned by it."""

    def __init__(self, vault: VaultStore) -> None:
        """Serve an opened vault, which stays the caller's to close."""
        self._vault = vault
        self._waiting: list[_Taken] = []  # grown by the connections, emptied by `_commit_all`
        self._arrived = asyncio.Event()
        self._broken = False  # set once a write failed
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> int:
        """Serve until `stop` is set; returns the exit status. Raises whatever a defect raised while entries were committed."""
        server = await asyncio.start_unix_server(self._connection, sock=listener)
        committing = asyncio.create_task(self._commit_all(), name="commit")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({committing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.close()
        for task in (committing, stopping, *self._connections):
            task.cancel()
        ended, *_ = await asyncio.gather(committing, stopping, *self._connections, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended
        return EXIT_IO if self._broken else EXIT_OK

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a stream's handler runs in one
        self._connections.add(task)
        try:
            await self._answer(reader, writer)
        except (wire.WireError, msgspec.DecodeError) as error:
            _log.warning("a worker sent what is no entry", extra={"why": type(error).__name__})
        except ConnectionError:
            pass
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one worker's batches in their order, until it hangs up or is refused."""
        decoder = wire.Decoder(from_writer=True)
        while data := await reader.read(_READ_BYTES):
            answers = [self._take(frame) for frame in decoder.feed(data) if isinstance(frame, wire.Batch)]
            for answer in answers:
                frame = await answer
                writer.write(frame)
                if not frame.startswith(_ACK_HEAD):
                    return
            await writer.drain()

    def _take(self, batch: wire.Batch) -> asyncio.Future[bytes]:
        """Queue a batch for the next commit."""
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Taken(batch.first_seq, [_decoder.decode(item) for item in batch.leaves], done))
        self._arrived.set()
        return done

    async def _commit_all(self) -> None:
        """Commit what has arrived, for as long as writes succeed."""
        while not self._broken:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting and not self._broken:
                self._commit(self._next())
                await asyncio.sleep(0)  # those who were answered send more meanwhile
        await asyncio.sleep(0.05)  # the refusals leave before the process does

    def _next(self) -> list[_Taken]:
        count = at = 0
        while at < len(self._waiting) and count < _MOST_AT_ONCE:
            count += len(self._waiting[at].entries)
            at += 1
        chosen, self._waiting = self._waiting[:at], self._waiting[at:]
        return chosen

    def _commit(self, taken: list[_Taken]) -> None:
        refusal = None
        try:
            self._vault.keep([entry for batch in taken for entry in batch.entries], time.time_ns() // 1000)
        except StoreFull as error:
            _log.error("the vault cannot be written", extra={"why": str(error)})
            refusal = wire.encode_refusal(wire.STORE_FULL, str(error))
        except StoreBroken as error:
            _log.error("the vault cannot be written; the keeper ends and is started again", extra={"why": str(error)})
            refusal = wire.encode_refusal(wire.STORE_BROKEN, str(error))
            self._broken = True
        for batch in taken:
            if not batch.done.done():
                batch.done.set_result(refusal or wire.encode_ack(batch.first_seq, len(batch.entries), 0))


_ACK_HEAD: Final = wire.encode_ack(0, 1, 0)[:5]
"""Length and kind, which every acknowledgement begins with."""
