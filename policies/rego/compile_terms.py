"""Terms to closures: `frame -> value`, `UNDEFINED` when there is none.

The forms that policies use most (a path of names below `input`, a comparison with a constant, one or two arguments) have closures of
their own; everything else goes through the general ones below them. A missing field costs an exception inside, never outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policies.rego.builtins.registry import BUILTINS
from policies.rego.compile_calls import (
    ARITHMETIC,
    Frame,
    ValueCode,
    arithmetic_call,
    builtin_call,
    inline,
    input_names,
    named_object,
    user_call,
    whole_code,
)
from policies.rego.errors import BuiltinError, EvaluationError, LimitError
from policies.rego.ir import Apply, ArrayT, Const, Doc, Get, Local, ObjectT, SetT
from policies.rego.plan import ComprPlan, TemplatePlan
from policies.rego.runtime import COMPOSITES
from policies.rego.runtime import MISSING as _MISSING
from policies.rego.tree import Cursor, Documents, Node, base_value
from policies.rego.values import UNDEFINED, RegoSet, equal, freeze, lookup, thaw

_INLINE = {"lt", "lte", "gt", "gte", "neq", "equal", "internal.member_2"}


class ProgramView:
    """What term compilation needs to know of the program; `Program` is the implementation."""

    root: Node
    data: Any
    documents: Documents
    mocked: frozenset[Any]
    replaces_data: bool
    hook: Any
    """The recorder of a traced program, or None."""

    def function_code(self, path: tuple[Any, ...]) -> Callable[..., Any]:
        """Return the compiled function at a path."""
        raise NotImplementedError

    def metadata(self, name: str) -> Any:
        """Return `rego.metadata.*` for the rule being compiled."""
        raise NotImplementedError


def constant_rule(program: ProgramView, node: Node) -> Any:
    """Return the value of a rule that is the same whatever the input, or UNDEFINED: `name := 3`, `name := data.params.x`."""
    if program.replaces_data or program.hook is not None or node.children or len(node.rules) != 1:
        return UNDEFINED
    (rule,) = node.rules
    if rule.kind != "complete" or len(rule.branches) != 1 or rule.branches[0].body:
        return UNDEFINED
    term = rule.branches[0].value
    if type(term) is Const:
        return term.value
    return constant_document(program, term.path) if type(term) is Doc and term.root == "data" else UNDEFINED


def constant_document(program: ProgramView, path: tuple[Any, ...]) -> Any:
    """Return what a `data` reference yields if that is known at load, or UNDEFINED."""
    if program.replaces_data or not all(type(element) is Const for element in path):
        return UNDEFINED
    node, value = program.root, program.data
    for index, element in enumerate(path):
        child = node.children.get(freeze(element.value))
        if child is None:
            # Nothing of ours is here: base data alone.
            return _walk(lookup(value, element.value), path[index + 1 :])
        node, value = child, lookup(value, element.value)
        if node.rules:
            return _walk(constant_rule(program, node), path[index + 1 :])
    return UNDEFINED


def _computed(term: Apply, args: list[Const]) -> Any:
    """Return arithmetic on constants as a constant, unless it fails: that is for the evaluation to tell."""
    try:
        return Const(BUILTINS[str(term.name)].call(*(argument.value for argument in args)), term.pos)
    except (BuiltinError, LimitError):
        return term


def _walk(value: Any, path: tuple[Any, ...]) -> Any:
    for element in path:
        value = lookup(value, element.value)
    return value


class TermCompiler:
    """Compiles terms of one rule. Subclassed by the compiler of bodies, which closures need."""

    def __init__(self, program: ProgramView) -> None:
        self.program = program

    def comprehension(self, plan: ComprPlan) -> ValueCode:
        """Compile a comprehension."""
        raise NotImplementedError

    def template(self, plan: TemplatePlan) -> ValueCode:
        """Compile a template string."""
        raise NotImplementedError

    def folded(self, term: Any) -> Any:
        """Return a term as `Const` where its value is known at load: base data, rules without a body, arithmetic on constants."""
        kind = type(term)
        if kind is Doc and term.root == "data":
            value = constant_document(self.program, term.path)
            return Const(value, term.pos) if value is not UNDEFINED else term
        if kind is Apply and term.name in ARITHMETIC and term.name not in self.program.mocked:
            args = [self.folded(argument) for argument in term.args]
            if all(type(argument) is Const for argument in args):
                return _computed(term, args)
        return term

    def value(self, term: Any) -> ValueCode:  # noqa: C901, PLR0911 - one flat list of cases
        """Compile a term whose variables are all bound."""
        term = self.folded(term)
        kind = type(term)
        if kind is Const:
            value = term.value
            return lambda _frame: value
        if kind is Local:
            slot = term.slot
            return lambda frame: frame[slot]
        if kind is Doc:
            return self._document(term)
        if kind is Get:
            short = self._local_path(term.base.slot, term.path) if type(term.base) is Local else None
            return short or self._path(self.value(term.base), term.path)
        if kind is Apply:
            return self._apply(term)
        if kind is ArrayT:
            return self._array(term)
        if kind is SetT:
            return self._set(term)
        if kind is ObjectT:
            return self._object(term)
        if kind is ComprPlan:
            return self.comprehension(term)
        if kind is TemplatePlan:
            return self.template(term)
        raise AssertionError(kind)

    # --- references --------------------------------------------------------------------------------------------------

    def _document(self, ref: Doc) -> ValueCode:
        if ref.root == "input":
            return self._input(ref.path)
        code, rest, is_cursor = self.data_start(ref.path)
        if is_cursor:
            return self._cursor_path(code, rest)
        return self._path(code, rest)

    def _input(self, path: tuple[Any, ...]) -> ValueCode:
        names: list[str] = []
        for element in path:
            if type(element) is not Const or type(element.value) is not str:
                break
            names.append(element.value)
        return self._path(input_names(tuple(names)), path[len(names) :])

    def data_start(self, path: tuple[Any, ...]) -> tuple[ValueCode, tuple[Any, ...], bool]:
        """Follow constants below `data`: return code for the place reached, the rest of the path, and whether it is a cursor."""
        node, documents = self.program.root, self.program.documents
        index = 0
        while not node.rules and index < len(path) and type(path[index]) is Const:
            child = node.children.get(freeze(path[index].value))
            if child is None:
                return self._base(path, index)
            node, index = child, index + 1
        rest = path[index:]
        if node.rules and not node.children:
            fixed = constant_rule(self.program, node)
            if node.is_function or fixed is not UNDEFINED:
                return (lambda _frame: fixed), () if node.is_function else rest, False
            return self._extent(node), rest, False
        if not rest and not node.rules and not self.program.replaces_data:
            return self._package(node, self._base_at(path[:index])), (), False
        if not rest:
            whole = node

            def document(frame: Frame) -> Any:
                context = frame[0]
                return documents.value(context, whole, base_value(context, whole.path))

            return document, (), False
        start = node
        return (lambda frame: documents.start(frame[0], start)), rest, True

    def _base_at(self, path: tuple[Any, ...]) -> Any:
        value = self.program.data
        for element in path:
            value = lookup(value, element.value)
        return value

    def _package(self, node: Node, base: Any) -> ValueCode:
        """The document of a package whose base data cannot change."""
        documents = self.program.documents
        parts: list[tuple[Any, ValueCode]] = []
        for key, child in node.children.items():
            below = lookup(base, thaw(key))
            if child.is_function:
                continue
            if child.rules and child.children:
                parts.append((key, whole_code(documents, child, below)))
            else:
                parts.append((key, self._extent(child) if child.rules else self._package(child, below)))
        start = base if type(base) is dict else {}

        def package(frame: Frame) -> Any:
            found = start.copy()
            for key, code in parts:
                value = code(frame)
                if value is not UNDEFINED:
                    found[key] = value
            return found

        return package

    def _extent(self, node: Node) -> ValueCode:
        documents, index = self.program.documents, node.index
        if self.program.replaces_data:
            return lambda frame: documents.value(frame[0], node, UNDEFINED)
        extent = documents.extent

        def code(frame: Frame) -> Any:
            context = frame[0]
            cache = context.cache
            value = cache[index]
            if value is _MISSING:
                ready = node.extent
                value = cache[index] = extent(context, node) if ready is None else ready(context)
            return value

        return code

    def _base(self, path: tuple[Any, ...], index: int) -> tuple[ValueCode, tuple[Any, ...], bool]:
        """Base data: a constant of the program unless some `with` replaces data."""
        end = index
        while end < len(path) and type(path[end]) is Const:
            end += 1
        keys = tuple(element.value for element in path[:end])
        if self.program.replaces_data:
            return (lambda frame: base_value(frame[0], keys)), path[end:], False
        value = self.program.data
        for key in keys:
            value = lookup(value, key)
        return (lambda _frame: value), path[end:], False

    def _local_path(self, slot: int, path: tuple[Any, ...]) -> ValueCode | None:
        """Code for `x.name` and `x.name.name`, the commonest references of all."""
        names = [element.value for element in path if type(element) is Const and type(element.value) is str]
        if len(names) != len(path) or len(names) not in {1, 2}:
            return None
        if len(names) == 1:
            (name,) = names

            def one(frame: Frame) -> Any:
                try:
                    return frame[slot][name]
                except (KeyError, TypeError, IndexError):
                    return lookup(frame[slot], name)

            return one
        first, second = names

        def two(frame: Frame) -> Any:
            try:
                return frame[slot][first][second]
            except (KeyError, TypeError, IndexError):
                return lookup(lookup(frame[slot], first), second)

        return two

    def _path(self, start: ValueCode, path: tuple[Any, ...]) -> ValueCode:
        for element in path:
            start = self._step(start, element)
        return start

    def _step(self, start: ValueCode, element: Any) -> ValueCode:
        if type(element) is Const and type(element.value) is str:
            name = element.value

            def by_name(frame: Frame) -> Any:
                container = start(frame)
                if type(container) is dict:
                    return container.get(name, UNDEFINED)
                return lookup(container, name)

            return by_name
        if type(element) is Local:
            slot = element.slot
            return lambda frame: lookup(start(frame), frame[slot])
        key = self.value(element)

        def by_value(frame: Frame) -> Any:
            container = start(frame)
            if container is UNDEFINED:
                return UNDEFINED
            wanted = key(frame)
            return UNDEFINED if wanted is UNDEFINED else lookup(container, wanted)

        return by_value

    def _cursor_path(self, start: ValueCode, path: tuple[Any, ...]) -> ValueCode:
        documents = self.program.documents
        keys = [self.value(element) for element in path]

        def code(frame: Frame) -> Any:
            context, place = frame[0], start(frame)
            for key in keys:
                wanted = key(frame)
                if wanted is UNDEFINED or place is UNDEFINED:
                    return UNDEFINED
                place = documents.step(context, place, wanted)
            return documents.finish(context, place) if type(place) is Cursor else place

        return code

    # --- composites --------------------------------------------------------------------------------------------------

    def _array(self, term: ArrayT) -> ValueCode:
        items = [self.value(item) for item in term.items]

        def code(frame: Frame) -> Any:
            found = []
            for item in items:
                value = item(frame)
                if value is UNDEFINED:
                    return UNDEFINED
                if type(value) in COMPOSITES:
                    frame[0].weigh(value)
                found.append(value)
            return found

        return code

    def _set(self, term: SetT) -> ValueCode:
        items = [self.value(item) for item in term.items]

        def code(frame: Frame) -> Any:
            found = []
            for item in items:
                value = item(frame)
                if value is UNDEFINED:
                    return UNDEFINED
                found.append(frame[0].keyed(value) if type(value) in COMPOSITES else freeze(value))
            return RegoSet(found)

        return code

    def _object(self, term: ObjectT) -> ValueCode:
        if all(type(key) is Const and type(key.value) is str for key, _ in term.pairs):
            named = [(key.value, self.value(value)) for key, value in term.pairs]
            if len({name for name, _ in named}) == len(named):
                return named_object(named)
        pairs = [(self.value(key), self.value(value)) for key, value in term.pairs]

        def code(frame: Frame) -> Any:
            found: dict[Any, Any] = {}
            for key_code, value_code in pairs:
                key, value = key_code(frame), value_code(frame)
                if key is UNDEFINED or value is UNDEFINED:
                    return UNDEFINED
                frame[0].pay(key)
                frame[0].weigh(value)
                key = freeze(key)
                if key in found and not equal(found[key], value):
                    raise EvaluationError("eval_conflict_error", "object keys must be unique")
                found[key] = value
            return found

        return code

    # --- calls -------------------------------------------------------------------------------------------------------

    def _apply(self, call: Apply) -> ValueCode:
        args = [self.value(argument) for argument in call.args]
        if call.name in self.program.mocked:
            return self._mockable(call, args)
        return self._direct(call, args)

    def _direct(self, call: Apply, args: list[ValueCode]) -> ValueCode:
        if not isinstance(call.name, str):
            return user_call(self.program.function_code(call.name), args)
        if call.name in _INLINE:
            return inline(call.name, args[0], args[1])
        if call.name in ARITHMETIC:
            return arithmetic_call(BUILTINS[call.name], args[0], args[1])
        if call.name.startswith("rego.metadata."):
            value = self.program.metadata(call.name)
            return lambda _frame: value
        if call.name == "print":
            return lambda _frame: True
        return builtin_call(BUILTINS[call.name], args)

    def _mockable(self, call: Apply, args: list[ValueCode]) -> ValueCode:
        """A call that some `with` replaces: by a value, a built-in or a function. Inside the replacement nothing is replaced."""
        direct, name, program = self._direct(call, args), call.name, self.program

        def code(frame: Frame) -> Any:
            context = frame[0]
            if context.mocks is None or name not in context.mocks:
                return direct(frame)
            mock = context.mocks[name]
            given = [argument(frame) for argument in args]
            if any(value is UNDEFINED for value in given):
                return UNDEFINED
            if type(mock) is not tuple:
                return mock
            inner = context
            if isinstance(mock[1], str):
                entry = BUILTINS[mock[1]]
                try:
                    return entry.call(inner, *given) if entry.context else entry.call(*given)
                except BuiltinError as error:
                    return context.failed(mock[1], error)
            inner = context.child()
            inner.mocks = None
            return program.function_code(mock[1])(inner, *given)

        return code
