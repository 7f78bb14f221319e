"""Verifying a whole log: an honest one passes, and every way to tamper with it that we know is found, named and graded."""

from __future__ import annotations

import os
import sqlite3

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_maker import LOG_KEY, ORIGIN, WITNESS_KEY, bundles, leaves, log_files, record, write_files

from audit.keys import SigningKey
from audit.leaf import parse, render
from audit.merkle import leaf_hashes
from audit.note import Checkpoint, sign
from audit.sequences import MISSING_REMEMBERED, Account
from audit.source import DirectorySource, HttpSource, LogSource, RangeRows, SourceError, open_directory
from audit.statements import Clock, statement, told_mono_ns
from audit.tiles import HashTiles, encode_bundle, parse_path
from audit.verdict import Grade
from audit.verify import verify_log

KEYS = [LOG_KEY.verifier]
WITNESSES = [WITNESS_KEY.verifier]


class Files:
    """A source over a dict."""

    def __init__(self, files) -> None:
        self.files = files

    def read(self, path):
        return self.files.get(path)


def check(files, *, known=None, witnesses=WITNESSES, keys=KEYS, progress=None):
    return verify_log(LogSource(Files(files)), keys, known, witnesses, progress)


def honest(count=600):
    return log_files(leaves(count), witnesses=[WITNESS_KEY])


def faults(verdict, name):
    return [fault.message for fault in getattr(verdict, name).faults]


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 511, 512, 513, 1000])
def test_an_honest_witnessed_log_is_ok_at_every_shape(count):
    verdict = check(honest(count))
    assert verdict.exit_code == 0, verdict.document()
    assert (verdict.size, verdict.leaves_checked, verdict.records) == (count, count, count)


def test_a_log_across_two_tile_levels_is_ok():
    verdict = check(log_files([b"%d" % number for number in range(65_536 + 300)], witnesses=[WITNESS_KEY]))
    assert verdict.exit_code == 0
    assert verdict.opaque == 65_836


def test_progress_is_told():
    seen = []
    check(honest(9000), progress=lambda done, size: seen.append((done, size)))
    assert seen
    assert all(size == 9000 for _, size in seen)


# ---- independence -----------------------------------------------------------------------------------------------------------------


def test_without_a_kept_head_or_a_witness_freshness_is_unproven():
    verdict = check(log_files(leaves(10)), witnesses=[])
    assert verdict.exit_code == 3
    assert "freshness is unproven" in faults(verdict, "independence")[0]


def test_a_kept_head_proves_that_the_log_only_grew():
    entries = leaves(700)
    for kept in (1, 255, 256, 257, 699, 700):
        known = log_files(entries[:kept])["checkpoint"]
        verdict = check(log_files(entries), known=known, witnesses=[])
        assert verdict.exit_code == 0, (kept, verdict.document())


def test_a_witness_that_did_not_cosign_proves_nothing():
    verdict = check(log_files(leaves(10)))
    assert verdict.exit_code == 3
    assert "1 of the given witnesses did not cosign this head" in verdict.independence.notes


NOW_S = 1_800_000_000


def aged(age_s):
    """Verify a log whose cosignature is `age_s` old."""
    files = log_files(leaves(10), witnesses=[WITNESS_KEY], time_s=NOW_S - age_s)
    return verify_log(LogSource(Files(files)), KEYS, None, WITNESSES, now_s=NOW_S)


@pytest.mark.parametrize(("age_s", "exit_code"), [(0, 0), (86_400, 0), (86_401, 3), (10**9, 3), (-300, 0), (-301, 3)])
def test_a_cosignature_proves_freshness_for_a_day_and_not_from_the_future(age_s, exit_code):
    verdict = aged(age_s)
    assert verdict.exit_code == exit_code
    assert bool(faults(verdict, "independence")) == (exit_code == 3)


