"""From the syntax tree of a rule to `ir`: names become slots (`scope`), terms (`lower_terms`) and statements (`lower_statements`) follow."""

from __future__ import annotations

from typing import Any

from policies.rego.ir import (
    BranchIR,
    RuleIR,
    locals_in,
)
from policies.rego.lower_statements import StatementLowering
from policies.rego.names import Scope, mentions, split_head
from policies.rego.syntax import (
    Rule,
    Statement,
    Template,
    Var,
)


class Lowering(StatementLowering):
    """Lowers the rules of one module."""

    def rule(self, rule: Rule, module: int) -> RuleIR:
        """Lower one rule."""
        self.slots, self.unused, self.used = [""], [], set()
        arg_scope = Scope(None, {}, {})
        args = None
        if rule.args is not None:
            for argument in rule.args:
                parts = [part.expr for part in argument.parts if not isinstance(part, str)] if type(argument) is Template else [argument]
                for var in (var for part in parts for var in mentions(part)):
                    if self._global(var) is None or type(argument) is Var:
                        arg_scope.names.setdefault(var.name, self.new_slot(var.name))
                        arg_scope.declared.setdefault(var.name, var.pos)
                    if var.name in {"input", "data"} and type(argument) is Var:
                        self.report("shadowing", f"`{var.name}` may not be an argument", var.pos, "choose another name")
            sink: list[Any] = []
            args = tuple(self.term(argument, arg_scope, sink) for argument in rule.args)
        prefix, dynamic = split_head(rule)
        branches = tuple(self._branch(branch, rule, dynamic if index == 0 else (), arg_scope) for index, branch in enumerate(rule.branches))
        kind = "function" if args is not None else ("object" if dynamic else ("set" if rule.key is not None else "complete"))
        for var, slot in self.unused:
            if slot not in self.used:
                self.report("unused-local", f"`{var.name}` is assigned but never used", var.pos, "remove it, or name it `_`")
        for name, pos in () if rule.is_default else arg_scope.declared.items():
            if not name.startswith("_#") and arg_scope.names[name] not in self.used:
                self.report("unused-local", f"argument `{name}` is never used", pos, "name it `_`")
        return RuleIR(
            (*self.package, *prefix), len(dynamic), kind, args, branches, rule.is_default, len(self.slots), tuple(self.slots),
            module, rule.pos, rule.end,
        )  # fmt: skip

    def _branch(self, branch: Any, rule: Rule, dynamic: tuple[Any, ...], arg_scope: Scope) -> BranchIR:
        heads = [part for part in (branch.value, rule.key, *dynamic) if part is not None]
        scope = self._enter_body(branch.body, arg_scope, heads)
        statements: list[Any] = []
        for statement in branch.body:
            self.statement(statement, scope, statements)
        path = tuple(self.term(part, scope, statements, hoist=True) for part in dynamic)
        key = None if rule.key is None else self.term(rule.key, scope, statements, hoist=True)
        value = self.term(branch.value, scope, statements, hoist=True)
        self.used |= set().union(*(locals_in(part) for part in (*path, key, value)))
        return BranchIR(value, key, path, tuple(statements), branch.pos)

    def query(self, statements: tuple[Statement, ...]) -> tuple[tuple[Any, ...], dict[str, int]]:
        """Lower a query; return its statements and the slots of its named variables."""
        self.slots = [""]
        scope = self._enter_body(statements, Scope(None, {}, {}), [])
        lowered: list[Any] = []
        for statement in statements:
            self.statement(statement, scope, lowered)
        return tuple(lowered), {name: slot for name, slot in scope.names.items() if not name.startswith("_#")}
