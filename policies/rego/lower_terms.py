"""Terms of the syntax tree to terms over slots.

References and calls nested in other terms are *hoisted* into statements of their own when they can iterate, so that afterwards only
the top of a statement iterates.
"""

from __future__ import annotations

from typing import Any

from policies.rego.ir import (
    Apply,
    ArrayT,
    Compr,
    Const,
    Doc,
    Get,
    Local,
    Match,
    ObjectT,
    SetT,
    TemplateT,
    WithS,
    locals_in,
)
from policies.rego.names import Scope
from policies.rego.scope import Scoping
from policies.rego.syntax import (
    Array,
    Call,
    Comprehension,
    ObjectTerm,
    Ref,
    Scalar,
    SetTerm,
    Statement,
    Template,
    Var,
    With,
)
from policies.rego.values import freeze, make_set


class TermLowering(Scoping):
    """Lowers terms. What a comprehension or a template has inside are statements, which the subclass lowers."""

    def statement(self, statement: Statement, scope: Scope, out: list[Any]) -> None:
        """Lower one statement, hoisted parts first, into `out`."""
        raise NotImplementedError

    def modifier(self, modifier: With, scope: Scope, out: list[Any]) -> tuple[str, Any, Any]:
        """Lower a `with`."""
        raise NotImplementedError

    def term(self, node: Any, scope: Scope, out: list[Any], *, hoist: bool = False) -> Any:  # noqa: C901, PLR0911 - one flat list of cases
        """Lower a term; with `hoist` an iterating reference moves into `out` and its value is a new variable."""
        kind = type(node)
        if kind is Scalar:
            return Const(node.value, node.pos)
        if kind is Var:
            return self._var(node, scope)
        if kind is Ref:
            return self._ref(node, scope, out, hoist=hoist)
        if kind is Call:
            return self._call(node, scope, out, hoist=hoist)
        if kind is Array or kind is SetTerm:
            items = tuple(self.term(item, scope, out, hoist=True) for item in node.items)
            if all(type(item) is Const for item in items):
                values = [item.value for item in items]
                return Const(values if kind is Array else make_set(values), node.pos)
            return (ArrayT if kind is Array else SetT)(items, node.pos)
        if kind is ObjectTerm:
            pairs = tuple((self.term(key, scope, out, hoist=True), self.term(value, scope, out, hoist=True)) for key, value in node.pairs)
            if all(type(key) is Const and type(value) is Const for key, value in pairs):
                document = {freeze(key.value): value.value for key, value in pairs}
                if len(document) == len(pairs):
                    return Const(document, node.pos)
            return ObjectT(pairs, node.pos)
        if kind is Comprehension:
            return self._comprehension(node, scope)
        if kind is Template:
            return self._template(node, scope)
        self.report("parse", "this cannot stand here", getattr(node, "pos", 0))
        return Const(None)

    def _comprehension(self, node: Comprehension, scope: Scope) -> Compr:
        heads = [part for part in (node.key, node.value) if part is not None]
        inner = self._enter_body(node.body, scope, heads)
        outer = self._visible(scope)
        statements: list[Any] = []
        for statement in node.body:
            self.statement(statement, inner, statements)
        key = None if node.key is None else self.term(node.key, inner, statements, hoist=True)
        value = self.term(node.value, inner, statements, hoist=True)
        self.used |= locals_in(value) | locals_in(key)
        for lowered in statements:
            self.used |= locals_in(lowered) & outer
        return Compr(node.kind, key, value, tuple(statements), outer, node.pos)

    def _template(self, node: Template, scope: Scope) -> TemplateT:
        outer = self._visible(scope)
        parts: list[Any] = []
        for part in node.parts:
            if isinstance(part, str):
                parts.append(part)
                continue
            inner = self._enter_body((part,), scope, [])
            statements: list[Any] = []
            slot = self.new_slot("_#part")
            plain: list[Any] = []
            value = self.term(part.expr, inner, plain)
            plain.append(Match(Local(slot, part.pos), value, part.pos))
            if part.withs:
                targets = tuple(self.modifier(modifier, inner, statements) for modifier in part.withs)
                plain = [WithS(targets, tuple(plain), part.pos)]
            statements.extend(plain)
            for lowered in statements:
                self.used |= locals_in(lowered)
            parts.append((tuple(statements), slot))
        return TemplateT(tuple(parts), outer, node.pos)

    def _hoist(self, term: Any, out: list[Any]) -> Local:
        local = Local(self.new_slot("_#ref"), term.pos)
        out.append(Match(local, term, term.pos))
        self.used |= locals_in(term)
        return local

    def _ref(self, node: Ref, scope: Scope, out: list[Any], *, hoist: bool) -> Any:
        path = tuple(self.term(element, scope, out, hoist=True) for element in node.path)
        head = self.term(node.head, scope, out, hoist=True) if type(node.head) is not Var else self._var(node.head, scope)
        for element in path:
            if type(element) is Local:
                self.used.add(element.slot)
        self.used |= locals_in(head)
        ref: Any = Doc(head.root, (*head.path, *path), node.pos) if type(head) is Doc else Get(head, path, node.pos)
        if hoist and any(locals_in(element) for element in path):
            return self._hoist(ref, out)
        return ref

    def _operator(self, node: Call, scope: Scope) -> tuple[Any, int | None]:
        """Return what a call names (built-in or function path) and its arity, or None when unknown."""
        operator = node.op
        head, path = (operator, ()) if type(operator) is Var else (operator.head, operator.path)
        if scope.find(head.name) is None and not node.infix:
            document = self._global(head)
            if document is not None:
                full = tuple(part.value for part in (*document.path, *path))
                arity = self.library.function_arity(full) if document.root == "data" else None
                if arity is not None or head.name in {"data", "input"}:
                    return full, arity
                if head.name in self.rule_names or head.name in self.imports:
                    return full, None
        name = ".".join((head.name, *(str(part.value) for part in path)))
        return name, self.library.builtin_arity(name)

    def _call(self, node: Call, scope: Scope, out: list[Any], *, hoist: bool) -> Any:
        name, arity = self._operator(node, scope)
        head = node.op if type(node.op) is Var else node.op.head
        if head.name in self.imports and not isinstance(name, str):
            self.used_imports.add(head.name)
        args = tuple(self.term(argument, scope, out, hoist=True) for argument in node.args)
        for argument in args:
            self.used |= locals_in(argument)
        if arity is None:
            label = name if isinstance(name, str) else "data." + ".".join(map(str, name))
            rule, message, hint = self.library.call_problem(label)
            self.report(rule, message, node.pos, hint)
        elif arity >= 0 and len(args) != arity and not (name == "walk" and len(args) == 2):
            label = name if isinstance(name, str) else ".".join(map(str, name))
            self.report("arity", f"`{label}` takes `{arity}` arguments, got `{len(args)}`", node.pos)
        call = Apply(name, args, node.pos)
        return self._hoist(call, out) if hoist and name == "walk" else call
