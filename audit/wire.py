"""Frames between writers and the recorder, over a Unix stream socket.

Layout: `length u32 · kind u8 · payload`, big-endian, `length` counts kind and payload.

| kind | frame | sender | payload |
|---|---|---|---|
| 1 | `Hello` | writer | epoch u64 · node (ASCII, 1..64) |
| 2 | `Batch` | writer | first_seq u64 · count u16 · count times leaf length u32 · leaves |
| 3 | `Ack` | recorder | first_seq u64 · count u32 · first_index u64 |
| 4 | `Refusal` | recorder | code length u8 · code (ASCII) · text (UTF-8) |

Rules:
- A connection starts with one `Hello`. Batches follow; each is answered by one or more `Ack`, in order, each a run of neighbours in the log.
- A `Refusal` is the last frame of a connection: nothing that is not acknowledged was committed. `RETRYABLE` codes ask the writer to come back.
- Every length is checked before memory is taken for it, and a frame must be used up to its last byte.

Example:
    decoder = Decoder(from_writer=True)
    for frame in decoder.feed(socket.recv(65536)): ...
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

import msgspec

BATCH_RECORDS = 256
"""Most records in one batch."""
BATCH_BYTES = 1 << 20
"""Most leaf bytes in one batch."""
LEAF_BYTES = 60 * 1024
"""Most bytes of one leaf (semantics 1.2)."""
FRAME_BYTES = BATCH_BYTES + 4 * BATCH_RECORDS + 64
"""Most bytes of one frame; anything longer is refused before it is read."""
SEQ_LIMIT = 1 << 53
"""Sequence numbers, epochs and indices stay below this, as every integer of a leaf does."""

NODE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]{0,63}", re.ASCII)
"""Names a writer may have. No `-`, because file names join node and epoch with it."""

STORE_FULL = "store.full"
STORE_BROKEN = "store.broken"
RETRYABLE = frozenset({STORE_FULL, STORE_BROKEN})
"""Refusals after which the same records are sent again later, unchanged.

After `STORE_BROKEN` it is unknown whether they are stored: the next recorder reads what is there, and answers the repetition with the original
index or stores it.
"""

_HELLO, _BATCH, _ACK, _REFUSAL = 1, 2, 3, 4
_PREFIX = struct.Struct(">IB")
_EPOCH = struct.Struct(">Q")
_BATCH_HEAD = struct.Struct(">QH")
_ACK_BODY = struct.Struct(">QIQ")
_REFUSAL_TEXT_BYTES = 2048


class WireError(Exception):
    """The peer sent bytes that are no frame, or a frame that is not its to send. The connection is of no further use."""


class Hello(msgspec.Struct, frozen=True, gc=False):
    """First frame of a writer: who it is."""

    node: str
    epoch: int


class Batch(msgspec.Struct, frozen=True):
    """Leaves numbered `first_seq`, `first_seq + 1`, ... of the writer named in `Hello`."""

    first_seq: int
    leaves: list[bytes]


class Ack(msgspec.Struct, frozen=True, gc=False):
    """Records `first_seq` .. `first_seq + count - 1` are committed at `first_index` and following."""

    first_seq: int
    count: int
    first_index: int


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Nothing further is accepted on this connection; `code` is for programs, `text` for people."""

    code: str
    text: str


Frame = Hello | Batch | Ack | Refusal


def check_node(node: str) -> str:
    """Return `node` if it may name a writer.

    Raises:
        ValueError: The name is not 1..64 of `A-Z a-z 0-9 . _`, starting with a letter or digit.
    """
    if NODE_PATTERN.fullmatch(node) is None:
        msg = f"writer name `{node}` must be 1..64 characters of `A-Za-z0-9._`, the first a letter or digit"
        raise ValueError(msg)
    return node


def encode_hello(node: str, epoch: int) -> bytes:
    """Return the bytes of a `Hello`."""
    name = check_node(node).encode("ascii")
    return _PREFIX.pack(1 + 8 + len(name), _HELLO) + _EPOCH.pack(epoch) + name


def encode_batch(first_seq: int, leaves: Sequence[bytes]) -> bytes:
    """Return the bytes of a `Batch`; the caller keeps within `BATCH_RECORDS` and `BATCH_BYTES`."""
    count = len(leaves)
    body = b"".join(leaves)
    head = _BATCH_HEAD.pack(first_seq, count) + struct.pack(f">{count}I", *map(len, leaves))
    return _PREFIX.pack(1 + len(head) + len(body), _BATCH) + head + body


def encode_ack(first_seq: int, count: int, first_index: int) -> bytes:
    """Return the bytes of an `Ack`."""
    return _PREFIX.pack(1 + _ACK_BODY.size, _ACK) + _ACK_BODY.pack(first_seq, count, first_index)


