r"""Tokens to syntax tree: modules and rules.  Statements and terms are in `terms.py`.

Rules (Rego v1 only):

- `if` stands before every body and `contains` before every element of a set; the old forms are refused with a hint.
- A statement ends at `;`, at a new line or at the closing brace.
- Every keyword may be a name after a dot.

Example: `parse_module("p.rego", "package p\nallow if input.x == 1")`.
"""

from __future__ import annotations

from policies.rego.lexer import Source, Token, make_source, tokenize
from policies.rego.syntax import Branch, Import, Module, Rule, Scalar, Statement, Var
from policies.rego.terms import KEYWORDS, TermParser

_FUTURE = frozenset({"contains", "every", "if", "in", "and", "or", "not"})


class ModuleParser(TermParser):
    """Recursive descent over one module."""

    def module(self, annotations: tuple[tuple[int, int, str], ...]) -> Module:
        """Parse `package`, imports and rules."""
        start = self.peek
        if not (start.kind == "ident" and start.text == "package"):
            raise self.error("a module begins with `package`", start)
        self.advance()
        package = self._dotted("package name")
        self._end_of_statement()
        imports: list[Import] = []
        rules: list[Rule] = []
        while self.peek.kind != "eof":
            if self.at_keyword("import"):
                imports.append(self._import())
            else:
                rules.append(self._rule(annotations))
            self._end_of_statement()
        return Module(self.source, package, tuple(imports), tuple(rules), annotations, start.start)

    def _end_of_statement(self) -> None:
        if self.peek.text == ";" and self.peek.kind == "op":
            self.advance()
        elif not self.peek.nl and self.peek.kind != "eof":
            raise self.error(f"unexpected `{self.peek.text}`", self.peek, self._hint_after_head())

    def _hint_after_head(self) -> str:
        return "Rego v1 wants `if` before a rule body" if self.peek.text == "{" else ""

    def _dotted(self, what: str) -> tuple[str, ...]:
        token = self.advance()
        if token.kind != "ident":
            raise self.error(f"expected a {what}", token)
        parts = [token.text]
        while not self.peek.gap and self.peek.text in {".", "["} and self.peek.kind == "op":
            if self.advance().text == ".":
                name = self.advance()
                if name.kind != "ident" or name.gap:
                    raise self.error(f"expected a name in the {what}", name)
                parts.append(name.text)
            else:
                name = self.advance()
                if name.kind != "string":
                    raise self.error(f"expected a string in the {what}", name)
                parts.append(name.value)
                self.expect("]")
        return tuple(parts)

    def _import(self) -> Import:
        start = self.advance()
        path = self._dotted("import path")
        alias = None
        if self.at_keyword("as"):
            self.advance()
            token = self.advance()
            if token.kind != "ident" or token.text in KEYWORDS:
                raise self.error("expected a name after `as`", token)
            alias = token.text
        if path[:2] == ("future", "keywords"):
            self.keywords |= _FUTURE if len(path) == 2 else {path[2]}
            if len(path) > 2 and path[2] not in _FUTURE:
                raise self.error(f"unknown keyword `{path[2]}`", start)
        elif path == ("rego", "v2"):
            self.keywords |= _FUTURE
        elif path[0] not in {"data", "input"} and path != ("rego", "v1"):
            raise self.error(f"import of `{'.'.join(path)}`", start, "imports begin with `data`, `input`, `rego.v1` or `future.keywords`")
        return Import(path, alias, start.start)

    # --- rules -------------------------------------------------------------------------------------------------------

    def _rule(self, annotations: tuple[tuple[int, int, str], ...]) -> Rule:
        start = self.peek
        note = self._annotation_before(start, annotations)
        is_default = self.at_keyword("default")
        if is_default:
            self.advance()
        ref = self._head_ref()
        args = self._head_args()
        key = None
        has_value = has_body = False
        value = Scalar(True, start.start)
        if self.at_keyword("contains"):
            self.advance()
            key = self.term()
        elif self.at_op(":=", "="):
            self.advance()
            value, has_value = self.term(), True
        body: tuple[Statement, ...] = ()
        if self.at_keyword("if"):
            self.advance()
            body, has_body = self._if_body(), True
        self._check_head(start, ref, is_default=is_default, args=args, key=key, has_value=has_value, has_body=has_body)
        branches = [Branch(value, body, start.start)]
        while self.at_keyword("else"):
            if key is not None or is_default:
                raise self.error("`else` belongs to complete rules and functions", self.peek)
            branches.append(self._else())
        return Rule(ref, args, key, tuple(branches), is_default, has_value, has_body, start.start, self.previous_end, note)

    def _check_head(
        self, start: Token, ref: tuple[object, ...], *, is_default: bool, args: object, key: object, has_value: bool, has_body: bool
    ) -> None:
        if is_default and (not has_value or has_body or key is not None):
            raise self.error("a default rule is `default name := value`", start)
        if args is not None and key is not None:
            raise self.error("a function has no `contains`", start)
        if has_value or has_body or key is not None:
            return
        if self.at_op("{"):
            raise self.error("rule body without `if`", self.peek, "Rego v1: write `name if { ... }`")
        if args is None and len(ref) == 1:
            raise self.error("a name alone is no rule", start, "give it a value with `:=`, a body with `if`, or `contains`")
        if args is None and len(ref) > 1:
            raise self.error("rule head without `if`, `contains` or a value", start, "Rego v1: `name contains element`")

    def _head_ref(self) -> tuple[object, ...]:
        token = self.advance()
        if token.kind != "ident":
            raise self.error(f"unexpected `{token.text}`", token, "a rule begins with its name")
        if token.text in KEYWORDS and not (self.at_op(".", "[") and not self.peek.gap):
            raise self.error(f"`{token.text}` is a keyword", token)
        parts: list[object] = [Var(token.text, token.start)]
        while self.at_op(".", "[") and not self.peek.gap:
            parts.append(self.path_element())
        return tuple(parts)

    def _head_args(self) -> tuple[object, ...] | None:
        if not self.at_op("(") or self.peek.gap:
            return None
        self.advance()
        return tuple(self.comma_list(")"))

    def _if_body(self) -> tuple[Statement, ...]:
        if self.at_op("{"):
            return self.braced_or_statement()
        return (self.statement(),)

    def _else(self) -> Branch:
        start = self.advance()
        value: object = Scalar(True, start.start)
        body: tuple[Statement, ...] = ()
        given = False
        if self.at_op(":=", "="):
            self.advance()
            value, given = self.term(), True
        if self.at_keyword("if"):
            self.advance()
            body, given = self._if_body(), True
        if not given:
            raise self.error("`else` needs a value or `if` and a body", start)
        return Branch(value, body, start.start)

    def _annotation_before(self, token: Token, annotations: tuple[tuple[int, int, str], ...]) -> str | None:
        line, _ = self.source.position(token.start)
        for _first, last, text in annotations:
            if last + 1 == line:
                return text
        return None


