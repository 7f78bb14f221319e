"""From a unit to a number in [0, 1): our own hash, and those of three other systems.

*Native.* `native_hash` is the first 64 bits of SHA-256 over the parts, each preceded by its length in four bytes, so that no two lists of parts
share an encoding. Parts are: salt, purpose (`holdout`, `layer`, `exposure`, `arm`, ...), what the purpose needs (arm name), and last the pseudonym.
The top 53 bits h give u = (h + 1/2) / 2**53, never 0, so its logarithm exists. Digests of configuration are never hashed: a comment moves nobody.

*Compatibility.* `growthbook-v2`, `unleash-murmur3`, `flagd-v2` reproduce those systems' buckets on the raw id, at their own resolution. The vectors
they publish are in `tests/experiments/test_bucketing.py`.

Example:
    >>> bucket("a", "seed", "growthbook-v2")
    0.0505
    >>> bucket("123", "gr1", "unleash-murmur3")
    0.72
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Literal, get_args

Mode = Literal["native", "growthbook-v1", "growthbook-v2", "unleash-murmur3", "flagd-v2"]


def encode_part(part: str) -> bytes:
    """One part of a hash input: four bytes of length, big endian, then UTF-8."""
    data = part.encode()
    return len(data).to_bytes(4, "big") + data


def encode_parts(parts: Iterable[str]) -> bytes:
    """Parts joined without ambiguity."""
    return b"".join(map(encode_part, parts))


def native_hash(*parts: str) -> int:
    """64-bit hash of the parts, as recorded in `route.hashes` (16 hex digits)."""
    return int.from_bytes(sha256(encode_parts(parts)).digest()[:8], "big")


def bucket(unit: str, salt: str, mode: Mode = "native") -> float:
    """Where a unit falls in [0, 1).

    Args:
        unit: the raw id, not empty. Integers must be made text by the caller: `1` and `"1"` are one unit.
        salt: seed (`growthbook-v1`, `growthbook-v2`), groupId (`unleash-murmur3`), flag key (`flagd-v2`), salt (`native`).
        mode: which system's rule.

    Returns:
        n/1000 (`growthbook-v1`), n/10000 (`growthbook-v2`), (1..100 - 1)/100 (`unleash-murmur3`), h/2**32 (`flagd-v2`), 53 bits (`native`).

    Raises:
        ValueError: an empty unit (it would put all anonymous callers in one bucket) or an unknown mode.
    """
    if not unit:
        raise ValueError("an empty unit has no bucket; hint: do not enrol it, and count it")
    if mode == "native":
        return (native_hash(salt, "bucket", unit) >> 11) / 2**53
    if mode == "growthbook-v1":
        return _fnv1a32(unit + salt) % 1_000 / 1_000
    if mode == "growthbook-v2":
        return _fnv1a32(str(_fnv1a32(salt + unit))) % 10_000 / 10_000
    if mode == "unleash-murmur3":
        return murmur3_32(f"{salt}:{unit}".encode()) % 100 / 100
    if mode == "flagd-v2":
        return murmur3_32((salt + unit).encode()) / 2**32
    raise ValueError(f"unknown bucketing mode `{mode}`; allowed: {', '.join(f'`{name}`' for name in get_args(Mode))}")


def _fnv1a32(text: str) -> int:
    """FNV-1a, 32 bits, over UTF-8 (draft-eastlake-fnv, section 2)."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def murmur3_32(data: bytes, seed: int = 0) -> int:
    """MurmurHash3 x86 32-bit (Appleby 2011, `MurmurHash3_x86_32`)."""
    value = seed
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        value ^= _murmur_mix(int.from_bytes(data[start : start + 4], "little"))
        value = ((value << 13 | value >> 19) * 5 + 0xE6546B64) & 0xFFFFFFFF
    if whole < len(data):
        value ^= _murmur_mix(int.from_bytes(data[whole:], "little"))
    value ^= len(data)
    value = (value ^ value >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    value = (value ^ value >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ value >> 16


def _murmur_mix(block: int) -> int:
    block = block * 0xCC9E2D51 & 0xFFFFFFFF
    block = (block << 15 | block >> 17) & 0xFFFFFFFF
    return block * 0x1B873593 & 0xFFFFFFFF
