"""What can go wrong in a policy, sorted by whose fault it is.

- `PolicyError`: the text of a policy is wrong; carries the `Issue` list (file, line, column, rule id, hint).
- `EvaluationError`: a policy that loaded cannot answer for this input (conflict, built-in error, type error).
- `LimitError`: the caller's bounds were reached; `limit` names the bound. The gateway turns it into a deny.

All three derive from `RegoError`, so a caller that fails closed needs one `except`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding about a policy text.

    Args:
        rule: Stable identifier of the check, for example `unsafe-var`.
        message: What is wrong, values in backticks.
        file: Module name as given to the engine.
        line: 1-based line.
        column: 1-based column, in characters.
        hint: What to do about it, or an empty string.
        snippet: The source line the finding points at.
        severity: `error` refuses the policy; `warning` does not.
    """

    rule: str
    message: str
    file: str
    line: int
    column: int
    hint: str = ""
    snippet: str = ""
    severity: str = "error"

    def render(self) -> str:
        """Return the finding with its source line and a caret under the column."""
        text = f"{self.file}:{self.line}:{self.column}: {self.severity}[{self.rule}]: {self.message}"
        if self.snippet:
            pad = "".join("\t" if char == "\t" else " " for char in self.snippet[: self.column - 1])
            text += f"\n  | {self.snippet}\n  | {pad}^"
        if self.hint:
            text += f"\nhint: {self.hint}"
        return text


class RegoError(Exception):
    """Any failure of the engine."""


class PolicyError(RegoError):
    """The policy text is refused; `issues` says where and why."""

    def __init__(self, issues: list[Issue]) -> None:
        super().__init__("\n".join(issue.render() for issue in issues))
        self.issues = issues


class EvaluationError(RegoError):
    """A loaded policy cannot answer for this input.

    Args:
        code: OPA's error code: `eval_conflict_error`, `eval_builtin_error`, `eval_type_error`, ...
        message: What happened.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class LimitError(RegoError):
    """A bound set by the caller was reached.

    Args:
        limit: Name of the field of `Limits` that was exceeded, or `number_digits`, which is fixed (3,900 decimal digits).
        message: What happened.
    """

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(f"limit `{limit}` exceeded: {message}")
        self.limit = limit


class BuiltinError(Exception):
    """A built-in refused its operands; undefined by default, an `EvaluationError` in strict mode."""

    def __init__(self, message: str, code: str = "eval_builtin_error") -> None:
        super().__init__(message)
        self.code = code
