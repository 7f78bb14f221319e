"""One connection from a writer to the process that commits for it: of a journal to the recorder, of a vault's line to the keeper.

It carries bytes and tells its owner what happens; what a frame means, and what is sent again, is the owner's. Of the end of one connection the owner
may be told twice.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from audit import wire


class Owner(Protocol):
    """Who writes on a link."""

    def on_connected(self, link: Link) -> None:
        """Begin anew: nothing was sent on this connection."""

    def on_frames(self, link: Link, frames: list[wire.Frame]) -> None:
        """Take answers. Raises WireError where they make no sense; the link then hangs up."""

    def on_nonsense(self, error: wire.WireError) -> None:
        """Hear why the link has hung up."""

    def on_writable(self) -> None:
        """Go on sending: the link is no longer paused."""

    def on_link_ended(self, link: Link) -> None:
        """Forget the link."""


class Link(asyncio.Protocol):
    """Its state is changed by the loop's callbacks alone."""

    def __init__(self, owner: Owner) -> None:
        """Prepare; the loop connects it."""
        self.is_paused = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._decoder = wire.Decoder(from_writer=False)
        self._transport: asyncio.Transport | None = None

    def write(self, data: bytes) -> None:
        """Send bytes; what is written after the end is lost, and sent again by the owner."""
        if self._transport is not None:
            self._transport.write(data)

    def hang_up(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()
        self._owner.on_link_ended(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell the owner."""
        self._transport = cast("asyncio.Transport", transport)  # a stream's; uvloop's own class is no subclass of it
        self._owner.on_connected(self)

    def data_received(self, data: bytes) -> None:
        """Hand on whole frames; hang up on what is none."""
        try:
            self._owner.on_frames(self, self._decoder.feed(data))
        except wire.WireError as error:
            self.hang_up()
            self._owner.on_nonsense(error)

    def pause_writing(self) -> None:
        """Note that the buffer is full."""
        self.is_paused = True

    def resume_writing(self) -> None:
        """Let the owner go on."""
        self.is_paused = False
        self._owner.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, and whoever waits for the end."""
        del exc
        self._owner.on_link_ended(self)
        if not self.ended.done():
            self.ended.set_result(None)
