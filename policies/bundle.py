"""The policies in force: the shipped ones and the deployment's, compiled, with their modes; one call gives the verdict of a decision point.

Rules:

- Every package `policy.<name>` is evaluated at the points it declares (`policies/metadata.py`): `config` when a configuration is read, `request`
  before a call goes anywhere, `response` before its reply leaves. Other packages are libraries.
- One that defines `allow` is *required*: without `allow == true` it denies. At `request` one has to be in force.
- `params.yaml` beside the modules is `data.params`.
- An evaluation has 2 ms of this thread (semantics.md 6.2). What takes longer twice in one evaluation has failed, and a package that fails so
  three times in a row rests for a second, failing at once: in `enforce` all of these deny.
- All evaluations of one call together have `budget_s`, whoever the candidate and whatever the point: what would need more has failed.
- The shipped packages are always there; a module of the deployment may not add to a shipped package.
- A module that cannot be enforced is a `BundleError`: the gateway refuses to start, or keeps what was in force.
- An evaluation that fails (a limit, a type error) is a finding with an error, and a package in `enforce` then denies.

Example:
    bundle = PolicyBundle.load({"policies/office.rego": text}, {"office": "warn"})
    bundle.evaluate(input_document, now_ns).decision        # "allow"
    bundle.at("response").packages                          # (): nothing looks at replies
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final, Protocol

from audit import canonical
from policies.metadata import POINTS, Declared, InvalidMetadata, Point, declared
from policies.rego import UNDEFINED, Engine, LimitError, Limits, RegoError, RegoSet
from policies.rego.parser import parse_module
from policies.rego.syntax import Module
from policies.sources import SourceError, parse_document
from policies.verdict import Finding, Mode, Verdict, combine

PREFIX: Final = "policy"
"""First part of the name of every package that decides."""
SHIPPED: Final = "default/"
"""Prefix of the names of shipped modules."""
PARAMETERS: Final = "policies/params.json"
"""Path of the parameters among the modules of a deployment: JSON, as `params.yaml` was compiled."""
LIMITS: Final = Limits(wall_s=0.002)
"""What one evaluation of a call may cost, in seconds of its thread; a policy that needs more denies."""
BUDGET_S: Final = 0.005
"""What all policies of one call may cost together where nothing else is configured, in seconds of their thread."""
CONFIG_LIMITS: Final = Limits(wall_s=1.0)
"""What one evaluation of a configuration's file may cost: nobody waits for it on the lane."""
CLOCK: Final = time.thread_time
"""What limits are measured by: how long this thread has run, whatever else the machine does."""
SLOW_IN_A_ROW: Final = 3
REST_NS: Final = 1_000_000_000
_RULES: Final = ("allow", "deny", "warn", "obligations")
Prepared = Callable[..., Any]


class Spender(Protocol):
    """Who policies are evaluated for: one call."""

    policy_s: float
    """Seconds of this thread that its policies have used; moved on by `PointPolicies.evaluate`."""


class BundleError(Exception):
    """A policy cannot be enforced; the text has every issue with file, line and column."""


@dataclass(slots=True)
class Pace:
    """How often a package was too slow in a row. Owned by the loop that evaluates it; it never makes an answer milder."""

    slow: int = 0
    rests_until_ns: int = 0

    def note(self, *, was_slow: bool, now_ns: int) -> None:
        """Count, and begin a rest."""
        self.slow = self.slow + 1 if was_slow else 0
        if self.slow >= SLOW_IN_A_ROW:
            self.slow, self.rests_until_ns = 0, now_ns + REST_NS


