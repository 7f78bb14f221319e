r"""A strict Rego v1 engine in plain Python, usable alone.

Reading order: `lexer`, `terms` + `parser` (text to `syntax`), `names`, `scope`, `lowering` (names to slots, `ir`), `plan` (order), `compile_terms`,
`compile_calls`, `compile_bodies`, `loops`, `compile_rules` (closures), `tree` (documents), `program`, `engine`.

Example:
    >>> from policies.rego import Engine
    >>> Engine({"p.rego": "package p\ndeny contains m if { m := input.problems[_] }"}).value("data.p.deny", input={"problems": ["a"]})
    {'a'}
"""

from policies.rego.engine import Engine
from policies.rego.errors import EvaluationError, Issue, LimitError, PolicyError, RegoError
from policies.rego.render import to_json
from policies.rego.runtime import Limits
from policies.rego.values import UNDEFINED, RegoSet

__all__ = [
    "UNDEFINED",
    "Engine",
    "EvaluationError",
    "Issue",
    "LimitError",
    "Limits",
    "PolicyError",
    "RegoError",
    "RegoSet",
    "to_json",
]
