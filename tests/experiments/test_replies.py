"""Two replies compared: what agrees, by how much the rest differs, and that nothing incomparable ever passes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.document import PartDocument
from experiments.replies import MOST_DIFFERENCE_PPM, PartResult, compile_comparison
from gateway.protocols.pointer import compile_pointer

leaves = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
documents = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4), max_leaves=12)
kinds = st.sampled_from(["label", "number", "json", "text"])


def compared(kind: str, champion: object, shadow: object, *, at: str = "", **more: object) -> PartResult:
    part = PartDocument(name="it", kind=kind, at=at, max_disagreement_ppm=10_000, **more)
    return compile_comparison((part,), compile_pointer)(champion, shadow)["it"]


@pytest.mark.parametrize(
    ("kind", "champion", "shadow", "agrees"),
    [
        ("label", "yes", "yes", True),
        ("label", "yes", "no", False),
        ("label", 1, 1.0, True),
        ("label", 1, True, False),
        ("label", 1, "1", False),
        ("label", [1], [1], False),
        ("label", None, None, False),
        ("json", {"a": [1, {"b": None}]}, {"a": [1.0, {"b": None}]}, True),
        ("json", {"a": 1}, {"a": 1, "b": 2}, False),
        ("json", [1, 2], [2, 1], False),
        ("json", {"a": True}, {"a": 1}, False),
        ("text", "The cat  sat", "the CAT sat", True),
        ("text", "the cat sat", "the dog sat", False),
        ("text", "", "", True),
        ("text", "one", 1, False),
        ("number", "1", 1, False),
        ("number", True, 1, False),
        ("number", [], [], False),
        ("number", [1, 2], [1], False),
        ("number", [1, [2]], [1, 2], False),
        ("number", 10**400, 10**400, False),
    ],
)
def test_what_agrees(kind, champion, shadow, agrees):
    assert compared(kind, champion, shadow).agrees is agrees


def test_what_is_missing_on_either_side_agrees_with_nothing():
    for kind in ("label", "number", "json", "text"):
        assert not compared(kind, {}, {}, at="/gone").agrees
        assert not compared(kind, {"gone": 1}, {}, at="/gone").agrees
        assert not compared(kind, {}, {"gone": 1}, at="/gone").agrees


@pytest.mark.parametrize(
    ("champion", "shadow", "tolerance_ppm", "relative", "agrees", "difference_ppm"),
    [
        (0.5, 0.51, 10_000, False, True, 10_000),
        (0.5, 0.5101, 10_000, False, False, 10_100),
        (200.0, 202.0, 10_000, True, True, 10_000),
        (200.0, 202.1, 10_000, True, False, 10_500),
        (0, 0, 0, True, True, 0),
        (0, 1e-9, 10_000, True, False, MOST_DIFFERENCE_PPM),
        ([0.1, 0.9], [0.1, 0.8], 100_000, False, True, 100_000),
        ([0.1, 0.9], [0.3, 0.8], 100_000, False, False, 200_000),
        (0, 1e300, 0, False, False, MOST_DIFFERENCE_PPM),
    ],
)
def test_numbers_agree_within_their_tolerance(champion, shadow, tolerance_ppm, relative, agrees, difference_ppm):
    found = compared("number", champion, shadow, tolerance_ppm=tolerance_ppm, relative=relative)
    assert found == PartResult(agrees, difference_ppm)


def test_a_text_may_differ_in_a_share_of_its_words():
    found = compared("text", "a b c d", "a b c e", tolerance_ppm=250_000)
    assert found == PartResult(agrees=True, difference_ppm=250_000)
    assert not compared("text", "a b c d", "a b c e", tolerance_ppm=249_999).agrees


@given(documents)
def test_every_value_is_equal_to_itself(document: object):
    assert compared("json", document, document).agrees


@given(kinds, documents, documents)
def test_agreement_goes_both_ways_and_differences_fit_a_record(kind: str, champion: object, shadow: object):
    there, back = compared(kind, champion, shadow), compared(kind, shadow, champion)
    assert there.agrees is back.agrees
    assert there.difference_ppm is None or 0 <= there.difference_ppm <= MOST_DIFFERENCE_PPM


numbers = st.floats(-1e9, 1e9)


@given(numbers, numbers, st.integers(0, 10**12), st.booleans())
def test_a_wider_tolerance_never_disagrees_where_a_narrower_one_agreed(champion, shadow, tolerance_ppm, relative):
    narrow = compared("number", champion, shadow, tolerance_ppm=tolerance_ppm, relative=relative)
    wide = compared("number", champion, shadow, tolerance_ppm=tolerance_ppm + 1, relative=relative)
    assert wide.agrees or not narrow.agrees


@given(numbers, numbers)
def test_numbers_agree_exactly_where_their_distance_is_within_the_tolerance(champion: float, shadow: float):
    distance = abs(champion - shadow)
    above, below = math.ceil(distance * 1e6) + 2, math.floor(distance * 1e6) - 2
    assert compared("number", champion, shadow, tolerance_ppm=above).agrees
    if below >= 0 and distance > 1e-5:
        slack = 4 * math.ulp(max(abs(champion), abs(shadow), below / 1e6))
        assert compared("number", champion, shadow, tolerance_ppm=below).agrees is (distance <= below / 1e6 + slack)