def encode_refusal(code: str, text: str) -> bytes:
    """Return the bytes of a `Refusal`; over-long text is cut at a character."""
    name = code.encode("ascii")
    words = text.encode()[:_REFUSAL_TEXT_BYTES].decode(errors="ignore").encode()
    return _PREFIX.pack(2 + len(name) + len(words), _REFUSAL) + bytes([len(name)]) + name + words


class Decoder:
    """Cuts a byte stream into frames of one direction. Owned by one connection."""

    __slots__ = ("_buffer", "_from_writer")

    def __init__(self, *, from_writer: bool) -> None:
        """Accept only the frames a writer sends, or only those the recorder sends."""
        self._from_writer = from_writer
        self._buffer = bytearray()  # bytes of the unfinished frame; grown and cut by `feed`

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take in `data` and return the frames it completes.

        Raises:
            WireError: The bytes cannot be frames of this direction.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        at, end = 0, len(buffer)
        with memoryview(buffer) as view:
            while end - at >= _PREFIX.size:
                length, kind = _PREFIX.unpack_from(view, at)
                if not 1 <= length <= FRAME_BYTES:
                    msg = f"frame of `{length}` bytes; expected 1..{FRAME_BYTES}"
                    raise WireError(msg)
                if end - at < 4 + length:
                    break
                with view[at + _PREFIX.size : at + 4 + length] as payload:
                    frames.append(self._parse(kind, payload))
                at += 4 + length
        if at:
            del buffer[:at]
        return frames

    def _parse(self, kind: int, payload: memoryview) -> Frame:
        if self._from_writer:
            if kind == _BATCH:
                return _parse_batch(payload)
            if kind == _HELLO:
                return _parse_hello(payload)
        elif kind == _ACK:
            return _parse_ack(payload)
        elif kind == _REFUSAL:
            return _parse_refusal(payload)
        msg = f"frame of kind `{kind}` is not expected in this direction"
        raise WireError(msg)


def _parse_hello(payload: memoryview) -> Hello:
    try:
        (epoch,) = _EPOCH.unpack_from(payload)
        node = check_node(bytes(payload[_EPOCH.size :]).decode("ascii"))
    except (struct.error, ValueError) as error:
        msg = f"malformed hello: {error}"
        raise WireError(msg) from error
    if epoch >= SEQ_LIMIT:
        msg = f"epoch `{epoch}` is not below 2**53"
        raise WireError(msg)
    return Hello(node, epoch)


def _parse_batch(payload: memoryview) -> Batch:
    if len(payload) < _BATCH_HEAD.size:
        msg = f"batch of `{len(payload)}` bytes has no head"
        raise WireError(msg)
    first_seq, count = _BATCH_HEAD.unpack_from(payload)
    at = _BATCH_HEAD.size + 4 * count
    if not 1 <= count <= BATCH_RECORDS or first_seq + count > SEQ_LIMIT or at > len(payload):
        msg = f"batch of `{count}` records from seq `{first_seq}` in `{len(payload)}` bytes; expected 1..{BATCH_RECORDS} records"
        raise WireError(msg)
    lengths = struct.unpack_from(f">{count}I", payload, _BATCH_HEAD.size)
    if at + sum(lengths) != len(payload) or max(lengths) > LEAF_BYTES or min(lengths) == 0:
        msg = f"batch from seq `{first_seq}`: leaf lengths do not fill the frame, or one is not 1..{LEAF_BYTES} bytes"
        raise WireError(msg)
    body = bytes(payload)
    leaves = []
    for length in lengths:
        leaves.append(body[at : at + length])
        at += length
    return Batch(first_seq, leaves)


def _parse_ack(payload: memoryview) -> Ack:
    if len(payload) != _ACK_BODY.size:
        msg = f"ack of `{len(payload)}` bytes; expected {_ACK_BODY.size}"
        raise WireError(msg)
    ack = Ack(*_ACK_BODY.unpack(payload))
    if ack.count == 0 or ack.first_seq + ack.count > SEQ_LIMIT or ack.first_index + ack.count > SEQ_LIMIT:
        msg = f"ack with numbers out of range: `{ack}`"
        raise WireError(msg)
    return ack


def _parse_refusal(payload: memoryview) -> Refusal:
    raw = bytes(payload)
    if not raw or len(raw) < 1 + raw[0] or raw[0] == 0 or len(raw) > 1 + raw[0] + _REFUSAL_TEXT_BYTES:
        msg = f"malformed refusal of `{len(raw)}` bytes"
        raise WireError(msg)
    try:
        return Refusal(raw[1 : 1 + raw[0]].decode("ascii"), raw[1 + raw[0] :].decode())
    except ValueError as error:
        msg = f"refusal is not text: {error}"
        raise WireError(msg) from error
