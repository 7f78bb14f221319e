# METADATA
# title: Only approved versions serve
# description: >-
#   A version serves only while enough distinct people approve exactly this version (name, version, digest)
#   for this environment. Development is no exception. Whoever has no rule here has no approval.
# custom: {id: APP, points: [request], required: true, mode: enforce}
package policy.approval

# High risk needs two people; so does any risk that is not declared low or medium.
# `data.params.approval.people.high` (or `.other`) may ask for more people, never for fewer.
default needed_high := 2

needed_high := data.params.approval.people.high if data.params.approval.people.high > 2

default needed_other := 1

needed_other := data.params.approval.people.other if data.params.approval.people.other > 1

needed := needed_other if {
	input.model.risk in {"low", "medium"}
} else := needed_high

# An approval counts while it is in force and names this very version.
# `in_force` is the gateway's: signature, validity and revocation are checked before it says true.
approvers contains approval.person if {
	some approval in input.approvals
	approval.in_force == true
	approval.model == input.model.name
	approval.version == input.model.version
	approval.digest == input.model.digest
	input.model.digest != ""
	input.env in approval.environments
	has_role(approval)
}

# With `data.params.approval.roles` only people who hold one of these roles count.
has_role(_) if not data.params.approval.roles

has_role(approval) if {
	some role in approval.roles
	role in data.params.approval.roles
}

default allow := false

allow if count(approvers) >= needed

deny contains {
	"id": "APP-001",
	"msg": sprintf("`%d` valid approvals, `%d` needed", [count(approvers), needed]),
} if {
	not allow
}

warn contains {"id": "APP-010", "msg": "risk is not declared low, medium or high: treated as high"} if {
	not risk_is_declared
}

risk_is_declared if input.model.risk in {"low", "medium", "high"}
