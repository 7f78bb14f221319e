"""Signed notes, checkpoints, cosignatures: published vectors, one spelling, nothing trusted by accident."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.keys import COSIGNATURE_V1, SigningKey, VerifierKey
from audit.merkle import EMPTY_ROOT
from audit.note import Checkpoint, Note, NoteError, make_signature, open_checkpoint, parse, sign, verify

PETER = VerifierKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
PETER_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
LOG = SigningKey.generate("log.example/one", seed=b"l" * 32)
OTHER = SigningKey.generate("log.example/two", seed=b"o" * 32)
WITNESS = SigningKey.generate("witness.example", kind=COSIGNATURE_V1, seed=b"w" * 32)
HEAD = Checkpoint("log.example/one", 7, b"r" * 32)
SIGNED = sign(HEAD.text(), [LOG, WITNESS], time_s=1_800_000_000)
SPEC_CHECKPOINT = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
"""


def test_a_published_note_verifies():
    (verified,) = verify(parse(PETER_NOTE), [PETER])
    assert (verified.key, verified.time_s) == (PETER, None)


def test_the_checkpoint_of_the_specification_reads_and_prints_alike():
    head = Checkpoint.parse(SPEC_CHECKPOINT)
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20852163)
    assert head.text() == SPEC_CHECKPOINT


def test_a_signed_checkpoint_opens_with_its_cosignature_and_time():
    opened = open_checkpoint(SIGNED, [LOG.verifier], [WITNESS.verifier])
    assert opened.checkpoint == HEAD
    assert [one.time_s for one in opened.cosignatures] == [1_800_000_000]
    assert opened.note.encode() == SIGNED


def test_the_cosigned_message_is_as_specified():
    """header line, time line, then the whole note text."""
    signature = make_signature(HEAD.text(), WITNESS, time_s=1679315147)
    assert int.from_bytes(signature.value[:8], "big") == 1679315147
    WITNESS.verifier.verify(b"cosignature/v1\ntime 1679315147\n" + HEAD.text().encode(), signature.value[8:])