def test_an_old_cosignature_beside_a_kept_head_is_a_note():
    files = log_files(leaves(10), witnesses=[WITNESS_KEY], time_s=1)
    verdict = check(files, known=log_files(leaves(10)[:5])["checkpoint"])
    assert verdict.exit_code == 0
    assert any("saw this head" in note for note in verdict.independence.notes)


def test_an_empty_kept_head_proves_nothing():
    assert check(log_files(leaves(10)), known=log_files([])["checkpoint"], witnesses=[]).exit_code == 3


def test_a_log_cut_and_signed_again_with_the_stolen_key_is_caught_by_the_kept_head():
    entries = leaves(700)
    verdict = check(log_files(entries[:600]), known=log_files(entries)["checkpoint"], witnesses=[])
    assert verdict.exit_code == 1
    assert "cut or rolled back" in faults(verdict, "independence")[0]


def test_a_log_rewritten_with_the_stolen_key_is_caught_by_the_kept_head_and_else_never_a_plain_ok():
    entries = leaves(700)
    known = log_files(entries[:300])["checkpoint"]
    entries[17] = render(record(17, tenant="mallory"))
    assert check(log_files(entries), known=known, witnesses=[]).exit_code == 1
    assert check(log_files(entries), witnesses=[]).exit_code == 3


def test_a_fork_of_the_same_size_is_named():
    entries = leaves(300)
    known = log_files(entries)["checkpoint"]
    entries[299] = render(record(299, kind="writer.close", tenant="other"))
    assert "forked" in faults(check(log_files(entries), known=known), "independence")[0]


def test_a_kept_head_of_another_log_or_key_is_refused():
    other = log_files(leaves(5), key=SigningKey.generate("other.example"))["checkpoint"]
    assert check(honest(10), known=other).exit_code == 1


# ---- the head ---------------------------------------------------------------------------------------------------------------------


def test_a_missing_checkpoint_fails():
    files = honest()
    del files["checkpoint"]
    assert check(files).exit_code == 1


def test_a_checkpoint_without_or_with_a_foreign_signature_fails():
    files = honest()
    text = files["checkpoint"].decode().split("\n\n")[0] + "\n"
    for data in (text.encode(), (text + "\n").encode(), sign(text, [SigningKey.generate(ORIGIN)]), sign(text, [WITNESS_KEY], time_s=1)):
        assert check({**files, "checkpoint": data}).exit_code == 1


def test_another_key_of_the_same_name_fails():
    assert check(honest(), keys=[SigningKey.generate(ORIGIN).verifier]).exit_code == 1


def test_a_head_of_absurd_size_fails_at_once():
    head = Checkpoint(ORIGIN, 2**63 - 1, bytes(32))
    verdict = check({**honest(), "checkpoint": sign(head.text(), [LOG_KEY])})
    assert verdict.exit_code == 1
    assert verdict.leaves_checked <= 600


# ---- tampering ----------------------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_a_small_log_is_found():
    files = log_files([render({"v": 1, "n": number}) for number in range(3)], witnesses=[WITNESS_KEY])
    assert check(files).exit_code == 0
    for path, data in files.items():
        for bit in range(len(data) * 8):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << (bit % 8)
            verdict = check({**files, path: bytes(changed)})
            assert verdict.exit_code != 0, (path, bit)
            if path != "checkpoint":
                assert verdict.exit_code == 1, (path, bit)


BIG = honest(1000)


