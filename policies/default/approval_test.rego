package policy.approval_test

import data.policy.approval

grant(person) := {
	"person": person,
	"roles": ["risk"],
	"in_force": true,
	"model": "credit",
	"version": "4",
	"digest": "sha256:aa",
	"environments": ["production"],
}

document(risk, approvals) := {
	"schema": "input/v1",
	"env": "production",
	"model": {"name": "credit", "version": "4", "digest": "sha256:aa", "risk": risk},
	"approvals": approvals,
}

test_one_person_is_enough_for_low_risk if {
	approval.allow with input as document("low", [grant("ada")])
	count(approval.deny) == 0 with input as document("low", [grant("ada")])
}

test_high_risk_needs_two_people if {
	not approval.allow with input as document("high", [grant("ada")])
	approval.allow with input as document("high", [grant("ada"), grant("bob")])
}

test_one_person_twice_is_one_person if {
	not approval.allow with input as document("high", [grant("ada"), grant("ada")])
}

test_an_unknown_risk_is_high if {
	not approval.allow with input as document("meduim", [grant("ada")])
	{reason.id | some reason in approval.warn} == {"APP-010"} with input as document("meduim", [grant("ada")])
}

test_a_declared_risk_needs_no_warning if {
	every risk in ["low", "medium", "high"] {
		count(approval.warn) == 0 with input as document(risk, [grant("ada")])
	}
}

test_a_missing_risk_is_high if {
	bare := json.remove(document("low", [grant("ada")]), ["/model/risk"])
	not approval.allow with input as bare
	not approval.allow with input as {}
}

test_no_approval_is_a_deny_with_a_reason if {
	reasons := approval.deny with input as document("low", [])
	reasons == {{"id": "APP-001", "msg": "`0` valid approvals, `1` needed"}}
}

test_missing_approvals_are_a_deny if {
	count(approval.deny) == 1 with input as json.remove(document("low", []), ["/approvals"])
	count(approval.deny) == 1 with input as {}
	approval.allow == false with input as {}
}

test_every_binding_of_an_approval_counts if {
	changes := {"in_force": false, "model": "fraud", "version": "5", "digest": "sha256:bb", "environments": ["staging"]}
	every field, other in changes {
		changed := object.union(grant("ada"), {field: other})
		not approval.allow with input as document("low", [changed])
	}
}

test_every_field_is_needed if {
	every field in ["in_force", "model", "version", "digest", "environments", "person"] {
		not approval.allow with input as document("low", [object.remove(grant("ada"), [field])])
	}
}

test_an_empty_digest_binds_nothing if {
	unbound := object.union(document("low", [object.union(grant("ada"), {"digest": ""})]), {"model": {"digest": ""}})
	not approval.allow with input as unbound
}

test_development_is_no_exception if {
	not approval.allow with input as object.union(document("low", [grant("ada")]), {"env": "development"})
}

test_parameters_can_ask_for_more_people if {
	params := {"approval": {"people": {"high": 3, "other": 2}}}
	not approval.allow with input as document("low", [grant("ada")]) with data.params as params
	not approval.allow with input as document("high", [grant("ada"), grant("bob")]) with data.params as params
}

test_parameters_cannot_ask_for_fewer if {
	params := {"approval": {"people": {"high": 0, "other": 0}}}
	not approval.allow with input as document("low", []) with data.params as params
	not approval.allow with input as document("high", [grant("ada")]) with data.params as params
}

test_roles_narrow_who_counts if {
	params := {"approval": {"roles": ["board"]}}
	not approval.allow with input as document("low", [grant("ada")]) with data.params as params
	approval.allow with input as document("low", [grant("ada")]) with data.params as {"approval": {"roles": ["risk"]}}
}
