"""Reloading: a folder with an issue changes nothing, and a crash between any two steps leaves something consistent behind."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from control_fakes import Broken, MemoryClerk

from gateway.control.configuration import Configuration, _changed
from gateway.documents import Manifest, decode, digest_of, encode
from gateway.processes.control import ControlDirectory, ControlError, Current

EMPTY = Manifest(settings="s" * 64, models={}, experiments={}, policies={})


def compiled(number: int):
    model = b"model %d" % number
    manifest = Manifest(settings="s" * 64, models={"m": digest_of(model)}, experiments={}, policies={})
    return SimpleNamespace(
        manifest=manifest, digest=digest_of(encode(manifest)), objects={digest_of(model): model}, issues=(), bundle=None, verdicts={}
    )


BROKEN = SimpleNamespace(manifest=None, digest=None, objects={}, issues=("models/m.yaml:3: `riks` is not a key",))


class FakeStore:
    """The part of the control store that names what is in force."""

    def __init__(self) -> None:
        self.installed: list[str] = []
        self.dies = ""

    def keep_objects(self, objects) -> None:
        """One node: they lie beside."""

    def object(self, digest: str):
        del digest

    def current_bundle(self):
        return self.installed[-1] if self.installed else None

    def install_bundle(self, digest: str, at_us: int) -> None:
        del at_us
        if self.dies == "before":
            raise Broken
        self.installed.append(digest)
        if self.dies == "after":
            raise Broken


class Desk:
    def __init__(self, data: Path) -> None:
        self.data = data
        self.control = ControlDirectory(data)
        self.control.create()
        self.store = FakeStore()
        self.clerk = MemoryClerk()
        self.folder = compiled(1)
        self.start()

    def start(self) -> None:
        """A controller starts: nothing but the stores survives."""
        self.configuration = Configuration(SimpleNamespace(compile=lambda: self.folder), self.control, self.store, self.clerk)
        self.configuration.restore()

    def reload(self) -> bool:
        return asyncio.run(self.configuration.reload())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_whole_folder_is_recorded_and_put_in_force_once(desk: Desk):
    assert desk.reload() is True
    assert desk.reload() is False
    assert desk.clerk.kinds() == ["config.change"]
    record = json.loads(desk.clerk.leaves[0])
    assert (record["old"], record["new"], record["changed"]) == ("", desk.folder.digest, ["settings", "models/m"])
    assert desk.store.installed == [desk.folder.digest] == [desk.configuration.digest]


def test_an_issue_keeps_the_old_configuration_and_is_told_until_it_is_mended(desk: Desk, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    desk.reload()
    before = desk.configuration.digest
    desk.folder = BROKEN
    assert desk.reload() is False
    assert desk.configuration.digest == before
    assert desk.configuration.issues == BROKEN.issues
    desk.folder = compiled(1)
    assert desk.reload() is False
    assert caplog.messages[-1] == "configuration issues mended; the folder is whole again", "a typo taken back is told too, though nothing changes"
    desk.folder = BROKEN
    desk.reload()
    desk.folder = compiled(2)
    assert desk.reload() is True
    assert desk.configuration.issues == ()


def dies_before_objects(desk: Desk) -> None:
    desk.control.put_many = lambda _objects: (_ for _ in ()).throw(Broken)


def dies_before_record(desk: Desk) -> None:
    desk.clerk.dies_at = desk.clerk.calls + 1


def dies_after_record(desk: Desk) -> None:
    desk.clerk.dies_at, desk.clerk.after_commit = desk.clerk.calls + 1, True


def dies_before_install(desk: Desk) -> None:
    desk.store.dies = "before"


def dies_after_install(desk: Desk) -> None:
    desk.store.dies = "after"


@pytest.mark.parametrize("die", [dies_before_objects, dies_before_record, dies_after_record, dies_before_install, dies_after_install])
def test_a_crash_between_any_two_steps_leaves_the_old_or_the_new_whole_and_the_next_start_goes_on(desk: Desk, die):
    desk.reload()
    old, desk.folder = desk.configuration.digest, compiled(2)
    die(desk)
    with pytest.raises(Broken):
        desk.reload()
    assert desk.configuration.digest == old, "what was not named as in force is not in force"
    desk.clerk.dies_at, desk.store.dies = None, ""
    desk.control = ControlDirectory(desk.data)
    desk.start()
    assert desk.configuration.digest in (old, desk.folder.digest)
    in_force = decode(desk.control.get(str(desk.configuration.digest)), Manifest)
    assert all(desk.control.get(digest) for digest in in_force.models.values()), "every object of what is in force is there"
    desk.reload()
    assert desk.configuration.digest == desk.folder.digest
    changes = [json.loads(leaf) for leaf in desk.clerk.leaves]
    assert changes[-1]["new"] == desk.folder.digest


def test_nothing_is_in_force_that_was_not_recorded_first(desk: Desk):
    dies_before_record(desk)
    with pytest.raises(Broken):
        desk.reload()
    assert desk.store.installed == []


def test_what_differs_is_named(desk: Desk):
    del desk
    one = Manifest(settings="a", models={"m": "1", "n": "1"}, experiments={}, policies={"p": "1"})
    two = Manifest(settings="a", models={"m": "2"}, experiments={"e": "1"}, policies={"p": "1"})
    assert _changed(one, two) == ["models/m", "models/n", "experiments/e"]
    assert _changed(one, one) == []


# --- the control directory


def test_an_object_is_found_by_its_digest_and_a_torn_or_changed_one_is_refused(tmp_path: Path):
    control = ControlDirectory(tmp_path)
    control.create()
    digest = control.put(b"document")
    assert control.get(digest) == b"document"
    path = tmp_path / "control" / "objects" / digest
    for content in (b"docum", b"", b"documents", b"Document"):
        path.write_bytes(content)
        with pytest.raises(ControlError, match="has been changed"):
            control.get(digest)
    path.unlink()
    with pytest.raises(ControlError, match="is missing"):
        control.get(digest)


def test_what_is_in_force_is_replaced_whole_and_can_be_withdrawn(tmp_path: Path):
    control = ControlDirectory(tmp_path)
    control.create()
    assert control.current() is None
    control.publish(Current("m", "l", 1))
    control.publish(Current("m", "l", 2))
    assert control.current() == Current("m", "l", 2)
    assert [path.name for path in (tmp_path / "control").iterdir() if path.is_file()] == ["current.json"]
    control.forget()
    control.forget()
    assert control.current() is None


# --- live states


def test_a_live_state_that_was_in_force_a_moment_ago_is_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A worker reads its name, is stopped, and loads it after the controller has published many others."""
    monkeypatch.setattr("gateway.processes.control.KEEP_LIVE_BYTES", 0)
    control = ControlDirectory(tmp_path)
    control.create()
    first = control.put_live(b"first", 0.0)
    control.collect_live(5000.0)
    assert control.get_live(first) == b"first", "in force, however old"
    for number in range(5):
        control.put_live(b"later %d" % number, 5000.0 + number)
    control.collect_live(5000.0 + 599)
    assert control.get_live(first) == b"first"
    assert control.collect_live(5000.0 + 601.5) == 2, "the first, and the one that followed it for a second"
    with pytest.raises(ControlError):
        control.get_live(first)


