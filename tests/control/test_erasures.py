"""Erasures as the controller carries them out: wherever it is cut off, the next start ends in the same state."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from audit.leaf import render
from audit.store import layout
from audit.store.errors import StoreFull
from audit.vault.crypto import MasterKey
from audit.vault.entry import Entry, encode_content
from audit.vault.store import VaultStore
from audit.vault.tombstones import Tombstones
from gateway.admin.experiments_api import _BODY_BYTES
from gateway.admin.vault_api import _asked as order_of
from gateway.authenticate import Principal
from gateway.control.erasures import Asked, Erasures, admit
from gateway.control.registry import CONCERNING, Registry
from gateway.keeping import Line
from gateway.pseudonyms import EpochKey, TenantPseudonyms, save
from gateway.refusals import Refusal
from policies.erasure import ErasureConsent, about, sign_erasure
from policies.trust import DEFAULT_THRESHOLDS, PersonKey, ceremony

MASTER = MasterKey(b"m" * 32)
ROOT = ceremony({"alice": PersonKey.from_seed(b"a" * 32), "bob": PersonKey.from_seed(b"b" * 32)}, thresholds=DEFAULT_THRESHOLDS)
OFFICER = Principal("k_1", "acme", ("subject:erase",), None, False, False, {"kind": "key", "id": "k_1"}, None)
EPOCHS = [EpochKey(1, b"1" * 32, 0, 2**52), EpochKey(2, b"2" * 32, 0, 2**52)]
UNIT = "customer-77"
ORIGIN = "log.example/prod"


class Killed(BaseException):
    """The process ends here."""


class FakeClerk:
    """Commits records into a list, or is killed before or after."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.kill: str | None = None

    async def record(self, kind: str, **carries: Any) -> int:
        if self.kill == "before the record":
            raise Killed
        self.records.append((kind, carries))
        if self.kill == "after the record":
            raise Killed
        return len(self.records)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    with VaultStore.open(data, MASTER) as vault:
        for number, key in enumerate(EPOCHS):
            vault.keep([entry(f"r{number}", TenantPseudonyms(key).of(UNIT))], 1)
    save(data / "vault" / "epochs.json", {"acme": EPOCHS})
    return tmp_path


def entry(record: str, subject: str, kept_us: int = 1) -> Entry:
    return Entry(record, "acme", subject, UNIT, kept_us, 2**52, encode_content(os.urandom(32), {}))


def opened(place: Path, clerk: FakeClerk, *, people: int = 0) -> Erasures:
    return Erasures(place / "data", MASTER, place / "marks", clerk, ROOT, ORIGIN, people=people)


def state_of(place: Path) -> set[str]:
    with VaultStore.open(place / "data", MASTER) as vault:
        return {vault.read(record, 2).state for record in ("r0", "r1")}


def asked(**more: Any) -> Asked:
    return Asked(**{"tenant": "acme", "unit": UNIT, "ground": "request", "consents": (), **more})


def erase(place: Path, clerk: FakeClerk) -> None:
    async def run() -> None:
        erasures = opened(place, clerk)
        try:
            await erasures.prepare()
            await erasures.erase(asked(), OFFICER)
        finally:
            erasures.close()

    asyncio.run(run())


def start_again(place: Path, clerk: FakeClerk) -> None:
    async def run() -> None:
        erasures = opened(place, clerk)
        try:
            await erasures.prepare()
        finally:
            erasures.close()

    asyncio.run(run())


def test_a_restored_vault_whose_tombstones_are_gone_too_brings_nobody_back_whom_the_log_has_erased(place):
    copy = layout.vault_path(place / "data")
    before = copy.read_bytes()
    clerk = FakeClerk()
    erase(place, clerk)
    for name in (copy.name, f"{copy.name}-wal", f"{copy.name}-shm"):
        (copy.parent / name).unlink(missing_ok=True)
    copy.write_bytes(before)
    (place / "marks" / "vault.erased").unlink()
    assert state_of(place) == {"kept"}, "the copy is whole"
    registry = Registry(ROOT)
    for index, (kind, carries) in enumerate(clerk.records):
        assert CONCERNING.search(render({"type": kind, **carries})), "a start finds it in the log"
        registry.fold(index, {"type": kind, **carries})

    async def start() -> None:
        erasures = opened(place, clerk)
        try:
            await erasures.prepare(registry.erased)
        finally:
            erasures.close()

    asyncio.run(start())
    assert state_of(place) == {"erased"}
    assert len(clerk.records) == 1, "the log has it already"
    start_again(place, clerk)
    assert state_of(place) == {"erased"}


