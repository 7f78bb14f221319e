"""Completeness of Assay records: what a Merkle tree cannot show, because a record that was never appended leaves no trace in it.

Every record carries `writer{node, epoch, seq}`, and `seq` counts without gaps within (node, epoch). So one pass over the leaves, in order, finds:

- numbers that are missing, and those that the log itself states as lost (`log.lost`);
- one number used twice, or used after its writer closed;
- an epoch that never ended although its node opened a later one, or whose end is stated twice;
- a statement about a writer's end (`writer.close`, `log.recover`, `log.lost`) whose numbers are not those of the records before it;
- a `decision` whose `outcome` never came, and an `outcome` that ends no open decision: a second one, or one of a decision never made;
- silence: a span longer than three heartbeats through which some writer lived.

Example:
    >>> account = Account()
    >>> account.add(0, {"type": "call", "time": "2026-01-01T00:00:00.000000Z", "writer": {"node": "n", "epoch": 1, "seq": 1}})
    >>> [finding.message for finding in account.findings()]
    ['writer `n` epoch `1`: number `0` is missing']
"""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from audit.statements import seconds_between

SILENCE_LIMIT_S: Final = 30.0
"""Three heartbeats of 10 s."""
OUTCOME_LIMIT_S: Final = 300.0
BACKWARDS_LIMIT_S: Final = 5.0
ENDED_REMEMBERED: Final = 65_536
"""Decisions that ended are remembered so far back, only to word a finding: a second `outcome` is found however late it comes."""
MISSING_REMEMBERED: Final = 65_536
"""Missing numbers of one writer that are remembered one by one."""

