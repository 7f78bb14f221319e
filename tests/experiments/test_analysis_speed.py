"""Analysis of large files: time, and memory that does not grow with rows (nor, sorted, with units)."""

import time
import tracemalloc

import numpy as np
import pytest

from experiments.analysis import analyze, needed_columns, parse_metric
from experiments.rows import Chunk, read_file

METRICS = [parse_metric("bought:ratio"), parse_metric("spent:mean")]


def sorted_chunks(count, units=2000):
    """Chunks of rows sorted by unit, two rows a unit, made one at a time."""
    rng = np.random.default_rng(1)
    for number in range(count):
        names = [f"{number * units + unit // 2:09}" for unit in range(2 * units)]
        arms = ["ab"[unit // 2 % 2] for unit in range(2 * units)]
        values = {"bought": (rng.random(2 * units) < 0.1).astype(float), "spent": rng.gamma(2, 3, 2 * units)}
        yield Chunk(2 + number * 2 * units, names, arms, values)


def peak_of(count):
    tracemalloc.start()
    try:
        result = analyze(sorted_chunks(count), METRICS, control="a", is_sorted=True)
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


def test_memory_of_a_sorted_stream_does_not_grow_with_its_units():
    peak_of(2)
    (few, _), (many, result) = peak_of(4), peak_of(24)
    assert result["rows"] == 24 * 4000
    assert sum(result["units"].values()) == 24 * 2000
    assert many < 1.3 * few


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_million_rows_are_analysed_within_20_seconds_of_processor_time(tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "rows.csv"
    with path.open("w") as file:
        file.write("user,variant,bought,spent\n")
        for _ in range(100):
            users = rng.integers(0, 1_000_000, 100_000).tolist()
            bought, spent = (rng.random(100_000) < 0.1).astype(int).tolist(), rng.gamma(2, 3, 100_000).round(2).tolist()
            file.write("".join(f"{user},{'ab'[user % 2]},{yes},{money}\n" for user, yes, money in zip(users, bought, spent, strict=True)))
    start = time.process_time()
    result = analyze(read_file(path, "user", "variant", needed_columns(METRICS, None)), METRICS, control="a")
    assert time.process_time() - start <= 20
    assert result["rows"] == 10_000_000
