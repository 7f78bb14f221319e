"""The table of refusals."""

import ast
import re
from pathlib import Path

import pytest
from lane_harness import Harness, route, snapshot_of

from gateway.refusals import CODES, Refusal

ROOT = Path(__file__).parents[2]


def documented() -> dict[str, tuple[str, str]]:
    text = (ROOT / "docs" / "errors.md").read_text()
    return {code: (status, fault) for code, status, fault in re.findall(r"^\| `(\w+)` \| (\d+)[^|]* \| (\w+) \|", text, re.MULTILINE)}


def raised() -> set[str]:
    found = set()
    for path in (ROOT / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refusal" and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    return found


def test_every_code_is_documented_with_its_status_and_fault_and_nothing_else_is():
    assert documented() == {code: (str(row.status), row.fault) for code, row in CODES.items()}


def test_every_code_that_is_raised_stands_in_the_table():
    assert raised() <= CODES.keys()
    assert len(raised()) > 10


@pytest.mark.parametrize("code", CODES)
def test_a_refusal_tells_what_and_what_to_do(code):
    facts = Refusal(code, "what and where").facts("id")
    assert facts["detail"] == "what and where"
    assert facts["hint"]
    assert facts["decision_id"] == "id"


def test_who_leaves_the_unit_out_is_told_both_ways_to_say_it():
    told = Harness(snapshot_of([route(unit_pointer="/customer")])).run().document
    assert (told["code"], "/customer" in told["detail"]) == ("schema_mismatch", True)
    assert "`Assay-Unit`" in told["hint"]


def test_a_model_nobody_knows_is_looked_up_by_the_command_that_lists_them():
    assert "`assay model list`" in CODES["unknown_model"].hint


def test_an_outage_is_never_a_401():
    assert all(row.status >= 500 for row in CODES.values() if row.fault in {"gateway", "upstream"})
