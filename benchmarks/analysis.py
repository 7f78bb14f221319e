"""What an analysis of a large file costs: processor time, wall time and peak memory of the command a person would run.

Method: a file of made-up visits is written first, and costs nothing here; then `assay experiment analyze` runs on it as a process of its own, whose
`rusage` is read when it ends. Rows are ten a unit on average. Sorted, the units follow one another and are never held; unsorted, they come in any
order and their totals are held (a tenth of the rows, at most a million units).

Example:
    $ python -m benchmarks.analysis --rows 10000000                       # CSV in any order
    $ python -m benchmarks.analysis --rows 100000000 --parquet --sorted   # 10^8 rows by sufficient statistics, none held
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import machine

BLOCK_ROWS = 1_000_000
ROWS_A_UNIT = 10
MOST_UNSORTED_UNITS = 1_000_000
METRICS = ("bought:ratio", "spent:mean")


@dataclass(frozen=True, slots=True)
class Measured:
    """What one analysis took."""

    rows: int
    units: int
    cpu_s: float
    wall_s: float
    peak_mib: float


def blocks(rows: int, *, is_sorted: bool) -> Iterator[dict[str, Any]]:
    """Give columns block by block: `user`, `variant`, `bought` (0 or 1), `spent`."""
    rng = np.random.default_rng(1)
    units = max(1, rows // ROWS_A_UNIT)
    for first in range(0, rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, rows - first)
        users = np.arange(first, first + count) // ROWS_A_UNIT if is_sorted else rng.integers(0, min(units, MOST_UNSORTED_UNITS), count)
        yield {
            "user": users,
            "variant": np.where(users % 2, "b", "a"),
            "bought": (rng.random(count) < 0.1).astype(np.int64),
            "spent": rng.gamma(2, 3, count).round(2),
        }


def write_csv(path: Path, rows: int, *, is_sorted: bool) -> None:
    """Write the rows as CSV."""
    with path.open("w", encoding="ascii") as file:
        file.write("user,variant,bought,spent\n")
        for block in blocks(rows, is_sorted=is_sorted):
            lines = zip(*(column.tolist() for column in block.values()), strict=True)
            file.write("".join(f"{user},{arm},{yes},{money}\n" for user, arm, yes, money in lines))


def write_parquet(path: Path, rows: int, *, is_sorted: bool) -> None:
    """Write the rows as Parquet; users as text of one width, which sorts as the numbers do."""
    import pyarrow as pa  # noqa: PLC0415 - an extra, only for these files
    import pyarrow.parquet as pq  # noqa: PLC0415 - an extra, only for these files

    schema = pa.schema([("user", pa.string()), ("variant", pa.string()), ("bought", pa.int64()), ("spent", pa.float64())])
    with pq.ParquetWriter(path, schema) as writer:
        for block in blocks(rows, is_sorted=is_sorted):
            block["user"] = np.char.zfill(block["user"].astype(str), 9)
            writer.write_table(pa.table(block, schema=schema))


def measure(path: Path, *, is_sorted: bool) -> Measured:
    """Analyse a file in a process of its own. Raises RuntimeError when the command fails."""
    assay = str(Path(sys.executable).with_name("assay"))
    command = [assay, "experiment", "analyze", str(path), *("--unit", "user", "--arm", "variant", "--control", "a", "--json")]
    command += [word for metric in METRICS for word in ("--metric", metric)] + (["--sorted"] if is_sorted else [])
    began_s = time.monotonic()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdout=told)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took_s = time.monotonic() - began_s
        told.seek(0)
        if process.returncode != 0:
            raise RuntimeError(f"`{' '.join(command)}` ended with {process.returncode}: {told.read(300)!r}")
        result = json.loads(told.read())
    return Measured(result["rows"], sum(result["units"].values()), usage.ru_utime + usage.ru_stime, took_s, usage.ru_maxrss / 1024)


def main() -> None:
    """Write, analyse, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the file (default 10,000,000)")
    parser.add_argument("--parquet", action="store_true", help="a Parquet file instead of CSV")
    parser.add_argument("--sorted", action="store_true", dest="is_sorted", help="rows sorted by unit, and said so to the command")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("rows.parquet" if options.parquet else "rows.csv")
        (write_parquet if options.parquet else write_csv)(path, options.rows, is_sorted=options.is_sorted)
        size_mib = path.stat().st_size / 1048576
        found = measure(path, is_sorted=options.is_sorted)
    print(machine())
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    print(
        f"{found.rows:,} rows, {found.units:,} units, {path.suffix[1:]} of {size_mib:,.0f} MiB{', sorted' if options.is_sorted else ''}: "
        f"{found.cpu_s:.1f} s of processor time, {found.wall_s:.1f} s, {found.peak_mib:,.0f} MiB at most"
    )


if __name__ == "__main__":
    main()