@dataclass(frozen=True, slots=True)
class Package:
    """One package that decides."""

    name: str
    mode: Mode
    rules: tuple[str, ...]
    """Which of `allow`, `deny`, `warn`, `obligations` it defines."""
    evaluate: Prepared
    """Answers all of them in one evaluation, in this order; its deadlines are moments of `CLOCK`."""
    reads: frozenset[tuple[str, ...]] = frozenset()
    """Input paths it may read; `("now",)` does not count as one."""
    reads_clock: bool = False
    """Whether its answer may change while nothing it reads does."""
    models: frozenset[str] | None = None
    """Models it is asked about; None for all."""
    wall_s: float = LIMITS.wall_s
    """What one evaluation may take, in seconds of this thread."""
    pace: Pace = field(default_factory=Pace, compare=False)

    def find(self, document: Mapping[str, Any], now_ns: int, left_s: float = math.inf, begin_s: float | None = None) -> Finding:
        """Evaluate the package on an input document.

        Args:
            document: the input.
            now_ns: what the policy is told of the time.
            left_s: what the call it is for may still use, in seconds of this thread.
            begin_s: what `CLOCK` says now, where it was asked anyway.
        """
        required = "allow" in self.rules
        if 0 < self.pace.rests_until_ns - now_ns <= REST_NS:
            return Finding(self.name, self.mode, required=required, allow=False, error="rests after being too slow")
        try:
            said = dict(zip(self.rules, self._answers(document, now_ns, left_s, CLOCK() if begin_s is None else begin_s), strict=True))
            return Finding(
                self.name,
                self.mode,
                required=required,
                allow=said.get("allow") is True,
                deny=items(said.get("deny", UNDEFINED)),
                warn=items(said.get("warn", UNDEFINED)),
                obligations=items(said.get("obligations", UNDEFINED)),
            )
        except RegoError as fault:
            return Finding(self.name, self.mode, required=required, allow=False, error=str(fault).splitlines()[0])

    def _answers(self, document: Mapping[str, Any], now_ns: int, left_s: float, begin_s: float) -> Sequence[Any]:
        """Evaluate; once more where the time was up: a pause of the interpreter (its collector) is not the policy's slowness.

        Raises:
            RegoError: it cannot be evaluated, or is too slow (`wall_s`), or what the call may use is used up (`budget`).
        """
        for is_last in (False, True):
            is_cut = left_s < self.wall_s
            if left_s <= 0:
                raise _used_up()
            try:
                answers: Sequence[Any] = self.evaluate(document, now_ns=now_ns, deadline=begin_s + min(self.wall_s, left_s))
            except LimitError as fault:
                is_slow = fault.limit == "wall_s"
                if is_slow and is_cut:
                    raise _used_up() from fault
                if is_last or not is_slow:
                    self.pace.note(was_slow=is_slow, now_ns=now_ns)
                    raise
                left_s -= self.wall_s  # and no more: how late a pause let it be seen says nothing about the policy
                begin_s = CLOCK()
            else:
                break
        self.pace.note(was_slow=False, now_ns=now_ns)
        return answers


class PointPolicies:
    """The packages of one decision point. Immutable but for the pace of its packages."""

    __slots__ = ("budget_s", "needs_required", "packages", "reads_clock")

    def __init__(self, packages: tuple[Package, ...], *, needs_required: bool, budget_s: float = math.inf) -> None:
        """Take over compiled packages.

        Args:
            packages: in the order of their names.
            needs_required: whether nothing is allowed without a required package.
            budget_s: what the policies of one call may use together, here and at other points.
        """
        self.budget_s = budget_s
        self.packages = packages
        self.reads_clock = any(package.reads_clock for package in packages)
        """Whether a verdict may change while nothing it reads does: then it must not be remembered."""
        self.needs_required = needs_required

    def about(self, model: str) -> PointPolicies:
        """Return the packages that are asked about one model."""
        asked = tuple(package for package in self.packages if package.models is None or model in package.models)
        return self if len(asked) == len(self.packages) else PointPolicies(asked, needs_required=self.needs_required, budget_s=self.budget_s)

    def reads(self, path: tuple[str, ...], *, enforced: bool = False) -> bool:
        """Say whether a package may read the input at `path`, at a part of it, or at a whole it is part of.

        Args:
            path: steps below `input`.
            enforced: ask of packages in `enforce` only.
        """
        asked = (package for package in self.packages if package.mode == "enforce" or not enforced)
        return any(read[: len(path)] == path or path[: len(read)] == read for package in asked for read in package.reads)

    def evaluate(self, document: Mapping[str, Any], now_ns: int, spender: Spender | None = None) -> Verdict:
        """Return the verdict on an input document (`input/v1`).

        Args:
            document: the input.
            now_ns: what policies are told of the time.
            spender: the call that this is for; None for a question of its own.
        """
        left_s = self.budget_s - (0.0 if spender is None else spender.policy_s)
        used_s = 0.0
        found = []
        begin_s = CLOCK()
        for package in self.packages:
            found.append(package.find(document, now_ns, left_s - used_s, begin_s))
            end_s = CLOCK()
            used_s += min(end_s - begin_s, 2 * package.wall_s)
            begin_s = end_s
        if spender is not None:
            spender.policy_s += used_s
        return self.combined(found)

    def combined(self, found: Iterable[Finding]) -> Verdict:
        """Return the verdict of this decision point on what its packages found, whoever evaluated them."""
        return combine(found, needs_required=self.needs_required)


