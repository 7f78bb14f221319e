"""What a verification says: four checks, each graded apart, and one exit code.

- `chain`: a known key signed the head, and the entries hash to it.
- `tamper`: every published tile is the one the entries give; every record has its one spelling and the members every record has.
- `completeness`: no writer's numbers are missing, used twice or stated lost; see `audit.sequences`.
- `independence`: the head extends one that was kept, or a witness saw it lately; without either an operator with the key could show an old or
  another log, and freshness is unproven.

Two heads of one size with different roots, both signed, need no judge: `fork_proof` puts them side by side, and anybody with the key can check them.

A check is *ok*, *failed*, or *unproven*. Failed anywhere: exit 1. Else unproven anywhere: exit 3. Else 0.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Final

from audit.lineage import Link
from audit.note import SignedCheckpoint

FINDINGS_LIMIT: Final = 50


class Grade(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing found: what, at which leaf, in which file; `grade` is never OK."""

    grade: Grade
    message: str
    index: int | None = None
    path: str | None = None

    def document(self) -> dict[str, Any]:
        """Return it for JSON, without what does not apply."""
        whole = {"grade": str(self.grade), "message": self.message, "index": self.index, "path": self.path}
        return {key: value for key, value in whole.items() if value is not None}


@dataclass(slots=True)
class Check:
    """One check while it is made; changed by its owner, the verification that runs, until it is handed out."""

    name: str
    summary: str = "not checked"
    is_done: bool = False
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Note a fault; beyond the limit only their number grows, but a first failure is always kept."""
        self.fault_count += 1
        if len(self.faults) < FINDINGS_LIMIT or (fault.grade is Grade.FAILED and self.grade is not Grade.FAILED):
            self.faults.append(fault)

    def fail(self, message: str, *, index: int | None = None, path: str | None = None) -> None:
        """Note a failure."""
        self.add(Fault(Grade.FAILED, message, index, path))

    def doubt(self, message: str, *, index: int | None = None, path: str | None = None) -> None:
        """Note something that is unproven."""
        self.add(Fault(Grade.UNPROVEN, message, index, path))

    def done(self, summary: str) -> None:
        """Say what was checked."""
        self.summary, self.is_done = summary, True

    @property
    def grade(self) -> Grade:
        """Return the worst of the faults; a check that was not made is unproven."""
        if any(fault.grade is Grade.FAILED for fault in self.faults):
            return Grade.FAILED
        return Grade.OK if self.is_done and not self.faults else Grade.UNPROVEN

    @property
    def told(self) -> str:
        """Return its summary; of a check that ended at what it found, that it did, and not that nobody checked."""
        if self.is_done or not self.faults:
            return self.summary
        return f"ended at {'what is' if self.fault_count == 1 else f'{self.fault_count} findings, which are'} told below"

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "grade": str(self.grade),
            "summary": self.told,
            "faults": [fault.document() for fault in self.faults],
            "fault_count": self.fault_count,
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class ForkProof:
    """Two signed notes of one log and one size whose roots differ: whoever holds the key made two histories. Verifies with the key alone."""

    origin: str
    size: int
    roots: tuple[bytes, bytes]
    notes: tuple[bytes, bytes]

    def text(self) -> str:
        """Return it to be printed, mailed and filed: what it proves, then both notes as they were signed."""
        first, second = (note.decode() for note in self.notes)
        said = f"PROOF OF MISBEHAVIOUR: the key of `{self.origin}` signed two different logs of size {self.size}."
        return f"{said}\n\n----- one -----\n{first}----- the other -----\n{second}----- end -----\n"

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "origin": self.origin,
            "size": self.size,
            "roots": [root.hex() for root in self.roots],
            "notes": [note.decode() for note in self.notes],
        }


def fork_proof(one: SignedCheckpoint, other: SignedCheckpoint) -> ForkProof | None:
    """Return the proof that two verified checkpoints contradict each other, None if they do not by themselves.

    Heads of different sizes may contradict each other too; that takes a consistency proof, see `audit.merkle.verify_consistency`.
    """
    first, second = one.checkpoint, other.checkpoint
    if (first.origin, first.size) != (second.origin, second.size) or first.root == second.root:
        return None
    return ForkProof(first.origin, first.size, (first.root, second.root), (one.note.encode(), other.note.encode()))


@dataclass(slots=True)
class Verdict:
    """The outcome of verifying one log. `checkpoint_note` is what an auditor keeps for next time."""

    origin: str = ""
    size: int = 0
    root: bytes = b""
    checkpoint_note: bytes = b""
    leaves_checked: int = 0
    records: int = 0
    opaque: int = 0
    time: str = ""
    misbehaviour: ForkProof | None = None
    link: Link | None = None
    """The earlier log that this one says it follows."""
    chain: Check = field(default_factory=lambda: Check("chain"))
    tamper: Check = field(default_factory=lambda: Check("tamper"))
    completeness: Check = field(default_factory=lambda: Check("completeness"))
    independence: Check = field(default_factory=lambda: Check("independence"))

    @property
    def checks(self) -> tuple[Check, ...]:
        """Return the four checks in the order they are read."""
        return (self.chain, self.tamper, self.completeness, self.independence)

    @property
    def exit_code(self) -> int:
        """Return 0 ok, 1 failed, 3 unproven."""
        grades = {check.grade for check in self.checks}
        return 1 if Grade.FAILED in grades else 3 if Grade.UNPROVEN in grades else 0

    @property
    def first_bad_index(self) -> int | None:
        """Return the lowest leaf index a failure names."""
        named = [fault.index for check in self.checks for fault in check.faults if fault.grade is Grade.FAILED and fault.index is not None]
        return min(named, default=None)

    def document(self) -> dict[str, Any]:
        """Return it for JSON: stable keys, sizes as integers, the root in hexadecimal."""
        return {
            "origin": self.origin,
            "size": self.size,
            "root": self.root.hex(),
            "leaves_checked": self.leaves_checked,
            "records": self.records,
            "opaque": self.opaque,
            "time": self.time,
            "first_bad_index": self.first_bad_index,
            "checks": [check.document() for check in self.checks],
            "misbehaviour": None if self.misbehaviour is None else self.misbehaviour.document(),
            "follows": None if self.link is None else self.link.document(),
            "exit_code": self.exit_code,
        }
