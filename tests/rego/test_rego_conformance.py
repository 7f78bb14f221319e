"""OPA's own cases, from the Go module cache: at least 99 % pass, and the failures are exactly those `docs/rego.md` names."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance import OPA_VERSION, case_folder, failure, load_cases

pytestmark = [pytest.mark.component("opa"), pytest.mark.filterwarnings("ignore:Parsed a serial number")]
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/rego.md"


def test_opas_cases_pass_but_for_the_documented_ones():
    folder = case_folder()
    if not folder.is_dir():
        pytest.skip(f"no cases; GOFLAGS=-mod=mod go install github.com/open-policy-agent/opa@{OPA_VERSION}")
    cases = [case for case in load_cases(folder) if not case.is_refused]
    assert len(cases) >= 2_200
    failed = {case.note: problem for case in cases if (problem := failure(case)) is not None}
    assert [problem for problem in failed.values() if problem.startswith("CRASH")] == []
    documented = DOCUMENT.read_text(encoding="utf-8")
    assert {note: problem for note, problem in failed.items() if f"`{note}`" not in documented} == {}
    assert len(failed) <= len(cases) // 100
