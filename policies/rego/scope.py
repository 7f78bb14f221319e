"""Which variable or document a name stands for.

As OPA's compiler has them:

- A name is looked up in the bodies around it, then among the package's rules and the imports, then it is a variable of the
  innermost body that mentions it outside a closure (comprehension, `every`, `not {}`, template expression).
- `some x` and `x :=` declare `x` from there to the end of their body; a mention before that is an error.
- Closures see the variables of the bodies around them; what they bind stays inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from policies.rego.errors import Issue
from policies.rego.ir import (
    Const,
    Doc,
    Local,
    locals_in,
)
from policies.rego.lexer import Source
from policies.rego.names import Library, Scope, declarations, mentions
from policies.rego.syntax import (
    Ref,
    Scalar,
    Statement,
    Var,
)


class Scoping:
    """Names of one module. Owns `slots`, `unused` and `used` (per rule), `issues` and `used_imports` (per module)."""

    def __init__(
        self, source: Source, package: tuple[str, ...], rule_names: frozenset[str], imports: Mapping[str, tuple[str, ...]], library: Library
    ) -> None:
        self.source = source
        self.package = package
        self.rule_names = rule_names
        self.imports = imports
        self.library = library
        self.issues: list[Issue] = []
        self.used_imports: set[str] = set()
        self.slots: list[str] = [""]
        self.unused: list[tuple[Var, int]] = []
        self.used: set[int] = set()

    def report(self, rule: str, message: str, pos: int, hint: str = "", severity: str = "error") -> None:
        """Note a finding."""
        self.issues.append(self.source.issue(rule, message, pos, hint, severity))

    def new_slot(self, name: str) -> int:
        """Reserve a slot."""
        self.slots.append(name)
        return len(self.slots) - 1

    def _enter_body(self, body: tuple[Statement, ...], parent: Scope, heads: list[Any]) -> Scope:
        scope = Scope(parent, {}, {})
        declared = {var.name for statement in body for var in declarations(statement)}
        for node in (*body, *heads, *self._replacements(body)):
            for var in mentions(node):
                if var.name not in declared and scope.find(var.name) is None and self._global(var) is None:
                    scope.names[var.name] = self.new_slot(var.name)
        return scope

    def _replacements(self, body: tuple[Statement, ...]) -> Iterable[Any]:
        """Yield the values of `with` modifiers that are no names of built-ins."""
        for statement in body:
            for modifier in statement.withs:
                value = modifier.value
                head, path = (value.head, value.path) if type(value) is Ref else (value, ())
                name = ".".join([head.name, *(str(part.value) for part in path if type(part) is Scalar)]) if type(head) is Var else ""
                if self.library.builtin_arity(name) is None:
                    yield value

    def _global(self, var: Var) -> Doc | None:
        name = var.name
        if name in self.rule_names:
            return Doc("data", tuple(Const(part) for part in (*self.package, name)), var.pos)
        if name in self.imports:
            path = self.imports[name]
            return Doc(path[0], tuple(Const(part) for part in path[1:]), var.pos)
        if name in {"data", "input"}:
            return Doc(name, (), var.pos)
        return None

    def _declare(self, var: Var, scope: Scope, *, warn_unused: bool = True) -> None:
        if var.name.startswith("_#"):
            scope.names[var.name] = self.new_slot(var.name)
            return
        if var.name in {"input", "data"}:
            self.report("shadowing", f"`{var.name}` may not be declared", var.pos, "choose another name")
        if var.name in scope.declared:
            self.report("redeclared", f"`{var.name}` is declared above", var.pos, "use `==` to compare, or another name")
        elif scope.parent is not None and var.name in scope.parent.declared and scope.parent.parent is None:
            self.report("redeclared", f"argument `{var.name}` is declared again", var.pos, "use `==` to compare, or another name")
        elif var.name in self.imports:
            self.report("shadowing", f"`{var.name}` hides an import", var.pos, "choose another name", "warning")
        slot = self.new_slot(var.name)
        scope.names[var.name] = slot
        scope.declared[var.name] = var.pos
        if warn_unused:
            self.unused.append((var, slot))

    def _var(self, var: Var, scope: Scope) -> Any:
        slot = scope.find(var.name)
        if slot is not None:
            return Local(slot, var.pos)
        document = self._global(var)
        if document is not None:
            if var.name in self.imports and var.name not in self.rule_names:
                self.used_imports.add(var.name)
            return document
        self.report("referenced-above", f"`{var.name}` is used before it is declared", var.pos, "move the declaration up")
        return Local(self.new_slot(var.name), var.pos)

    def _visible(self, scope: Scope | None) -> frozenset[int]:
        slots: set[int] = set()
        while scope is not None:
            slots.update(scope.names.values())
            scope = scope.parent
        return frozenset(slots)

    def _note_use(self, lowered: Any) -> None:
        self.used |= locals_in(lowered)
