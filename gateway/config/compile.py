r"""A configuration folder -> everything the gateway runs by, or everything that is wrong with it.

Rules:
- All or nothing: with one issue anywhere there is no manifest, and the configuration in force stays in force.
- A file is opened again only when it may have changed (`held_files.py`), parsed and compiled again only when its bytes have. What spans files is
  checked again where either side changed.
- Every file in the folder is understood or refused: nothing lies there that someone believes in force and is not. Names that begin with
  a dot or end with `~` are editors' business and passed over.

Steps of `Compiler.compile`, numbered below: 1. list the folder, refuse what does not belong; 2. read each file that changed;
3. check and compile what spans files, and ask the policies of the folder; 4. put the manifest together.

Example:
    compiler = Compiler(Path("config"))
    compiled = compiler.compile()
    if compiled.manifest is None:
        print(*compiled.issues, sep="\\n")
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from experiments.document import ExperimentDocument
from experiments.shared_files import LayersFile, MetricsFile
from gateway.config import experiment_files
from gateway.config.experiment_files import LAYERS, METRICS, AnyExperiment
from gateway.config.gateway_file import GatewayFile, Mode, ModesFile, compile_settings
from gateway.config.held_files import HeldFiles
from gateway.config.issues import Issue, KeyPath, allowed, nearest
from gateway.config.model_file import Found, ModelFile, check_model, compile_model
from gateway.config.policy_files import CheckedPolicies, check_modules, compile_parameters
from gateway.config.policy_point import Asked, ConfigPoint, refusals
from gateway.config.tree import Tree, read_tree
from gateway.config.validate import validate
from gateway.documents import Manifest, RouteDocument, digest_of, encode

if TYPE_CHECKING:
    from policies.bundle import PolicyBundle
    from policies.verdict import Verdict

_Value = TypeVar("_Value")
GATEWAY = "gateway.yaml"
MODES = "policies/modes.yaml"
PARAMETERS = "policies/params.yaml"
COMPILED_PARAMETERS = "policies/params.json"
BESIDE = ("cases.yaml", "_input.json")
"""Ends of the names of what lies beside policies for their tests and is never in force."""
_DEEPEST_FOLDER = 4
"""Below the configuration folder; also ends a loop of symbolic links."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """One reading of a configuration folder."""

    manifest: Manifest | None
    """None when there are issues."""
    objects: Mapping[str, bytes]
    """Digest -> bytes of every object the manifest names."""
    issues: tuple[Issue, ...]
    gateway: GatewayFile | None
    """`gateway.yaml` as read; the parent process takes listeners, store and keys from it."""
    bundle: PolicyBundle | None = None
    """The policies, where the folder has any of its own and they hold."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """What our engine says of each file, where policies are asked."""
    asked: Mapping[str, Asked] = field(default_factory=dict)
    """The files that policies are asked about, compiled."""

    @property
    def digest(self) -> str:
        """Return the `config_digest`. Raises ValueError when there is no manifest."""
        if self.manifest is None:
            raise ValueError("a configuration with issues has no digest")
        return digest_of(encode(self.manifest))


@dataclass(frozen=True, slots=True)
class _Read(Generic[_Value]):
    """What became of one file. `content` is the digest of its bytes, by which it is recognised."""

    content: str
    value: _Value | None
    issues: tuple[Issue, ...]
    data: bytes = b""
    """Bytes of the compiled document."""
    digest: str = ""
    source: bytes = b""
    """The bytes it was read from."""


@dataclass(frozen=True, slots=True)
class _Crossed:
    """An experiment that was checked against the rest: its compiled document, or what is wrong."""

    data: bytes
    digest: str
    issues: tuple[Issue, ...]


@dataclass(slots=True)
class _Files:
    """The folder's files by kind: path relative to the folder -> bytes."""

    gateway: bytes | None = None
    modes: bytes | None = None
    models: dict[str, bytes] = field(default_factory=dict)
    experiments: dict[str, bytes] = field(default_factory=dict)
    policies: dict[str, bytes] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)


