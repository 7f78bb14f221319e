"""What the controller says is in force: one trust root after another, and always a configuration together with the rollouts that follow it."""

from __future__ import annotations

import argparse
import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from control_fakes import PEOPLE, ROOT, STRANGER, Documents, MemoryClerk, experiment

from audit.keys import SigningKey
from gateway import apikeys, pseudonyms
from gateway import live as live_state
from gateway.control import leading as leading_module
from gateway.control import rollouts as module
from gateway.control import running
from gateway.control.deployment import CannotStart, read_root, require_follows
from gateway.control.leading import Leading
from gateway.control.registry import Registry
from gateway.control.rollouts import Rollouts
from gateway.processes import worker as worker_process
from gateway.processes.control import ControlDirectory, Current
from gateway.processes.worker import InForce
from gateway.promises import RECEIPT_KEY, FollowedKey
from policies.trust import Person, TrustRoot, ceremony


@pytest.fixture
def controller(tmp_path: Path) -> Leading:
    """A leading controller that has opened nothing but its control directory; the log is in memory."""
    made: Leading = Leading.__new__(Leading)
    registry, documents = Registry(ROOT), Documents()
    control = ControlDirectory(tmp_path)
    control.create()
    made._parts = SimpleNamespace(
        root=ROOT,
        layout=SimpleNamespace(trust_root=tmp_path / "trust" / "root.json"),
        registry=registry,
        control=control,
        documents=documents,
        rollouts=Rollouts(registry, MemoryClerk(), documents.get),
        tail=SimpleNamespace(read_evidence_from=lambda _: None),
    )
    made._lease = None
    made.configuration = SimpleNamespace(manifest=None, digest=None)
    return made


# --- one trust root after another


def pin(controller: Leading, root: TrustRoot) -> None:
    controller._parts.registry.fold(0, {"type": "trust.pinned", "digest": root.digest, "version": root.version, "root": root.encode().decode()})


ALONE = {**ROOT.thresholds, "approve.high": 1}
SECOND = ROOT.next(people=[person for person in ROOT.people if person.name == "ann"], thresholds=ALONE).signed(PEOPLE["ann"])


def test_the_first_root_and_the_same_again_are_taken(controller: Leading):
    assert controller._parts.registry.pinned is None
    require_follows(controller._parts.root, controller._parts.registry.pinned, controller._parts.layout)
    pin(controller, ROOT)
    require_follows(controller._parts.root, controller._parts.registry.pinned, controller._parts.layout)
    assert controller._parts.registry.pinned["digest"] == controller._parts.root.digest


def test_a_successor_that_the_people_of_the_root_in_force_signed_is_taken(controller: Leading):
    pin(controller, ROOT)
    controller._parts.root = SECOND
    require_follows(controller._parts.root, controller._parts.registry.pinned, controller._parts.layout)
    controller._parts.root = ROOT
    pin(controller, SECOND)
    with pytest.raises(CannotStart):
        require_follows(controller._parts.root, controller._parts.registry.pinned, controller._parts.layout)


@pytest.mark.parametrize(
    ("pinned", "found", "words"),
    [
        (ROOT, ceremony({"eve": STRANGER}, thresholds=ALONE), "expected trust root version 2"),
        (SECOND, ROOT, "expected trust root version 3"),
        (ROOT, ROOT.next(people=[Person("eve", (STRANGER.public,), ("approver", "root"))], thresholds=ALONE).signed(STRANGER), "signed by 0 of 1"),
        (ROOT, SECOND.next(people=SECOND.people).signed(PEOPLE["ann"]), "expected trust root version 2, got version 3"),
    ],
    ids=["a root of strangers", "an older root", "a successor only strangers signed", "a version left out"],
)
def test_a_root_that_does_not_follow_the_one_in_force_is_refused_and_says_what_to_do(controller: Leading, pinned, found, words: str):
    pin(controller, pinned)
    controller._parts.root = found
    with pytest.raises(CannotStart) as refused:
        require_follows(controller._parts.root, controller._parts.registry.pinned, controller._parts.layout)
    assert words in str(refused.value)
    assert "trust/root.json" in str(refused.value)
    assert "hint: " in str(refused.value)


def test_a_log_that_kept_no_text_of_the_root_is_followed_by_the_same_root_alone(controller: Leading):
    controller._parts.registry.fold(0, {"type": "trust.pinned", "digest": ROOT.digest, "version": ROOT.version})
    require_follows(controller._parts.root, controller._parts.registry.pinned, controller._parts.layout)
    controller._parts.root = SECOND
    with pytest.raises(CannotStart, match="does not follow"):
        require_follows(controller._parts.root, controller._parts.registry.pinned, controller._parts.layout)