_STATEMENTS: Final = frozenset({"log.lost", "log.recover"})


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found: at which leaf, if at one; whether it is a contradiction (worse than something missing)."""

    message: str
    index: int | None = None
    is_contradiction: bool = False


@dataclass(slots=True)
class _Silence:
    index: int
    seconds: float
    was_lived_through: bool = False  # set when a writer that was open before it writes again


@dataclass(slots=True)
class _Epoch:
    """One (node, epoch); owned by its `Account`."""

    next_seq: int = 0
    is_ended: bool = False
    last_index: int = 0
    missing: set[int] = field(default_factory=set)
    """One by one, so that a late one is found; at most `MISSING_REMEMBERED`."""
    wide_gaps: list[tuple[int, int]] = field(default_factory=list)
    silences: list[_Silence] = field(default_factory=list)


class Account:
    """The running account over leaves in order. Every attribute is changed by `add` alone."""

    def __init__(self) -> None:
        """Start before the first leaf."""
        self.counted = 0
        self.lost = 0
        self.clock_steps: list[int] = []
        self._epochs: dict[tuple[str, int], _Epoch] = {}
        self._newest: dict[str, int] = {}
        self._superseded: list[tuple[str, int]] = []
        self._decisions: dict[str, tuple[int, str]] = {}  # open ones: (leaf, time) by id
        self._ended: OrderedDict[str, int] = OrderedDict()  # leaf of the outcome by decision id, the latest `ENDED_REMEMBERED`
        self._silences: list[_Silence] = []
        self._stated: list[Finding] = []
        self._contradictions: list[Finding] = []
        self._before: tuple[str, str | None, int] | None = None
        self._latest = ""

    @property
    def open_epochs(self) -> int:
        """Return how many writers had not ended at the last leaf: the tails of these are not bounded."""
        return sum(not epoch.is_ended for epoch in self._epochs.values())

    @property
    def latest(self) -> str:
        """Return the `time` of the last leaf, empty before the first."""
        return self._latest

    def add(self, index: int, record: dict[str, Any]) -> None:
        """Account for one record. Its `type`, `time` and `writer` must have been found well-formed."""
        self.counted += 1
        kind, writer = record["type"], record["writer"]
        key = (writer["node"], writer["epoch"])
        epoch = self._epochs.get(key)
        self._pass_of_time(index, record)
        if epoch is None:
            epoch = self._begin(key)
        self._number(index, key, epoch, writer["seq"])
        if epoch.silences:
            for silence in epoch.silences:
                silence.was_lived_through = True
            epoch.silences.clear()
        if kind == "decision":
            self._decide(index, record)
        elif kind == "outcome":
            self._end_decision(index, record)
        elif kind == "writer.close":
            self._close(index, key, epoch, record)
        elif kind in _STATEMENTS:
            self._state(index, kind, record)

    def findings(self) -> Iterator[Finding]:
        """Give what was found, contradictions first."""
        yield from self._contradictions
        yield from self._stated
        for (node, number), epoch in self._epochs.items():
            for first, last in _spans(epoch):
                what = f"number `{first}` is" if first == last else f"numbers `{first}` to `{last}` are"
                yield Finding(f"writer `{node}` epoch `{number}`: {what} missing", epoch.last_index)
        for node, number in self._superseded:
            epoch = self._epochs[node, number]
            if not epoch.is_ended:
                yield Finding(f"writer `{node}` epoch `{number}` never ended, though a later epoch began", epoch.last_index)
        for index, time in self._decisions.values():
            if _seconds(time, self._latest) > OUTCOME_LIMIT_S:
                yield Finding("decision without outcome", index)
        for silence in self._silences:
            if silence.was_lived_through:
                yield Finding(f"no record, and no heartbeat, for {silence.seconds:.0f} s before this leaf", silence.index)

    def in_flight(self) -> int:
        """Return how many decisions are younger than the outcome limit and have no outcome yet."""
        return sum(_seconds(time, self._latest) <= OUTCOME_LIMIT_S for _, time in self._decisions.values())

    def _begin(self, key: tuple[str, int]) -> _Epoch:
        node, number = key
        epoch = self._epochs[key] = _Epoch()
        previous = self._newest.get(node)
        if previous is not None and not self._epochs[node, previous].is_ended:
            self._superseded.append((node, previous))
        self._newest[node] = number
        return epoch

    def _decide(self, index: int, record: dict[str, Any]) -> None:
        if record["id"] in self._decisions:
            self._contradict(f"decision `{record['id']}` is made twice, first at leaf {self._decisions[record['id']][0]}", index)
        self._decisions[record["id"]] = (index, record["time"])

    def _end_decision(self, index: int, record: dict[str, Any]) -> None:
        """Match an outcome with the one open decision it names: `decision` is committed first, by the same writer, so none can be missing."""
        parents = record.get("parents") or ("",)
        for parent in parents:
            if self._decisions.pop(parent, None) is not None:
                self._ended[parent] = index
                if len(self._ended) > ENDED_REMEMBERED:
                    self._ended.popitem(last=False)
            elif parent in self._ended:
                self._contradict(f"a second outcome of decision `{parent}`; the first is leaf {self._ended[parent]}", index)
            else:
                self._contradict(f"outcome of `{parent}`, which is no open decision of this log", index)

    def _close(self, index: int, key: tuple[str, int], epoch: _Epoch, record: dict[str, Any]) -> None:
        last = record.get("last_seq")
        if isinstance(last, int) and last != record["writer"]["seq"]:
            self._contradict(
                f"writer `{key[0]}` epoch `{key[1]}`: it closes as number `{record['writer']['seq']}` and states `{last}` as its last", index
            )
        epoch.is_ended = True

    def _number(self, index: int, key: tuple[str, int], epoch: _Epoch, seq: int) -> None:
        epoch.last_index = index
        if seq == epoch.next_seq:
            epoch.next_seq = seq + 1
        elif seq > epoch.next_seq:
            if len(epoch.missing) + seq - epoch.next_seq <= MISSING_REMEMBERED:
                epoch.missing.update(range(epoch.next_seq, seq))
            else:  # what no honest log lacks is remembered as a span, not as a million numbers
                epoch.wide_gaps.append((epoch.next_seq, seq - 1))
            epoch.next_seq = seq + 1
        elif seq in epoch.missing:
            epoch.missing.discard(seq)
        else:
            self._contradict(f"writer `{key[0]}` epoch `{key[1]}`: number `{seq}` is used twice", index)
        if epoch.is_ended:
            self._contradict(f"writer `{key[0]}` epoch `{key[1]}`: a record after its end", index)

    def _contradict(self, message: str, index: int) -> None:
        if len(self._contradictions) < 100:
            self._contradictions.append(Finding(message, index, is_contradiction=True))

    def _state(self, index: int, kind: str, record: dict[str, Any]) -> None:
        """Take note of a statement about another writer's end: `log.lost` {node, epoch, from, to} or `log.recover` {node, epoch, last}.

        Whoever states it has read every record of that writer, so its numbers must go on exactly where those records end.
        """
        node, number = record.get("node"), record.get("epoch")
        if not isinstance(node, str) or not isinstance(number, int):
            self._contradict(f"`{kind}` names no writer", index)
            return
        epoch = self._epochs.get((node, number))
        held = -1 if epoch is None else epoch.next_seq - 1
        if epoch is not None:
            if epoch.is_ended:
                self._contradict(f"writer `{node}` epoch `{number}`: its end is stated twice", index)
            epoch.is_ended = True
        if kind == "log.recover":
            self._expect(index, record.get("last", held), held, f"`log.recover` states `{{}}` as the last number of writer `{node}` epoch `{number}`")
            return
        first, last = record.get("from"), record.get("to")
        self._expect(index, first, held + 1, f"`log.lost` states losses of writer `{node}` epoch `{number}` from number `{{}}`")
        if isinstance(first, int) and isinstance(last, int):
            count = max(0, last - first + 1)
            self.lost += count
            text = f"{count} records lost, stated: writer `{node}` epoch `{number}` numbers `{first}` to `{last}`"
        else:
            text = f"an unknown number of records may be lost, stated: writer `{node}` epoch `{number}` from number `{first}`"
        self._stated.append(Finding(text, index))

    def _expect(self, index: int, stated: Any, expected: int, message: str) -> None:
        if stated != expected:
            self._contradict(f"{message.format(stated)}, the records before it say `{expected}`", index)

    def _pass_of_time(self, index: int, record: dict[str, Any]) -> None:
        """Notice silence and clock steps. Within one boot the monotonic clock is believed, otherwise the wall clock."""
        time, boot, mono = record["time"], record.get("boot_id"), record.get("mono_ns", 0)
        before, self._before, self._latest = self._before, (time, boot, mono), time
        if before is None:
            return
        if time < before[0] and _seconds(time, before[0]) > BACKWARDS_LIMIT_S:
            self.clock_steps.append(index)
        gap_s = seconds_between(before[2], mono) if boot is not None and boot == before[1] else _seconds(before[0], time)
        if gap_s > SILENCE_LIMIT_S and len(self._silences) < 1000:
            silence = _Silence(index, gap_s)
            self._silences.append(silence)
            for epoch in self._epochs.values():
                if not epoch.is_ended:
                    epoch.silences.append(silence)


def _seconds(start: str, end: str) -> float:
    """Return the seconds from one RFC 3339 time to another, 0 where one names no day (which the spelling check reports)."""
    try:
        return (dt.datetime.fromisoformat(end) - dt.datetime.fromisoformat(start)).total_seconds()
    except ValueError:
        return 0.0


def _spans(epoch: _Epoch) -> Iterator[tuple[int, int]]:
    """Give the missing numbers as (first, last) spans."""
    yield from epoch.wide_gaps
    first = last = None
    for number in sorted(epoch.missing):
        if last is not None and number == last + 1:
            last = number
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = number
    if first is not None and last is not None:
        yield first, last