class Compiler:
    """Compiles one folder again and again. Owner of the caches below: the thread that calls `compile`, one at a time."""

    def __init__(self, config: Path) -> None:
        """Remember the folder; nothing is read yet."""
        self._config = config
        self._gateway: dict[str, _Read[GatewayFile]] = {}
        self._modes: dict[str, _Read[ModesFile]] = {}
        self._models: dict[str, _Read[RouteDocument]] = {}
        self._layers: dict[str, _Read[LayersFile]] = {}
        self._metrics: dict[str, _Read[MetricsFile]] = {}
        self._experiments: dict[str, _Read[AnyExperiment]] = {}
        self._crossed: dict[tuple[str, ...], _Crossed] = {}
        self._checked_policies: tuple[str, CheckedPolicies] | None = None
        self._point = ConfigPoint()
        self._held = HeldFiles()

    def compile(self) -> Compiled:
        """Read the folder and compile what changed. Never raises for what the folder holds: it becomes an issue."""
        files = _list(self._config, self._held)  # 1
        gateway = self._read_gateway(files)  # 2
        self._modes = _read_all(_only(MODES, files.modes), self._modes, _compile_modes_file)
        self._layers = _read_all(_only(LAYERS, files.experiments.pop(LAYERS, None)), self._layers, _uncompiled(experiment_files.read_layers))
        self._metrics = _read_all(_only(METRICS, files.experiments.pop(METRICS, None)), self._metrics, _uncompiled(experiment_files.read_metrics))
        self._models = _read_all(files.models, self._models, _compile_model_file)
        self._experiments = _read_all(files.experiments, self._experiments, _uncompiled(experiment_files.read_experiment))
        every: list[Mapping[str, _Read[Any]]] = [self._gateway, self._modes, self._layers, self._metrics, self._models, self._experiments]
        issues = files.issues + [issue for reads in every for read in reads.values() for issue in read.issues]
        experiments, found = self._across(files)  # 3
        modes = self._modes[MODES].value if MODES in self._modes else None
        mode_of: Mapping[str, Mode] = modes.modes if modes else {}
        wrong_parameters = _compile_parameters(files)
        issues += wrong_parameters
        # Without its parameters every policy would be told a mistake that is told where it is.
        checked = CheckedPolicies((), [], None) if wrong_parameters else self._check_policies(files, mode_of)
        if gateway is not None and gateway.vault is None:
            issues += self._captures_nowhere(files)
        issues += [*found, *checked.issues, *(_located(files.modes, MODES, checked.modes) if checked.modes else ())]
        if issues or gateway is None:
            return Compiled(None, {}, tuple(sorted(set(issues))), gateway)
        asked = {} if checked.bundle is None or not checked.bundle.at("config").packages else self._asked(experiments)
        verdicts = {} if checked.bundle is None else self._point.judge(checked.bundle, gateway.environment, asked)
        refused = [Issue(path, 1, 1, "", message) for path, message in refusals(verdicts)]
        if refused:
            return Compiled(None, {}, tuple(sorted(set(refused))), gateway)
        return replace(
            _assemble(gateway, mode_of, self._models, experiments, files.policies, self._metrics.get(METRICS)),
            bundle=checked.bundle,
            verdicts=verdicts,
            asked=asked,
        )  # 4

    def _read_gateway(self, files: _Files) -> GatewayFile | None:
        if files.gateway is None:
            files.issues.append(Issue(GATEWAY, 1, 1, "", "is missing; hint: `assay init DIR` writes a reference configuration"))
        self._gateway = _read_all(_only(GATEWAY, files.gateway), self._gateway, _compile_gateway_file)
        return self._gateway[GATEWAY].value if GATEWAY in self._gateway else None

    def _captures_nowhere(self, files: _Files) -> list[Issue]:
        """Find models that capture into a vault there is none of."""
        message = "captures into the vault, and there is none; hint: `vault: {key: file:keys/vault.key}` in gateway.yaml"
        capturing = [path for path, read in self._models.items() if read.value is not None and read.value.capture.vault is not None]
        return [issue for path in capturing for issue in _located(files.models[path], path, [(("capture", "vault"), message)])]

    def _across(self, files: _Files) -> tuple[dict[str, _Crossed], list[Issue]]:
        """Check and compile each experiment against what it refers to; what was done before between the same files is taken over."""
        layers, metrics = self._layers.get(LAYERS), self._metrics.get(METRICS)
        if any(read is not None and read.value is None for read in (layers, metrics)):
            return {}, []  # every experiment would be told a mistake that is told where it is
        shared = (layers.content if layers else "", metrics.content if metrics else "")
        by_name = {read.value.experiment: (path, read) for path, read in self._experiments.items() if read.value is not None}
        rivals = experiment_files.rivals(read.value for _, read in by_name.values() if read.value is not None)
        routes = {read.value.model: read for read in self._models.values() if read.value is not None}
        compiled: dict[str, _Crossed] = {}
        issues: list[Issue] = []
        crossed: dict[tuple[str, ...], _Crossed] = {}
        for name, (path, read) in by_name.items():
            file = read.value
            if file is None:
                continue
            route = routes.get(file.model)
            if route is None or route.value is None:
                if f"models/{file.model}.yaml" not in self._models:  # a model with issues is told once, where they are
                    message = f"there is no model `{file.model}`; {allowed(routes)}{nearest(file.model, routes)}"
                    issues += _located(files.experiments[path], path, [(("model",), message)])
                continue
            others = rivals[name]
            key = (read.content, route.digest, *shared, *(by_name[other.experiment][1].content for other in others))
            done = self._crossed.get(key)
            if done is None:
                document, found = experiment_files.across(
                    file, {file.model: route.value}, others, layers.value if layers else None, metrics.value if metrics else None
                )
                data = encode(document) if document is not None else b""
                done = _Crossed(data, digest_of(data), tuple(_located(files.experiments[path], path, found)) if found else ())
            crossed[key] = compiled[name] = done
            issues += done.issues
        self._crossed = crossed
        return compiled, issues

    def _check_policies(self, files: _Files, modes: Mapping[str, Mode]) -> CheckedPolicies:
        models = [Path(path).stem for path in self._models]
        key = digest_of(
            b"\0".join(part for path, text in sorted(files.policies.items()) for part in (path.encode(), text))
            + repr((modes, models if files.policies else ())).encode()
        )
        if self._checked_policies is None or self._checked_policies[0] != key:
            self._checked_policies = (key, check_modules(files.policies, modes, models))
        return self._checked_policies[1]

    def _asked(self, experiments: Mapping[str, _Crossed]) -> dict[str, Asked]:
        """Return what policies are asked about: every model, every experiment with its model."""
        routes = {read.value.model: (path, read.value, read.digest) for path, read in self._models.items() if read.value is not None}
        asked = {path: Asked(route, digest) for path, route, digest in routes.values()}
        for name, crossed in experiments.items():
            document = msgspec.json.decode(crossed.data, type=ExperimentDocument)
            _, route, digest = routes[document.model]
            asked[f"experiments/{name}.yaml"] = Asked(route, digest_of(f"{digest} {crossed.digest}".encode()), document)
        return asked