def test_every_living_pseudonym_of_the_subject_is_erased_and_the_record_names_nobody(place):
    clerk = FakeClerk()
    erase(place, clerk)
    assert state_of(place) == {"erased"}
    ((kind, carries),) = clerk.records
    assert (kind, carries["entries"], len(carries["keys"]), carries["ground"], carries["actor"]) == ("erasure", 2, 2, "request", OFFICER.actor)
    written = json.dumps(carries) + (place / "marks" / "vault.erased").read_text()
    assert not any(name in written for name in (UNIT, *(TenantPseudonyms(key).of(UNIT) for key in EPOCHS)))


@pytest.mark.parametrize("where", ["after it is remembered", "after it is destroyed", "before the record", "after the record"])
def test_an_erasure_cut_off_anywhere_is_finished_by_the_next_start_and_recorded(place, where, monkeypatch):
    clerk = FakeClerk()
    clerk.kill = where

    def killed(*_: object, **__: object) -> None:
        raise Killed

    real = VaultStore.destroy

    def destroyed_and_killed(*words: Any, **named: Any) -> None:
        real(*words, **named)
        raise Killed

    with monkeypatch.context() as patch:
        if where == "after it is remembered":
            patch.setattr(VaultStore, "destroy", killed)
        elif where == "after it is destroyed":
            patch.setattr(VaultStore, "destroy", destroyed_and_killed)
        with pytest.raises(Killed):
            erase(place, clerk)
    assert len(Tombstones.open(place / "marks").pending()) == 1
    clerk.kill = None
    start_again(place, clerk)
    assert state_of(place) == {"erased"}
    assert {(kind, carries["erasure"], carries["entries"]) for kind, carries in clerk.records} == {("erasure", clerk.records[0][1]["erasure"], 2)}
    assert len(clerk.records) == (2 if where == "after the record" else 1)
    assert Tombstones.open(place / "marks").pending() == []
    start_again(place, clerk)
    assert len(clerk.records) <= 2, "and it is not told a third time"


def test_nothing_is_destroyed_that_could_not_be_remembered(place, monkeypatch):
    def full(*_: object) -> None:
        raise StoreFull("no space")

    monkeypatch.setattr(Tombstones, "_append", full)
    clerk = FakeClerk()
    with pytest.raises(StoreFull):
        erase(place, clerk)
    assert (state_of(place), clerk.records) == ({"kept"}, [])


def test_an_entry_of_the_subject_that_is_on_its_way_is_refused_under_every_pseudonym(place):
    erase(place, FakeClerk())
    with VaultStore.open(place / "data", MASTER) as vault:
        vault.keep([entry(f"late{number}", TenantPseudonyms(key).of(UNIT)) for number, key in enumerate(EPOCHS)], 2)
        assert {vault.read(f"late{number}", 2).state for number in (0, 1)} == {"absent"}


@pytest.mark.parametrize(
    ("scopes", "tenant", "people", "code"),
    [
        (("audit:read", "vault:read", "admin:write"), "acme", 0, "missing_scope"),
        (("subject:erase",), "beta", 0, "missing_scope"),
        (("subject:erase",), "acme", 1, "not_approved"),
    ],
)
def test_who_may_not_erases_nothing(place, scopes, tenant, people, code):
    clerk = FakeClerk()
    who = Principal("k_1", "acme", scopes, None, False, False, {"kind": "key", "id": "k_1"}, None)

    async def run() -> None:
        erasures = opened(place, clerk, people=people)
        try:
            await erasures.prepare()
            await erasures.erase(asked(tenant=tenant), who)
        finally:
            erasures.close()

    with pytest.raises(Refusal) as refused:
        asyncio.run(run())
    assert refused.value.code == code
    assert (state_of(place), clerk.records) == ({"kept"}, [])


