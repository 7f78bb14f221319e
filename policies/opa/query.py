"""What OPA is asked, and what its answer means. Pure.

OPA runs the modules as they are, byte for byte, beside one module of ours, `package assay.answers`. It gathers `allow`, `deny`, `warn` and
`obligations` of the packages named in the input, so that a decision is one request and helper rules stay in OPA. It also says the revision it
belongs to. The caller's clock replaces OPA's (`with time.now_ns as ...`), so that both engines read one moment.

Rules of reading:
- an answer without a result is OPA's way to say *undefined*, HTTP 200 all the same: here a fault, never an empty set of denials;
- an answer of another revision is a fault: what is in force there is not what was decided to be in force;
- an answer that does not repeat the question's own random number is a fault: on one connection it may be the answer to another call's question;
- a package that was asked for and is not in the answer is a fault of that package.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from policies.bundle import PREFIX, Package, PolicyBundle, items
from policies.metadata import POINTS
from policies.rego import UNDEFINED
from policies.verdict import Finding

PATH: Final = "assay/answers"
"""Where OPA has the answers, below `data`."""
MODULE: Final = "assay/answers.rego"
"""Name of the module that gathers them."""
MOST_SAID: Final = 1000
"""Members of one rule that are read: each costs time between two calls, and a record holds a few dozen."""


class OpaError(Exception):
    """OPA gave no usable answer; `kind` says why: `timeout`, `refused`, `breaker`, `busy`, `http`, `answer`, `revision` or `policy`.

    Only `policy` (an evaluation error, told by a healthy server) says nothing about the server itself.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


def packages_of(bundle: PolicyBundle) -> tuple[Package, ...]:
    """Return the packages of all decision points, each once: what a server has to answer for."""
    return tuple({package.name: package for point in POINTS for package in bundle.at(point).packages}.values())


def answers_module(packages: Iterable[Package], revision: str) -> str:
    """Return the text of the module that gathers the answers of some packages and tells `revision`."""
    parts = [
        "# The answers a gateway asks for, of the revision below. Written by Assay; the policies themselves are as their authors wrote them.",
        f"package {PATH.replace('/', '.')}",
        f"revision := {json.dumps(revision)}",
        "asked := input.asked",
    ]
    for package in {package.name: package for package in packages}.values():
        name = json.dumps(package.name)
        # Present whether or not a rule of it is defined: a package OPA does not know is no package that had nothing to say.
        parts.append(f'packages[{name}]["known"] := true if {name} in input.packages')
        for rule in package.rules:
            ref = f"data.{PREFIX}[{name}].{rule}"
            body = f"{name} in input.packages\n\tvalue := {ref} with input as input.document with time.now_ns as input.now_ns"
            parts.append(f"packages[{name}].{rule} := value if {{\n\t{body}\n}}")
    return "\n\n".join(parts) + "\n"


def question(packages: Sequence[Package], document: Mapping[str, Any], now_ns: int, asked: str) -> dict[str, Any]:
    """Return the input of a query for some packages; `asked` tells it from every other one and cannot be guessed."""
    return {"asked": asked, "packages": [package.name for package in packages], "document": document, "now_ns": now_ns}


def fresh() -> str:
    """Return what tells one question from every other one."""
    return secrets.token_hex(8)


def findings(packages: Sequence[Package], answer: Any, revision: str, bundle: str | None, asked: str) -> tuple[Finding, ...]:
    """Read an answer.

    Args:
        packages: The packages asked for.
        answer: OPA's answer to the query, with provenance.
        revision: The revision that must be in force there.
        bundle: Name of OPA's bundle whose provenance must tell `revision` too; None where the policies were put there one by one.
        asked: What the question was told from others by.

    Raises:
        OpaError: `answer` or `revision`.
    """
    result = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(result, dict):
        raise OpaError("answer", f"no document at `data.{PATH.replace('/', '.')}`; hint: publish the bundle to this server")
    told = result.get("revision")
    if told != revision:
        raise OpaError("revision", f"`{_short(told)}` is in force there, `{_short(revision)}` here; hint: publish the bundle again")
    if result.get("asked") != asked:
        raise OpaError("answer", "it is not the answer to this question; hint: what stands between here and OPA? or publish the bundle again")
    if bundle is not None:
        known = answer.get("provenance", {}).get("bundles", {}).get(bundle, {}).get("revision")
        if known != revision:
            raise OpaError("revision", f"OPA's bundle `{bundle}` is at `{_short(known)}`, expected `{_short(revision)}`")
    said = result.get("packages", {})
    return tuple(_finding(package, said.get(package.name)) for package in packages)


def _finding(package: Package, said: Any) -> Finding:
    if not isinstance(said, dict) or said.get("known") is not True:
        return failed(package, "OPA did not answer for it")
    if any(isinstance(members, list) and len(members) > MOST_SAID for members in said.values()):
        return failed(package, f"a rule of it says more than {MOST_SAID} things")
    required = "allow" in package.rules
    return Finding(
        package.name,
        package.mode,
        required=required,
        allow=said.get("allow") is True,
        deny=items(said.get("deny", UNDEFINED)),
        warn=items(said.get("warn", UNDEFINED)),
        obligations=items(said.get("obligations", UNDEFINED)),
    )


def failed(package: Package, why: str) -> Finding:
    """Return the finding of a package that could not be evaluated."""
    return Finding(package.name, package.mode, required="allow" in package.rules, allow=False, error=why)


def _short(revision: Any) -> str:
    return revision[:19] if isinstance(revision, str) else "nothing"
