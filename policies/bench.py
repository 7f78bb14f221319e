"""What an evaluation costs: time by time on a prepared query, then percentiles.

Nothing is remembered between evaluations, so this is the uncached price; the gateway remembers verdicts while what they read does not change.
The inputs take turns. A quantile is the smallest time that is at least as long as that share of all times (nearest rank, no interpolation).

Example:
    measured = bench(sources, "data.policy.office.allow", [document], count=2_000)
    measured.quantile_ns(0.99)
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from policies.check import with_shipped
from policies.explanation import reference_path
from policies.rego import UNDEFINED, Engine, to_json
from policies.rego.parser import parse_module
from policies.rego.values import import_value
from policies.sources import Sources

QUANTILES: Final = (0.5, 0.9, 0.99, 0.999)
WARM_UP: Final = 50
"""Evaluations before the measurement: the first compile what they need."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Times of one query."""

    query: str
    inputs: int
    times_ns: tuple[int, ...]
    """Sorted."""
    compile_ns: int
    """Parsing, checking and compiling all modules."""
    modules: int
    answer: Any
    """On the first input; `UNDEFINED` for none."""
    reads: tuple[str, ...]
    """Paths the query can read; empty for a query that is no reference."""

    def quantile_ns(self, share: float) -> int:
        """Return the time that `share` of the evaluations stay within."""
        return self.times_ns[max(0, math.ceil(share * len(self.times_ns)) - 1)]

    @property
    def mean_ns(self) -> float:
        """Return the mean time."""
        return sum(self.times_ns) / len(self.times_ns)

    @property
    def reads_clock(self) -> bool:
        """Whether the answer may change while the input does not: then the gateway cannot remember it."""
        return "now" in self.reads


def bench(
    sources: Sources, query: str, inputs: Sequence[Any], *, count: int, now_ns: int = 0, clock: Callable[[], int] = time.perf_counter_ns
) -> Measured:
    """Measure a query.

    Args:
        sources: Policies and data; the shipped ones are added as they are in force.
        query: A reference below `data` is prepared, as in the gateway; any other query is compiled anew each time.
        inputs: At least one input document, or `UNDEFINED`; they take turns.
        count: Evaluations that are timed.
        now_ns: What `time.now_ns()` answers first; it moves by a millisecond with each evaluation.
        clock: Nanoseconds, monotonic.

    Raises:
        RegoError: a policy or the query is refused, or an evaluation fails.
    """
    modules = with_shipped(sources.modules)
    begun = clock()
    engine = Engine(modules, sources.data)
    is_reference = reference_path(query) is not None
    prepared = engine.prepare(query) if is_reference else None
    compile_ns = clock() - begun
    documents = [document if document is UNDEFINED else import_value(document) for document in inputs]

    def once(number: int) -> Any:
        document, moment = documents[number % len(documents)], now_ns + number * 1_000_000
        return prepared(document, now_ns=moment) if prepared is not None else engine.eval(query, document, moment)

    answer = once(0)
    for number in range(min(WARM_UP, count)):
        once(number)
    times = _times(once, count, clock)
    reads = sorted(_facts(engine, query, modules)) if is_reference else []
    return Measured(query, len(documents), times, compile_ns, len(modules), answer, tuple(reads))


def _facts(engine: Engine, query: str, modules: Mapping[str, str]) -> Iterator[str]:
    """Yield the paths of input, base data and clock that a query can read, without the rules on the way."""
    packages = [("data", *parse_module(name, text).package) for name, text in modules.items()]
    for path in engine.reads(query):
        if not any(path[: len(package)] == package for package in packages):
            yield ".".join(map(str, path))


def _times(once: Callable[[int], Any], count: int, clock: Callable[[], int]) -> tuple[int, ...]:
    """Time evaluations one by one; the collector runs before, not in between, so that it is nobody's cost by chance."""
    times: list[int] = []
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for number in range(count):
            begun = clock()
            once(number)
            times.append(clock() - begun)
    finally:
        if was_enabled:
            gc.enable()
    return tuple(sorted(times))


def as_json(measured: Measured) -> dict[str, Any]:
    """Return a measurement as plain JSON data, times in microseconds."""
    answer = {} if measured.answer is UNDEFINED else {"answer": to_json(measured.answer)}
    return {
        "query": measured.query,
        "evaluations": len(measured.times_ns),
        "inputs": measured.inputs,
        "compile_us": measured.compile_ns / 1000,
        "modules": measured.modules,
        "mean_us": round(measured.mean_ns / 1000, 3),
        "quantiles_us": {f"{share:g}": measured.quantile_ns(share) / 1000 for share in QUANTILES},
        "max_us": measured.times_ns[-1] / 1000,
        "reads": list(measured.reads),
        "reads_clock": measured.reads_clock,
        **answer,
    }
