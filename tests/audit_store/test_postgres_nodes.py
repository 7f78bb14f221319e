"""What nodes tell each other through the database: only the leader states, by the server's clock; nothing is replaced unseen."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from audit.store.control import ControlStore
from audit.store.errors import LedElsewhere, StoreBroken, TermLost
from audit.store.place import PostgresPlace, settle_place
from audit.store.postgres_nodes import KEEP_LIVE_S, Nodes

pytestmark = pytest.mark.component("postgresql")


def control_of(tmp_path: Path, place: PostgresPlace, name: str) -> ControlStore:
    folder = tmp_path / name
    folder.mkdir()
    settle_place(folder, place)
    return ControlStore.open(folder)


@pytest.fixture
def database(shared_log: PostgresPlace):
    with psycopg.connect(shared_log.connection_string(), autocommit=True) as connection:
        yield connection


def test_only_the_leader_states_and_what_it_says_gets_older_by_the_servers_clock(tmp_path, shared_log, database):
    a, b = control_of(tmp_path, shared_log, "a"), control_of(tmp_path, shared_log, "b")
    nodes = Nodes(shared_log)
    assert (nodes.look().is_free, nodes.look().age_us) == (True, None)
    first = a.lead("a.controller", 0)
    nodes.renew(first, "a")
    assert (nodes.look().is_free, nodes.look().age_us, nodes.look().node) == (False, None, "a"), "who has stated nothing confirms nothing"
    nodes.state(first, "a", "manifest", "live")
    said = nodes.look()
    assert (said.term, said.manifest, said.live, said.is_free) == (first, "manifest", "live", False)
    database.execute("UPDATE leader SET stated_at = stated_at - interval '7 s', renewed_at = renewed_at - interval '7 s'")
    later = nodes.look()
    assert later.age_us >= 7_000_000
    assert later.is_free
    second = b.lead("b.controller", 0)
    assert nodes.look().age_us >= 7_000_000, "taking the lease confirms nothing"
    for statement in (lambda: nodes.state(first, "a", "m", "l"), lambda: nodes.renew(first, "a"), lambda: nodes.show(first, b"head")):
        with pytest.raises(TermLost):
            statement()
    nodes.state(second, "b", "m2", "l2")
    third = control_of(tmp_path, shared_log, "c")
    with pytest.raises(LedElsewhere):
        third.lead("c.controller", 0)
    third.close()
    b.close()
    assert nodes.look().is_free, "who ends gives the lease back"
    a.close()
    nodes.close()


def test_live_states_that_are_over_are_removed_and_never_the_one_in_force(tmp_path, shared_log, database):
    control = control_of(tmp_path, shared_log, "a")
    nodes = Nodes(shared_log)
    term = control.lead("a.controller", 0)
    for digest in ("old", "current"):
        nodes.put_live(digest, digest.encode())
    nodes.state(term, "a", "manifest", "current")
    database.execute("UPDATE live SET put_at = put_at - make_interval(secs => %s)", (KEEP_LIVE_S + 1,))
    nodes.put_live("next", b"next")
    assert [nodes.live(digest) for digest in ("old", "current", "next")] == [None, b"current", b"next"]
    control.close()
    nodes.close()


def test_a_node_knows_whose_configuration_is_in_force(tmp_path, shared_log):
    a, b = control_of(tmp_path, shared_log, "a"), control_of(tmp_path, shared_log, "b")
    assert b.installed_elsewhere("b.controller") is None
    a.lead("a.controller", 0)
    a.install_bundle("digest", 0)
    assert (a.installed_elsewhere("a.controller"), b.installed_elsewhere("b.controller")) == (None, "a.controller")
    a.close()
    b.close()


def test_of_two_nodes_that_replace_what_is_sealed_one_is_told_to_look_again(tmp_path, shared_log):
    control_of(tmp_path, shared_log, "a").close()
    first, second = Nodes(shared_log), Nodes(shared_log)
    assert first.replace_sealed(0, "key", b"one")
    assert not second.replace_sealed(0, "key", b"two")
    assert first.replace_sealed(1, "key", b"three")
    assert not second.replace_sealed(1, "key", b"four")
    assert (second.sealed().data, second.sealed().version, second.look().sealed_version) == (b"three", 2, 2)
    first.scrub_sealed()
    first.close()
    second.close()


def test_a_lost_connection_is_made_again_at_the_next_question(tmp_path, shared_log, database):
    control_of(tmp_path, shared_log, "a").close()
    nodes = Nodes(shared_log)
    nodes.look()
    database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'assay nodes' AND datname = current_database()")
    with pytest.raises(StoreBroken):
        nodes.look()
    assert nodes.look().is_free
    nodes.close()
