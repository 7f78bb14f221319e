"""A log in PostgreSQL while things go wrong: no record twice, none lost that was acknowledged, no second history."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import psycopg
import pytest
from postgres_server import Server, new_log, place_of, wait_for
from recorder_process import RecorderProcess, start_writer, wait_until
from sqlalchemy import create_engine, inspect

from audit import note
from audit.follow import follow
from audit.keys import SigningKey
from audit.merkle import leaf_hashes, root
from audit.publisher import Publisher
from audit.store import postgres
from audit.store.control import ControlStore
from audit.store.errors import SchemaError, StoreBehind, StoreBroken, StoreDamaged, StoreFull, StoreInUse, TermLost, WriterEnded
from audit.store.opening import open_leaves
from audit.store.place import PostgresPlace, settle_place
from audit.store.postgres_leaves import PostgresLeafStore
from audit.store.tables import SharedTable
from audit.vault.tables import VaultTable

pytestmark = pytest.mark.component("postgresql")
A, B = ("n1.w0", 10), ("n2.w0", 10)
KEY = SigningKey.generate("log.example/shared", seed=b"p" * 32)
ROOT = bytes(32)
CUT_RECORDERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'assay recorder%' AND datname = current_database()
"""


def node_dir(tmp_path: Path, place: PostgresPlace, name: str = "n1") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    settle_place(folder, place)
    return folder


def append(store, key, first_seq: int, count: int = 1) -> list:
    runs = store.stage(key, first_seq, [b"%s-%d" % (key[0].encode(), seq) for seq in range(first_seq, first_seq + count)])
    store.commit()
    return store.settled(runs)


# -- the database -----------------------------------------------------------------------------------------------------------------------


def test_a_new_database_has_the_shape_of_the_tables(tmp_path, shared_log, postgres_server):
    open_leaves(node_dir(tmp_path, shared_log)).close()
    declared = postgres_server.database(f"declared_{os.getpid()}")
    shapes = []
    for url in (shared_log.connection_string(), declared):
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        if url == declared:
            SharedTable.metadata.create_all(engine)
            VaultTable.metadata.create_all(engine)
        found = inspect(engine)
        shapes.append(
            {
                name: (
                    [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(name)],
                    found.get_pk_constraint(name)["constrained_columns"],
                    sorted(tuple(each["column_names"]) for each in found.get_unique_constraints(name)),
                    sorted(each["sqltext"] for each in found.get_check_constraints(name)),
                )
                for name in found.get_table_names()
                if name != "alembic_version"
            }
        )
        engine.dispose()
    assert shapes[0] == shapes[1]


def test_a_database_of_somebody_else_is_left_alone(tmp_path, postgres_server):
    url = postgres_server.database(f"foreign_{os.getpid()}")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE invoices (id int)")
    with pytest.raises(SchemaError, match="invoices"):
        open_leaves(node_dir(tmp_path, place_of(url, "foreign")))


