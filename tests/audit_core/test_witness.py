"""The witness: it cosigns what extends the last head, refuses the rest with the specification's status, and never forgets."""

from __future__ import annotations

import asyncio
import os

import httpx
import pytest
from log_maker import LOG_KEY, ORIGIN, WITNESS_KEY

from audit.keys import SigningKey
from audit.merkle import EMPTY_ROOT, Tree, consistency_proof, leaf_hashes
from audit.note import Checkpoint, NoteError, open_checkpoint, sign
from audit.witness import (
    REQUEST_LIMIT_BYTES,
    Head,
    Refused,
    StateFile,
    Submission,
    Witness,
    add_cosignatures,
    application,
    request_cosignature,
)

TREE = Tree(leaf_hashes(b"%d" % number for number in range(200)))
FORKED = Tree(leaf_hashes(b"fork %d" % number for number in range(200)))


def head(size, tree=TREE, key=LOG_KEY, origin=ORIGIN):
    return sign(Checkpoint(origin, size, tree.root(size)).text(), [key])


def proof(old, new, tree=TREE):
    return consistency_proof(old, new, tree.hash_at)


@pytest.fixture
def state(tmp_path):
    return StateFile(tmp_path / "witness" / "state.json")


@pytest.fixture
def witness(state):
    return Witness(WITNESS_KEY, {ORIGIN: [LOG_KEY.verifier]}, state, now_s=lambda: 1_800_000_000)


def test_a_log_that_grows_is_cosigned_again_and_again(witness):
    old = 0
    for size in (0, 1, 1, 2, 64, 100, 200):
        line = witness.add_checkpoint(old, proof(old, size), head(size))
        opened = open_checkpoint(head(size) + line.encode(), [LOG_KEY.verifier], [WITNESS_KEY.verifier])
        assert [one.time_s for one in opened.cosignatures] == [1_800_000_000]
        old = size
    assert witness.known(ORIGIN) == Head(200, TREE.root(200))


REFUSALS = {
    "malformed checkpoint": (400, lambda w: w.add_checkpoint(100, [], b"x")),
    "unknown origin": (404, lambda w: w.add_checkpoint(0, [], head(5, key=SigningKey.generate("other"), origin="other"))),
    "not signed by the log": (403, lambda w: w.add_checkpoint(100, proof(100, 150), head(150, key=SigningKey.generate(ORIGIN)))),
    "old size above the checkpoint's": (400, lambda w: w.add_checkpoint(100, [], head(50))),
    "old size is not the last": (409, lambda w: w.add_checkpoint(50, proof(50, 150), head(150))),
    "old size is not the last, first contact": (409, lambda w: w.add_checkpoint(0, [], head(150))),
    "another root for the same size": (409, lambda w: w.add_checkpoint(100, [], head(100, FORKED))),
    "proof of another tree": (422, lambda w: w.add_checkpoint(100, proof(100, 150, FORKED), head(150, FORKED))),
    "no proof": (422, lambda w: w.add_checkpoint(100, [], head(150))),
    "proof where none belongs": (422, lambda w: w.add_checkpoint(100, [bytes(32)], head(100))),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_has_its_status_and_changes_nothing(witness, state, case):
    witness.add_checkpoint(0, [], head(100))
    before = state.path.read_bytes()
    status, act = REFUSALS[case]
    with pytest.raises(Refused) as caught:
        act(witness)
    assert caught.value.status == status
    assert state.path.read_bytes() == before
    assert witness.known(ORIGIN).size == 100
    witness.add_checkpoint(100, proof(100, 150), head(150))


def test_a_restarted_witness_remembers(witness, state):
    witness.add_checkpoint(0, [], head(100))
    again = Witness(WITNESS_KEY, {ORIGIN: [LOG_KEY.verifier]}, state, now_s=lambda: 1)
    with pytest.raises(Refused) as caught:
        again.add_checkpoint(0, [], head(50, FORKED))
    assert (caught.value.status, caught.value.known_size) == (409, 100)


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_nothing_is_signed_that_is_not_durable(witness, state, monkeypatch, fault):
    witness.add_checkpoint(0, [], head(100))

    def broken(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if fault == "fsync":
            patch.setattr(os, "fsync", broken)
        else:
            patch.setattr("pathlib.Path.replace", lambda beside, _: broken(beside))
        with pytest.raises(OSError, match="No space"):
            witness.add_checkpoint(100, proof(100, 150), head(150))
    assert witness.known(ORIGIN).size == 100
    assert state.load()[ORIGIN].size == 100
    witness.add_checkpoint(100, proof(100, 150), head(150))


@pytest.mark.parametrize("data", ["", "[]", "{", '{"o": {}}', '{"o": {"size": -1, "root": ""}}', '{"o": {"size": 1, "root": "x"}}'])
def test_a_damaged_state_stops_the_witness(state, data):
    state.path.parent.mkdir()
    state.path.write_text(data)
    with pytest.raises(NoteError, match="damaged"):
        Witness(WITNESS_KEY, {}, state, now_s=lambda: 1)


def test_a_log_key_is_no_witness_key(state):
    with pytest.raises(NoteError, match="0x04"):
        Witness(LOG_KEY, {}, state, now_s=lambda: 1)


# ---- over HTTP ------------------------------------------------------------------------------------------------------------------------


class InProcess(httpx.BaseTransport):
    """Sends a synchronous client's requests into an ASGI application."""

    def __init__(self, app) -> None:
        self.app = app

    def handle_request(self, request):
        async def ask():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app)) as client:
                headers = {key: value for key, value in request.headers.items() if key != "content-length"}
                return await client.request(request.method, request.url, content=request.read(), headers=headers)

        reply = asyncio.run(ask())
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)