@given(st.integers(0, len(SIGNED) * 8 - 1))
def test_any_flipped_bit_of_a_note_is_found(bit):
    """Base64's spare bits included. A flip that only renames a signer turns it into an unknown one: then the log's or the witness's is gone."""
    changed = bytearray(SIGNED)
    changed[bit // 8] ^= 1 << (bit % 8)
    try:
        opened = open_checkpoint(bytes(changed), [LOG.verifier], [WITNESS.verifier])
    except NoteError:
        return
    assert opened.checkpoint == HEAD
    assert not opened.cosignatures, f"bit {bit} changed nothing that is checked"


def test_signatures_of_unknown_keys_are_ignored():
    both = sign(HEAD.text(), [OTHER, LOG])
    assert len(verify(parse(both), [LOG.verifier])) == 1


def test_a_note_signed_by_no_known_key_is_refused():
    with pytest.raises(NoteError, match="no known key"):
        verify(parse(sign(HEAD.text(), [OTHER])), [LOG.verifier])


def test_a_wrong_key_id_is_refused():
    line = make_signature(HEAD.text(), LOG)
    forged = Note(HEAD.text(), (type(line)(line.name, b"\x00\x00\x00\x00", line.value),))
    with pytest.raises(NoteError, match="no known key"):
        verify(parse(forged.encode()), [LOG.verifier])


def test_one_bad_signature_of_a_known_key_refuses_the_whole_note():
    good, line = make_signature(HEAD.text(), LOG), make_signature("other text\n", WITNESS, time_s=1)
    with pytest.raises(NoteError, match="does not verify"):
        open_checkpoint(Note(HEAD.text(), (good, line)).encode(), [LOG.verifier], [WITNESS.verifier])


def test_a_cosignature_alone_is_no_signature_of_the_log():
    with pytest.raises(NoteError, match="not by the log"):
        open_checkpoint(sign(HEAD.text(), [WITNESS], time_s=1), [LOG.verifier], [WITNESS.verifier])


def test_a_log_key_may_not_vouch_for_another_origin():
    with pytest.raises(NoteError, match="origin"):
        open_checkpoint(sign(HEAD.text(), [OTHER]), [OTHER.verifier])
    assert open_checkpoint(sign(HEAD.text(), [OTHER]), [OTHER.verifier], origin=HEAD.origin).checkpoint == HEAD


def test_a_plain_signature_is_no_cosignature():
    plain = SigningKey.generate("witness.example", seed=WITNESS.seed)
    with pytest.raises(NoteError, match="no known key"):
        verify(parse(sign(HEAD.text(), [plain])), [WITNESS.verifier])


TEXT = HEAD.text()
LINE = make_signature(TEXT, LOG).line()
MALFORMED = {
    "empty": b"",
    "no signature": TEXT.encode(),
    "no empty line": (TEXT + LINE).encode(),
    "no final newline": (TEXT + "\n" + LINE).encode()[:-1],
    "trailing data": (TEXT + "\n" + LINE + "x").encode(),
    "trailing line": (TEXT + "\n" + LINE + "x\n").encode(),
    "trailing empty line": (TEXT + "\n" + LINE + "\n").encode(),
    "carriage return": (TEXT + "\n" + LINE).encode().replace(b"\n", b"\r\n"),
    "control character": (TEXT + "\n" + LINE).encode().replace(b"log.", b"log\x01"),
    "not UTF-8": (TEXT + "\n" + LINE).encode().replace(b"log.example/one\n7", b"log\xff\n7"),
    "hyphen for the dash": (TEXT + "\n" + LINE.replace("—", "-")).encode(),
    "two spaces": (TEXT + "\n" + LINE.replace("— ", "—  ")).encode(),
    "space at the end": (TEXT + "\n" + LINE[:-1] + " \n").encode(),
    "short signature": (TEXT + "\n— a AAAAAA==\n").encode(),
    "no base64": (TEXT + "\n— a\n").encode(),
    "plus in the name": (TEXT + "\n" + LINE.replace("log.", "log+")).encode(),
    "101 signatures": (TEXT + "\n" + LINE * 101).encode(),
    "more than 1 MB": b"x" * 1_000_001,
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_note_is_refused(case):
    with pytest.raises(NoteError):
        open_checkpoint(MALFORMED[case], [LOG.verifier])


def test_a_hundred_signatures_are_read():
    assert len(parse((TEXT + "\n" + LINE * 100).encode()).signatures) == 100


def test_only_the_canonical_base64_of_a_signature_is_read():
    """64 + 4 bytes leave spare bits in the last character: all but one of its spellings are refused."""
    encoded = LINE.rstrip("\n").rpartition(" ")[2]
    assert encoded.endswith("=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = alphabet.index(encoded[-2])
    for spare in range(1, 4):
        other = encoded[:-2] + alphabet[last ^ spare] + "="
        assert base64.b64decode(other) == base64.b64decode(encoded)
        with pytest.raises(NoteError, match="canonical"):
            parse(MALFORMED["no signature"] + b"\n" + LINE.replace(encoded, other).encode())


GOOD_ROOT = base64.b64encode(b"r" * 32).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n",
        "origin\n7\n",
        f"\n7\n{GOOD_ROOT}\n",
        f"origin\n07\n{GOOD_ROOT}\n",
        f"origin\n+7\n{GOOD_ROOT}\n",
        f"origin\n-7\n{GOOD_ROOT}\n",
        f"origin\n7 \n{GOOD_ROOT}\n",
        f"origin\n\u0667\n{GOOD_ROOT}\n",
        f"origin\n7_0\n{GOOD_ROOT}\n",
        f"origin\n{2**63}\n{GOOD_ROOT}\n",
        f"origin\n{'9' * 400000}\n{GOOD_ROOT}\n",
        f"origin\n7\n{GOOD_ROOT[:-4]}\n",
        f"origin\n7\n{GOOD_ROOT[:-2]}J=\n",
        f"origin\n0\n{GOOD_ROOT}\n",
        f"origin\n7\n{GOOD_ROOT}\n\n",
        f"origin\n7\n{GOOD_ROOT}\nextension\n\nmore\n",
        f"origin\n7\n{GOOD_ROOT}",
    ],
)
def test_a_malformed_checkpoint_is_refused(text):
    with pytest.raises(NoteError):
        Checkpoint.parse(text)


@given(
    st.integers(0, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
    st.lists(st.text(st.characters(min_codepoint=32, codec="utf-8"), min_size=1), max_size=3),
)
def test_checkpoint_text_is_a_fixed_point(size, root, extensions):
    head = Checkpoint("origin", size, EMPTY_ROOT if size == 0 else root, tuple(extensions))
    assert Checkpoint.parse(head.text()) == head


@pytest.mark.parametrize(("text", "time_s"), [("no newline", 1), ("tab\t\n", 1), ("text\n", None), ("text\n", -1), ("text\n", 2**63)])
def test_what_could_not_be_read_back_is_not_signed(text, time_s):
    with pytest.raises(NoteError):
        make_signature(text, WITNESS, time_s=time_s)


def test_a_cosignature_beyond_the_largest_time_is_refused():
    """tlog-cosignature: the timestamp MUST NOT exceed 2^63 - 1, even if it is signed."""
    time_s = 2**63
    value = time_s.to_bytes(8, "big") + WITNESS.sign(f"cosignature/v1\ntime {time_s}\n{TEXT}".encode())
    late = type(make_signature(TEXT, LOG))(WITNESS.name, WITNESS.verifier.id, value)
    with pytest.raises(NoteError, match="beyond"):
        verify(Note(TEXT, (late,)), [WITNESS.verifier])
