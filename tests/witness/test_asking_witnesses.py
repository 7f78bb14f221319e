"""The log's side: within the budget, without raising, and without waiting for the dead."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from audit import tiles
from audit.keys import COSIGNATURE_V1, SigningKey
from audit.merkle import consistency_proof
from audit.note import Note, open_checkpoint, parse, sign
from audit.publisher import CosignRequest, grow
from audit.witness import StateFile, Witness, application
from gateway.control.witnesses import PAUSES_S, Known, Witnesses
from gateway.processes.embedded import EmbeddedServer

ORIGIN = "log.example/asked"
LOG = SigningKey.generate(ORIGIN, seed=bytes(32))


class GrowingLog:
    """A log on disk that signs as it grows, and asks witnesses as a publisher does."""

    def __init__(self, data_dir: Path) -> None:
        self.log_dir = data_dir / "log"
        self.edge = tiles.HashTiles()
        self.fork = b""

    def grow(self, count: int) -> CosignRequest:
        old = self.edge.size
        leaves = [self.fork + b"%d" % (old + at) for at in range(count)]
        self.edge, files, checkpoint = grow(self.edge, leaves, ORIGIN)
        for path, data in files.items():
            (self.log_dir / path).parent.mkdir(parents=True, exist_ok=True)
            (self.log_dir / path).write_bytes(data)
        reader = tiles.TileReader(lambda path: (self.log_dir / path).read_bytes(), self.edge.size)
        return CosignRequest(sign(checkpoint.text(), [LOG]), old, consistency_proof(old, self.edge.size, reader.hash_at))


@pytest.fixture
def log(tmp_path):
    return GrowingLog(tmp_path)


@contextmanager
def served(folder, name="witness.example/a", *, port=0):
    """A real witness behind uvicorn in a thread; gives (how it is known, the witness)."""
    key = SigningKey.generate(name, kind=COSIGNATURE_V1, seed=bytes(31) + b"\1")
    witness = Witness(key, {ORIGIN: [LOG.verifier]}, StateFile(folder / "state.json"), now_s=lambda: 1_800_000_000)
    listener = socket.create_server(("127.0.0.1", port))
    server = EmbeddedServer(uvicorn.Config(application(witness), log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Known(f"http://127.0.0.1:{listener.getsockname()[1]}", key.verifier), witness
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def silent():
    """A listener that accepts (the kernel does) and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        key = SigningKey.generate("witness.example/silent", kind=COSIGNATURE_V1).verifier
        yield Known(f"http://127.0.0.1:{listener.getsockname()[1]}", key)


@contextmanager
def asking(known, data_dir, **options: Any):
    witnesses = Witnesses(known, data_dir, **options)
    try:
        yield witnesses
    finally:
        witnesses.close()


def names(request, signatures, *known: Known):
    """Put the signatures on the note and say whose verify."""
    parsed = parse(request.note)
    whole = Note(parsed.text, (*parsed.signatures, *signatures)).encode()
    return [one.key.name for one in open_checkpoint(whole, [LOG.verifier], [one.key for one in known]).cosignatures]


def test_a_growing_log_is_cosigned_each_time(log, tmp_path):
    with served(tmp_path / "w") as (known, witness), asking([known], tmp_path) as witnesses:
        for count in (1, 255, 1, 300):
            request = log.grow(count)
            assert names(request, witnesses.cosign(request), known) == ["witness.example/a"]
        assert witness.known(ORIGIN).size == 557
        assert [(one.size, one.fault) for one in witnesses.standings()] == [(557, None)]


def test_after_a_restart_the_witness_tells_its_size_and_the_proof_starts_there(log, tmp_path):
    with served(tmp_path / "w") as (known, _):
        with asking([known], tmp_path) as witnesses:
            witnesses.cosign(log.grow(300))
        log.grow(70)  # a head this witness never saw
        with asking([known], tmp_path) as witnesses:
            request = log.grow(5)
            assert names(request, witnesses.cosign(request), known) == ["witness.example/a"]


def test_another_history_is_refused_and_told(log, tmp_path):
    with served(tmp_path / "w") as (known, witness), asking([known], tmp_path) as witnesses:
        witnesses.cosign(log.grow(300))
        other = GrowingLog(tmp_path / "other")
        other.fork = b"fork"
        with asking([known], tmp_path / "other") as forked:
            shorter, equal, longer = other.grow(200), other.grow(100), other.grow(50)
            clock = iter(range(0, 10_000, 100))
            forked._monotonic_s = lambda: float(next(clock))
            for request, why in ((shorter, "was rolled back"), (equal, "answered 409"), (longer, "answered 422")):
                assert forked.cosign(request) == []
                (standing,) = forked.standings()
                assert standing.fault is not None
                assert "the witness refuses this log's history" in standing.fault
                assert why in standing.fault
        assert witness.known(ORIGIN).size == 300


def test_a_silent_witness_costs_the_budget_once_and_then_nothing_for_a_while(log, tmp_path):
    now = [0.0]
    with served(tmp_path / "w") as (good, _), silent() as bad, asking([bad, good], tmp_path, budget_s=0.2, monotonic_s=lambda: now[0]) as witnesses:
        request = log.grow(1)
        witnesses.cosign(request)  # opens the connection to the good one
        now[0] = PAUSES_S[1]
        request = log.grow(1)
        began_s = time.monotonic()
        assert names(request, witnesses.cosign(request), good) == ["witness.example/a"]
        assert time.monotonic() - began_s < 0.15, "the silent one is not asked again while its answer is still awaited"
        assert [one.fault for one in witnesses.standings()] == ["no answer within 0.3 s", None]


def test_an_unreachable_witness_is_left_in_peace_for_longer_and_longer(log, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    key = SigningKey.generate("witness.example/gone", kind=COSIGNATURE_V1).verifier
    now = [0.0]
    asked = []
    with asking([Known(f"http://127.0.0.1:{port}", key)], tmp_path, monotonic_s=lambda: now[0]) as witnesses:
        for second in range(120):
            now[0] = float(second)
            before = witnesses._askers[0]._answer
            assert witnesses.cosign(log.grow(1)) == []
            if witnesses._askers[0]._answer is not before:
                asked.append(second)
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


def test_a_cosignature_of_another_key_does_not_count(log, tmp_path):
    other = SigningKey.generate("witness.example/a", kind=COSIGNATURE_V1).verifier
    with served(tmp_path / "w") as (known, _), asking([Known(known.url, other)], tmp_path) as witnesses:
        assert witnesses.cosign(log.grow(3)) == []
        assert "did not answer with its cosignature" in str(witnesses.standings()[0].fault)


def test_no_witness_means_no_wait_and_no_cosignature(log, tmp_path):
    with asking([], tmp_path) as witnesses:
        assert witnesses.cosign(log.grow(3)) == []
        assert witnesses.keys == ()
