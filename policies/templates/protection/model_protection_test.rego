package policy.model_protection_test

import data.policy.model_protection

params := {"model_protection": {
	"trusted": ["internal"],
	"models": {"credit-risk": {"rows": 50, "score": "/outputs/[name=score]/data", "digits": 2}},
}}

call(tenant, rows) := {"tenant": tenant, "model": {"name": "credit-risk"}, "request": {"rows": rows}}

ids contains reason.id if some reason in model_protection.deny

rounding := {{"type": "round", "path": "/outputs/[name=score]/data", "digits": 2}}

test_callers_get_rounded_scores if {
	model_protection.allow with input as call("acme", 50) with data.params as params
	model_protection.obligations == rounding with input as call("acme", 50) with data.params as params
	ids == set() with input as call("acme", 50) with data.params as params
}

test_trusted_callers_get_all if {
	model_protection.allow with input as call("internal", 5000) with data.params as params
	model_protection.obligations == set() with input as call("internal", 5000) with data.params as params
	ids == set() with input as call("internal", 5000) with data.params as params
}

test_many_rows_are_refused[name] if {
	some name, rows in {"one more": 51, "null": null, "text": "10", "false": false}
	ids == {"MODEL-PROTECTION-1"} with input as call("acme", rows) with data.params as params
	model_protection.allow == false with input as call("acme", rows) with data.params as params
	{reason.status | some reason in model_protection.deny} == {422} with input as call("acme", rows) with data.params as params
}

test_a_model_without_settings_is_refused if {
	other := object.union(call("internal", 1), {"model": {"name": "churn"}})
	ids == {"MODEL-PROTECTION-2"} with input as other with data.params as params
	model_protection.allow == false with input as other with data.params as params
}

test_half_a_setting_is_none[name] if {
	some name in ["rows", "score", "digits"]
	half := json.remove(params, [sprintf("/model_protection/models/credit-risk/%s", [name])])
	ids == {"MODEL-PROTECTION-2"} with input as call("acme", 1) with data.params as half
	model_protection.allow == false with input as call("acme", 1) with data.params as half
}

test_settings_of_another_type_are_none[name] if {
	some name, wrong in {"rows": "50", "score": 1, "digits": null}
	path := sprintf("/model_protection/models/credit-risk/%s", [name])
	changed := json.patch(params, [{"op": "replace", "path": path, "value": wrong}])
	ids == {"MODEL-PROTECTION-2"} with input as call("internal", 1) with data.params as changed

	# and nothing is asked for that cannot be done
	duties := model_protection.obligations with input as call("acme", 1) with data.params as changed
	every duty in duties {
		is_string(duty.path)
		is_number(duty.digits)
	}
}

test_without_parameters_everything_is_refused if {
	ids == {"MODEL-PROTECTION-2"} with input as call("internal", 1) with data.params as {}
	model_protection.allow == false with input as {} with data.params as params
}
