"""Cases in YAML: what a package that decides must say of a call, for people who do not write Rego.

```yaml
input_file: call.json            # or `input:` with the document itself; every case starts from it
cases:
  - case: a candidate of high risk is refused
    change: {model.risk: high, model.stage: candidate}
    expect: {decision: deny, deny: [OFFICE-2]}
  - case: the review team may pass
    change: {model.risk: high, model.stage: candidate, subject.scopes: ["infer", "version:pin"]}
    expect: {decision: allow}
```

Rules:

- `change` gives places that are in the input another value, `add` makes new ones, `remove` takes some away. A place is a dotted path
  (`approvals.0.person`), or a JSON pointer where a name has a dot (`/labels/a.b`). To change or remove what is not there is an error: a misspelt
  name would test nothing.
- `params` sets places of `data.params`; `now` is what the clock says.
- `expect` names at least one of `decision` (allow, deny, allow_with_warnings), `deny`, `warn` (ids, exactly these), `obligations` (types, exactly
  these) and `values` (a reference and its document, `undefined` for none).
- Judged are the packages among the policies given that are asked at the point of the input (`request` where it names none), together and all in
  `enforce`; `packages` names fewer, or shipped ones too.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from policies.sources import SourceError, item_lines, parse_document, read_document

DECISIONS: Final = ("allow", "deny", "allow_with_warnings")
UNDEFINED_WORD: Final = "undefined"
_FILE_KEYS: Final = frozenset({"input", "input_file", "packages", "params", "cases"})
_CASE_KEYS: Final = frozenset({"case", "change", "add", "remove", "params", "now", "packages", "expect", "todo"})
_EXPECT_KEYS: Final = frozenset({"decision", "deny", "warn", "obligations", "values"})
_MICROSECOND_NS: Final = 1000


@dataclass(frozen=True, slots=True)
class Expected:
    """What a case expects; None for what it does not look at."""

    decision: str | None
    deny: frozenset[str] | None
    warn: frozenset[str] | None
    obligations: frozenset[str] | None
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One case, its input put together."""

    file: str
    line: int
    name: str
    document: Any
    params: Mapping[str, Any]
    """Places of `data.params` and their values."""
    now_ns: int | None
    packages: tuple[str, ...]
    """Without `policy.`; empty for all that decide among the policies given."""
    expect: Expected
    is_todo: bool

    @property
    def path(self) -> tuple[str, ...]:
        """A key of its own among all tests."""
        return ("cases", self.file, self.name)


def load_cases(file: str, text: str) -> list[Case]:
    """Read a file of cases.

    Raises:
        SourceError: with file and line: no YAML, an unknown key, a place that is not there, nothing expected.
    """
    document = parse_document(text, file)
    top = _mapping(document, _FILE_KEYS, f"{file}:1")
    if ("input" in top) == ("input_file" in top):
        raise SourceError(f"{file}:1: cases start from `input` or from `input_file`", "write one of them")
    base = top["input"] if "input" in top else read_document(Path(file).parent / _text(top["input_file"], f"{file}:1", "input_file"))
    listed = top.get("cases")
    if not isinstance(listed, list) or not listed:
        raise SourceError(f"{file}:1: `cases` is a list with at least one case")
    found: list[Case] = []
    for entry, line in zip(listed, item_lines(text, "cases"), strict=True):
        case = _case(entry, top, base, file, line)
        if any(case.name == other.name for other in found):
            raise SourceError(f"{file}:{line}: there are two cases `{case.name}`", "give one another name")
        found.append(case)
    return found


def _case(entry: Any, top: Mapping[str, Any], base: Any, file: str, line: int) -> Case:
    place = f"{file}:{line}"
    entry = _mapping(entry, _CASE_KEYS, place)
    if "case" not in entry or "expect" not in entry:
        raise SourceError(f"{place}: a case has a name and an expectation", "`- case: what happens`, `expect: {decision: deny}`")
    document = copy.deepcopy(base)
    for path, value in _mapping(entry.get("change", {}), None, place).items():
        document = _set(document, path, value, place, must_exist=True)
    for path, value in _mapping(entry.get("add", {}), None, place).items():
        document = _set(document, path, value, place, must_exist=False)
    for path in _texts(entry.get("remove", []), place, "remove"):
        _remove(document, path, place)
    params = {**_mapping(top.get("params", {}), None, place), **_mapping(entry.get("params", {}), None, place)}
    named = _texts(entry.get("packages", top.get("packages", [])), place, "packages")
    packages = tuple(name.removeprefix("policy.") for name in named)
    return Case(
        file=file,
        line=line,
        name=_text(entry["case"], place, "case"),
        document=document,
        params=params,
        now_ns=_moment(entry.get("now"), place),
        packages=packages,
        expect=_expected(entry["expect"], place),
        is_todo=entry.get("todo") is True,
    )


