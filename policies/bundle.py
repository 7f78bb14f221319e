"""The policies in force: the shipped ones and the deployment's, compiled, with their modes; one call gives the verdict of a decision point.

Rules:

- Every package `policy.<name>` is evaluated. One that defines `allow` is *required*: without `allow == true` it denies. Other packages are libraries.
- The shipped packages are always there; a module of the deployment may not add to a shipped package.
- A module that cannot be enforced is a `BundleError`: the gateway refuses to start, or keeps what was in force.
- An evaluation that fails (a limit, a type error) is a finding with an error, and a package in `enforce` then denies.

Example:
    bundle = PolicyBundle.load({"policies/office.rego": text}, {"office": "warn"})
    bundle.evaluate(input_document, now_ns).decision        # "allow"
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from audit import canonical
from policies.rego import UNDEFINED, Engine, Limits, RegoError, RegoSet
from policies.rego.parser import parse_module
from policies.verdict import Finding, Mode, Verdict, combine

PREFIX: Final = "policy"
"""First part of the name of every package that decides."""
SHIPPED: Final = "default/"
"""Prefix of the names of shipped modules."""
LIMITS: Final = Limits(wall_s=0.05)
"""What one evaluation may cost; a policy that needs more denies."""
_RULES: Final = ("allow", "deny", "warn", "obligations")
Prepared = Callable[..., Any]


class BundleError(Exception):
    """A policy cannot be enforced; the text has every issue with file, line and column."""


@dataclass(frozen=True, slots=True)
class Package:
    """One package that decides."""

    name: str
    mode: Mode
    rules: tuple[str, ...]
    """Which of `allow`, `deny`, `warn`, `obligations` it defines."""
    evaluate: Prepared
    """Answers all of them in one evaluation, in this order."""

    def find(self, document: Mapping[str, Any], now_ns: int) -> Finding:
        """Evaluate the package on an input document."""
        required = "allow" in self.rules
        try:
            said = dict(zip(self.rules, self.evaluate(document, now_ns=now_ns), strict=True))
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


class PolicyBundle:
    """All packages in force. Immutable."""

    __slots__ = ("_reads", "modules", "packages", "reads_clock", "record")

    def __init__(
        self,
        packages: tuple[Package, ...],
        reads: frozenset[tuple[str, ...]],
        record: dict[str, str],
        *,
        reads_clock: bool,
        modules: Mapping[str, str],
    ) -> None:
        """Take over compiled packages; use `load`."""
        self.packages = packages
        self._reads = reads
        self.reads_clock = reads_clock
        """Whether a verdict may change while nothing it reads does: then it must not be remembered."""
        self.record = record
        """`digest` and `modes_digest` as records name them."""
        self.modules = modules
        """Path -> text of every module in force, the shipped ones first by name: what another engine has to run."""

    @classmethod
    def load(cls, modules: Mapping[str, str], modes: Mapping[str, Mode]) -> PolicyBundle:
        """Compile the shipped modules and the deployment's.

        Args:
            modules: path -> text of the deployment's modules, without tests.
            modes: package name (without `policy.`) -> mode; `enforce` where it is not named.

        Raises:
            BundleError: a module cannot be parsed, checked or enforced.
        """
        for path in modules:
            if path.startswith(SHIPPED):
                raise BundleError(f"{path}: names under `{SHIPPED}` belong to the shipped modules; hint: keep modules in `policies/`")
        texts = {**shipped_modules(), **modules}
        try:
            rules = _deciding_rules(texts)
            engine = Engine(texts, limits=LIMITS, strict_builtin_errors=True)
            issues = [issue for issue in engine.check() if issue.severity == "error"]
            if issues:
                raise BundleError("\n".join(issue.render() for issue in issues))
            packages = tuple(
                Package(
                    name,
                    modes.get(name, "enforce"),
                    tuple(sorted(found)),
                    engine.prepare_all([f"data.{PREFIX}.{name}.{rule}" for rule in sorted(found)]),
                )
                for name, found in sorted(rules.items())
                if modes.get(name, "enforce") != "off"
            )
            reads = frozenset[tuple[Any, ...]]().union(
                *(engine.reads(f"data.{PREFIX}.{name}.{rule}") for name, found in rules.items() for rule in found)
            )
        except RegoError as fault:
            raise BundleError(str(fault)) from fault
        record = {"digest": digest_of(texts), "modes_digest": hashlib.sha256(canonical.encode(dict(modes))).hexdigest()}
        inputs = frozenset(tuple(str(step) for step in path[1:]) for path in reads if path[0] == "input")
        return cls(packages, inputs, record, reads_clock=any(path[0] == "now" for path in reads), modules=texts)

    def reads(self, path: tuple[str, ...]) -> bool:
        """Say whether any package may read the input at `path`, at a part of it, or at a whole it is part of."""
        return any(read[: len(path)] == path or path[: len(read)] == read for read in self._reads)

    def evaluate(self, document: Mapping[str, Any], now_ns: int) -> Verdict:
        """Return the verdict on an input document (`input/v1`)."""
        return combine(package.find(document, now_ns) for package in self.packages)


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
    listed = [[path, hashlib.sha256(text.encode()).hexdigest()] for path, text in sorted(texts.items())]
    return hashlib.sha256(canonical.encode(listed)).hexdigest()


def _deciding_rules(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """Return package name -> which of `allow`, `deny`, `warn`, `obligations` it defines."""
    found: dict[str, set[str]] = {}
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
        found.setdefault(name, set()).update({rule.ref[0].name for rule in module.rules} & set(_RULES))
    return {name: rules for name, rules in found.items() if rules}


def items(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Return the members of a set rule; a member that is not an object is told as its own message."""
    if value is UNDEFINED:
        return ()
    members = value if isinstance(value, (list, tuple, RegoSet, frozenset)) else [value]
    return tuple(dict(member) if isinstance(member, Mapping) else {"id": "-", "msg": str(member)} for member in members)
