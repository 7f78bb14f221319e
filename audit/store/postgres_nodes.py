"""What the nodes of a shared log tell each other through its database: what is in force, which head is shown, pseudonym keys under seal.

Rules:
- The leader *states* what is in force: one statement that also renews its lease, stamped by the server's clock, and only while its term is the
  newest. A leader that was stalled states nothing once another has led.
- Whoever follows asks how old the statement is, by the same clock. No two machines' clocks are compared.
- Live states lie here by digest. The leader removes those that are over: put more than `KEEP_LIVE_S` ago and not named by the statement.
- What is sealed is replaced only by whoever has seen what it replaces (its version): of two nodes that act at once, one acts again.

Example:
    nodes = Nodes(place)
    nodes.put_live(digest, data)
    nodes.state(term, "n1", manifest, digest)
    nodes.look().age_us
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import msgspec

from audit.store import postgres
from audit.store.errors import TermLost
from audit.store.place import PostgresPlace
from audit.store.postgres_control import LEASE_S

KEEP_LIVE_S: Final = 60.0
_LOOK: Final = """
SELECT term, node, manifest, live, (extract(epoch FROM clock_timestamp() - stated_at) * 1000000)::bigint,
  renewed_at IS NULL OR renewed_at < clock_timestamp() - make_interval(secs => %s), coalesce((SELECT version FROM pseudonym), 0)
FROM leader WHERE id = 1
"""
_STATE: Final = """
UPDATE leader SET renewed_at = clock_timestamp(), stated_at = clock_timestamp(), node = %s, manifest = %s, live = %s WHERE id = 1 AND term = %s
"""
_RENEW: Final = "UPDATE leader SET renewed_at = clock_timestamp(), node = %s WHERE id = 1 AND term = %s"
_SHOW: Final = "UPDATE leader SET shown = %b WHERE id = 1 AND term = %s"
_PUT_LIVE: Final = """
INSERT INTO live (digest, data, put_at) VALUES (%s, %b, clock_timestamp()) ON CONFLICT (digest) DO UPDATE SET put_at = clock_timestamp()
"""
_REMOVE_LIVE: Final = """
DELETE FROM live WHERE put_at < clock_timestamp() - make_interval(secs => %s) AND digest <> (SELECT coalesce(live, '') FROM leader WHERE id = 1)
"""
_SEAL_FIRST: Final = "INSERT INTO pseudonym (id, key_id, version, sealed) VALUES (1, %s, 1, %b) ON CONFLICT (id) DO NOTHING"
_SEAL: Final = "UPDATE pseudonym SET key_id = %s, version = version + 1, sealed = %b WHERE id = 1 AND version = %s"


class Stated(msgspec.Struct, frozen=True):
    """What the leader's row says, as the server sees it at one moment."""

    term: int
    node: str
    """Who leads, or led last; empty before anybody did."""
    manifest: str | None
    live: str | None
    age_us: int | None
    """Microseconds since the statement, by the server's clock; None before the first."""
    is_free: bool
    """Whether somebody else may lead."""
    sealed_version: int
    """Of what is sealed; 0 for nothing."""


class Sealed(msgspec.Struct, frozen=True):
    """What is sealed, and the name of the key it is sealed under."""

    key_id: str
    version: int
    data: bytes


class Nodes:
    """One node's hand on what the nodes share, over a connection of its own that is made again when it is lost. May be used from several threads."""

    def __init__(self, place: PostgresPlace) -> None:
        """Use the database that `place` names; nothing is opened yet."""
        self._reached = postgres.Reached(place, "assay nodes", wait_s=0.0)
        self._one_at_a_time = threading.Lock()

    # --- the leader ------------------------------------------------------------------------------------------------------------------------

    def state(self, term: int, node: str, manifest: str, live: str) -> None:
        """Say what is in force, and renew the lease.

        Raises:
            TermLost: Another controller leads; this one must end.
            StoreError: It is not known whether it was said.
        """
        self._as_leader(term, _STATE, (node, manifest, live, term))

    def renew(self, term: int, node: str) -> None:
        """Renew the lease while nothing is in force yet. Raises as `state`."""
        self._as_leader(term, _RENEW, (node, term))

    def show(self, term: int, note: bytes) -> None:
        """Say which signed head is shown, with its cosignatures. Raises as `state`."""
        self._as_leader(term, _SHOW, (note, term))

    def put_live(self, digest: str, data: bytes) -> None:
        """Keep a live state where every node finds it, before it is stated; remove those that are over. Raises StoreError."""
        with self._one_at_a_time, self._reached.connection() as connection:
            connection.execute(_PUT_LIVE, (digest, data))
            connection.execute(_REMOVE_LIVE, (KEEP_LIVE_S,))

    def _as_leader(self, term: int, statement: str, values: Sequence[object]) -> None:
        with self._one_at_a_time, self._reached.connection() as connection:
            done = connection.execute(statement, values).rowcount
        if done != 1:
            raise TermLost(f"the term `{term}` of this controller is over\nhint: another controller leads; this one must end")

    # --- every node ------------------------------------------------------------------------------------------------------------------------

    def look(self) -> Stated:
        """Return what the leader said last. Raises StoreError."""
        with self._one_at_a_time, self._reached.connection() as connection:
            row = connection.execute(_LOOK, (LEASE_S,)).fetchone()
        return Stated(0, "", None, None, None, is_free=True, sealed_version=0) if row is None else Stated(*row)

    def shown(self) -> bytes | None:
        """Return the signed head that the leader shows, None before the first. Raises StoreError."""
        with self._one_at_a_time, self._reached.connection() as connection:
            row = connection.execute("SELECT shown FROM leader WHERE id = 1", binary=True).fetchone()
        return None if row is None or row[0] is None else bytes(row[0])

    def live(self, digest: str) -> bytes | None:
        """Return a live state, None for one that is over. Raises StoreError."""
        with self._one_at_a_time, self._reached.connection() as connection:
            row = connection.execute("SELECT data FROM live WHERE digest = %s", (digest,), binary=True).fetchone()
        return None if row is None else bytes(row[0])

    def objects(self, digests: Sequence[str]) -> dict[str, bytes]:
        """Return documents that some node has kept; those nobody has are left out. Raises StoreError."""
        with self._one_at_a_time, self._reached.connection() as connection:
            rows = connection.execute("SELECT digest, data FROM object WHERE digest = ANY(%s)", (list(digests),), binary=True).fetchall()
        return {digest: bytes(data) for digest, data in rows}

    def sealed(self) -> Sealed | None:
        """Return what is sealed, None for nothing. Raises StoreError."""
        with self._one_at_a_time, self._reached.connection() as connection:
            row = connection.execute("SELECT key_id, version, sealed FROM pseudonym", binary=True).fetchone()
        return None if row is None else Sealed(str(row[0]), int(row[1]), bytes(row[2]))

    def replace_sealed(self, before: int, key_id: str, data: bytes) -> bool:
        """Replace what is sealed at version `before` (0: nothing); False when another node was first. Raises StoreError."""
        statement, values = (_SEAL_FIRST, (key_id, data)) if before == 0 else (_SEAL, (key_id, data, before))
        with self._one_at_a_time, self._reached.connection() as connection:
            return connection.execute(statement, values).rowcount == 1

    def scrub_sealed(self) -> None:
        """Have the server overwrite what was replaced, as far as it does. Raises StoreError."""
        with self._one_at_a_time, self._reached.connection() as connection:
            connection.execute("VACUUM pseudonym")

    def close(self) -> None:
        """Close the connection."""
        with self._one_at_a_time:
            self._reached.close()
