"""Quantities carry their unit and become whole numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.quantities import parse_duration_us, parse_rate_per_s, parse_share_ppm, parse_size_bytes


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_duration_us, "50ms", 50_000),
        (parse_duration_us, "1.5s", 1_500_000),
        (parse_duration_us, "2h", 7_200_000_000),
        (parse_duration_us, "1d", 86_400_000_000),
        (parse_size_bytes, "10MiB", 10 * 1024**2),
        (parse_size_bytes, "1.5kB", 1500),
        (parse_rate_per_s, "100/s", 100),
        (parse_rate_per_s, "600/min", 10),
        (parse_rate_per_s, 0, 0),
        (parse_share_ppm, "99.9%", 999_000),
        (parse_share_ppm, "100%", 1_000_000),
    ],
)
def test_a_quantity_is_counted_in_its_smallest_unit(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        *((parse_duration_us, value) for value in (10, "10", "", "10 s", "-1s", "1.0000001s", "0.1us", "s", None, True, [], "1S", "\u0661s")),
        *((parse_size_bytes, value) for value in (10, "10", "10mb", "0.5B", "1 MiB", None)),
        *((parse_rate_per_s, value) for value in (5, "5", "61/min", "1/h", True, "1.5/s", None)),
        *((parse_share_ppm, value) for value in (1, "1", "101%", "0.00001%", "-1%", None)),
    ],
)
def test_a_quantity_without_its_unit_or_between_the_units_is_refused(parse, value):
    with pytest.raises(ValueError, match=r"is not|is more"):
        parse(value)


@given(st.integers(0, 10**9))
def test_whole_milliseconds_are_exact(count):
    assert parse_duration_us(f"{count}ms") == count * 1000