@settings(max_examples=80)
@given(st.sampled_from(list(BIG)), st.data())
def test_any_flipped_bit_of_a_larger_log_is_found(path, data):
    changed = bytearray(BIG[path])
    bit = data.draw(st.integers(0, len(changed) * 8 - 1))
    changed[bit // 8] ^= 1 << (bit % 8)
    assert check({**BIG, path: bytes(changed)}).exit_code != 0


def test_an_edited_entry_is_named_by_index_and_file():
    entries = leaves(600)
    files = log_files(entries, witnesses=[WITNESS_KEY])
    entries[300] = render(record(300, tenant="mallory"))
    verdict = check({**files, **bundles(entries)})
    assert verdict.exit_code == 1
    assert verdict.first_bad_index == 300
    (fault,) = [fault for fault in verdict.chain.faults if fault.index == 300]
    assert fault.path == "tile/entries/001"
    assert "entry was changed" in fault.message


def test_a_damaged_tile_is_told_from_a_damaged_entry():
    files = honest(600)
    files["tile/0/001"] = files["tile/0/001"][:320] + bytes(32) + files["tile/0/001"][352:]
    verdict = check(files)
    assert verdict.chain.grade is Grade.OK
    assert verdict.tamper.faults[0].path == "tile/0/001"
    assert verdict.tamper.faults[0].index == 256 + 10
    files = honest(600)
    files["tile/1/000.p/2"] = bytes(64)
    assert check(files).tamper.faults[0].path == "tile/1/000.p/2"


@pytest.mark.parametrize("change", ["insert", "delete", "swap", "duplicate"])
def test_structural_edits_with_all_tiles_recomputed_do_not_match_the_signature(change):
    entries = leaves(600)
    head = log_files(entries, witnesses=[WITNESS_KEY])["checkpoint"]
    match change:
        case "insert":
            entries.insert(50, b"{}")
        case "delete":
            del entries[50]
        case "swap":
            entries[50], entries[51] = entries[51], entries[50]
        case "duplicate":
            entries.insert(50, entries[50])
    forged = {**log_files([*entries, *leaves(600)][:600]), "checkpoint": head}
    verdict = check(forged)
    assert verdict.exit_code == 1
    assert "not with the signed root" in faults(verdict, "chain")[0]
    assert verdict.chain.told == "ended at what is told below", "what was found wrong was checked"


@pytest.mark.parametrize("path", [path for path in BIG if path != "checkpoint"])
def test_every_missing_file_is_named(path):
    verdict = check({name: data for name, data in BIG.items() if name != path})
    assert verdict.exit_code == 1
    assert path in {fault.path for one in verdict.checks for fault in one.faults}


def test_superseded_partial_tiles_are_not_needed():
    entries = leaves(1000)
    files = log_files(entries, witnesses=[WITNESS_KEY], batch=90)
    needed = log_files(entries)
    assert set(needed) < set(files)
    assert check({path: files[path] for path in needed}).exit_code == 0


# ---- records ------------------------------------------------------------------------------------------------------------------------


def ours(records):
    return check(log_files([one if isinstance(one, bytes) else render(one) for one in records], witnesses=[WITNESS_KEY]))


def test_a_foreign_log_is_verified_as_bytes():
    verdict = ours([b"", b"\x00\xff", b"not json", b'{"json": 1.5}', b'{"writer": "someone"}', b'{"writer":{"a":1}}', b"[" * 50_000])
    assert verdict.exit_code == 0
    assert (verdict.records, verdict.opaque) == (0, 7)


def test_a_record_of_a_later_version_is_opaque_not_wrong():
    verdict = ours([record(0), {**record(1), "v": 2, "writer": {"node": [], "epoch": 0, "seq": 0}}])
    assert (verdict.exit_code, verdict.records, verdict.opaque) == (0, 1, 1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda leaf: leaf.replace(b'":', b'": ', 1),
        lambda leaf: b" " + leaf,
        lambda leaf: leaf.replace(b'"v":1', b'"v":1,"v":1'),
        lambda leaf: leaf.replace(b'"mono_ns":0', b'"mono_ns":0.0'),
        lambda leaf: leaf.replace(b'"tenant":"acme"', b'"tenant":"\\u0061cme"'),
        lambda leaf: leaf.replace(b'"tenant":"acme"', b'"tenant":7'),
        lambda leaf: leaf.replace(b'"seq":0', b'"seq":-1'),
        lambda leaf: leaf.replace(b'.000000Z"', b'Z"'),
        lambda leaf: leaf.replace(b'"boot_id":"b",', b""),
        lambda leaf: leaf.replace(b'"actor":{', b'"parents":[1],"actor":{'),
    ],
)
def test_a_record_in_another_spelling_or_shape_fails_even_when_signed(spoil):
    leaf = render(record(0))
    assert spoil(leaf) != leaf
    verdict = ours([spoil(leaf)])
    assert verdict.exit_code == 1
    assert verdict.tamper.faults[0].index == 0


