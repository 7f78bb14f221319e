"""Assignment: stable, monotone, fair, disjoint, and recomputable from the record alone."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from experiment_documents import HALF, document_of, holdout_of, layer_of, live_of, positive_weights, pseudonyms
from hypothesis import given
from hypothesis import strategies as st

from experiments.assignment import Assigner, RouteMismatchError, _exact_rendezvous, assign, recompute
from experiments.bucketing import native_hash
from experiments.shares import WHOLE, integer_shares

UNITS = [f"{n:032x}" for n in range(20_000)]


def arms_of(document, live, units=UNITS):
    assigner = Assigner(document, live)
    return {unit: assigner.assign(unit) for unit in units}


@given(positive_weights, pseudonyms, st.integers(0, WHOLE), st.integers(0, WHOLE))
def test_recompute_equals_the_live_draw_with_layer_holdout_and_exposure(weights, unit, exposure, held):
    document = document_of(weights, exposure=exposure, layer=layer_of(0, 699), holdout=holdout_of(held))
    assignment = assign(document, unit, live_of(document))
    if assignment is not None:
        assert recompute(assignment.route()) == assignment.arm
        assert recompute(assignment.route(), unit, document.salt) == assignment.arm


@given(positive_weights, pseudonyms, st.text(min_size=1), st.integers(0), st.integers(0), st.integers(0, WHOLE))
def test_recompute_equals_the_live_draw_for_draws_per_call(weights, unit, node, epoch, number, exposure):
    document = document_of(weights, sticky="none", exposure=exposure)
    assignment = assign(document, unit, live_of(document), (node, epoch, number))
    assert recompute(assignment.route(), unit, document.salt) == assignment.arm


@given(positive_weights, pseudonyms)
def test_same_unit_same_arm_whatever_the_order_of_arms(weights, unit):
    document = document_of(weights)
    live = live_of(document)
    backwards = live_of(document, shares=dict(reversed(live.shares.items())))
    assert assign(document, unit, live).arm == assign(document, unit, backwards).arm == assign(document, unit, live_of(document, epoch=9)).arm


def test_assignment_survives_a_restart_with_another_hash_seed():
    script = (
        "import sys; sys.path.insert(0, 'tests/experiments')\n"
        "from experiment_documents import document_of, live_of\nfrom experiments.assignment import Assigner\n"
        "document = document_of({'a': 3, 'b': 2, 'c': 1}, exposure=2**31)\n"
        "assigner = Assigner(document, live_of(document))\n"
        "print(''.join(assigner.assign(f'{n:032x}').arm for n in range(300)))"
    )
    document = document_of({"a": 3, "b": 2, "c": 1}, exposure=HALF)
    here = "".join(found.arm for found in arms_of(document, live_of(document), UNITS[:300]).values())
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert ran.stdout.strip() == here


def test_raising_the_ramp_only_adds_units_and_nobody_changes_arm():
    document = document_of({"champion": 1, "challenger": 1})
    before = {}
    for percent in (1, 2, 10, 20, 50, 100):
        now = {unit: found.arm for unit, found in arms_of(document, live_of(document, exposure=WHOLE * percent // 100)).items() if found.exposed}
        assert before.items() <= now.items()
        # Binomial with 5 standard deviations.
        expected = len(UNITS) * percent / 100
        assert abs(len(now) - expected) <= 5 * math.sqrt(expected * (1 - percent / 100))
        before = now


@pytest.mark.parametrize("weights", [{"a": 1, "b": 1}, {"a": 90, "b": 9, "c": 1}, {"a": 5, "b": 3, "c": 2}])
def test_shares_are_met_within_binomial_bounds(weights):
    document = document_of(weights)
    counts = dict.fromkeys(weights, 0)
    for found in arms_of(document, live_of(document)).values():
        counts[found.arm] += 1
    total = sum(weights.values())
    for arm, weight in weights.items():
        p = weight / total
        assert abs(counts[arm] - len(UNITS) * p) <= 5 * math.sqrt(len(UNITS) * p * (1 - p))


@given(positive_weights, st.data())
def test_changing_one_share_moves_units_only_into_or_out_of_that_arm(weights, data):
    changed = data.draw(st.sampled_from(sorted(weights)))
    others = {**weights, changed: data.draw(st.integers(1, 1000))}
    document = document_of(weights)
    # Relative weights decide, so the other arms' ratios must stay exact: use the weights themselves, scaled to one sum.
    old, new = (live_of(document, shares=integer_shares(found)) for found in (weights, others))
    for unit in UNITS[:100]:
        was, now = assign(document, unit, old).arm, assign(document, unit, new).arm
        if was != now:
            assert changed in {was, now}


def test_layers_never_overlap_and_together_hold_everyone():
    first = document_of({"a": 1, "b": 1}, name="one", salt="one", layer=layer_of(0, 299))
    second = document_of({"a": 1, "b": 1}, name="two", salt="two", layer=layer_of(300, 999))
    ones = {unit for unit, found in arms_of(first, live_of(first)).items() if found is not None}
    twos = {unit for unit, found in arms_of(second, live_of(second)).items() if found is not None}
    assert not ones & twos
    assert ones | twos == set(UNITS)
    assert abs(len(ones) - 6000) < 5 * math.sqrt(20_000 * 0.3 * 0.7)


def test_parallel_experiments_are_independent():
    one, two = (document_of({"a": 1, "b": 1}, salt=salt) for salt in ("exp-2", "exp-3"))
    same = sum(x.arm == y.arm for x, y in zip(arms_of(one, live_of(one)).values(), arms_of(two, live_of(two)).values(), strict=True))
    assert abs(same - 10_000) < 5 * math.sqrt(5000)


def test_exposure_and_arm_are_drawn_from_separate_salts():
    document = document_of({"champion": 1, "challenger": 1}, exposure=WHOLE // 10)
    exposed = [found.arm for found in arms_of(document, live_of(document)).values() if found.exposed]
    assert abs(exposed.count("challenger") - len(exposed) / 2) < 5 * math.sqrt(len(exposed) / 4)


def test_held_out_units_are_served_by_the_holdouts_version_until_it_is_released():
    document = document_of({"a": 1, "b": 1}, holdout=holdout_of(WHOLE // 5))
    held = [found for found in arms_of(document, live_of(document)).values() if found.arm == "holdout"]
    assert abs(len(held) - 4000) < 5 * math.sqrt(3200)
    assert all(not found.exposed and found.versions == (("holdout", "0"),) for found in held)
    released = arms_of(document, live_of(document, holdout_released=True))
    assert all(found.exposed for found in released.values())


def test_an_unexposed_unit_is_served_by_the_control_and_not_compared():
    document = document_of({"champion": 1, "xchallenger": 1}, exposure=0)
    found = assign(document, UNITS[0], live_of(document))
    assert (found.arm, found.exposed, found.versions) == ("champion", False, (("champion", "0"),))


@pytest.mark.parametrize("phase", ["draft", "stopped", "superseded", "archived"])
def test_an_experiment_that_is_not_in_force_assigns_nobody(phase):
    document = document_of({"a": 1, "b": 1})
    assert assign(document, UNITS[0], live_of(document, phase=phase)) is None


def test_draws_per_call_vary_for_one_unit_and_meet_the_shares():
    document = document_of({"a": 3, "b": 1}, sticky="none")
    assigner = Assigner(document, live_of(document))
    drawn = [assigner.assign(UNITS[0], ("n1.w0", 7, n)).arm for n in range(10_000)]
    assert abs(drawn.count("b") - 2500) < 5 * math.sqrt(10_000 * 0.25 * 0.75)


def test_draws_per_call_without_a_seed_are_refused():
    document = document_of({"a": 1, "b": 1}, sticky="none")
    with pytest.raises(ValueError, match="draws per call"):
        assign(document, UNITS[0], live_of(document))


def test_an_empty_pseudonym_is_refused():
    document = document_of({"a": 1, "b": 1})
    with pytest.raises(ValueError, match="empty pseudonym"):
        assign(document, "", live_of(document))


@pytest.mark.parametrize("change", [{"shares": {"a": 1, "b": 1}}, {"shares": {"a": WHOLE, "zzz": 0}}, {"exposure": WHOLE + 1}])
def test_a_live_state_that_does_not_fit_is_refused(change):
    document = document_of({"a": 1, "b": 1})
    with pytest.raises(ValueError, match=r"live state|must sum"):
        Assigner(document, live_of(document, **change))


@given(positive_weights, pseudonyms, st.data())
def test_a_route_with_one_hash_digit_changed_does_not_verify(weights, unit, data):
    document = document_of(weights, exposure=WHOLE - 1)
    route = assign(document, unit, live_of(document)).route()
    name = data.draw(st.sampled_from(sorted(route["hashes"])))
    digits = route["hashes"][name]
    place = data.draw(st.integers(0, 15))
    route["hashes"][name] = digits[:place] + f"{(int(digits[place], 16) + 1) % 16:x}" + digits[place + 1 :]
    with pytest.raises(RouteMismatchError):
        recompute(route, unit, document.salt)


@pytest.mark.parametrize(
    ("garble", "complaint"),
    [
        (lambda route: route["shares"].update(a=0), "sum to"),
        (lambda route: route.update(exposed=False), "`exposed` says"),
        (lambda route: route["hashes"].pop("a"), "lacks"),
        (lambda route: route.pop("hashes"), "lacks"),
        (lambda route: route.update(hashes=[]), "lacks"),
        (lambda route: route["hashes"].update(a="12"), "16 hex"),
        (lambda route: route["hashes"].update(a="0x12345678901234"), "16 hex"),
        (lambda route: route["hashes"].update(a=7), "garbles"),
        (lambda route: route["shares"].update(a=2.0**31), "sum to"),
    ],
)
def test_a_garbled_route_says_what_is_wrong(garble, complaint):
    document = document_of({"a": 1, "b": 1})
    route = assign(document, UNITS[0], live_of(document)).route()
    garble(route)
    with pytest.raises(RouteMismatchError, match=complaint):
        recompute(route)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.sampled_from(["hashes", "shares", "exposure", "exposed", "layer", "holdout", "draw", "control"]), junk)
def test_any_junk_in_a_route_is_a_mismatch_or_leads_to_an_arm(key, value):
    document = document_of({"a": 1, "b": 1}, sticky="none", exposure=WHOLE - 1, layer=layer_of(0, 999), holdout=holdout_of(1))
    route = assign(document, UNITS[0], live_of(document), ("n", 1, 1)).route() | {key: value}
    try:
        assert recompute(route, UNITS[0], document.salt) in {"a", "b", "holdout"}
    except RouteMismatchError as error:
        assert str(error)  # noqa: PT017 - either outcome is right; any other exception is not


@given(st.dictionaries(st.sampled_from("abcde"), st.tuples(st.integers(1, WHOLE), st.integers(0, 2**64 - 1)), min_size=2))
def test_the_fast_draw_agrees_with_fifty_digits(found):
    """Any hashes, also those near 0 and 1 where floating point fails, give the same arm on both ways."""
    weights = {arm: share for arm, (share, _) in found.items()}
    hashes = {arm: f"{hash64:016x}" for arm, (_, hash64) in found.items()}
    exact = _exact_rendezvous(sorted(weights.items()), hashes)
    scores = {arm: (-math.log1p(-(1 - (2 * (hash64 >> 11) + 1) / 2**54)) / share) for arm, (share, hash64) in found.items() if hash64 >> 63}
    if len(scores) == len(found) and min(scores.values()) > 0:
        ordered = sorted(scores.values())
        if ordered[1] > ordered[0] * (1 + 1e-6) and ordered[0] * WHOLE > 1:
            assert exact == min(scores, key=scores.get)
    assert exact in weights


def test_equal_scores_go_to_the_name_that_sorts_first():
    assert _exact_rendezvous([("b", 5), ("a", 5)], {"a": "00" * 8, "b": "00" * 8}) == "a"


def test_recorded_hash_is_the_documented_one():
    document = document_of({"a": 1, "b": 1})
    assert assign(document, UNITS[5], live_of(document)).hashes["a"] == f"{native_hash('salt', 'arm', 'a', UNITS[5]):016x}"


class ChosenHash:
    """A hash function whose answers are chosen; takes the place of SHA-256 where no unit is known to hash so near to 1."""

    def __init__(self, digests) -> None:
        self.digests = digests

    def __call__(self, data) -> "ChosenHash":
        self.found = next(digest for arm, digest in self.digests.items() if b"\x00\x00\x00\x01" + arm.encode() in data)
        return self

    def hexdigest(self):
        return self.found * 4


def test_a_draw_too_close_for_floating_point_is_decided_exactly(monkeypatch):
    """-ln(u) of `a` rounds to 0 and would win; exactly it is 0.5 ulp against 1.5 ulp, and `b` has four times the share."""
    top = 2**53 - 1
    monkeypatch.setattr("experiments.assignment.sha256", ChosenHash({"a": f"{top << 11:016x}", "b": f"{(top - 1) << 11:016x}"}))
    document = document_of({"a": 1, "b": 4})
    assert assign(document, UNITS[0], live_of(document)).arm == "b"
