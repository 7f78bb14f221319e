"""Two replies to one call, compared: what the champion answered and what a shadow would have.

A comparison has named parts, each looking at one place of both replies:

- `label`: one text, whole number or truth value; equal or not. `1` and `1.0` are equal, `1` and `true` are not, `1` and `"1"` are not.
- `number`: numbers within a tolerance, absolute (`0.01`) or relative to the champion's (`1%`); also lists of numbers of one shape, where all must be.
- `json`: any JSON value, equal in structure and content.
- `text`: words and their number, whatever their order and case; the tolerance is the share of words that may differ
  (Dice, 1945: 1 - 2|A and B| / (|A| + |B|)).

Rules:
- Pure: documents in, integers out. Differences are parts per million, so that records hold no floats.
- What is missing on either side, or is not of the kind, does not agree: a part that cannot be compared is never a pass.
- Cost is linear in the size of what is compared; the depth of JSON is bounded by whoever parsed it.

Example:
    >>> score = PartDocument(name="score", kind="number", at="/score", tolerance_ppm=10_000, max_disagreement_ppm=20_000)
    >>> compare = compile_comparison((score,), compile_pointer)
    >>> compare({"score": 0.5}, {"score": 0.507})
    {'score': PartResult(agrees=True, difference_ppm=7000)}
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from experiments.document import PartDocument
from experiments.wording import is_name

Comparison = Callable[[Any, Any], "dict[str, PartResult]"]
"""Champion's document, shadow's document -> result by part."""
_NONE: Final[Mapping[str, str]] = {}
MOST_DIFFERENCE_PPM: Final = 2**53 - 1
"""What a record can hold; any larger difference is told as this."""


class PartResult(msgspec.Struct, frozen=True):
    """What became of one part: whether the replies agree, and by how much they differ where that can be said."""

    agrees: bool
    difference_ppm: int | None = None


def compile_comparison(parts: Sequence[PartDocument], compile_pointer: Callable[[str], Callable[[Any], Any]]) -> Comparison:
    """Return the function that compares two replies.

    Args:
        parts: what to look at.
        compile_pointer: from a JSON Pointer to a function that gives the value there, or some value of no JSON type where there is none.
    """
    compiled = [(part.name, compile_pointer(part.at), _compile(part)) for part in parts]

    def compare(champion: Any, shadow: Any) -> dict[str, PartResult]:
        return {name: test(at(champion), at(shadow)) for name, at, test in compiled}

    return compare


def _compile(part: PartDocument) -> Callable[[Any, Any], PartResult]:
    if part.kind == "number":
        tolerance, relative = part.tolerance_ppm, part.relative
        return lambda champion, shadow: _numbers(champion, shadow, tolerance, relative=relative)
    if part.kind == "text":
        return lambda champion, shadow: _texts(champion, shadow, part.tolerance_ppm)
    if part.kind == "label":
        return _labels
    return lambda champion, shadow: PartResult(_is_json(champion) and _equal(champion, shadow))


def class_of(value: Any, declared: Mapping[str, str] = _NONE) -> str | None:
    """Return a label as records hold it; None for what is none. `1` and `1.0` are one label.

    A class has a name (`experiments/wording.py`): text of another form is what a model or a person said, and stays out of the log.

    Args:
        value: from a reply.
        declared: classes that are no names, as the model's file declares them -> the names they are recorded under.
    """
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) not in (str, int, bool):
        return None
    text = str(value)
    return text if is_name(text) else declared.get(text)


def _labels(champion: Any, shadow: Any) -> PartResult:
    return PartResult(type(champion) in (str, int, float, bool) and _equal(champion, shadow))


def _equal(champion: Any, shadow: Any) -> bool:
    """Compare as JSON: numbers by value, truth values only with truth values."""
    if type(champion) is dict:
        return type(shadow) is dict and champion.keys() == shadow.keys() and all(_equal(value, shadow[key]) for key, value in champion.items())
    if type(champion) is list:
        return type(shadow) is list and len(champion) == len(shadow) and all(map(_equal, champion, shadow))
    if _is_number(champion):
        return _is_number(shadow) and bool(champion == shadow)
    return type(champion) is type(shadow) and bool(champion == shadow)


def _is_json(value: Any) -> bool:
    return value is None or type(value) in (dict, list, str, int, float, bool)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _numbers(champion: Any, shadow: Any, tolerance_ppm: int, *, relative: bool) -> PartResult:
    """Compare numbers, or lists of them; the difference told is the largest, in the value's unit or relative to the champion's."""
    pairs: list[tuple[float, float]] = []
    if not _flatten(champion, shadow, pairs) or not pairs:
        return PartResult(agrees=False)
    worst = 0.0
    agrees = True
    for mine, other in pairs:
        difference = abs(other - mine)
        allowed = tolerance_ppm / 1e6 * (abs(mine) if relative else 1.0)
        # Room for the last bits of numbers such as 0.1 that have no exact double: 0.50 and 0.51 are 0.01 apart.
        agrees = agrees and difference <= allowed + 4 * math.ulp(max(abs(mine), abs(other), allowed))
        if relative:
            difference = 0.0 if difference == 0 else math.inf if mine == 0 else difference / abs(mine)
        worst = max(worst, difference)
    return PartResult(agrees, _ppm(worst))


def _flatten(champion: Any, shadow: Any, into: list[tuple[float, float]]) -> bool:
    """Pair the numbers of two values of one shape; False where they are not."""
    if type(champion) is list and type(shadow) is list:
        return len(champion) == len(shadow) and all(_flatten(mine, other, into) for mine, other in zip(champion, shadow, strict=True))
    if not (_is_number(champion) and _is_number(shadow)):
        return False
    try:
        mine, other = float(champion), float(shadow)
    except OverflowError:
        return False
    if not (math.isfinite(mine) and math.isfinite(other)):
        return False
    into.append((mine, other))
    return True


def _ppm(value: float) -> int:
    scaled = value * 1e6
    return round(scaled) if scaled < MOST_DIFFERENCE_PPM else MOST_DIFFERENCE_PPM


def _texts(champion: Any, shadow: Any, tolerance_ppm: int) -> PartResult:
    if type(champion) is not str or type(shadow) is not str:
        return PartResult(agrees=False)
    mine, other = _words(champion), _words(shadow)
    total = mine.total() + other.total()
    common = (mine & other).total()
    difference_ppm = 0 if total == 0 else round((total - 2 * common) * 1_000_000 / total)
    return PartResult(difference_ppm <= tolerance_ppm, difference_ppm)


def _words(text: str) -> Counter[str]:
    return Counter(unicodedata.normalize("NFC", text).casefold().split())
