"""Which arm a unit belongs to. The hot path: no I/O, no clock, no randomness; everything that can be encoded beforehand is.

Order for each unit, each with its own salt or purpose (`experiments/bucketing.py` says how parts become bytes):

1. layer     slot = hash * slots / 2**64; outside this experiment's slots the unit is not in it (`None`).
   who, exclude   rules over the call's context (`experiments/targeting.py`): outside it, or served by the control and recorded as excluded.
2. holdout   hash / 2**32 < share: the arm is `holdout`, served by the holdout's version.
3. exposure  hash / 2**32 < exposure, so raising the ramp only adds units; the rest is served by the control and not compared.
4. arm       weighted rendezvous: argmin of -ln(u_arm) / share_arm. Changing one share moves units only into or out of that arm.

`sticky: none` draws exposure and arm for each call from (node, epoch, n), where n counts draws without gaps, instead of the pseudonym.
Eligibility plays no part here (semantics.md 3.1): the gateway serves the default for an ineligible arm and records `assigned` and `served`.

The draw is exact from the record: shares are the integers drawn with, hashes the 64 bits drawn from, and two scores too close for floating point are
compared with 50 digits, so that no platform's `log` can disagree.

Why an arm is assigned can be recomputed by anyone: `recompute(route, subject, salt)`.

Example:
    >>> assigner = Assigner(document, live)
    >>> assignment = assigner.assign("9f86d081884c7d659a2feaa0c55ad015")
    >>> recompute(assignment.route(), "9f86d081884c7d659a2feaa0c55ad015", document.salt) == assignment.arm
    True
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Context as DecimalContext
from decimal import Decimal
from hashlib import sha256
from math import inf, log
from typing import Any

import msgspec

from experiments.bucketing import encode_parts
from experiments.document import ExperimentDocument, LiveExperiment
from experiments.shares import WHOLE
from experiments.targeting import EMPTY, Context, excluded_by, matches, segments_of

RESERVED_ARMS = frozenset({"exposure", "holdout", "layer", "default"})
"""Names in `route.hashes` that are not arms, or would be mistaken for one."""

Draw = tuple[str, int, int]
"""(node, epoch, n) of a draw that is not sticky."""

Variants = Mapping[str, str]

_DECIMAL = DecimalContext(prec=50)
_HASH = re.compile(r"[0-9a-f]{16}")
_ULP = 2.0**-53


class RouteMismatchError(ValueError):
    """A record's `route` does not lead to the arm, or to the hashes, that it states."""


class Assignment(msgspec.Struct, frozen=True, gc=False):
    """Where one call goes as far as its experiment is concerned."""

    experiment: str
    epoch: int
    mode: str
    arm: str
    """Arm assigned: drawn if `exposed`, else the control; `holdout` for a held-out unit."""
    exposed: bool
    """Whether the unit is in the comparison."""
    versions: tuple[tuple[str, str], ...]
    """(arm, version) pairs that may serve: all arms if exposed, else the one that serves."""
    shares: Mapping[str, int]
    hashes: Mapping[str, str]
    exposure: int
    extra: Mapping[str, Any]
    """Further keys of `route` that the arm depends on: `control`, `layer`, `holdout`, `draw`, `excluded`, `segments`."""
    problem: str = ""
    """Why a call that asks for this may not be served at all; empty where it may."""

    def route(self) -> dict[str, Any]:
        """The experiment's part of the record's `route`; the gateway adds `served`, `eligible`, `live_digest`."""
        route = {
            "experiment": self.experiment,
            "epoch": self.epoch,
            "mode": self.mode,
            "assigned": self.arm,
            "exposed": self.exposed,
            "shares": dict(self.shares),
            "hashes": dict(self.hashes),
            **self.extra,
        }
        if self.exposure != WHOLE:
            route["exposure"] = self.exposure
        return route


