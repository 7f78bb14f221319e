"""Statements and terms: the half of the parser that bodies and heads share.

Binary operators, weakest first (OPA's grammar): `in`, comparisons, `|`, `&`, `+ -`, `* / %`. All associate to the left.
`|` also separates a comprehension from its body, so the first element after `[` or `{` is read without it; when what follows is not a
body the text is read again as a union. The total number of tokens read is bounded, so re-reading cannot explode.
"""

from __future__ import annotations

from typing import Any

from policies.rego.errors import PolicyError
from policies.rego.lexer import MAX_NESTING, Source, Token, fail
from policies.rego.syntax import (
    Array,
    Body,
    Call,
    Comprehension,
    Every,
    Logic,
    ObjectTerm,
    Ref,
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

KEYWORDS = frozenset({"package", "import", "as", "default", "else", "if", "in", "every", "some", "with", "null", "true", "false", "not"})
_RESERVED_TERMS = KEYWORDS - {"null", "true", "false"}
OPERATORS = {
    "==": (2, "equal"), "!=": (2, "neq"), "<": (2, "lt"), "<=": (2, "lte"), ">": (2, "gt"), ">=": (2, "gte"),
    "|": (3, "or"), "&": (4, "and"), "+": (5, "plus"), "-": (5, "minus"), "*": (6, "mul"), "/": (6, "div"), "%": (6, "rem"),
}  # fmt: skip
_LITERALS = {"null": None, "true": True, "false": False}


class TermParser:
    """Cursor over tokens. Owns `index`, `depth`, `work` and `wildcards`; used once per text."""

    def __init__(self, source: Source, tokens: list[Token]) -> None:
        self.source = source
        self.tokens = tokens
        self.index = 0
        self.depth = 0
        self.work = 0
        self.wildcards = 0
        self.work_limit = 10_000 + 60 * len(tokens)
        self.keywords: set[str] = set()

    # --- cursor ------------------------------------------------------------------------------------------------------

    @property
    def peek(self) -> Token:
        """The token the cursor is on."""
        return self.tokens[self.index]

    @property
    def previous_end(self) -> int:
        """Offset after the token before the cursor."""
        return self.tokens[self.index - 1].end if self.index else 0

    def advance(self) -> Token:
        """Return the current token and move on."""
        token = self.tokens[self.index]
        if token.kind != "eof":
            self.index += 1
        self.work += 1
        if self.work > self.work_limit:
            raise self.error("too much nested ambiguity", token, "put unions inside comprehensions in parentheses")
        return token

    def error(self, message: str, token: Token, hint: str = "") -> PolicyError:
        """Return (not raise) a parse error at a token."""
        return fail(self.source, message, token.start, hint)

    def at_op(self, *texts: str) -> bool:
        """Tell whether the cursor is on one of these operators."""
        token = self.tokens[self.index]
        return token.kind == "op" and token.text in texts

    def at_keyword(self, word: str) -> bool:
        """Tell whether the cursor is on this word, used as a keyword."""
        token = self.tokens[self.index]
        return token.kind == "ident" and token.text == word and not self._is_ref_head()

    def expect(self, text: str) -> Token:
        """Consume the operator `text` or refuse."""
        if not self.at_op(text):
            found = self.peek.text or "end of text"
            hint = "one `:=` or `=` per expression" if found in {":=", "="} else ""
            raise self.error(f"expected `{text}`, found `{found}`", self.peek, hint)
        return self.advance()

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.error(f"nested deeper than `{MAX_NESTING}`", self.peek)

    # --- statements --------------------------------------------------------------------------------------------------

    def statements_until_eof(self) -> tuple[Statement, ...]:
        """Parse a whole text as a body."""
        return self._statements("")

    def braced(self) -> tuple[Statement, ...]:
        """Parse `{ statements }`."""
        self.expect("{")
        return self._statements("}")

    def braced_or_statement(self) -> tuple[Statement, ...]:
        """After `if {`: a body; when that fails, a statement that begins with a set or object."""
        index, depth, wildcards = self.index, self.depth, self.wildcards
        try:
            body = self.braced()
            if self.peek.nl or self.peek.kind == "eof" or self.at_keyword("else") or self.at_op(";", "}"):
                return body
            if self.keywords & {"and", "or"} and self._logic_follows():
                raise self.error("operand", self.peek)
            problem = self.error(f"unexpected `{self.peek.text}` after the body", self.peek)
        except PolicyError as error:
            problem = error
        self.index, self.depth, self.wildcards = index, depth, wildcards
        try:
            return (self.statement(),)
        except PolicyError:
            raise problem from None

    def _statements(self, close: str) -> tuple[Statement, ...]:
        self._enter()
        found: list[Statement] = []
        while True:
            while self.at_op(";"):
                self.advance()
            if close and self.at_op(close):
                break
            if self.peek.kind == "eof":
                if close:
                    raise self.error(f"expected `{close}`, found end of text", self.peek)
                break
            if found and not self.peek.nl and self.tokens[self.index - 1].text != ";":
                raise self.error(f"unexpected `{self.peek.text}`", self.peek, "separate expressions by a new line or `;`")
            found.append(self.statement())
        if not found:
            raise self.error("empty body", self.peek)
        if close:
            self.advance()
        self.depth -= 1
        return tuple(found)

    def statement(self) -> Statement:
        """Parse one expression with its `with` modifiers."""
        self._enter()
        start = self.peek
        statement = self._logic_or() if self.keywords & {"and", "or"} else self._plain_statement()
        self.depth -= 1
        withs = self._withs()
        return Statement(statement.expr, statement.negated, statement.withs + withs, start.start) if withs else statement

    def _logic_follows(self) -> bool:
        return any(word in self.keywords and self.at_keyword(word) for word in ("and", "or"))

    def _logic_or(self) -> Statement:
        return self._logic("or", self._logic_and)

    def _logic_and(self) -> Statement:
        return self._logic("and", self._operand)

    def _logic(self, word: str, operand: Any) -> Statement:
        left: Statement = operand()
        while word in self.keywords and self.at_keyword(word):
            self.advance()
            right: Statement = operand()
            logic = Logic(word, _operand_body(left), _operand_body(right), left.pos)
            left = Statement(logic, negated=False, withs=(), pos=left.pos)
        return left

    def _operand(self) -> Statement:
        """An operand of `and` and `or`: `{ body }`, `( statement )` or a plain statement."""
        start = self.peek
        index, depth, wildcards = self.index, self.depth, self.wildcards
        if self.at_op("{", "("):
            try:
                if self.at_op("{"):
                    body = self.braced()
                else:
                    self.advance()
                    body = (self.statement(),)
                    self.expect(")")
                if self.peek.nl or self._logic_follows() or self.at_op(";", "}", ")", "]") or self.peek.text in {"with", "eof", "else"}:
                    return Statement(Body(body, start.start), negated=False, withs=(), pos=start.start)
            except PolicyError:
                pass
            self.index, self.depth, self.wildcards = index, depth, wildcards
        return self._plain_statement()

    def _plain_statement(self) -> Statement:
        start = self.peek
        if self.at_keyword("some"):
            return Statement(self._some(), negated=False, withs=(), pos=start.start)
        if self.at_keyword("every"):
            return Statement(self._every(), negated=False, withs=(), pos=start.start)
        if self.at_keyword("not"):
            self.advance()
            is_body = "not" in self.keywords and self.at_op("{", "(")
            inner = self._operand() if is_body else self._plain_statement()
            if inner.negated or ("not" in self.keywords and type(inner.expr) is not Body):
                return Statement(Body((inner,), inner.pos), negated=True, withs=(), pos=start.start)
            return Statement(inner.expr, negated=True, withs=inner.withs, pos=start.start)
        return Statement(self._expression(), negated=False, withs=(), pos=start.start)

    def _is_ref_head(self) -> bool:
        following = self.tokens[self.index + 1] if self.index + 1 < len(self.tokens) else self.tokens[self.index]
        return following.kind == "op" and following.text in {".", "["} and not following.gap

    def _withs(self) -> tuple[With, ...]:
        found: list[With] = []
        while self.at_keyword("with"):
            start = self.advance()
            target = self._primary()
            if not self.at_keyword("as"):
                raise self.error("expected `as`", self.peek, "write `with input.user as value`")
            self.advance()
            found.append(With(target, self.term(), start.start))
        return tuple(found)

    def _some(self) -> Any:
        start = self.advance()
        terms = [self.term(minimum=2)]
        while self.at_op(","):
            self.advance()
            terms.append(self.term(minimum=2))
        if self.at_keyword("in"):
            self.advance()
            if len(terms) > 2:
                raise self.error("`some ... in` takes one or two names", start)
            return SomeIn(terms[0] if len(terms) == 2 else None, terms[-1], self.term(minimum=2), start.start)
        for term in terms:
            if not isinstance(term, Var):
                raise self.error("`some` declares names", start, "did you mean `some x in xs`?")
        return SomeDecl(tuple(terms), start.start)

    def _every(self) -> Every:
        start = self.advance()
        names = [self._primary()]
        if self.at_op(","):
            self.advance()
            names.append(self._primary())
        if not all(isinstance(name, Var) for name in names):
            raise self.error("`every` takes one or two names", start)
        if not self.at_keyword("in"):
            raise self.error("expected `in`", self.peek)
        self.advance()
        domain = self.term(minimum=2)
        return Every(names[0] if len(names) == 2 else None, names[-1], domain, self.braced(), start.start)

    def _expression(self) -> Any:
        start = self.peek
        left = self._key_value_in(self.term())
        if self.at_op(":=", "="):
            operator = self.advance()
            right = self.term()
            if self.at_op(":=", "="):
                raise self.error("one `:=` or `=` per expression", self.peek)
            return Unify(left, right, operator.text == ":=", start.start)
        return left

    def _key_value_in(self, first: Any) -> Any:
        """`k, v in xs` as a statement or in parentheses; a lone comma is left to the caller."""
        if not self.at_op(",") or self.depth == 0:
            return first
        index, depth, wildcards = self.index, self.depth, self.wildcards
        comma = self.advance()
        try:
            second = self.term(minimum=2)
        except PolicyError:
            second = None
        if second is None or not self.at_keyword("in"):
            self.index, self.depth, self.wildcards = index, depth, wildcards
            return first
        self.advance()
        return Call(Var("internal.member_3", comma.start), (first, second, self.term(minimum=2)), comma.start, infix=True)

    # --- terms -------------------------------------------------------------------------------------------------------

    def term(self, minimum: int = 1, *, union: bool = True) -> Any:
        """Parse a term with operators that bind at least as strongly as `minimum`; `union=False` stops at `|`."""
        self._enter()
        left = self._primary()
        while True:
            token = self.tokens[self.index]
            if token.kind == "op" and token.text in OPERATORS:
                level, name = OPERATORS[token.text]
                if level < minimum or (level == 3 and not union):
                    break
                self.advance()
                right = self.term(level + 1, union=union)
                left = Call(Var(name, token.start), (left, right), token.start, infix=True)
            elif minimum <= 1 and token.text == "in" and self.at_keyword("in"):
                self.advance()
                right = self.term(2, union=union)
                left = Call(Var("internal.member_2", token.start), (left, right), token.start, infix=True)
            else:
                break
        self.depth -= 1
        return left

    def _primary(self) -> Any:  # noqa: PLR0911 - one flat list of cases
        token = self.advance()
        kind = token.kind
        if kind in {"string", "number"}:
            return Scalar(token.value, token.start)
        if kind == "ident":
            return self._name(token)
        if kind == "template":
            return self._template(token)
        if kind == "op":
            if token.text == "[":
                return self._finish(self._array(token))
            if token.text == "{":
                return self._finish(self._braces(token))
            if token.text == "(":
                return self._parenthesised()
            if token.text == "-" and self.peek.kind == "number":
                return Scalar(-self.advance().value, token.start)
        raise self.error(f"unexpected `{token.text or 'end of text'}`", token)

    def _name(self, token: Token) -> Any:
        text = token.text
        if text in _LITERALS and not (self.at_op(".", "[") and not self.peek.gap):
            return Scalar(_LITERALS[text], token.start)
        if text == "_":
            self.wildcards += 1
            return self._finish(Var(f"_#{self.wildcards}", token.start))
        if text in _RESERVED_TERMS and not (self.at_op(".", "[") and not self.peek.gap):
            raise self.error(f"unexpected keyword `{text}`", token)
        return self._finish(Var(text, token.start))

    def _finish(self, head: Any) -> Any:
        """Read `.name`, `[term]` and `(args)` that touch the term before them."""
        path: list[Any] = []
        while not self.peek.gap and self.at_op(".", "[", "("):
            if not self.at_op("("):
                path.append(self.path_element())
                continue
            operator = Ref(head, tuple(path), head.pos) if path else head
            if not isinstance(operator, Var) and not (
                isinstance(operator, Ref) and isinstance(head, Var) and all(isinstance(p, Scalar) for p in path)
            ):
                raise self.error("only a name can be called", self.peek)
            self.advance()
            args = self.comma_list(")")
            if isinstance(operator, Var) and operator.name == "set" and not args:
                head = SetTerm((), operator.pos)
            else:
                head = Call(operator, tuple(args), operator.pos)
            path = []
        return Ref(head, tuple(path), head.pos) if path else head

    def path_element(self) -> Any:
        """Read `.name` or `[term]`."""
        if self.advance().text == ".":
            name = self.advance()
            if name.kind != "ident" or name.gap:
                raise self.error("expected a name after `.`", name)
            return Scalar(name.text, name.start)
        element = self.term()
        self.expect("]")
        return element

    def comma_list(self, close: str) -> list[Any]:
        """Read terms up to `close`; a trailing comma is allowed."""
        found: list[Any] = []
        while not self.at_op(close):
            found.append(self.term())
            if not self.at_op(","):
                break
            self.advance()
        self.expect(close)
        return found

    def _parenthesised(self) -> Any:
        inner = self._key_value_in(self.term())
        self.expect(")")
        return self._finish(inner) if isinstance(inner, Call) and not inner.infix else inner

    def _comprehension(self, kind: str, key: Any, value: Any, token: Token, close: str) -> Comprehension | None:
        """At `|`: read the body, or go back to before `|` and answer None."""
        index, depth, wildcards = self.index, self.depth, self.wildcards
        self.advance()
        try:
            body = self._statements(close)
        except PolicyError:
            if self.work > self.work_limit:
                raise
            self._failed_at = self.index
            self.index, self.depth, self.wildcards = index, depth, wildcards
            return None
        return Comprehension(kind, key, value, body, token.start)

    def _array(self, token: Token) -> Any:
        if self.at_op("]"):
            self.advance()
            return Array((), token.start)
        index, wildcards = self.index, self.wildcards
        first = self.term(union=False)
        if self.at_op("|"):
            found = self._comprehension("array", None, first, token, "]")
            if found is not None:
                return found
            self.index, self.wildcards = index, wildcards
            first = self.term()
        return Array((first, *self._more("]")), token.start)

    def _more(self, close: str) -> list[Any]:
        """The rest of a list after its first element."""
        if self.at_op(close):
            self.advance()
            return []
        if not self.at_op(","):
            self.expect(close)
        self.advance()
        return self.comma_list(close)

    def _braces(self, token: Token) -> Any:
        if self.at_op("}"):
            self.advance()
            return ObjectTerm((), token.start)
        index, wildcards = self.index, self.wildcards
        first = self.term(union=False)
        if self.at_op("|"):
            found = self._comprehension("set", None, first, token, "}")
            if found is not None:
                return found
            self.index, self.wildcards = index, wildcards
            first = self.term()
        if self.at_op(":"):
            return self._object(token, first)
        return SetTerm((first, *self._more("}")), token.start)

    def _object(self, token: Token, first: Any) -> Any:
        self.advance()
        index, wildcards = self.index, self.wildcards
        value = self.term(union=False)
        if self.at_op("|"):
            found = self._comprehension("object", first, value, token, "}")
            if found is not None:
                return found
            self.index, self.wildcards = index, wildcards
            value = self.term()
        pairs = [(first, value)]
        while self.at_op(","):
            self.advance()
            if self.at_op("}"):
                break
            key = self.term()
            self.expect(":")
            pairs.append((key, self.term()))
        self.expect("}")
        return ObjectTerm(tuple(pairs), token.start)

    def _template(self, token: Token) -> Template:
        parts: list[Any] = []
        for piece in token.value:
            if isinstance(piece, str):
                if piece:
                    parts.append(piece)
                continue
            outer_tokens, outer_index = self.tokens, self.index
            self.tokens, self.index = piece, 0
            try:
                parts.append(self.statement())
                if self.peek.kind != "eof":
                    raise self.error(f"unexpected `{self.peek.text}` in a template expression", self.peek)
            finally:
                self.tokens, self.index = outer_tokens, outer_index
        return Template(tuple(parts), token.start)


def _operand_body(statement: Statement) -> tuple[Statement, ...]:
    if isinstance(statement.expr, Body) and not statement.negated and not statement.withs:
        return statement.expr.statements
    return (statement,)
