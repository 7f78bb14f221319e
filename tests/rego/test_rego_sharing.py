"""One compiled policy for many threads and many evaluations: same answers, flat memory, no code made from text."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import pytest
from generated import document, policy
from opa_server import opa_binary

from policies.rego import Engine, PolicyError, RegoError, to_json
from policies.rego.builtins import BUILTINS, refusal

ROOT = Path(__file__).resolve().parents[2]
BUSY = """package p

import data.q

default allow := false

allow if {
	some role in input.roles
	q.grants[role][_] == input.action
	not denied
}

denied if count(input.marks) > 3

deny contains sprintf("%s: %d marks, %v", [input.who, count(input.marks), sorted]) if denied

sorted := [m | some m in {x | some x in input.marks}]

twice(x) := x * 2

total := sum([twice(m) | some m in input.marks])
"""
GRANTS = 'package q\n\ngrants := {"reader": ["read"], "writer": ["read", "write"]}\n'


def inputs(seed: int, count: int) -> list[Any]:
    random = Random(seed)  # noqa: S311 - test data, not secrets
    return [
        {
            "who": f"w{index}", "roles": random.sample(["reader", "writer", "none"], random.randrange(3)), "action": random.choice(["read", "write"]),
            "marks": [random.randrange(9) for _ in range(random.randrange(8))],
        }
        for index in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("warm", [True, False])
def test_threads_that_share_an_engine_get_the_answers_of_one_alone(warm):
    documents = inputs(7, 200)
    alone = Engine({"p.rego": BUSY, "q.rego": GRANTS})
    wanted = [to_json(alone.value("data.p", given)) for given in documents]
    shared = Engine({"p.rego": BUSY, "q.rego": GRANTS})
    run = shared.prepare("data.p") if warm else lambda given: shared.value("data.p", given)
    wrong: list[Any] = []
    barrier = threading.Barrier(6)

    def work(offset: int) -> None:
        barrier.wait()
        for index in range(len(documents)):
            place = (index + offset * 31) % len(documents)
            found = to_json(run(documents[place]))
            if found != wanted[place]:
                wrong.append((place, found))

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert wrong == []


AUDITED = """
import sys
sys.path.insert(0, "tests/rego")
from random import Random
from generated import document, policy
from policies.rego import Engine, PolicyError, RegoError
from policies.rego.builtins import BUILTINS

# What libraries import late is imported before the hook: loading a module runs its code, which is not ours to forbid.
def exercise(first, last):
    for seed in range(first, last):
        random = Random(seed)
        try:
            engine = Engine({"gen.rego": policy(random)})
        except PolicyError:
            continue
        traced, remembered = engine.traced(), engine.remembering(["data.gen"])
        for _ in range(3):
            given = document(random)
            for run in (lambda: engine.value("data.gen", given), lambda: traced.value("data.gen", given), lambda: remembered(given),
                        lambda: engine.eval("x := data.gen", given), lambda: engine.check({"properties": {"a": {}}})):
                try:
                    run()
                except RegoError:
                    pass
    for name, entry in BUILTINS.items():
        arguments = ", ".join(["input.x"] * max(entry.arity, 0))
        try:
            Engine({"b.rego": f"package b\\n\\nx := {name}({arguments})\\n"}).value("data.b.x", {"x": "2006-01-02"})
        except RegoError:
            pass

exercise(0, 20)
seen = []

def hook(event, arguments):
    if event in ("exec", "compile"):
        seen.append((event, str(arguments)[:200]))
        raise RuntimeError(f"forbidden: {event}")

sys.addaudithook(hook)
exercise(20, 80)
assert not seen, seen
try:
    eval("1")
except RuntimeError:
    print("the hook works")
