package policy.data_residency_test

import data.policy.data_residency

params := {"data_residency": {
	"tenants": {"acme": ["eu"], "globex": ["eu", "us"], "nowhere": []},
	"runs_in": {"credit-risk": {"3": "eu", "4": "us"}},
}}

call(tenant, version) := {"tenant": tenant, "model": {"name": "credit-risk", "version": version}}

ids contains reason.id if some reason in data_residency.deny

test_who_may_go_where[name] if {
	some name, row in {
		"eu data, eu version": ["acme", "3", set()],
		"eu data, us version": ["acme", "4", {"DATA-RESIDENCY-1"}],
		"data that may go to both": ["globex", "4", set()],
		"data that may go nowhere": ["nowhere", "3", {"DATA-RESIDENCY-1"}],
		"a tenant nobody wrote down": ["initech", "3", {"DATA-RESIDENCY-2"}],
		"a version nobody wrote down": ["acme", "5", {"DATA-RESIDENCY-3"}],
		"neither": ["initech", "5", {"DATA-RESIDENCY-2", "DATA-RESIDENCY-3"}],
	}
	[tenant, version, expected] := row
	ids == expected with input as call(tenant, version) with data.params as params
	data_residency.allow == (expected == set()) with input as call(tenant, version) with data.params as params
}

test_a_region_of_another_type_is_nowhere if {
	wrong := json.patch(params, [{"op": "replace", "path": "/data_residency/tenants/acme", "value": "eu"}])
	ids == {"DATA-RESIDENCY-1"} with input as call("acme", "3") with data.params as wrong
}

test_without_parameters_everything_is_refused if {
	ids == {"DATA-RESIDENCY-2", "DATA-RESIDENCY-3"} with input as call("acme", "3") with data.params as {}
	data_residency.allow == false with input as {} with data.params as params
}
