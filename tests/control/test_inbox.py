"""The inbox: only a signature of a person of the pinned root counts, and no file of any kind stops the controller."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from pathlib import Path

import pytest
from control_fakes import DAY_US, PEOPLE, ROOT, STRANGER, Broken, MemoryClerk, approval, envelope, revocation
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.control import inbox
from gateway.control.inbox import Inbox
from gateway.control.registry import CONCERNING, Registry
from policies.approvals import InvalidApproval, load, sign_approval
from policies.in_force import Candidate, judge
from policies.trust import Person


class Desk:
    """An inbox on a folder, with its registry and log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clerk = MemoryClerk()
        self.registry = Registry(ROOT)
        self.inbox = Inbox(folder, ROOT, self.clerk, self.registry)

    def put(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def take_in(self) -> bool:
        return asyncio.run(self.inbox.take_in())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_valid_envelope_is_recorded_whole_once_and_is_in_force(desk: Desk):
    data = envelope()
    desk.put("a.json", data)
    assert desk.take_in() is True
    record = json.loads(desk.clerk.leaves[0])
    assert (record["type"], record["envelope"], record["person"]) == ("approval.granted", data.decode(), "ann")
    assert [found.person for found in desk.registry.approvals.values()] == ["ann"]
    desk.put("copy.json", data)
    assert desk.take_in() is False
    assert len(desk.clerk.leaves) == 1


def test_a_revocation_is_taken_in_like_an_approval(desk: Desk):
    desk.put("r.json", revocation())
    assert desk.take_in() is True
    assert desk.clerk.kinds() == ["approval.revoked"]
    assert len(desk.registry.revocations) == 1


def test_taking_the_file_away_takes_nothing_out_of_force(desk: Desk):
    path = desk.put("a.json", envelope())
    desk.take_in()
    path.unlink()
    assert desk.take_in() is False
    assert len(desk.registry.approvals) == 1


BAD = {
    "empty": b"",
    "no JSON": b"{",
    "no envelope": b"{}",
    "not UTF-8": b"\xff\xfe",
    "deep": b"[" * 20_000 + b"]" * 20_000,
    "too long": b"x" * (48 * 1024 + 1),
    "a stranger's": sign_approval(approval(), STRANGER),
    "a changed one": envelope().replace(b'"sig":"', b'"sig":"AAAA', 1),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_told_counts_for_nothing_and_others_are_taken_in_beside_it(desk: Desk, kind):
    desk.put("bad.json", BAD[kind])
    desk.put("good.json", envelope())
    assert desk.take_in() is True
    assert set(desk.inbox.refused) == {"bad.json"}
    assert desk.inbox.refused["bad.json"]
    assert len(desk.clerk.leaves) == 1


def test_a_bad_file_that_is_mended_or_removed_is_told_no_more(desk: Desk):
    mended, removed = desk.put("a.json", b"{"), desk.put("b.json", b"{")
    desk.take_in()
    assert set(desk.inbox.refused) == {"a.json", "b.json"}
    mended.write_bytes(envelope())
    removed.unlink()
    assert desk.take_in() is True
    assert desk.inbox.refused == {}


def test_a_file_replaced_within_the_same_instant_is_looked_at_again(desk: Desk):
    path = desk.put("a.json", b"{")
    stamp = path.stat()
    desk.take_in()
    path.write_bytes(envelope())
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert desk.take_in() is True


def test_links_pipes_folders_and_huge_files_are_refused_without_being_read(desk: Desk):
    real = desk.folder / "elsewhere"
    real.write_bytes(envelope())
    (desk.folder / "link.json").symlink_to(real)
    (desk.folder / "loop.json").symlink_to(desk.folder / "loop.json")
    (desk.folder / "dangling.json").symlink_to(desk.folder / "nothing")
    (desk.folder / "zero.json").symlink_to("/dev/zero")
    os.mkfifo(desk.folder / "pipe.json")
    (desk.folder / "folder.json").mkdir()
    with (desk.folder / "huge.json").open("wb") as file:
        file.truncate(1 << 30)
    began = time.monotonic()
    assert desk.take_in() is False
    assert time.monotonic() - began < 1.0
    assert set(desk.inbox.refused) == {f"{name}.json" for name in ("link", "loop", "dangling", "zero", "pipe", "folder", "huge")}
    assert not desk.inbox.has_unread, "what is no file is not tried again"
    assert desk.clerk.leaves == []


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_revocation_that_could_not_be_read_once_is_read_again_although_its_file_has_not_changed(desk: Desk, monkeypatch, caplog, error: int):
    desk.put("r.json", revocation())

    def fail(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patched:
        patched.setattr(inbox.os, "open", fail)
        for _ in range(3):
            assert desk.take_in() is False
            assert desk.inbox.has_unread
    assert os.strerror(error) in desk.inbox.refused["r.json"]
    assert len(caplog.records) == 1, "told once, however often it is tried"
    assert desk.take_in() is True
    assert not desk.inbox.has_unread
    assert len(desk.registry.revocations) == 1
    assert desk.inbox.refused == {}


def test_one_file_that_cannot_be_read_does_not_hold_up_the_others(desk: Desk, monkeypatch):
    desk.put("a.json", envelope())
    unreadable = desk.put("b.json", revocation())
    desk.put("c.json", revocation("bob"))
    real = os.open
    with monkeypatch.context() as patched:
        patched.setattr(inbox.os, "open", lambda path, *more: real("/nowhere/at/all" if path == unreadable else path, *more))
        assert desk.take_in() is True
    assert desk.inbox.has_unread
    assert (len(desk.registry.approvals), len(desk.registry.revocations)) == (1, 1)


def test_a_name_that_is_no_text_can_still_be_told(desk: Desk):
    with open(os.fsencode(desk.folder) + b"/\xff.json", "wb") as file:  # noqa: PTH123 - pathlib has no names in bytes
        file.write(b"{")
    desk.take_in()
    (name,) = desk.inbox.refused
    assert json.dumps(name).encode("ascii")
    assert name.encode().decode() == name


def test_an_envelope_that_could_not_be_recorded_is_taken_in_the_next_time(desk: Desk):
    desk.put("a.json", envelope())
    desk.clerk.dies_at = 1
    with pytest.raises(Broken):
        desk.take_in()
    assert desk.registry.approvals == {}
    assert desk.take_in() is True


@settings(max_examples=200)
@given(st.data())
def test_no_bytes_at_all_raise_anything_but_a_refusal(data):
    good = envelope()
    if data.draw(st.booleans()):
        body = data.draw(st.binary(max_size=200))
    else:
        at = data.draw(st.integers(0, len(good) - 1))
        body = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 3)) :]
    if body != good:
        with pytest.raises(InvalidApproval):
            load(body, ROOT)


