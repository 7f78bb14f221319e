"""Receipts: a promise that a stranger can check, and that convicts who breaks it."""

from __future__ import annotations

import base64
import json
import random
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_maker import LOG_KEY, ORIGIN, log_files, record, write_files

from audit.keys import SigningKey
from audit.leaf import render
from audit.merkle import leaf_hash
from audit.note import NoteError, sign
from audit.promise import PROOF_FORMAT, Promise, judge_in_log, judge_with_proof
from audit.proof import make_proof
from audit.receipt import (
    Certificate,
    Certificates,
    Receipt,
    certified_near,
    header_of,
    key_name,
    make_receipt,
    open_receipt,
    parse_receipt,
    read_note,
)
from audit.source import open_directory

KEY = SigningKey.generate(key_name(ORIGIN), seed=b"R" * 32)
OTHER = SigningKey.generate(key_name(ORIGIN), seed=b"O" * 32)
WRITER = ("n1.w0", 1)


def certificate(seq: int = 0, *, key: SigningKey = KEY, kind: str = "key.certified", node: str = "n1", **more: object) -> dict:
    return record(seq, kind=kind, node="n1.controller", purpose="receipts", vkey=str(key.verifier), **more) | {"node": node}


def promise_of(leaf: bytes, **changed: Any) -> Receipt:
    held = json.loads(leaf)
    promised = Receipt(ORIGIN, held["id"], leaf_hash(leaf), *WRITER, held["writer"]["seq"], held["time"])
    return replace(promised, **changed)


def calls(count: int = 300) -> list[bytes]:
    return [render(record(seq, kind="writer.open" if seq == 0 else "call")) for seq in range(count)]


def log_of(tmp_path, leaves: list[bytes], *more: dict):
    """Write a log that certifies the key in its first leaf."""
    entries = [render(certificate()), *leaves, *(render(one) for one in more)]
    return open_directory(write_files(tmp_path, log_files(entries))), entries


def judged(source, receipt: Receipt, key: SigningKey = KEY):
    return judge_in_log(make_receipt(receipt, key), source, [LOG_KEY.verifier])


# ---- the format


@given(st.binary(min_size=32, max_size=32), st.integers(0, 10**15), st.integers(0, 10**15))
def test_a_receipt_is_read_back_as_it_was_made_from_note_and_header(digest, epoch, seq):
    receipt = Receipt(ORIGIN, "01a1fbcc-5e01-7403-96da-84370087a0ca", digest, "n1.w0", epoch, seq, "2026-11-21T10:00:00.123456Z")
    note = make_receipt(receipt, KEY)
    assert parse_receipt(note) == receipt
    assert read_note(header_of(note)) == read_note(note) == note


def test_every_flipped_bit_of_a_receipt_is_refused(tmp_path):
    source, entries = log_of(tmp_path, calls(5))
    note = make_receipt(promise_of(entries[3]), KEY)
    assert judge_in_log(note, source, [LOG_KEY.verifier]).promise is Promise.KEPT
    for at in range(len(note)):
        for bit in range(8):
            with pytest.raises(NoteError):
                judge_in_log(note[:at] + bytes([note[at] ^ 1 << bit]) + note[at + 1 :], source, [LOG_KEY.verifier])


def test_a_receipt_is_no_checkpoint_and_a_checkpoint_no_receipt():
    leaf = calls(1)[0]
    with pytest.raises(NoteError):
        parse_receipt(sign(f"{ORIGIN}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n", [KEY]))
    second = make_receipt(promise_of(leaf), KEY).split(b"\n")[1]
    assert not second.isdigit()


@pytest.mark.parametrize("text", [b"", b"not base64!", b"QUJD", b"A" * 5000, "—".encode()])
def test_what_is_no_receipt_is_said_to_be_none(text):
    with pytest.raises(NoteError):
        parse_receipt(read_note(text))