def test_a_root_that_no_record_can_hold_is_refused_at_the_start_in_words(controller: Leading):
    keys = [type(STRANGER).from_seed(number.to_bytes(32, "big")) for number in range(400)]
    many = [Person(f"person-{number}", (key.public,), ("approver",)) for number, key in enumerate(keys)]
    text = ROOT.next(people=(*ROOT.people, *many)).signed(PEOPLE["ann"]).encode()
    assert len(text) > 60_000
    controller._parts.layout.trust_root.parent.mkdir()
    controller._parts.layout.trust_root.write_bytes(text)
    with pytest.raises(CannotStart) as refused:
        read_root(controller._parts.layout)
    assert "KiB" in str(refused.value)
    assert "hint: " in str(refused.value)


# --- a configuration and its rollouts


def configure(controller: Leading, digest: str, **documents: Any) -> None:
    experiments = {name: controller._parts.documents.put(document) for name, document in documents.items()}
    controller.configuration.manifest, controller.configuration.digest = SimpleNamespace(experiments=experiments), digest


def in_force(controller: Leading) -> Current:
    found = controller._parts.control.current()
    assert found is not None
    return found


def test_a_new_configuration_is_told_only_together_with_rollouts_that_follow_it(controller: Leading):
    configure(controller, "first", x=experiment())
    asyncio.run(controller._align())
    controller._publish_live()
    before = in_force(controller)
    assert before.manifest == "first"

    configure(controller, "second", x=experiment(salt="other"))  # as a reload leaves it, before `_align` has committed anything
    controller._tick()
    assert (in_force(controller).manifest, in_force(controller).live) == (before.manifest, before.live)
    controller._publish_live()  # a step of another experiment, or a revocation, in between
    assert in_force(controller).manifest == "first"

    asyncio.run(controller._align())
    controller._tick()
    assert (in_force(controller).manifest, in_force(controller).live) == (before.manifest, before.live)
    controller._publish_live()
    after = in_force(controller)
    assert after.manifest == "second"
    told = msgspec.json.decode(controller._parts.control.get_live(after.live))["experiments"]["x"]
    assert told["epoch"] == 2


def test_what_is_told_of_one_experiment_is_worked_out_for_that_one_alone(monkeypatch: pytest.MonkeyPatch):
    documents, registry = Documents(), Registry(ROOT)
    rollouts = Rollouts(registry, MemoryClerk(), documents.get)
    asyncio.run(rollouts.align({name: documents.put(experiment(name)) for name in ("x", "y", "z")}, 1))
    asked: list[str] = []
    real = module.live
    monkeypatch.setattr(module, "live", lambda document, *more, **named: asked.append(document.experiment) or real(document, *more, **named))
    assert rollouts.live_of("y", 1) == rollouts.live(1)["y"]
    assert asked == ["y", "x", "y", "z"]


def test_between_two_verdicts_the_loop_goes_round_so_that_the_tick_is_never_held_up(monkeypatch: pytest.MonkeyPatch):
    documents, registry = Documents(), Registry(ROOT)
    rollouts = Rollouts(registry, MemoryClerk(), documents.get)
    ticks: list[int] = []

    async def main() -> None:
        await rollouts.align({name: documents.put(experiment(name)) for name in "abcdefgh"}, 1)
        for found in rollouts.running.values():
            found.fed = 1
        real, at = running.judge, [0]

        def judged(*told: Any) -> Any:
            ticks.append(at[0])
            return real(*told)

        monkeypatch.setattr(running, "judge", judged)

        async def tick() -> None:
            while True:
                at[0] += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        await rollouts.judge(2)
        ticking.cancel()

    asyncio.run(main())
    assert len(ticks) == 8
    assert sorted(set(ticks)) == ticks, "no two verdicts in one round"


class Changes:
    """What the folders' watch says, one after another; `quiet` is a look that found nothing."""

    def __init__(self, *told: str) -> None:
        self.told = told

    def awatch(self, *_: Any, **__: Any) -> AsyncIterator[set[str]]:
        async def changes() -> AsyncIterator[set[str]]:
            for one in self.told:
                yield set() if one == "quiet" else {one}

        return changes()


