"""A log as the store and the publisher write it, verified from its data directory in every state of sealing, and while it grows."""

from __future__ import annotations

import pytest
from log_maker import LOG_KEY, leaves

from audit.publisher import Publisher
from audit.source import open_directory
from audit.store.control import ControlStore
from audit.store.leaves import LeafStore
from audit.verify import verify_log

ENTRIES = leaves(66_500)
KEYS = [LOG_KEY.verifier]


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A log of one full range and the beginning of a second; (directory, publisher, an early checkpoint)."""
    directory = tmp_path_factory.mktemp("data")
    store, control = LeafStore.open(directory), ControlStore.open(directory)
    control.lead("n1.controller", 1)
    publisher, early = Publisher.open(directory, control, [LOG_KEY]), b""
    for at in range(0, len(ENTRIES), 9500):
        store.stage(("n1.w0", 1), at, ENTRIES[at : at + 9500])
        store.commit()
        publisher.publish_once()
        early = early or (directory / "log" / "checkpoint").read_bytes()
    yield directory, publisher, early
    store.close()
    control.close()


def verdict_of(directory, early):
    verdict = verify_log(open_directory(directory), KEYS, early)
    assert verdict.exit_code == 0, verdict.document()
    assert verdict.records == len(ENTRIES)
    return verdict


def test_a_log_in_every_state_of_sealing_verifies_from_an_early_head(grown):
    directory, publisher, early = grown
    verdict_of(directory, early)
    publisher.seal_some(100)
    verdict_of(directory, early)
    while publisher.seal_some():
        pass
    verdict_of(directory, early)
    publisher.remove_range_database(0)
    assert verdict_of(directory, early).independence.summary == "the log extends the kept head of size 9500"
