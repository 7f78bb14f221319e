"""Shares as integers out of 2**32: what the record holds and what the draw uses, exactly.

Rules: the shares of an experiment sum to 2**32; rounding is by largest remainder, ties to the arm whose name sorts first, so neither the order of
arms in a file nor a restart changes a digit. An arm with a positive weight never rounds to nothing.

Example:
    >>> integer_shares({"a": Fraction(1, 3), "b": Fraction(1, 3), "c": Fraction(1, 3)})
    {'a': 1431655766, 'b': 1431655765, 'c': 1431655765}
    >>> parse_share("1%")
    Fraction(1, 100)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

WHOLE = 2**32
"""All of the traffic."""

SHARE_PATTERN = r"^\d{1,3}(\.\d{1,6})?%$"
_SHARE = re.compile(SHARE_PATTERN)


def integer_shares(weights: Mapping[str, Fraction | int]) -> dict[str, int]:
    """Scale weights to integers that sum to exactly 2**32 (Hamilton's method of largest remainders).

    Args:
        weights: arm -> weight >= 0, any scale.

    Returns:
        arm -> share, sorted by arm name.

    Raises:
        ValueError: no weight, a negative one, or one so small that its share would be 0.
    """
    total = sum(weights.values(), Fraction(0))
    if total <= 0 or any(weight < 0 for weight in weights.values()):
        raise ValueError(f"weights must be >= 0 with a positive sum, got `{dict(weights)}`")
    exact = {arm: Fraction(weights[arm]) * WHOLE / total for arm in sorted(weights)}
    shares = {arm: int(share) for arm, share in exact.items()}
    left = WHOLE - sum(shares.values())
    # Largest remainder first; `sorted` is stable, so equal remainders go by name.
    for arm in sorted(exact, key=lambda name: shares[name] - exact[name])[:left]:
        shares[arm] += 1
    for arm, weight in weights.items():
        if weight > 0 and shares[arm] == 0:
            raise ValueError(f"the weight of arm `{arm}` is below 1 in 2**32; hint: raise it or leave the arm out")
    return shares


def share_of(fraction: Fraction) -> int:
    """The integer nearest to `fraction` of the traffic, half up.

    Raises:
        ValueError: outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"`{fraction}` is not a share; it must lie between 0% and 100%")
    return int(fraction * WHOLE + Fraction(1, 2))


def parse_share(text: str) -> Fraction:
    """Read `"1%"`, `"0.5%"`, `"100%"` exactly.

    Raises:
        ValueError: anything else, with what would be right.
    """
    if not isinstance(text, str) or not _SHARE.match(text):
        raise ValueError(f"`{text}` is not a share; write a percentage from 0% to 100%, for example `5%` or `0.5%`")
    share = Fraction(text[:-1]) / 100
    if share > 1:
        raise ValueError(f"`{text}` is more than 100%")
    return share


def format_share(share: int) -> str:
    """A share for people: up to four decimals of a percentage, without trailing zeros."""
    text = f"{share * 100 / WHOLE:.4f}".rstrip("0").rstrip(".")
    return f"{text}%"