def test_a_missing_number_is_incomplete():
    verdict = ours([record(0, kind="writer.open"), record(1), record(4)])
    assert verdict.exit_code == 3
    assert faults(verdict, "completeness") == ["writer `n1.w0` epoch `1`: numbers `2` to `3` are missing"]


def test_what_a_log_of_gaps_costs_its_verifier_is_bounded_and_every_gap_is_told():
    account, step, gaps = Account(), 4096, 40
    for index in range(gaps + 1):
        account.add(index, record(index * step))
    assert sum(len(epoch.missing) for epoch in account._epochs.values()) <= MISSING_REMEMBERED
    told = sorted(finding.message for finding in account.findings() if finding.message.endswith("missing"))
    assert told == sorted(f"writer `n1.w0` epoch `1`: numbers `{at * step + 1}` to `{(at + 1) * step - 1}` are missing" for at in range(gaps))


def test_numbers_that_arrive_late_are_not_missing():
    assert ours([record(0), record(2), record(1), record(3)]).exit_code == 0


def test_a_number_used_twice_is_a_contradiction():
    verdict = ours([record(0), record(1), record(1, tenant="other")])
    assert verdict.exit_code == 1
    assert "used twice" in faults(verdict, "completeness")[0]


def test_a_record_after_its_writers_end_is_a_contradiction():
    assert ours([record(0), record(1, kind="writer.close"), record(2)]).exit_code == 1


def test_a_stated_loss_is_reported_with_its_bounds():
    statement = record(0, node="rec", kind="log.lost")
    verdict = ours([record(0), {**statement, "node": "n1.w0", "epoch": 1, "from": 1, "to": 5}])
    assert verdict.exit_code == 3
    assert "5 records lost, stated: writer `n1.w0` epoch `1` numbers `1` to `5`" in faults(verdict, "completeness")[0]
    unknown = ours([record(0), {**statement, "node": "n1.w0", "epoch": 1, "from": 1, "to": "unknown"}])
    assert "unknown number" in faults(unknown, "completeness")[0]


def test_an_epoch_without_end_is_reported_once_its_node_begins_another():
    assert ours([record(0), record(0, epoch=2)]).exit_code == 3
    ended = record(0, node="rec", kind="log.recover")
    assert ours([record(0), record(0, epoch=2), {**ended, "node": "n1.w0", "epoch": 1}]).exit_code == 0


def test_a_decision_needs_its_outcome_in_time():
    decision = record(0, kind="decision")
    outcome = {**record(1, kind="outcome"), "parents": [decision["id"]]}
    later = {**record(2), "time": "2026-11-20T10:30:00.000000Z", "boot_id": "b2"}
    beats = [record(seq, node="beat") for seq in range(400)]
    assert "decision without outcome" in faults(ours([decision, *beats]), "completeness")
    assert "decision without outcome" not in faults(ours([decision, outcome, later]), "completeness")
    young = ours([decision])
    assert young.exit_code == 0
    assert "1 decisions are younger" in young.completeness.notes[-1]


def decided(more):
    """A decision, its outcome, and one more record."""
    decision = record(0, kind="decision")
    return [decision, {**record(1, kind="outcome"), "parents": [decision["id"]]}, more]


def test_a_second_outcome_is_a_contradiction_that_names_the_first():
    first = record(0)["id"]
    verdict = ours(decided({**record(2, kind="outcome"), "parents": [first]}))
    assert verdict.exit_code == 1
    assert faults(verdict, "completeness") == [f"a second outcome of decision `{first}`; the first is leaf 1"]


