"""Policy files and data files from disk to what the engine takes: modules by path, one base document.

Rules:

- A policy path is a `.rego` file, or a folder: every `.rego` file in it, its `params.yaml` as `data.params`, its files of cases. A folder that has no
  `params.yaml` has that of the one folder of policies below it, so that a deployment's root can be named; several are an error.
- A data path is a JSON or YAML file whose top level joins the base document, or a folder in which each file is filed under the folders it lies in
  (`limits/eu/rows.json` in `--data .` is `data.limits.eu`), as OPA does it. `.rego` files in it are modules.
- Two files that give one place two values are an error, never a choice. Hidden files are left out.
- YAML is read without its surprises: a date stays text, a key twice is an error, aliases cannot grow a document.

Example:
    sources = read_sources([Path("config/policies")], [Path("facts.json")])
    Engine(sources.modules, sources.data)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from policies.rego.lexer import number_value

PARAMETERS: Final = "params.yaml"
CASES: Final = "cases.yaml"
"""Name of a file of cases; `office_cases.yaml` is one too."""
TEST_SUFFIX: Final = "_test.rego"
_DOCUMENTS: Final = frozenset({".json", ".yaml", ".yml"})
_LARGEST_BYTES: Final = 64 << 20


class SourceError(Exception):
    """A file cannot be used; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Sources:
    """What was read."""

    modules: dict[str, str]
    """Path as it was named -> text; tests included."""
    data: dict[str, Any]
    """The base document."""
    cases: dict[str, str] = field(default_factory=dict)
    """Path -> text of files of cases."""
    parameters: list[str] = field(default_factory=list)
    """Files that `data.params` was read from."""

    def without_tests(self) -> Sources:
        """Return the same without `*_test.rego`."""
        return Sources({path: text for path, text in self.modules.items() if not is_test(path)}, self.data, parameters=self.parameters)


def is_test(path: str) -> bool:
    """Tell whether a module holds tests by its name."""
    return path.endswith(TEST_SUFFIX)


def read_sources(policies: Iterable[Path], data: Iterable[Path] = ()) -> Sources:
    """Read policies and data.

    Raises:
        SourceError: a path does not exist, is no UTF-8, JSON or YAML, or contradicts another.
    """
    found = Sources({}, {}, {})
    for path in policies:
        if path.is_dir():
            _read_folder(path, found)
        elif path.suffix in _DOCUMENTS:
            raise SourceError(f"`{path}` is no policy", "name data with `--data`, the input with `--input`")
        else:
            found.modules[path.as_posix()] = _text(path)
    for path in data:
        for file, below in _placed(path):
            if file.suffix == ".rego":
                found.modules[file.as_posix()] = _text(file)
            else:
                _merge(found.data, _nested(below, read_document(file), file), file)
    return found


def _read_folder(folder: Path, into: Sources) -> None:
    for file in _files(folder):
        if file.suffix == ".rego":
            into.modules[file.as_posix()] = _text(file)
        elif file.name == CASES or file.name.endswith(f"_{CASES}"):
            into.cases[file.as_posix()] = _text(file)
    for file in _parameters_of(folder):
        into.parameters.append(file.as_posix())
        _merge(into.data, {"params": read_document(file)}, file)


def _parameters_of(folder: Path) -> list[Path]:
    """Return a folder's `params.yaml`, or that of the folder of policies in it; none where there is none."""
    if (folder / PARAMETERS).is_file():
        return [folder / PARAMETERS]
    below = [file for file in _files(folder) if file.name == PARAMETERS and any(one.suffix == ".rego" for one in _files(file.parent))]
    found = [file for file in below if not any(other.parent in file.parent.parents for other in below)]
    if len(found) > 1:
        raise SourceError(
            f"`{folder}` has several `{PARAMETERS}`, and `data.params` is one of them: {', '.join(f'`{file}`' for file in found)}",
            f"name one folder of policies: `{found[0].parent}`",
        )
    return found


def read_document(path: Path) -> Any:
    """Read one JSON or YAML file (YAML holds JSON; `.json` is read strictly).

    Raises:
        SourceError: with the place of the mistake.
    """
    return parse_document(_text(path), str(path))


def parse_document(text: str, name: str) -> Any:
    """Read JSON or YAML text; `name` is for errors, and `.json` at its end asks for JSON."""
    try:
        if name.endswith(".json"):
            return json.loads(text, parse_float=number_value, parse_constant=_constant, object_pairs_hook=_unique)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, made stricter
    except ValueError as error:
        raise SourceError(f"{name}: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise SourceError(f"{place}: {getattr(error, 'problem', None) or error}") from error
    except RecursionError as error:
        raise SourceError(f"{name}: nested too deep") from error


def item_lines(text: str, key: str) -> list[int]:
    """Return the 1-based lines where the items of the top-level list `key` of a YAML text begin."""
    node = yaml.compose(text, Loader=_Loader)
    found = [value for name, value in node.value if name.value == key] if isinstance(node, yaml.MappingNode) else []
    return [item.start_mark.line + 1 for item in found[0].value] if found else []


class _Loader(yaml.SafeLoader):
    """YAML as JSON has it: `yes` and dates stay text, numbers are JSON's, keys are texts and occur once, aliases are refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            place = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it untyped
            raise yaml.constructor.ConstructorError(None, None, "aliases are not read; write the value again", place)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's signature
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise yaml.constructor.ConstructorError(None, None, f"key `{name}` is no text; put it in quotes", key.start_mark)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key `{name}` is given twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)\Z"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|)\Z"), ["~", "n", ""])
_Loader.add_implicit_resolver("number", re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z"), list("-0123456789"))
_Loader.add_constructor("number", lambda _loader, node: number_value(node.value))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is given twice: parsers disagree about which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key `{next(name for name in names if names.count(name) > 1)}` is given twice")
    return found


def _constant(text: str) -> Any:
    raise ValueError(f"`{text}` is no JSON")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _placed(path: Path) -> Iterable[tuple[Path, tuple[str, ...]]]:
    """Yield data files with the folders they are filed under."""
    if not path.is_dir():
        yield path, ()
        return
    for found in _files(path):
        if found.suffix == ".rego" or found.suffix in _DOCUMENTS:
            yield found, found.relative_to(path).parts[:-1]


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise SourceError(f"`{path}` is larger than {_LARGEST_BYTES >> 20} MiB")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"`{path}` is not UTF-8") from error
    except OSError as error:
        raise SourceError(f"`{path}` cannot be read: {error.strerror}") from error


def _nested(below: tuple[str, ...], document: Any, path: Path) -> dict[str, Any]:
    for name in reversed(below):
        document = {name: document}
    if not isinstance(document, dict):
        raise SourceError(f"{path}: the top level of data is an object", "for example `params: {max_rows: 10}`")
    return document


def _merge(target: dict[str, Any], more: dict[str, Any], path: Path, place: str = "data") -> None:
    for key, value in more.items():
        if key not in target:
            target[key] = value
        elif isinstance(target[key], dict) and isinstance(value, dict):
            _merge(target[key], value, path, f"{place}.{key}")
        elif type(target[key]) is not type(value) or target[key] != value:
            raise SourceError(f"{path}: `{place}.{key}` has another value already", "two files may not give one place two values")