def test_a_database_of_a_newer_version_is_refused(tmp_path, shared_log):
    folder = node_dir(tmp_path, shared_log)
    open_leaves(folder).close()
    with psycopg.connect(shared_log.connection_string(), autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'p9999'")
    with pytest.raises(SchemaError, match="p9999"):
        open_leaves(folder)


def test_several_processes_that_start_at_once_make_one_schema(tmp_path, shared_log):
    folders = [node_dir(tmp_path, shared_log, f"n{number}") for number in range(4)]
    failed: list[BaseException] = []

    def start(folder: Path) -> None:
        try:
            open_leaves(folder).close()
        except BaseException as error:  # noqa: BLE001 - told by the test
            failed.append(error)

    threads = [threading.Thread(target=start, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.mark.parametrize(("setting", "words"), [("fsync = off", "fsync"), ("full_page_writes = off", "full_page_writes")])
def test_a_server_that_would_lose_what_it_acknowledges_is_refused(tmp_path, setting, words):
    server = Server.create()
    try:
        server.configure(setting)
        server.start()
        place = place_of(server.database("log"), f"careless_{words}")
        with pytest.raises(postgres.ServerUnusable, match=words):
            open_leaves(node_dir(tmp_path, place))
    finally:
        server.close()


def test_neither_an_unreachable_server_nor_a_bad_string_tells_the_password(tmp_path, monkeypatch):
    for number, text in enumerate(("postgresql://assay:hunter2@127.0.0.1:1/log", "this is hunter2 = no string", "postgresql://assay:hunter2@[")):
        monkeypatch.setenv("ASSAY_TEST_BAD", text)
        with pytest.raises((StoreBroken, postgres.ServerUnusable)) as caught:
            PostgresLeafStore.open(tmp_path / str(number), PostgresPlace("env:ASSAY_TEST_BAD"), wait_s=0.1)
        told = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
        assert "hunter2" not in told
        assert caught.value.__suppress_context__


def test_a_reference_to_a_file_that_others_may_read_is_refused(tmp_path):
    secret = tmp_path / "url"
    secret.write_text("postgresql://x")
    secret.chmod(0o644)
    with pytest.raises(StoreDamaged, match="0644"):
        open_leaves(node_dir(tmp_path, PostgresPlace(f"file:{secret}")))


def test_a_log_is_never_begun_a_second_time_in_the_other_place(tmp_path, shared_log):
    in_files = tmp_path / "files"
    open_leaves(in_files).close()
    with pytest.raises(StoreDamaged, match="configuration says PostgreSQL"):
        settle_place(in_files, shared_log)
    shared = node_dir(tmp_path, shared_log)
    with pytest.raises(StoreDamaged, match="configuration says SQLite"):
        settle_place(shared, None)


def test_a_full_disk_of_the_server_is_waited_out_and_nothing_is_stored(tmp_path, shared_log):
    """The server's own report of a full disk, raised by a trigger: what it does about its files is its own."""
    folder = node_dir(tmp_path, shared_log)
    store = open_leaves(folder)
    append(store, A, 0)
    admin = psycopg.connect(shared_log.connection_string(), autocommit=True)
    admin.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$"
    )
    admin.execute("CREATE TRIGGER full_disk BEFORE INSERT ON leaf EXECUTE FUNCTION full_disk()")
    with pytest.raises(StoreFull):
        append(store, A, 1, 3)
    assert (store.settled([]), store.staged_count, len(list(follow(folder, 0)))) == ([], 0, 1)
    admin.execute("DROP TRIGGER full_disk ON leaf")
    assert [run.first_index for run in append(store, A, 1, 3)] == [1]
    admin.close()
    store.close()


# -- several gateways on one log --------------------------------------------------------------------------------------------------------


def test_two_gateways_may_not_use_one_name(tmp_path, shared_log):
    first, second = (open_leaves(node_dir(tmp_path, shared_log, name)) for name in ("a", "b"))
    append(first, A, 0)
    with pytest.raises(WriterEnded, match="--node"):
        second.stage((A[0], 99), 0, [b"x"])
    assert append(second, B, 0)
    first.close()
    second.close()


def test_a_recorder_whose_own_name_is_anothers_is_refused(tmp_path, shared_log):
    """Through the process: exit code 78, and the words say what to change."""
    folders = [node_dir(tmp_path, shared_log, name) for name in ("a", "b")]
    first = RecorderProcess(folders[0], is_first_start=True)
    first.start()
    second = RecorderProcess(folders[1], is_first_start=True)
    try:
        wait_until(lambda: len(list(follow(folders[0], 0))) > 0)
        second.start()
        status, words = second.end()
        assert status == 78
        assert "--node" in words
        assert first.is_running()
    finally:
        first.close()
        second.close()


def test_a_gateway_judges_its_own_writers_alone(tmp_path, shared_log):
    """Another node's writers look dead from here: no mark, no connection. Their ends are not this recorder's to state."""
    first, second = (open_leaves(node_dir(tmp_path, shared_log, name)) for name in ("a", "b"))
    append(first, A, 0)
    second.close()
    second = open_leaves(tmp_path / "b")
    assert A not in second.writers()
    assert A in first.writers()
    first.close()
    second.close()


class Judge:
    """What the clients of one writer were told, and that the log keeps it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def runs(self) -> list[tuple[int, int, int]]:
        lines = [line.split() for line in self.path.read_text().split("\n")[:-1]] if self.path.exists() else []
        return [(int(a), int(b), int(c)) for a, b, c in lines if a.isdigit()]

    def epoch(self) -> int:
        return int(struct.unpack_from("=8sqqq", self.path.with_suffix(".hwm").read_bytes())[3])


def judge_log(data_dir: Path, judges: dict[str, Judge]) -> list[bytes]:
    rows = list(follow(data_dir, 0))
    assert [index for index, _ in rows] == list(range(len(rows)))
    numbers: dict[tuple[str, int], list[int]] = {}
    for index, leaf in rows:
        writer = json.loads(leaf)["writer"]
        numbers.setdefault((writer["node"], writer["epoch"]), []).append(index)
    for (node, epoch), indexes in numbers.items():
        seqs = [json.loads(rows[index][1])["writer"]["seq"] for index in indexes]
        assert seqs == list(range(len(seqs))), f"{node} {epoch}: no number missing, none twice"
    for node, judge in judges.items():
        indexes = numbers[node, judge.epoch()]
        assert judge.runs()
        for first_seq, count, first_index in judge.runs():
            assert indexes[first_seq : first_seq + count] == list(range(first_index, first_index + count)), "acknowledged at its index, once"
    return [leaf for _, leaf in rows]


class Nodes:
    """Recorder processes on one log, each started again when it ends as the parent of `assay serve` does, with a writer each."""

    def __init__(self, tmp_path: Path, place: PostgresPlace, count: int) -> None:
        self.folders = [node_dir(tmp_path, place, f"n{number}") for number in range(count)]
        self.recorders = [RecorderProcess(folder, f"n{at}.recorder", is_first_start=True) for at, folder in enumerate(self.folders)]
        for recorder in self.recorders:
            recorder.start()
        self.judges = {f"n{at}.w0": Judge(tmp_path / f"judge-{at}.acks") for at in range(count)}
        self.writers = [start_writer(folder, f"n{at}.w0", self.judges[f"n{at}.w0"].path) for at, folder in enumerate(self.folders)]
        self.statuses: list[int] = []
        wait_until(lambda: all(judge.runs() for judge in self.judges.values()), 40)

    def revive(self) -> None:
        for recorder in self.recorders:
            if not recorder.is_running():
                self.statuses.append(recorder.end()[0])
                recorder.start()

    def go_on(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self.revive()
            time.sleep(0.02)

    def wait_for_progress(self) -> None:
        told = {node: judge.runs()[-1] for node, judge in self.judges.items()}
        until_s = time.monotonic() + 60
        while any(judge.runs()[-1] == told[node] for node, judge in self.judges.items()):
            assert time.monotonic() < until_s, "no acknowledgement came after the fault"
            self.go_on(0.1)

    def end(self) -> list[bytes]:
        for writer in self.writers:
            writer.terminate()
        while any(writer.poll() is None for writer in self.writers):
            self.go_on(0.05)
        assert [writer.returncode for writer in self.writers] == [0] * len(self.writers)
        assert [recorder.terminate() for recorder in self.recorders] == [(0, "")] * len(self.recorders)
        return judge_log(self.folders[0], self.judges)

    def close(self) -> None:
        for writer in self.writers:
            if writer.poll() is None:
                writer.kill()
                writer.wait()
        for recorder in self.recorders:
            recorder.close()


@pytest.fixture
def nodes(tmp_path, shared_log):
    made = Nodes(tmp_path, shared_log, 3)
    yield made
    made.close()


def test_three_recorders_append_to_one_log_in_one_order(nodes):
    nodes.go_on(1.0)
    leaves = nodes.end()
    assert nodes.statuses == []
    control = ControlStore.open(nodes.folders[1])
    control.lead("n1.controller", 0)
    publisher = Publisher.open(nodes.folders[1], control, [KEY])
    while publisher.publish_once():
        pass
    publisher.close()
    control.close()
    signed = note.open_checkpoint((nodes.folders[1] / "log" / "checkpoint").read_bytes(), [KEY.verifier]).checkpoint
    assert (signed.size, signed.root) == (len(leaves), root(leaf_hashes(leaves)))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_the_server_under_load_loses_nothing_and_doubles_nothing(tmp_path, mode):
    server = Server.create()
    nodes = None
    try:
        server.start()
        nodes = Nodes(tmp_path, new_log(server), 2)
        for _ in range(2):
            server.stop(mode)
            nodes.go_on(0.3)
            server.start()
            nodes.wait_for_progress()
        nodes.end()
        assert set(nodes.statuses) == {74}, "a recorder that cannot know what was stored ends, and the next one reads what is there"
    finally:
        if nodes is not None:
            nodes.close()
        server.close()


def test_connections_cut_again_and_again_under_load_lose_nothing_and_double_nothing(nodes, shared_log):
    for _ in range(3):
        nodes.go_on(0.15)
        with psycopg.connect(shared_log.connection_string(), autocommit=True) as admin:
            admin.execute(CUT_RECORDERS)
        nodes.wait_for_progress()
    nodes.end()
    assert set(nodes.statuses) == {74}


class CuttingProxy:
    """Stands before the server. Told to, it lets the next statement through and cuts the line before its answer: the commit's fate is unknown."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cut_answer = threading.Event()
        self.was_cut = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._pump, args=(client, server), kwargs={"is_answer": False}, daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client), kwargs={"is_answer": True}, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, *, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_answer and self.cut_answer.is_set():
                    self.cut_answer.clear()
                    self.was_cut.set()
                    break
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        self._listener.close()


def test_a_line_cut_between_commit_and_answer_doubles_nothing(tmp_path, shared_log, postgres_server):
    proxy = CuttingProxy(postgres_server.port)
    url = shared_log.connection_string().replace(f":{postgres_server.port}/", f":{proxy.port}/")
    folder = node_dir(tmp_path, place_of(url, "cut"))
    store = open_leaves(folder)
    append(store, A, 0, 2)
    proxy.cut_answer.set()
    runs = store.stage(A, 2, [b"in doubt"])
    with pytest.raises(StoreBroken):
        store.commit()
    assert store.settled(runs) == [], "nothing in doubt is acknowledged"
    assert proxy.was_cut.is_set()
    store.close()
    store = open_leaves(folder)
    assert store.position(A).last_seq == 2, "it was committed"
    runs = store.stage(A, 2, [b"in doubt"])
    store.commit()
    assert [(run.first_seq, run.first_index) for run in store.settled(runs)] == [(2, 2)]
    assert [leaf for _, leaf in follow(folder, 0)] == [b"n1.w0-0", b"n1.w0-1", b"in doubt"]
    store.close()
    proxy.close()


def test_a_session_of_an_earlier_life_is_ended_before_anything_is_read(tmp_path, shared_log):
    """Its last statement waits for a lock while the new recorder starts. Were it to commit later, the record would be staged a second time."""
    folder = node_dir(tmp_path, shared_log)
    earlier = open_leaves(folder)
    append(earlier, A, 0)
    blocker = psycopg.connect(shared_log.connection_string())
    blocker.execute("SELECT * FROM head FOR UPDATE")
    earlier.stage(A, 1, [b"late"])
    outcome: list[BaseException] = []

    def commit() -> None:
        try:
            earlier.commit()
        except StoreBroken as error:
            outcome.append(error)

    thread = threading.Thread(target=commit)
    thread.start()
    os.close(earlier._lock_fd)  # the process is dead; its session is not
    try:
        later = open_leaves(folder)
        thread.join(10)
        assert len(outcome) == 1, "the earlier session was ended"
        blocker.rollback()
        assert later.position(A).last_seq == 0
        assert [run.first_index for run in append(later, A, 1)] == [1]
        assert len(list(follow(folder, 0))) == 2
        later.close()
    finally:
        blocker.close()
        earlier._connection.close()


def test_another_client_that_holds_the_head_delays_and_never_disorders(tmp_path, shared_log):
    store = open_leaves(node_dir(tmp_path, shared_log))
    blocker = psycopg.connect(shared_log.connection_string())
    blocker.execute("SELECT * FROM head FOR UPDATE")
    settled: list = []
    thread = threading.Thread(target=lambda: settled.extend(append(store, A, 0, 2)))
    thread.start()
    time.sleep(0.2)
    assert settled == []
    blocker.rollback()
    thread.join(10)
    assert [run.first_index for run in settled] == [0]
    blocker.close()
    store.close()


# -- the head holder ----------------------------------------------------------------------------------------------------------------------


def let_lease_pass(place: PostgresPlace) -> None:
    with psycopg.connect(place.connection_string(), autocommit=True) as admin:
        admin.execute("UPDATE leader SET renewed_at = renewed_at - interval '6 s'")


def test_a_stalled_leader_is_replaced_after_its_lease_and_signs_nothing_when_it_comes_back(tmp_path, shared_log):
    first, second = (ControlStore.open(node_dir(tmp_path, shared_log, name)) for name in ("a", "b"))
    first.lead("a.controller", 1)
    first.add_checkpoint(5, ROOT, b"five")
    with pytest.raises(StoreInUse):
        second.lead("b.controller", 2)
    let_lease_pass(shared_log)
    first.renew()
    with pytest.raises(StoreInUse):
        second.lead("b.controller", 2)
    let_lease_pass(shared_log)
    assert second.lead("b.controller", 3) == 2
    for late in (lambda: first.add_checkpoint(6, ROOT, b"six"), lambda: first.install_bundle("sha256:x", 4), first.renew):
        with pytest.raises(TermLost):
            late()
    second.add_checkpoint(7, ROOT, b"seven")
    first.close()
    second.renew()
    assert second.head().size == 7
    second.close()


def test_a_leader_that_gives_up_is_followed_at_once_and_its_own_successor_waits_for_no_lease(tmp_path, shared_log):
    folders = [node_dir(tmp_path, shared_log, name) for name in ("a", "b")]
    first = ControlStore.open(folders[0])
    first.lead("a.controller", 1)
    os.close(first._lock_fd)  # killed: its lock falls, its lease runs on
    first._lock_fd = -1
    restarted = ControlStore.open(folders[0])
    assert restarted.lead("a.controller", 2) == 2, "the same directory: its holder is known to be dead"
    restarted.close()
    first._connection.close()
    second = ControlStore.open(folders[1])
    assert second.lead("b.controller", 3) == 3
    second.close()


def test_signing_and_taking_the_lease_are_in_one_order(tmp_path, shared_log):
    """The stale leader's statement has checked the term and waits; the new leader's lease is committed meanwhile: the statement writes nothing."""
    first, second = (ControlStore.open(node_dir(tmp_path, shared_log, name)) for name in ("a", "b"))
    first.lead("a.controller", 1)
    let_lease_pass(shared_log)
    taker = psycopg.connect(shared_log.connection_string())
    taker.execute("UPDATE leader SET term = term + 1, instance = 'x', renewed_at = clock_timestamp()")  # as `lead`, not committed yet
    outcome: list[object] = []

    def sign() -> None:
        try:
            first.add_checkpoint(9, ROOT, b"nine")
            outcome.append("signed")
        except TermLost:
            outcome.append("refused")

    thread = threading.Thread(target=sign)
    thread.start()
    time.sleep(0.3)
    assert outcome == [], "it waits for the lease that is being taken"
    taker.commit()
    thread.join(10)
    assert outcome == ["refused"]
    assert second.head() is None
    taker.close()
    first.close()
    second.close()


def test_a_second_node_leads_on_with_the_tree_it_builds_itself(tmp_path, shared_log):
    """Its directory has no tiles: they are made from the leaves, and must give the root that was signed."""
    folders = [node_dir(tmp_path, shared_log, name) for name in ("a", "b")]
    store = open_leaves(folders[0])
    append(store, A, 0, 700)
    roots = []
    for folder in (folders[0], folders[1], folders[0]):
        control = ControlStore.open(folder)
        control.lead("c", 0)
        publisher = Publisher.open(folder, control, [KEY])
        append(store, A, store.position(A).last_seq + 1, 300)
        assert publisher.publish_once() is not None
        roots.append((publisher.size, publisher.root))
        publisher.close()
        control.close()
    leaves = leaf_hashes([leaf for _, leaf in follow(folders[0], 0)])
    assert roots == [(size, root(leaves[:size])) for size in (1000, 1300, 1600)]
    store.close()


def test_leaves_that_do_not_give_the_signed_root_are_not_signed_on(tmp_path, shared_log):
    folders = [node_dir(tmp_path, shared_log, name) for name in ("a", "b")]
    store = open_leaves(folders[0])
    append(store, A, 0, 10)
    control = ControlStore.open(folders[0])
    control.lead("c", 0)
    publisher = Publisher.open(folders[0], control, [KEY])
    publisher.publish_once()
    publisher.close()
    control.close()
    with psycopg.connect(shared_log.connection_string(), autocommit=True) as admin:
        admin.execute("UPDATE leaf SET bytes = 'edited' WHERE idx = 3")
    control = ControlStore.open(folders[1])
    control.lead("c", 0)
    with pytest.raises(StoreDamaged):
        Publisher.open(folders[1], control, [KEY])
    control.close()
    store.close()


# -- standbys -----------------------------------------------------------------------------------------------------------------------------


def test_a_standby_that_is_behind_is_refused_when_it_is_promoted(tmp_path):
    primary = Server.create()
    standby = None
    try:
        primary.start()
        place = new_log(primary)
        folder = node_dir(tmp_path, place)
        store = open_leaves(folder)
        append(store, A, 0, 5)
        standby = primary.standby()
        standby.start()
        behind = place.connection_string().replace(f":{primary.port}/", f":{standby.port}/")
        with pytest.raises(postgres.ServerUnusable, match="standby"):
            postgres.connect(behind, "test", wait_s=1)
        standby.stop("immediate")  # what follows never reaches it
        append(store, A, 5, 5)
        control = ControlStore.open(folder)
        control.lead("c", 0)
        publisher = Publisher.open(folder, control, [KEY])
        publisher.publish_once()
        publisher.close()
        control.close()
        store.close()
        primary.stop("immediate")
        standby.start()
        standby.promote()
        wait_for(lambda: standby.execute("SELECT pg_is_in_recovery()") == [(False,)])
        os.environ[place.postgres.removeprefix("env:")] = behind
        with pytest.raises(StoreBehind, match="10"):
            open_leaves(folder)
    finally:
        for server in (standby, primary):
            if server is not None:
                server.close()


def test_what_the_synchronous_standby_does_not_have_is_not_acknowledged(tmp_path):
    primary = Server.create()
    standby = None
    try:
        primary.start()
        folder = node_dir(tmp_path, new_log(primary))
        store = open_leaves(folder)
        standby = primary.standby()
        standby.start()
        primary.configure("synchronous_standby_names = '*'")
        primary.reload()
        wait_for(lambda: primary.execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
        append(store, A, 0)
        standby.stop("immediate")
        settled: list = []
        failed: list[BaseException] = []

        def commit() -> None:
            try:
                settled.extend(append(store, A, 1))
            except StoreBroken as error:
                failed.append(error)

        thread = threading.Thread(target=commit)
        thread.start()
        time.sleep(0.5)
        assert (settled, failed) == ([], []), "the commit waits for the standby"
        # Somebody cancels the wait: the server then reports success, with a warning. It is none.
        primary.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'assay recorder%'")
        thread.join(10)
        assert settled == []
        assert len(failed) == 1
        assert "warning" in str(failed[0])
        store.close()
        standby.start()
        wait_for(lambda: primary.execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
        store = open_leaves(folder)
        assert [run.first_index for run in append(store, A, 1)] == [1], "repeated, it keeps its index"
        assert len(list(follow(folder, 0))) == 2
        store.close()
    finally:
        for server in (standby, primary):
            if server is not None:
                server.close()


def test_a_server_that_hangs_holds_records_back_and_none_is_acknowledged_meanwhile(tmp_path):
    server = Server.create()
    nodes = None
    try:
        server.start()
        nodes = Nodes(tmp_path, new_log(server), 1)
        backends = [pid for (pid,) in server.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'assay recorder%'")]
        for pid in backends:
            os.kill(int(str(pid)), signal.SIGSTOP)
        try:
            time.sleep(0.2)
            told = nodes.judges["n0.w0"].runs()
            time.sleep(0.6)
            assert nodes.judges["n0.w0"].runs() == told
        finally:
            for pid in backends:
                os.kill(int(str(pid)), signal.SIGCONT)
        nodes.wait_for_progress()
        nodes.end()
        assert nodes.statuses == []
    finally:
        if nodes is not None:
            nodes.close()
        server.close()
