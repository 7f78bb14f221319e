"""UUIDv7 and record times."""

import uuid
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from gateway.identifiers import Identifiers, Timestamps


@given(st.integers(0, 2**48 - 1))
def test_an_id_is_a_uuid_of_version_7_that_carries_its_milliseconds(now_ms):
    made = uuid.UUID(Identifiers().next(now_ms))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == now_ms


def test_ids_differ_and_sort_by_time():
    ids = Identifiers()
    made = [ids.next(1_700_000_000_000 + index // 10) for index in range(5000)]
    assert len(set(made)) == len(made)
    assert [text[:13] for text in made] == sorted(text[:13] for text in made)


@given(st.integers(0, 4_102_444_800_000_000))
def test_times_are_rfc_3339_with_six_decimals(unix_us):
    text = Timestamps().text(unix_us)
    assert datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC) == datetime.fromtimestamp(0, UTC).__class__.fromtimestamp(
        unix_us // 1_000_000, UTC
    ).replace(microsecond=unix_us % 1_000_000)
