"""Open Inference Protocol v2 over HTTP with JSON tensors.

Read here: rows (the largest first dimension of any input) and inputs as columns by tensor name, for the contract. The body itself goes upstream
byte for byte. Errors keep the protocol's shape, `{"error": "..."}`, with the facts of every refusal beside it.

Specification: https://github.com/open-inference/open-inference-protocol (REST, "Inference").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import orjson

from gateway.protocols.strictjson import JsonError, parse
from gateway.refusals import Refusal

CONTENT_TYPE = (b"content-type", b"application/json")
_MOST_DIMENSIONS: Final = 16
"""Multiplying out a shape of any length would cost more than reading it."""
_MOST_ROWS: Final = 2**31 - 1
"""Above any body's possible rows, and an integer that records can hold."""


class InferCall:
    """A v2 inference request as read: the document, its rows, and its tensors by name."""

    __slots__ = ("document", "rows", "tensors")

    def __init__(self, body: bytes) -> None:
        """Read a request body.

        Raises:
            Refusal: `malformed_body` with what is wrong and where.
        """
        try:
            document = parse(body)
        except JsonError as fault:
            raise Refusal("malformed_body", f"request body: {fault}") from None
        if type(document) is not dict:
            raise Refusal("malformed_body", "request body: has to be a JSON object with `inputs`")
        tensors = document.get("inputs")
        if type(tensors) is not list or not tensors:
            raise Refusal("malformed_body", "request body: `inputs` has to be a list of at least one tensor")
        for tensor in tensors:
            if type(tensor) is not dict or type(tensor.get("name")) is not str or type(tensor.get("data")) is not list:
                index = tensors.index(tensor)
                raise Refusal("malformed_body", f"request body: `inputs[{index}]` has to be a tensor with `name`, `shape`, `datatype`, `data`")
        self.document: dict[str, Any] = document
        self.tensors: list[dict[str, Any]] = tensors
        self.rows = _rows(tensors[0]) if len(tensors) == 1 else max(map(_rows, tensors))

    def columns(self) -> Mapping[str, list[Any]]:
        """Return the data of each tensor by name; a name that stands twice is a refusal."""
        columns = {tensor["name"]: tensor["data"] for tensor in self.tensors}
        if len(columns) != len(self.tensors):
            raise Refusal("malformed_body", "request body: two tensors in `inputs` have the same name")
        return columns


def _rows(tensor: Mapping[str, Any]) -> int:
    """Return the rows of a tensor: its first dimension; its data has to be as long as its shape says.

    Limits, records and reports count rows by the shape; data of another length would be rows nobody counted.
    """
    shape, data = tensor.get("shape"), tensor["data"]
    if type(shape) is list and len(shape) == 1 and type(shape[0]) is int and shape[0] == len(data):
        return len(data)  # nearly every tensor; no list of a body is longer than `_MOST_ROWS`
    if type(shape) is not list or not 0 < len(shape) <= _MOST_DIMENSIONS:
        raise Refusal("malformed_body", f"request body: the `shape` of a tensor has to be a list of 1 to {_MOST_DIMENSIONS} whole numbers")
    for size in shape:
        if type(size) is not int or not 0 <= size <= _MOST_ROWS:
            raise Refusal("malformed_body", "request body: the `shape` of a tensor has to be a list of whole numbers")
    rows: int = shape[0]
    expected = rows
    if len(shape) > 1 and not (data and type(data[0]) is list):
        expected = math.prod(shape)
    if len(data) != expected:
        raise Refusal("malformed_body", f"request body: a tensor has {len(data)} items of `data` where its shape says {expected}")
    return rows


def upstream_path(model: str) -> bytes:
    """Return the path a model server is called on."""
    return f"/v2/models/{model}/infer".encode()


def error_body(refusal: Refusal, decision_id: str | None) -> bytes:
    """Return the v2 error shape with the facts of every refusal."""
    return orjson.dumps({"error": f"{refusal.code}: {refusal.detail}", **refusal.facts(decision_id)})


SERVER_BODY = orjson.dumps({"name": "assay", "version": "2", "extensions": []})


def metadata_body(model: str, versions: list[str]) -> bytes:
    """Return the metadata of a model; its tensors are the model server's to describe."""
    return orjson.dumps({"name": model, "versions": versions, "platform": "assay", "inputs": [], "outputs": []})