def _expected(entry: Any, place: str) -> Expected:
    entry = _mapping(entry, _EXPECT_KEYS, place)
    if not entry:
        raise SourceError(f"{place}: nothing is expected", f"name one of {', '.join(sorted(_EXPECT_KEYS))}")
    decision = entry.get("decision")
    if decision is not None and decision not in DECISIONS:
        raise SourceError(f"{place}: decision `{decision}`", f"one of {', '.join(DECISIONS)}")
    sets = {name: frozenset(_texts(entry[name], place, name)) if name in entry else None for name in ("deny", "warn", "obligations")}
    values = _mapping(entry.get("values", {}), None, place)
    for ref in values:
        if not re.fullmatch(r"data(\.[A-Za-z_][A-Za-z0-9_]*)+", ref):
            raise SourceError(f"{place}: `{ref}` is no reference", "for example `data.policy.office.needed`")
    return Expected(decision, sets["deny"], sets["warn"], sets["obligations"], values)


def with_params(data: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a base document with some places of `data.params` set."""
    changed = copy.deepcopy(dict(data))
    for path, value in params.items():
        changed["params"] = _set(changed.get("params", {}), path, value, "params", must_exist=False)
    return changed


# --- places in a document -----------------------------------------------------------------------------------------------


def _steps(path: str) -> list[str]:
    if path.startswith("/"):
        return [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]
    return path.split(".")


def _set(document: Any, path: str, value: Any, place: str, *, must_exist: bool) -> Any:
    """Return the document with a value at a path."""
    node, steps = document, _steps(path)
    for depth, step in enumerate(steps):
        is_last = depth == len(steps) - 1
        key = _key(node, step, path, place)
        if not _has(node, key):
            if must_exist:
                raise _missing(node, step, path, place)
            if isinstance(node, list) and key != len(node):
                raise SourceError(f"{place}: `{path}`: the list has {len(node)} items")
            if isinstance(node, list):
                node.append(None if is_last else {})
            else:
                node[key] = {}
        if is_last:
            node[key] = value
        else:
            node = node[key]
    return document


def _remove(document: Any, path: str, place: str) -> None:
    *before, last = _steps(path)
    node = document
    for step in [*before, last]:
        key = _key(node, step, path, place)
        if not _has(node, key):
            raise _missing(node, step, path, place)
        if step is last:
            del node[key]
        else:
            node = node[key]


def _key(node: Any, step: str, path: str, place: str) -> Any:
    if isinstance(node, dict):
        return step
    if isinstance(node, list) and step.isdigit():
        return int(step)
    raise SourceError(f"{place}: `{path}`: there is nothing below which `{step}` could be", "a list is counted from 0: `approvals.0.person`")


def _has(node: Any, key: Any) -> bool:
    return key < len(node) if isinstance(node, list) else key in node


def _missing(node: Any, step: str, path: str, place: str) -> SourceError:
    near = difflib.get_close_matches(step, list(node) if isinstance(node, dict) else [], n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return SourceError(f"{place}: there is no `{path}` in the input", f"{hint}`add` makes a new place")


# --- shapes ---------------------------------------------------------------------------------------------------------------


def _mapping(value: Any, known: frozenset[str] | None, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SourceError(f"{place}: here stands a mapping, such as `model.risk: high`")
    for key in value:
        if known is not None and key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise SourceError(f"{place}: unknown key `{key}`", f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(known))}")
    return value


def _text(value: Any, place: str, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise SourceError(f"{place}: `{name}` is a text")
    return value


def _texts(value: Any, place: str, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SourceError(f"{place}: `{name}` is a list of texts", f"`{name}: []` for none")
    return value


def _moment(value: Any, place: str) -> int | None:
    if value is None or (type(value) is int and value >= 0):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise SourceError(f"{place}: `now: {value}` is no time", "write it with its zone: `2026-11-21T09:00:00Z`")
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * _MICROSECOND_NS