def compile_folder(config: Path) -> Compiled:
    """Compile a configuration folder once, from nothing."""
    return Compiler(config).compile()


# --- 1. what is in the folder


def _list(config: Path, held: HeldFiles) -> _Files:
    files = _Files()
    held.begin()
    root = str(config)
    for name in _walk(root, "", files.issues):
        folder, _, rest = name.partition("/")
        is_yaml = name.endswith(".yaml") and "/" not in rest
        path = f"{root}/{name}"
        try:
            if folder == "models" and is_yaml:
                files.models[name] = held.read(path)
            elif folder == "experiments" and is_yaml:
                files.experiments[name] = held.read(path)
            elif folder == "policies" and (name.endswith(".rego") or name == PARAMETERS):
                files.policies[name] = held.read(path)
            elif folder == "policies" and name.endswith(BESIDE):
                continue  # cases of `assay policy test`: read there, not in force
            elif name == GATEWAY:
                files.gateway = held.read(path)
            elif name == MODES:
                files.modes = held.read(path)
            else:
                files.issues.append(Issue(name, 1, 1, "", _stranger(name.split("/"))))
        except OSError as error:
            files.issues.append(Issue(name, 1, 1, "", f"cannot be read: {error.strerror}"))
    return files


def _walk(root: str, folder: str, issues: list[Issue]) -> Iterator[str]:
    """Yield the names of all files below `root`, relative to it, in order."""
    try:
        entries = sorted(os.scandir(f"{root}/{folder}"), key=lambda entry: entry.name)
    except OSError as error:
        issues.append(Issue(folder or root, 1, 1, "", f"cannot be read: {error.strerror}"))
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name.endswith("~"):
            continue
        name = f"{folder}/{entry.name}" if folder else entry.name
        if not entry.is_dir():
            yield name
        elif name.count("/") < _DEEPEST_FOLDER:
            yield from _walk(root, name, issues)
        else:
            issues.append(Issue(name, 1, 1, "", f"folders are nested deeper than {_DEEPEST_FOLDER} levels"))


def _stranger(parts: list[str]) -> str:
    if parts[-1].endswith(".yml"):
        return "is not read: name it `.yaml`"
    if parts[0] == "policies":
        return "is not read; allowed in `policies/`: *.rego, modes.yaml, params.yaml, *cases.yaml, *_input.json"
    folders = ("models", "experiments", "policies")
    if len(parts) == 2 and parts[0] not in folders:
        return f"folder `{parts[0]}` is not read; {allowed(folders)}{nearest(parts[0], folders)}"
    return "is not read; allowed: gateway.yaml, models/*.yaml, experiments/*.yaml, policies/*.rego, policies/modes.yaml, policies/params.yaml"


# --- 2. one file


