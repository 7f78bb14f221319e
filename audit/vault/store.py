"""The vault's tables: a SQLite file of their own, or the PostgreSQL of the log. Keeps, reads, erases, expires.

Rules:
- A commit is the acknowledgement, as everywhere in the store. An entry that comes twice (its writer never saw the answer) is kept once.
- Data keys are read anew in every transaction and never remembered: what another process erased cannot come back from here.
- An entry of a call that began before its subject was erased is refused, however late it arrives.
- Erasing and expiring exclude keeping while they run: SQLite by its write lock, PostgreSQL by an advisory lock.
- SQLite overwrites what is deleted with zeros (`secure_delete`), and after an erasure its write-ahead log is emptied. What a file system, a disk or a
  copy holds besides is out of reach: docs/privacy.md says what follows from that.

Example:
    with VaultStore.open(data_dir, master) as vault:
        vault.keep(entries, now_us)
        vault.read("acme", record_id, now_us)
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

from sqlalchemy import CursorResult, Executable, create_engine, delete, exists, func, pool, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from audit.store import layout
from audit.store.errors import StoreBroken
from audit.store.migrate import VAULT, ensure_schema
from audit.store.place import PostgresPlace, postgres_place
from audit.store.sqlite import BUSY_TIMEOUT_MS, checkpoint_wal, open_writer, translated
from audit.vault.crypto import KEY_BYTES, NONCE_BYTES, CannotOpen, MasterKey, bound_to, seal, unseal
from audit.vault.entry import Entry
from audit.vault.tables import VaultTable

KEY_ID_BYTES: Final = 16
EXPIRED_AT_ONCE: Final = 5_000
UNDER_WAY_US: Final = 86_400_000_000
"""How long a subject is remembered as erased, for entries still on their way."""
_COMMITS_PER_CHECKPOINT: Final = 64
_SCRUB_TRIES: Final = 100
_VAULT_LOCK: Final = 0x61737361_79000002
"""Advisory lock of PostgreSQL: shared by those who keep, alone for those who destroy."""
# Statements are made of the tables' columns: to a type checker a row's attribute is its value, not a column.
_KEYS: Final[Any] = VaultTable.metadata.tables["vault_key"]
_ENTRIES: Final[Any] = VaultTable.metadata.tables["vault_entry"]
_STONES: Final[Any] = VaultTable.metadata.tables["vault_tombstone"]
_KEY: Final = _KEYS.c
_ENTRY: Final = _ENTRIES.c
_STONE: Final = _STONES.c
Random = Callable[[int], bytes]
State = Literal["kept", "erased", "expired", "absent", "sealed"]


@dataclass(frozen=True, slots=True)
class Found:
    """What the vault has of one record."""

    state: State
    """`sealed`: it is there and does not open; `absent`: it never arrived, or its time is over and it is gone."""
    content: bytes = b""
    erasure: str = ""
    """Which erasure took it."""
    until_us: int = 0


@dataclass(frozen=True, slots=True)
class Destroyed:
    """What an erasure, or the end of a retention, took away."""

    keys: int
    entries: int


@dataclass(frozen=True, slots=True)
class Held:
    """What the vault holds at a moment, in numbers."""

    entries: int
    """That a living key opens."""
    subjects: int
    """Living keys: one a subject and pseudonym."""
    next_end_us: int | None
    """When the time of the first of these entries is over; None where there is none."""


class WrongMasterKey(StoreBroken):
    """The vault was written under a master key that was not given."""


class VaultStore:
    """One process's hand on the vault. Used from one thread at a time."""

    def __init__(self, engine: Engine, master: MasterKey, random: Random, path: Path | None) -> None:
        """Take over an opened store; use `open`. `path` is the file of a SQLite store."""
        self._engine = engine
        self._master = master
        self._random = random
        self._path = path
        self._commits = 0  # since the write-ahead log was last moved; changed by `keep`
        self._insert: Callable[..., Any] = postgresql.insert if path is None else sqlite.insert

    @classmethod
    def open(cls, data_dir: Path, master: MasterKey, *, random: Random = os.urandom, wait_s: float = 60.0) -> VaultStore:
        """Open the vault of a data directory, made or upgraded if need be.

        Args:
            data_dir: the data directory; it says whether its log is in PostgreSQL.
            master: the key that wraps the data keys.
            random: gives that many random bytes.
            wait_s: how long a start waits for a server.

        Raises:
            StoreError: It cannot be used as it is.
        """
        place = postgres_place(data_dir)
        if place is not None:
            return cls(_postgres_engine(place, wait_s), master, random, None)
        path = layout.vault_path(data_dir)
        with translated(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        ensure_schema(path, VAULT)
        return cls(
            create_engine("sqlite://", creator=lambda: _sqlite_connection(path), poolclass=pool.StaticPool, hide_parameters=True),
            master,
            random,
            path,
        )

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._engine.dispose()

    # --- keeping ---------------------------------------------------------------------------------------------------------------------------

    def keep(self, entries: Sequence[Entry], now_us: int) -> None:
        """Commit entries, each sealed under the key of its subject.

        Raises:
            StoreFull: no space; nothing was kept.
            StoreBroken: it is unknown what was kept; the same may be tried again.
        """
        with self._transaction() as connection:
            if self._path is None:
                connection.execute(select(func.pg_advisory_xact_lock_shared(_VAULT_LOCK)))
            late = self._erased_subjects(connection, entries)
            wanted = [entry for entry in entries if entry.kept_us > late.get((entry.tenant, entry.subject), -1)]
            keys = self._data_keys(connection, wanted, now_us)
            rows = [self._row(entry, *keys[entry.tenant, entry.subject]) for entry in wanted]
            if rows:
                connection.execute(self._insert(_ENTRIES).on_conflict_do_nothing(index_elements=["record"]), rows)
        self._commits += 1
        if self._path is not None and self._commits % _COMMITS_PER_CHECKPOINT == 0:
            checkpoint_wal(self._sqlite(), self._path)

    def _row(self, entry: Entry, key_id: bytes, data_key: bytes) -> dict[str, Any]:
        box = seal(data_key, bound_to(entry.tenant, entry.record, key_id), entry.content, self._random(NONCE_BYTES))
        return {"record": entry.record, "key_id": key_id, "kept_us": entry.kept_us, "expires_us": entry.expires_us, "box": box}

    def _erased_subjects(self, connection: Connection, entries: Sequence[Entry]) -> dict[tuple[str, str], int]:
        """Return who among them was erased, and when."""
        columns = (_STONE.tenant, _STONE.subject, _STONE.erased_us)
        found: dict[tuple[str, str], int] = {}
        for tenant, subject, erased_us in connection.execute(select(*columns).where(_in(_STONE.subject, {each.subject for each in entries}))):
            found[tenant, subject] = max(erased_us, found.get((tenant, subject), -1))
        return found

    def _data_keys(self, connection: Connection, entries: Sequence[Entry], now_us: int) -> dict[tuple[str, str], tuple[bytes, bytes]]:
        """Return id and data key of every subject concerned; made for those that have none."""
        units = {(entry.tenant, entry.subject): entry.unit for entry in entries}
        keys = self._existing_keys(connection, units)
        missing = {subject: unit for subject, unit in units.items() if subject not in keys}
        if missing:
            rows = [self._new_key(tenant, subject, unit, now_us) for (tenant, subject), unit in missing.items()]
            connection.execute(self._insert(_KEYS).on_conflict_do_nothing(), rows)
            keys |= self._existing_keys(connection, missing)  # another node may have been first: what stands in the table counts
        return keys

    def _existing_keys(self, connection: Connection, subjects: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], tuple[bytes, bytes]]:
        columns = (_KEY.id, _KEY.tenant, _KEY.subject, _KEY.master, _KEY.wrapped)
        found = {}
        asked = select(*columns).where(_in(_KEY.subject, {subject for _, subject in subjects}))
        for key_id, tenant, subject, master, wrapped in connection.execute(asked):
            if (tenant, subject) in subjects:
                found[tenant, subject] = (key_id, _unwrapped(self._master, key_id, master, wrapped))
        return found

    def _new_key(self, tenant: str, subject: str, unit: str, now_us: int) -> dict[str, Any]:
        key_id = self._random(KEY_ID_BYTES)
        wrapped = self._master.wrap(key_id, self._random(KEY_BYTES), self._random(NONCE_BYTES))
        return {
            "id": key_id,
            "tenant": tenant,
            "subject": subject,
            "handle": self._master.handle(tenant, unit),
            "master": self._master.id,
            "wrapped": wrapped,
            "created_us": now_us,
        }

    # --- reading ---------------------------------------------------------------------------------------------------------------------------

    def read(self, record: str, now_us: int) -> Found:
        """Return what was kept of a record, by the id of its decision."""
        columns = (_ENTRY.key_id, _ENTRY.expires_us, _ENTRY.box, _ENTRY.erasure, _KEY.tenant, _KEY.master, _KEY.wrapped)
        asked = select(*columns).outerjoin(_KEYS, _KEY.id == _ENTRY.key_id).where(_ENTRY.record == record)
        with self._transaction() as connection:
            row = connection.execute(asked).first()
        if row is None:
            return Found("absent")
        key_id, expires_us, box, erasure, tenant, master, wrapped = row
        if box is None:
            return Found("erased", erasure=erasure or "")
        if expires_us <= now_us:
            return Found("expired", until_us=expires_us)
        if tenant is None:
            return Found("sealed")
        try:
            content = unseal(_unwrapped(self._master, key_id, master, wrapped), bound_to(tenant, record, key_id), box)
        except (CannotOpen, WrongMasterKey):
            return Found("sealed")
        return Found("kept", content, until_us=expires_us)

    def keys_of(self, tenant: str, unit: str, subjects: Sequence[str]) -> list[bytes]:
        """Return the ids of every data key of a subject: those of its living pseudonyms, and those only its handle still finds."""
        by = (_KEY.handle == self._master.handle(tenant, unit)) | _in(_KEY.subject, set(subjects))
        with self._transaction() as connection:
            return sorted(connection.execute(select(_KEY.id).where(_KEY.tenant == tenant, by)).scalars())

    def held(self, keys: Sequence[bytes]) -> set[bytes]:
        """Return which of these keys are there."""
        with self._transaction() as connection:
            return set(connection.execute(select(_KEY.id).where(_in(_KEY.id, set(keys)))).scalars())

    def entries_under(self, keys: Sequence[bytes]) -> int:
        """Return how many entries those keys open."""
        counted = select(func.count()).where(_in(_ENTRY.key_id, set(keys)), _ENTRY.box.is_not(None))
        with self._transaction() as connection:
            return int(connection.execute(counted).scalar_one())

    def holds(self) -> Held:
        """Return how much is held. Costs a walk through an index: tens of milliseconds for 10^5 entries."""
        opened = select(func.count()).select_from(_ENTRIES.join(_KEYS, _KEY.id == _ENTRY.key_id))
        first = select(_ENTRY.expires_us).where(_ENTRY.box.is_not(None)).order_by(_ENTRY.expires_us).limit(1)
        with self._transaction() as connection:
            entries, subjects = connection.execute(opened).scalar_one(), connection.execute(select(func.count()).select_from(_KEYS)).scalar_one()
            return Held(int(entries), int(subjects), connection.execute(first).scalar())

    # --- destroying ------------------------------------------------------------------------------------------------------------------------

    def destroy(self, keys: Sequence[bytes], erasure: str, now_us: int, *, tenant: str = "", subjects: Sequence[str] = ()) -> Destroyed:
        """Destroy data keys and everything sealed under them; on return they are overwritten, not only unlinked.

        Args:
            keys: ids of data keys; one that is gone already is no error, and its tombstone is kept all the same.
            erasure: id of the erasure, which takes their place.
            now_us: entries of the same subjects that began before are refused from now on.
            tenant: whose the subjects are.
            subjects: living pseudonyms of the subject, with or without a key.

        Raises:
            StoreFull, StoreBroken: it is not certain that everything is gone; the same may be done again.
        """
        with self._alone() as connection:
            known = connection.execute(select(_KEY.id, _KEY.tenant, _KEY.subject).where(_in(_KEY.id, set(keys)))).all()
            stones = [{"key_id": key_id, "tenant": "", "subject": ""} for key_id in set(keys) - {row[0] for row in known}]
            stones += [{"key_id": key_id, "tenant": whose, "subject": subject} for key_id, whose, subject in known]
            stones += [
                {"key_id": self._random(KEY_ID_BYTES), "tenant": tenant, "subject": subject} for subject in set(subjects) - {row[2] for row in known}
            ]
            rows = [{**stone, "erasure": erasure, "erased_us": now_us} for stone in stones]
            if rows:
                connection.execute(self._insert(_STONES).on_conflict_do_nothing(), rows)
            taken = _count(connection, delete(_KEYS).where(_in(_KEY.id, set(keys))))
            emptied = update(_ENTRIES).where(_in(_ENTRY.key_id, set(keys)), _ENTRY.box.is_not(None)).values(box=None, erasure=erasure)
            entries = _count(connection, emptied)
        self._scrub()
        return Destroyed(taken, entries)

    def tombstones(self) -> dict[str, list[bytes]]:
        """Return the keys that were destroyed, by erasure."""
        found: dict[str, list[bytes]] = {}
        with self._transaction() as connection:
            for key_id, erasure in connection.execute(select(_STONE.key_id, _STONE.erasure)):
                found.setdefault(erasure, []).append(key_id)
        return found

    def expire(self, now_us: int) -> Destroyed:
        """Delete entries whose time is over, at most `EXPIRED_AT_ONCE`, and the keys nothing is sealed under any more. Raises as `destroy`."""
        over = select(_ENTRY.record).where(_ENTRY.expires_us <= now_us).limit(EXPIRED_AT_ONCE)
        with self._alone() as connection:
            entries = _count(connection, delete(_ENTRIES).where(_ENTRY.record.in_(over)))
            unused = ~exists().where(_ENTRY.key_id == _KEY.id)
            keys = _count(connection, delete(_KEYS).where(unused)) if entries else 0
            old = _STONE.erased_us <= now_us - UNDER_WAY_US
            connection.execute(update(_STONES).where(old, _STONE.subject != "").values(tenant="", subject=""))
        if entries:
            self._scrub()
        return Destroyed(keys, entries)

    # --- the master key --------------------------------------------------------------------------------------------------------------------

    def take_over_keys(self, previous: MasterKey | None) -> int:
        """Wrap anew what the master key before wrapped; return how many data keys that were.

        Raises:
            WrongMasterKey: some are wrapped by neither, or damaged.
        """
        with self._alone() as connection:
            rows = connection.execute(select(_KEY.id, _KEY.master, _KEY.wrapped).where(_KEY.master != self._master.id)).all()
            for key_id, master, wrapped in rows:
                if previous is None or master != previous.id:
                    raise WrongMasterKey(
                        f"the vault was written under master key `{master}`; `vault.key` is `{self._master.id}`\n"
                        "hint: put that key back, or name it as `vault.previous` so that its data keys are wrapped anew"
                    )
                again = self._master.wrap(key_id, _unwrapped(previous, key_id, master, wrapped), self._random(NONCE_BYTES))
                connection.execute(update(_KEYS).where(_KEY.id == key_id).values(master=self._master.id, wrapped=again))
        if rows:
            self._scrub()
        return len(rows)

    # --- the two stores --------------------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Run the block in one transaction; whatever goes wrong, nothing of it remains."""
        with self._translated(), self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN" if self._path is None else "BEGIN IMMEDIATE")
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with contextlib.suppress(DBAPIError):  # the first error is the one to report
                    connection.exec_driver_sql("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Connection]:
        """Run the block in one transaction while nobody keeps anything."""
        with self._transaction() as connection:
            if self._path is None:
                connection.execute(select(func.pg_advisory_xact_lock(_VAULT_LOCK)))
            yield connection

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        from audit.store import postgres  # noqa: PLC0415 - the driver's errors; imports nothing heavy itself

        with translated(self._path) if self._path is not None else postgres.translated():
            try:
                yield
            except DBAPIError as error:
                if error.orig is None:
                    raise
                raise error.orig from None

    def _scrub(self) -> None:
        """See that what was deleted is not left lying where the store can reach it.

        Raises:
            StoreBroken: A reader holds the write-ahead log of the file.
        """
        if self._path is None:
            with self._translated(), self._engine.connect() as connection:
                connection.exec_driver_sql("VACUUM vault_key, vault_entry")
            return
        with translated(self._path):
            database = self._sqlite()
            database.execute("PRAGMA busy_timeout=0")  # SQLite would wait for readers with the write lock in its hand: nobody could keep anything
            try:
                for _ in range(_SCRUB_TRIES):
                    busy, _frames, _moved = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                    if not busy:
                        return
                    time.sleep(0.1)
            finally:
                database.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        raise StoreBroken(f"a reader holds `{self._path}`: what was deleted may still be read there\nhint: end the reading process")

    def _sqlite(self) -> sqlite3.Connection:
        raw = self._engine.raw_connection()
        try:
            return cast("sqlite3.Connection", raw.driver_connection)  # one connection for the engine's whole life (StaticPool)
        finally:
            raw.close()


def _sqlite_connection(path: Path) -> sqlite3.Connection:
    connection = open_writer(path)
    connection.execute("PRAGMA secure_delete=ON")
    return connection


def _postgres_engine(place: PostgresPlace, wait_s: float) -> Engine:
    from audit.store import postgres  # noqa: PLC0415 - only where the store is PostgreSQL

    text = place.connection_string()
    with contextlib.closing(postgres.connect(text, "assay vault", wait_s=wait_s)) as connection:
        postgres.ensure_schema(connection, text)
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: postgres.connect(text, "assay vault", wait_s=5.0),
        pool_size=1,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def _unwrapped(key: MasterKey, key_id: bytes, master: str, wrapped: bytes) -> bytes:
    """Return a data key that says it is wrapped by `master`. Raises WrongMasterKey."""
    if master != key.id:
        raise WrongMasterKey(f"a data key is wrapped by master key `{master}`, the vault was opened with `{key.id}`")
    try:
        return key.unwrap(key_id, wrapped)
    except CannotOpen as error:
        raise WrongMasterKey(f"a data key of the vault is damaged: {error}") from error


def _in(attribute: Any, values: set[Any]) -> Any:
    return attribute.in_(sorted(values))


def _count(connection: Connection, statement: Executable) -> int:
    return cast("CursorResult[Any]", connection.execute(statement)).rowcount
