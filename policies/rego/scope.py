"""Names to slots: from the syntax tree of a rule to `ir`.

Rules of naming, as OPA's compiler has them:

- A name is looked up in the bodies around it, then among the package's rules and the imports, then it is a variable of the
  innermost body that mentions it outside a closure (comprehension, `every`, `not {}`, template expression).
- `some x` and `x :=` declare `x` from there to the end of their body; a mention before that is an error.
- Closures see the variables of the bodies around them; what they bind stays inside.

References and calls nested in other terms are *hoisted* into statements of their own when they can iterate, so that afterwards only
the top of a statement iterates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from policies.rego.errors import Issue
from policies.rego.ir import (
    Apply,
    ArrayT,
    BranchIR,
    Compr,
    Const,
    Doc,
    EveryS,
    Get,
    Local,
    LogicS,
    Match,
    Not,
    ObjectT,
    RuleIR,
    SetT,
    TemplateT,
    Test,
    WithS,
    locals_in,
)
from policies.rego.lexer import Source
from policies.rego.names import Library, Scope, declarations, mentions, pattern_vars, split_head
from policies.rego.syntax import (
    Array,
    Body,
    Call,
    Comprehension,
    Every,
    Logic,
    ObjectTerm,
    Ref,
    Rule,
    Scalar,
    SetTerm,
    SomeDecl,
    SomeIn,
    Statement,
    Template,
    Unify,
    Var,
    With,
)
from policies.rego.values import freeze, make_set


class Lowering:
    """Lowers the rules of one module. Owns `slots` (per rule), `issues`, `used_imports` and `calls` (per module)."""

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

    # --- rules -------------------------------------------------------------------------------------------------------

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

    # --- names -------------------------------------------------------------------------------------------------------

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

    # --- statements --------------------------------------------------------------------------------------------------

    def closed_body(self, body: tuple[Statement, ...], scope: Scope) -> tuple[tuple[Any, ...], frozenset[int]]:
        """Lower a body that keeps its bindings; return it with the slots visible around it."""
        inner = self._enter_body(body, scope, [])
        outer = self._visible(scope)
        statements: list[Any] = []
        for statement in body:
            self.statement(statement, inner, statements)
        return tuple(statements), outer

    def _visible(self, scope: Scope | None) -> frozenset[int]:
        slots: set[int] = set()
        while scope is not None:
            slots.update(scope.names.values())
            scope = scope.parent
        return frozenset(slots)

    def statement(self, statement: Statement, scope: Scope, out: list[Any]) -> None:
        """Lower one statement, hoisted parts first, into `out`."""
        if statement.withs:
            inner: list[Any] = []
            plain = Statement(statement.expr, statement.negated, (), statement.pos)
            targets = tuple(self._with(modifier, scope, out) for modifier in statement.withs)
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

    def _note_use(self, lowered: Any) -> None:
        self.used |= locals_in(lowered)

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

    def _with(self, modifier: With, scope: Scope, out: list[Any]) -> tuple[str, Any, Any]:
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

    # --- terms -------------------------------------------------------------------------------------------------------

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
                targets = tuple(self._with(modifier, inner, statements) for modifier in part.withs)
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
