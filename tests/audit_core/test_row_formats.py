"""Rows as files: what a record holds is data wherever it is opened."""

from __future__ import annotations

import csv
import io

import pytest

from audit.formats import render_rows
from audit.query import Row


@pytest.mark.parametrize("rule", ["=HYPERLINK(A1)", "+1", "-1", "@SUM(A1)", "\tx"])
def test_no_cell_of_a_csv_is_a_formula_for_a_spreadsheet(rule: str):
    row = Row(1, "2026-11-21T00:00:00.000000Z", "call", "id", "acme", "key:k", rule=rule, status=403)
    (read,) = csv.DictReader(io.StringIO(render_rows("csv", [row]).decode()))
    assert read["rule"] == f"'{rule}"
    assert (read["actor"], read["status"], read["idx"]) == ("key:k", "403", "1")
