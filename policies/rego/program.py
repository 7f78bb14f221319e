"""Modules linked into one program: names resolved, rules filed in the tree, code compiled when first needed.

A program is fixed to its modules, its base data, and the set of things some `with` may replace; the last keeps `with` free of cost for
programs that do not use it (the tests of a policy do, the policy does not).
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from policies.rego.builtins import BUILTINS, refusal
from policies.rego.compile_bodies import BodyCompiler
from policies.rego.compile_rules import compile_node
from policies.rego.compile_terms import ProgramView
from policies.rego.errors import Issue
from policies.rego.ir import RuleIR, WithS
from policies.rego.lowering import Lowering
from policies.rego.names import split_head
from policies.rego.plan import Planner
from policies.rego.runtime import MISSING
from policies.rego.syntax import Module
from policies.rego.tree import Documents, Node
from policies.rego.values import freeze, import_value, thaw


@dataclass(frozen=True, slots=True)
class Linked:
    """What linking found: the rules, and everything to report."""

    rules: tuple[RuleIR, ...]
    issues: tuple[Issue, ...]
    modules: tuple[Module, ...]


class Linker:
    """Knows the functions of all modules; the `Library` of every scope. Built once per set of modules."""

    def __init__(self, modules: tuple[Module, ...]) -> None:
        self.modules = modules
        self.functions: dict[tuple[Any, ...], int] = {}
        self.names: dict[tuple[str, ...], set[str]] = {}
        for module in modules:
            known = self.names.setdefault(module.package, set())
            for rule in module.rules:
                known.add(rule.ref[0].name)
                if rule.args is not None:
                    self.functions.setdefault((*module.package, *split_head(rule)[0]), len(rule.args))

    def builtin_arity(self, name: str) -> int | None:
        """Arity of a built-in."""
        if name == "internal.member_2":
            return 2
        entry = BUILTINS.get(name)
        return None if entry is None else entry.arity

    def function_arity(self, path: tuple[Any, ...]) -> int | None:
        """Arity of a function."""
        path = ("data", *path) if path[:1] == () else path
        return self.functions.get(path[1:] if path[:1] == ("data",) and path not in self.functions else path)

    def call_problem(self, name: str) -> tuple[str, str, str]:
        """Explain a call of an unknown name."""
        if refusal(name):
            return (
                "refused-builtin",
                f"`{name}` is refused: its answer does not depend on its arguments alone",
                "pass the fact in `input` or `data`",
            )
        known = [*BUILTINS, *("data." + ".".join(map(str, path)) for path in self.functions)]
        near = difflib.get_close_matches(name, known, n=1)
        return "unknown-function", f"unknown function `{name}`", f"did you mean `{near[0]}`?" if near else ""

    def lowering(self, module: Module) -> Lowering:
        """Return the lowering for a module."""
        imports = {entry.name: entry.path for entry in module.imports if entry.path[0] in {"data", "input"}}
        return Lowering(module.source, module.package, frozenset(self.names[module.package]), imports, self)

    def link(self) -> Linked:
        """Lower every rule."""
        rules: list[RuleIR] = []
        issues: list[Issue] = []
        for index, module in enumerate(self.modules):
            lowering = self.lowering(module)
            rules.extend(lowering.rule(rule, index) for rule in module.rules)
            issues.extend(lowering.issues)
            issues.extend(_import_issues(module, lowering.used_imports))
        return Linked(tuple(rules), tuple(issues), self.modules)


def _import_issues(module: Module, used: set[str]) -> list[Issue]:
    found: list[Issue] = []
    seen: set[str] = set()
    for entry in module.imports:
        if entry.path[0] not in {"data", "input"}:
            continue
        if entry.name in seen:
            found.append(module.source.issue("duplicate-import", f"`{entry.name}` is imported twice", entry.pos, "remove one"))
        elif entry.name not in used:
            found.append(module.source.issue("unused-import", f"import `{entry.name}` is never used", entry.pos, "remove it"))
        seen.add(entry.name)
    return found


class Program(ProgramView):
    """Linked modules with compiled code.

    `root` and `rules` never change after construction; a node's code is set once, when first used, under `_compiling`, so threads may share a
    program.
    """

    def __init__(self, linked: Linked, data: Any, *, mocked: frozenset[Any] = frozenset(), replaces_data: bool = False, hook: Any = None) -> None:
        self.linked = linked
        self.data = data
        self.mocked = mocked
        self.replaces_data = replaces_data
        self.hook = hook
        self.root = Node(())
        self.nodes: list[Node] = []
        self._compiling = threading.RLock()
        self.documents = Documents(self.compile)
        self._rule: RuleIR | None = None
        for module in linked.modules:
            self._place(module.package)
        for rule in linked.rules:
            node = self._place(rule.prefix)
            if not node.rules:
                node.index = len(self.nodes)
                self.nodes.append(node)
            node.rules.append(rule)
        for node in self.nodes:
            node.rules.sort(key=lambda rule: rule.is_default and rule.kind == "complete" and len(node.rules) > 1)
        self.blank = [MISSING] * len(self.nodes)

    def compile(self, node: Node) -> None:
        """Set the code of a node, unless it is set."""
        with self._compiling:
            if node.extent is None and node.function is None:
                rule = self._rule
                compile_node(self, node)
                self._rule = rule

    def _place(self, path: tuple[Any, ...]) -> Node:
        node = self.root
        for key in map(freeze, path):
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = Node((*node.path, key))
            node = child
        return node

    def node(self, path: tuple[Any, ...]) -> Node | None:
        """Return the node at a path."""
        node = self.root
        for key in path:
            child = node.children.get(freeze(key))
            if child is None:
                return None
            node = child
        return node

    def compiler(self, planner: Planner) -> BodyCompiler:
        """Return a compiler for one rule."""
        return BodyCompiler(self, planner) if self.hook is None else self.hook.compiler(self, planner, self._rule)

    def enter_rule(self, rule: RuleIR) -> None:
        """Say which rule is compiled next."""
        self._rule = rule

    def rule_hook(self, rule: RuleIR) -> Any:
        """Return a wrapper for the code of a rule, or None."""
        return None if self.hook is None else self.hook.rule(rule)

    def function_code(self, path: tuple[Any, ...]) -> Callable[..., Any]:
        """Return a function that calls the rule at `path`; compiled when first called."""
        node = self.node(path[1:] if path[:1] == ("data",) and self.node(path) is None else path)
        assert node is not None  # noqa: S101 - the checks refused unknown functions
        target = node

        def call(context: Any, *args: Any) -> Any:
            if target.function is None:
                self.compile(target)
            return target.function(context, *args)  # type: ignore[misc]  # set by the line above

        return call

    def metadata(self, name: str) -> Any:
        """Return `rego.metadata.rule()` or `.chain()` of the rule being compiled."""
        rule = self._rule
        if rule is None:
            return {} if name.endswith("rule") else []
        return rule_metadata(self.linked.modules, rule, chain=name.endswith("chain"))


def rule_metadata(modules: tuple[Module, ...], rule: RuleIR, *, chain: bool) -> Any:
    """Read the annotations above a rule; for a chain those of its document and package too, nearest first."""
    module = modules[rule.module]
    own = _annotations_above(module, rule.pos)
    scoped = [note for note in own if note["scope"] == "rule"]
    if not chain:
        return scoped[0] if scoped else {}
    path = [*map(thaw, rule.prefix)]
    links: list[dict[str, Any]] = [{"annotations": note, "path": path} for note in scoped] or [{"path": path}]
    for other in modules:
        if other.package == module.package:
            for sibling in other.rules:
                if (*other.package, *split_head(sibling)[0]) == rule.prefix:
                    notes = _annotations_above(other, sibling.pos)
                    links.extend({"annotations": note, "path": path} for note in notes if note["scope"] == "document")
    for other in modules:
        if other.package == module.package:
            notes = _annotations_above(other, other.package_pos)
            links.extend({"annotations": {**note, "scope": "package"}, "path": list(module.package)} for note in notes)
    return [import_value(link) for link in links]


def _annotations_above(module: Module, pos: int) -> list[dict[str, Any]]:
    """Return the metadata blocks that end on the line above a position, as OPA normalises them."""
    line, _ = module.source.position(pos)
    found = []
    for _, last, text in module.annotations:
        if last + 1 == line:
            loaded = yaml.safe_load(text)
            if isinstance(loaded, dict):
                loaded.setdefault("scope", "rule")
                if "authors" in loaded:
                    loaded["authors"] = [_author(entry) for entry in loaded["authors"]]
                found.append(import_value(loaded))
    return found


def _author(entry: Any) -> Any:
    """`Ada Lovelace <ada@example.org>` becomes name and email."""
    if not isinstance(entry, str):
        return entry
    name, _, email = entry.partition("<")
    return {"name": name.strip()} | ({"email": email.rstrip("> ")} if email else {})


def replaced_by(statements: Any, found: set[Any]) -> bool:
    """Collect the functions that `with` modifiers replace into `found`; return whether one replaces data."""
    replaces = False
    stack = [statements]
    while stack:
        node = stack.pop()
        if isinstance(node, tuple):
            stack.extend(node)
            continue
        if type(node) is WithS:
            for kind, name, _value in node.targets:
                if kind == "call":
                    found.add(name)
                replaces = replaces or kind == "data"
        if hasattr(node, "__dataclass_fields__"):
            stack.extend(getattr(node, field) for field in node.__dataclass_fields__)
    return replaces


def with_targets(linked: Linked) -> tuple[frozenset[Any], bool]:
    """Return what the modules' own `with` modifiers replace."""
    found: set[Any] = set()
    flags = [replaced_by(branch.body, found) or replaced_by((branch.value, branch.key, branch.path), found)
             for rule in linked.rules for branch in rule.branches]  # fmt: skip
    return frozenset(found), any(flags)


def module_map(modules: Mapping[str, str | Module]) -> Mapping[str, str | Module]:
    """Refuse module maps whose names or texts are not text."""
    for name, text in modules.items():
        if not isinstance(name, str) or not isinstance(text, (str, Module)):
            raise TypeError("modules map a file name to its text")
    return modules