def watching(controller: Leading, monkeypatch: pytest.MonkeyPatch, *told: str) -> list[str]:
    """A controller whose watch says this; returns the list of what it will do, in order."""
    done: list[str] = []

    async def take_in() -> bool:
        done.append("take in")
        return True

    async def reload() -> bool:
        done.append("reload")
        return True

    async def align() -> None:
        done.append("align")

    controller._parts.chosen = argparse.Namespace(keys=Path("keys") / "api-keys.json")
    controller._parts.layout.approvals, controller._parts.layout.config = controller._parts.layout.trust_root.parent, Path("config")
    controller._parts.inbox = SimpleNamespace(take_in=take_in, has_unread=False)
    controller.configuration = SimpleNamespace(reload=reload, is_waiting=False)
    controller._align = align
    controller._publish_live = lambda: done.append("publish")

    async def look(_: int) -> None:
        done.append("keys")

    controller._parts.keys = SimpleNamespace(look=look)
    monkeypatch.setattr(leading_module, "watchfiles", Changes(*told))
    return done


def test_a_revocation_does_not_wait_for_the_compiler(controller: Leading, monkeypatch: pytest.MonkeyPatch):
    done = watching(controller, monkeypatch, "approvals/r.json and config/models/m.yaml")
    asyncio.run(controller._watch())
    assert done == ["keys", "take in", "publish", "reload", "align", "publish"]


def test_a_quiet_folder_is_read_once_and_again_only_while_an_envelope_could_not_be_read(controller: Leading, monkeypatch: pytest.MonkeyPatch):
    done = watching(controller, monkeypatch, "quiet", "quiet", "quiet")
    asyncio.run(controller._watch())
    assert done.count("take in") == 1
    done = watching(controller, monkeypatch, "quiet", "quiet", "quiet")
    controller._parts.inbox.has_unread = True
    asyncio.run(controller._watch())
    assert (done.count("take in"), done.count("reload")) == (3, 1)


# --- what a worker follows


def keys_file(path: Path) -> None:
    _, file = apikeys.create(apikeys.new_file(lambda n: b"s" * n), tenant="acme", scopes=("infer",), random=lambda n: b"k" * n, now_us=0)
    path.write_bytes(apikeys.encode(file))
    path.chmod(0o600)


