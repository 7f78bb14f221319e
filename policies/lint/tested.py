"""Tests: where they are, and what they miss."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.subject import Subject, finding, lint_rule, reason_fields, rules_named, walk
from policies.rego import Issue
from policies.rego.syntax import Scalar
from policies.testing.discover import is_test_rule


@lint_rule(
    "untested-reason",
    "a reason no test names",
    "A rule that nobody has seen refusing may never refuse. Write a test that expects its id, in Rego or in `cases.yaml`.",
)
def untested_reason(subject: Subject) -> Iterator[Issue]:
    """The id occurs in no test."""
    named = {node.value for module in subject.tests for node in walk(module.rules) if type(node) is Scalar and isinstance(node.value, str)}
    for module in subject.deciding:
        for rule in rules_named(module, "deny", "warn"):
            term = (reason_fields(rule) or {}).get("id")
            if (
                type(term) is Scalar
                and isinstance(term.value, str)
                and term.value not in named
                and not any(term.value in text for text in subject.cases)
            ):
                yield finding(module, "untested-reason", f"no test names `{term.value}`", term.pos, "write one that expects it")


@lint_rule(
    "test-file",
    "a test in a file that is in force",
    "Only `*_test.rego` stays out of the bundle; a test elsewhere is compiled, signed and shipped with the policy.",
)
def test_file(subject: Subject) -> Iterator[Issue]:
    """`test_x` in `office.rego`."""
    for module in subject.modules:
        if not module.source.name.endswith("_test.rego"):
            for rule in module.rules:
                if is_test_rule(rule):
                    yield finding(
                        module, "test-file", f"`{rule.ref[0].name}` is in force with the policy", rule.pos, "move it to a file `*_test.rego`"
                    )


@lint_rule(
    "test-package",
    "tests in the package they test",
    "They can reach and replace what nobody else can, and their helpers join the policy's document. Name the package `..._test`.",
)
def test_package(subject: Subject) -> Iterator[Issue]:
    """`package policy.office` in `office_test.rego`."""
    for module in subject.modules:
        if module.source.name.endswith("_test.rego") and not str(module.package[-1]).endswith("_test"):
            yield finding(module, "test-package", f"tests of `{'.'.join(module.package)}` are in it", module.package_pos, "add `_test` to its name")
