"""Frames: any split of the bytes gives the same frames; whatever is no frame is refused before memory is taken for it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import wire

SEQS = st.integers(0, wire.SEQ_LIMIT - 300)
NODES = st.from_regex(wire.NODE_PATTERN, fullmatch=True)
HELLOS = st.builds(wire.Hello, NODES, st.integers(0, wire.SEQ_LIMIT - 1))
BATCHES = st.builds(wire.Batch, SEQS, st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=9))
ACKS = st.builds(wire.Ack, SEQS, st.integers(1, 256), SEQS)
REFUSALS = st.builds(wire.Refusal, st.from_regex(r"[a-z.]{1,40}", fullmatch=True), st.text(max_size=80))


def encode(frame: wire.Frame) -> bytes:
    if isinstance(frame, wire.Hello):
        return wire.encode_hello(frame.node, frame.epoch)
    if isinstance(frame, wire.Batch):
        return wire.encode_batch(frame.first_seq, frame.leaves)
    if isinstance(frame, wire.Ack):
        return wire.encode_ack(frame.first_seq, frame.count, frame.first_index)
    return wire.encode_refusal(frame.code, frame.text)


def decode_split(data: bytes, cuts: list[int], *, from_writer: bool) -> list[wire.Frame]:
    decoder = wire.Decoder(from_writer=from_writer)
    at, frames = 0, []
    for cut in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        frames += decoder.feed(data[at:cut])
        at = max(at, cut)
    assert decoder.pending_bytes == 0
    return frames


@given(st.lists(HELLOS | BATCHES, max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_split_of_a_writers_bytes_gives_the_same_frames(frames, cuts):
    assert decode_split(b"".join(map(encode, frames)), cuts, from_writer=True) == frames


@given(st.lists(ACKS | REFUSALS, max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_split_of_the_recorders_bytes_gives_the_same_frames(frames, cuts):
    assert decode_split(b"".join(map(encode, frames)), cuts, from_writer=False) == frames


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes_give_frames_or_a_wire_error_and_stay_bounded(data, from_writer):
    decoder = wire.Decoder(from_writer=from_writer)
    try:
        decoder.feed(data)
    except wire.WireError:
        return
    assert decoder.pending_bytes <= len(data)


@pytest.mark.parametrize("frame", [wire.Hello("n", 1), wire.Batch(0, [b"x"])])
def test_a_writers_frame_from_the_recorder_is_refused(frame):
    with pytest.raises(wire.WireError):
        wire.Decoder(from_writer=False).feed(encode(frame))


@pytest.mark.parametrize("frame", [wire.Ack(0, 1, 0), wire.Refusal("a", "b")])
def test_a_recorders_frame_from_a_writer_is_refused(frame):
    with pytest.raises(wire.WireError):
        wire.Decoder(from_writer=True).feed(encode(frame))


def raw(kind: int, payload: bytes) -> bytes:
    return struct.pack(">IB", 1 + len(payload), kind) + payload


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">IB", wire.FRAME_BYTES + 1, 2),
        struct.pack(">IB", 0, 2),
        raw(9, b""),
        raw(1, b"\0" * 8),
        raw(1, b"\0" * 7),
        raw(1, b"\xff" * 8 + b"n"),
        raw(1, b"\0" * 8 + b"a-b"),
        raw(1, b"\0" * 8 + b"a" * 65),
        raw(2, b""),
        raw(2, struct.pack(">QH", 0, 0)),
        raw(2, struct.pack(">QH", 0, 257)),
        raw(2, struct.pack(">QHI", wire.SEQ_LIMIT, 1, 1) + b"x"),
        raw(2, struct.pack(">QHI", 0, 1, 2) + b"x"),
        raw(2, struct.pack(">QHI", 0, 1, 1) + b"xy"),
        raw(2, struct.pack(">QHI", 0, 1, 0)),
        raw(2, struct.pack(">QHI", 0, 1, wire.LEAF_BYTES + 1) + b"x" * (wire.LEAF_BYTES + 1)),
    ],
)
def test_malformed_frames_of_a_writer_are_refused(data):
    with pytest.raises(wire.WireError):
        wire.Decoder(from_writer=True).feed(data)


@pytest.mark.parametrize("data", [raw(3, b"\0" * 19), raw(3, b"\0" * 20), raw(4, b""), raw(4, b"\x05ab"), raw(4, b"\0text"), raw(4, b"\x01\xff")])
def test_malformed_frames_of_the_recorder_are_refused(data):
    with pytest.raises(wire.WireError):
        wire.Decoder(from_writer=False).feed(data)


def test_the_largest_batch_fits_a_frame():
    leaves = [b"x" * (wire.BATCH_BYTES // wire.BATCH_RECORDS)] * wire.BATCH_RECORDS
    assert wire.Decoder(from_writer=True).feed(wire.encode_batch(7, leaves)) == [wire.Batch(7, leaves)]
