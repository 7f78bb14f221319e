"""What keeps several nodes of one log together: whose word counts, whose configuration stays, whose lease holds, one set of pseudonym keys."""

from __future__ import annotations

import asyncio
import os
import re
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from control_fakes import ROOT
from hypothesis import given
from hypothesis import strategies as st
from test_configuration_reload import BROKEN, Desk, compiled

from audit.keys import InvalidKey
from audit.store.errors import StoreError, TermLost
from audit.store.postgres_nodes import Sealed
from gateway import pseudonyms
from gateway.control.keysfile import KeysFile
from gateway.control.lease import HOLDS_S, Lease
from gateway.control.registry import Registry
from gateway.control.sharedkeys import CannotShare, NodesKey, SharedKeys, require_key
from gateway.control.tail import Others

NOW_US = 1_800_000_000_000_000
KEY = NodesKey(bytes(range(32)))


# --- whose word counts


def said(writer: str, kind: str, **carries: Any) -> dict[str, Any]:
    return {"type": kind, "writer": {"node": f"{writer}.controller", "epoch": 7}, **carries}


def led(writer: str, term: int) -> dict[str, Any]:
    return said(writer, "log.led", term=term)


def pinned(writer: str, digest: str) -> dict[str, Any]:
    return said(writer, "trust.pinned", digest=digest)


def fold(*records: dict[str, Any]) -> Registry:
    registry = Registry(ROOT)
    for index, record in enumerate(records):
        registry.fold(index, record)
    return registry


def test_what_only_a_leader_may_say_counts_from_the_one_that_leads():
    registry = fold(pinned("x", "before"), led("a", 1), pinned("a", "of a"), led("b", 2), pinned("a", "late"))
    assert registry.pinned["digest"] == "of a", "a leader that was stalled says nothing any more"
    assert fold(led("a", 1), led("b", 2), pinned("b", "of b")).pinned["digest"] == "of b"


def test_a_term_that_comes_late_into_the_log_takes_the_word_from_nobody():
    assert fold(led("b", 2), led("a", 1), pinned("b", "of b"), pinned("a", "late")).pinned["digest"] == "of b"


def test_what_every_node_may_say_counts_from_every_node():
    certified = said("b", "key.certified", purpose="other", vkey="k", node="b")
    erased = said("b", "erasure", erasure="e", keys=["00"])
    registry = fold(led("a", 1), certified, erased)
    assert registry.erased.keys() == {"e"}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), max_size=12))
def test_the_log_says_who_leads_whatever_comes_in_between(terms: list[tuple[str, int]]):
    registry, newest, leader = Registry(ROOT), 0, None
    for index, (writer, term) in enumerate(terms):
        registry.fold(2 * index, led(writer, term))
        if term > newest:
            newest, leader = term, writer
        before = registry.pinned
        registry.fold(2 * index + 1, pinned(writer, f"{index}"))
        assert (registry.pinned is not before) == (writer == leader)


def test_what_others_commit_is_folded_once_and_what_this_process_commits_is_passed_over():
    registry, heard = Registry(ROOT), []
    others = Others(registry, 3, ("a.controller", 7), heard.append)
    records = [said("a", "erasure", erasure="own", keys=[]), said("b", "erasure", erasure="theirs", keys=[]), said("b", "call")]
    others.take([(3 + at, msgspec.json.encode(record)) for at, record in enumerate(records)])
    assert (registry.erased.keys(), heard, others.at) == ({"theirs"}, ["erasure"], 6)


# --- whose configuration stays


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(tmp_path)


def test_a_node_that_leads_after_another_keeps_what_is_in_force_until_its_folder_changes(desk: Desk):
    desk.reload()
    in_force, desk.folder = desk.configuration.digest, compiled(2)
    desk.configuration.inherit("a.controller")
    for _ in range(2):
        assert desk.reload() is False
        assert desk.configuration.digest == in_force
        assert re.search(r"`a\.controller`.*models/m", desk.configuration.issues[0])
    desk.folder = compiled(3)
    assert desk.reload() is True
    assert (desk.configuration.digest, desk.configuration.issues) == (desk.folder.digest, ())
    desk.folder = compiled(2)
    assert desk.reload() is True, "once it was changed the folder is what counts"


def test_a_folder_alike_is_followed_at_once_and_a_broken_one_changes_nothing(desk: Desk):
    desk.reload()
    in_force = desk.configuration.digest
    desk.configuration.inherit("a.controller")
    folder, desk.folder = desk.folder, BROKEN
    assert desk.reload() is False
    assert desk.configuration.issues == BROKEN.issues
    desk.folder = folder
    assert desk.reload() is False
    assert (desk.configuration.digest, desk.configuration.issues) == (in_force, ())
    desk.folder = compiled(2)
    assert desk.reload() is True


# --- whose lease holds