def test_what_has_ended_is_deleted_as_a_record_and_nothing_is_recorded_where_nothing_has(place):
    clerk = FakeClerk()

    async def run() -> None:
        erasures = opened(place, clerk)
        try:
            await erasures.prepare()
            await erasures.expire(5)
            await erasures.expire(2**52)
        finally:
            erasures.close()

    asyncio.run(run())
    assert clerk.records == [("vault.expired", {"entries": 2, "keys": 2})]
    assert state_of(place) == {"absent"}


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_consent_with_a_nonce_of_another_length_is_none(length):
    """What is hashed is nonce, tenant and unit in a row: only a fixed length says where one ends."""
    nonce, now_us = bytes(length), time.time_ns() // 1000
    said = ErasureConsent(ORIGIN, "acme", about(nonce, "acme", UNIT), "request", now_us, now_us + 1_000_000_000)
    envelope = sign_erasure(said, PersonKey.from_seed(b"a" * 32))
    with pytest.raises(Refusal, match="32 bytes"):
        admit(asked(consents=((nonce, envelope),)), OFFICER, ROOT, 1, now_us, origin=ORIGIN)


def test_a_consent_for_another_log_erases_nobody_here():
    """The same people may answer for a rehearsal and for production: what they sign for one is none for the other."""
    nonce, now_us = os.urandom(32), time.time_ns() // 1000
    for origin, verdict in (("log.example/rehearsal", "refused"), (ORIGIN, "signed")):
        said = ErasureConsent(origin, "acme", about(nonce, "acme", UNIT), "request", now_us, now_us + 1_000_000_000)
        given = asked(consents=((nonce, sign_erasure(said, PersonKey.from_seed(b"a" * 32))),))
        if verdict == "refused":
            with pytest.raises(Refusal, match=r"for the log `log\.example/rehearsal`"):
                admit(given, OFFICER, ROOT, 1, now_us, origin=ORIGIN)
        else:
            assert [one["person"] for one in admit(given, OFFICER, ROOT, 1, now_us, origin=ORIGIN)] == ["alice"]


@pytest.mark.parametrize("unit", ["x" * 59_000, "é" * 29_000], ids=["ascii", "wide"])
def test_whoever_is_short_enough_to_be_kept_can_be_asked_for(unit):
    line = Line("n1.w0", 1, Path("nowhere"))
    line._timer = asyncio.TimerHandle.__new__(asyncio.TimerHandle)  # nothing is sent
    kept = Entry("r", "acme", "s" * 32, unit, 1, 2, encode_content(bytes(32), {}))
    assert line.offer(msgspec.msgpack.encode(kept)) == 0
    body = json.dumps({"unit": unit, "ground": "request"}, ensure_ascii=False).encode()
    assert len(body) <= _BODY_BYTES
    assert order_of(body, OFFICER).unit == unit


# --- one consent, one erasure -------------------------------------------------------------------------------------------------------------


def consents(*people: bytes, issued_us: int | None = None) -> tuple[tuple[bytes, bytes], ...]:
    made = []
    for seed in people or (b"a", b"b"):
        nonce, now_us = os.urandom(32), issued_us or time.time_ns() // 1000
        said = ErasureConsent(ORIGIN, "acme", about(nonce, "acme", UNIT), "request", now_us, now_us + 1_000_000_000)
        made.append((nonce, sign_erasure(said, PersonKey.from_seed(seed * 32))))
    return tuple(made)


def erase_with(place: Path, clerk: FakeClerk, *orders: Asked, recorded: Any = None) -> list[str]:
    """Give orders to one gateway, one after the other; return what became of each: the id of its erasure, or the refusal's code."""

    async def run() -> list[str]:
        erasures = opened(place, clerk, people=2)
        told = []
        try:
            await erasures.prepare(recorded)
            for order in orders:
                try:
                    told.append((await erasures.erase(order, OFFICER)).erasure)
                except Refusal as refused:
                    told.append(f"{refused.code}: {refused.detail}")
        finally:
            erasures.close()
        return told

    return asyncio.run(run())


