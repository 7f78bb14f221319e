"""Rules to code: one value from many definitions.

What surprises, and where OPA documents it (policy-language, "Complete Definitions", "Else Keyword", "Default Keyword"):

- All definitions of a complete rule or function are evaluated; two different values are an error, not a choice.
- `else` is tried only if the branches above it in the same definition are undefined; `default` only if every definition is.
- A definition whose value is undefined counts as no definition: `deny` with an undefined message does not fire.
- When every definition can only yield one and the same constant, the first success settles it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policies.rego.compile_bodies import BodyCompiler
from policies.rego.compile_calls import Frame, TestCode, ValueCode
from policies.rego.errors import EvaluationError
from policies.rego.indexes import FEWEST_RULES, Choose, chooser
from policies.rego.ir import BranchIR, Const, Local, Match, RuleIR, locals_in
from policies.rego.loops import enough
from policies.rego.plan import IterOp, Planner, WalkOp, WithOp
from policies.rego.runtime import COMPOSITES, Context
from policies.rego.tree import Node, insert
from policies.rego.values import UNDEFINED, RegoSet, equal, freeze

BranchCode = Callable[[Frame], Any]
ValueOfRule = Callable[..., Any]


def compile_node(program: Any, node: Node) -> None:
    """Set the extent or function of a node."""
    if node.kind == "function":
        node.function = _function(program, node)
    elif node.kind == "complete":
        node.extent = _complete(program, node)
    else:
        node.extent = _partial(program, node)


def plan_rule(rule: RuleIR) -> tuple[Planner, list[int], list[tuple[BranchIR, list[Any], set[int]]]]:
    """Plan a rule: the planner (its `unsafe` list), the slots of the arguments, and each branch with its operations and bound slots.

    Arguments arrive in temporary slots unless they are plain variables seen for the first time; a pattern is matched as the first
    statement of every branch.
    """
    planner = Planner(rule.names)
    bound: set[int] = set()
    entry: list[Any] = []
    slots: list[int] = []
    for argument in rule.args or ():
        if type(argument) is Local and argument.slot not in bound:
            slots.append(argument.slot)
            bound.add(argument.slot)
            continue
        slot = planner.temp()
        slots.append(slot)
        bound.add(slot)
        entry.append(Match(Local(slot), argument, rule.pos))
    branches = []
    for branch in rule.branches:
        inside = set(bound)
        ops = planner.body((*entry, *branch.body), inside)
        for part in (branch.value, branch.key, *branch.path):
            for slot in sorted(locals_in(part) - inside):
                planner.unsafe.append((slot, branch.pos))
            # For what comprehensions and templates in it leave unbound; the plan itself is made again where the code is.
            planner.value(part, set(inside))
        branches.append((branch, ops, inside))
    return planner, slots, branches


def _definitions(program: Any, node: Node, make: Callable[..., Any]) -> tuple[list[Any], list[Any]]:
    """Compile each rule of a node with `make`; return (definitions, defaults)."""
    found: list[Any] = []
    defaults: list[Any] = []
    for rule in node.rules:
        program.enter_rule(rule)
        (defaults if rule.is_default else found).append(make(rule))
    return found, defaults


def _branch(compiler: BodyCompiler, planner: Planner, branch: BranchIR, ops: list[Any], bound: set[int]) -> BranchCode:
    """Code for one body: its value, UNDEFINED if it has none; all solutions must agree."""
    term = planner.value(branch.value, bound)
    value = compiler.value(term)
    if type(term) is Const:
        constant = term.value
        test = compiler.body(ops, enough)
        return lambda frame: constant if test(frame) else UNDEFINED
    if not any(isinstance(op, (IterOp, WalkOp, WithOp)) for op in ops):
        test = compiler.body(ops, enough)
        return lambda frame: value(frame) if test(frame) else UNDEFINED
    slot = compiler.new_slot()

    def agree(frame: Frame) -> bool:
        found = value(frame)
        if found is UNDEFINED:
            return False
        before = frame[slot]
        if before is UNDEFINED:
            frame[slot] = found
        elif not equal(before, found):
            raise EvaluationError("eval_conflict_error", "complete rules must not produce multiple outputs")
        return False

    run = compiler.body(ops, agree)

    def code(frame: Frame) -> Any:
        frame[slot] = UNDEFINED
        run(frame)
        return frame[slot]

    return code


def _definition(program: Any, rule: RuleIR) -> tuple[Callable[[Context, tuple[Any, ...]], Any], Any]:
    """Compile one definition of a complete rule or function; return it and its only constant (or UNDEFINED)."""
    planner, slots, planned = plan_rule(rule)
    compiler: BodyCompiler = program.compiler(planner)
    codes = [compiler.watched_branch(number, _branch(compiler, planner, *part)) for number, part in enumerate(planned)]
    size, first = len(planner.names), codes[0]
    constants = {id(branch.value): branch.value for branch in rule.branches}
    only = next(iter(constants.values())).value if len(constants) == 1 and type(rule.branches[0].value) is Const else UNDEFINED
    note = program.rule_hook(rule)

    def run(context: Context, args: tuple[Any, ...]) -> Any:
        frame: Frame = [None] * size
        frame[0] = context
        for slot, value in zip(slots, args, strict=True):
            frame[slot] = value
        for code in codes:
            found = code(frame)
            if found is not UNDEFINED:
                return found
        return UNDEFINED

    def run_plain(context: Context, _args: tuple[Any, ...]) -> Any:
        frame: Frame = [None] * size
        frame[0] = context
        return first(frame)

    code = run if slots or len(codes) > 1 else run_plain
    return (note(code) if note else code), only


def _chooser(program: Any, node: Node, codes: list[Any]) -> Choose:
    """Return `context -> the definitions that can hold`."""
    rules = [rule for rule in node.rules if not rule.is_default]
    plans = []
    if program.hook is None and len(rules) >= FEWEST_RULES:
        for rule in rules:
            branches = plan_rule(rule)[2]
            # With `else` another branch may hold where the first does not.
            plans.append(branches[0][1] if len(branches) == 1 else None)
    everything = tuple(codes)
    return (chooser(program, plans, codes) if plans else None) or (lambda _context: everything)


def _combine(definitions: list[tuple[Any, Any]], default: Any, choose: Choose) -> Callable[[Context, tuple[Any, ...]], Any]:
    """All definitions must agree; with one shared constant the first success is enough."""
    codes = [code for code, _ in definitions]
    same = bool(definitions) and all(only is not UNDEFINED and equal(only, definitions[0][1]) for _, only in definitions)

    def first(context: Context, args: tuple[Any, ...]) -> Any:
        for code in choose(context):
            value = code(context, args)
            if value is not UNDEFINED:
                return value
        return default(context, args) if default else UNDEFINED

    def every(context: Context, args: tuple[Any, ...]) -> Any:
        found = UNDEFINED
        for code in choose(context):
            value = code(context, args)
            if value is UNDEFINED:
                continue
            if found is UNDEFINED:
                found = value
            elif not equal(found, value):
                raise EvaluationError("eval_conflict_error", "complete rules must not produce multiple outputs")
        if found is UNDEFINED and default:
            return default(context, args)
        return found

    return first if same or len(codes) < 2 else every


def _complete(program: Any, node: Node) -> ValueOfRule:
    if program.hook is None and sum(not rule.is_default for rule in node.rules) == 1:
        return _single(program, node)
    definitions, defaults = _definitions(program, node, lambda rule: _definition(program, rule))
    choose = _chooser(program, node, [code for code, _ in definitions])
    run = _combine(definitions, defaults[0][0] if defaults else None, choose)

    def extent(context: Context) -> Any:
        return run(context, ())

    return extent


def _single(program: Any, node: Node) -> ValueOfRule:
    """A rule with one definition, and perhaps a default: nothing to combine."""
    found, defaults = _definitions(program, node, lambda rule: _plain_branches(program, rule))
    ((codes, size),) = found
    if defaults:
        ((default_code,), default_size), *_ = defaults
    first = codes[0] if len(codes) == 1 else None

    def extent(context: Context) -> Any:
        frame: Frame = [None] * size
        frame[0] = context
        if first is not None:
            value = first(frame)
        else:
            for code in codes:
                value = code(frame)
                if value is not UNDEFINED:
                    break
        if value is UNDEFINED and defaults:
            frame = [None] * default_size
            frame[0] = context
            return default_code(frame)
        return value

    return extent


def _plain_branches(program: Any, rule: RuleIR) -> tuple[list[BranchCode], int]:
    """Compile the branches of a definition without arguments; return them and the size of their frame."""
    planner, _, planned = plan_rule(rule)
    compiler: BodyCompiler = program.compiler(planner)
    codes = [_branch(compiler, planner, branch, ops, bound) for branch, ops, bound in planned]
    return codes, len(planner.names)


def _function(program: Any, node: Node) -> ValueOfRule:
    definitions, defaults = _definitions(program, node, lambda rule: _definition(program, rule))
    choose = _chooser(program, node, [code for code, _ in definitions])
    run = _combine(definitions, defaults[0][0] if defaults else None, choose)

    def function(context: Context, *args: Any) -> Any:
        context.charge(1)
        return run(context, args)

    return function


# --- partial rules -----------------------------------------------------------------------------------------------------


def _partial(program: Any, node: Node) -> ValueOfRule:
    """A set, or an object of any depth whose leaves may be sets."""
    if node.kind == "set":
        return _partial_set(program, node)
    runs = [_object_rule(program, rule) for rule in node.rules if not rule.is_default]

    def extent(context: Context) -> Any:
        found: dict[Any, Any] = {}
        for run in runs:
            run(context, found)
        return _seal(found)

    return extent


def _partial_set(program: Any, node: Node) -> ValueOfRule:
    runs, _ = _definitions(program, node, lambda rule: _set_rule(program, rule))
    choose = _chooser(program, node, runs)

    def extent(context: Context) -> Any:
        found: list[Any] = []
        for run in choose(context):
            run(context, found)
        return RegoSet(found)

    return extent


def _set_rule(program: Any, rule: RuleIR) -> Callable[[Context, Any], Any]:
    planner, _, ((branch, ops, bound),) = plan_rule(rule)
    compiler: BodyCompiler = program.compiler(planner)
    slot = compiler.new_slot()
    if type(branch.key) is Const:
        code = compiler.body(ops, _collect_constant(slot, freeze(branch.key.value)))
        return _collector(program, rule, planner, slot, code)
    key = compiler.value(planner.value(branch.key, bound))

    def collect(frame: Frame) -> bool:
        value = key(frame)
        if value is not UNDEFINED:
            frame[slot].append(frame[0].keyed(value) if type(value) in COMPOSITES else freeze(value))
        return False

    return _collector(program, rule, planner, slot, compiler.body(ops, collect))


def _collect_constant(slot: int, member: Any) -> TestCode:
    def collect(frame: Frame) -> bool:
        frame[slot].append(member)
        return True

    return collect


def _object_rule(program: Any, rule: RuleIR) -> Callable[[Context, Any], Any]:
    program.enter_rule(rule)
    planner, _, ((branch, ops, bound),) = plan_rule(rule)
    compiler: BodyCompiler = program.compiler(planner)
    slot = compiler.new_slot()
    path: list[ValueCode] = [compiler.value(planner.value(part, bound)) for part in branch.path]
    is_set = branch.key is not None
    leaf = compiler.value(planner.value(branch.key if is_set else branch.value, bound))

    def collect(frame: Frame) -> bool:
        keys = []
        for part in path:
            key = part(frame)
            if key is UNDEFINED:
                return False
            keys.append(freeze(key))
        value = leaf(frame)
        if value is UNDEFINED:
            return False
        frame[0].pay(value)
        if is_set:
            _insert_member(frame[slot], keys, value)
        else:
            insert(frame[slot], keys, value)
        return False

    return _collector(program, rule, planner, slot, compiler.body(ops, collect))


def _collector(program: Any, rule: RuleIR, planner: Planner, slot: int, code: TestCode) -> Callable[[Context, Any], Any]:
    size = len(planner.names)
    note = program.rule_hook(rule)

    def run(context: Context, found: Any) -> Any:
        frame: Frame = [None] * size
        frame[0] = context
        frame[slot] = found
        code(frame)
        return None

    return note(run) if note else run


class _Members(list[Any]):
    """A set under construction inside a partial object."""


def _insert_member(target: dict[Any, Any], keys: list[Any], value: Any) -> None:
    for key in keys[:-1]:
        target = target.setdefault(key, {})
        if type(target) is not dict:
            raise EvaluationError("eval_conflict_error", "object keys must be unique")
    members = target.setdefault(keys[-1], _Members())
    if type(members) is not _Members:
        raise EvaluationError("eval_conflict_error", "object keys must be unique")
    members.append(freeze(value))


def _seal(value: Any) -> Any:
    """Turn sets under construction into sets."""
    if type(value) is _Members:
        return RegoSet(value)
    if type(value) is dict:
        return {key: _seal(item) if type(item) is dict or type(item) is _Members else item for key, item in value.items()}
    return value
