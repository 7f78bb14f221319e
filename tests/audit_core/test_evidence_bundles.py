"""Evidence bundles: what is proven, by our code, by OpenSSL and by Go alone; and what a bundle from an enemy costs."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_maker import EDGES, LOG_KEY, WITNESS_KEY, leaves, log_files, write_files

from audit import bundle as bundles
from audit.bundle import BundleError, make_bundle, verify_bundle
from audit.keys import SigningKey
from audit.merkle import ProofError
from audit.note import NoteError
from audit.source import DirectorySource, LogSource

KEYS = [LOG_KEY.verifier]
ENTRIES = leaves(700)
MADE = "2026-11-21T10:00:00.000000Z"
REFUSED = (BundleError, NoteError, ProofError)


class Files:
    """A source over a dict."""

    def __init__(self, files) -> None:
        self.files = files

    def read(self, path):
        return self.files.get(path)


SOURCE = LogSource(Files(log_files(ENTRIES, witnesses=[WITNESS_KEY])))


def made(indices=(3, 41, 255, 256, 698), **options: object) -> bytes:
    span = options.get("span")
    asked = {"type": "call"} if span is None else {"range": "{}:{}".format(*span)}  # type: ignore[misc]
    return make_bundle(SOURCE, KEYS, list(indices), **{"question": asked, "made": MADE, **options})  # type: ignore[arg-type]


def check(data: bytes, **options: object):
    return verify_bundle(io.BytesIO(data), options.pop("keys", KEYS), **options)  # type: ignore[arg-type]


# ---- what is proven ---------------------------------------------------------------------------------------------------------------


def test_a_selection_holds_its_records_and_claims_no_more():
    verdict = check(made(), witnesses=[WITNESS_KEY.verifier])
    assert dict(verdict.leaves) == {index: ENTRIES[index] for index in (3, 41, 255, 256, 698)}
    assert (verdict.kind, verdict.is_complete, verdict.question) == ("selection", False, {"type": "call"})
    assert [one.key.name for one in verdict.head.cosignatures] == [WITNESS_KEY.name]


def test_a_range_is_complete():
    verdict = check(made(range(250, 260), span=(250, 260)))
    assert verdict.is_complete
    assert sorted(verdict.leaves) == list(range(250, 260))


def restated(data: bytes, **members: object) -> bytes:
    """Return a bundle whose manifest says something else."""
    parts = parts_of(data)
    return zipped({**parts, "manifest.json": json.dumps(json.loads(parts["manifest.json"]) | members).encode()})


@pytest.mark.parametrize(
    "question",
    [
        {"type": "outcome"},
        {"type": "call", "model": "credit-risk"},
        {"type": "call", "since": "2026-11-20T10:00:04.000000Z"},
        {"type": "call", "until": "2026-11-20T10:04:00.000000Z"},
        {"range": "3:41"},
    ],
)
def test_a_proven_record_that_does_not_answer_the_stated_question_contradicts_the_bundle(question):
    whole = made()
    assert check(restated(whole, question={"type": "call", "tenant": "acme", "oldest_first": True})).question["tenant"] == "acme"
    with pytest.raises(BundleError):
        check(restated(whole, question=question))
    with pytest.raises(BundleError):
        made(question=question)


def test_one_record_too_many_among_hundreds_contradicts_the_bundle_and_is_named():
    several = make_bundle(SOURCE, KEYS, range(1, 700), question={}, made=MADE)
    with pytest.raises(bundles.BundleContradicted, match="record `699` is in the log"):
        check(restated(several, question={"type": "call"}))


@pytest.mark.parametrize(("changed", "said"), [({"first": 3}, "whole log"), ({"end": 699}, "whole log")])
def test_a_selection_of_another_scope_than_the_whole_log_is_contradicted(changed, said):
    with pytest.raises(bundles.BundleContradicted, match=said):
        check(restated(made(), **changed))


@pytest.mark.parametrize("question", [{}, {"type": "call"}, {"range": "250:261"}, {"range": "0250:260"}])
def test_a_range_whose_question_names_another_one_is_contradicted(question):
    with pytest.raises(bundles.BundleContradicted, match="250:260"):
        check(restated(made(range(250, 260), span=(250, 260)), question=question))


@pytest.mark.parametrize(
    "question", [{"colour": "red"}, {"type": 7}, {"type": ["call"]}, {"since": "yesterday"}, {"oldest_first": "yes"}, {"type": "x" * 300}]
)
def test_a_question_that_cannot_be_tested_is_refused(question):
    with pytest.raises(BundleError):
        check(restated(made(), question=question))


def test_the_same_question_to_the_same_log_gives_the_same_bytes():
    assert made() == made()


@pytest.mark.parametrize("indices", [[], [700], [-1], range(10_001)])
def test_what_the_log_does_not_hold_or_a_bundle_cannot_is_refused(indices):
    with pytest.raises((BundleError, ProofError)):
        made(indices)


def test_a_range_with_a_hole_is_not_made_and_not_believed():
    with pytest.raises(BundleError):
        made([1, 3], span=(1, 4))
    with pytest.raises(BundleError, match="does not hold them all"):
        check(changed(made(range(1, 4), span=(1, 4)), lambda parts: dropped(parts, 2)))


def dropped(parts, index):
    """Take one record out and count anew, as one would who wants to hide it."""
    kept = {name: data for name, data in parts.items() if f"{index:08d}" not in name}
    manifest = json.loads(parts["manifest.json"])
    return {**kept, "manifest.json": json.dumps({**manifest, "records": manifest["records"] - 1}).encode()}


def test_the_log_is_proven_to_extend_the_head_that_was_kept():
    kept = log_files(ENTRIES[:300])["checkpoint"]
    assert check(made(known_checkpoint=kept), known_checkpoint=kept).extends_size == 300
    with pytest.raises(BundleError, match="proves nothing about your earlier head"):
        check(made(), known_checkpoint=kept)
    other = log_files(ENTRIES[:301])["checkpoint"]
    with pytest.raises(BundleError, match="another head than yours"):
        check(made(known_checkpoint=kept), known_checkpoint=other)
    with pytest.raises(ProofError):
        made(known_checkpoint=log_files([*ENTRIES[:299], b"never there"])["checkpoint"])


def test_another_key_proves_nothing():
    with pytest.raises(NoteError):
        check(made(), keys=[SigningKey.generate(LOG_KEY.name).verifier])


# ---- with OpenSSL and Go alone ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """Bundles from one log at the sizes where tiles change shape and at 70,000, unpacked as somebody without Assay would."""
    entries = [b'{"n":%d}' % number for number in range(70_000)]
    folder = tmp_path_factory.mktemp("bundles")
    for size in (1, *EDGES, 70_000):
        source = LogSource(DirectorySource(write_files(folder / f"log{size}", log_files(entries[:size]))))
        indices = sorted({0, size - 1, *random.Random(size).sample(range(size), min(size, 4))})  # noqa: S311 - a test that runs alike each time
        data = make_bundle(source, KEYS, indices, question={}, made=MADE)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(folder / str(size))
    return folder


def run(words, folder):
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.component("openssl")
@pytest.mark.parametrize("size", [1, *EDGES, 70_000])
def test_openssl_alone_proves_the_records_of_a_bundle(big, size):
    done = run(["bash", "verify.sh", str(LOG_KEY.verifier)], big / str(size))
    assert done.returncode == 0, done.stderr
    assert f"size {size}, is signed" in done.stdout
    assert "records are in the signed tree" in done.stdout
    assert f"{len(list((big / str(size)).glob('proofs/*')))} records to check" in done.stderr


@pytest.mark.component("openssl")
def test_openssl_alone_refuses_a_changed_record_a_changed_proof_and_another_key(big, tmp_path):
    shutil.copytree(big / "257", tmp_path / "b")
    folder = tmp_path / "b"
    assert "FAILED" in run(["bash", "verify.sh", str(SigningKey.generate(LOG_KEY.name).verifier)], folder).stderr
    for pattern, at in (("records/*.leaf", 3), ("proofs/*.tlog-proof", 70), ("checkpoint", 25)):
        file = min(folder.glob(pattern))
        original = file.read_bytes()
        file.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
        assert run(["bash", "verify.sh", str(LOG_KEY.verifier)], folder).returncode != 0, pattern
        file.write_bytes(original)
    assert run(["bash", "verify.sh", str(LOG_KEY.verifier)], folder).returncode == 0


@pytest.mark.component("go")
@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
@pytest.mark.timeout(300)
def test_go_alone_proves_the_records_of_a_bundle_at_every_size(big):
    first = big / "1"
    for name in ("go.mod", "go.sum"):
        shutil.copy(first / f"{name}.txt", first / name)
    program = first / "verify"
    environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    built = subprocess.run(["go", "build", "-o", program, "."], cwd=first, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert built.returncode == 0, built.stderr
    for size in (1, *EDGES, 70_000):
        done = run([program, str(LOG_KEY.verifier)], big / str(size))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("ok: ") == 2
    leaf = min((big / "257" / "records").glob("*.leaf"))
    leaf.write_bytes(leaf.read_bytes() + b" ")
    assert run([program, str(LOG_KEY.verifier)], big / "257").returncode != 0


# ---- from an enemy ----------------------------------------------------------------------------------------------------------------


def parts_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(parts, *, attributes=None, compression=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in parts.items() if isinstance(parts, dict) else parts:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            if attributes is not None:
                info.external_attr = attributes << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def changed(data: bytes, change) -> bytes:
    return zipped(change(parts_of(data)))


BUNDLE = made()
PROOF = "proofs/00000003.tlog-proof"
PARTS = parts_of(BUNDLE)
MANIFEST = json.loads(PARTS["manifest.json"])


def with_manifest(**members: object) -> bytes:
    return zipped({**PARTS, "manifest.json": json.dumps({**MANIFEST, **members}).encode()})


def with_signatures(count: int) -> bytes:
    line = f"— x {base64.b64encode(bytes(68)).decode()}\n".encode()
    return PARTS["checkpoint"] + line * (count - 2)


HOSTILE = {
    "zip bomb in a record": lambda: zipped({**PARTS, "records/00000003.leaf": bytes(200_000_000)}),
    "zip bomb in the note": lambda: zipped({**PARTS, "checkpoint": b"a\n" * 100_000_000}),
    "101 signatures": lambda: zipped({**PARTS, "checkpoint": with_signatures(101)}),
    "a path upwards": lambda: zipped({**PARTS, "../../etc/passwd": b"x"}),
    "an absolute path": lambda: zipped({**PARTS, "/etc/passwd": b"x"}),
    "a path within a folder upwards": lambda: zipped({**PARTS, "records/../../x": b"x"}),
    "links": lambda: zipped(PARTS, attributes=0o120777),
    "another compression": lambda: zipped(PARTS, compression=zipfile.ZIP_LZMA),
    "a name twice": lambda: zipped([*PARTS.items(), ("checkpoint2"[:-1], PARTS["checkpoint"])]),
    "an index of 2**63": lambda: zipped({**PARTS, PROOF: PARTS[PROOF].replace(b"index 3", b"index %d" % 2**63)}),
    "a size of 2**63": lambda: with_manifest(size=2**63),
    "an end of 2**63": lambda: with_manifest(kind="range", end=2**63),
    "an end of 2**62": lambda: with_manifest(kind="range", end=2**62),
    "a negative start": lambda: with_manifest(kind="range", first=-1),
    "numbers that are floats": lambda: with_manifest(records=5.0),
    "another format": lambda: with_manifest(format="assay-bundle@2"),
    "a deep manifest": lambda: zipped({**PARTS, "manifest.json": b"[" * 1_000_000}),
    "no manifest": lambda: zipped({name: data for name, data in PARTS.items() if name != "manifest.json"}),
    "no records": lambda: zipped({name: data for name, data in PARTS.items() if "/" not in name}),
    "a proof without its record": lambda: zipped({name: data for name, data in PARTS.items() if name != "records/00000003.leaf"}),
    "a record under another index": lambda: zipped(
        {**PARTS, "records/00000003.leaf": PARTS["records/00000041.leaf"], "records/00000041.leaf": PARTS["records/00000003.leaf"]}
    ),
    "another checkpoint in a proof": lambda: zipped(
        {
            **PARTS,
            "proofs/00000003.tlog-proof": PARTS[PROOF].partition(b"\n\n")[0] + b"\n\n" + log_files(ENTRIES)["checkpoint"],
        }
    ),
    "one record too many counted": lambda: with_manifest(records=6),
    "a comment": lambda: BUNDLE[:-2] + b"\x05\0hello",
    "nothing": lambda: b"",
    "no zip": lambda: b"x" * 1000,
    "a huge directory": lambda: BUNDLE[:-22] + BUNDLE[-22:-10] + (0xF0000000).to_bytes(4, "little") + BUNDLE[-6:],
    "a 64-bit directory": lambda: BUNDLE[:-10] + b"\xff\xff\xff\xff" + BUNDLE[-6:],
    "many members": lambda: zipped([(f"records/{number:08d}.leaf", b"") for number in range(60_000)]),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_bundle_is_refused_in_bounded_memory(case):
    data = HOSTILE[case]()
    tracemalloc.start()
    try:
        with pytest.raises(REFUSED):
            check(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20, f"{peak:,} bytes"


def test_a_directory_of_many_members_is_refused_before_it_is_read():
    with pytest.raises(BundleError, match="directory has"):
        check(HOSTILE["many members"]())


def test_a_bundle_that_is_honest_is_read_in_bounded_memory_too():
    tracemalloc.start()
    try:
        check(BUNDLE)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=300)
@given(at=st.integers(0, len(BUNDLE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_changes_nothing_that_is_proven(at, bit):
    spoilt = bytearray(BUNDLE)
    spoilt[at] ^= 1 << bit
    try:
        verdict = check(bytes(spoilt))
    except REFUSED:
        return
    assert verdict.leaves == check(BUNDLE).leaves


def test_a_file_that_is_too_large_is_not_read(monkeypatch):
    monkeypatch.setattr(bundles, "FILE_LIMIT_BYTES", len(BUNDLE) - 1)
    with pytest.raises(BundleError, match="at most"):
        check(BUNDLE)


def test_the_programs_of_a_bundle_are_in_the_package():
    folder = Path(bundles.__file__).parent / "bundle_files"
    assert {path.name for path in folder.iterdir()} == set(bundles._PROGRAMS)
    assert sys.version_info >= (3, 11)
