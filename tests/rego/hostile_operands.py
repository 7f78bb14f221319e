# ruff: noqa: T201 - a program that prints its findings for the test that runs it
"""Every built-in with operands made to hurt, in a process of its own with bounded memory.

Prints one line per call that crashed, took more than `WORST_S` of the processor, or made the process grow by more than `WORST_MB`; then the count
of calls and the peak of memory.

    PYTHONPATH=. python tests/rego/hostile_operands.py SEED [few]
"""

from __future__ import annotations

import resource
import sys
import time
from random import Random
from typing import Any

from policies.rego import Engine, Limits, RegoError
from policies.rego.builtins import BUILTINS

WORST_S = 1.5
WORST_MB = 300
COMPARISONS = {"equal": "==", "eq": "==", "neq": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
INFIX = {"and": "&", "or": "|", "minus": "-", "plus": "+", "mul": "*", "div": "/", "rem": "%"}


def nested(depth: int, *, as_object: bool = False) -> Any:
    """Return a value inside many containers."""
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if as_object else [value]
    return value


OPERANDS: dict[str, Any] = {
    "text": "a" * 1_000_000, "spaces": " " * 1_000_000, "digits": "9" * 1_000_000, "parentheses": "(" * 500_000, "braces": "{{" * 300_000,
    "brackets": "[" * 500_000, "commas": "a," * 400_000, "verbs": "%d" * 300_000, "wide": "\U0001f600" * 300_000, "hex": "ab" * 400_000,
    "dots": "1." * 300_000, "lines": "- a\n" * 200_000, "all addresses": "0.0.0.0/0", "all of v6": "::/0", "regex": "(a|aa)+$",
    "large regex": "(" * 50 + "a{1,100}" + "){1,100}" * 50, "glob": "{a,b}" * 2000, "stars": "*a" * 5000,
    "two points": "9" * 300_000 + "..", "blocks": "-----BEGIN A-----" * 40_000, "days": "2" * 190, "ones": "1" * 190 + "x", "zones": "MST" * 60,
    "open action": "{{" + " " * 300_000, "seconds": "1s" * 300_000, "percents": "%2" * 300_000, "dashes": "1.1.1-" + "0." * 450 + "!",
    "exponent": "1e999999", "fraction": "1e-999999", "template": "{{range .a}}{{range $.a}}{{range $.a}}x{{end}}{{end}}{{end}}", "token": "a.a.a",
    "big": 10**3800, "float": 1.5e308, "tiny": 5e-324,
    "negative": -(10**18), "million": 10**6, "billion": 10**9, "numbers": list(range(100_000)), "strings": ["a" * 100] * 50_000,
    "arrays": [[index] for index in range(30_000)], "deep": nested(190), "deep object": nested(190, as_object=True),
    "object": {str(index): index for index in range(50_000)}, "objects": [{"a": index, "b": [index]} for index in range(20_000)],
    "graph": {str(one): [str(other) for other in range(200)] for one in range(200)},
    "patches": [{"op": "add", "path": "/a/-", "value": 1}] * 5000, "paths": ["/a/b/c"] * 20_000,
    "networks": [f"10.{index % 256}.{index // 256}.0/24" for index in range(20_000)], "schema": {"allOf": [{"$ref": "#"}]},
    "ranges": {"a": list(range(3000))}, "layout": "2006-01-02", "null": None, "true": True,
}  # fmt: skip


def policy(name: str, arity: int) -> str:
    """Return a module whose `x` calls a built-in with `input.a0`, `input.a1`, ..."""
    arguments = [f"input.a{index}" for index in range(arity)]
    if name == "walk":
        body = "x := count([1 | walk(input.a0)])"
    elif name == "internal.member_2":
        body = "x if input.a0 in input.a1"
    elif name == "internal.member_3":
        body = "x if input.a0, input.a1 in input.a2"
    elif name in INFIX:
        body = (
            f"x := [1 | input.a0 {INFIX[name]} input.a1]"
            if name in {"equal", "eq", "neq", "lt", "lte", "gt", "gte"}
            else f"x := input.a0 {INFIX[name]} input.a1"
        )
    else:
        body = f"x := {name}({', '.join(arguments)})"
    return f"package p\n\n{body}\n"


def resident_mb() -> int:
    """Return the most memory the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> int:
    """Call everything."""
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    random = Random(int(sys.argv[1]))  # noqa: S311 - test data, not secrets
    is_short = sys.argv[2:] == ["few"]
    names, count = sorted(OPERANDS), 0
    for name, entry in sorted(BUILTINS.items()):
        if entry.arity <= 0:
            continue
        run = Engine({"p.rego": policy(name, entry.arity)}, limits=Limits(wall_s=0.5)).prepare("data.p.x")
        rows = [(one,) * entry.arity for one in names] + [tuple(random.choices(names, k=entry.arity)) for _ in range(30 if entry.arity > 1 else 0)]
        for row in random.sample(rows, 6) if is_short else rows:
            count += 1
            before_mb, begin, outcome = resident_mb(), time.process_time(), ""
            try:
                run({f"a{index}": OPERANDS[one] for index, one in enumerate(row)})
            except RegoError:
                pass
            except BaseException as crash:  # noqa: BLE001 - a crash is what is looked for, whatever its type
                outcome = f"CRASH {type(crash).__name__}: {crash!s:.200}"
            seconds, grown_mb = time.process_time() - begin, resident_mb() - before_mb
            if outcome or seconds > WORST_S or grown_mb > WORST_MB:
                print(f"{name}{row}: {seconds:.2f} s, {grown_mb} MB {outcome}", flush=True)
    print(f"{count} calls, peak {resident_mb()} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
