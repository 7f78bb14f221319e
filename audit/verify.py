"""Verify a whole log, offline, trusting nothing but the keys that were given.

Steps of `verify_log`:

0. (The caller has the log's key from elsewhere. A key found beside the log proves that the log is whole, not whose it is.)
1. Read the checkpoint; a given key must have signed it.
2. Read every entry in order; hash them to the root; compare every published tile on the way.
3. Where something differs, find out which file is wrong: the entry, the tile, or everything together.
4. Check every record of ours: spelling, members, writer sequence. Entries that are not ours are bytes, and counted as such.
5. Compare with what was kept or seen outside of the log (`audit/independence.py`).

Any C2SP tlog-tiles log can be verified; steps 4's checks then find nothing that is ours. One pass, memory independent of the size of the log
but for the writers and calls that are open.

Example:
    verdict = verify_log(open_directory(Path("data")), [VerifierKey.parse(text)])
    sys.exit(verdict.exit_code)
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from audit.independence import FRESHNESS_LIMIT_S, Kept, judge_independence
from audit.keyring import LogKey
from audit.keys import VerifierKey
from audit.leaf import LeafError, parse
from audit.lineage import read_link
from audit.merkle import HASH_BYTES, ProofError, inclusion_proof, leaf_hashes, verify_inclusion
from audit.note import NoteError, SignedCheckpoint, open_checkpoint
from audit.sequences import Account
from audit.source import CHECKPOINT, LogSource, SourceError
from audit.tiles import TILE_BYTES, WIDTH, HashTiles, TileError, TileReader, entries_path, read_tile, tile_path, tile_root
from audit.verdict import FINDINGS_LIMIT, Check, Verdict

Progress = Callable[[int, int], None]
"""(leaves checked, leaves in all), about every 4,096 leaves."""

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_RECORD_VERSION: Final = 1


def verify_log(
    source: LogSource,
    verifier_keys: Sequence[LogKey],
    known_checkpoint: bytes | None = None,
    witnesses: Sequence[VerifierKey] = (),
    progress: Progress | None = None,
    *,
    now_s: int | None = None,
    freshness_limit_s: int = FRESHNESS_LIMIT_S,
    origin: str | None = None,
) -> Verdict:
    """Verify the log behind `source`.

    Args:
        source: See `audit.source`.
        verifier_keys: Keys of the log, with or without bounds; one of them must have signed the checkpoint.
        known_checkpoint: A checkpoint of this log kept from earlier, as the note it was.
        witnesses: Keys whose cosignature of the checkpoint proves that it was shown to others.
        progress: Called now and then.
        now_s: POSIX seconds; the age of cosignatures is judged by it. By default this machine's clock.
        freshness_limit_s: A cosignature older than this leaves freshness unproven.
        origin: Origin of the log where it is not the name of its key.

    Returns:
        The verdict. Everything that can be wrong with a log is in it; nothing is raised for a bad log.
    """
    verdict = Verdict()
    head = _open_head(source, verifier_keys, witnesses, origin, verdict)
    if head is None:
        return verdict
    known = _open_known(known_checkpoint, verifier_keys, origin, verdict) if known_checkpoint is not None else None
    scan = _Scan(source, head, known, verdict)
    scan.run(progress)
    kept = None if known is None else Kept(known, scan.known_root)
    judge_independence(head, kept, witnesses, verdict, now_s=int(time.time()) if now_s is None else now_s, freshness_limit_s=freshness_limit_s)
    return verdict


def _open_head(
    source: LogSource, keys: Sequence[LogKey], witnesses: Sequence[VerifierKey], origin: str | None, verdict: Verdict
) -> SignedCheckpoint | None:
    """Step 1."""
    try:
        data = source.read(CHECKPOINT)
    except SourceError as error:
        _blame(verdict.chain, error)
        return None
    if data is None:
        verdict.chain.fail("the log has no checkpoint", path=CHECKPOINT)
        return None
    try:
        head = open_checkpoint(data, keys, witnesses, origin=origin)
    except NoteError as error:
        verdict.chain.fail(str(error), path=CHECKPOINT)
        return None
    verdict.origin, verdict.size, verdict.root = head.checkpoint.origin, head.checkpoint.size, head.checkpoint.root
    verdict.checkpoint_note = data
    return head


def _open_known(data: bytes, keys: Sequence[LogKey], origin: str | None, verdict: Verdict) -> SignedCheckpoint | None:
    """Open the kept checkpoint. One that this log's key did not sign is no evidence and fails the check that was asked for."""
    try:
        return open_checkpoint(data, keys, origin=origin)
    except NoteError as error:
        verdict.independence.fail(f"the kept checkpoint is not one of this log: {error}")
        return None


def _blame(check: Check, error: SourceError | TileError, *, index: int | None = None) -> None:
    """Grade what could not be read: failed where the log serves what it must not, unproven where it could not be reached."""
    if isinstance(error, SourceError) and not error.is_refused:
        check.doubt(str(error), index=index, path=error.path)
    else:
        check.fail(str(error), index=index, path=error.path)