class PolicyBundle:
    """All packages in force, by decision point."""

    __slots__ = ("_parameters", "_points", "data", "modes", "modules", "record")

    def __init__(
        self,
        points: Mapping[Point, PointPolicies],
        record: dict[str, str],
        modules: Mapping[str, str],
        modes: Mapping[str, Mode],
        data: Any,
        parameters: str | None = None,
    ) -> None:
        """Take over what was compiled; use `load`. `parameters` is the text that `data` was read from."""
        self._points = points
        self._parameters = parameters
        self.record = record
        """`digest`, `modes_digest` and, with parameters, `data_digest` as records name them."""
        self.modules = modules
        """Path -> text of every module in force, the shipped ones among them."""
        self.modes = modes
        """Mode of every package that decides."""
        self.data = data
        """The base document."""

    @classmethod
    def load(cls, modules: Mapping[str, str], modes: Mapping[str, Mode], budget_s: float = BUDGET_S) -> PolicyBundle:
        """Compile the shipped modules and the deployment's.

        Args:
            modules: path -> text of the deployment's modules, without tests; `policies/params.json` among them is `data.params`.
            modes: package name (without `policy.`) -> mode; where it is not named, what the package declares, else `enforce`.
            budget_s: what the policies of one call may use together, in seconds of their thread.

        Raises:
            BundleError: a module cannot be parsed, checked or enforced.
        """
        for path in modules:
            if path.startswith(SHIPPED):
                raise BundleError(f"{path}: names under `{SHIPPED}` belong to the shipped modules; hint: keep modules in `policies/`")
        return cls.compile({**shipped_modules(), **modules}, modes, budget_s)

    @classmethod
    def compile(cls, texts: Mapping[str, str], modes: Mapping[str, Mode], budget_s: float = BUDGET_S) -> PolicyBundle:
        """Compile a whole bundle, the shipped modules in it: a recorded one, for example. Otherwise as `load`."""
        rego = {path: text for path, text in texts.items() if path != PARAMETERS}
        try:
            found = _deciding(rego)
            data = {} if PARAMETERS not in texts else {"params": _parameters(texts[PARAMETERS])}
            engine = Engine(rego, data, limits=LIMITS, strict_builtin_errors=True, clock=CLOCK)
            issues = [issue for issue in engine.check() if issue.severity == "error"]
            if issues:
                raise BundleError("\n".join(issue.render() for issue in issues))
            in_force = {name: modes.get(name) or one.said.mode or "enforce" for name, one in found.items()}
            points = {point: _at_point(point, found, in_force, engine, rego, data, budget_s) for point in POINTS}
        except RegoError as fault:
            raise BundleError(str(fault)) from fault
        record = {"digest": digest_of(rego), "modes_digest": hashlib.sha256(modes_object(in_force)).hexdigest()}
        if data:
            record["data_digest"] = hashlib.sha256(texts[PARAMETERS].encode()).hexdigest()
        return cls(points, record, rego, in_force, data, texts.get(PARAMETERS))

    @property
    def packages(self) -> tuple[Package, ...]:
        """Return the packages asked at `request`."""
        return self._points["request"].packages

    def at(self, point: Point) -> PointPolicies:
        """Return the packages asked at a decision point."""
        return self._points[point]

    def evaluate(self, document: Mapping[str, Any], now_ns: int) -> Verdict:
        """Return the verdict on an input document (`input/v1`) at the point it names; `request` where it names none."""
        point = document.get("point")
        return self._points[point if point in POINTS else "request"].evaluate(document, now_ns)

    def named_models(self) -> dict[str, frozenset[str]]:
        """Return the models that packages in force name."""
        return {package.name: package.models for point in self._points.values() for package in point.packages if package.models is not None}

    def objects(self) -> dict[str, bytes]:
        """Return what a record's digests stand for, by digest: the list of modules, every text, the modes, the parameters."""
        listing = listing_of(self.modules)
        texts = [*self.modules.values(), *(() if self._parameters is None else (self._parameters,))]
        stored = [listing, modes_object(self.modes), *(text.encode() for text in texts)]
        return {hashlib.sha256(data).hexdigest(): data for data in stored}


def shipped_modules() -> dict[str, str]:
    """Return the modules that come with Assay, without their tests."""
    folder = files("policies") / "default"
    return {
        f"{SHIPPED}{entry.name}": entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".rego") and not entry.name.endswith("_test.rego")
    }


def digest_of(texts: Mapping[str, str]) -> str:
    """Return the digest of a bundle: SHA-256 over the sorted (path, SHA-256 of the text) pairs."""
    return hashlib.sha256(listing_of(texts)).hexdigest()


def listing_of(texts: Mapping[str, str]) -> bytes:
    """Return what the digest of a bundle is taken of: `[[path, sha256 of the text], ...]`, sorted, as canonical JSON."""
    return canonical.encode([[path, hashlib.sha256(text.encode()).hexdigest()] for path, text in sorted(texts.items())])


def modes_object(modes: Mapping[str, Mode]) -> bytes:
    """Return what `modes_digest` is taken of: the mode of every package that decides, as canonical JSON."""
    return canonical.encode(dict(modes))


@dataclass(slots=True)
class _Deciding:
    """One package that decides, while it is read."""

    rules: set[str] = field(default_factory=set)
    modules: list[Module] = field(default_factory=list)
    said: Declared = field(init=False)


