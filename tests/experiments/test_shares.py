"""Integer shares: exact sums, no dependence on order, honest refusals."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.shares import WHOLE, format_share, integer_shares, parse_share, share_of

weights = st.dictionaries(st.text("abcdefgh", min_size=1), st.integers(0, 10**6), min_size=1).filter(lambda found: sum(found.values()) > 0)


@given(weights)
def test_shares_sum_to_exactly_the_whole_and_lie_within_one_of_the_exact_value(found):
    shares = integer_shares(found)
    assert sum(shares.values()) == WHOLE
    total = sum(found.values())
    for arm, weight in found.items():
        assert abs(shares[arm] - Fraction(weight * WHOLE, total)) < 1


@given(weights, st.randoms())
def test_order_of_arms_and_scale_of_weights_are_irrelevant(found, random):
    arms = list(found)
    random.shuffle(arms)
    assert integer_shares({arm: found[arm] * 7 for arm in arms}) == integer_shares(found)


def test_thirds_give_the_odd_unit_to_the_first_name():
    third = Fraction(1, 3)
    assert integer_shares({"c": third, "b": third, "a": third}) == {"a": 1431655766, "b": 1431655765, "c": 1431655765}


def test_a_positive_weight_that_rounds_to_nothing_is_refused():
    with pytest.raises(ValueError, match="`b` is below"):
        integer_shares({"a": 2**40, "b": 1})


@pytest.mark.parametrize("found", [{}, {"a": 0}, {"a": -1, "b": 3}])
def test_weights_without_a_positive_sum_are_refused(found):
    with pytest.raises(ValueError, match="weights must be"):
        integer_shares(found)


@pytest.mark.parametrize(("text", "share"), [("1%", 42949673), ("0%", 0), ("100%", WHOLE), ("0.5%", 21474836), ("50%", WHOLE // 2)])
def test_percentages_become_the_nearest_integer(text, share):
    assert share_of(parse_share(text)) == share
    assert format_share(share) == text


@pytest.mark.parametrize("text", ["1", "101%", "-1%", "1 %", "one", "1%\n", "", 5, None, "1e1%"])
def test_what_is_no_percentage_is_refused(text):
    with pytest.raises(ValueError, match="%"):
        parse_share(text)
