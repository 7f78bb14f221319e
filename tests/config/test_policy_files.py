"""Policies in a configuration folder: compiled as workers will, or refused where they are wrong."""

import shutil
from pathlib import Path

import pytest

from gateway.config.compile import compile_folder
from gateway.documents import digest_of

REFERENCE = Path(__file__).parents[2] / "config"
OFFICE = 'package policy.office\n\nallow if input.tenant != "nobody"\n'


@pytest.fixture
def config(tmp_path):
    shutil.copytree(REFERENCE, tmp_path / "config")
    return tmp_path / "config"


def issues(config):
    return [str(issue) for issue in compile_folder(config).issues]


def test_a_policy_is_in_the_manifest_by_the_digest_of_its_text_and_its_test_is_not(config):
    (config / "policies" / "office.rego").write_text(OFFICE)
    (config / "policies" / "office_test.rego").write_text("package policy.office_test\n\ntest_it if true\n")
    compiled = compile_folder(config)
    assert compiled.issues == ()
    assert compiled.manifest.policies["policies/office.rego"] == digest_of(OFFICE.encode())
    assert "policies/office_test.rego" not in compiled.manifest.policies


@pytest.mark.parametrize("name", ["office.rego", "office_test.rego"])
def test_a_policy_that_does_not_parse_is_told_at_its_line(config, name):
    (config / "policies" / name).write_text("package policy.office\n\nallow if {\n")
    assert any(issue.startswith(f"policies/{name}:") for issue in issues(config))


def test_a_mode_for_a_package_that_does_not_exist_is_told(config):
    (config / "policies" / "office.rego").write_text(OFFICE)
    (config / "policies" / "modes.yaml").write_text("modes: {ofice: warn}\n")
    (issue,) = issues(config)
    assert issue.startswith("policies/modes.yaml:1:")
    assert "did you mean `office`?" in issue
    (config / "policies" / "modes.yaml").write_text("modes: {office: warn}\n")
    assert issues(config) == []