def folded(clerk: FakeClerk) -> dict[str, Any]:
    registry = Registry(ROOT)
    for index, (kind, carries) in enumerate(clerk.records):
        registry.fold(index, {"type": kind, **carries})
    return registry.erased


def test_a_consent_serves_one_erasure_and_a_second_one_takes_new_consents(place):
    clerk, order = FakeClerk(), asked(consents=consents())
    first, again, mixed, fresh = erase_with(
        place, clerk, order, order, asked(consents=(order.consents[0], *consents(b"b"))), asked(consents=consents())
    )
    assert again == f"bad_consent: a consent has served erasure `{first}`, and each serves one"
    assert mixed == again
    assert [carries["erasure"] for _, carries in clerk.records] == [first, fresh]


@pytest.mark.parametrize("lost", ["nothing", "the marks", "the log's record"])
def test_a_used_consent_stays_used_over_a_restart(place, lost):
    clerk, order = FakeClerk(), asked(consents=consents())
    (first,) = erase_with(place, clerk, order)
    if lost == "the marks":
        (place / "marks" / "vault.erased").unlink()
    (told,) = erase_with(place, clerk, order, recorded={} if lost == "the log's record" else folded(clerk))
    assert told.startswith(f"bad_consent: a consent has served erasure `{first}`")
    assert len(clerk.records) == 1


def test_another_signature_over_the_same_words_is_the_same_consent(place):
    """A person with two keys signs one statement twice: that is one consent."""
    keys = {name: PersonKey.from_seed(name[:1].encode() * 32) for name in ("alice", "bob", "carol")}
    root = ceremony(keys, thresholds=DEFAULT_THRESHOLDS)
    nonce, now_us = os.urandom(32), time.time_ns() // 1000
    said = ErasureConsent(ORIGIN, "acme", about(nonce, "acme", UNIT), "request", now_us, now_us + 1_000_000_000)
    both = {name: (nonce, sign_erasure(said, key)) for name, key in keys.items()}

    async def run() -> None:
        erasures = Erasures(place / "data", MASTER, place / "marks", FakeClerk(), root, ORIGIN, people=1)
        try:
            await erasures.prepare()
            await erasures.erase(asked(consents=(both["alice"],)), OFFICER)
            with pytest.raises(Refusal, match="has served"):
                await erasures.erase(asked(consents=(both["carol"],)), OFFICER)
        finally:
            erasures.close()

    asyncio.run(run())


def test_asked_again_with_the_same_consents_an_erasure_that_was_cut_off_is_finished_and_is_no_second_one(place, monkeypatch):
    clerk, order = FakeClerk(), asked(consents=consents())
    real, failed = VaultStore.destroy, []

    def fails_once(*words: Any, **named: Any) -> Any:
        if not failed:
            failed.append(1)
            raise StoreFull("no space")
        return real(*words, **named)

    async def run() -> str:
        erasures = opened(place, clerk, people=2)
        try:
            await erasures.prepare()
            monkeypatch.setattr(VaultStore, "destroy", fails_once)
            with pytest.raises(StoreFull):
                await erasures.erase(order, OFFICER)
            return (await erasures.erase(order, OFFICER)).erasure
        finally:
            erasures.close()

    done = asyncio.run(run())
    assert state_of(place) == {"erased"}
    assert [(carries["erasure"], carries["entries"]) for _, carries in clerk.records] == [(done, 2)]
    assert [one.erasure for one in Tombstones.open(place / "marks").all()] == [done]


def test_where_another_node_erased_and_its_record_is_missing_nothing_signed_before_counts(place):
    """The store is shared, the marks are not: this node knows that something was erased, and not which consents served it."""
    clerk, before = FakeClerk(), asked(consents=consents())
    erase_with(place, FakeClerk(), asked(consents=consents()))
    (place / "marks" / "vault.erased").unlink()
    late, fresh = erase_with(place, clerk, before, asked(consents=consents(issued_us=time.time_ns() // 1000 + 30_000_000)))
    assert "signed before this gateway started" in late
    assert fresh == clerk.records[0][1]["erasure"]