@pytest.mark.parametrize("parents", [["nobody"], [], None])
def test_an_outcome_without_its_decision_is_a_contradiction(parents):
    orphan = record(0, kind="outcome")
    verdict = ours([orphan if parents is None else {**orphan, "parents": parents}])
    assert verdict.exit_code == 1
    assert "no open decision" in faults(verdict, "completeness")[0]


def test_an_outcome_of_a_call_that_has_its_outcome_in_itself_is_a_contradiction():
    assert ours([record(0), {**record(1, kind="outcome"), "parents": [record(0)["id"]]}]).exit_code == 1


def test_a_decision_made_twice_is_a_contradiction():
    twice = {**record(1, kind="decision"), "id": record(0)["id"]}
    assert "made twice, first at leaf 0" in faults(ours([record(0, kind="decision"), twice]), "completeness")[0]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ({"kind": "log.recover", "last": 1}, None),
        ({"kind": "log.recover", "last": 2}, "states `2` as the last number of writer `n1.w0` epoch `1`, the records before it say `1`"),
        ({"kind": "log.recover", "last": 0}, "the records before it say `1`"),
        ({"kind": "log.lost", "from": 2, "to": 5}, None),
        ({"kind": "log.lost", "from": 3, "to": 5}, "from number `3`, the records before it say `2`"),
        ({"kind": "log.lost", "from": 1, "to": 5}, "from number `1`, the records before it say `2`"),
        ({"kind": "log.lost", "from": 1, "to": "unknown"}, "from number `1`, the records before it say `2`"),
    ],
)
def test_a_statement_about_a_writers_end_must_go_on_where_its_records_end(statement, said):
    end = record(0, node="rec", **statement)
    verdict = ours([record(0), record(1), {**end, "node": "n1.w0", "epoch": 1}])
    failed = [fault.message for fault in verdict.completeness.faults if fault.grade is Grade.FAILED]
    assert (verdict.exit_code == 1) == (said is not None)
    assert said is None or said in failed[0]


def test_an_end_is_stated_once():
    end = {**record(0, node="rec", kind="log.recover"), "node": "n1.w0", "epoch": 1, "last": 0}
    again = {**end, "writer": {"node": "rec", "epoch": 1, "seq": 1}}
    assert ours([record(0), end]).exit_code == 0
    assert "stated twice" in faults(ours([record(0), end, again]), "completeness")[0]


def test_a_writer_of_which_nothing_arrived_cannot_have_ended_at_a_number():
    end = {**record(0, node="rec", kind="log.recover"), "node": "ghost", "epoch": 9, "last": 41}
    assert ours([end]).exit_code == 1
    assert ours([{**end, "last": -1}]).exit_code == 0


def test_a_close_states_its_own_number():
    assert ours([record(0), {**record(1, kind="writer.close"), "last_seq": 1}]).exit_code == 0
    assert ours([record(0), {**record(1, kind="writer.close"), "last_seq": 7}]).exit_code == 1


def test_silence_that_a_writer_lived_through_is_reported():
    """The heartbeats of a quiet log were cut out, or never written."""
    first, second = record(0), {**record(1), "mono_ns": 600 * 10**9, "time": "2026-11-20T10:10:00.000000Z"}
    verdict = ours([first, second])
    assert verdict.exit_code == 3
    assert faults(verdict, "completeness") == ["no record, and no heartbeat, for 600 s before this leaf"]


def test_a_machine_that_is_up_for_104_days_goes_on_writing_and_is_not_taken_for_silent():
    """Past 2**53 ns a record's reading begins anew."""
    late = {**record(0), "mono_ns": told_mono_ns(2**53 - 1)}
    assert ours([late, {**record(1), "mono_ns": told_mono_ns(2**53 + 10**9)}]).exit_code == 0
    verdict = ours([late, {**record(1), "mono_ns": told_mono_ns(2**53 + 600 * 10**9)}])
    assert faults(verdict, "completeness") == ["no record, and no heartbeat, for 600 s before this leaf"]
    clock = Clock("b", mono_ns=lambda: 2**53 + 5)
    assert parse(render({**statement("log.heartbeat", clock.moment(), actor_id="c"), "writer": {}}))["mono_ns"] == 5


