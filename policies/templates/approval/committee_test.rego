package policy.committee_test

import data.policy.committee

params := {"committee": {"models": {"credit-risk": ["risk", "compliance"]}}}

approval(person, roles) := {"person": person, "roles": roles, "in_force": true}

call(model, approvals) := {"model": {"name": model}, "approvals": approvals}

complete := call("credit-risk", [approval("ada", ["risk"]), approval("bob", ["compliance"])])

ids contains reason.id if some reason in committee.deny

test_every_role_by_a_person_of_its_own_is_enough if {
	committee.allow with input as complete with data.params as params
	ids == set() with input as complete with data.params as params
}

test_a_role_that_is_missing_is_named if {
	alone := call("credit-risk", [approval("ada", ["risk"])])
	committee.deny == {{"id": "COMMITTEE-1", "msg": "nobody approved for `compliance`"}} with input as alone with data.params as params
	committee.allow == false with input as alone with data.params as params
}

test_two_people_of_one_role_are_not_the_committee if {
	same := call("credit-risk", [approval("ada", ["risk"]), approval("bob", ["risk"])])
	ids == {"COMMITTEE-1"} with input as same with data.params as params
	committee.allow == false with input as same with data.params as params
}

test_one_person_with_two_roles_is_one_person if {
	alone := call("credit-risk", [approval("ada", ["risk", "compliance"])])
	ids == {"COMMITTEE-2"} with input as alone with data.params as params
	committee.allow == false with input as alone with data.params as params
}

test_people_of_other_roles_do_not_count if {
	others := call("credit-risk", [approval("ada", ["risk", "compliance"]), approval("eve", ["sales"])])
	ids == {"COMMITTEE-2"} with input as others with data.params as params
}

test_an_approval_that_is_not_in_force_does_not_count[name] if {
	some name, in_force in {"false": false, "text": "true", "null": null}
	old := object.union(approval("bob", ["compliance"]), {"in_force": in_force})
	ended := call("credit-risk", [approval("ada", ["risk"]), old])
	ids == {"COMMITTEE-1"} with input as ended with data.params as params

	# not as a second person either
	both := call("credit-risk", [approval("ada", ["risk", "compliance"]), old])
	ids == {"COMMITTEE-2"} with input as both with data.params as params
}

test_other_models_need_no_committee if {
	committee.allow with input as call("churn", []) with data.params as params
}

test_without_approvals_every_role_is_missing if {
	count(committee.deny) == 2 with input as {"model": {"name": "credit-risk"}} with data.params as params
}

test_without_parameters_everything_is_refused if {
	ids == {"COMMITTEE-3"} with input as complete with data.params as {}
	committee.allow == false with input as complete with data.params as {}
	committee.allow == false with input as {} with data.params as params
}