class FakeNodes:
    """The statements of a leader, in memory; `fault` is raised by the next one."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.fault: Exception | None = None

    def _say(self, *what: Any) -> None:
        if self.fault is not None:
            raise self.fault
        self.said.append(what)

    def renew(self, term: int, node: str) -> None:
        self._say("renew", term, node)

    def put_live(self, digest: str, data: bytes) -> None:
        self._say("live", digest, data)

    def state(self, term: int, node: str, manifest: str, live: str) -> None:
        self._say("state", term, node, manifest, live)


def wait_until(condition: Any) -> None:
    until_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_a_live_state_is_in_the_database_before_it_is_stated_and_is_put_there_once():
    nodes = FakeNodes()

    async def run() -> None:
        lease = Lease(nodes, 3, "a", 0.0)
        task = asyncio.create_task(lease.run())
        await asyncio.to_thread(wait_until, lambda: len(nodes.said) >= 1)
        lease.publish("m", "l", b"data")
        await asyncio.to_thread(wait_until, lambda: len(nodes.said) >= 4)
        task.cancel()

    asyncio.run(run())
    assert nodes.said[:4] == [("renew", 3, "a"), ("live", "l", b"data"), ("state", 3, "a", "m", "l"), ("state", 3, "a", "m", "l")]


@pytest.mark.parametrize("fault", [TermLost("another"), StoreError("away")])
def test_a_lease_that_cannot_be_renewed_ends_the_leader(fault: Exception):
    nodes = FakeNodes()
    nodes.fault = fault
    with pytest.raises(type(fault)):
        asyncio.run(Lease(nodes, 3, "a", 0.0).run())


def test_a_lease_holds_for_a_second_less_than_others_wait():
    lease = Lease(FakeNodes(), 3, "a", 100.0)
    assert lease.holds(100.0 + HOLDS_S - 0.01)
    assert not lease.holds(100.0 + HOLDS_S)


# --- one set of pseudonym keys


class FakeTable:
    """The row under seal; `race` is done by another node between reading and replacing, once."""

    def __init__(self) -> None:
        self.row: Sealed | None = None
        self.scrubbed = 0
        self.race = lambda: None

    def sealed(self) -> Sealed | None:
        return self.row

    def replace_sealed(self, before: int, key_id: str, data: bytes) -> bool:
        race, self.race = self.race, lambda: None
        race()
        if before != (0 if self.row is None else self.row.version):
            return False
        self.row = Sealed(key_id, before + 1, data)
        return True

    def scrub_sealed(self) -> None:
        self.scrubbed += 1


def tenants(*names: str, now_us: int = NOW_US):
    return lambda held: pseudonyms.rotate(held, set(names), now_us)


def test_two_nodes_that_begin_at_once_have_one_key_for_a_tenant():
    table = FakeTable()
    first, second = SharedKeys(table, KEY), SharedKeys(table, KEY)
    theirs: list[Any] = []
    table.race = lambda: theirs.append(second.settle(tenants("acme"), mine={}))
    ours = first.settle(tenants("acme", "globex"), mine={})
    assert ours["acme"] == theirs[0]["acme"]
    assert second.settle(tenants("acme"), mine={}) == ours
    assert table.row.version == 2


def test_the_first_node_brings_its_keys_and_a_later_one_takes_those_instead_of_its_own():
    table = FakeTable()
    mine, other = tenants("acme")({}), tenants("acme")({})
    assert SharedKeys(table, KEY).settle(tenants("acme"), mine=mine) == mine
    assert SharedKeys(table, KEY).settle(tenants("acme"), mine=other) == mine


def test_keys_that_have_ended_are_replaced_and_the_table_is_scrubbed():
    table = FakeTable()
    shared = SharedKeys(table, KEY)
    before = shared.settle(tenants("acme"), mine={})
    assert table.scrubbed == 0
    after = shared.settle(tenants("acme", now_us=NOW_US + 91 * 86_400_000_000), mine={})
    assert (after["acme"][0].epoch, table.scrubbed) == (before["acme"][0].epoch + 1, 1)


def test_no_secret_is_in_what_is_stored_and_another_key_an_altered_row_or_none_opens_nothing():
    table = FakeTable()
    keys = SharedKeys(table, KEY).settle(tenants("acme"), mine={})
    assert keys["acme"][0].secret not in table.row.data
    assert b"acme" not in table.row.data
    other = NodesKey(os.urandom(32))
    for wrong in (other, None):
        with pytest.raises(CannotShare, match=r"postgres\.key"):
            require_key(table.row, wrong)
    with pytest.raises(CannotShare):
        SharedKeys(table, other).settle(tenants("acme"), mine={})
    altered = msgspec.structs.replace(table.row, data=bytes([table.row.data[0] ^ 1]) + table.row.data[1:])
    with pytest.raises(CannotShare):
        require_key(altered, KEY)
    require_key(table.row, KEY)
    require_key(None, None)


def test_the_text_of_a_key_is_read_back_and_no_other_secret_is_taken_for_one():
    assert NodesKey.parse(KEY.secret_text()) == KEY
    assert "secret" not in repr(KEY)
    for text in ("VAULT+KEY+" + "A" * 43 + "=", "NODES+KEY+short", "NODES+KEY+" + "A" * 8):
        with pytest.raises(InvalidKey) as refused:
            NodesKey.parse(text)
        assert text not in str(refused.value)


def test_the_copy_beside_the_workers_follows_what_the_nodes_share(tmp_path, monkeypatch: pytest.MonkeyPatch):
    shared = SharedKeys(FakeTable(), KEY)
    theirs = shared.settle(tenants("acme"), mine={})
    path = tmp_path / "vault" / "epochs.json"
    keys = KeysFile(tmp_path / "api-keys.json", path, shared)
    monkeypatch.setattr(KeysFile, "authenticator", SimpleNamespace(tenants={"acme"}))
    keys.rotate(NOW_US)
    assert pseudonyms.load(path) == theirs