def _at_point(
    point: Point, found: Mapping[str, _Deciding], modes: Mapping[str, Mode], engine: Engine, texts: Mapping[str, str], data: Any, budget_s: float
) -> PointPolicies:
    """Compile the packages asked at a point; those that are off are not."""
    asked = {name: sorted(one.rules) for name, one in sorted(found.items()) if point in one.said.points and modes[name] != "off"}
    if asked and point == "config":
        engine = Engine(texts, data, limits=CONFIG_LIMITS, strict_builtin_errors=True, clock=CLOCK)
    is_config = point == "config"
    wall_s = (CONFIG_LIMITS if is_config else LIMITS).wall_s
    packages = []
    for name, rules in asked.items():
        references = [f"data.{PREFIX}.{name}.{rule}" for rule in rules]
        reads = frozenset[tuple[Any, ...]]().union(*map(engine.reads, references))
        _require_parameters(name, found[name], reads, data)
        inputs = frozenset(tuple(str(step) for step in path[1:]) for path in reads if path[0] == "input")
        answers = engine.prepare_all(references)
        packages.append(Package(name, modes[name], tuple(rules), answers, inputs, ("now",) in reads, found[name].said.models, wall_s))
    return PointPolicies(tuple(packages), needs_required=point == "request", budget_s=math.inf if is_config else budget_s)


def _require_parameters(name: str, one: _Deciding, reads: frozenset[tuple[Any, ...]], data: Mapping[str, Any]) -> None:
    """Refuse a package that reads a parameter there is none of: a rule on it would never hold, and a denial never fire.

    The shipped packages have defaults for theirs. Raises BundleError.
    """
    module = one.modules[0].source.name
    if module.startswith(SHIPPED):
        return
    for path in sorted((path for path in reads if path[:2] == ("data", "params")), key=repr):
        node: Any = data
        for depth, step in enumerate(path[1:], 2):
            if not isinstance(node, Mapping):
                break  # an array, or a value whose parts are not named in the policy
            if step not in node:
                told = ".".join(map(str, path[:depth]))
                hint = "hint: put it there, or read it by `object.get(data.params, ...)` with a default"
                raise BundleError(f"{module}:1:1: error: package `{PREFIX}.{name}` reads `{told}`, which `params.yaml` does not have; {hint}")
            node = node[step]


def _parameters(text: str) -> dict[str, Any]:
    """Return `data.params`. Raises BundleError."""
    try:
        document = parse_document(text, PARAMETERS)
    except SourceError as fault:
        raise BundleError(str(fault)) from fault
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise BundleError(f"{PARAMETERS}:1:1: error: parameters are a mapping, such as `max_rows: 10`")
    return document


def _deciding(texts: Mapping[str, str]) -> dict[str, _Deciding]:
    """Return the packages that decide by name, with the rules they define and what they declare."""
    found: dict[str, _Deciding] = {}
    shipped: set[str] = set()
    for path, text in sorted(texts.items(), key=lambda item: (not item[0].startswith(SHIPPED), item[0])):
        module = parse_module(path, text)
        if module.package[0] != PREFIX:
            continue
        if len(module.package) == 1:
            # Its rules would be parts of packages: `approval.allow := true` is the shipped `policy.approval.allow`.
            raise BundleError(f"{path}: package `{PREFIX}` holds packages, not rules; hint: name it `{PREFIX}.NAME`")
        name = module.package[1]
        if path.startswith(SHIPPED):
            shipped.add(name)
        elif name in shipped:
            raise BundleError(f"{path}: package `{PREFIX}.{name}` is shipped and cannot be added to; hint: name the package otherwise")
        if len(module.package) > 2:
            continue
        one = found.setdefault(name, _Deciding())
        one.rules |= {rule.ref[0].name for rule in module.rules} & set(_RULES)
        one.modules.append(module)
    deciding = {name: one for name, one in found.items() if one.rules}
    for name, one in deciding.items():
        try:
            one.said = declared(one.modules)
        except InvalidMetadata as fault:
            raise BundleError(str(fault)) from fault
        if one.said.is_required and "allow" not in one.rules:
            raise BundleError(f"{one.modules[0].source.name}:1:1: error: package `{PREFIX}.{name}` is required and has no rule `allow`")
    return deciding


def _used_up() -> LimitError:
    return LimitError("budget", "what the policies of one call may use together is used up; hint: `policies.budget` of gateway.yaml")


def items(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Return the members of a set rule; a member that is not an object is told as its own message."""
    if value is UNDEFINED:
        return ()
    members = value if isinstance(value, (list, tuple, RegoSet, frozenset)) else [value]
    return tuple(dict(member) if isinstance(member, Mapping) else {"id": "-", "msg": str(member)} for member in members)
