# METADATA
# title: Size and budget of one call
# description: >-
#   Rows, size and usage of a call stay within what the route allows. A fact that is missing is a refusal, not a pass.
#   Statuses: 422 rows, 413 size, 429 usage (the meaning of these codes in RFC 9110 and RFC 6585).
# custom: {id: LIM, points: [request], required: true, mode: enforce}
package policy.limits

default max_rows := 10000

max_rows := input.params.max_rows if is_number(input.params.max_rows)

default max_kib := 10240

max_kib := input.params.max_kib if is_number(input.params.max_kib)

default allow := false

allow if count(deny) == 0

rows_within if {
	is_number(input.request.rows)
	input.request.rows <= max_rows
}

size_within if {
	is_number(input.request.kib)
	input.request.kib <= max_kib
}

deny contains {"id": "LIM-001", "status": 422, "msg": sprintf("more than `%v` rows in one call", [max_rows])} if not rows_within

deny contains {"id": "LIM-002", "status": 413, "msg": sprintf("more than `%v` KiB in one call", [max_kib])} if not size_within

deny contains {"id": "LIM-003", "status": 429, "msg": "the usage allowance is exhausted"} if not input.usage.exhausted == false
