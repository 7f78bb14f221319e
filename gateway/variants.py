"""`Assay-Variant`: which arm another system chose for a call, for experiments that are assigned elsewhere (`experiments/external.py`).

`EXPERIMENT=VARIANT`, several separated by commas; from keys with the scope `variant:assert` alone, and only with a unit, because results are told by
unit. The header is taken off before the call is forwarded. A name that is no such experiment of the model is passed over: products go on
sending what they decided before an experiment starts and after it has ended, and no call may fail for that.

Example:
    read(b"new-prompt=on, checkout=b", principal, has_unit=True)     # {"new-prompt": "on", "checkout": "b"}
"""

from __future__ import annotations

import re
from typing import Final

from experiments.assignment import Variants
from gateway.authenticate import Principal
from gateway.refusals import Refusal

MOST_BYTES: Final = 2048
_PAIR: Final = re.compile(rb" *([a-z0-9][a-z0-9_.-]{0,62})=([!-+.-~-]{1,64}) *")


def read(header: bytes, principal: Principal, *, has_unit: bool) -> Variants:
    """Return experiment -> variant.

    Raises:
        Refusal: `missing_scope`, or `schema_mismatch` saying what is wrong.
    """
    if "variant:assert" not in principal.scopes:
        raise Refusal("missing_scope", "the header `Assay-Variant` needs the scope `variant:assert`")
    if not has_unit:
        raise Refusal("schema_mismatch", "the header `Assay-Variant` needs a unit that the arm is of", hint="send `Assay-Unit` with it")
    if len(header) > MOST_BYTES:
        raise Refusal("schema_mismatch", f"the header `Assay-Variant` is longer than {MOST_BYTES} bytes")
    found: dict[str, str] = {}
    for part in header.split(b","):
        pair = _PAIR.fullmatch(part)
        if pair is None:
            raise Refusal("schema_mismatch", "the header `Assay-Variant` has to be `EXPERIMENT=VARIANT`, several separated by commas")
        name = pair[1].decode()
        if name in found:
            raise Refusal("schema_mismatch", f"the header `Assay-Variant` names `{name}` twice")
        found[name] = pair[2].decode()
    return found