@dataclass(frozen=True, slots=True)
class _Difference:
    """A published tile that is not what the entries give: the first leaf below it that differs, and the hash it publishes there."""

    level: int
    index: int
    path: str
    published: bytes


class _Scan:
    """One pass over the entries (steps 2 to 4). Every attribute is changed by `run` and what it calls."""

    def __init__(self, source: LogSource, head: SignedCheckpoint, known: SignedCheckpoint | None, verdict: Verdict) -> None:
        self._source = source
        self._head = head.checkpoint
        self._known_size = known.checkpoint.size if known else -1
        self._verdict = verdict
        self._edge: list[bytes] = [b""]  # hashes of the unfinished tile of each level, as the entries give them
        self._differences: list[_Difference] = []  # where a published tile is not what the entries give: one for each tile
        self._account = Account()
        self._opened_at: int | None = None  # the leaf that opens the log
        self.known_root: bytes | None = None  # root of the first `known` leaves, as the entries give it

    def run(self, progress: Progress | None) -> None:
        """Read everything, then judge."""
        verdict, size = self._verdict, self._head.size
        if self._known_size == 0:
            self.known_root = HashTiles().root()
        bundles = self._source.bundles(size)
        while verdict.leaves_checked < size:
            start = verdict.leaves_checked
            try:
                _, entries = next(bundles)
            except (SourceError, TileError) as error:
                _blame(verdict.chain, error, index=start)
                break
            if entries is None:
                path = entries_path(start // WIDTH, min(WIDTH, size - start))
                verdict.chain.fail("entries are missing, in files and in rows", index=start, path=path)
                break
            self._take(start, entries)
            if progress is not None and verdict.leaves_checked % 4096 < WIDTH:
                progress(verdict.leaves_checked, size)
        self._finish()

    def _take(self, start: int, entries: list[bytes]) -> None:
        hashes = leaf_hashes(entries)
        if start < self._known_size <= start + len(entries):
            self.known_root = self._tiles(start).append(hashes[: self._known_size - start])[0].root()
        self._hash(0, start // WIDTH, b"".join(hashes))
        for offset, entry in enumerate(entries):
            self._record(start + offset, entry)
        self._verdict.leaves_checked = start + len(entries)

    def _tiles(self, size: int) -> HashTiles:
        levels = -(-size.bit_length() // 8)
        return HashTiles(size, tuple(self._edge[:levels]))

    def _hash(self, level: int, index: int, tile: bytes) -> None:
        """Compare one whole tile of `level` with the published one and hand its root upwards; keep an unfinished one."""
        self._compare(level, index, tile)
        if len(tile) < TILE_BYTES:
            self._edge[level] = tile
            return
        self._edge[level] = b""
        if level + 1 == len(self._edge):
            self._edge.append(b"")
        grown = self._edge[level + 1] + tile_root(tile)
        self._edge[level + 1] = grown
        if len(grown) == TILE_BYTES:
            self._hash(level + 1, index // WIDTH, grown)

    def _compare(self, level: int, index: int, tile: bytes) -> None:
        width = len(tile) // HASH_BYTES
        try:
            published = read_tile(self._source.read, level, index, width)
        except (SourceError, TileError) as error:
            _blame(self._verdict.tamper, error, index=(index * WIDTH) << (8 * level))
            return
        if published == tile:
            return
        at = next(at for at in range(width) if published[at * 32 : at * 32 + 32] != tile[at * 32 : at * 32 + 32])
        if len(self._differences) < FINDINGS_LIMIT:
            first = (index * WIDTH + at) << (8 * level)
            self._differences.append(_Difference(level, first, tile_path(level, index, width), published[at * 32 : at * 32 + 32]))

    def _finish(self) -> None:
        verdict, size = self._verdict, self._head.size
        verdict.records = self._account.counted
        verdict.time = self._account.latest
        if verdict.leaves_checked < size:
            self._report_tiles()
            return
        for level in range(1, len(self._edge)):
            if self._edge[level]:
                self._compare(level, size >> (8 * (level + 1)), self._edge[level])
        if self._tiles(size).root() == self._head.root:
            verdict.chain.done(f"{size} entries hash to the signed root")
            self._report_tiles()
        else:
            self._find_culprits()
        bad = verdict.tamper.fault_count
        agree = f"every tile is what the entries give; {verdict.records} records have their one spelling"
        verdict.tamper.done(f"{bad} files or records are not as they must be" if bad else agree)
        _judge_completeness(self._account, verdict)

    def _report_tiles(self) -> None:
        """The entries are right, or all there is to compare with: the tiles that differ from them are wrong."""
        for one in self._differences:
            message = "differs from what the entries hash to" if one.level == 0 else f"differs from the tiles of level `{one.level - 1}`"
            self._verdict.tamper.fail(f"tile {message}", index=one.index, path=one.path)

    def _find_culprits(self) -> None:
        """Step 3: the entries do not give the signed root."""
        chain, size, root = self._verdict.chain, self._head.size, self._head.root
        leaves = [one for one in self._differences if one.level == 0]
        if not leaves:
            chain.fail("entries and tiles agree with each other, but not with the signed root: all was recomputed, or the head is another log's")
        reader = TileReader(self._source.read, size)
        for one in leaves:
            number = one.index // WIDTH
            path = entries_path(number, min(WIDTH, size - number * WIDTH))
            try:
                verify_inclusion(one.index, size, one.published, inclusion_proof(one.index, size, reader.hash_at), root)
            except (ProofError, TileError, SourceError):
                chain.fail("entries do not hash to the signed root; entry and tile differ first at this leaf", index=one.index, path=path)
            else:
                chain.fail("entry was changed: the signed root proves another one at this leaf", index=one.index, path=path)

    def _record(self, index: int, entry: bytes) -> None:
        """Step 4 for one entry."""
        if not (entry[:1] == b"{" and b'"writer":{' in entry):
            self._opaque(index, entry)
            return
        try:
            record = parse(entry)
        except LeafError as error:
            if _is_ours(_loose(entry)):
                self._verdict.tamper.fail(f"record breaks the leaf profile: {error}", index=index)
            else:
                self._verdict.opaque += 1
            return
        if not _is_ours(record) or record["v"] != _RECORD_VERSION:
            self._verdict.opaque += 1
            return
        fault = _member_fault(record)
        if fault is None:
            self._account.add(index, record)
            if record["type"] == "log.open":
                self._open(index, record)
        else:
            self._verdict.tamper.fail(f"record of type `{record['type'][:40]}`: {fault}", index=index)

    def _open(self, index: int, record: dict[str, Any]) -> None:
        """Take in how the log begins, and which one it follows."""
        check, link = self._verdict.completeness, read_link(index, record)
        if self._opened_at is not None:
            check.fail(f"the log opens twice, first at leaf `{self._opened_at}`", index=index)
        elif record.get("origin") != self._head.origin:
            check.fail(f"`log.open` is of origin `{str(record.get('origin'))[:80]}`, this log is `{self._head.origin}`", index=index)
        elif link is None and "previous" in record:
            check.fail("`log.open` says that the log follows another, and not which", index=index)
        elif link is not None:
            check.notes.append(f"this log follows `{link.origin}` from its size {link.size} on (leaf {index}); verify that one too with `--previous`")
        self._opened_at, self._verdict.link = index, link

    def _opaque(self, index: int, entry: bytes) -> None:
        """Count an entry that is not ours, unless it is one of ours in another spelling."""
        if entry.lstrip()[:1] == b"{" and b"writer" in entry and _is_ours(_loose(entry)):
            self._verdict.tamper.fail("record is not in its canonical spelling", index=index)
        else:
            self._verdict.opaque += 1


def _loose(entry: bytes) -> Any:
    try:
        return orjson.loads(entry)
    except orjson.JSONDecodeError:
        return None


def _is_ours(record: Any) -> bool:
    """Say whether this is one of Assay's records, of whatever version."""
    if type(record) is not dict or type(record.get("v")) is not int or type(record.get("type")) is not str:
        return False
    writer = record.get("writer")
    return type(writer) is dict and "node" in writer and "epoch" in writer and "seq" in writer


def _member_fault(record: dict[str, Any]) -> str | None:
    """Return what is wrong with the members every record has, None when they are as `docs/records.md` says."""
    writer = record["writer"]
    if type(writer["node"]) is not str or type(writer["epoch"]) is not int or type(writer["seq"]) is not int or writer["seq"] < 0:
        return "`writer` is not {node: text, epoch: integer, seq: integer from 0}"
    time = record.get("time")
    if type(time) is not str or _TIME.fullmatch(time) is None:
        return "`time` is not RFC 3339 in UTC with six decimals"
    if type(record.get("mono_ns")) is not int or type(record.get("boot_id")) is not str:
        return "`mono_ns` or `boot_id` is missing"
    if type(record.get("id")) is not str or type(record.get("tenant")) is not str or type(record.get("actor")) is not dict:
        return "`id`, `tenant` or `actor` is missing"
    parents = record.get("parents", [])
    if type(parents) is not list or not all(type(parent) is str for parent in parents):
        return "`parents` is not a list of ids"
    return None


def _judge_completeness(account: Account, verdict: Verdict) -> None:
    check = verdict.completeness
    for finding in account.findings():
        (check.fail if finding.is_contradiction else check.doubt)(finding.message, index=finding.index)
    if verdict.opaque:
        check.notes.append(f"{verdict.opaque} entries are not Assay records of version {_RECORD_VERSION}: only their bytes were checked")
    if account.clock_steps:
        check.notes.append(f"the wall clock went back {len(account.clock_steps)} times, first at leaf {account.clock_steps[0]}; order is by index")
    if account.open_epochs:
        check.notes.append(f"{account.open_epochs} writers are open at this head: what they hold and have not sent yet is not bounded")
    if account.in_flight():
        check.notes.append(f"{account.in_flight()} decisions are younger than 300 s and have no outcome yet")
    if not account.counted:
        check.done("no Assay records: nothing numbers its records here")
    elif check.fault_count:
        check.done(f"{check.fault_count} findings in the numbers of {account.counted} records")
    else:
        check.done(f"{account.counted} records, no number of any writer is missing")
