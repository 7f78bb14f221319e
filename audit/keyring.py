"""Which keys may sign a log, and for which sizes: what an auditor gets from the log's owner once and keeps.

A log outlives its keys. When one follows another, both sign for a while; then the old one ends. A *key policy* says so in text, one key a line:

    # Keys of assay.example/prod, published 2026-11-21
    log assay.example/prod+fed74a0e+ATtq... until 180000
    log assay.example/prod+77aa10c2+AZ9q... from 150000
    witness witness.example+1f2e3d4c+BAsd...

Rules:

- `from N` and `until N` bound the sizes of the checkpoints a key may sign, both included. A checkpoint that carries a signature of a key outside its
  bounds is refused whole, also when another key signed it rightly: somebody used a key that had ended, or had not begun.
- The key of a stolen or lost machine is revoked by an `until` at the last size that is known to be honest (a kept or witnessed head).
- Unknown words, bounds that exclude everything, and one key twice are errors: a policy is read whole or not at all.
- A line ends with a newline and with nothing else: what looks like a part of a comment is one.

Example:
    policy = parse_policy(Path("log.keys").read_text())
    verify_log(source, policy.log_keys, witnesses=policy.witnesses)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from audit.keys import COSIGNATURE_V1, InvalidKey, VerifierKey
from audit.merkle import SIZE_LIMIT

POLICY_LIMIT_BYTES: Final = 64 * 1024
_LAST_SIZE: Final = SIZE_LIMIT - 1


@dataclass(frozen=True, slots=True)
class BoundedKey:
    """A log's key and the sizes of checkpoints it may sign, both bounds included."""

    key: VerifierKey
    first_size: int = 0
    last_size: int = _LAST_SIZE

    def __post_init__(self) -> None:
        if not 0 <= self.first_size <= self.last_size < SIZE_LIMIT:
            raise InvalidKey(f"key `{self.key.name}+{self.key.id.hex()}` has no size to sign: from `{self.first_size}` until `{self.last_size}`")

    def allows(self, size: int) -> bool:
        """Say whether the key may sign a checkpoint of `size`."""
        return self.first_size <= size <= self.last_size

    def line(self) -> str:
        """Return the key's line in a policy, without newline."""
        first = f" from {self.first_size}" if self.first_size else ""
        last = f" until {self.last_size}" if self.last_size != _LAST_SIZE else ""
        return f"log {self.key}{first}{last}"


LogKey = VerifierKey | BoundedKey
"""A log's key, with or without bounds."""


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """The keys of one log and of the witnesses whose cosignature counts."""

    log_keys: tuple[BoundedKey, ...]
    witnesses: tuple[VerifierKey, ...] = ()

    def text(self) -> str:
        """Return the policy as a file."""
        lines = [*(key.line() for key in self.log_keys), *(f"witness {key}" for key in self.witnesses)]
        return "\n".join(lines) + "\n"


def plain(key: LogKey) -> VerifierKey:
    """Return the key without its bounds."""
    return key.key if isinstance(key, BoundedKey) else key


def is_policy(text: str) -> bool:
    """Say whether a file's text is a policy rather than one bare key."""
    return any(line.split(" ", 1)[0] in {"log", "witness"} for line in text.split("\n"))


def parse_policy(text: str) -> KeyPolicy:
    """Read a key policy.

    Raises:
        InvalidKey: A line is not understood, a key is malformed or named twice, or there is no log key. Names the line.
    """
    if len(text) > POLICY_LIMIT_BYTES:
        raise InvalidKey(f"a key policy has at most {POLICY_LIMIT_BYTES} characters")
    log_keys: list[BoundedKey] = []
    witnesses: list[VerifierKey] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        try:
            key = _line(words)
        except InvalidKey as error:
            raise InvalidKey(f"line {number}: {error}") from error
        if isinstance(key, BoundedKey):
            log_keys.append(key)
        else:
            witnesses.append(key)
    every = [*(one.key for one in log_keys), *witnesses]
    if not log_keys or len(set(every)) != len(every):
        raise InvalidKey("a key policy names at least one log key, and each key once")
    return KeyPolicy(tuple(log_keys), tuple(witnesses))


def _line(words: list[str]) -> LogKey:
    """Read one line: a log's key with its bounds, or a witness's."""
    if words[0] == "log" and len(words) >= 2:
        return _bounded(words[1], words[2:])
    if words[0] == "witness" and len(words) == 2:
        return _witness(words[1])
    raise InvalidKey(f"`{words[0][:40]}` is not understood; a line is `log KEY [from SIZE] [until SIZE]` or `witness KEY`")


def _witness(text: str) -> VerifierKey:
    key = VerifierKey.parse(text)
    if key.kind != COSIGNATURE_V1:
        raise InvalidKey(f"key `{key.name}` is not a witness's")
    return key


def _bounded(text: str, words: list[str]) -> BoundedKey:
    key = VerifierKey.parse(text)
    if key.kind == COSIGNATURE_V1:
        raise InvalidKey(f"key `{key.name}` is a witness's, not a log's")
    bounds = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) != 2 * len(bounds) or not set(bounds) <= {"from", "until"}:
        raise InvalidKey(f"`{' '.join(words)[:80]}`: bounds read `from SIZE` and `until SIZE`, each at most once")
    sizes = {word: _size(value) for word, value in bounds.items()}
    return BoundedKey(key, sizes.get("from", 0), sizes.get("until", _LAST_SIZE))


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and (text == "0" or text[0] != "0") and int(text) < SIZE_LIMIT):
        raise InvalidKey(f"`{text[:24]}` is not a size: a decimal number without leading zeros")
    return int(text)
