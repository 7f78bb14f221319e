# ruff: noqa: T201 - a command that prints its report
"""OPA's own conformance cases against this engine.

The cases come with OPA's source in the Go module cache and are read from there, never copied:

    GOFLAGS=-mod=mod go install github.com/open-policy-agent/opa@VERSION    (VERSION: see OPA_VERSION beside this file)
    .venv/bin/python tests/rego/conformance.py [--group withkeyword] [--verbose]

Prints how many v1 cases there are, how many are out of the denominator (they need a refused built-in, see `docs/rego.md`), how many pass,
and every failure. Exit code 1 if fewer than 99 % of the denominator pass.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from policies.rego import Engine, EvaluationError, Limits, PolicyError, RegoError, to_json
from policies.rego.values import UNDEFINED

OPA_VERSION = (Path(__file__).parent / "OPA_VERSION").read_text().strip()
REFUSED = re.compile(
    r"\b(?:http\.send|net\.lookup_ip_addr|opa\.runtime|rand\.intn|uuid\.rfc4122|rego\.parse_module|graphql\.\w+|providers\.aws\.\w+)"
)
LIMITS = Limits(wall_s=10.0)


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C loader is not always built
    """YAML with JSON's booleans: `on` and `yes` are strings, as OPA reads them."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"}]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)\Z"), list("tf"))


@dataclass(frozen=True, slots=True)
class Case:
    """One case and the group (folder) it stands in."""

    group: str
    note: str
    fields: dict[str, Any]

    @property
    def is_refused(self) -> bool:
        """Tell whether the case needs a refused built-in."""
        return bool(REFUSED.search("\n".join([self.fields["query"], *(self.fields.get("modules") or [])])))


def case_folder() -> Path:
    """Return the folder of the v1 cases; it may not exist."""
    cache = os.environ.get("GOMODCACHE")
    if not cache:
        try:
            cache = subprocess.run(["go", "env", "GOMODCACHE"], capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            cache = str(Path.home() / "go/pkg/mod")
    return Path(cache) / f"github.com/open-policy-agent/opa@{OPA_VERSION}" / "v1/test/cases/testdata/v1"


def load_cases(folder: Path) -> Iterator[Case]:
    """Yield all cases below a folder."""
    for path in sorted(folder.rglob("*.yaml")):
        for fields in yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)["cases"]:  # noqa: S506 - a SafeLoader
            yield Case(path.relative_to(folder).parts[0], fields["note"], fields)


def failure(case: Case) -> str | None:
    """Run one case; return None if it passes, else what went wrong."""
    fields = case.fields
    modules = {f"module{index}.rego": text for index, text in enumerate(fields.get("modules") or [])}
    wants_error = "want_error_code" in fields or "want_error" in fields
    try:
        engine = Engine(modules, fields.get("data") or {}, LIMITS, strict_builtin_errors=bool(fields.get("strict_error")))
        document = _input(fields)
        found = engine.eval(fields["query"], input=document, now_ns=time.time_ns())
    except RegoError as error:
        if not wants_error:
            return f"error: {str(error)[:300]}"
        code = fields.get("want_error_code")
        if isinstance(error, EvaluationError) and code in {None, error.code}:
            return None
        return None if isinstance(error, PolicyError) and code is None else f"wanted error {code}, got {str(error)[:200]}"
    except Exception as error:  # noqa: BLE001 - a crash is a finding of its own, the run goes on
        return f"CRASH {type(error).__name__}: {error}"
    if wants_error:
        return f"wanted error {fields.get('want_error_code') or fields.get('want_error')}, got {found!r:.200}"
    return _compare(fields, found)


def _input(fields: dict[str, Any]) -> Any:
    if "input_term" in fields:
        return Engine({}).eval("x := " + fields["input_term"])[0]["x"]
    return fields.get("input", UNDEFINED)


def _compare(fields: dict[str, Any], found: list[dict[str, Any]]) -> str | None:
    if "want_result" in fields:
        wanted = fields["want_result"] or []
        got = [to_json(solution) for solution in found]
        if fields.get("sort_bindings"):
            got = [{key: _sorted(value) for key, value in solution.items()} for solution in got]
            wanted = [{key: _sorted(value) for key, value in solution.items()} for solution in wanted]
        ours, theirs = sorted(map(_text, got)), sorted(map(_text, wanted))
        return None if ours == theirs else f"want {theirs!s:.300}\n         got {ours!s:.300}"
    if "want_defined" in fields:
        return None if bool(found) == fields["want_defined"] else f"defined: {bool(found)}"
    return None


def _sorted(value: Any) -> Any:
    return sorted(value, key=_text) if isinstance(value, list) else value


def _text(value: Any) -> str:
    """Canonical text in which 1 and 1.0 are one number and true is none."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{_text(item)}" for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return repr(value)
    return f"n{value:f}".rstrip("0").rstrip(".") if not isinstance(value, int) else f"n{value}"


def main() -> int:
    """Run the cases and print the report."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--group")
    options.add_argument("--short", action="store_true", help="print only notes of failures")
    given = options.parse_args()
    folder = case_folder()
    if not folder.is_dir():
        print(f"no cases at `{folder}`\nhint: GOFLAGS=-mod=mod go install github.com/open-policy-agent/opa@{OPA_VERSION}")
        return 3
    cases = list(load_cases(folder))
    counted = [case for case in cases if not case.is_refused and given.group in {None, case.group}]
    failures: Counter[str] = Counter()
    for case in counted:
        problem = failure(case)
        if problem is not None:
            failures[case.group] += 1
            print(f"FAIL {case.group} | {case.note}" + ("" if given.short else f"\n     {problem}"))
    passed = len(counted) - sum(failures.values())
    print(f"\nOPA {OPA_VERSION}: {len(cases)} v1 cases, {sum(case.is_refused for case in cases)} need a refused built-in")
    print(f"denominator {len(counted)}, passed {passed} ({100 * passed / max(len(counted), 1):.2f} %)")
    for group, count in failures.most_common():
        print(f"  {count:4d} {group}")
    return 0 if passed >= 0.99 * len(counted) else 1


if __name__ == "__main__":
    sys.exit(main())
