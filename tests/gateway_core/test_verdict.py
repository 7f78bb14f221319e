"""Many packages, one verdict."""

import random

from hypothesis import given
from hypothesis import strategies as st

from audit.leaf import render
from policies.verdict import MOST_REASONS, Finding, combine

items = st.lists(st.fixed_dictionaries({"id": st.sampled_from(["A", "B"]), "msg": st.just("m")}), max_size=2).map(tuple)
findings = st.lists(
    st.builds(
        Finding,
        package=st.sampled_from(["p", "q", "r"]),
        mode=st.sampled_from(["enforce", "warn", "dryrun", "off"]),
        required=st.booleans(),
        allow=st.booleans(),
        deny=items,
        warn=items,
        obligations=st.sampled_from([(), ({"type": "made_up"},)]),
        error=st.sampled_from([None, None, "boom"]),
    ),
    max_size=5,
)
OK = Finding("base", "enforce", required=True, allow=True)


@given(findings, st.randoms(use_true_random=False))
def test_the_verdict_does_not_depend_on_the_order_of_packages(found, rng: random.Random):
    shuffled = list(found)
    rng.shuffle(shuffled)
    assert combine(found).decision == combine(shuffled).decision
    assert combine(found).status == combine(shuffled).status
    assert combine(found).reasons == combine(shuffled).reasons


@given(findings)
def test_a_dry_run_never_changes_the_verdict(found):
    without = [finding for finding in found if finding.mode != "dryrun"]
    assert combine([OK, *found]).decision == combine([OK, *without]).decision


@given(findings)
def test_silence_is_never_consent(found):
    quiet = [finding for finding in found if not (finding.required and finding.mode == "enforce")]
    assert combine(quiet).decision == "deny"


@given(findings)
def test_an_error_in_an_enforced_package_denies(found):
    assert combine([OK, *found, Finding("x", "enforce", required=False, allow=True, error="boom")]).decision == "deny"


def test_one_required_package_that_allows_is_enough_and_a_missing_allow_is_not():
    assert combine([OK]).decision == "allow"
    assert combine([Finding("base", "enforce", required=True, allow=False)]).reasons[0]["id"] == "NO-ALLOW"


def test_a_denial_carries_the_status_all_denials_agree_on():
    limit = Finding("l", "enforce", required=False, allow=False, deny=({"id": "L", "msg": "", "status": 429},))
    assert combine([OK, limit]).status == 429
    other = Finding("o", "enforce", required=False, allow=False, deny=({"id": "O", "msg": ""},))
    assert combine([OK, limit, other]).status == 403


def test_an_obligation_nobody_can_carry_out_denies():
    promise = Finding("o", "enforce", required=False, allow=False, obligations=({"type": "made_up"},))
    assert combine([OK, promise]).decision == "deny"


@given(st.lists(st.sampled_from([True, False, 200, 302, 399, 500, 999, -1, "429", None, 4.29, 400, 413, 429, 499]), min_size=1, max_size=4))
def test_a_policy_can_answer_a_denial_with_a_client_error_and_nothing_else(statuses):
    denials = tuple({"id": "X", "msg": str(number), "status": status} for number, status in enumerate(statuses))
    status = combine([OK, Finding("x", "enforce", required=False, allow=False, deny=denials)]).status
    assert type(status) is int
    assert status == 403 or (400 <= status <= 499 and set(statuses) == {status})


@given(st.integers(0, 200), st.integers(0, 5000), st.sampled_from(["enforce", "warn", "dryrun"]))
def test_whatever_packages_write_the_reasons_fit_a_record(count, length, mode):
    denials = tuple({"id": f"{number}" + "\0" * length, "msg": "\0" * length} for number in range(count))
    verdict = combine([OK, Finding("x", mode, required=False, allow=False, deny=denials, warn=denials)])
    assert len(render({"reasons": list(verdict.reasons)})) < 56 * 1024
    assert len(verdict.reasons) <= MOST_REASONS
    assert verdict.allowed is (count == 0 or mode != "enforce")


def test_reasons_left_out_are_counted():
    denials = tuple({"id": f"{number:03d}", "msg": ""} for number in range(100))
    verdict = combine([OK, Finding("x", "enforce", required=False, allow=False, deny=denials)])
    assert verdict.reasons[-1]["msg"] == f"{100 - MOST_REASONS + 1} further reasons"
