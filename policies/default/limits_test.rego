package policy.limits_test

import data.policy.limits

document := {
	"request": {"rows": 10, "kib": 1000},
	"usage": {"exhausted": false},
	"params": {"max_rows": 10, "max_kib": 1000},
}

ids contains reason.id if some reason in limits.deny

test_a_call_within_its_limits_is_allowed if {
	limits.allow with input as document
	count(limits.deny) == 0 with input as document
}

test_one_row_too_many_is_refused if {
	large := object.union(document, {"request": {"rows": 11}})
	limits.deny == {{"id": "LIM-001", "status": 422, "msg": "more than `10` rows in one call"}} with input as large
	not limits.allow with input as large
}

test_one_byte_too_many_is_refused if {
	large := object.union(document, {"request": {"kib": 1001}})
	limits.deny == {{"id": "LIM-002", "status": 413, "msg": "more than `1000` KiB in one call"}} with input as large
}

test_exhausted_usage_is_refused_with_429 if {
	reasons := limits.deny with input as object.union(document, {"usage": {"exhausted": true}})
	{reason.status | some reason in reasons} == {429}
}

test_a_missing_fact_is_a_refusal if {
	facts := {"/request/rows": "LIM-001", "/request/kib": "LIM-002", "/usage": "LIM-003", "/usage/exhausted": "LIM-003"}
	every path, id in facts {
		ids == {id} with input as json.remove(document, [path])
	}
}

test_a_fact_of_the_wrong_type_is_a_refusal if {
	ids == {"LIM-001"} with input as object.union(document, {"request": {"rows": "1"}})
	ids == {"LIM-003"} with input as object.union(document, {"usage": {"exhausted": "no"}})
	ids == {"LIM-003"} with input as object.union(document, {"usage": {"exhausted": 0}})

	# null and false order before every number
	every fact, id in {"rows": "LIM-001", "kib": "LIM-002"} {
		every wrong in [null, false, "1", []] {
			ids == {id} with input as object.union(document, {"request": {fact: wrong}})
		}
	}
}

test_parameters_of_the_wrong_type_are_the_defaults if {
	every wrong in [null, "20000", [1]] {
		params := {"max_rows": wrong, "max_kib": wrong}
		ids == set() with input as object.union(document, {"params": params})
		ids == {"LIM-001", "LIM-002"} with input as object.union(document, {"request": {"rows": 10001, "kib": 10241}, "params": params})
	}
}

test_everything_missing_is_everything_refused if {
	ids == {"LIM-001", "LIM-002", "LIM-003"} with input as {}
	limits.allow == false with input as {}
}

test_without_parameters_the_defaults_hold if {
	large := object.union(document, {"request": {"rows": 10001}})
	ids == {"LIM-001"} with input as json.remove(large, ["/params"])
}