def test_a_promise_from_no_day_on_is_no_receipt():
    """It would be too early to tell for ever."""
    note = make_receipt(promise_of(calls(1)[0], time="2026-99-99T10:00:00.000000Z"), KEY)
    with pytest.raises(NoteError, match="never due"):
        parse_receipt(note)


# ---- with the log


def test_a_promise_whose_leaf_is_in_the_log_is_kept(tmp_path):
    source, entries = log_of(tmp_path, calls())
    for index in (1, 41, 255, 256, 300):
        verdict = judged(source, promise_of(entries[index]))
        assert (verdict.promise, verdict.index, verdict.evidence) == (Promise.KEPT, index, "")


def test_another_leaf_at_the_promised_number_breaks_the_promise_and_both_are_shown(tmp_path):
    source, entries = log_of(tmp_path, calls(40))
    verdict = judged(source, promise_of(entries[21], leaf_hash=b"e" * 32))
    assert (verdict.promise, verdict.index) == (Promise.BROKEN, 21)
    for part in ("EVIDENCE OF A BROKEN PROMISE", "assay-receipt@1", "key.certified", "c2sp.org/tlog-proof@v1", "index 21", f"— {ORIGIN} "):
        assert part in verdict.evidence


def test_a_leaf_with_other_numbers_than_promised_breaks_the_promise(tmp_path):
    source, entries = log_of(tmp_path, calls(40))
    verdict = judged(source, promise_of(entries[21], seq=7))
    assert (verdict.promise, verdict.index) == (Promise.BROKEN, 21)
    verdict = judged(source, promise_of(entries[21], decision="01a1fbcc-5e01-7403-96da-84370087a0ca"))
    assert "another call" in verdict.said


def statement(kind: str, time: str = "2026-11-20T10:00:40.000000Z", **more: object) -> dict:
    return record(1, kind=kind, node="n1.controller", **more) | {"node": WRITER[0], "epoch": WRITER[1], "time": time}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (statement("log.lost") | {"from": 40, "to": 44}, "states that this number is lost"),
        (statement("log.lost") | {"from": 40, "to": "unknown"}, "states that this number is lost"),
        (statement("log.recover") | {"last": 39}, "ended with number `39`"),
        (record(40, kind="writer.close") | {"last_seq": 39, "id": "x"}, "is another record"),
        (record(47), "later number"),
        (record(2, kind="log.heartbeat", node="n1.controller") | {"time": "2026-11-20T10:00:46.000000Z"}, "has gone on to"),
    ],
)
def test_a_log_that_contradicts_the_promise_breaks_it(tmp_path, more, said):
    leaves = calls(40)
    source, _ = log_of(tmp_path, leaves, more)
    missing = promise_of(render(record(40)))  # promised at 10:00:40
    verdict = judged(source, missing)
    assert verdict.promise is Promise.BROKEN, verdict.said
    assert said in verdict.said
    assert said in verdict.evidence


def test_a_last_record_of_an_earlier_time_takes_back_nothing_of_what_the_log_has_told(tmp_path):
    def beat(seq: int, second: int) -> dict:
        return record(seq, kind="log.heartbeat", node="n1.controller") | {"time": f"2026-11-20T10:00:{second}.000000Z"}

    whole_bundle = [*(beat(seq, 40) for seq in range(1, 215)), beat(215, 46)]  # with the certificate and 40 calls, 256 entries
    source, _ = log_of(tmp_path, calls(40), *whole_bundle, beat(216, 41))
    verdict = judged(source, promise_of(render(record(40))))
    assert (verdict.promise, "has gone on to 2026-11-20T10:00:46" in verdict.said) == (Promise.BROKEN, True)


