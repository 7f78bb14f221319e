"""The recorder seen from a socket: acknowledgements, refusals, deaths. Each test starts a real process."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest
from recorder_process import RecorderProcess, wait_until

from audit import wire
from audit.follow import follow
from audit.highwater import HighWater
from audit.leaf import render
from audit.statements import machine_boot_id
from audit.store.control import ControlStore
from audit.store.layout import RANGE_LEAVES
from audit.store.leaves import LeafStore

EPOCH = 1000


@pytest.fixture
def recorder(tmp_path):
    process = RecorderProcess(tmp_path / "data")
    process.start()
    yield process
    process.close()


class Peer:
    """A writer that speaks frames by hand."""

    def __init__(self, recorder: RecorderProcess, node: str = "n1.w0", epoch: int = EPOCH) -> None:
        self.node, self.epoch = node, epoch
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        recorder.peers.append(self.socket)
        self.socket.settimeout(10)
        self.socket.connect(str(recorder.socket_path))
        self.socket.sendall(wire.encode_hello(node, epoch))
        self._decoder = wire.Decoder(from_writer=False)
        self._frames: list[wire.Frame] = []

    def leaf(self, seq: int, **more: object) -> bytes:
        return render({"v": 1, "type": "test", "writer": {"node": self.node, "epoch": self.epoch, "seq": seq}, **more})

    def send(self, first_seq: int, count: int) -> None:
        self.socket.sendall(wire.encode_batch(first_seq, [self.leaf(seq) for seq in range(first_seq, first_seq + count)]))

    def receive(self) -> wire.Frame | None:
        while not self._frames:
            data = self.socket.recv(65536)
            if not data:
                return None
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    def refusal(self) -> str:
        frame = self.receive()
        assert isinstance(frame, wire.Refusal), frame
        assert self.receive() is None, "a refusal is the last frame"
        return frame.code


def records(recorder: RecorderProcess) -> list[dict]:
    return [json.loads(leaf) for _, leaf in follow(recorder.data_dir, 0)]


def test_a_batch_is_acknowledged_with_its_index_and_a_repeated_one_with_the_same(recorder):
    peer = Peer(recorder)
    peer.send(0, 3)
    ack = peer.receive()
    assert ack == wire.Ack(0, 3, 1)
    again = Peer(recorder)
    again.send(0, 5)
    assert [again.receive(), again.receive()] == [wire.Ack(0, 3, 1), wire.Ack(3, 2, 4)]
    assert [record["writer"]["seq"] for record in records(recorder) if record["type"] == "test"] == [0, 1, 2, 3, 4]


def test_frames_may_arrive_byte_by_byte(recorder):
    peer = Peer(recorder)
    for byte in wire.encode_batch(0, [peer.leaf(0)]):
        peer.socket.sendall(bytes([byte]))
    assert peer.receive() == wire.Ack(0, 1, 1)


def test_a_gap_is_refused_after_what_came_before_it_was_acknowledged(recorder):
    peer = Peer(recorder)
    peer.socket.sendall(wire.encode_batch(0, [peer.leaf(0)]) + wire.encode_batch(2, [peer.leaf(2)]))
    assert peer.receive() == wire.Ack(0, 1, 1)
    assert peer.refusal() == "sequence.gap"
    again = Peer(recorder)
    again.send(1, 1)
    assert again.receive() == wire.Ack(1, 1, 2)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xff\xff\xff\x02", "frame.invalid"),
        (wire.encode_hello("n1.w0", EPOCH), "frame.invalid"),
        (wire.encode_batch(0, [b'{"v":1,"writer":{"epoch":1000,"node":"n1.w0","seq":1}}']), "leaf.writer"),
        (wire.encode_batch(0, [b'{"v":1,"writer":{"epoch":1000,"node":"n1.w9","seq":0}}']), "leaf.writer"),
    ],
)
def test_what_breaks_the_protocol_is_refused_and_others_go_on(recorder, data, code):
    good, bad = Peer(recorder, "n1.w1"), Peer(recorder)
    bad.socket.sendall(data)
    assert bad.refusal() == code
    good.send(0, 1)
    assert isinstance(good.receive(), wire.Ack)
    assert [record["type"] for record in records(recorder)] == ["writer.open", "test"]


def test_other_bytes_under_a_used_number_are_refused(recorder):
    peer = Peer(recorder)
    peer.send(0, 1)
    peer.receive()
    peer.socket.sendall(wire.encode_batch(0, [peer.leaf(0, note="other")]))
    assert peer.refusal() == "retry.mismatch"


def test_the_recorders_own_name_cannot_be_taken(recorder):
    assert Peer(recorder, "n1.recorder").refusal() == "writer.reserved"


def test_a_batch_left_in_the_backlog_by_a_dead_writer_is_committed_before_its_loss_is_stated(tmp_path):
    """The writer dies while no recorder runs: 0..2 wait in its socket, 3 and 4 were numbered and never sent."""
    recorder = RecorderProcess(tmp_path / "data")
    mark = HighWater.claim(recorder.data_dir / "run", "n1.w0", EPOCH, machine_boot_id())
    peer = Peer(recorder, epoch=mark.epoch)
    peer.send(0, 3)
    mark.assigned = 4
    peer.socket.close()
    mark.close()
    recorder.start()
    try:
        wait_until(lambda: not mark.path.exists())
    finally:
        recorder.terminate()
        recorder.close()
    assert [record["type"] for record in records(recorder)] == ["writer.open", "test", "test", "test", "log.lost", "writer.close"]
    lost = records(recorder)[4]
    assert {key: lost[key] for key in ("node", "epoch", "from", "to")} == {"node": "n1.w0", "epoch": EPOCH, "from": 3, "to": 4}


def end_of(recorder: RecorderProcess, node: str = "n1.w0") -> dict:
    def ends():
        return [record for record in records(recorder) if record["type"] in {"log.lost", "log.recover"} and record["node"] == node]

    wait_until(lambda: bool(ends()))
    (end,) = ends()
    return end


def test_a_mark_of_another_boot_states_an_unknown_loss(recorder):
    mark = HighWater.claim(recorder.data_dir / "run", "n1.w0", EPOCH, "boot-before-the-power-cut")
    peer = Peer(recorder, epoch=mark.epoch)
    peer.send(0, 2)
    peer.receive()
    peer.socket.close()
    mark.assigned = 1
    mark.close()
    end = end_of(recorder)
    assert (end["type"], end["from"], end["to"]) == ("log.lost", 2, "unknown")


def test_a_dead_writer_without_a_mark_states_an_unknown_loss(recorder):
    peer = Peer(recorder)
    peer.send(0, 2)
    peer.receive()
    peer.socket.close()
    end = end_of(recorder)
    assert (end["type"], end["from"], end["to"]) == ("log.lost", 2, "unknown")
    assert Peer(recorder).refusal() == "writer.ended"


def test_a_living_writer_without_a_connection_is_not_declared_dead(recorder):
    mark = HighWater.claim(recorder.data_dir / "run", "n1.w0", EPOCH, machine_boot_id())
    mark.assigned = 5
    Peer(recorder, epoch=mark.epoch).socket.close()
    other = HighWater.claim(recorder.data_dir / "run", "n1.w1", EPOCH, machine_boot_id())
    other.assigned = 5
    other.close()
    end_of(recorder, "n1.w1")
    assert not [record for record in records(recorder) if record.get("node") == "n1.w0"]
    mark.close()
    assert end_of(recorder)["to"] == 5


def test_told_to_end_at_once_it_commits_what_has_arrived_and_closes_the_epoch(recorder):
    peer = Peer(recorder)
    peer.send(0, 1)
    peer.receive()
    os.kill(recorder.pid, signal.SIGSTOP)
    peer.send(1, 200)
    os.kill(recorder.pid, signal.SIGINT)
    os.kill(recorder.pid, signal.SIGCONT)
    assert recorder.end() == (0, "")
    assert peer.receive() == wire.Ack(1, 200, 2)
    assert records(recorder)[-1]["type"] == "writer.close"
    assert len(records(recorder)) == 203


def test_a_second_recorder_on_the_same_directory_ends_with_a_hint(recorder):
    peer = Peer(recorder)
    peer.send(0, 1)
    peer.receive()
    second = RecorderProcess.__new__(RecorderProcess)
    second.data_dir, second.node, second._listener = recorder.data_dir, "n1.second", recorder._listener
    second.start()
    code, stderr = second.end()
    assert code == 78
    assert "hint: two gateways must not share one data directory" in stderr


def test_a_recorder_behind_the_signed_size_ends_and_says_what_to_do(tmp_path):
    control = ControlStore.open(tmp_path / "data")
    control.lead("c", 0)
    control.add_checkpoint(5, bytes(32), b"n")
    control.close()
    recorder = RecorderProcess(tmp_path / "data")
    recorder.start()
    code, stderr = recorder.end()
    recorder.close()
    assert code == 78
    assert "signed a size of `5`" in stderr
    assert "hint:" in stderr


def test_an_end_that_was_stated_just_before_a_kill_is_not_stated_again_in_the_next_range(tmp_path):
    """The mark outlived the statement. Judged after the next range has begun, which knows nothing of ended writers, it would be stated twice."""
    data_dir = tmp_path / "data"
    recorder = RecorderProcess(data_dir)
    dead = HighWater.claim(data_dir / "run", "n1.w0", EPOCH, machine_boot_id())
    dead.assigned = 4
    dead.close()
    store = LeafStore.open(data_dir)
    filler, ended, later = ("n1.filler", 1), ("n1.w0", dead.epoch), ("n1.w0", dead.epoch + 1)
    for at in range(0, RANGE_LEAVES - 100, 8192):
        store.stage(filler, at, [b"%d" % seq for seq in range(at, min(at + 8192, RANGE_LEAVES - 100))])
        store.commit()
    store.stage(later, 0, [b"its name has begun again"])
    store.stage(("n1.recorder", 1), 0, [b"the end of n1.w0"], ends=ended)
    store.commit()
    store.end_writer(filler)
    store.end_writer(later)
    store.close()
    recorder.start()
    try:
        peer = Peer(recorder, node="n1.w5")
        peer.send(0, 200)  # turns the range over before the first census has found anybody dead
        assert isinstance(peer.receive(), wire.Ack)
        wait_until(lambda: not dead.path.exists())
        assert recorder.terminate()[0] == 0
    finally:
        recorder.close()
    stated = [json.loads(leaf) for _, leaf in follow(data_dir, RANGE_LEAVES - 99) if b'"log.lost"' in leaf or b'"log.recover"' in leaf]
    assert [one for one in stated if (one["node"], one["epoch"]) == ended] == []
