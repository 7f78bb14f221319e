"""Balance among replicas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.endpoints import EJECT_AFTER, EJECT_S, Replicas, parse_origin

ORIGINS = ("http://a:1", "http://b:2/p", "https://c")


def test_an_origin_keeps_scheme_host_port_and_prefix():
    endpoint = parse_origin("https://[::1]:8443/base/")
    assert (endpoint.scheme, endpoint.host, endpoint.port, endpoint.base_path) == ("https", "::1", 8443, "/base")
    assert endpoint.authority == b"[::1]:8443"
    assert parse_origin("https://c").authority == b"c"


NO_ORIGINS = ["ftp://a", "http://", "http://u:p@a", "http://@a", "http://a?q", "http://a?", "http://a#f", "http://a#", "a:80"]
NO_HOSTS = ["http://a:0", "http://a b", "http://a\n.b", "http://\u00e4.de", "http://a:99999", "http://a:x"]


@pytest.mark.parametrize("origin", NO_ORIGINS + NO_HOSTS)
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(ValueError, match=r"is not an upstream|[Pp]ort"):
        parse_origin(origin)


@given(st.lists(st.sampled_from([True, False, None]), max_size=60), st.sampled_from(["round_robin", "least_pending"]))
def test_pending_is_zero_when_every_call_has_been_given_back(outcomes, balance):
    replicas = Replicas(ORIGINS, balance)
    taken = [replicas.take(0.0) for _ in outcomes]
    for replica, failed in zip(taken, outcomes, strict=True):
        replicas.give_back(replica, 0.0, failed=failed)
    assert [replica.pending for replica in replicas.all] == [0, 0, 0]


def test_least_pending_never_picks_a_busier_replica():
    replicas = Replicas(ORIGINS, "least_pending")
    for _ in range(9):
        replicas.take(0.0)
    assert [replica.pending for replica in replicas.all] == [3, 3, 3]


def test_a_replica_that_keeps_failing_is_left_alone_for_a_while_and_comes_back():
    replicas = Replicas(ORIGINS, "round_robin")
    bad = replicas.all[0]
    for _ in range(EJECT_AFTER):
        replicas.give_back(bad, 0.0, failed=True)
    assert all(replicas.take(1.0) is not bad for _ in range(10))
    assert any(replicas.take(EJECT_S) is bad for _ in range(3))


def test_calls_that_tell_nothing_about_a_replica_neither_eject_it_nor_keep_it_from_being_ejected():
    replicas = Replicas(ORIGINS, "round_robin")
    bad, unknown = replicas.all[:2]
    for _ in range(EJECT_AFTER):
        replicas.give_back(bad, 0.0, failed=True)
        replicas.give_back(bad, 0.0, failed=None)
        replicas.give_back(unknown, 0.0, failed=None)
    taken = [replicas.take(1.0) for _ in range(10)]
    assert bad not in taken
    assert unknown in taken


def test_when_all_are_ejected_all_are_tried():
    replicas = Replicas(ORIGINS[:2], "least_pending")
    for replica in replicas.all * EJECT_AFTER:
        replicas.give_back(replica, 0.0, failed=True)
    assert replicas.take(0.1) in replicas.all