def test_a_stop_between_closed_epochs_is_no_silence():
    close = record(1, kind="writer.close")
    again = {**record(0, epoch=2), "mono_ns": 10**15}
    assert ours([record(0), close, again]).exit_code == 0


def test_a_clock_that_goes_back_is_noted_never_rejected():
    verdict = ours([record(0), {**record(1), "time": "2026-11-20T09:00:00.000000Z"}])
    assert verdict.exit_code == 0
    assert "went back 1 times" in verdict.completeness.notes[0]


# ---- sources --------------------------------------------------------------------------------------------------------------------------


def test_a_directory_is_read_and_verified(tmp_path):
    write_files(tmp_path, honest())
    assert verify_log(open_directory(tmp_path), KEYS, None, WITNESSES).exit_code == 0


@pytest.mark.parametrize("victim", ["checkpoint", "tile/entries/000", "tile/0/001", "tile/0", "tile"])
def test_a_link_is_refused_wherever_it_is(tmp_path, victim):
    log = write_files(tmp_path / "log", honest())
    (log / victim).rename(tmp_path / "elsewhere")
    (log / victim).symlink_to(tmp_path / "elsewhere")
    verdict = verify_log(open_directory(log), KEYS, None, WITNESSES)
    assert verdict.exit_code == 1
    assert any("link" in fault.message for one in verdict.checks for fault in one.faults)


def test_an_over_long_file_a_pipe_and_a_folder_are_refused(tmp_path):
    log = write_files(tmp_path, honest())
    with (log / "tile/0/001").open("r+b") as file:
        file.truncate(10**12)
    (log / "tile/0/000").unlink()
    os.mkfifo(log / "tile/0/000")
    (log / "tile/0/002.p/88").unlink()
    (log / "tile/0/002.p/88").mkdir()
    source = DirectorySource(log)
    for path in ("tile/0/000", "tile/0/001", "tile/0/002.p/88"):
        with pytest.raises(SourceError):
            source.read(path)
    assert verify_log(open_directory(log), KEYS, None, WITNESSES).exit_code == 1


@pytest.mark.parametrize("path", ["../checkpoint", "tile/../checkpoint", "/etc/passwd", "tile/0/x000/001", "tile", "", "log/checkpoint"])
def test_only_paths_of_a_log_are_read(tmp_path, path):
    write_files(tmp_path / "inner", honest(5))
    (tmp_path / "checkpoint").write_text("outside")
    with pytest.raises(SourceError):
        DirectorySource(tmp_path / "inner").read(path)