@pytest.mark.parametrize("module", ["apikeys", "pseudonyms"])
def test_keys_that_could_not_be_read_once_are_read_again_although_the_file_has_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module):
    keys, vault = tmp_path / "keys.json", tmp_path / "epochs.json"
    keys_file(keys)
    pseudonyms.save(vault, pseudonyms.rotate({}, {"acme"}, time.time_ns() // 1000))
    follower = InForce(ControlDirectory(tmp_path), vault, keys)

    def fail(_: Path) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(getattr(worker_process, module), "load", fail)
        with pytest.raises(OSError, match="Too many"):
            follower.keys_changed()
    found = follower.keys_changed()
    assert found is not None
    assert found[0].tenants == {"acme"}
    assert follower.keys_changed() is None, "and not a third time"


def serving(manifest: str, live: str) -> Any:
    """A lane, as far as what it serves by."""
    return SimpleNamespace(snapshot=SimpleNamespace(config_digest=manifest), live=SimpleNamespace(digest=live, as_of_us=time.time_ns() // 1000))


def test_what_could_not_be_installed_is_tried_again_and_confirms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    control = ControlDirectory(tmp_path)
    control.create()
    digest = control.put_live(live_state.encode(live_state.LiveDocument(experiments={}, approvals=Registry(ROOT).in_force())), 0.0)
    control.publish(Current("new", digest, time.monotonic_ns() // 1000))
    built = []
    monkeypatch.setattr(worker_process.Snapshot, "build", lambda digest, *_: built.append(digest) or SimpleNamespace(config_digest=digest))
    monkeypatch.setattr(worker_process, "Live", lambda _document, digest, *_: SimpleNamespace(digest=digest))
    follower, lane = InForce(control, tmp_path / "v", tmp_path / "k"), serving("old", digest)
    before_us = lane.live.as_of_us
    for _ in range(3):  # `install` refuses each time: the lane goes on with what it had
        found = follower.look(lane)
        assert found is not None
        assert (found[0].config_digest, found[1].digest) == ("new", digest)
    assert built == ["new"] * 3
    assert lane.live.as_of_us == before_us, "and grows stale"


def test_a_clock_set_back_does_not_make_a_silent_controllers_state_look_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    control = ControlDirectory(tmp_path)
    control.create()
    control.publish(Current("m", "l", time.monotonic_ns() // 1000))
    follower = InForce(control, tmp_path / "v", tmp_path / "k")
    lane = serving("m", "l")
    real_ns, hour_us = time.time_ns(), 3_600_000_000
    monkeypatch.setattr(worker_process.time, "time_ns", lambda: real_ns - hour_us * 1000)
    assert follower.look(lane) == (lane.snapshot, lane.live)
    age_us = worker_process.time.time_ns() // 1000 - lane.live.as_of_us
    assert 0 <= age_us < 10_000_000


def test_a_worker_whose_records_the_log_refuses_for_good_ends_and_does_not_answer_its_share_of_calls_503(tmp_path: Path):
    worker: worker_process.Worker = worker_process.Worker.__new__(worker_process.Worker)
    worker._chosen = argparse.Namespace(listen=socket.create_server(("127.0.0.1", 0)).detach())
    worker._stop = asyncio.Event()
    worker._run_dir, worker._node = tmp_path, "n"
    told: list[str] = []
    worker._log = SimpleNamespace(info=lambda *_, **__: None, error=lambda text, **_: told.append(text))
    worker._tell = worker._follow = lambda *_: None
    worker._ending = set()
    ended: list[str] = []

    class FakeTransport:
        async def listen(self, *_: object, sock: socket.socket, **__: object) -> None:
            sock.close()

        async def drain(self, _grace_s: float) -> None:
            ended.append("drained")

        async def close(self) -> None:
            ended.append("closed")

        def check(self) -> None: ...

        def bound_bodies(self, _: int) -> None: ...

    settings = SimpleNamespace(body_limit_bytes=1)
    snapshot = SimpleNamespace(settings=settings, config_digest="")
    lane = SimpleNamespace(snapshot=snapshot, serve=None, counters=None, shadows=None, policy_server=None)
    sweep = SimpleNamespace(add=lambda *_, **__: None, start=lambda: None, stop=lambda: None)
    journal = SimpleNamespace(failure=ValueError("gap"))

    async def main() -> None:
        async with asyncio.timeout(5):
            await worker._serve(lane, journal, FakeTransport(), sweep)

    asyncio.run(main())
    assert ended == ["drained", "closed"]
    assert any("refused this worker" in text for text in told)


class _Looked:
    """A policy server as a worker follows it."""

    looks = 0

    def serves(self, *_: object) -> bool:
        return True

    def look(self) -> None:
        self.looks += 1


@pytest.mark.parametrize("has_new_keys", [False, True])
def test_the_policy_server_of_a_configuration_is_asked_for_as_long_as_that_is_in_force(has_new_keys: bool):  # noqa: FBT001 - a parameter
    worker: worker_process.Worker = worker_process.Worker.__new__(worker_process.Worker)
    asked = _Looked()
    lane: Any = SimpleNamespace(snapshot="s", live="l", authenticator=None, pseudonyms=None, journal=None, promises=None, policy_server=asked)

    def install(snapshot: Any, live: Any, policy_server: Any = None) -> None:
        lane.snapshot, lane.live, lane.policy_server = snapshot, live, policy_server

    lane.install = install
    worker._in_force = SimpleNamespace(look=lambda _: None, keys_changed=lambda: ("a", "p") if has_new_keys else None)
    worker._receipts, worker._receipt_fault = SimpleNamespace(look=lambda held, _journal: held), ""
    worker._settling = SimpleNamespace(is_over=True)
    for _ in range(3):
        worker._follow(lane)
    assert lane.policy_server is asked
    assert asked.looks == 3


def test_a_receipt_key_that_cannot_be_read_costs_the_receipts_and_nobody_a_worker(tmp_path: Path):
    told: list[str] = []
    worker: worker_process.Worker = worker_process.Worker.__new__(worker_process.Worker)
    worker._log = SimpleNamespace(error=lambda text, **_: told.append(text))
    worker._receipts, worker._receipt_fault = FollowedKey(tmp_path / RECEIPT_KEY), ""
    journal: Any = SimpleNamespace(node="n1.w0", epoch=1)
    (tmp_path / RECEIPT_KEY).touch(mode=0o600)  # as a power cut leaves it
    held = None
    for _ in range(3):
        held = worker._promises(held, journal)
    assert held is None
    assert len(told) == 1
    (tmp_path / RECEIPT_KEY).write_text(SigningKey.generate("log.example/x/receipts").secret_text())
    assert worker._promises(held, journal) is not None
