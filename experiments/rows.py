"""People's own files, read in chunks of columns: CSV and Parquet.

Rules: rows are never all in memory; a missing value (empty cell, null) is NaN in a chunk, and a cell that *says* NaN, infinity or no number is an
error with its row; only the columns asked for are read. Row numbers count the header as row 1, as editors do.

Example:
    >>> for chunk in read_file(Path("visits.csv"), "user", "variant", ["bought"]):
    ...     chunk.values["bought"].sum()
    31.0
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CHUNK_ROWS = 131_072
BLOCK_CHARACTERS = 1 << 22
"""Text read at a time from a CSV file."""
_PLAIN_QUOTED = re.compile(r'[,\n]"[^",\n\r]*"(?=[,\n])')
MOST_SHOWN = 60
"""Characters of a wrong cell that an error shows."""
LARGEST = 1e150
"""Values beyond it are refused: their squares would overflow."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows.

    Attributes:
        first_row: number of the first.
        units: text of the unit, not empty.
        arms: text of the arm, not empty.
        values: column -> numbers; NaN where missing.
    """

    first_row: int
    units: Sequence[str]
    arms: Sequence[str]
    values: Mapping[str, Array]


def read_file(path: Path, unit: str, arm: str, columns: Sequence[str]) -> Iterator[Chunk]:
    """Read a CSV file with a header, or a Parquet file (by its suffix `.parquet` or `.pq`).

    Raises:
        ValueError: a missing column, a ragged row, a cell that is no number, an empty unit or arm - with the row.
        OSError: the file cannot be read.
        ImportError: a Parquet file, and `pyarrow` is not installed.
    """
    if path.suffix.lower() in (".parquet", ".pq"):
        yield from _read_parquet(path, unit, arm, columns)
        return
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            header = next(csv.reader(file), None)
            if header is None:
                raise ValueError("the file is empty; a header line is needed")
            _has_columns(header, [unit, arm, *columns])
            yield from _read_csv(header, file, unit, arm, columns)
        except csv.Error as error:
            raise ValueError(f"not readable as CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"not readable as UTF-8: byte `0x{error.object[error.start]:02x}`; hint: export it as `CSV UTF-8`") from error


def read_rows(rows: Iterable[Mapping[str, str]], unit: str, arm: str, columns: Sequence[str]) -> Iterator[Chunk]:
    """Read rows that are mappings of text, as `csv.DictReader` gives them. Raises as `read_file`."""
    wanted = list(dict.fromkeys((unit, arm, *columns)))
    remaining = iter(rows)
    number = 2
    while block := list(islice(remaining, CHUNK_ROWS)):
        for at, row in enumerate(block):
            for name in wanted:
                if row.get(name) is None:
                    raise ValueError(f"row {number + at} has no column `{name}`; columns: {_named(name for name in row if name)}")
        yield _chunk(number, {name: [row[name] for row in block] for name in wanted}, unit, arm, columns)
        number += len(block)


def _read_csv(header: list[str], file: TextIO, unit: str, arm: str, columns: Sequence[str]) -> Iterator[Chunk]:
    """Split blocks of text where that is all there is to do; where it is not, hand the rest of the file to the CSV module."""
    at = {name: header.index(name) for name in (unit, arm, *columns)}
    number = 2
    while block := file.read(BLOCK_CHARACTERS):
        block += file.readline()
        texts = _split(block, len(header))
        if texts is None:
            rest = itertools.chain(io.StringIO(block, newline=""), file)
            yield from _read_lists(header, csv.reader(rest), number, (unit, arm), columns)
            return
        stride = len(header) + 1
        yield _chunk(number, {name: texts[place::stride] for name, place in at.items()}, unit, arm, columns)
        number += len(texts) // stride


def _split(block: str, width: int) -> list[str] | None:
    """Cells of complete lines, each line followed by a cell with its line end; None where the CSV module has to look."""
    text = block.replace("\r\n", "\n")
    quotes = text.count('"')
    if quotes:
        # Quotes that only wrap a plain cell can go; any other (a comma, line end or quote within) is for the CSV module.
        if len(_PLAIN_QUOTED.findall("\n" + text)) * 2 != quotes:
            return None
        text = text.replace('"', "")
    if not text.endswith("\n"):
        text += "\n"
    # One flat list of strings: lists of rows would be 10 times slower, most of it in the garbage collector.
    cells = text.replace("\n", ",\n,").split(",")
    cells.pop()
    ends = cells[width :: width + 1]
    is_table = len(cells) % (width + 1) == 0 and "\r" not in text and ends.count("\n") == text.count("\n") == len(ends)
    return cells if is_table else None


def _read_lists(header: list[str], reader: Iterator[list[str]], number: int, names: tuple[str, str], columns: Sequence[str]) -> Iterator[Chunk]:
    getters = {name: itemgetter(header.index(name)) for name in (*names, *columns)}
    while block := list(islice(reader, CHUNK_ROWS)):
        for at, row in enumerate(block):
            # Blank lines are passed over as in any CSV reader; anything else of another length is an error.
            if row and len(row) != len(header):
                raise ValueError(f"row {number + at} has {len(row)} columns, the header has {len(header)}")
        filled = [row for row in block if row]
        if filled:
            yield _chunk(number, {name: list(map(getter, filled)) for name, getter in getters.items()}, *names, columns)
        number += len(block)


def _read_parquet(path: Path, unit: str, arm: str, columns: Sequence[str]) -> Iterator[Chunk]:
    import pyarrow.compute as pc  # noqa: PLC0415 - an extra, only for these files
    import pyarrow.parquet as pq  # noqa: PLC0415 - an extra, only for these files
    from pyarrow.lib import ArrowException  # noqa: PLC0415 - an extra, only for these files

    try:
        with pq.ParquetFile(path) as file:
            wanted = list(dict.fromkeys((unit, arm, *columns)))
            _has_columns(file.schema_arrow.names, wanted)
            number = 2
            for batch in file.iter_batches(batch_size=CHUNK_ROWS, columns=wanted):
                values = {}
                for name in columns:
                    numbers = pc.cast(batch.column(name), "float64")
                    values[name] = _finite(numbers.to_numpy(zero_copy_only=False), numbers.is_null().to_numpy(zero_copy_only=False), name, number)
                texts = [pc.fill_null(pc.cast(batch.column(name), "string"), "").to_pylist() for name in (unit, arm)]
                yield Chunk(number, *_not_empty(texts, (unit, arm), number), values)
                number += batch.num_rows
    except ArrowException as error:
        raise ValueError(f"not readable as Parquet: {error}") from error


def _has_columns(there: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in there:
            raise ValueError(f"there is no column `{name}`; columns: {_named(there)}")
        if list(there).count(name) > 1:
            raise ValueError(f"the column `{name}` is there twice")


def _chunk(number: int, texts: Mapping[str, list[str]], unit: str, arm: str, columns: Sequence[str]) -> Chunk:
    values = {name: _numbers(texts[name], name, number) for name in columns}
    return Chunk(number, *_not_empty([texts[unit], texts[arm]], (unit, arm), number), values)


def _not_empty(texts: list[list[str]], names: tuple[str, str], number: int) -> tuple[list[str], list[str]]:
    for column, name, word in zip(texts, names, ("unit", "arm"), strict=True):
        if "" in column:
            raise ValueError(f"row {number + column.index('')} has an empty {word} (column `{name}`); hint: leave out such rows")
    return texts[0], texts[1]


def _numbers(texts: list[str], name: str, number: int) -> Array:
    try:
        values = np.array(list(map(float, texts)))
        missing = np.zeros(len(texts), dtype=np.bool_)
    except ValueError:
        missing = np.array([not text.strip() for text in texts])
        values = np.array([math.nan if gone else _number(text) for text, gone in zip(texts, missing, strict=True)])
    return _finite(values, missing, name, number, texts)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _finite(values: Array, missing: NDArray[np.bool_], name: str, number: int, texts: Sequence[Any] | None = None) -> Array:
    # Written so that NaN is caught too.
    wrong = ~(np.abs(values) <= LARGEST) & ~missing
    if wrong.any():
        at = int(np.argmax(wrong))
        said = f"{texts[at]:.{MOST_SHOWN}}" if texts is not None else f"{values[at]:g}"
        raise ValueError(f"row {number + at}: `{said}` in column `{name}` is not a number below 1e150; hint: leave a missing value empty")
    return np.where(missing, np.nan, values)


def _named(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
