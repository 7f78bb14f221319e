"""Random policies and inputs for the differential test: a seed in, Rego text out.

Policies are built to be mostly well-formed: variables are bound before they are read, references go to rules written above. Values are few
and small, so that equal ones meet; 1, true, 1.0, null, "" and [] are all among them.
"""

from __future__ import annotations

from random import Random
from typing import Any

VALUES: list[Any] = [0, 1, 2, -1, 1.5, 1.0, True, False, None, "", "a", "b", "1", [], [1], ["a", 1], {}, {"a": 1}, {"b": {"a": "x"}}]
NAMES = ["count", "type_name", "is_string", "object.get", "to_number", "json.marshal", "sprintf", "plus", "minus", "union", "sort", "max"]
VERBS = ["%v", "%d", "%s", "%.2f", "%5v|", "%x", "%q", "%t", "%05d", "%e", "%g"]
FIELDS = ["a", "b", "c", "xs", "o"]


def document(random: Random) -> Any:
    """Return an input document."""
    found: dict[str, Any] = {}
    for field in FIELDS:
        if random.random() < 0.8:
            found[field] = random.choice(VALUES)
    if random.random() < 0.8:
        found["xs"] = [random.choice(VALUES) for _ in range(random.randrange(5))]
    if random.random() < 0.8:
        found["o"] = {key: random.choice(VALUES) for key in random.sample(["a", "b", "c", "d"], random.randrange(4))}
    return found


