"""What is destroyed in the vault, and read from it: on somebody's order, when its time is over, and again after a restore.

An erasure takes the steps of `audit/vault/tombstones.py`, in that order: remember, destroy, record, note that it is recorded. If the process ends in
between, the next start goes on where it stopped, before anything is served.

Rules:
- What the log says was erased is erased: a restored vault brings nobody back, also where the tombstones beside it are gone.
- The record `erasure` says which keys (random ids), how many entries, on what ground, who asked and who signed. Never whom: no unit, no pseudonym.
- Where `vault.erase_people` is more than 0, that many approvers of the trust root sign, each for exactly this subject and ground.
- A consent serves one erasure, for good: those used are known from the tombstones and from the log. Asked again with the same ones, an erasure that
  was cut off is finished, and one that is done is refused. Where another node erased and its record is missing, what was signed before this start
  counts for nothing.
- Reading what was kept is recorded by the caller first (`gateway/admin/reads.py`).

Example:
    erasures = Erasures(data_dir, master, root / "marks", clerk, trust_root, "log.example/prod", people=2)
    await erasures.prepare()
    done = await erasures.erase(Asked("acme", "customer-77", "request", ()), principal)
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from audit.vault.crypto import MasterKey
from audit.vault.store import Found, Held, VaultStore
from audit.vault.tombstones import Erasure, Tombstones, destroy_again
from gateway import pseudonyms
from gateway.authenticate import Principal
from gateway.control.clerk import Clerk
from gateway.control.registry import Erased
from gateway.refusals import Refusal
from policies.consent import InvalidConsent
from policies.erasure import NONCE_BYTES, ErasureConsent, Ground, about, load_erasure, statements_of
from policies.trust import TrustRoot

_log = logging.getLogger(__name__)
SCOPE: Final = "subject:erase"
_SKEW_US: Final = 60_000_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """An order to erase a subject, as the API read it."""

    tenant: str
    unit: str
    ground: Ground
    consents: tuple[tuple[bytes, bytes], ...]
    """(nonce, envelope) of each person who signed."""


@dataclass(frozen=True, slots=True)
class Done:
    """What an erasure took away."""

    erasure: str
    keys: int
    entries: int
    index: int
    """Of its record in the log."""


class Erasures:
    """The controller's hand on the vault. `_vault` and `_stones` belong to the one thread that works there."""

    def __init__(self, data_dir: Path, master: MasterKey, marks: Path, clerk: Clerk, root: TrustRoot, origin: str, *, people: int) -> None:
        """Prepare for the log of this origin; nothing is opened before `prepare`."""
        self._data_dir, self._master, self._marks = data_dir, master, marks
        self._clerk, self._root = clerk, root
        self.origin, self.people = origin, people
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vault")
        self._vault: VaultStore | None = None  # set by `_open`, in the thread
        self._stones: Tombstones | None = None  # as above
        self._served: dict[str, str] = {}  # consent -> the erasure it was for; changed by `_open`, `_take_in` and `_remember`
        self._heard: set[str] = set()  # erasures of the log that are remembered; changed by `_take_in`
        self._signed_since_us = 0  # what was signed earlier counts for nothing; set by `_open`
        self._one_by_one = asyncio.Lock()

    async def prepare(self, recorded: Mapping[str, Erased] | None = None) -> None:
        """Open the vault, destroy again what a restore brought back, and finish erasures that were cut off.

        Args:
            recorded: erasures by their ids, as the log has them.

        Raises:
            StoreError: it cannot be opened; nothing may be served from it.
        """
        for erasure in await self._run(lambda: self._open(recorded or {})):
            await self._finish(erasure)

    def close(self) -> None:
        """End the thread once its work is done."""
        if self._vault is not None:
            self._thread.submit(self._vault.close)
        self._thread.shutdown(wait=True)

    async def erase(self, asked: Asked, principal: Principal) -> Done:
        """Erase a subject.

        Raises:
            Refusal: missing scope, another tenant, too few people have signed, or what they signed has served already.
            StoreError: it could not be destroyed; what is remembered is destroyed at the next start.
            JournalError: it is destroyed and not recorded yet; the next start records it.
        """
        now_us = time.time_ns() // 1000
        signed = admit(asked, principal, self._root, self.people, now_us, origin=self.origin, since_us=self._signed_since_us)
        async with self._one_by_one:
            erasure = await self._run(lambda: self._begun(signed) or self._remember(asked, principal, signed, now_us))
            return await self._finish(erasure, asked)

    async def remember(self, recorded: Mapping[str, Erased]) -> None:
        """Remember beside this node's data what other nodes have erased since it started. Raises StoreError."""
        if not recorded.keys() <= self._heard:
            await self._run(lambda: self._take_in(recorded))

    async def expire(self, now_us: int) -> None:
        """Delete entries whose time is over, as a record. Raises as `erase`."""
        gone = await self._run(lambda: self._opened().expire(now_us))
        if gone.entries:
            await self._clerk.record("vault.expired", entries=gone.entries, keys=gone.keys)

    async def read(self, record: str) -> Found:
        """Return what was kept of a call; the caller has recorded that it is read."""
        return await self._run(lambda: self._opened().read(record, time.time_ns() // 1000))

    async def holds(self) -> tuple[Held, int]:
        """Return what the vault holds, and how many erasures are begun and not recorded."""
        return await self._run(lambda: (self._opened().holds(), len(self._known().pending())))

    # --- in the thread --------------------------------------------------------------------------------------------------------------------

    def _open(self, recorded: Mapping[str, Erased]) -> list[Erasure]:
        if self._stones is None:
            self._stones = Tombstones.open(self._marks)
        forgotten = self._take_in(recorded)
        if forgotten and self._vault is None:
            _log.warning("erasures that only the log remembers: are the marks beside the data directory the newest?", extra={"count": forgotten})
        if self._vault is None:
            self._vault = VaultStore.open(self._data_dir, self._master)
        destroy_again(self._vault, self._stones)
        for erasure in self._stones.all():
            self._served |= dict.fromkeys(statements_of(erasure.record.get("signed", ())), erasure.erasure)
            if not erasure.record and erasure.erasure not in recorded:  # another node's: what was signed for it is not known here
                self._signed_since_us = time.time_ns() // 1000
        return self._stones.pending()

    def _take_in(self, recorded: Mapping[str, Erased]) -> int:
        """Remember erasures that the log has and this node's marks lack; return how many."""
        stones = self._known()
        known = {erasure.erasure for erasure in stones.all()}
        forgotten = [Erasure(name, 0, one.keys, told=True) for name, one in recorded.items() if name not in known]
        if forgotten:
            stones.begin(*forgotten)
        self._served |= {consent: name for name, one in recorded.items() for consent in one.consents}
        self._heard |= recorded.keys()
        return len(forgotten)

    def _opened(self) -> VaultStore:
        assert self._vault is not None  # noqa: S101 - `prepare` opens it before anything else is asked
        return self._vault

    def _known(self) -> Tombstones:
        assert self._stones is not None  # noqa: S101 - as above
        return self._stones

    def _subjects(self, tenant: str, unit: str) -> list[str]:
        """Return the pseudonyms of a unit under every living key of its tenant."""
        held = pseudonyms.load(self._data_dir / "vault" / "epochs.json")
        return [pseudonyms.TenantPseudonyms(key).of(unit) for key in held.get(tenant, [])]

    def _begun(self, signed: list[dict[str, str]]) -> Erasure | None:
        """Return the erasure that these consents began and that is not recorded yet; None where they are all new. Raises Refusal."""
        served = {self._served.get(consent, "") for consent in statements_of(signed)}
        unfinished = {erasure.erasure: erasure for erasure in self._known().pending()}
        if len(served) == 1 and served <= unfinished.keys():
            return unfinished[served.pop()]
        spent = sorted(served - {""})
        if spent:
            raise Refusal(
                "bad_consent",
                f"a consent has served erasure `{spent[0]}`, and each serves one",
                hint="that erasure is in the log; for another one sign again: `assay audit erase - --as PERSON --key FILE`",
            )
        return None

    def _remember(self, asked: Asked, principal: Principal, signed: list[dict[str, str]], now_us: int) -> Erasure:
        vault = self._opened()
        keys = vault.keys_of(asked.tenant, asked.unit, self._subjects(asked.tenant, asked.unit))
        # How many entries go is counted here, before the first of them does: a start that finishes a cut off erasure finds none.
        carried: dict[str, Any] = {"tenant": asked.tenant, "actor": principal.actor, "ground": asked.ground, "entries": vault.entries_under(keys)}
        if signed:
            carried["signed"] = signed
        erasure = Erasure(secrets.token_hex(16), now_us, tuple(key.hex() for key in keys), carried)
        self._known().begin(erasure)
        self._served |= dict.fromkeys(statements_of(signed), erasure.erasure)
        return erasure

    async def _finish(self, erasure: Erasure, asked: Asked | None = None) -> Done:
        keys = [bytes.fromhex(key) for key in erasure.keys]
        tenant = "" if asked is None else asked.tenant

        def destroy() -> int:
            subjects = () if asked is None else self._subjects(asked.tenant, asked.unit)
            return self._opened().destroy(keys, erasure.erasure, erasure.erased_us, tenant=tenant, subjects=subjects).entries

        # What came in since it was counted is under the same keys and gone as well.
        entries = max(erasure.record["entries"], await self._run(destroy))
        carried = {**erasure.record, "entries": entries, "erasure": erasure.erasure, "keys": list(erasure.keys)}
        index = await self._clerk.record("erasure", **carried)
        await self._run(lambda: self._known().told(erasure.erasure))
        return Done(erasure.erasure, len(keys), entries, index)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def admit(asked: Asked, principal: Principal, root: TrustRoot, people: int, now_us: int, *, origin: str, since_us: int = 0) -> list[dict[str, str]]:
    """Say whether someone may have a subject erased; return who signed, as the record says it.

    Args:
        asked: the order.
        principal: who gives it.
        root: people and their keys.
        people: how many of them have to sign.
        now_us: Unix microseconds.
        origin: of this log.
        since_us: what was signed before counts for nothing.

    Raises:
        Refusal: `missing_scope`, `bad_consent`, or `not_approved` where more people have to sign.
    """
    if SCOPE not in principal.scopes:
        raise Refusal("missing_scope", f"erasing a subject needs the scope `{SCOPE}`")
    if asked.tenant != principal.tenant and "tenants:all" not in principal.scopes:
        raise Refusal("missing_scope", f"this key is of tenant `{principal.tenant}`; another tenant's subjects need the scope `tenants:all`")
    signed: dict[str, str] = {}
    for nonce, envelope in asked.consents:
        if len(nonce) != NONCE_BYTES:  # of another length, what is hashed could be read as another subject's
            raise Refusal("bad_consent", f"the nonce of a consent has {NONCE_BYTES} bytes, not {len(nonce)}")
        try:
            consent = load_erasure(envelope, root)
        except InvalidConsent as fault:
            raise Refusal(
                "bad_consent", f"a consent does not verify: {fault}", hint="sign again: `assay audit erase - --as PERSON --key FILE`"
            ) from None
        if consent.log != origin:
            raise Refusal(
                "bad_consent",
                f"the consent of `{consent.person}` is for the log `{consent.log[:128]}`, not for this one",
                hint=f"sign again: `assay audit erase - --log {origin} --as PERSON --key FILE`",
            )
        if (consent.tenant, consent.about, consent.ground) != (asked.tenant, about(nonce, asked.tenant, asked.unit), asked.ground):
            raise Refusal(
                "bad_consent", f"the consent of `{consent.person}` is for another subject, tenant or ground", hint="sign again for this one"
            )
        _require_valid_now(consent, now_us, since_us)
        signed[consent.person] = envelope.decode()
    if len(signed) < people:
        raise Refusal(
            "not_approved",
            f"{people} approvers sign an erasure, {len(signed)} did",
            hint="`assay audit erase - --as PERSON --key FILE --write FILE` signs; deliver with `--consent FILE`",
        )
    return [{"person": person, "envelope": signed[person]} for person in sorted(signed)]


def _require_valid_now(consent: ErasureConsent, now_us: int, since_us: int) -> None:
    if not consent.issued_at_us - _SKEW_US <= now_us < consent.not_after_us:
        raise Refusal("bad_consent", f"the consent of `{consent.person}` does not hold at this time", hint="sign again")
    if consent.issued_at_us < since_us:
        raise Refusal(
            "bad_consent",
            f"the consent of `{consent.person}` was signed before this gateway started, which does not know what an erasure elsewhere has used",
            hint="sign again",
        )