def _read_all(
    files: Mapping[str, bytes], cache: Mapping[str, _Read[_Value]], compile_file: Callable[[bytes, str], tuple[_Value | None, bytes, list[Issue]]]
) -> dict[str, _Read[_Value]]:
    reads: dict[str, _Read[_Value]] = {}
    for path, data in files.items():
        old = cache.get(path)
        if old is not None and old.source is data:
            reads[path] = old
            continue
        content = hashlib.sha256(data).hexdigest()
        if old is not None and old.content == content:
            reads[path] = replace(old, source=data)
            continue
        value, compiled, issues = compile_file(data, path)
        reads[path] = _Read(content, None if issues else value, tuple(issues), compiled, digest_of(compiled) if compiled else "", data)
    return reads


def _only(path: str, data: bytes | None) -> dict[str, bytes]:
    return {} if data is None else {path: data}


def _uncompiled(
    read: Callable[[bytes, str], tuple[_Value | None, list[Issue]]],
) -> Callable[[bytes, str], tuple[_Value | None, bytes, list[Issue]]]:
    """Return `read` for files whose documents are made once everything has been read."""

    def read_only(data: bytes, path: str) -> tuple[_Value | None, bytes, list[Issue]]:
        value, issues = read(data, path)
        return value, b"", issues

    return read_only


def _compile_gateway_file(data: bytes, path: str) -> tuple[GatewayFile | None, bytes, list[Issue]]:
    tree, issues = read_tree(data, path)
    if issues:
        return None, b"", issues
    file, issues = validate(tree, GatewayFile)
    if file is None:
        return None, b"", issues
    if file.front.bind == file.admin.bind and not file.front.bind.endswith(":0"):
        issues.append(tree.issue(("admin", "bind"), f"`{file.admin.bind}` is taken by front.bind; give the admin port its own"))
    if file.environment == "production":
        message = "needs signed changes of configuration, which this release does not have; allowed: development, staging"
        issues.append(tree.issue(("environment",), f"`production` {message}"))
    if file.policies.server is not None and not all(importlib.util.find_spec(name) for name in ("opa_client", "aiohttp")):
        message = 'asks an OPA server, and its client is not installed; hint: pip install "assay-gateway[opa]"'
        issues.append(tree.issue(("policies", "engine"), f"`{file.policies.engine}` {message}"))
    return file, b"", issues


def _compile_modes_file(data: bytes, path: str) -> tuple[ModesFile | None, bytes, list[Issue]]:
    tree, issues = read_tree(data, path)
    if issues:
        return None, b"", issues
    file, issues = validate(tree, ModesFile)
    return file, b"", issues


def _compile_model_file(data: bytes, path: str) -> tuple[RouteDocument | None, bytes, list[Issue]]:
    tree, issues = read_tree(data, path)
    if issues:
        return None, b"", issues
    file, issues = validate(tree, ModelFile)
    if file is None:
        return None, b"", issues
    issues = [tree.issue(key, message) for key, message in check_model(file, Path(path).stem)]
    if issues:
        return None, b"", issues
    document = compile_model(file)
    return document, encode(document), []


# --- 3. and 4. all files together


def _located(data: bytes | None, path: str, found: Found) -> list[Issue]:
    """Return what was found in a file with lines and columns; the file is parsed again, as this is rare."""
    tree = read_tree(data, path)[0] if data is not None else Tree(path)
    return [tree.issue(_existing(tree, key), message) for key, message in found]


def _compile_parameters(files: _Files) -> list[Issue]:
    """Put the compiled parameters among the policies in place of their file."""
    text = files.policies.pop(PARAMETERS, None)
    if text is None:
        return []
    compiled, issues = compile_parameters(text, PARAMETERS)
    if not issues:
        files.policies[COMPILED_PARAMETERS] = compiled
    return issues


def _existing(tree: Tree, key: KeyPath) -> KeyPath:
    return key if key in tree.places else key[:-1]


def _assemble(
    gateway: GatewayFile,
    modes: Mapping[str, Mode],
    models: Mapping[str, _Read[RouteDocument]],
    experiments: Mapping[str, _Crossed],
    policies: Mapping[str, bytes],
    metrics: _Read[MetricsFile] | None,
) -> Compiled:
    declared = metrics.value.metrics if metrics is not None and metrics.value is not None else {}
    settings = encode(compile_settings(gateway, modes, (name for name, one in declared.items() if one.source == "feedback")))
    objects = {digest_of(settings): settings}
    named_models = {read.value.model: read.digest for read in models.values() if read.value is not None}
    in_force = {path: text for path, text in policies.items() if not path.endswith("_test.rego")}
    manifest = Manifest(
        settings=digest_of(settings),
        models=named_models,
        experiments={name: done.digest for name, done in experiments.items()},
        policies={path: digest_of(text) for path, text in in_force.items()},
    )
    objects.update((read.digest, read.data) for read in models.values())
    objects.update((done.digest, done.data) for done in experiments.values())
    for text in in_force.values():
        objects[digest_of(text)] = text
    return Compiled(manifest, objects, (), gateway)
