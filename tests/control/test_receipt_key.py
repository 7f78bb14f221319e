"""The receipt key: certified before it can sign, kept over restarts, replaced on schedule; no crash leaves an uncertified promise."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from control_fakes import Broken, MemoryClerk

from audit.keys import InvalidKey, SigningKey, read_secret_file
from audit.receipt import Certificates, key_name
from gateway.control.receiptkey import CHECKPOINT_MOST_US, WITHDRAW_AFTER_S, ReceiptKey
from gateway.promises import FollowedKey

ORIGIN, NODE = "log.example/keys", "n1"
DAY_US = 86_400_000_000


class Desk:
    """A keeper over a log in memory; `life` begins another process on the same log and file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "receipts.key"
        self.clerk = MemoryClerk()
        self.now_us = time.time_ns() // 1000
        self.mono_s = 100.0
        self.life()

    def life(self, node: str = NODE, checkpoint_us: int = 1_000_000) -> None:
        self.certificates = Certificates()
        for index, leaf in enumerate(self.clerk.leaves):
            self.certificates.fold(index, json.loads(leaf))
        clerk, known = self.clerk, self.certificates
        self.keeper = ReceiptKey(self.path, ORIGIN, node, clerk, known, lifetime_us=30 * DAY_US, checkpoint_us=checkpoint_us)

    def settle(self, days: float = 0, seconds: float = 0) -> None:
        self.now_us += int(days * DAY_US + seconds * 1e6)
        self.mono_s += days * 86_400 + seconds
        asyncio.run(self.keeper.settle(self.now_us, self.mono_s))

    def held(self) -> str:
        return str(SigningKey.parse(read_secret_file(self.path)).verifier)

    def kinds(self) -> list[tuple[str, str]]:
        records = [json.loads(leaf) for leaf in self.clerk.leaves]
        return [(record["type"], record["vkey"]) for record in records]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_first_key_is_certified_then_put_in_place_for_its_owner_alone(desk: Desk):
    desk.settle()
    assert desk.kinds() == [("key.certified", desk.held())]
    assert desk.path.stat().st_mode & 0o777 == 0o600
    assert json.loads(desk.clerk.leaves[0])["purpose"] == "receipts"


def test_there_is_no_key_in_place_that_the_log_does_not_certify_whatever_fails(desk: Desk):
    for dies_at, after in ((1, False), (2, True)):
        desk.clerk.dies_at, desk.clerk.after_commit = dies_at, after
        with pytest.raises(Broken):
            desk.settle()
        assert not desk.path.exists()
        desk.life()
    desk.clerk.dies_at = None
    desk.settle()
    assert ("key.certified", desk.held()) in desk.kinds()


def test_a_certified_key_that_nobody_holds_is_withdrawn(desk: Desk):
    desk.clerk.dies_at, desk.clerk.after_commit = 1, True
    with pytest.raises(Broken):
        desk.settle()
    orphan = desk.kinds()[0][1]
    desk.life()
    desk.settle()
    desk.settle(seconds=WITHDRAW_AFTER_S)
    assert desk.kinds() == [("key.certified", orphan), ("key.certified", desk.held()), ("key.withdrawn", orphan)]


def test_a_key_outlives_a_restart_and_nothing_is_recorded_for_it(desk: Desk):
    desk.settle()
    first = desk.held()
    desk.life()
    desk.settle(seconds=60)
    desk.settle(seconds=60)
    assert desk.held() == first
    assert len(desk.clerk.leaves) == 1


def test_a_key_is_replaced_at_its_end_and_withdrawn_once_workers_have_had_time(desk: Desk):
    desk.settle()
    first = desk.held()
    desk.settle(days=29)
    assert desk.held() == first
    desk.settle(days=1)
    second = desk.held()
    assert desk.kinds() == [("key.certified", first), ("key.certified", second)]
    desk.settle(seconds=WITHDRAW_AFTER_S - 1)
    assert len(desk.clerk.leaves) == 2
    desk.settle(seconds=1)
    assert desk.kinds()[2:] == [("key.withdrawn", first)]
    desk.settle(seconds=60)
    assert len(desk.clerk.leaves) == 3


@pytest.mark.parametrize("left", ["altered", "open to others", "of another log", "withdrawn"])
def test_a_key_that_cannot_be_gone_on_with_is_replaced(desk: Desk, left: str):
    desk.settle()
    first = desk.held()
    if left == "altered":
        desk.path.write_text("PRIVATE+KEY+")
    elif left == "open to others":
        desk.path.chmod(0o644)
    elif left == "of another log":
        desk.path.write_text(SigningKey.generate(key_name("log.example/else")).secret_text())
    else:
        asyncio.run(desk.clerk.record("key.withdrawn", purpose="receipts", vkey=first, node=NODE, reason="stolen"))
    desk.life()
    desk.settle()
    assert desk.held() != first
    assert ("key.certified", desk.held()) in desk.kinds()


def test_a_key_of_another_gateway_on_the_same_log_is_left_alone(desk: Desk, tmp_path: Path):
    desk.settle()
    first = desk.held()
    desk.path = tmp_path / "other.key"
    desk.life(node="n2")
    desk.settle()
    desk.settle(seconds=60)
    assert desk.kinds() == [("key.certified", first), ("key.certified", desk.held())]


def test_where_checkpoints_are_too_far_apart_nothing_is_promised(desk: Desk):
    desk.settle()
    first = desk.held()
    desk.life(checkpoint_us=CHECKPOINT_MOST_US + 1)
    desk.settle(seconds=60)
    assert not desk.path.exists()
    assert desk.kinds()[1:] == [("key.withdrawn", first)]


class Writer:
    node, epoch = "n1.w0", 1


def test_a_worker_follows_the_file_and_signs_with_none_while_there_is_none(desk: Desk):
    followed = FollowedKey(desk.path)
    assert followed.look(None, Writer()) is None
    desk.settle()
    held = followed.look(None, Writer())
    assert held is not None
    assert followed.look(held, Writer()) is held
    desk.settle(days=30)
    assert followed.look(held, Writer()) is not held
    desk.path.chmod(0o640)
    desk.path.touch()
    with pytest.raises(InvalidKey):
        followed.look(held, Writer())
    desk.path.unlink()
    assert followed.look(held, Writer()) is None


def test_a_folder_that_takes_no_file_costs_one_certificate_and_not_one_for_each_attempt(desk: Desk):
    desk.path.mkdir()
    (desk.path / "full").touch()
    for _ in range(5):
        with pytest.raises(OSError, match=r"directory|Is a"):
            desk.settle(seconds=5)
    assert len(desk.kinds()) == 1
    (desk.path / "full").unlink()
    desk.path.rmdir()
    desk.settle(seconds=5)
    assert desk.kinds() == [("key.certified", desk.held())]
