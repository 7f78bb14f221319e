"""Writes the dump of the newest schema of each family, with a few rows: `python make.py`, once for each released revision."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from audit.store.migrate import CONTROL, RANGES, VAULT, ensure_schema

ROWS = {
    RANGES: [
        "INSERT INTO leaf VALUES (0, 'n1.w0', 1763632800000, 0, x'7b7d')",
        "INSERT INTO leaf VALUES (1, 'n1.w0', 1763632800000, 1, x'7b2276223a317d')",
        "INSERT INTO writer VALUES ('n1.w1', 1763632800000, 41, 1)",
    ],
    CONTROL: [
        "INSERT INTO term VALUES (1, 'n1.controller', 1763632800000000)",
        "INSERT INTO checkpoint VALUES (2, zeroblob(32), x'6e6f7465', 1)",
        "INSERT INTO bundle VALUES (1, 'sha256:00', 1, 1763632800000000)",
    ],
    VAULT: [
        "INSERT INTO vault_key VALUES (x'00', 'acme', 'ab', x'01', '0123456789abcdef', x'02', 1763632800000000)",
        "INSERT INTO vault_entry VALUES ('019a-1', x'00', 1763632800000000, 1863632800000000, x'03', NULL)",
        "INSERT INTO vault_tombstone VALUES (x'04', 'e1', 1763632800000000, '', '')",
    ],
}

for schema, rows in ROWS.items():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        ensure_schema(path, schema)
        connection = sqlite3.connect(path)
        for row in rows:
            connection.execute(row)
        connection.commit()
        target = Path(__file__).parent / f"{schema.folder}-{schema.head}.sql"
        target.write_text("\n".join(connection.iterdump()) + "\n")
        connection.close()