"""


def test_no_code_is_compiled_or_executed_from_text_while_policies_are_loaded_and_run():
    done = subprocess.run([sys.executable, "-c", AUDITED], cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "the hook works\n"


def growth_bytes(evaluations: int) -> int:
    """Return by how much the heap grows from the first fifth of the evaluations to their end."""
    engine = Engine({"p.rego": BUSY, "q.rego": GRANTS})
    run, remembered = engine.prepare("data.p"), engine.remembering(["data.p.allow"], limit_bytes=100_000)
    documents = inputs(3, 500)

    def rounds(count: int) -> None:
        for index in range(count):
            given = documents[index % 500]
            run(given, now_ns=index)
            remembered({**given, "who": index}, now_ns=index)

    rounds(evaluations // 5)
    gc.collect()
    tracemalloc.start()
    rounds(2_000)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    rounds(evaluations - evaluations // 5)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return after - before


def test_memory_is_flat_over_evaluations():
    assert growth_bytes(10_000) < 50_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_is_flat_over_a_million_evaluations():
    """Resident memory of a process of its own, where nothing else allocates."""
    script = (
        "import sys, resource, os\n"
        "sys.path.insert(0, 'tests/rego')\n"
        "from test_rego_sharing import BUSY, GRANTS, inputs\n"
        "from policies.rego import Engine\n"
        "engine = Engine({'p.rego': BUSY, 'q.rego': GRANTS})\n"
        "run, documents = engine.prepare('data.p'), inputs(3, 500)\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')\n"
        "for index in range(20_000):\n"
        "    run(documents[index % 500], now_ns=index)\n"
        "before = resident()\n"
        "for index in range(1_000_000):\n"
        "    run(documents[index % 500], now_ns=index)\n"
        "print(resident() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert int(done.stdout) < 1_000_000


def test_reloading_policies_leaves_nothing_behind():
    def reload(count: int) -> None:
        for _ in range(count):
            Engine({"p.rego": BUSY, "q.rego": GRANTS}).value("data.p", inputs(1, 1)[0])

    reload(5)
    gc.collect()
    tracemalloc.start()
    reload(5)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    reload(40)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 100_000


@pytest.mark.parametrize("seed", range(60))
def test_texts_cut_and_spliced_are_refused_or_answer(seed):
    """Fuzzing from real policies: pieces of several, joined anywhere."""
    random = Random(seed)  # noqa: S311 - test data, not secrets
    sources = [policy(random) for _ in range(3)] + [BUSY]
    for _ in range(25):
        pieces = []
        for _ in range(random.randrange(1, 4)):
            text = random.choice(sources)
            begin = random.randrange(len(text))
            pieces.append(text[begin : begin + random.randrange(200)])
        spliced = "package gen\n\n" + random.choice(["", " ", "\n"]).join(pieces)
        if random.random() < 0.3:
            place = random.randrange(len(spliced))
            spliced = spliced[:place] + random.choice(["\x00", "\ufeff", "\U0001f600", "`", '"', "}", "1e9999", "\\u"]) + spliced[place:]
        issues: list[Any] = []
        try:
            Engine({"m.rego": spliced}).value("data.gen", document(random))
        except PolicyError as refused:
            issues = refused.issues
        except RegoError as error:
            assert str(error)  # noqa: PT017 - any typed error will do, another exception fails the test by itself
        assert all(issue.line >= 1 and issue.column >= 1 for issue in issues)


@pytest.mark.component("opa")
def test_every_builtin_of_opa_is_here_or_refused():
    binary = opa_binary()
    assert binary is not None
    told = json.loads(subprocess.run([binary, "capabilities", "--current"], capture_output=True, text=True, check=True).stdout)
    internal = {"assign", "internal.print", "internal.template_string", "internal.test_case"}
    theirs = {entry["name"]: len(entry["decl"].get("args") or []) for entry in told["builtins"] if entry["name"] not in internal}
    assert {name for name in theirs if name not in BUILTINS and not refusal(name)} == set()
    assert {name for name in BUILTINS if name not in theirs} == set()
    wrong = {name for name, arity in theirs.items() if name in BUILTINS and BUILTINS[name].arity not in {arity, -1}}
    assert wrong == set()