@pytest.mark.parametrize("parents", [7, {"a": 1}, "01a1fbcc"])
def test_a_promised_leaf_of_no_shape_breaks_the_promise_too(tmp_path, parents):
    odd = render(record(40, parents=parents))
    source, _ = log_of(tmp_path, [*calls(40), odd])
    verdict = judged(source, promise_of(odd, decision="01a1fbcc-5e01-7403-96da-84370087a0ca"))
    assert (verdict.promise, "another call" in verdict.said) == (Promise.BROKEN, True)


@pytest.mark.parametrize(
    "more",
    [
        [],
        [record(2, kind="log.heartbeat", node="n1.controller") | {"time": "2026-11-20T10:00:45.000000Z"}],
        [statement("log.lost") | {"from": 41, "to": 44}],
        [statement("log.lost") | {"from": 40, "to": 44, "epoch": 2}],
        [statement("log.recover") | {"last": 40}],
    ],
)
def test_a_log_that_ends_within_the_promised_delay_leaves_it_open(tmp_path, more):
    source, _ = log_of(tmp_path, calls(40), *more)
    verdict = judged(source, promise_of(render(record(40))))
    assert (verdict.promise, verdict.evidence) == (Promise.OPEN, "")


def test_a_key_that_the_log_does_not_certify_promises_nothing(tmp_path):
    source, entries = log_of(tmp_path, calls(40))
    with pytest.raises(NoteError, match="certifies the key"):
        judged(source, promise_of(entries[3]), OTHER)


@pytest.mark.parametrize(
    ("certificate_of", "changed", "said"),
    [
        ({"node": "n2"}, {}, "certified for `n2` alone"),
        ({"key": SigningKey.generate("log.example/else/receipts", seed=b"R" * 32)}, {"origin": "log.example/test"}, "its key is"),
    ],
)
def test_a_key_promises_for_its_own_log_and_gateway_alone(tmp_path, certificate_of, changed, said):
    key = certificate_of.get("key", KEY)
    entries = [render(certificate(**certificate_of)), *calls(20)]
    source = open_directory(write_files(tmp_path, log_files(entries)))
    with pytest.raises(NoteError, match=said):
        judged(source, promise_of(entries[3], **changed), key)


def test_a_withdrawn_key_promises_nothing_later_and_what_it_promised_stands(tmp_path):
    withdrawn = certificate(seq=1, kind="key.withdrawn", reason="rotated") | {"time": "2026-11-20T10:00:30.000000Z"}
    leaves = calls(40)
    source, entries = log_of(tmp_path, [*leaves[:30], render(withdrawn), *leaves[30:]])
    assert judged(source, promise_of(entries[20])).promise is Promise.KEPT
    with pytest.raises(NoteError, match="withdrawn"):
        judged(source, promise_of(entries[38]))


@pytest.mark.parametrize("count", [40, 300])
def test_a_withdrawal_dated_before_what_the_log_had_told_takes_no_promise_back(tmp_path, count):
    """Whoever dropped a record would else withdraw the key as of the day before, and what convicts them would be no receipt any more."""
    withdrawn = certificate(seq=1, kind="key.withdrawn", reason="rotated") | {"time": "2026-11-20T09:00:00.000000Z"}
    source, entries = log_of(tmp_path, calls(count), withdrawn)
    assert judged(source, promise_of(entries[20])).promise is Promise.KEPT
    assert judged(source, promise_of(entries[20], leaf_hash=b"e" * 32)).promise is Promise.BROKEN


def test_a_log_that_does_not_hash_to_its_head_says_nothing_of_a_promise(tmp_path):
    entries = [render(certificate()), *calls(40)]
    files = log_files(entries)
    path = next(name for name in files if name.startswith("tile/entries"))
    files[path] = files[path].replace(b"acme", b"evil", 1)
    with pytest.raises(NoteError, match="do not hash"):
        judged(open_directory(write_files(tmp_path, files)), promise_of(entries[3]))


# ---- with a proof