class Assigner:
    """One experiment at one live state, with every constant of the draw encoded. Immutable; build a new one when the live state changes."""

    __slots__ = (
        "_all_versions",
        "_arms",
        "_control_versions",
        "_document",
        "_exposure",
        "_exposure_prefix",
        "_extra",
        "_holdout_prefix",
        "_layer_prefix",
        "_live",
        "_only",
        "_per_call",
        "_pick",
        "_reads_context",
        "in_force",
    )

    in_force: bool
    """Whether the experiment routes anything: it runs, or it ended with an arm that serves."""

    def __init__(self, document: ExperimentDocument, live: LiveExperiment) -> None:
        """Encode the prefixes.

        Raises:
            ValueError: the live state is of another experiment, or its shares do not fit the arms or do not sum to 2**32.
        """
        if live.experiment != document.experiment or not set(live.shares) <= set(document.arms):
            raise ValueError(f"the live state of `{live.experiment}` does not fit experiment `{document.experiment}`")
        is_undeclared = document.external is not None and not live.shares
        if (sum(live.shares.values()) != WHOLE and not is_undeclared) or not 0 <= live.exposure <= WHOLE:
            raise ValueError(f"the shares of `{live.experiment}` must sum to 2**32 and its exposure lie within it")
        self._document, self._live, self._exposure = document, live, live.exposure
        self.in_force = live.phase in ("running", "paused", "promoted", "rolled_back")
        self._per_call = document.sticky == "none"
        suffix = ".call" if self._per_call else ""
        self._exposure_prefix = encode_parts((document.salt, "exposure" + suffix))
        # Sorted, so that the order of arms in a file is irrelevant; an arm without share cannot be drawn.
        self._arms = tuple((arm, share, encode_parts((document.salt, "arm" + suffix, arm))) for arm, share in sorted(live.shares.items()) if share)
        self._pick = self._drawn_evenly if len({share for _, share, _ in self._arms}) == 1 else self._drawn
        self._only = self._arms[0][0] if len(self._arms) == 1 else None
        self._all_versions = tuple(sorted(document.arms.items()))
        self._control_versions = ((document.control, document.arms[document.control]),)
        layer, holdout = document.layer, document.holdout
        self._layer_prefix = None if layer is None else encode_parts((layer.salt, "layer"))
        self._holdout_prefix = None if holdout is None or live.holdout_released else encode_parts((holdout.salt, "holdout"))
        self._extra = _constant_extra(document, live)
        self._reads_context = bool(document.who or document.exclude or document.segments)

    def assign(
        self, pseudonym: str, draw: Draw | None = None, context: Context = EMPTY, unit: str = "", variants: Variants | None = None
    ) -> Assignment | None:
        """Assign one unit (or, with `sticky: none`, one call).

        Args:
            pseudonym: of the unit, not empty.
            draw: (node, epoch, n), needed if the experiment draws per call.
            context: what the caller says of the call, for targeting, exclusions and segments.
            unit: the raw id, which only compatibility modes (`experiments/ranges.py`) look at.
            variants: experiment -> what the caller says its arm is, which only `experiments/external.py` looks at.

        Returns:
            The assignment; None if the experiment is not in force or the unit lies outside its slots.

        Raises:
            ValueError: no pseudonym, or no draw where one is needed.
        """
        if not pseudonym:
            raise ValueError("an empty pseudonym cannot be assigned; hint: a call without unit is served by the default")
        if not self.in_force:
            return None
        del unit, variants  # ours draws from the pseudonym
        encoded = pseudonym.encode()
        key = len(encoded).to_bytes(4, "big") + encoded
        hashes: dict[str, str] = {}
        if self._layer_prefix is not None and not self._in_slots(key, hashes):
            return None
        extra: Mapping[str, Any] = self._extra
        if self._reads_context:
            if not matches(self._document.who, context):
                return None
            extra = self._with_context(context)
            if "excluded" in extra:
                return self._made(self._document.control, False, self._control_versions, hashes, extra)
        return self._drawn_for(key, draw, hashes, extra)

    def _drawn_for(self, unit: bytes, draw: Draw | None, hashes: dict[str, str], extra: Mapping[str, Any]) -> Assignment:
        """Take a unit that is in the experiment through holdout, exposure and arm."""
        if self._holdout_prefix is not None and self._held_out(unit, hashes):
            return self._of_holdout(hashes, extra)
        key = unit
        if self._per_call:
            if draw is None:
                raise ValueError(f"experiment `{self._document.experiment}` draws per call and needs (node, epoch, n)")
            key = encode_parts((draw[0], str(draw[1]), str(draw[2])))
            extra = {**extra, "draw": {"node": draw[0], "epoch": draw[1], "seq": draw[2]}}
        if self._exposure != WHOLE:
            hexadecimal = sha256(self._exposure_prefix + key).hexdigest()[:16]
            hashes["exposure"] = hexadecimal
            if int(hexadecimal[:8], 16) >= self._exposure:
                return self._made(self._document.control, False, self._control_versions, hashes, extra)
        arm = self._only or self._pick(key, hashes)
        return self._made(arm, True, self._all_versions, hashes, extra)

    def _with_context(self, context: Context) -> Mapping[str, Any]:
        """Return what the record says of a call's context: its segments, and under which name it is excluded, if it is."""
        document = self._document
        extra = dict(self._extra)
        if document.segments:
            extra["segments"] = segments_of(document.segments, context)
        name = excluded_by(document.exclude, context)
        if name is not None:
            extra |= {"excluded": name, "control": document.control}
        return extra

    def _in_slots(self, unit: bytes, hashes: dict[str, str]) -> bool:
        layer = self._document.layer
        assert layer is not None and self._layer_prefix is not None  # noqa: S101, PT018 - narrows for the type checker; set together
        hashes["layer"] = hexadecimal = sha256(self._layer_prefix + unit).hexdigest()[:16]
        return layer.first <= _slot(hexadecimal, layer.slots) <= layer.last

    def _held_out(self, unit: bytes, hashes: dict[str, str]) -> bool:
        holdout = self._document.holdout
        assert holdout is not None and self._holdout_prefix is not None  # noqa: S101, PT018 - narrows for the type checker; set together
        hashes["holdout"] = hexadecimal = sha256(self._holdout_prefix + unit).hexdigest()[:16]
        return int(hexadecimal[:8], 16) < holdout.share

    def _of_holdout(self, hashes: dict[str, str], extra: Mapping[str, Any]) -> Assignment:
        holdout = self._document.holdout
        assert holdout is not None  # noqa: S101 - called for held-out units alone
        return self._made("holdout", False, (("holdout", holdout.version),), hashes, extra)

    def _drawn_evenly(self, key: bytes, hashes: dict[str, str]) -> str:
        """Draw among equal shares: -ln(u) is least where u is largest, and hex of one length sorts as its number does."""
        best, largest, second = "", "", ""
        for arm, _, prefix in self._arms:
            hashes[arm] = hexadecimal = sha256(prefix + key).hexdigest()[:16]
            if hexadecimal > largest:
                best, largest, second = arm, hexadecimal, largest
            elif hexadecimal > second:
                second = hexadecimal
        # The draw looks at 53 of the 64 bits: where 13 digits agree, the rest is decided as everywhere else.
        if largest[:13] == second[:13]:
            return _exact_rendezvous(((arm, share) for arm, share, _ in self._arms), hashes)
        return best

    def _drawn(self, key: bytes, hashes: dict[str, str]) -> str:
        best, best_score, second, smallest = "", inf, inf, 1.0
        for arm, share, prefix in self._arms:
            hashes[arm] = hexadecimal = sha256(prefix + key).hexdigest()[:16]
            # u = (h + 1/2) / 2**53 with h the top 53 bits; -ln(u) is exponential, and the least of -ln(u)/w wins with probability w.
            exponential = -log(((int(hexadecimal, 16) >> 11) + 0.5) * _ULP)
            score = exponential / share
            if score < best_score:
                best, best_score, second, smallest = arm, score, best_score, exponential
            elif score < second:
                second = score
        # Near u = 1 the logarithm has lost its digits, and close scores may swap on another machine: decide those exactly.
        if smallest < 1e-4 or second - best_score < 1e-9 * second:
            return _exact_rendezvous(((arm, share) for arm, share, _ in self._arms), hashes)
        return best

    def _made(
        self,
        arm: str,
        exposed: bool,  # noqa: FBT001 - private constructor on the hot path
        versions: tuple[tuple[str, str], ...],
        hashes: dict[str, str],
        extra: Mapping[str, Any],
        problem: str = "",
    ) -> Assignment:
        live = self._live
        return Assignment(
            live.experiment,
            live.epoch,
            self._document.mode,
            arm,
            exposed,
            versions,
            live.shares,
            hashes,
            self._exposure,
            extra,
            problem,
        )


