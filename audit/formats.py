"""Rows of an answer in the formats other tools read: CSV, JSON lines, Parquet. Columns and order are those of `audit.query.Row`.

Rules:
- What a row does not have is empty in CSV, left out in JSON lines, null in Parquet.
- Bytes depend on the rows alone: no time, no tool name.
- Parquet needs the extra `parquet`; its absence is `FormatUnavailable`, before anything is read.

Example:
    Path("refused.csv").write_bytes(render_rows("csv", page.rows))
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final, Literal

import msgspec

from audit.query import Row

Format = Literal["jsonl", "csv", "parquet"]
FORMATS: Final[tuple[Format, ...]] = ("jsonl", "csv", "parquet")
MEDIA_TYPES: Final = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
_COLUMNS: Final = Row.__struct_fields__
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_INTEGERS: Final = frozenset({"idx", "status"})


class FormatUnavailable(Exception):  # noqa: N818 - reads as the state it is
    """A format needs a library that is not installed."""


def require(name: Format) -> None:
    """Raise FormatUnavailable if `name` cannot be written here."""
    if name == "parquet" and find_spec("pyarrow") is None:
        raise FormatUnavailable("Parquet needs `pyarrow`; hint: `pip install 'assay-gateway[parquet]'`, or take `csv` or `jsonl`")


def render_rows(name: Format, rows: Sequence[Row]) -> bytes:
    """Return the rows as one file.

    Raises:
        FormatUnavailable: See `require`.
    """
    require(name)
    if name == "jsonl":
        return b"".join(msgspec.json.encode({key: value for key, value in _items(row) if value is not None}) + b"\n" for row in rows)
    return _csv(rows) if name == "csv" else _parquet(rows)


def _items(row: Row) -> list[tuple[str, str | int | None]]:
    return [(name, getattr(row, name)) for name in _COLUMNS]


def _csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows([_inert(value) for _, value in _items(row)] for row in rows)
    return text.getvalue().encode()


def _inert(value: object) -> object:
    """Return a cell that no spreadsheet takes for a formula: what begins like one gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA else value


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import
    from pyarrow import parquet  # noqa: PLC0415 - as above

    fields = [pa.field(name, pa.int64() if name in _INTEGERS else pa.string()) for name in _COLUMNS]
    columns = [pa.array([getattr(row, field.name) for row in rows], type=field.type) for field in fields]
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns, schema=pa.schema(fields)), buffer)
    return buffer.getvalue()