def _range_file(path, entries, start=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE leaf (idx INTEGER PRIMARY KEY, node TEXT, epoch INTEGER, seq INTEGER, bytes BLOB)")
    connection.executemany("INSERT INTO leaf VALUES (?, 'n', 1, ?, ?)", [(start + at, at, entry) for at, entry in enumerate(entries)])
    connection.commit()
    connection.close()


@pytest.mark.parametrize("bundled", [0, 256, 512])
def test_a_live_data_directory_gives_its_last_entries_from_rows(tmp_path, bundled):
    entries = leaves(700)
    files = log_files(entries, witnesses=[WITNESS_KEY])
    kept = {path: data for path, data in files.items() if not path.startswith("tile/entries") or parse_path(path).index < bundled // 256}
    write_files(tmp_path / "log", kept)
    _range_file(tmp_path / "ranges" / "00000000.sqlite", entries)
    verdict = verify_log(open_directory(tmp_path), KEYS, None, WITNESSES)
    assert verdict.exit_code == 0, verdict.document()
    assert open_directory(tmp_path).entry(699, 700) == entries[699]


def test_an_edited_row_is_found_and_a_deleted_one_too(tmp_path):
    entries = leaves(700)
    write_files(tmp_path / "log", {path: data for path, data in log_files(entries).items() if "entries" not in path})
    _range_file(tmp_path / "ranges" / "00000000.sqlite", entries)
    connection = sqlite3.connect(tmp_path / "ranges" / "00000000.sqlite")
    connection.execute("UPDATE leaf SET bytes = ? WHERE idx = 600", (render(record(600, tenant="mallory")),))
    connection.commit()
    assert verify_log(open_directory(tmp_path), KEYS).first_bad_index == 600
    connection.execute("DELETE FROM leaf WHERE idx = 100")
    connection.commit()
    connection.close()
    verdict = verify_log(open_directory(tmp_path), KEYS)
    assert verdict.exit_code == 1
    assert "missing" in faults(verdict, "chain")[0]


@pytest.mark.parametrize("sql", ["CREATE VIEW leaf AS SELECT 1 AS idx, x'00' AS bytes", "CREATE TABLE other (a)"])
def test_a_hostile_range_file_is_refused(tmp_path, sql):
    (tmp_path / "ranges").mkdir()
    path = tmp_path / "ranges" / "00000000.sqlite"
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()
    with pytest.raises(SourceError, match="no table"):
        RangeRows(path.parent).read(0, 1)
    path.write_bytes(b"not a database, but long enough to be looked at" * 50)
    with pytest.raises(SourceError, match="SQLite"):
        RangeRows(path.parent).read(0, 1)


def _client(handler):
    return httpx.Client(transport=httpx.MockTransport(handler))


def test_a_log_behind_a_url_is_verified():
    files = honest()

    def answer(request):
        data = files.get(request.url.path.removeprefix("/some/log/"))
        return httpx.Response(404) if data is None else httpx.Response(200, content=data)

    with _client(answer) as client:
        source = LogSource(HttpSource("http://log.example/some/log/", client))
        assert verify_log(source, KEYS, None, WITNESSES).exit_code == 0


@pytest.mark.parametrize(
    ("reply", "exit_code"),
    [
        (lambda: httpx.Response(403), 3),
        (lambda: httpx.Response(500), 3),
        (lambda: httpx.Response(302, headers={"location": "http://elsewhere/"}), 3),
        (lambda: httpx.Response(404), 1),
        (lambda: httpx.Response(200, content=b"x" * 1_000_001), 1),
    ],
)
def test_a_server_that_does_not_give_the_head_is_graded_by_why(reply, exit_code):
    with _client(lambda _: reply()) as client:
        assert verify_log(LogSource(HttpSource("http://log.example", client)), KEYS).exit_code == exit_code


def test_entries_that_need_a_role_leave_the_log_unproven_not_failed():
    files = honest()
    with _client(
        lambda request: httpx.Response(403) if "entries" in request.url.path else httpx.Response(200, content=files[request.url.path[1:]])
    ) as client:
        verdict = verify_log(LogSource(HttpSource("http://log.example", client)), KEYS, None, WITNESSES)
    assert verdict.exit_code == 3
    assert "answered 403" in faults(verdict, "chain")[0]


def test_a_bundle_that_claims_more_than_it_holds_is_refused():
    entries = leaves(300)
    files = log_files(entries, witnesses=[WITNESS_KEY])
    files["tile/entries/001.p/44"] = encode_bundle(entries[256:299]) + b"\xff\xff"
    verdict = check(files)
    assert verdict.exit_code == 1
    assert verdict.chain.faults[0].path == "tile/entries/001.p/44"


def test_the_edge_of_the_scan_is_the_edge_the_writer_has():
    entries = leaves(300)
    assert HashTiles().append(leaf_hashes(entries))[0].root() == check(log_files(entries)).root
