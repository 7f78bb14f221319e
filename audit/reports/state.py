"""Which log a report is about: the first `size` leaves, their root hash, and the time of the last of them.

Rules:
- The root is recomputed from the leaves that are read, so a report names exactly what it was made of.
- If a signed checkpoint for that size is at hand its root must be the same; otherwise no report is made.
- The time is that of the last record under the size, which is the time the checkpoint of that size speaks for. No clock is read.

Example:
    state = pin(lambda: follow(data, 0), size=4096)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, takewhile

from audit.entry import read_entry, time_us
from audit.merkle import Frontier, leaf_hashes
from audit.note import Checkpoint

Leaves = Callable[[], Iterable[tuple[int, bytes]]]
CHUNK_LEAVES = 4096


class LogMismatchError(Exception):
    """The leaves at hand are not the ones asked for or signed."""


@dataclass(frozen=True, slots=True)
class LogState:
    """`size` leaves with Merkle root `root` (RFC 6962, hex); `time` of the newest record; `origin` where a checkpoint tells it.

    `config_digest` is that of the newest call: the configuration whose label conditions a report goes by.
    """

    size: int
    root: str
    time: str
    origin: str | None = None
    is_signed: bool = False
    config_digest: str | None = None

    @property
    def as_of_us(self) -> int:
        """The report's time in µs since 1970; 0 for an empty log."""
        return time_us(self.time) or 0


def pin(leaves: Leaves, size: int | None = None) -> LogState:
    """Read the leaves once and pin them.

    Args:
        leaves: yields (index, leaf bytes) in index order from 0.
        size: how many count; None means all there are.

    Raises:
        LogMismatchError: when an index is missing, or there are fewer than `size`.
    """
    frontier, newest, config_digest = Frontier(), "", None
    for chunk in _chunks(leaves(), size):
        if [idx for idx, _ in chunk] != list(range(frontier.size, frontier.size + len(chunk))):
            raise LogMismatchError(f"a leaf after index `{frontier.size}` is missing")
        frontier = frontier.extend(leaf_hashes(leaf for _, leaf in chunk))
        last = read_entry(chunk[-1][1])
        newest = last.time if last is not None and time_us(last.time) is not None else newest
        config_digest = _config_digest(chunk) or config_digest
    if size is not None and frontier.size < size:
        raise LogMismatchError(f"size `{size}` was asked for, but only `{frontier.size}` leaves are committed")
    return LogState(frontier.size, frontier.root().hex(), newest, config_digest=config_digest)


def compared(state: LogState, checkpoint: Checkpoint | None) -> LogState:
    """The state with what a signed checkpoint says of it; unchanged if the checkpoint is of another size.

    Raises:
        LogMismatchError: when a checkpoint of this size has another root.
    """
    if checkpoint is None or checkpoint.size != state.size:
        return state
    if checkpoint.root.hex() != state.root:
        raise LogMismatchError(f"the `{state.size}` leaves have root `{state.root}`, but the checkpoint signed `{checkpoint.root.hex()}`")
    return replace(state, origin=checkpoint.origin, is_signed=True)


def _config_digest(chunk: list[tuple[int, bytes]]) -> str | None:
    for _, leaf in reversed(chunk):
        if b'"config_digest":"' in leaf:
            entry = read_entry(leaf)
            if entry is not None and entry.config_digest:
                return entry.config_digest
    return None


def _chunks(leaves: Iterable[tuple[int, bytes]], size: int | None) -> Iterator[list[tuple[int, bytes]]]:
    wanted = iter(leaves) if size is None else takewhile(lambda pair: pair[0] < size, leaves)
    while chunk := list(islice(wanted, CHUNK_LEAVES)):
        yield chunk