def test_a_live_state_that_is_in_force_again_counts_from_its_last_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway.processes.control.KEEP_LIVE_BYTES", 0)
    control = ControlDirectory(tmp_path)
    control.create()
    one, two = control.put_live(b"one", 0.0), control.put_live(b"two", 1.0)
    assert control.put_live(b"one", 10_000.0) == one
    control.put_live(b"three", 10_001.0)
    control.collect_live(10_500.0)
    assert (control.get_live(one), control.get_live(two)) == (b"one", b"two")
    assert control.collect_live(10_601.5) == 2


def test_live_states_of_an_earlier_life_count_as_if_they_had_just_been_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway.processes.control.KEEP_LIVE_BYTES", 0)
    control = ControlDirectory(tmp_path)
    control.create()
    before = control.put_live(b"before", 50_000.0)
    restarted = ControlDirectory(tmp_path)
    restarted.put_live(b"after", 7.0)
    restarted.collect_live(606.0)
    assert restarted.get_live(before) == b"before"
    assert restarted.collect_live(608.0) == 1


def test_old_live_states_stay_while_there_is_room(tmp_path: Path):
    control = ControlDirectory(tmp_path)
    control.create()
    digests = [control.put_live(b"state %d" % number, float(number)) for number in range(20)]
    assert control.collect_live(1e6) == 0
    assert [control.get_live(digest) for digest in digests] == [b"state %d" % number for number in range(20)]
    assert digests[0] not in [path.name for path in (tmp_path / "control" / "objects").iterdir()], "documents of the configuration lie apart"


def test_a_torn_live_state_is_written_again(tmp_path: Path):
    control = ControlDirectory(tmp_path)
    control.create()
    digest = control.put_live(b"state", 0.0)
    (tmp_path / "control" / "live" / digest).write_bytes(b"")
    ControlDirectory(tmp_path).put_live(b"state", 0.0)
    assert control.get_live(digest) == b"state"
