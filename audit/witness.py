"""A small witness (https://c2sp.org/tlog-witness): it remembers the last head of each log and cosigns the next only if it extends that one.

Rules:

- What is remembered is durable before the cosignature leaves: written beside, flushed, renamed, directory flushed. A crash in between leaves the
  old or the new head on disk; with the new one the log asks again and gets the same answer.
- Checking and remembering are one step under one lock, so that two requests cannot roll a log back.
- Signatures of unknown keys are ignored. A bad proof is answered with the status the specification names, never with a cosignature.

Parts: `judge` decides (pure), `Witness` keeps and signs, `application` serves `POST /add-checkpoint`, `request_cosignature` is the log's side.

Example:
    witness = Witness(key, {"log.example": [log_vkey]}, StateFile(Path("state.json")), now_s=lambda: int(time.time()))
    uvicorn.run(application(witness))
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import httpx
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from audit import note
from audit.keys import COSIGNATURE_V1, SigningKey, VerifierKey
from audit.merkle import EMPTY_ROOT, ProofError, verify_consistency
from audit.note import Checkpoint, Note, NoteError, parse_decimal, parse_hash

REQUEST_LIMIT_BYTES: Final = note.NOTE_LIMIT_BYTES + 64 * 64
PROOF_LIMIT: Final = 63
ANSWER_LIMIT_BYTES: Final = 64 * 1024
"""Most that is read of what a witness answers: signature lines, a size, or a sentence."""
SIZE_MEDIA_TYPE: Final = "text/x.tlog.size"


class Refused(Exception):  # noqa: N818 - reads as the statement it is
    """The witness does not cosign. `status` is the HTTP status the specification names; `known_size` comes with a size conflict."""

    def __init__(self, status: int, message: str, *, known_size: int | None = None) -> None:
        """Say why."""
        super().__init__(message)
        self.status = status
        self.known_size = known_size


@dataclass(frozen=True, slots=True)
class Head:
    """The largest head of a log that was cosigned."""

    size: int = 0
    root: bytes = EMPTY_ROOT


@dataclass(frozen=True, slots=True)
class Submission:
    """A parsed add-checkpoint request."""

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint_note: bytes

    def encode(self) -> bytes:
        """Return the request body."""
        lines = [f"old {self.old_size}", *(base64.b64encode(one).decode() for one in self.proof), ""]
        return ("\n".join(lines) + "\n").encode() + self.checkpoint_note

    @classmethod
    def parse(cls, data: bytes) -> Submission:
        """Read a request body.

        Raises:
            Refused: 400, it is malformed.
        """
        head, separator, checkpoint_note = data.partition(b"\n\n")
        first, *rest = head.decode("ascii", "replace").split("\n")
        if not separator or not first.startswith("old ") or len(rest) > PROOF_LIMIT:
            raise Refused(400, f"a request is a line `old N`, at most {PROOF_LIMIT} hashes, an empty line and a checkpoint")
        try:
            return cls(parse_decimal(first.removeprefix("old ")), tuple(parse_hash(line) for line in rest), checkpoint_note)
        except NoteError as error:
            raise Refused(400, f"malformed request: {error}") from error


def judge(known: Head, submission: Submission, checkpoint: Checkpoint) -> Head:
    """Return the head to remember if `checkpoint` extends `known`; pure. The checkpoint's signature must have been verified.

    Raises:
        Refused: 400, 409 or 422, in the order of the specification.
    """
    if submission.old_size > checkpoint.size:
        raise Refused(400, f"old size `{submission.old_size}` is greater than the checkpoint's `{checkpoint.size}`")
    if submission.old_size != known.size:
        raise Refused(409, f"the last cosigned size is `{known.size}`, not `{submission.old_size}`", known_size=known.size)
    if known.size == checkpoint.size and known.root != checkpoint.root:
        raise Refused(409, f"another root was cosigned for size `{known.size}`", known_size=known.size)
    try:
        verify_consistency(known.size, checkpoint.size, known.root, checkpoint.root, submission.proof)
    except ProofError as error:
        raise Refused(422, str(error)) from error
    return Head(checkpoint.size, checkpoint.root)


class State(Protocol):
    """Remembers heads by origin."""

    def load(self) -> dict[str, Head]:
        """Return all heads."""

    def store(self, heads: Mapping[str, Head]) -> None:
        """Remember all heads; durable on return."""


@dataclass(frozen=True, slots=True)
class StateFile:
    """Heads in one JSON file, replaced whole: `{origin: {"size": N, "root": base64}}`."""

    path: Path

    def load(self) -> dict[str, Head]:
        """Return all heads, none if the file does not exist yet.

        Raises:
            NoteError: The file is damaged. A witness that forgets must not start.
        """
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            return {origin: Head(parse_decimal(str(one["size"])), parse_hash(one["root"])) for origin, one in document.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NoteError(
                f"witness state `{self.path}` is damaged: {error}; hint: restore it, an empty one would cosign a rewritten log"
            ) from error

    def store(self, heads: Mapping[str, Head]) -> None:
        """Remember all heads; durable on return."""
        document = {origin: {"size": head.size, "root": base64.b64encode(head.root).decode()} for origin, head in heads.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(self.path.name + ".new")
        with beside.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)  # a crash before this leaves the old heads, after it the new ones
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class Witness:
    """Keeps the heads of the logs it knows and cosigns. `_heads` is replaced under `_lock` alone, never changed."""

    def __init__(self, key: SigningKey, logs: Mapping[str, Sequence[VerifierKey]], state: State, now_s: Callable[[], int]) -> None:
        """Witness the logs given as {origin: keys}, signing with `key` (a `COSIGNATURE_V1` key) at times `now_s()`."""
        if key.kind != COSIGNATURE_V1:
            raise NoteError(f"a witness key has type 0x04, `{key.name}` has `0x{key.kind:02x}`; hint: generate it as a witness key")
        self._key = key
        self._logs = {origin: tuple(keys) for origin, keys in logs.items()}
        self._state = state
        self._now_s = now_s
        self._lock = threading.Lock()
        self._heads = state.load()

    @property
    def verifier(self) -> VerifierKey:
        """Return the key others verify cosignatures with."""
        return self._key.verifier

    def known(self, origin: str) -> Head:
        """Return the last head cosigned for a log, the empty one if none."""
        return self._heads.get(origin, Head())

    def add_checkpoint(self, old_size: int, proof: Sequence[bytes], checkpoint_note: bytes) -> str:
        """Check a new head against the last one, remember it, and return the cosignature line.

        Raises:
            Refused: 400, 403, 404, 409 or 422.
        """
        submission = Submission(old_size, tuple(proof), checkpoint_note)
        parsed, checkpoint = self._open(checkpoint_note)
        with self._lock:
            head = judge(self.known(checkpoint.origin), submission, checkpoint)
            if head != self._heads.get(checkpoint.origin):
                heads = {**self._heads, checkpoint.origin: head}
                self._state.store(heads)  # if this fails nothing is remembered and nothing is signed
                self._heads = heads
            return note.make_signature(parsed.text, self._key, time_s=self._now_s()).line()

    def _open(self, data: bytes) -> tuple[Note, Checkpoint]:
        try:
            parsed = note.parse(data)
            checkpoint = Checkpoint.parse(parsed.text)
        except NoteError as error:
            raise Refused(400, f"malformed checkpoint: {error}") from error
        keys = self._logs.get(checkpoint.origin)
        if keys is None:
            raise Refused(404, f"origin `{checkpoint.origin}` is not witnessed here")
        try:
            note.verify(parsed, keys)
        except NoteError as error:
            raise Refused(403, str(error)) from error
        return parsed, checkpoint


def application(witness: Witness) -> Starlette:
    """Return the ASGI application that serves `POST /add-checkpoint`."""

    async def add_checkpoint(request: Request) -> Response:
        try:
            body = await _read(request)
            one = Submission.parse(body)
            line = await run_in_threadpool(witness.add_checkpoint, one.old_size, one.proof, one.checkpoint_note)
        except Refused as refusal:
            if refusal.known_size is not None:
                return Response(f"{refusal.known_size}\n", 409, headers={"content-type": SIZE_MEDIA_TYPE})
            return Response(f"{refusal}\n", refusal.status, media_type="text/plain; charset=utf-8")
        return Response(line, media_type="text/plain; charset=utf-8")

    return Starlette(routes=[Route("/add-checkpoint", add_checkpoint, methods=["POST"])])


async def _read(request: Request) -> bytes:
    """Return the body, refusing it as soon as it is too long."""
    parts, total = [], 0
    try:
        async for chunk in request.stream():
            total += len(chunk)
            if total > REQUEST_LIMIT_BYTES:
                raise Refused(413, f"a request has at most {REQUEST_LIMIT_BYTES} bytes")
            parts.append(chunk)
    except ClientDisconnect as error:
        raise Refused(400, "the client went away") from error
    return b"".join(parts)


def request_cosignature(
    client: httpx.Client,
    url: str,
    witness_key: VerifierKey,
    checkpoint_note: bytes,
    *,
    old_size: int,
    prove: Callable[[int], Sequence[bytes]],
) -> note.Signature:
    """Submit a checkpoint to a witness and return its cosignature, verified.

    Args:
        client: With the timeouts wanted.
        url: The witness's submission prefix.
        witness_key: Its key; another key's cosignature is worth nothing here.
        checkpoint_note: The signed checkpoint.
        old_size: The size it cosigned last, as far as known (0 if unknown). When it says otherwise, once, its answer is taken.
        prove: Gives the consistency proof from a size to the checkpoint; called with `old_size`, then perhaps with the witness's.

    Raises:
        Refused: The witness said no, could not be reached (status 503), or answered with something that is no cosignature (status 502).
    """
    answer = _submit(client, url, Submission(old_size, tuple(prove(old_size)), checkpoint_note))
    if answer.status == 409 and answer.media_type.startswith(SIZE_MEDIA_TYPE):
        known_size = _conflict_size(answer.body, old_size, checkpoint_note)
        answer = _submit(client, url, Submission(known_size, tuple(prove(known_size)), checkpoint_note))
    if answer.status != 200:
        raise Refused(answer.status, f"witness `{witness_key.name}` answered {answer.status}: {answer.body[:200].decode(errors='replace')}")
    parsed = note.parse(checkpoint_note)
    try:
        lines = answer.body.decode().removesuffix("\n").split("\n")
        offered = tuple(note.parse_signature_line(line) for line in lines[: note.SIGNATURE_LIMIT])
        return note.verify(Note(parsed.text, offered), [witness_key])[0].signature
    except (UnicodeDecodeError, NoteError) as error:
        raise Refused(502, f"witness `{witness_key.name}` did not answer with its cosignature: {error}") from error


class _Answer(NamedTuple):
    status: int
    media_type: str
    body: bytes


def _submit(client: httpx.Client, url: str, submission: Submission) -> _Answer:
    """Send a request; what is read of the answer is bounded."""
    asked = f"{url.rstrip('/')}/add-checkpoint"
    try:
        with client.stream("POST", asked, content=submission.encode(), headers={"accept-encoding": "identity"}, follow_redirects=False) as reply:
            if reply.headers.get("content-encoding", "identity").lower() != "identity":
                raise Refused(502, f"witness at `{url}` answers in a coding that was not asked for, which could stand for any number of bytes")
            body = b""
            for piece in reply.iter_bytes(ANSWER_LIMIT_BYTES):
                body += piece
                if len(body) > ANSWER_LIMIT_BYTES:
                    raise Refused(502, f"witness at `{url}` answered more than {ANSWER_LIMIT_BYTES} bytes")
            return _Answer(reply.status_code, reply.headers.get("content-type", ""), body)
    except httpx.HTTPError as error:
        raise Refused(503, f"witness at `{url}` cannot be reached: {type(error).__name__}: {error}") from error


def _conflict_size(told: bytes, old_size: int, checkpoint_note: bytes) -> int:
    """Return the size a witness says it has, if a proof from there can exist."""
    try:
        known_size = parse_decimal(told.decode("ascii", "replace").removesuffix("\n"))
    except NoteError as error:
        raise Refused(502, f"the witness answered 409 without a size: {error}") from error
    size = Checkpoint.parse(note.parse(checkpoint_note).text).size
    if known_size > size:
        raise Refused(409, f"the witness has seen size `{known_size}`, this checkpoint has `{size}`: this log was rolled back", known_size=known_size)
    if known_size == old_size:
        raise Refused(409, f"the witness has cosigned another root for size `{known_size}`: this log is forked", known_size=known_size)
    return known_size


def add_cosignatures(checkpoint_note: bytes, signatures: Sequence[note.Signature]) -> bytes:
    """Return the checkpoint with these signatures after its own, each key once: a newer one replaces an older one."""
    parsed = note.parse(checkpoint_note)
    merged: dict[tuple[str, bytes], Any] = {(one.name, one.key_id): one for one in (*parsed.signatures, *signatures)}
    return Note(parsed.text, tuple(merged.values())).encode()
