"""`Assay-Context`: what a caller says of a call, for experiments that target, exclude or tell results by it.

A flat JSON object of text, whole numbers, true and false; strict, bounded, from keys with the scope `context:assert` alone. `tenant` is the key's and
cannot be said otherwise. The header is taken off before the call is forwarded, and nothing of it is recorded but the declared segments.

Example:
    read(b'{"country": "CH", "age": 41, "objected": false}', principal)
"""

from __future__ import annotations

import re
from typing import Final

from experiments.targeting import MOST_ATTRIBUTES, Context
from gateway.authenticate import Principal
from gateway.protocols.strictjson import JsonError, parse
from gateway.refusals import Refusal

MOST_BYTES: Final = 4096
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,40}")
_MOST_TEXT: Final = 256


def read(header: bytes, principal: Principal) -> Context:
    """Return the attributes of a call.

    Raises:
        Refusal: `missing_scope`, or `schema_mismatch` naming what is wrong.
    """
    if "context:assert" not in principal.scopes:
        raise Refusal("missing_scope", "the header `Assay-Context` needs the scope `context:assert`")
    if len(header) > MOST_BYTES:
        raise Refusal("schema_mismatch", f"the header `Assay-Context` is longer than {MOST_BYTES} bytes")
    try:
        document = parse(header)
    except JsonError as fault:
        raise Refusal("schema_mismatch", f"the header `Assay-Context`: {fault}") from None
    if type(document) is not dict or len(document) > MOST_ATTRIBUTES:
        raise Refusal("schema_mismatch", f"the header `Assay-Context` has to be a JSON object of at most {MOST_ATTRIBUTES} attributes")
    for name, value in document.items():
        if _NAME.fullmatch(name) is None or name == "tenant":
            raise Refusal("schema_mismatch", "the header `Assay-Context`: an attribute is called by small letters, digits and `_`, and not `tenant`")
        if type(value) not in (str, int, bool) or (type(value) is str and len(value) > _MOST_TEXT):
            raise Refusal("schema_mismatch", f"the header `Assay-Context`: `{name}` has to be short text, a whole number, true or false")
    return {**document, "tenant": principal.tenant}