def answer(source, entries, *indices: int, **changed: object) -> bytes:
    def proof(index: int) -> str:
        return make_proof(source, index, [LOG_KEY.verifier]).encode().decode()

    document = {
        "format": PROOF_FORMAT,
        "records": [{"index": index, "leaf_hash": leaf_hash(entries[index]).hex(), "proof": proof(index)} for index in indices],
        "certificates": [{"index": 0, "leaf": entries[0].decode(), "proof": proof(0)}],
    }
    return json.dumps(document | changed).encode()


def test_the_proof_that_the_gateway_serves_shows_a_kept_promise_with_the_log_key_alone(tmp_path):
    source, entries = log_of(tmp_path, calls())
    note = make_receipt(promise_of(entries[270]), KEY)
    verdict = judge_with_proof(note, answer(source, entries, 12, 270), [LOG_KEY.verifier])
    assert (verdict.promise, verdict.index) == (Promise.KEPT, 270)
    assert "only the leaf itself can show" in verdict.said, "an owner may promise the leaf of another call: the log convicts them, a hash cannot"
    assert judge_with_proof(note, answer(source, entries, 12), [LOG_KEY.verifier]).promise is Promise.OPEN


def test_an_altered_answer_about_a_receipt_is_never_a_kept_promise(tmp_path):
    source, entries = log_of(tmp_path, calls(20))
    note, whole = make_receipt(promise_of(entries[7]), KEY), answer(source, entries, 7)
    draw = random.Random(7)  # noqa: S311 - which bits, to be repeatable
    kept = 0
    for at in sorted(draw.sample(range(len(whole)), 400)):
        try:
            verdict = judge_with_proof(note, whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :], [LOG_KEY.verifier])
        except ValueError:
            continue
        # An index beside the proof, a key's name and white space are not what is proven.
        kept += verdict.promise is Promise.KEPT
        assert verdict.promise is Promise.OPEN or (verdict.index, verdict.receipt.leaf_hash) == (7, leaf_hash(entries[7]))
    assert kept < 20


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"format":"assay-receipt-proof@1","records":7,"certificates":[]}']
)
def test_an_answer_that_is_none_is_refused(document):
    with pytest.raises(NoteError):
        judge_with_proof(make_receipt(promise_of(calls(1)[0]), KEY), document, [LOG_KEY.verifier])


# ---- with other people's tools


@pytest.mark.component("openssl")
def test_openssl_checks_a_receipt_as_it_checks_a_checkpoint(tmp_path):
    note = make_receipt(promise_of(calls(1)[0]), KEY)
    text, _, lines = note.decode().partition("\n\n")
    (tmp_path / "text").write_text(text + "\n")
    (tmp_path / "signature").write_bytes(base64.b64decode(lines.split(" ")[2])[-64:])
    (tmp_path / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + KEY.verifier.public_key)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key.der", "-rawin", "-in", "text", "-sigfile", "signature"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Signature Verified Successfully" in done.stdout, done.stderr
    (tmp_path / "text").write_text(text.replace("merge 5", "merge 6") + "\n")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_a_promise_is_opened_with_a_certificate_alone():
    known = Certificates()
    known.fold(0, certificate())
    note = make_receipt(promise_of(calls(3)[2]), KEY)
    held = known.of(note)
    assert held is not None
    assert open_receipt(note, held).seq == 2
    assert known.of(make_receipt(promise_of(calls(3)[2]), OTHER)) is None


def test_the_key_of_a_receipt_is_found_however_many_the_log_has_certified_since():
    """Ten gateways on one log, or one that loses its key at each start, have more keys than an answer can prove."""
    known = [Certificate(KEY.verifier, f"n{number % 10}", 100 * number) for number in range(50)]
    for index in range(0, 5000, 37):
        for node in range(10):
            signed = [one.index for one in known if one.node == f"n{node}" and one.index < index]
            found = certified_near(known, f"n{node}.w0", index)
            assert len(found) <= 3
            assert not signed or max(signed) in found
    assert certified_near(known, "n1x.w0", 400) == []
