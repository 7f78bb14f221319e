"""Statements of the syntax tree to statements over slots: unification, `some`, `every`, `not`, `with`.

Negation is the surprise, see `_negated`. https://www.openpolicyagent.org/docs/policy-language#negation
"""

from __future__ import annotations

from typing import Any

from policies.rego.ir import (
    Apply,
    ArrayT,
    Const,
    Doc,
    EveryS,
    Get,
    Local,
    LogicS,
    Match,
    Not,
    ObjectT,
    SetT,
    Test,
    WithS,
    locals_in,
)
from policies.rego.lower_terms import TermLowering
from policies.rego.names import Scope, pattern_vars
from policies.rego.syntax import (
    Array,
    Body,
    Call,
    Every,
    Logic,
    ObjectTerm,
    Ref,
    Scalar,
    SomeDecl,
    SomeIn,
    Statement,
    Unify,
    Var,
    With,
)


class StatementLowering(TermLowering):
    """Lowers statements and bodies."""

    def closed_body(self, body: tuple[Statement, ...], scope: Scope) -> tuple[tuple[Any, ...], frozenset[int]]:
        """Lower a body that keeps its bindings; return it with the slots visible around it."""
        inner = self._enter_body(body, scope, [])
        outer = self._visible(scope)
        statements: list[Any] = []
        for statement in body:
            self.statement(statement, inner, statements)
        return tuple(statements), outer

    def statement(self, statement: Statement, scope: Scope, out: list[Any]) -> None:
        """Lower one statement, hoisted parts first, into `out`."""
        if statement.withs:
            inner: list[Any] = []
            plain = Statement(statement.expr, statement.negated, (), statement.pos)
            targets = tuple(self.modifier(modifier, scope, out) for modifier in statement.withs)
            self.statement(plain, scope, inner)
            lowered: Any = WithS(targets, tuple(inner), statement.pos)
            self._note_use(lowered)
            out.append(lowered)
            return
        expression = statement.expr
        if statement.negated:
            if type(expression) is Body:
                body, outer = self.closed_body(expression.statements, scope)
            else:
                outer = self._visible(scope)
                body = self._negated(expression, scope, out, statement.pos)
            lowered = Not(body, outer, statement.pos)
            self._note_use(lowered)
            out.append(lowered)
            return
        self._expression(expression, scope, out, statement.pos)

    def _negated(self, expression: Any, scope: Scope, out: list[Any], pos: int) -> tuple[Any, ...]:
        """Lower a plain negated expression as OPA does: only its top is negated.

        References and calls nested in it run before the `not` and must be defined: `not input.x > 3` does not hold without `input.x`,
        while `not input.x` and `not input.x == 3` do. (`import future.keywords.not` negates the whole expression.)
        """
        lowered: list[Any] = []
        self._expression(expression, scope, lowered, pos)
        if not lowered:
            return ()
        *before, main = lowered
        out.extend(before)
        if type(main) is Match and type(expression) is Call:
            call = Apply(main.left.name, tuple(self._pulled(argument, out) for argument in main.left.args), main.left.pos)
            return (Match(call, self._side(main.right, out), main.pos),)
        if type(main) is Match:
            return (Match(self._side(main.left, out), self._side(main.right, out), main.pos),)
        if type(main) is not Test:
            return (main,)
        term = main.term
        if type(term) is Apply and term.name == "equal":
            term = Apply(term.name, tuple(self._side(argument, out) for argument in term.args), term.pos)
        elif type(term) is Apply:
            term = Apply(term.name, tuple(self._pulled(argument, out) for argument in term.args), term.pos)
        else:
            term = self._side(term, out)
        return (Test(term, main.pos),)

    def _side(self, term: Any, out: list[Any]) -> Any:
        """A top of a negated expression: a reference stays inside, what is nested in it does not."""
        if type(term) is Doc:
            return Doc(term.root, tuple(self._pulled(element, out) for element in term.path), term.pos)
        if type(term) is Get:
            return Get(self._pulled(term.base, out), tuple(self._pulled(element, out) for element in term.path), term.pos)
        return self._pulled(term, out)

    def _pulled(self, term: Any, out: list[Any]) -> Any:
        """Move references and calls out of a negated expression."""
        kind = type(term)
        if kind is Doc or kind is Get:
            if kind is Doc and term.root == "input":
                self.report(
                    "negated-undefined", "this `not` does not hold when the input field is absent", term.pos,
                    "negate a rule, compare with `==`, or `import future.keywords.not`", "warning",
                )  # fmt: skip
            return self._hoist(self._side(term, out), out)
        if kind is Apply:
            return self._hoist(Apply(term.name, tuple(self._pulled(argument, out) for argument in term.args), term.pos), out)
        if kind is ArrayT or kind is SetT:
            return kind(tuple(self._pulled(item, out) for item in term.items), term.pos)
        if kind is ObjectT:
            return ObjectT(tuple((self._pulled(key, out), self._pulled(value, out)) for key, value in term.pairs), term.pos)
        return term

    def _expression(self, node: Any, scope: Scope, out: list[Any], pos: int) -> None:  # noqa: C901 - one flat list of cases
        kind = type(node)
        if kind is Unify:
            right = self.term(node.rhs, scope, out)
            if node.assign:
                self._check_target(node.lhs)
                for var in pattern_vars(node.lhs):
                    self._declare(var, scope)
            left = self.term(node.lhs, scope, out)
            self.used |= locals_in(right)
            if not node.assign:
                self.used |= locals_in(left)
            out.append(Match(left, right, pos))
        elif kind is SomeDecl:
            for var in node.names:
                self._declare(var, scope)
        elif kind is SomeIn:
            self._some_in(node, scope, out, pos)
        elif kind is Every:
            self._every(node, scope, out)
        elif kind is Logic:
            left, outer = self.closed_body(node.left, scope)
            right, _ = self.closed_body(node.right, scope)
            lowered = LogicS(node.op, left, right, outer, pos)
            self._note_use(lowered)
            out.append(lowered)
        elif kind is Body:
            body, outer = self.closed_body(node.statements, scope)
            inner = Not(body, outer, pos)
            out.append(Not((inner,), outer, pos))
            self._note_use(inner)
        else:
            self._bare(node, scope, out, pos)

    def _check_target(self, node: Any) -> None:
        if type(node) not in {Var, Array, ObjectTerm}:
            self.report("assign-target", "only a name or a pattern can be assigned", node.pos, "use `==` to compare")

    def _bare(self, node: Any, scope: Scope, out: list[Any], pos: int) -> None:
        """A term as a statement; a call with one argument more than its arity binds its result to the last."""
        if type(node) is Call and not node.infix:
            name, arity = self._operator(node, scope)
            if arity is not None and len(node.args) == arity + 1 and name != "print":
                args = tuple(self.term(argument, scope, out, hoist=True) for argument in node.args[:-1])
                result = self.term(node.args[-1], scope, out)
                call = Apply(name, args, node.pos)
                self.used |= locals_in(call) | locals_in(result)
                out.append(Match(call, result, pos))
                return
        term = self.term(node, scope, out)
        self.used |= locals_in(term)
        out.append(Test(term, pos))

    def _some_in(self, node: SomeIn, scope: Scope, out: list[Any], pos: int) -> None:
        domain = self.term(node.domain, scope, out)
        self.used |= locals_in(domain)
        for part in (node.key, node.value):
            for var in pattern_vars(part):
                self._declare(var, scope)
        key = Local(self.new_slot("_#key"), pos) if node.key is None else self.term(node.key, scope, out)
        value = self.term(node.value, scope, out)
        for part in (node.key, node.value):
            if part is not None and type(part) is not Var and not list(pattern_vars(part)):
                self.used |= locals_in(key) | locals_in(value)
        ref: Any
        if type(domain) is Doc:
            ref = Doc(domain.root, (*domain.path, key), domain.pos)
        elif type(domain) is Get:
            ref = Get(domain.base, (*domain.path, key), domain.pos)
        else:
            ref = Get(domain, (key,), node.pos)
        out.append(Match(value, ref, pos))

    def _every(self, node: Every, scope: Scope, out: list[Any]) -> None:
        domain = self.term(node.domain, scope, out, hoist=True)
        outer = self._visible(scope)
        inner = Scope(scope, {}, {})
        slots = []
        for var in (node.key, node.value):
            if var is None:
                slots.append(self.new_slot("_#key"))
                continue
            self._declare(var, inner, warn_unused=not var.name.startswith("_#"))
            slots.append(inner.names[var.name])
        body, _ = self.closed_body(node.body, inner)
        lowered = EveryS(slots[0], slots[1], domain, body, outer, node.pos)
        for statement in body:
            self.used |= locals_in(statement)
        self._note_use(lowered)
        out.append(lowered)

    def modifier(self, modifier: With, scope: Scope, out: list[Any]) -> tuple[str, Any, Any]:
        """Lower a `with`: what it replaces, and by what."""
        target = modifier.target
        head, path = (target.head, target.path) if type(target) is Ref else (target, ())
        value: Any
        if type(head) is not Var or not all(type(part) is Scalar for part in path):
            self.report("with-target", "`with` replaces a path of `input` or `data`, or a function", modifier.pos)
            return ("input", (), Const(None))
        document = self._global(head)
        if document is None or (document.root == "data" and self._function_path(document, path) is not None):
            name: Any = ".".join((head.name, *(part.value for part in path))) if document is None else self._function_path(document, path)
            if document is None and self.library.builtin_arity(name) is None:
                self.report("with-target", f"`{name}` is no built-in, function or document", modifier.pos)
            if head.name in self.imports:
                self.used_imports.add(head.name)
            return ("call", name, self._mock(modifier.value, scope, out))
        if head.name in self.imports and head.name not in self.rule_names:
            self.used_imports.add(head.name)
        full = tuple(part.value for part in (*document.path, *path))
        value = self.term(modifier.value, scope, out, hoist=True)
        self.used |= locals_in(value)
        return (document.root, full, value)

    def _function_path(self, document: Doc, path: tuple[Any, ...]) -> tuple[str, ...] | None:
        full = tuple(part.value for part in (*document.path, *path))
        return full if self.library.function_arity(full) is not None else None

    def _mock(self, node: Any, scope: Scope, out: list[Any]) -> Any:
        """A replacement function is named, a replacement value is a term."""
        if type(node) is Var or (type(node) is Ref and type(node.head) is Var and all(type(p) is Scalar for p in node.path)):
            head, path = (node.head, node.path) if isinstance(node, Ref) else (node, ())
            if scope.find(head.name) is None:
                document = self._global(head)
                if document is not None and document.root == "data":
                    function = self._function_path(document, path)
                    if function is not None:
                        if head.name in self.imports:
                            self.used_imports.add(head.name)
                        return ("function", function)
                elif document is None:
                    name = ".".join((head.name, *(str(part.value) for part in path)))
                    if self.library.builtin_arity(name) is not None:
                        return ("function", name)
        value = self.term(node, scope, out, hoist=True)
        self.used |= locals_in(value)
        return value
