"""Asks witnesses (https://c2sp.org/tlog-witness) to cosign each checkpoint before it is shown.

Rules:

- A witness's failure is never the log's: nothing is raised, the checkpoint goes out with whatever cosignatures came in time.
- All witnesses are asked at once, and waited for together at most `BUDGET_S`. One that does not answer in time, or says no, is left in peace for a
  while that doubles from `PAUSES_S[0]` to `PAUSES_S[1]`: while it is dead, publishing does not wait at all.
- A witness whose last answer is still on its way is not asked again. Each question has a thread of its own, a daemon, so that an answer which
  drips for an hour can hold up neither the next checkpoint nor the end of the process.
- The size a witness cosigned last is remembered here and nowhere else; after a restart the first answer (409) tells it. The proof from that size is
  made from the log's hash tiles, which are on disk before a witness is asked.

Example:
    witnesses = Witnesses([Known("http://127.0.0.1:8090", key)], data_dir)
    publisher = Publisher.open(data_dir, control, keys, cosign=witnesses.cosign)
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from audit.keys import VerifierKey
from audit.merkle import consistency_proof
from audit.note import Checkpoint, Signature, parse
from audit.publisher import CosignRequest
from audit.store import layout
from audit.store.durable import read_or_none
from audit.tiles import TileReader
from audit.witness import Refused, request_cosignature

BUDGET_S: Final = 0.3
"""A checkpoint waits at most this long for all its witnesses together."""
PAUSES_S: Final = (1.0, 30.0)
"""Shortest and longest time a witness is not asked after it failed."""
_ANSWER_S: Final = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """A configured witness: where it takes checkpoints, and the key whose cosignature counts."""

    url: str
    key: VerifierKey


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands with a witness: the size it cosigned last (0: none since this process began), and why not the latest head."""

    name: str
    url: str
    size: int
    fault: str | None


class _Asker:
    """One witness. `_size` and `_fault` are owned by the one thread that asks; the rest by the publishing thread."""

    def __init__(self, known: Known, log_dir: Path, client: httpx.Client) -> None:
        self.known = known
        self._log_dir = log_dir
        self._client = client
        self._size = 0
        self._fault: str | None = None
        self._answer: Future[Signature] | None = None  # of the latest question
        self._pause_s = 0.0
        self._ask_again_s = 0.0

    def ask(self, request: CosignRequest, now_s: float) -> Future[Signature] | None:
        """Begin to ask; None when it is too early to ask again, or the last answer is still on its way."""
        if now_s < self._ask_again_s or (self._answer is not None and not self._answer.done()):
            return None
        answer: Future[Signature] = Future()
        self._answer = answer
        name = f"witness {self.known.key.name}"
        threading.Thread(target=self._run, args=(request, answer), name=name, daemon=True).start()
        return answer

    def _run(self, request: CosignRequest, answer: Future[Signature]) -> None:
        size = Checkpoint.parse(parse(request.note).text).size

        def prove(old_size: int) -> list[bytes]:
            if old_size == request.old_size:
                return request.proof
            reader = TileReader(lambda path: read_or_none(self._log_dir / path), size)
            return consistency_proof(old_size, size, reader.hash_at)

        try:
            given = request_cosignature(self._client, self.known.url, self.known.key, request.note, old_size=self._size, prove=prove)
        except Exception as error:  # noqa: BLE001 - whatever went wrong with a witness, the log goes on without it
            self._tell(error)
            answer.set_exception(error)
        else:
            if self._fault is not None:
                _log.info("the witness cosigns again", extra={"witness": self.known.key.name, "size": size})
            self._size, self._fault = size, None
            answer.set_result(given)

    def _tell(self, error: Exception) -> None:
        """Keep why it did not cosign, and say it once. A size conflict that a proof cannot mend accuses this log."""
        fault = " ".join(str(error).split())
        if isinstance(error, Refused) and error.status in (409, 422):
            fault = f"the witness refuses this log's history: {fault}"
        if fault != self._fault:
            level = logging.ERROR if isinstance(error, Refused) and error.status != 503 else logging.WARNING
            _log.log(level, "a witness did not cosign", extra={"witness": self.known.key.name, "why": fault})
        self._fault = fault

    def settle(self, answer: Future[Signature], now_s: float) -> Signature | None:
        """Return the cosignature if it came; plan when to ask again."""
        if answer.done() and answer.exception() is None:
            self._pause_s = self._ask_again_s = 0.0
            return answer.result()
        self._pause_s = min(max(2 * self._pause_s, PAUSES_S[0]), PAUSES_S[1])
        self._ask_again_s = now_s + self._pause_s
        return None

    def standing(self) -> Standing:
        """Return how it stands with this witness."""
        fault = self._fault
        if fault is None and self._pause_s:
            fault = f"no answer within {BUDGET_S:g} s"
        return Standing(self.known.key.name, self.known.url, self._size, fault)


class Witnesses:
    """All witnesses of a log. `cosign` belongs to the publishing thread; `standings` may be read from any."""

    def __init__(
        self, known: Sequence[Known], data_dir: Path, *, budget_s: float = BUDGET_S, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; nobody is asked before `cosign`.

        Args:
            known: who is asked.
            data_dir: whose `log/` holds the hash tiles that proofs are made from.
            budget_s: longest wait for all of them together.
            monotonic_s: the clock.
        """
        # `trust_env=False`: a proxy of the environment is nothing a log should be shown to. Connections are kept for less than the 5 s after
        # which common servers close them. An answer that comes too late for its checkpoint still tells the size for the next one.
        limits = httpx.Limits(keepalive_expiry=2.5)
        self._client = httpx.Client(timeout=_ANSWER_S, limits=limits, trust_env=False)
        self._askers = [_Asker(one, layout.log_dir(data_dir), self._client) for one in known]
        self._budget_s = budget_s
        self._monotonic_s = monotonic_s

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """Return the keys whose cosignatures count."""
        return tuple(asker.known.key for asker in self._askers)

    def cosign(self, request: CosignRequest) -> list[Signature]:
        """Return the cosignatures that came within the budget, in the order of configuration. Never raises for a witness."""
        now_s = self._monotonic_s()
        asked = [(asker, answer) for asker in self._askers if (answer := asker.ask(request, now_s)) is not None]
        wait([answer for _, answer in asked], timeout=self._budget_s)
        settled = [asker.settle(answer, self._monotonic_s()) for asker, answer in asked]
        return [one for one in settled if one is not None]

    def standings(self) -> list[Standing]:
        """Return how it stands with each witness."""
        return [asker.standing() for asker in self._askers]

    def close(self) -> None:
        """Close connections that are idle; questions still under way end with their process."""
        self._client.close()