class Writer:
    """Writes one module. Owns `rules` (what may be referred to) and `names` (variables bound in the current body)."""

    def __init__(self, random: Random, package: str) -> None:
        self.random = random
        self.package = package
        self.rules: list[tuple[str, str]] = []
        self.names: list[str] = []
        self.count = 0

    def fresh(self) -> str:
        """Return an unused variable name."""
        self.count += 1
        return f"v{self.count}"

    def scalar(self) -> str:
        """Return a literal."""
        return self.random.choice(["0", "1", "2", "1.5", "1.0", "true", "false", "null", '"a"', '"b"', '""', "10"])

    def term(self, depth: int = 2) -> str:  # noqa: PLR0911 - one flat list of cases  # noqa: PLR0911 - one flat list of cases
        """Return a term whose variables are bound."""
        random = self.random
        kind = random.randrange(13)
        if kind < 3 or depth == 0:
            return self.scalar()
        if kind < 6:
            return random.choice(["input." + random.choice(FIELDS), 'input["o"].' + random.choice("abc"), "input.xs[0]", "input.xs"])
        if kind == 6 and self.names:
            return random.choice(self.names)
        if kind == 7 and self.rules:
            return random.choice(self.rules)[0]
        if kind == 8:
            return "[" + ", ".join(self.term(depth - 1) for _ in range(random.randrange(3))) + "]"
        if kind == 9:
            return "{" + ", ".join(self.term(depth - 1) for _ in range(random.randrange(1, 3))) + "}"
        if kind == 10:
            return '{"k": ' + self.term(depth - 1) + "}"
        if kind == 11:
            return self.comprehension(depth - 1)
        return self.call(depth - 1)

    def call(self, depth: int) -> str:  # noqa: PLR0911 - one flat list of cases
        """Return a call that OPA's type checker lets pass."""
        random = self.random
        name = random.choice(NAMES)
        field = "input." + random.choice(FIELDS)
        if random.random() < 0.4:
            return self.text_or_number(depth)
        if name == "object.get":
            return f'object.get(input.o, "{random.choice("abc")}", {self.scalar()})'
        if name == "sprintf":
            return f'sprintf("%v|%v", [{self.term(depth)}, {self.term(depth)}])'
        if name in {"plus", "minus"}:
            return f"({field} {'+' if name == 'plus' else '-'} {random.choice(['1', 'input.a', '0.1', '2'])})"
        if name == "union":
            return "({" + self.term(depth) + "} | {" + self.term(depth) + "})"
        if name in {"count", "sort", "max"}:
            return f"{name}({random.choice(['input.xs', field, '[' + self.term(depth) + ', ' + self.scalar() + ']'])})"
        return f"{name}({field})"

    def text_or_number(self, depth: int) -> str:
        """Return a call on text or numbers, where formatting and rounding show."""
        random = self.random
        field, other = ("input." + random.choice(FIELDS) for _ in range(2))
        number = random.choice(["0.1", "3", "7", "1.25", "-2.5", "100000000000000000000", "0.30000000000000004"])
        return random.choice(
            [
                f"({field} {random.choice('+-*/')} {number})",
                f"(({number} * {random.choice(['1.1', '3', '0.7'])}) {random.choice('+-/')} {random.choice(['0.3', '7', '-1.5'])})",
                f"({random.choice(['7', '-7'])} % {random.choice(['3', '-3', '2'])})",
                f"{random.choice(['round', 'floor', 'ceil', 'abs'])}({random.choice([number, field])})",
                f"json.marshal([{number}, {field}])",
                f'sprintf("{random.choice(VERBS)}", [{random.choice([number, field])}])',
                f'split({field}, "{random.choice(["", "a", ","])}")',
                f'concat("-", [{field}, "z"])',
                f"substring({field}, {random.choice(['0', '1', '-1'])}, {random.choice(['1', '-1', '5'])})",
                f'replace({field}, "a", {other})',
                f'{random.choice(["startswith", "endswith", "contains", "indexof"])}({field}, "a")',
                f"{random.choice(['upper', 'lower', 'trim_space', 'strings.reverse', 'is_number', 'is_array', 'is_set'])}({field})",
                f"format_int({number}, {random.choice(['2', '10', '16'])})",
                f"{random.choice(['sum', 'product', 'min', 'max', 'sort', 'count'])}(input.xs)",
                f"array.slice(input.xs, {random.choice(['0', '1', '-1'])}, {random.choice(['2', '9'])})",
                f"array.concat(input.xs, {field})",
                "object.union(input.o, {{}})".format() if random.random() < 0.3 else 'object.union(input.o, {"a": {"b": 1}})',
                'object.remove(input.o, ["a"])',
                "object.keys(input.o)",
                f'json.remove(input, ["/o/a", "xs/0", "{random.choice("abc")}"])',
                f'json.filter(input, ["o/a", "xs/0", "{random.choice("abc")}"])',
                f"({{{self.term(depth)}}} & {{{self.term(depth)}, 1}})",
                f"({{{self.term(depth)}}} - {{{self.term(depth)}}})",
                f'regex.match("^[a-z]+$", {field})',
                f"to_number({random.choice([field, chr(34) + '12.50' + chr(34), chr(34) + '1e3' + chr(34)])})",
                f"object.subset(input.o, {{{chr(34)}a{chr(34)}: {self.scalar()}}})",
                f'units.parse_bytes("{random.choice(["1KB", "2.5Mi", "10"])}")',
                f"bits.and({random.choice(['6', field])}, 3)",
            ]
        )

    def comprehension(self, depth: int) -> str:
        """Return a comprehension with its own body."""
        names = list(self.names)
        body = [self.statement(depth) for _ in range(self.random.randrange(1, 3))]
        head = self.term(depth)
        self.names = names
        kind = self.random.randrange(3)
        inner = "; ".join(body)
        if kind == 0:
            return f"[{head} | {inner}]"
        return f"{{{head} | {inner}}}" if kind == 1 else f'{{"z": {self.scalar()} | {inner}}}'

    def statement(self, depth: int = 2) -> str:  # noqa: PLR0911 - one flat list of cases
        """Return one expression; it may bind a variable for those after it."""
        random = self.random
        kind = random.randrange(12)
        if kind == 0:
            term, name = self.term(depth), self.fresh()
            self.names.append(name)
            return f"{name} := {term}"
        if kind in {1, 2}:
            name = self.fresh()
            source = random.choice(["input.xs", "input.o", "input.xs", '[1, true, "a"]', '{"a", 1}'])
            self.names.append(name)
            return f"some {name} in {source}"
        if kind == 3:
            key, value = self.fresh(), self.fresh()
            self.names.extend([key, value])
            return f"some {key}, {value} in {random.choice(['input.o', 'input.xs'])}"
        if kind == 4:
            name = self.fresh()
            self.names.append(name)
            return f"{name} = input.{random.choice(['xs', 'o'])}[_]"
        if kind == 5:
            return f"not {self.condition(depth)}"
        if kind == 6:
            name = self.fresh()
            self.names.append(name)
            inner = self.condition(depth)
            self.names.remove(name)
            return f"every {name} in {random.choice(['input.xs', 'input.o'])} {{ {inner} ; {name} == {name} }}"
        if kind == 7 and self.rules:
            rule, shape = random.choice(self.rules)
            if shape == "set":
                name = self.fresh()
                self.names.append(name)
                return f"some {name}; {rule}[{name}]"
            return f"{rule} with input.a as {self.scalar()}"
        return self.condition(depth)

    def condition(self, depth: int) -> str:
        """Return a test."""
        random = self.random
        kind = random.randrange(6)
        if kind == 0:
            return "input." + random.choice(FIELDS)
        if kind == 1:
            return f"{self.term(depth)} in {random.choice(['input.xs', 'input.o'])}"
        operator = random.choice(["==", "!=", "<", ">=", "=="])
        return f"input.{random.choice(FIELDS)} {operator} {self.term(max(depth - 1, 0))}"

    def body(self) -> str:
        """Return the inside of a body."""
        self.names = []
        return "\n".join("\t" + self.statement() for _ in range(self.random.randrange(1, 4)))

    def rule(self, index: int) -> str:
        """Return one rule, which later ones may refer to."""
        random, name = self.random, f"r{index}"
        kind = random.randrange(6)
        body = self.body()
        if kind == 0:
            text, shape = f"{name} if {{\n{body}\n}}", "value"
        elif kind == 1:
            text, shape = f"{name} := {self.term()} if {{\n{body}\n}}", "value"
        elif kind == 2:
            text, shape = f"{name} contains {self.term()} if {{\n{body}\n}}", "set"
            if random.random() < 0.5:
                text += f"\n\n{name} contains {self.scalar()}"
        elif kind == 3:
            key = random.choice(['"k"', "input.a", "key"])
            text = f'{name}[{key}] := {self.term()} if {{\n{body}\n\tkey := "q"\n\tkey == key\n}}'
            shape = "object"
        elif kind == 4:
            head = f"default {name} := {self.scalar()}\n\n"
            text = head + f"{name} := {self.term()} if {{\n{body}\n}}"
            self.names = []
            text += f" else := {self.scalar()} if {{\n{self.body()}\n}}"
            shape = "value"
        else:
            self.names = ["x"]
            text = f"f{index}(x) := {self.term()} if {{\n\t{self.condition(1)}\n}}\n\n{name} := f{index}(input.a)"
            shape = "value"
        self.rules.append((name, shape))
        return text

    def module(self) -> str:
        """Return the text of a module."""
        rules = [self.rule(index) for index in range(self.random.randrange(2, 6))]
        return f"package {self.package}\n\n" + "\n\n".join(rules) + "\n"


def policy(random: Random, package: str = "gen") -> str:
    """Return a random module."""
    return Writer(random, package).module()
