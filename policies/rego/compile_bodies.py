"""Planned bodies to closures, in continuation style.

`body(ops, then)` returns `frame -> bool`: it runs `then` once per solution and stops as soon as `then` answers True ("enough"). Tests in
a row become one closure; only iterations nest, so the Python stack grows with the number of nested loops and not of expressions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from policies.rego.compile_calls import ORDERINGS, Frame, TestCode, ValueCode
from policies.rego.compile_terms import TermCompiler
from policies.rego.errors import EvaluationError, LimitError
from policies.rego.indexes import join_of, member_keys
from policies.rego.ir import Apply, Const, Doc, Local
from policies.rego.loops import (
    PlaceCode,
    assign,
    bound_test,
    chain,
    collect_array,
    collect_object,
    collect_set,
    enough,
    indexed_loop,
    key_test,
    last_loop,
    loop_code,
    member_test,
    ordering_test,
    pairs_of,
    patched,
    slot_value,
    sorted_keys,
    truth,
    unpack_array,
)
from policies.rego.plan import (
    AssignOp,
    ComprPlan,
    EqualOp,
    EveryOp,
    IterOp,
    LogicOp,
    NotOp,
    Planner,
    TemplatePlan,
    TestOp,
    UnpackArrayOp,
    UnpackObjectOp,
    WalkOp,
    WithOp,
)
from policies.rego.render import display
from policies.rego.runtime import COMPOSITES
from policies.rego.tree import Cursor
from policies.rego.values import UNDEFINED, RegoSet, equal, freeze, lookup, thaw

_ITERATING = (IterOp, WalkOp, WithOp)


class BodyCompiler(TermCompiler):
    """Compiles the bodies of one rule. Owns `in_order`, true while inside something whose result shows the order."""

    def __init__(self, program: Any, planner: Planner, *, in_order: bool = False) -> None:
        super().__init__(program)
        self.new_slot = planner.temp
        self.names = planner.names
        self.in_order = in_order

    def body(self, ops: Iterable[Any], then: TestCode) -> TestCode:
        """Compile operations followed by `then`."""
        tests: list[TestCode] = []
        code = then
        row = list(ops)
        for index in range(len(row) - 1, -1, -1):
            op = row[index]
            if isinstance(op, _ITERATING):
                code = self._iteration(op, chain(list(reversed(tests)), code), row[index + 1 :])
                tests = []
            else:
                tests.append(self._test(op))
        return chain(list(reversed(tests)), code)

    def watched_branch(self, number: int, code: ValueCode) -> ValueCode:
        """Hook of the tracing compiler: the value of a rule's body, or of its `else` number `number`."""
        del number
        return code

    # --- tests -------------------------------------------------------------------------------------------------------

    def _test(self, op: Any) -> TestCode:  # noqa: PLR0911 - one flat list of cases
        kind = type(op)
        if kind is AssignOp:
            return assign(op.slot, self.value(op.term))
        if kind is TestOp:
            return self._truth(op.term)
        if kind is EqualOp:
            return self._equal(op)
        if kind is NotOp:
            inner = self.body(op.ops, enough)
            return lambda frame: not inner(frame)
        if kind is EveryOp:
            return self._every(op)
        if kind is LogicOp:
            left, right = self.body(op.left, enough), self.body(op.right, enough)
            if op.op == "and":
                return lambda frame: left(frame) and right(frame)
            return lambda frame: left(frame) or right(frame)
        if kind is UnpackArrayOp:
            return unpack_array(op.slot, op.slots)
        if kind is UnpackObjectOp:
            return self._unpack_object(op)
        raise AssertionError(kind)

    def _truth(self, term: Any) -> TestCode:
        if type(term) is Apply and term.name in ORDERINGS and term.name not in self.program.mocked:
            bound = self.folded(term.args[1])
            if type(bound) is Const and type(bound.value) in {int, float}:
                return bound_test(ORDERINGS[term.name], self.value(term.args[0]), bound.value)
            return ordering_test(ORDERINGS[term.name], self.value(term.args[0]), self.value(term.args[1]))
        if type(term) is Apply and term.name == "internal.member_2" and term.name not in self.program.mocked:
            container = self.folded(term.args[1])
            keys = member_keys(container.value) if type(container) is Const else None
            if keys is not None:
                return key_test(self.value(term.args[0]), keys)
            return member_test(self.value(term.args[0]), self.value(term.args[1]))
        return truth(self.value(term))

    def _equal(self, op: EqualOp) -> TestCode:
        for one, other in ((op.left, op.right), (op.right, op.left)):
            if type(one) is Const and type(one.value) is str:
                text, code = one.value, self.value(other)
                return lambda frame: bool(code(frame) == text)
        left, right = self.value(op.left), self.value(op.right)

        def test(frame: Frame) -> bool:
            value = left(frame)
            if value is UNDEFINED:
                return False
            other = right(frame)
            kind = type(value)
            if kind is str:
                return bool(value == other)
            if kind in COMPOSITES:
                frame[0].pay(value)
            return other is not UNDEFINED and equal(value, other)

        return test

    def _every(self, op: EveryOp) -> TestCode:
        domain, inner, key_slot, value_slot = self.value(op.domain), self.body(op.ops, enough), op.key, op.value

        def test(frame: Frame) -> bool:
            container = domain(frame)
            kind = type(container)
            if kind is list:
                pairs: Any = enumerate(container)
            elif kind is dict:
                pairs = [(thaw(key), value) for key, value in container.items()]
            elif kind is RegoSet:
                pairs = [(value, value) for value in container]
            else:
                return False
            for key, value in frame[0].paced(pairs, len(container)):
                frame[key_slot] = key
                frame[value_slot] = value
                if not inner(frame):
                    return False
            return True

        return test

    def _unpack_object(self, op: UnpackObjectOp) -> TestCode:
        slot, keys, slots = op.slot, [self.value(key) for key in op.keys], op.slots

        def test(frame: Frame) -> bool:
            value = frame[slot]
            if type(value) is not dict or len(value) != len(keys):
                return False
            for key, target in zip(keys, slots, strict=True):
                wanted = key(frame)
                item = UNDEFINED if wanted is UNDEFINED else lookup(value, wanted)
                if item is UNDEFINED:
                    return False
                frame[target] = item
            return True

        return test

    # --- iterations --------------------------------------------------------------------------------------------------

    def _iteration(self, op: Any, then: TestCode, following: Sequence[Any]) -> TestCode:
        """Compile an iteration; `following` are the operations behind it, already in `then`."""
        if type(op) is IterOp:
            return self._joined(op, then, following) or self._iterate(op, then)
        if type(op) is WalkOp:
            return self._walk(op, then)
        return self._with(op, then)

    def _joined(self, op: IterOp, then: TestCode, following: Sequence[Any]) -> TestCode | None:
        """Code for an iteration over base data that a test behind it narrows to the entries of an index."""
        join = join_of(self.program, op, following) if self.program.hook is None else None
        table = None if join is None else join.table(pairs_of(join.container, in_order=self.in_order))
        if join is None or table is None:
            return None
        return indexed_loop(table, self.value(join.probe), op.ref.path[-1].slot, op.out, then)

    def _iterate(self, op: IterOp, then: TestCode) -> TestCode:
        path = op.ref.path
        first = next(index for index, element in enumerate(path) if type(element) is Local and element.slot in op.free)
        is_cursor = False
        if type(op.ref) is Doc and op.ref.root == "data":
            start, rest, is_cursor = self.data_start(path[:first])
            if is_cursor:
                remaining: tuple[Any, ...] = (*rest, *path[first:])
            else:
                start, remaining = self._path(start, rest), path[first:]
                is_cursor = self._ends_on_package(path[:first])
                if is_cursor:
                    node_path = tuple(element.value for element in path[:first])
                    start = self._cursor_at(node_path)
        elif type(op.ref) is Doc:
            start, remaining = self._input(path[:first]), path[first:]
        else:
            start, remaining = self._path(self.value(op.ref.base), path[:first]), path[first:]
        step = self._steps(remaining, op.free, set(), op.out, then, is_cursor=is_cursor)

        def code(frame: Frame) -> bool:
            place = start(frame)
            return place is not UNDEFINED and step(frame, place)

        return code

    def _ends_on_package(self, path: tuple[Any, ...]) -> bool:
        node = self.program.root
        for element in path:
            child = node.children.get(freeze(element.value)) if type(element) is Const and not node.rules else None
            if child is None:
                return False
            node = child
        return bool(node.children) or not node.rules

    def _cursor_at(self, path: tuple[Any, ...]) -> ValueCode:
        node = self.program.root
        for key in path:
            node = node.children[freeze(key)]
        documents = self.program.documents
        return lambda frame: documents.start(frame[0], node)

    def _steps(self, path: tuple[Any, ...], free: frozenset[int], seen: set[int], out: int, then: TestCode, *, is_cursor: bool) -> PlaceCode:
        """Code for the rest of a path from a place."""
        if not path:
            return self._leaf(out, then, is_cursor=is_cursor)
        element, rest = path[0], path[1:]
        if type(element) is Local and element.slot in free and element.slot not in seen:
            after = self._steps(rest, free, seen | {element.slot}, out, then, is_cursor=is_cursor)
            if is_cursor:
                return self._cursor_loop(element.slot, after)
            if not rest:
                silent = self.names[element.slot].startswith("_#")
                return last_loop(0 if silent else element.slot, out, then, in_order=self.in_order)
            return loop_code(element.slot, after, in_order=self.in_order)
        after = self._steps(rest, free, seen, out, then, is_cursor=is_cursor)
        key = self.value(element)
        documents = self.program.documents

        def follow(frame: Frame, place: Any) -> bool:
            wanted = key(frame)
            if wanted is UNDEFINED:
                return False
            below = documents.step(frame[0], place, wanted) if is_cursor else lookup(place, wanted)
            return below is not UNDEFINED and after(frame, below)

        return follow

    def _leaf(self, out: int, then: TestCode, *, is_cursor: bool) -> PlaceCode:
        documents = self.program.documents

        def leaf(frame: Frame, place: Any) -> bool:
            if is_cursor and type(place) is Cursor:
                place = documents.finish(frame[0], place)
                if place is UNDEFINED:
                    return False
            frame[out] = place
            return then(frame)

        return leaf

    def _cursor_loop(self, slot: int, after: PlaceCode) -> PlaceCode:
        documents = self.program.documents
        plain = loop_code(slot, after, in_order=self.in_order)

        def loop(frame: Frame, place: Any) -> bool:
            if type(place) is not Cursor:
                return plain(frame, place)
            for key, below in documents.entries(frame[0], place):
                frame[slot] = key
                frame[0].charge(1)
                if after(frame, below):
                    return True
            return False

        return loop

    def _walk(self, op: WalkOp, then: TestCode) -> TestCode:
        term, out = self.value(op.term), op.out

        def code(frame: Frame) -> bool:
            document = term(frame)
            if document is UNDEFINED:
                return False
            stack: list[tuple[list[Any], Any]] = [([], document)]
            charge = frame[0].charge
            while stack:
                path, value = stack.pop()
                charge(1 + len(path) // 8)
                frame[out] = [path, value]
                if then(frame):
                    return True
                keys = reversed(sorted_keys(value))
                stack.extend(([*path, key], key if type(value) is RegoSet else lookup(value, key)) for key in keys)
            return False

        return code

    def _with(self, op: WithOp, then: TestCode) -> TestCode:
        saved = self.new_slot()

        def resume(frame: Frame) -> bool:
            inner = frame[0]
            frame[0] = frame[saved]
            stop = then(frame)
            frame[0] = inner
            return stop

        inner_code = self.body(op.ops, resume)
        targets: list[tuple[str, Any, Any]] = [(kind, name, value if type(value) is tuple else self.value(value)) for kind, name, value in op.targets]

        def code(frame: Frame) -> bool:
            context = frame[0]
            child = context.child()
            for kind, name, value in targets:
                given = value if type(value) is tuple else value(frame)
                if given is UNDEFINED:
                    return False
                if kind == "call":
                    child.mocks = {**(child.mocks or {}), name: given}
                elif kind == "input":
                    child.input = patched(child.input, name, given)
                else:
                    child.data = patched(child.data, name, given)
                    child.overrides = (*child.overrides, name)
            before = frame[saved]
            frame[saved], frame[0] = context, child
            try:
                return inner_code(frame)
            finally:
                frame[0], frame[saved] = context, before

        return code

    # --- closures ----------------------------------------------------------------------------------------------------

    def comprehension(self, plan: ComprPlan) -> ValueCode:
        """Compile a comprehension: it always has a value, empty if nothing is found."""
        before, self.in_order = self.in_order, plan.kind == "array"
        slot = self.new_slot()
        value = self.value(plan.value)
        if plan.kind == "array":
            collect: TestCode = collect_array(slot, value)
        elif plan.kind == "set":
            collect = collect_set(slot, value)
        else:
            collect = collect_object(slot, self.value(plan.key), value)
        code = self.body(plan.ops, collect)
        self.in_order = before
        make: Any = dict if plan.kind == "object" else list
        is_set = plan.kind == "set"

        def run(frame: Frame) -> Any:
            found = frame[slot] = make()
            code(frame)
            return RegoSet(found) if is_set else found

        return run

    def template(self, plan: TemplatePlan) -> ValueCode:
        """Compile a template string: an undefined part reads `<undefined>`, one with several values is an error."""
        parts: list[Any] = []
        for part in plan.parts:
            if isinstance(part, str):
                parts.append(part)
                continue
            slot = self.new_slot()
            parts.append((slot, self.body(part[0], collect_set(slot, slot_value(part[1])))))

        def run(frame: Frame) -> Any:
            pieces: list[str] = []
            for part in parts:
                if isinstance(part, str):
                    pieces.append(part)
                    continue
                slot, code = part
                frame[slot] = []
                code(frame)
                found = list(dict.fromkeys(frame[slot]))
                if len(found) > 1:
                    raise EvaluationError("eval_conflict_error", "template-strings must not produce multiple outputs")
                pieces.append(display(thaw(found[0])) if found else "<undefined>")
            text = "".join(pieces)
            if len(text) > frame[0].limits.text_chars:
                raise LimitError("text_chars", "a text made by a template string")
            return text

        return run
