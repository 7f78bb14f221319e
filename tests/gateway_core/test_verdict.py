"""Many packages, one verdict."""

import random

from hypothesis import given
from hypothesis import strategies as st

from policies.verdict import Finding, combine

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
