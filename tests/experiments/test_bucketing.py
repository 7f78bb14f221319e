"""Buckets of other systems by their published vectors; native hashes by their promises."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.bucketing import bucket, encode_parts, murmur3_32, native_hash

# growthbook-python tests/cases.json, "hash", version 2: [seed, value, n].
GROWTHBOOK = [
    ("seed", "a", 0.0505),
    ("seed", "b", 0.2696),
    ("foo", "ab", 0.2575),
    ("foo", "def", 0.2019),
    ("90850943850283058242805", "123", 0.7516),
    ("()**(%$##$%#$#", '___)((*":&', 0.0128),
]

# Unleash client specification: normalizedValue(id, groupId) in 1..100.
UNLEASH = [("123", "gr1", 73), ("999", "groupX", 25)]

# SMHasher and Wikipedia vectors of MurmurHash3 x86 32.
MURMUR = [
    (b"", 0, 0),
    (b"", 1, 0x514E28B7),
    (b"hello, world", 0, 0x149BBB7F),
    (b"The quick brown fox jumps over the lazy dog", 0, 0x2E4FF723),
    (b"\x00\x11\x22", 0, 0x8EB51C3D),
    (b"\x00\x11\x22\x33\x44\x55", 0, 0xFC2E4A15),
]

# flagd-testbed evaluator/gherkin/fractional.feature, @fractional-v2: four suits of weight 25 each, in this order.
SUITS = ("clubs", "diamonds", "hearts", "spades")
FLAGD = [
    ("fractional-flag", "jack", "hearts"),
    ("fractional-flag", "queen", "spades"),
    ("fractional-flag", "ten", "clubs"),
    ("fractional-flag", "nine", "diamonds"),
    ("fractional-flag", "3", "clubs"),
    ("shared-seed", "seven", "hearts"),
    ("shared-seed", "eight", "diamonds"),
    ("shared-seed", "nine", "clubs"),
    ("shared-seed", "two", "spades"),
]
FLAGD_EDGES = [("ejOoVL", "lower"), ("bY9fO-", "lower"), ("SI7p-", "lower"), ("6LvT0", "upper"), ("ceQdGm", "upper")]


@pytest.mark.parametrize(("seed", "unit", "expected"), GROWTHBOOK)
def test_growthbook_v2_vectors(seed, unit, expected):
    assert bucket(unit, seed, "growthbook-v2") == expected


@pytest.mark.parametrize(("unit", "group", "normalised"), UNLEASH)
def test_unleash_vectors(unit, group, normalised):
    assert bucket(unit, group, "unleash-murmur3") == (normalised - 1) / 100


@pytest.mark.parametrize(("data", "seed", "expected"), MURMUR)
def test_murmur3_vectors(data, seed, expected):
    assert murmur3_32(data, seed) == expected


@pytest.mark.parametrize(("flag", "unit", "suit"), FLAGD)
def test_flagd_v2_vectors(flag, unit, suit):
    assert SUITS[math.floor(bucket(unit, flag, "flagd-v2") * 4)] == suit


@pytest.mark.parametrize(("unit", "half"), FLAGD_EDGES)
def test_flagd_v2_edges_of_the_hash_range(unit, half):
    assert (bucket(unit, "", "flagd-v2") < 0.5) is (half == "lower")


def test_native_hash_is_sha256_of_length_prefixed_parts():
    # printf '\0\0\0\1a\0\0\0\2bc' | sha256sum
    assert encode_parts(["a", "bc"]) == b"\x00\x00\x00\x01a\x00\x00\x00\x02bc"
    assert f"{native_hash('a', 'bc'):016x}" == "b534ce16ac9c8b36"


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_different_parts_never_share_an_encoding(first, second):
    assert (encode_parts(first) == encode_parts(second)) is (first == second)


@pytest.mark.parametrize("mode", ["native", "growthbook-v2", "unleash-murmur3", "flagd-v2"])
def test_buckets_lie_in_the_half_open_unit_interval_and_are_uniform(mode):
    values = [bucket(f"user-{n}", "salt", mode) for n in range(10_000)]
    assert min(values) >= 0
    assert max(values) < 1
    tenths = [0] * 10
    for value in values:
        tenths[math.floor(value * 10)] += 1
    # Chi-square with 9 degrees of freedom: 33.7 is the 99.99th percentile.
    assert sum((n - 1000) ** 2 / 1000 for n in tenths) < 33.7


@pytest.mark.parametrize("mode", ["native", "growthbook-v2", "unleash-murmur3", "flagd-v2"])
def test_an_empty_unit_has_no_bucket(mode):
    with pytest.raises(ValueError, match="empty unit"):
        bucket("", "salt", mode)


def test_an_unknown_mode_names_the_allowed_ones():
    with pytest.raises(ValueError, match="growthbook-v2"):
        bucket("a", "salt", "growthbook-v9")