def assign(
    experiment: ExperimentDocument, pseudonym: str, live: LiveExperiment, draw: Draw | None = None, context: Context = EMPTY
) -> Assignment | None:
    """Assign one unit once; for many, keep an `Assigner`."""
    return Assigner(experiment, live).assign(pseudonym, draw, context)


def recompute(route: Mapping[str, Any], subject: str | None = None, salt: str | None = None) -> str:
    """Recompute the arm of a record from its `route` object.

    From the route alone: layer slot, holdout, exposure and the draw follow from the recorded hashes and integer shares. With `subject` and `salt`
    (from the `experiment.start` record) the hashes themselves are recomputed too. Where another system assigned (`mode: external`) there is nothing
    to recompute: the arm is what the caller said, and is returned as stated.

    Args:
        route: the record's `route`, with `experiment`.
        subject: the record's pseudonym.
        salt: the experiment's salt.

    Returns:
        The arm; compare it with `route["assigned"]`.

    Raises:
        RouteMismatchError: hashes are missing or wrong, shares do not sum to 2**32, the unit lies outside the layer's slots, or `exposed` is untrue.
    """
    try:
        for name, hexadecimal in route["hashes"].items():
            if _HASH.fullmatch(hexadecimal) is None:
                raise RouteMismatchError(f"the hash `{name}` is not 16 hex digits")
        if subject is not None and salt is not None:
            _check_hashes(route, subject, salt)
        return _replay(route)
    except (KeyError, TypeError, AttributeError) as error:
        raise RouteMismatchError(f"the route lacks or garbles {error}") from error


