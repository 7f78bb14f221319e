"""Who calls: from the `Authorization` header to a principal, or a 401 that says what is wrong.

The header holds the key's secret; only its HMAC is stored and looked up (`gateway/apikeys.py`), so neither the keys file nor a memory dump
of the table tells a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.apikeys import KeyTable, StoredKey
from gateway.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller."""

    id: str
    tenant: str
    scopes: tuple[str, ...]
    models: frozenset[str] | None
    """Models the key may call; None = every one of the gateway: models belong to no tenant."""
    may_pin: bool
    may_assert_unit: bool
    actor: dict[str, str]
    """The `actor` of records."""
    expires_us: int | None
    context: Mapping[str, str | int | bool] = field(default_factory=dict)
    """What is known of every call it makes: its tenant."""


class Authenticator:
    """Looks keys up. Immutable; a changed keys file makes a new one."""

    __slots__ = ("_principals", "_table")

    def __init__(self, table: KeyTable) -> None:
        """Prepare a principal for every key of the table."""
        self._table = table
        self._principals = {key.id: _principal(key) for key in table.keys}

    @property
    def tenants(self) -> frozenset[str]:
        """Return the tenants that have a key."""
        return frozenset(principal.tenant for principal in self._principals.values())

    def authenticate(self, header: bytes | None, now_us: int) -> Principal:
        """Return who calls.

        Args:
            header: value of `Authorization`, or None.
            now_us: Unix microseconds.

        Raises:
            Refusal: `no_credentials` or `bad_credentials`; the text never repeats what was sent.
        """
        if header is None:
            raise Refusal("no_credentials", "the call carries no `Authorization` header")
        if header[:7].lower() != b"bearer ":
            raise Refusal("no_credentials", "the `Authorization` header is not `Bearer KEY`")
        return self.of_secret(header[7:], now_us)

    def of_secret(self, secret: bytes, now_us: int) -> Principal:
        """Return who holds a key's secret. Raises Refusal `bad_credentials`."""
        found = self._table.find(secret)
        if found is None:
            raise Refusal("bad_credentials", "the key is not one of this gateway's")
        principal = self._principals[found]
        if principal.expires_us is not None and now_us >= principal.expires_us:
            raise Refusal("bad_credentials", f"key `{principal.id}` has expired")
        return principal


def _principal(key: StoredKey) -> Principal:
    return Principal(
        id=key.id,
        tenant=key.tenant,
        scopes=tuple(sorted(key.scopes)),
        models=frozenset(key.models) if key.models else None,
        may_pin="version:pin" in key.scopes,
        may_assert_unit="unit:assert" in key.scopes,
        actor={"kind": "key", "id": key.id},
        expires_us=key.expires_us,
        context={"tenant": key.tenant},
    )
