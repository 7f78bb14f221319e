"""Open Inference Protocol v2, JSON form: tensors in, tensors out, checked strictly. Pure functions.

Rules (a request that breaks one is refused with a sentence saying which; nothing is guessed or coerced):
- One JSON object without duplicate keys; numbers are finite; a boolean is not a number.
- `inputs` holds each declared tensor exactly once and nothing else; every tensor has the same number of rows, 1 to `MAX_ROWS`.
- Shape `[n]` or `[n, 1]`; `data` flat in row-major order, or nested as the shape says; its length is the product of the shape.
- Datatype `FP64` or `FP32`.
- `outputs`, where given, names known outputs, each once; the reply then holds those alone, in that order.

Source: Open Inference Protocol, "Inference Request JSON Object", `rest/` of github.com/kserve/open-inference-protocol.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_ROWS = 256
OUTPUTS = {"prediction": "INT64", "score": "FP64"}
"""Output tensor -> datatype, in the order of the reply."""

FLOATS = ("FP64", "FP32")


class BadTensors(ValueError):  # noqa: N818 - it names what is bad; the reader of a traceback needs no suffix
    """The request breaks a rule of the module docstring. The text is for the caller."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A checked request: the caller's id, the columns by input name, the outputs asked for."""

    request_id: str | None
    rows: int
    columns: Mapping[str, Sequence[float]]
    outputs: tuple[str, ...]


def parse_request(body: bytes, input_names: Sequence[str]) -> InferRequest:
    """Read a v2 infer request.

    Args:
        body: the JSON bytes.
        input_names: the tensors the model declares.

    Raises:
        BadTensors: the request breaks a rule.
    """
    document = _object(_parse_json(body), "the request")
    _only(document, {"id", "parameters", "inputs", "outputs"}, "the request")
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise BadTensors("`id` must be a string")
    _object(document.get("parameters", {}), "`parameters`")
    columns = _columns(document.get("inputs"), input_names)
    rows = {len(values) for values in columns.values()}
    if len(rows) != 1:
        raise BadTensors(f"all inputs must have the same number of rows, these have {sorted(rows)}")
    return InferRequest(request_id, rows.pop(), columns, _outputs(document.get("outputs")))


def render_reply(model: str, version: str, request: InferRequest, predictions: Sequence[int], scores: Sequence[float]) -> bytes:
    """Return the v2 infer reply: one tensor of shape `[rows]` per output asked for."""
    data: dict[str, Sequence[float]] = {"prediction": predictions, "score": scores}
    outputs = [{"name": name, "shape": [request.rows], "datatype": OUTPUTS[name], "data": list(data[name])} for name in request.outputs]
    reply: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.request_id is not None:
        reply["id"] = request.request_id
    return json.dumps({**reply, "outputs": outputs}, separators=(",", ":")).encode()


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(body, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except BadTensors:
        raise
    except RecursionError:
        raise BadTensors("the JSON is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError and over-long integers
        raise BadTensors(f"the body is not JSON: {error}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise BadTensors(f"key `{next(n for n in names if names.count(n) > 1)}` occurs twice")
    return found


def _no_constant(text: str) -> Any:
    raise BadTensors(f"`{text}` is not JSON")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadTensors(f"{what} must be an object")
    return value


def _only(document: Mapping[str, Any], allowed: set[str], what: str) -> None:
    unknown = sorted(set(document) - allowed)
    if unknown:
        raise BadTensors(f"unknown key `{unknown[0]}` in {what}; allowed are {', '.join(sorted(allowed))}")


def _columns(inputs: Any, names: Sequence[str]) -> dict[str, list[float]]:
    if not isinstance(inputs, list):
        raise BadTensors("`inputs` must be a list of tensors")
    columns: dict[str, list[float]] = {}
    for position, item in enumerate(inputs):
        tensor = _object(item, f"`inputs[{position}]`")
        name = tensor.get("name")
        if not isinstance(name, str) or name not in names:
            raise BadTensors(f"unknown input `{name}`; this model takes {', '.join(names)}")
        if name in columns:
            raise BadTensors(f"input `{name}` occurs twice")
        columns[name] = _values(tensor, name)
    missing = [name for name in names if name not in columns]
    if missing:
        raise BadTensors(f"input `{missing[0]}` is missing")
    return columns


def _values(tensor: Mapping[str, Any], name: str) -> list[float]:
    _only(tensor, {"name", "shape", "datatype", "parameters", "data"}, f"input `{name}`")
    if tensor.get("datatype") not in FLOATS:
        raise BadTensors(f"input `{name}` must have datatype {' or '.join(FLOATS)}, not `{tensor.get('datatype')}`")
    rows = _rows(tensor.get("shape"), name)
    data = tensor.get("data")
    if not isinstance(data, list) or len(data) != rows:
        raise BadTensors(f"`data` of input `{name}` must be a list of {rows} values, as its shape says")
    two_dimensional = len(tensor["shape"]) == 2
    return [_number(_inner(value) if two_dimensional else value, name) for value in data]


def _rows(shape: Any, name: str) -> int:
    integers = isinstance(shape, list) and all(type(size) is int for size in shape)
    if not integers or len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise BadTensors(f"input `{name}` must have shape [n] or [n, 1]")
    rows: int = shape[0]
    if not 1 <= rows <= MAX_ROWS:
        raise BadTensors(f"input `{name}` must have 1 to {MAX_ROWS} rows, not {rows}")
    return rows


def _inner(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float):
        raise BadTensors(f"input `{name}` holds a value that is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadTensors(f"input `{name}` holds a number that is too large")
    return number


def _outputs(requested: Any) -> tuple[str, ...]:
    if requested is None or requested == []:
        return tuple(OUTPUTS)
    if not isinstance(requested, list):
        raise BadTensors("`outputs` must be a list")
    names: list[str] = []
    for position, item in enumerate(requested):
        output = _object(item, f"`outputs[{position}]`")
        _only(output, {"name", "parameters"}, f"`outputs[{position}]`")
        name = output.get("name")
        if not isinstance(name, str) or name not in OUTPUTS or name in names:
            raise BadTensors(f"output `{name}` is unknown or asked for twice; there are {', '.join(OUTPUTS)}")
        names.append(name)
    return tuple(names)