def _replay(route: Mapping[str, Any]) -> str:
    hashes, shares = route["hashes"], route["shares"]
    if route.get("mode") == "external":
        if hashes or (not route["exposed"] and route["assigned"] != route["control"]):
            raise RouteMismatchError("another system assigned: there are no hashes, and who takes no part gets the control")
        return str(route["assigned"])
    layer, holdout = route.get("layer"), route.get("holdout")
    if layer is not None and not layer["first"] <= _slot(hashes["layer"], layer["slots"]) <= layer["last"]:
        raise RouteMismatchError("the unit's hash lies outside the slots of the experiment's layer")
    if route.get("excluded") is not None:
        # Why is stated: the context it follows from is not in the record.
        return _agreed(route, route["control"], exposed=False)
    if holdout is not None and int(hashes["holdout"][:8], 16) < holdout["share"]:
        return _agreed(route, "holdout", exposed=False)
    exposure = WHOLE if "ranges" in route else route.get("exposure", WHOLE)
    if exposure != WHOLE and int(hashes["exposure"][:8], 16) >= exposure:
        return _agreed(route, route["control"], exposed=False)
    if any(type(share) is not int or share < 0 for share in shares.values()) or sum(shares.values()) != WHOLE:
        raise RouteMismatchError(f"the shares `{dict(shares)}` do not sum to 2**32")
    if "ranges" in route:
        inside = [arm for arm, (first, end) in route["ranges"].items() if first <= route["bucket"] < end]
        return _agreed(route, inside[0], exposed=True) if inside else _agreed(route, route["control"], exposed=False)
    weights = [(arm, share) for arm, share in sorted(shares.items()) if share]
    arm = weights[0][0] if len(weights) == 1 else _exact_rendezvous(weights, hashes)
    return _agreed(route, arm, exposed=True)


def _agreed(route: Mapping[str, Any], arm: str, *, exposed: bool) -> str:
    if route["exposed"] is not exposed:
        raise RouteMismatchError(f"`exposed` says `{route['exposed']}`, the hashes say `{exposed}`")
    return arm


def _check_hashes(route: Mapping[str, Any], subject: str, salt: str) -> None:
    draw = route.get("draw")
    suffix = "" if draw is None else ".call"
    key = (subject,) if draw is None else (draw["node"], str(draw["epoch"]), str(draw["seq"]))
    for name, stated in route["hashes"].items():
        if name in ("layer", "holdout"):
            parts = (route[name]["salt"], name, subject)
        elif name == "exposure":
            parts = (salt, "exposure" + suffix, *key)
        else:
            parts = (salt, "arm" + suffix, name, *key)
        if sha256(encode_parts(parts)).hexdigest()[:16] != stated:
            raise RouteMismatchError(f"the hash `{name}` is not that of this subject and salt")


def _exact_rendezvous(weights: Iterable[tuple[str, int]], hashes: Mapping[str, str]) -> str:
    """Find argmin -ln(u)/w with 50 digits, u = (2h + 1) / 2**54; equal scores go to the name that sorts first."""
    scored = []
    for arm, share in weights:
        odd = 2 * (int(hashes[arm], 16) >> 11) + 1
        logarithm = _DECIMAL.ln(_DECIMAL.divide(Decimal(odd), Decimal(2**54)))
        scored.append((_DECIMAL.divide(-logarithm, Decimal(share)), arm))
    return min(scored)[1]


def _slot(hexadecimal: str, slots: int) -> int:
    return int(hexadecimal, 16) * slots >> 64


def _constant_extra(document: ExperimentDocument, live: LiveExperiment) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if live.exposure != WHOLE:
        extra["control"] = document.control
    if (layer := document.layer) is not None:
        extra["layer"] = {
            "name": layer.name,
            "salt": layer.salt,
            "slots": layer.slots,
            "first": layer.first,
            "last": layer.last,
        }
    if (holdout := document.holdout) is not None and not live.holdout_released:
        extra["holdout"] = {"name": holdout.name, "salt": holdout.salt, "share": holdout.share}
    return extra
