"""The end of a gateway: the last head waits for the recorder's close, for a bounded time, and for no other writer's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from audit.leaf import render
from audit.statements import Clock, machine_boot_id, statement
from audit.store.opening import open_leaves
from gateway.processes import parting


@pytest.mark.parametrize(
    ("written", "from_index", "came"),
    [
        (["n1.recorder"], 0, True),
        (["n1.w0", "n1.recorder"], 1, True),
        (["n1.w0", "n2.recorder"], 0, False),
        (["n1.recorder"], 1, False),
        ([], 0, False),
    ],
)
def test_the_close_of_this_recorder_is_waited_for_and_no_other(tmp_path, written, from_index, came):
    clock = Clock(machine_boot_id())
    store = open_leaves(tmp_path)
    for node in written:
        record = statement("writer.close", clock.moment(), actor_id="x", last_seq=0)
        record["writer"] = {"node": node, "epoch": 1, "seq": 0}
        store.stage((node, 1), 0, [render(record)], ends=(node, 1))
        store.commit()
    store.close()
    wait_s = 30.0 if came else 0.05
    assert asyncio.run(parting.await_close(tmp_path, "n1.recorder", from_index, wait_s)) is came


def test_the_end_is_announced_until_the_controller_has_parted(tmp_path: Path):
    assert not parting.is_announced(tmp_path)
    assert parting.announce(tmp_path)
    assert parting.is_announced(tmp_path)
    parting.withdraw(tmp_path)
    parting.withdraw(tmp_path)
    assert not parting.is_announced(tmp_path)
    assert not parting.announce(tmp_path / "missing"), "a disk that takes no file: nobody waits"