def _metadata_blocks(source: Source, comments: list[tuple[int, str]]) -> tuple[tuple[int, int, str], ...]:
    """Return (first line, last line, YAML text) of every `# METADATA` block of full-line comments."""
    blocks: list[tuple[int, int, str]] = []
    index = 0
    while index < len(comments):
        line, column = source.position(comments[index][0])
        if comments[index][1].strip() != "# METADATA" or column != 1:
            index += 1
            continue
        lines: list[str] = []
        last = line
        index += 1
        while index < len(comments) and source.position(comments[index][0]) == (last + 1, 1):
            lines.append(comments[index][1][1:].removeprefix(" "))
            last += 1
            index += 1
        blocks.append((line, last, "\n".join(lines)))
    return tuple(blocks)


def parse_module(name: str, text: str) -> Module:
    """Parse one module.

    Raises:
        PolicyError: position and hint of the first mistake.
    """
    source = make_source(name, text)
    tokens, comments = tokenize(source)
    return ModuleParser(source, tokens).module(_metadata_blocks(source, comments))


def parse_query(text: str, name: str = "query") -> tuple[Source, tuple[Statement, ...]]:
    """Parse a query: statements separated by `;` or new lines."""
    source = make_source(name, text)
    tokens, _ = tokenize(source)
    parser = ModuleParser(source, tokens)
    return source, parser.statements_until_eof()
