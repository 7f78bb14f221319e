"""A log that follows another: the link is in its first words, and who verifies one verifies both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from log_maker import LOG_KEY, ORIGIN, leaves, log_files, record, write_files

from audit.earlier import verify_earlier
from audit.keys import SigningKey
from audit.leaf import render
from audit.lineage import Link, LinkError, link_to
from audit.source import open_directory
from audit.verdict import Verdict
from audit.verify import verify_log
from gateway.config.gateway_file import Follows
from gateway.control.beginning import CannotBegin, beginning, read_previous

OLD_KEY = SigningKey.generate("log.example/old", seed=b"o" * 32)
THIEF = SigningKey.generate("log.example/old", seed=b"t" * 32)
OLD = leaves(300)


def old_head(size: int = 300, key: SigningKey = OLD_KEY) -> bytes:
    return log_files(OLD[:size], key=key)["checkpoint"]


def new_log(folder: Path, *opens: dict) -> Verdict:
    """Verify a log whose first leaves are these `log.open` records."""
    entries = [render(record(seq, kind="log.open", node="n1.controller") | one) for seq, one in enumerate(opens)]
    return verify_log(open_directory(write_files(folder / "new", log_files([*entries, *leaves(20)]))), [LOG_KEY.verifier])


def followed(folder: Path, size: int = 300, **changed: object) -> Verdict:
    return new_log(folder, {"origin": ORIGIN, "previous": link_to(old_head(size), OLD_KEY.verifier, new_origin=ORIGIN) | changed})


def link_of(folder: Path, size: int = 300) -> Link:
    link = followed(folder, size).link
    assert link is not None
    return link


def old_log(folder: Path, size: int = 300, *, entries: list[bytes] | None = None):
    return open_directory(write_files(folder / "old", log_files((entries or OLD)[:size], key=OLD_KEY)))


def test_the_link_is_told_by_the_verification_of_the_new_log(tmp_path):
    verdict = followed(tmp_path)
    assert verdict.exit_code == 3, "freshness alone is unproven"
    assert verdict.completeness.grade == "ok"
    assert (verdict.link.origin, verdict.link.size, verdict.link.index) == ("log.example/old", 300, 0)
    assert any("follows `log.example/old` from its size 300" in note for note in verdict.completeness.notes)
    assert verdict.document()["follows"]["checkpoint"] == old_head().decode()


def test_a_log_that_follows_none_and_one_of_an_earlier_release_have_no_link(tmp_path):
    assert new_log(tmp_path, {"origin": ORIGIN}).link is None
    assert new_log(tmp_path / "earlier").document()["follows"] is None


@pytest.mark.parametrize(
    ("opens", "said"),
    [
        ([{"origin": ORIGIN}, {"origin": ORIGIN}], "opens twice"),
        ([{"origin": "log.example/else"}], "is of origin"),
        ([{"origin": ORIGIN, "previous": {"origin": "x"}}], "not which"),
        ([{"origin": ORIGIN, "previous": 7}], "not which"),
    ],
)
def test_what_a_log_says_of_its_beginning_has_to_hold_together(tmp_path, opens, said):
    verdict = new_log(tmp_path, *opens)
    assert verdict.exit_code == 1
    assert said in verdict.completeness.faults[0].message


def test_an_old_log_that_extends_the_linked_head_verifies_with_it(tmp_path):
    for size in (300, 250, 1):
        verdict = verify_earlier(link_of(tmp_path / str(size), size), old_log(tmp_path / str(size)), [OLD_KEY.verifier])
        assert (verdict.exit_code, verdict.size) == (0, 300), verdict.document()
        assert "extends the kept head" in verdict.independence.summary


def test_an_old_log_that_ends_before_the_linked_head_is_incomplete_and_the_loss_is_counted(tmp_path):
    verdict = verify_earlier(link_of(tmp_path), old_log(tmp_path, 280), [OLD_KEY.verifier])
    assert verdict.exit_code == 3
    assert "20 records are missing: this copy ends at `280`" in [fault.message for fault in verdict.completeness.faults][-1]


def test_an_old_log_rewritten_under_its_own_key_does_not_extend_the_linked_head(tmp_path):
    rewritten = [*OLD[:7], render(record(7, note="another")), *OLD[8:]]
    verdict = verify_earlier(link_of(tmp_path, 200), old_log(tmp_path, entries=rewritten), [OLD_KEY.verifier])
    assert verdict.exit_code == 1
    assert "rewritten" in verdict.independence.faults[0].message


def test_a_link_that_the_old_key_did_not_sign_links_nothing(tmp_path):
    forged = dataclasses.replace(link_of(tmp_path), checkpoint=old_head(key=THIEF).decode())
    verdict = verify_earlier(forged, old_log(tmp_path), [OLD_KEY.verifier])
    assert verdict.exit_code == 1
    assert any("none of this one" in fault.message for fault in verdict.independence.faults)


# ---- how it begins


def test_a_new_log_says_once_how_it_begins():
    previous = {"origin": "log.example/old", "size": 3}
    assert beginning(None, has_begun=False, origin=ORIGIN, previous=None) == {"origin": ORIGIN}
    assert beginning(None, has_begun=False, origin=ORIGIN, previous=previous) == {"origin": ORIGIN, "previous": previous}
    assert beginning({"origin": ORIGIN}, has_begun=False, origin=ORIGIN, previous=None) is None
    assert beginning({"origin": ORIGIN, "previous": previous}, has_begun=True, origin=ORIGIN, previous=previous) is None
    assert beginning(None, has_begun=True, origin=ORIGIN, previous=None) is None, "a log of an earlier release"


@pytest.mark.parametrize("opened", [None, {"origin": ORIGIN}, {"origin": ORIGIN, "previous": {"origin": "log.example/old", "size": 2}}])
def test_a_log_does_not_find_itself_a_past_afterwards(opened):
    with pytest.raises(CannotBegin, match="has begun without following"):
        beginning(opened, has_begun=True, origin=ORIGIN, previous={"origin": "log.example/old", "size": 3})


def test_what_cannot_be_followed_is_refused_in_words(tmp_path):
    path = tmp_path / "former.checkpoint"
    follows = Follows(checkpoint=str(path), key=str(OLD_KEY.verifier))
    assert read_previous(None, path, origin=ORIGIN) is None
    with pytest.raises(CannotBegin, match="cannot be read"):
        read_previous(follows, path, origin=ORIGIN)
    path.write_bytes(old_head(key=THIEF))
    with pytest.raises(CannotBegin, match="no known key signed"):
        read_previous(follows, path, origin=ORIGIN)
    path.write_bytes(old_head())
    assert read_previous(follows, path, origin=ORIGIN)["size"] == 300  # type: ignore[index]
    with pytest.raises(LinkError, match="both logs are named"):
        link_to(old_head(), OLD_KEY.verifier, new_origin="log.example/old")