@pytest.fixture
def client(witness):
    with httpx.Client(transport=InProcess(application(witness)), base_url="http://witness.example") as client:
        yield client


def cosign(client, size, *, old=0, tree=TREE, key=WITNESS_KEY.verifier):
    return request_cosignature(client, "http://witness.example/", key, head(size, tree), old_size=old, prove=lambda known: proof(known, size, tree))


def test_the_client_gets_a_verified_cosignature_and_adds_it(client):
    signed = add_cosignatures(head(100), [cosign(client, 100)])
    assert len(open_checkpoint(signed, [LOG_KEY.verifier], [WITNESS_KEY.verifier]).cosignatures) == 1
    assert len(add_cosignatures(signed, [cosign(client, 100)]).splitlines()) == len(signed.splitlines())


def test_the_client_learns_the_size_the_witness_has(client):
    cosign(client, 100)
    assert cosign(client, 150, old=0).name == WITNESS_KEY.name


def test_a_fork_and_a_rollback_are_named_to_the_log(client):
    cosign(client, 100)
    with pytest.raises(Refused, match="rolled back"):
        cosign(client, 50)
    with pytest.raises(Refused, match="forked") as caught:
        cosign(client, 100, old=100, tree=FORKED)
    assert caught.value.status == 409
    with pytest.raises(Refused) as caught:
        cosign(client, 150, old=100, tree=FORKED)
    assert caught.value.status == 422


def test_a_cosignature_of_another_key_is_worth_nothing(client):
    with pytest.raises(Refused, match="did not answer with its cosignature"):
        cosign(client, 100, key=SigningKey.generate("witness.example/w", kind=4).verifier)


def test_a_conflict_tells_the_size_in_its_own_media_type(client):
    cosign(client, 100)
    reply = client.post("/add-checkpoint", content=Submission(7, (), head(150)).encode())
    assert (reply.status_code, reply.text, reply.headers["content-type"]) == (409, "100\n", "text/x.tlog.size")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0\n",
        b"old 00\n\n" + head(1),
        b"old -1\n\n" + head(1),
        b"old 0 \n\n" + head(1),
        b"new 0\n\n" + head(1),
        b"old 0\r\n\r\n" + head(1),
        b"old 0\nAAAA\n\n" + head(1),
        b"old 0\n" + b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n" * 64 + b"\n" + head(1),
        b"\xff\n\n" + head(1),
    ],
)
def test_a_malformed_request_is_a_400(client, body):
    assert client.post("/add-checkpoint", content=body).status_code == 400


def test_an_endless_request_is_cut_off(client):
    assert client.post("/add-checkpoint", content=b"x" * (REQUEST_LIMIT_BYTES + 1)).status_code == 413


def test_only_post_is_served(client):
    assert client.get("/add-checkpoint").status_code == 405


def test_a_witness_that_is_down_is_a_503():
    def down(request):
        raise httpx.ConnectError("refused", request=request)

    with httpx.Client(transport=httpx.MockTransport(down)) as client, pytest.raises(Refused) as caught:
        cosign(client, 5)
    assert caught.value.status == 503


@pytest.mark.parametrize("status", [200, 409, 500])
def test_of_a_witness_that_never_stops_answering_little_is_read(status):
    sent = []

    def endless():
        while True:
            sent.append(len(sent))
            yield b"x" * 65536

    def answer(_request):
        return httpx.Response(status, headers={"content-type": "text/x.tlog.size"}, content=endless())

    with httpx.Client(transport=httpx.MockTransport(answer)) as client, pytest.raises(Refused, match="more than") as caught:
        cosign(client, 5)
    assert (caught.value.status, len(sent)) == (502, 2)


def test_the_example_request_of_the_specification_reads():
    body = (
        "old 20852014\n"
        "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
        "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n"
        "\n"
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
        "\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    ).encode()
    one = Submission.parse(body)
    assert (one.old_size, len(one.proof), one.encode()) == (20852014, 2, body)
    assert one.proof[0] != EMPTY_ROOT