# --- the registry is a fold


ANN = [person for person in ROOT.people if person.name == "ann"]
ALONE = {**ROOT.thresholds, "approve.high": 1}


@pytest.mark.parametrize(
    "people",
    [ANN, [*ANN, Person("bob", (STRANGER.public,), ("approver", "root"))]],
    ids=["who revoked has left the root", "who revoked has another key"],
)
def test_what_was_taken_back_stays_taken_back_whoever_leaves_the_trust_root(people: list[Person]):
    successor = ROOT.next(people=people, thresholds=ALONE).signed(PEOPLE["ann"])
    successor.require_successor_of(ROOT)
    candidate = Candidate("credit-risk", "3", "sha256:" + "3" * 64, ("http://v3:80",), "low", "credit")
    for root in (ROOT, successor):
        registry = Registry(root)
        registry.fold(0, {"type": "approval.granted", "id": "r0", "envelope": envelope("ann").decode(), "person": "ann"})
        assert judge(registry.approvals.values(), registry.revocations.values(), candidate, root, "staging", DAY_US + 1).reason is None
        registry.fold(1, {"type": "approval.revoked", "id": "r1", "envelope": revocation("bob").decode(), "person": "bob"})
        assert judge(registry.approvals.values(), registry.revocations.values(), candidate, root, "staging", DAY_US + 1).reason == "approval.revoked"
    assert len(registry.unreadable) == 1, "that its signature counts no more is shown"


def test_an_approval_of_someone_who_has_left_the_root_counts_no_more():
    successor = ROOT.next(people=ANN, thresholds=ALONE).signed(PEOPLE["ann"])
    registry = Registry(successor)
    registry.fold(0, {"type": "approval.granted", "id": "r0", "envelope": envelope("bob").decode(), "person": "bob"})
    assert (registry.approvals, len(registry.unreadable)) == ({}, 1)


steps = st.lists(st.sampled_from(["ann", "bob", "revoked", "stranger", "garbage", "heartbeat"]), max_size=8)


def log_of(kinds) -> list[dict]:
    made = []
    for number, kind in enumerate(kinds):
        if kind == "heartbeat":
            made.append({"type": "log.heartbeat", "id": f"r{number}"})
            continue
        data = {
            "ann": lambda: envelope("ann"),
            "bob": lambda: envelope("bob"),
            "revoked": revocation,
            "stranger": lambda: BAD["a stranger's"],
            "garbage": lambda: b"{}",
        }[kind]()
        name = "approval.revoked" if kind == "revoked" else "approval.granted"
        made.append({"type": name, "id": f"r{number}", "envelope": data.decode()})
    return made


def folded(records, registry=None, first=0) -> Registry:
    registry = registry or Registry(ROOT)
    for index, record in enumerate(records, first):
        registry.fold(index, record)
    return registry


@given(steps, st.integers(0, 8))
def test_a_prefix_and_the_rest_fold_to_what_the_whole_does_and_what_does_not_verify_counts_for_nothing(kinds, cut):
    records = log_of(kinds)
    whole = folded(records)
    parts = folded(records[cut:], folded(records[:cut]), cut)
    assert (whole.approvals, whole.revocations, whole.unreadable) == (parts.approvals, parts.revocations, parts.unreadable)
    assert {found.person for found in whole.approvals.values()} == set(kinds) & set(PEOPLE)
    assert len(whole.unreadable) == sum(kind in ("stranger", "garbage") for kind in kinds)


@given(steps)
def test_every_leaf_that_changes_the_registry_concerns_it(kinds):
    for record in log_of(kinds):
        leaf = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        assert (CONCERNING.search(leaf) is not None) is (record["type"] != "log.heartbeat")


def test_text_in_a_record_cannot_pass_for_its_type():
    leaf = json.dumps({"label": '"type":"approval.granted"', "type": "label"}, separators=(",", ":")).encode()
    assert CONCERNING.search(leaf) is None
